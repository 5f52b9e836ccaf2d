"""A learner on one seed: task after task, every state left in the run folder, resumable at any moment."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.data import Batch, steps_per_epoch
from ntkcl_jax.devices.hosts import broadcast
from ntkcl_jax.devices.mesh import replicate
from ntkcl_jax.devices.peaks import peak_tflops
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import RunContext, epoch_batches, task_name
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress, Stage
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.evaluate import evaluate_head
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.step import TrainState
from ntkcl_jax.training.task_loop import Position, Resume, StepRecord, fit_task


class LearnerRun:
    """One learner on one seed.

    Attributes:
        context: what the run's seeds and methods share.
        folder: the run folder.
        seed: one of the run's seeds.
        learner: what trains.
        evaluated: whether its own head is a method of the run: test images are then classified after every task.
    """

    def __init__(
        self, context: RunContext, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int, name: str
    ) -> None:
        """Bind what the tasks share."""
        self.context, self.folder, self.log, self.progress, self.seed = context, folder, log, progress, seed
        self.learner = context.learner(name)
        self.scenario = context.scenarios[seed]
        self.labels = self.scenario.relabel(context.source.train.labels)
        self.evaluated = any(context.config.pair(method) == (name, HEAD) for method in context.config.methods)

    @property
    def sessions(self) -> int:
        """Tasks that are trained on, from the first."""
        limit = self.learner.sessions
        return self.scenario.num_tasks if limit is None else min(limit, self.scenario.num_tasks)

    def learn(self) -> list[TaskEvaluation]:
        """Train on all tasks, taking up where the folder's last whole checkpoint left off.

        Returns:
            How its own head classified after each task, if the run asks for that.
        """
        evaluations: list[TaskEvaluation] = []
        state: LearnerState | None = None
        for task in range(self.sessions):
            after = self.path(task, "after")
            if broadcast(checkpoint.exists(after)):
                trees, meta = checkpoint.load(after, self.like)
                if not broadcast(checkpoint.exists(self.path(task, "before"))):  # deleted because it was damaged
                    self.save(task, "before", self.begin(task, self.initial() if state is None else state))
                state, evaluation = self.restored(trees), meta.get("evaluation")
                evaluation = None if evaluation is None else TaskEvaluation.from_record(evaluation, after)
                self.folder.drop_steps(self.seed, task, self.learner.name)  # of a process that died just before this
            else:
                state, evaluation = self.learn_task(task, self.initial() if state is None else state)
            evaluations += [] if evaluation is None else [evaluation]
        return evaluations

    def learn_task(self, task: int, state: LearnerState) -> tuple[LearnerState, TaskEvaluation | None]:
        """Train, evaluate and store one task."""
        before = self.path(task, "before")
        if broadcast(checkpoint.exists(before)):
            # Not begun anew: the stored state is what the broken-off process trained from
            state = self.restored(checkpoint.load(before, self.like)[0])
        else:
            state = self.begin(task, state)
            # Before the first step: what is new in the task is drawn once, and kernels of its start can be computed
            self.save(task, "before", state)
        state = self.end(task, self.fit(task, state))
        evaluation = self.evaluate(task, state) if self.evaluated else None
        if evaluation is not None:
            # Logged before it is stored: of a task that counts as done no record is missing (see `repeats`).
            log_task(self.log, self.learner.name, self.seed, evaluation)
            shown = f"{100 * evaluation.accuracy:.2f} % on all classes seen after task {task + 1}"
            self.progress.say(f"seed {self.seed} · {self.learner.name}: {shown}")
        self.save(task, "after", state, evaluation=None if evaluation is None else evaluation.to_record())
        self.folder.drop_steps(self.seed, task, self.learner.name)
        return state, evaluation

    def initial(self) -> LearnerState:
        """State before task 0."""
        key = jax.random.key(stream_seed(self.seed, *self.learner.stream("initialisation")))
        return replicate(self.context.mesh, self.learner.start(key, self.backbone))

    def begin(self, task: int, state: LearnerState) -> LearnerState:
        """Make what is new in a task."""
        key = jax.random.key(stream_seed(self.seed, *self.learner.stream("task", task)))
        views = functools.partial(self.views, task)
        return replicate(self.context.mesh, self.learner.begin(state, Task.of(self.scenario, task), key, views))

    def fit(self, task: int, state: LearnerState) -> LearnerState:
        """Train on a task's images, from where an interrupted process left off."""
        config, steps = self.context.config, self.steps_in_epoch(task)
        resume = self.resume_point(task)
        start = resume.position.step if resume else 0
        # Rewriting takes as long as the log is: only for a task of which an earlier process wrote records
        if self.log.began_with(method=self.learner.name, seed=self.seed, task=task):
            self.log.truncate(lambda record: not self.repeats(record, task, start))
        trained = state.trainable
        with self.progress.stage(self.title(task), total=steps * self.learner.epochs_of(config, task)) as stage:
            stage.advance(start)
            record = self.recorder(task, stage)
            for fitted in fit_task(
                self.learner,
                config,
                self.scenario,
                state,
                functools.partial(self.training_batches, task),
                task=task,
                seed=self.seed,
                steps_in_epoch=steps,
                resume=resume,
                sharding=self.context.sharding,
            ):
                # Records before the checkpoint: what it goes on from is in the log
                record(fitted.records)
                if fitted.due:
                    self.save_step(task, fitted.position, fitted.state)
                trained = fitted.state.trainable
        return state._replace(trainable=trained)

    def end(self, task: int, state: LearnerState) -> LearnerState:
        """Do what follows training: class means, running means, bases."""
        views = functools.partial(self.views, task)
        return replicate(self.context.mesh, self.learner.finish(state, Task.of(self.scenario, task), views))

    def evaluate(self, task: int, state: LearnerState) -> TaskEvaluation:
        """Classify the test images of all classes seen with the learner's own head."""
        return evaluate_head(self.context, self.learner, self.scenario, task, state)[0]

    def state_after(self, task: int) -> LearnerState:
        """The state at the end of a task, from its checkpoint; of one that isn't trained on, that of the last before.

        Raises:
            RunFolderError: it isn't there yet, or damaged.
        """
        if self.sessions == 0:
            return self.initial()
        return self.restored(checkpoint.load(self.path(min(task, self.sessions - 1), "after"), self.like)[0])

    @functools.cached_property
    def backbone(self) -> Tree:
        """The frozen backbone of this seed."""
        return self.context.backbone_of(self.seed)

    @functools.cached_property
    def like(self) -> checkpoint.Trees:
        """Names, shapes and types of a checkpoint's arrays; they are the same after every task."""
        return self.learner.shapes()

    def restored(self, trees: checkpoint.Trees) -> LearnerState:
        """State of a checkpoint, on the run's devices."""
        trees = replicate(self.context.mesh, dict(trees))
        return LearnerState(trees["trainable"], Frozen(self.backbone, trees["buffers"]))

    def path(self, task: int, when: str) -> Path:
        """Checkpoint at the start or end of a task, or within it."""
        return self.folder.task(self.seed, task, when, self.learner.name)

    def save(self, task: int, when: str, state: LearnerState, **meta: Any) -> None:
        """Write the checkpoint at a task's start or end."""
        checkpoint.save(self.path(task, when), state.stored, {"task": task, "seed": self.seed, **meta})

    def save_step(self, task: int, position: Position, state: TrainState) -> None:
        """Write an in-task state, then drop the one before."""
        # Listed before the new one is there, deleted when it is whole: one of them can always be taken up
        older = self.folder.steps(self.seed, task, self.learner.name)
        trees = {"trainable": state.trainable, "opt_state": _numbered(jax.tree.leaves(state.opt_state))}
        path = self.path(task, f"step{position.step}")
        checkpoint.save(path, trees, {"position": asdict(position), "seed": self.seed, "task": task})
        for old in older:
            checkpoint.remove(old)

    def resume_point(self, task: int) -> Resume | None:
        """Newest whole in-task state, if there is one."""
        steps = [int(path.name.removeprefix("step")) for path in self.folder.steps(self.seed, task, self.learner.name)]
        # All processes must go on from the same step
        newest = broadcast(max(steps, default=-1))
        if newest < 0:
            return None
        trainable = self.like["trainable"]
        optimizer = self.learner.recipe_of(self.context.config).transformation()
        # Leaves of the optimizer's state have numbers for names, and the shapes that the recipe gives them
        like = {
            "trainable": trainable,
            "opt_state": _numbered(jax.tree.leaves(jax.eval_shape(optimizer.init, trainable))),
        }
        trees, meta = checkpoint.load(self.path(task, f"step{newest}"), like)
        trees = replicate(self.context.mesh, trees)
        leaves = [trees["opt_state"][str(i)] for i in range(len(trees["opt_state"]))]
        return Resume(Position(**meta["position"]), trees["trainable"], leaves)

    @functools.cached_property
    def _by_label(self) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Places of all training images in the order of their labels, and the labels in that order."""
        # Sorted once: to search all labels anew in each task would cost more the more tasks there are
        order = np.argsort(self.labels, kind="stable")
        return order, self.labels[order]

    def members(self, task: int) -> Int[np.ndarray, "n"]:
        """Places of a task's training images, ascending."""
        (order, labels), classes = self._by_label, self.scenario.classes(task)
        # Ascending: batches and crops are drawn by an image's place in this order
        return np.sort(order[slice(*np.searchsorted(labels, (classes.start, classes.stop)))])

    def steps_in_epoch(self, task: int) -> int:
        """Batches of an epoch of a task."""
        return steps_per_epoch(len(self.members(task)), self.context.config.optimizer.batch_size)

    def training_batches(self, task: int, epoch: int, first: int) -> Iterator[Batch]:
        """Batches of an epoch, augmented, from batch `first` on."""
        members = self.members(task)
        train = self.context.source.train
        return epoch_batches(self.context, train, members, self.labels[members], self.seed, task, epoch, first)

    def views(self, task: int) -> Iterator[Batch]:
        """A task's training images under the test transform."""
        members = self.members(task)
        return self.context.views("train", members, self.labels[members])

    def title(self, task: int) -> str:
        """What progress calls the training of a task."""
        name = task_name(self.context.source, self.scenario, task)
        return f"seed {self.seed} · {self.learner.name} · task {task + 1}/{self.scenario.num_tasks} · {name}"

    def repeats(self, record: dict[str, Any], task: int, start: int) -> bool:
        """Tell whether going on with `task` after `start` steps will write this log record again."""
        mine = (record["method"], record["seed"], record["task"]) == (self.learner.name, self.seed, task)
        # A training record has the number of updates done at its end: those up to `start` stay
        return mine and (record["kind"] == "task" or record["step"] > start)

    def recorder(self, task: int, stage: Stage) -> Callable[[list[StepRecord]], None]:
        """Make the function that turns step results into log lines and progress."""
        config, devices = self.context.config, self.context.mesh.size
        batch_size, flops = config.optimizer.batch_size, self.learner.step_flops(config)
        peak = peak_tflops(jax.devices()[0].device_kind, config.compute.dtype)
        # It starts here, so the first rate has compiling in it
        last = time.perf_counter()

        def record(records: list[StepRecord]) -> None:
            nonlocal last
            if not records:
                return
            now = time.perf_counter()
            # A clock may show the same time twice
            rate = len(records) * batch_size / max(now - last, 1e-9)
            last = now
            mean = {name: float(np.mean([r.terms[name] for r in records])) for name in records[0].terms}
            speed = {"images_per_s": rate, "images_per_s_per_device": rate / devices}
            if flops is not None:
                speed["tflops"] = rate * flops / batch_size / 1e12
                if peak is not None:
                    speed["mfu"] = speed["tflops"] / (peak * devices)
            step = records[-1].step + 1
            about = {"kind": "train", "method": self.learner.name, "seed": self.seed, "task": task, "step": step}
            self.log.append(**about, **speed, **mean)
            stage.advance(len(records), loss=f"{mean['total']:.3f}", images_per_s=rate)

        return record


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    return {str(i): leaf for i, leaf in enumerate(leaves)}


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
