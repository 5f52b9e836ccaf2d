"""A stream of made-up images, and a run put into the middle of it: what task 999 costs without learning the 998 before.

The state before the task is made up (random prototypes for the classes before it, the log that the run would have
written); the task itself runs through the project's own code, checkpoints and log included, and every part is timed.
"""

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import ComputeConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Arrays
from ntkcl_jax.devices.mesh import replicate
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.methods.ntkcl_objective import orthogonality_basis
from ntkcl_jax.runs.context import make_context
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.training.learner_run import LearnerRun

PARTS = ("begin", "save", "fit", "end", "evaluate", "log")
"""Timed parts of a task: new head, two checkpoints, training, prototypes, test images, the log (also reading it)."""
LINES_PER_TASK = 4
"""Training records of an earlier task in the made-up log."""


@dataclass(frozen=True)
class MadeStream:
    """Size of a made-up stream.

    Attributes:
        classes: of all tasks.
        tasks: how many, all of one size.
        images: training images of each class.
        test: test images of each class.
        batch: images per step.
        eval_batch: images per batch of evaluation.
        epochs: passes over a task's images.
    """

    classes: int
    tasks: int
    images: int = 8
    test: int = 1
    batch: int = 16
    eval_batch: int = 256
    epochs: int = 1

    def config(self, model: ModelConfig, dtype: Any = "float32") -> RunConfig:
        """Configuration of a run over it."""
        size = model.backbone.image_size
        data = DataConfig(source="arrays", classes_per_task=self.classes // self.tasks, resize=size, workers=1)
        return RunConfig(
            preset="bench",
            weights="random",
            data=data,
            model=model,
            optimizer=OptimizerConfig(learning_rate=1e-3, batch_size=self.batch, epochs=self.epochs),
            compute=ComputeConfig(dtype=dtype, eval_batch_size=self.eval_batch),
        )

    def arrays(self, size: int) -> Arrays:
        """Noise as images of `size` pixels."""
        rng = np.random.default_rng(0)

        def side(each: int) -> tuple[np.ndarray, np.ndarray]:
            shape = (self.classes * each, size, size, 3)
            return rng.integers(0, 256, shape, np.uint8), np.repeat(np.arange(self.classes), each)

        return Arrays(*side(self.images), *side(self.test))


class TimedRun(LearnerRun):
    """NTK-CL on one seed that notes how long each part of a task took, seconds."""

    seconds: dict[str, float]

    @functools.cached_property
    def start(self) -> LearnerState:
        """State before task 0, drawn once: drawing compiles."""
        return self.initial()

    def learn_task(self, task: int, state: LearnerState) -> tuple[LearnerState, Any]:
        """As usual, with a clock."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        start = time.perf_counter()
        done = super().learn_task(task, state)
        self.seconds["whole"] = time.perf_counter() - start
        return done

    def forget(self, task: int) -> None:
        """Delete a task's checkpoints, so that it can be learnt again."""
        shutil.rmtree(self.path(task, ""), ignore_errors=True)


class TimedLog(MetricsLog):
    """A log that counts the time spent in it."""

    spent = 0.0

    def append(self, **record: Any) -> None:
        """As usual, with a clock."""
        start = time.perf_counter()
        super().append(**record)
        self.spent += time.perf_counter() - start

    def truncate(self, keep: Callable[[dict[str, Any]], bool]) -> int:
        """As usual, with a clock."""
        start = time.perf_counter()
        dropped = super().truncate(keep)
        self.spent += time.perf_counter() - start
        return dropped


def _clocked(name: str) -> Callable[..., Any]:
    inner = getattr(LearnerRun, name)

    def call(self: TimedRun, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        out = inner(self, *args, **options)
        # JAX hands arrays out before they are computed: the clock has to wait for them
        jax.block_until_ready([x for x in jax.tree.leaves(out) if isinstance(x, jax.Array)])
        self.seconds[name] += time.perf_counter() - start
        return out

    return call


# All but the log, which has a clock of its own
for _name in PARTS[:-1]:
    setattr(TimedRun, _name, _clocked(_name))


@contextlib.contextmanager
def opened(stream: MadeStream, model: ModelConfig, dtype: Any = "float32") -> Generator[TimedRun]:
    """A run over the stream in a folder that goes away; nothing is learnt yet."""
    config = stream.config(model, dtype)
    with tempfile.TemporaryDirectory() as home, Progress(quiet=True) as progress:
        folder = RunFolder(Path(home) / "run")
        context = make_context(config, stream.arrays(model.backbone.image_size))
        with folder.writing(context.header(), resume=False), TimedLog(folder.metrics) as log:
            yield TimedRun(context, folder, log, progress, config.seeds[0], "ntkcl")


def made_up(run: TimedRun, task: int) -> LearnerState:
    """A state as it could be before a task: every class before it has a (random) prototype."""
    state, offset = run.start, run.scenario.offsets[task]
    rows = np.zeros(state.frozen.buffers["prototypes/kernel"].shape, np.float32)
    # Classes of this task and later ones stay zero, as in a run
    rows[:offset] = np.random.default_rng(task).normal(size=(offset, rows.shape[1]))
    seen = np.arange(len(rows)) < offset
    return state.updated(buffers={"prototypes/kernel": jnp.asarray(rows), "prototypes/seen": jnp.asarray(seen)})


def fill_log(run: LearnerRun, task: int) -> None:
    """Write what the log would hold before a task, in one go."""
    run.log.truncate(lambda record: False)
    accuracies = [0.5] * task
    for earlier in range(task):
        about = {"method": run.learner.name, "seed": run.seed, "task": earlier}
        for step in range(LINES_PER_TASK):
            run.log.append(kind="train", **about, step=step + 1, images_per_s=1.5, total=0.123456789, ce_hybrid=0.25)
        run.log.append(kind="task", **about, accuracy=0.5, task_accuracies=accuracies[: earlier + 1])


def basis_s(run: LearnerRun, task: int, state: LearnerState) -> float:
    """Seconds for the directions of L_orth; part of `begin`."""
    objective, scenario = run.context.config.objective, run.scenario
    rows = np.asarray(state.frozen.buffers["prototypes/kernel"])
    start = time.perf_counter()
    old, allocated = scenario.offsets[task : task + 2]
    orthogonality_basis(rows, old, allocated, objective.orthogonality_rank, objective.orthogonality)
    return time.perf_counter() - start


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measured_task(run: TimedRun, task: int) -> dict[str, float]:
    """Learn one task from a made-up state.

    Returns:
        Seconds of each of `PARTS`, of the `whole` task, of the `basis` alone and for each test image; bytes of a
        checkpoint and of the log; test images.
    """
    run.forget(task)
    # On the devices, as a run's state is
    state = replicate(run.context.mesh, made_up(run, task))
    fill_log(run, task)
    log = run.log
    assert isinstance(log, TimedLog)
    # What making up the log took doesn't count
    log.spent = 0.0
    _, evaluation = run.learn_task(task, state)
    tested = sum(evaluation.images)
    return {
        **run.seconds,
        "log": log.spent,
        "basis": basis_s(run, task, state),
        "evaluate_per_image": run.seconds["evaluate"] / tested,
        "constant": run.seconds["whole"] - run.seconds["evaluate"],
        "images_tested": tested,
        "checkpoint_bytes": folder_bytes(run.path(task, "after")),
        "log_bytes": run.folder.metrics.stat().st_size,
    }
