"""A method that trains, on one seed: task after task, every state left in the run folder, resumable at any moment."""

import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
import optax
from jaxtyping import Int

from ntkcl_jax.data import Batch, Scenario, Source, steps_per_epoch
from ntkcl_jax.devices.hosts import agreed
from ntkcl_jax.devices.mesh import copied
from ntkcl_jax.devices.peaks import peak_tflops
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import Setup, epoch_batches, initial_state
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress, Stage
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.task_loop import Position, StepRecord

State = TypeVar("State")
"""All that one task hands to the next."""


class MethodRun(ABC, Generic[State]):
    """What all methods that train do alike: order of a task's parts, checkpoints, log, progress, resuming."""

    method: str

    def __init__(self, setup: Setup, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int) -> None:
        """Bind what the tasks share."""
        self.setup, self.folder, self.log, self.progress, self.seed = setup, folder, log, progress, seed
        self.scenario = setup.scenarios[seed]
        self.labels = self.scenario.relabel(setup.source.train.labels)

    @property
    def image_flops(self) -> float | None:
        """FLOPs of training on one image, where they can be counted from the configuration."""
        return None

    @abstractmethod
    def epochs(self, task: int) -> int:
        """Passes over a task's images."""

    @abstractmethod
    def optimizer(self) -> optax.GradientTransformation:
        """What turns gradients into steps."""

    @abstractmethod
    def initial(self) -> State:
        """State before task 0."""

    @property
    @abstractmethod
    def like(self) -> checkpoint.Trees:
        """Names, shapes and types of a checkpoint's arrays; they are the same after every task."""

    @abstractmethod
    def trees(self, state: State) -> checkpoint.Trees:
        """What a checkpoint keeps of a state: all but the backbone, which is stored once."""

    @abstractmethod
    def restored(self, trees: Mapping[str, Any]) -> State:
        """State of a checkpoint, on the run's devices."""

    @abstractmethod
    def begin(self, task: int, state: State) -> State:
        """Make what is new in a task; its result is stored as the task's `before`."""

    @abstractmethod
    def fit(self, task: int, state: State, resume: tuple[Position, Tree, Any] | None, stage: Stage) -> State:
        """Train on a task's images."""

    @abstractmethod
    def end(self, task: int, state: State) -> State:
        """Do what follows training: class means, running means, bases."""

    @abstractmethod
    def evaluate(self, task: int, state: State) -> TaskEvaluation:
        """Classify the test images of all classes seen."""

    def learn(self) -> list[TaskEvaluation]:
        """Learn all tasks, taking up where the folder's last whole checkpoint left off."""
        evaluations: list[TaskEvaluation] = []
        state: State | None = None
        for task in range(self.scenario.num_tasks):
            after = self.path(task, "after")
            if agreed(checkpoint.exists(after)):
                trees, meta = checkpoint.load(after, self.like)
                before = self.path(task, "before")
                if not agreed(checkpoint.exists(before)):  # deleted because it was damaged
                    self.save(before, self.begin(task, self.initial() if state is None else state), {"task": task})
                evaluations.append(TaskEvaluation(**meta["evaluation"]))
                state = self.restored(trees)
                self.folder.drop_steps(self.seed, task, self.method)  # of a process that died just before this
                continue
            state, evaluation = self.learn_task(task, self.initial() if state is None else state)
            evaluations.append(evaluation)
        return evaluations

    def learn_task(self, task: int, state: State) -> tuple[State, TaskEvaluation]:
        """Train, evaluate and store one task."""
        state = self.train_task(task, state)
        evaluation = self.evaluate(task, state)
        # Logged before it is stored: of a task that counts as done no record is missing (see `repeats`).
        log_task(self.log, self.method, self.seed, evaluation)
        shown = f"{100 * evaluation.accuracy:.2f} % on all classes seen after task {task + 1}"
        self.progress.say(f"seed {self.seed} · {self.method}: {shown}")
        self.save(self.path(task, "after"), state, {"task": task, "evaluation": evaluation.to_record()})
        self.folder.drop_steps(self.seed, task, self.method)
        return state, evaluation

    def train_task(self, task: int, state: State) -> State:
        """Train one task, from where an interrupted process left it, and do what follows training."""
        before = self.path(task, "before")
        if agreed(checkpoint.exists(before)):
            state = self.restored(checkpoint.load(before, self.like)[0])
        else:
            state = self.placed(self.begin(task, state))
            self.save(before, state, {"task": task})
        resume = self.resume_point(task)
        start = resume[0].step if resume else 0
        if self.log.began_with(method=self.method, seed=self.seed, task=task):
            self.log.truncate(lambda r: not self.repeats(r, task, start))
        name = task_name(self.setup.source, self.scenario, task)
        title = f"seed {self.seed} · {self.method} · task {task + 1}/{self.scenario.num_tasks} · {name}"
        with self.progress.stage(title, total=self.steps_in_epoch(task) * self.epochs(task)) as stage:
            stage.advance(start)
            state = self.fit(task, state, resume, stage)
        return self.placed(self.end(task, state))

    def placed(self, state: State) -> State:
        """A state on the run's devices."""
        return copied(self.setup.mesh, state)

    @functools.cached_property
    def backbone(self) -> Tree:
        """The frozen backbone of this seed."""
        if self.setup.backbone is not None:
            return self.setup.backbone
        return initial_state(self.setup, self.seed).frozen.backbone

    def path(self, task: int, when: str) -> Path:
        """Checkpoint at the start or end of a task, or within it."""
        return self.folder.task(self.seed, task, when, self.method)

    @functools.cached_property
    def _by_label(self) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Places of all training images in the order of their labels, and the labels in that order."""
        order = np.argsort(self.labels, kind="stable")
        return order, self.labels[order]

    def members(self, task: int) -> Int[np.ndarray, "n"]:
        """Places of a task's training images, ascending."""
        (order, labels), classes = self._by_label, self.scenario.classes(task)
        return np.sort(order[slice(*np.searchsorted(labels, (classes.start, classes.stop)))])

    def steps_in_epoch(self, task: int) -> int:
        """Batches of an epoch of a task."""
        return steps_per_epoch(len(self.members(task)), self.setup.config.optimizer.batch_size)

    def training_batches(self, task: int, epoch: int, first: int) -> Iterator[Batch]:
        """Batches of an epoch, augmented, from batch `first` on."""
        members = self.members(task)
        train = self.setup.source.train
        return epoch_batches(self.setup, train, members, self.labels[members], self.seed, task, epoch, first)

    def views(self, task: int) -> Iterator[Batch]:
        """A task's training images under the test transform."""
        members = self.members(task)
        return self.setup.views("train", members, self.labels[members])

    def save(self, path: Path, state: State, meta: dict[str, Any]) -> None:
        """Write a checkpoint."""
        checkpoint.save(path, self.trees(state), meta | {"seed": self.seed})

    def repeats(self, record: dict[str, Any], task: int, start: int) -> bool:
        """Tell whether going on with `task` after `start` steps will write this log record again."""
        mine = (record["method"], record["seed"], record["task"]) == (self.method, self.seed, task)
        return mine and (record["kind"] == "task" or record["step"] > start)

    def resume_point(self, task: int) -> tuple[Position, Tree, Any] | None:
        """Newest whole in-task state, if there is one."""
        steps = [int(path.name.removeprefix("step")) for path in self.folder.steps(self.seed, task, self.method)]
        newest = agreed(max(steps, default=-1))
        if newest < 0:
            return None
        adaptation = self.like["adaptation"]
        moments = jax.tree.leaves(jax.eval_shape(self.optimizer().init, adaptation))
        like = {"adaptation": adaptation, "momentum": _numbered(moments)}
        trees, meta = checkpoint.load(self.path(task, f"step{newest}"), like)
        trees = copied(self.setup.mesh, trees)
        leaves = [trees["momentum"][str(i)] for i in range(len(trees["momentum"]))]
        return Position(**meta["position"]), trees["adaptation"], leaves

    def save_step(self, task: int, position: Position, trainable: Tree, moments: Any) -> None:
        """Write an in-task state, then drop the one before."""
        older = self.folder.steps(self.seed, task, self.method)
        trees = {"adaptation": trainable, "momentum": _numbered(jax.tree.leaves(moments))}
        path = self.path(task, f"step{position.step}")
        checkpoint.save(path, trees, {"position": asdict(position), "seed": self.seed, "task": task})
        for old in older:
            checkpoint.remove(old)

    def recorder(self, task: int, stage: Stage) -> Any:
        """Make the function that turns step results into log lines and progress."""
        batch_size, devices = self.setup.config.optimizer.batch_size, self.setup.mesh.size
        peak = peak_tflops(jax.devices()[0].device_kind, self.setup.config.compute.dtype)
        last = time.perf_counter()

        def record(records: list[StepRecord]) -> None:
            nonlocal last
            if not records:
                return
            now = time.perf_counter()
            rate = len(records) * batch_size / max(now - last, 1e-9)
            last = now
            mean = {name: float(np.mean([r.terms[name] for r in records])) for name in records[0].terms}
            speed = {"images_per_s": rate, "images_per_s_per_device": rate / devices}
            if self.image_flops is not None:
                speed["tflops"] = rate * self.image_flops / 1e12
                if peak is not None:
                    speed["mfu"] = speed["tflops"] / (peak * devices)
            step = records[-1].step + 1
            self.log.append(kind="train", method=self.method, seed=self.seed, task=task, step=step, **speed, **mean)
            stage.advance(len(records), loss=f"{mean['total']:.3f}", images_per_s=rate)

        return record


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    return {str(i): leaf for i, leaf in enumerate(leaves)}


def task_name(source: Source, scenario: Scenario, task: int, limit: int = 6) -> str:
    """Names of a task's classes, cut after a few."""
    names = [source.class_names[scenario.class_order[c]] for c in scenario.classes(task)]
    return " ".join(names[:limit]) + (f" … ({len(names)} classes)" if len(names) > limit else "")


def log_task(log: MetricsLog, method: str, seed: int, evaluation: TaskEvaluation) -> None:
    """Append the record of a finished task, the same for every method."""
    log.append(
        kind="task",
        method=method,
        seed=seed,
        task=evaluation.task,
        accuracy=evaluation.accuracy,
        task_accuracies=list(evaluation.task_accuracies),
    )
