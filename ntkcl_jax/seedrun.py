"""NTK-CL on one seed: task after task, every state left in the run folder, resumable at any moment."""

import functools
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax import checkpoint
from ntkcl_jax.data import Scenario, Source, steps_per_epoch
from ntkcl_jax.learner import LearnerState, Position, StepRecord, finish_task, fit_task, start_task, task_arrays
from ntkcl_jax.logs import MetricsLog, Progress, Stage
from ntkcl_jax.metrics import TaskEvaluation
from ntkcl_jax.nn.model import Frozen, Tree
from ntkcl_jax.runfolder import RunFolder
from ntkcl_jax.setup import Setup, epoch_batches, evaluate, initial_state


class SeedRun:
    """NTK-CL on one seed: learns task after task, and leaves every state in the run folder."""

    def __init__(self, setup: Setup, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int) -> None:
        """Bind what the tasks share."""
        self.setup, self.folder, self.log, self.progress, self.seed = setup, folder, log, progress, seed
        self.scenario = setup.scenarios[seed]
        self.labels = self.scenario.relabel(setup.source.train.labels)

    def learn(self) -> list[TaskEvaluation]:
        """Learn all tasks, taking up where the folder's last whole checkpoint left off."""
        evaluations: list[TaskEvaluation] = []
        state: LearnerState | None = None
        for task in range(self.scenario.num_tasks):
            after = self.folder.task(self.seed, task, "after")
            if checkpoint.exists(after):
                trees, meta = checkpoint.load(after)
                evaluations.append(TaskEvaluation(**meta["evaluation"]))
                state = self.restored(trees)
                self.folder.drop_steps(self.seed, task)  # if the process died between storing the task and this
                continue
            state, evaluation = self.learn_task(task, state or initial_state(self.setup, self.seed))
            evaluations.append(evaluation)
        return evaluations

    def restored(self, trees: checkpoint.Trees) -> LearnerState:
        """State of a checkpoint."""
        trees = jax.tree.map(jnp.asarray, trees)
        frozen = Frozen(self.backbone, trees["mean"], trees["prototypes"])
        return LearnerState(trees["adaptation"], frozen, trees["anchor"])

    @functools.cached_property
    def backbone(self) -> Tree:
        """The frozen backbone of this seed."""
        if self.setup.backbone is not None:
            return self.setup.backbone
        return initial_state(self.setup, self.seed).frozen.backbone

    def save(self, path: Path, state: LearnerState, meta: dict[str, Any]) -> None:
        """Write the full state but the backbone, which is stored once."""
        trees = {
            "adaptation": state.adaptation,
            "anchor": state.anchor,
            "mean": state.frozen.mean,
            "prototypes": state.frozen.prototypes,
        }
        checkpoint.save(path, jax.device_get(trees), meta | {"seed": self.seed})

    def learn_task(self, task: int, state: LearnerState) -> tuple[LearnerState, TaskEvaluation]:
        """Train, finish, evaluate and store one task."""
        setup, config, network, scenario = self.setup, self.setup.config, self.setup.network, self.scenario
        members = np.flatnonzero(np.isin(self.labels, scenario.classes(task)))
        steps = steps_per_epoch(len(members), config.optimizer.batch_size)
        state = start_task(network, task, self.seed, state)
        before = self.folder.task(self.seed, task, "before")
        if not checkpoint.exists(before):
            self.save(before, state, {"task": task})
        arrays = task_arrays(network, config, scenario, task, state.frozen, state.anchor)
        resume = self.resume_point(task)
        start = resume[0].step if resume else 0
        self.log.truncate(lambda r: not self.repeats(r, task, start))

        title = f"seed {self.seed} · task {task + 1}/{scenario.num_tasks} · {self.task_name(task)}"
        with self.progress.stage(title, total=steps * config.optimizer.epochs) as stage:
            stage.advance(start)
            adaptation = fit_task(
                network,
                config,
                state,
                arrays,
                functools.partial(
                    epoch_batches, setup, setup.source.train, members, self.labels[members], self.seed, task
                ),
                task=task,
                seed=self.seed,
                steps_in_epoch=steps,
                resume=resume,
                on_records=self.recorder(task, stage),
                save=functools.partial(self.save_step, task),
            )
        state = finish_task(
            network,
            state._replace(adaptation=adaptation),
            setup.train_views.batches(members, self.labels[members], config.compute.eval_batch_size),
            task=task,
            last=task == scenario.num_tasks - 1,
            offset=scenario.offsets[task],
            classes=scenario.task_sizes[task],
        )
        evaluation, _ = evaluate(setup, scenario, task, state.adaptation, state.frozen)
        # Logged before it is stored: of a task that counts as done no record is missing (see `repeats`).
        log_task(self.log, "ntkcl", self.seed, evaluation)
        shown = f"{100 * evaluation.accuracy:.2f} % on all classes seen after task {task + 1}"
        self.progress.say(f"seed {self.seed} · ntkcl: {shown}")
        self.save(
            self.folder.task(self.seed, task, "after"), state, {"task": task, "evaluation": evaluation.to_record()}
        )
        self.folder.drop_steps(self.seed, task)
        return state, evaluation

    def repeats(self, record: dict[str, Any], task: int, start: int) -> bool:
        """Tell whether going on with `task` after `start` steps will write this log record again."""
        mine = (record["method"], record["seed"], record["task"]) == ("ntkcl", self.seed, task)
        return mine and (record["kind"] == "task" or record["step"] > start)

    def task_name(self, task: int) -> str:
        """Class names of a task."""
        return task_name(self.setup.source, self.scenario, task)

    def resume_point(self, task: int) -> tuple[Position, Tree, Any] | None:
        """Newest whole in-task state, if there is one."""
        for path in self.folder.steps(self.seed, task):
            trees, meta = checkpoint.load(path)
            trees = jax.tree.map(jnp.asarray, trees)
            leaves = [trees["momentum"][str(i)] for i in range(len(trees["momentum"]))]
            return Position(**meta["position"]), trees["adaptation"], leaves
        return None

    def save_step(self, task: int, position: Position, adaptation: Tree, momentum: Any) -> None:
        """Write an in-task state, then drop the one before."""
        older = self.folder.steps(self.seed, task)
        leaves = {str(i): x for i, x in enumerate(jax.tree.leaves(momentum))}
        trees = jax.device_get({"adaptation": adaptation, "momentum": leaves})
        path = self.folder.task(self.seed, task, "before").with_name(f"step{position.step}")
        checkpoint.save(path, trees, {"position": asdict(position), "seed": self.seed, "task": task})
        for old in older:
            checkpoint.remove(old)

    def recorder(self, task: int, stage: Stage) -> Any:
        """Make the function that turns step results into log lines and progress."""
        batch_size = self.setup.config.optimizer.batch_size
        last = time.perf_counter()

        def record(records: list[StepRecord]) -> None:
            nonlocal last
            if not records:
                return
            now = time.perf_counter()
            rate = len(records) * batch_size / max(now - last, 1e-9)
            last = now
            mean = {name: float(np.mean([r.terms[name] for r in records])) for name in records[0].terms}
            step = records[-1].step + 1
            self.log.append(
                kind="train", method="ntkcl", seed=self.seed, task=task, step=step, images_per_s=rate, **mean
            )
            stage.advance(len(records), loss=f"{mean['total']:.3f}", images_per_s=rate)

        return record


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
