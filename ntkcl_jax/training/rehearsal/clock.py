"""What a rehearsal measures: programs compiled, memory planned by XLA, seconds of what a run repeats."""

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.mesh import replicate, shard_batch
from ntkcl_jax.methods.base import Task
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import RunContext, epoch_batches
from ntkcl_jax.runs.log import read_metrics
from ntkcl_jax.training.step import eval_step, feature_step, train_step
from ntkcl_jax.training.task_loop import begun

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's name for the time that a program takes to compile."""
LASTING_S = 2.0
"""A step is repeated for so long to time it."""
LONG_EPOCH = 1000
"""Batches of the epoch over which the host's speed is measured, unless `LASTING_S` is over before."""
SAME_PROGRAM = 0.25
"""A later program that takes this share of the longest compilation is no small helper: something was compiled again."""


class Compilations:
    """Programs compiled while it listens, each with the number of tasks that the log says were over."""

    def __init__(self, log: Path, tasks: int) -> None:
        """Listen for a run that logs to `log` and has `tasks` tasks."""
        self._log, self._tasks = log, tasks
        self.found: list[tuple[str, float, int]] = []

    def __call__(self, event: str, duration_secs: float, **facts: str | int) -> None:
        """Note one program; JAX calls this."""
        if event == COMPILED:
            # Each method writes a record a task: modulo the tasks, 0 is a method that is still in its first one
            over = sum(r["kind"] == "task" for r in read_metrics(self._log)) if self._log.exists() else 0
            name = str(facts.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
            self.found.append((name, duration_secs, over % self._tasks))

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """Listen until the end of the block."""
        jax.monitoring.register_event_duration_secs_listener(self)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self)

    @property
    def costly(self) -> dict[str, float]:
        """Seconds by program, of those that take a twentieth of the longest or more, longest first."""
        total: dict[str, float] = {}
        for name, duration, _ in self.found:
            total[name] = total.get(name, 0.0) + duration
        longest = max(total.values(), default=0.0)
        return {n: s for n, s in sorted(total.items(), key=lambda item: -item[1]) if s >= longest / 20}

    def times(self, name: str) -> int:
        """How often a program was compiled."""
        return sum(name == one for one, _, _ in self.found)

    @property
    def later(self) -> list[tuple[str, float]]:
        """Programs compiled after a first task."""
        return [(name, duration) for name, duration, task in self.found if task]

    @property
    def again(self) -> tuple[str, ...]:
        """Costly ones among `later`."""
        longest = max((duration for _, duration, _ in self.found), default=0.0)
        return tuple(sorted({name for name, duration in self.later if duration >= SAME_PROGRAM * longest}))


def first_step(context: RunContext) -> list[Any]:
    """Arguments of NTK-CL's first training step of the first task, in the order of `train_step`, without `sharding`."""
    config, learner, seed = context.config, context.learner("ntkcl"), context.config.seeds[0]
    scenario = context.scenarios[seed]
    labels = scenario.relabel(context.source.train.labels)
    members = np.flatnonzero(labels < scenario.offsets[1])
    key, task = jax.random.key(0), Task.of(scenario, 0)
    # No images: NTK-CL's `begin` doesn't look at any
    state = learner.begin(learner.start(key, context.backbone_of(seed)), task, key, lambda: [])
    batch = next(epoch_batches(context, context.source.train, members, labels[members], seed, 0, 0, 0))
    recipe = learner.recipe_of(config)
    carry = begun(recipe, state.trainable, None)[1]
    frozen, task, carry = replicate(context.mesh, (state.frozen, task, carry))
    # A tiny rate: the same step is repeated on one batch for seconds
    return [learner, recipe.compiled, carry, frozen, task, batch, jnp.float32(1e-6), key]


def planned_bytes(compiled: Any) -> int | None:
    """Memory that XLA plans for a program: arguments, results and scratch; None where the backend doesn't tell."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    return int(
        # Donated buffers count among arguments and results: the alias is what both share
        plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
    )


def timed(step: Callable[[], Any], lasting: float = LASTING_S) -> float:
    """Seconds of a step that is compiled already, its mean over `lasting` seconds of repeating it."""
    start, done = time.perf_counter(), 0
    while True:
        jax.block_until_ready(step())  # a call returns when it is queued
        done += 1
        taken = time.perf_counter() - start
        if taken >= lasting:
            return taken / done


def input_rate(context: RunContext) -> float:
    """Training images/s that the host hands over, crops made where the run makes them, once its threads are running."""
    batch, train = context.config.optimizer.batch_size, context.source.train
    # Places wrap around, so that a few images make a long epoch
    members = np.resize(np.arange(len(train)), batch * LONG_EPOCH)
    batches = iter(epoch_batches(context, train, members, np.zeros_like(members), context.config.seeds[0], 0, 0, 0))
    next(batches)  # starting the threads isn't part of the rate
    start, done = time.perf_counter(), 0
    for _ in batches:
        done += batch
        if time.perf_counter() - start > LASTING_S:
            break
    return done / (time.perf_counter() - start)


def black(context: RunContext) -> Batch:
    """A full evaluation batch of black images, of the first task's classes in turn."""
    size, side = context.config.compute.eval_batch_size, context.size
    classes = context.scenarios[context.config.seeds[0]].task_sizes[0]
    labels = np.arange(size, dtype=np.int32) % min(size, classes)
    return shard_batch(context.mesh, Batch(np.zeros((size, side, side, 3), np.uint8), labels, np.ones(size, bool)))


def step_rates(context: RunContext, args: list[Any]) -> dict[str, float]:
    """Images/s of NTK-CL's training step, evaluation and prototypes.

    Args:
        context: of the rehearsal.
        args: of `first_step`; the training step consumes two of them.
    """
    learner, size, batch = args[0], context.config.compute.eval_batch_size, black(context)
    scenario = context.scenarios[context.config.seeds[0]]
    carry, frozen = args[2], args[3]

    def step() -> Any:
        nonlocal carry
        # The step donates its state: each call takes what the last one made
        carry, result = train_step(*args[:2], carry, *args[3:], sharding=context.sharding)
        return result

    train = context.config.optimizer.batch_size / timed(step)
    task_of_class = jnp.asarray(scenario.task_of_class)
    rest = (batch, task_of_class, task_of_class < 0)
    # Classes of which `black` has an image; a mean of none would be refused
    present = min(size, scenario.task_sizes[0])
    return {
        "train": train,
        "evaluate": size / timed(lambda: eval_step(learner, carry.trainable, frozen, *rest)),
        "prototypes": size / timed(lambda: class_means(learner, carry.trainable, frozen, [batch], 0, present)),
    }


def backbone_rate(context: RunContext) -> float:
    """Images/s of the untouched backbone."""
    learner, batch = context.learner("frozen"), black(context)
    state = learner.start(jax.random.key(0), context.backbone_of(context.config.seeds[0]))
    return len(batch.labels) / timed(lambda: feature_step(learner, *state, batch))


def logged_rates(log: Path) -> dict[str, float]:
    """Best training speed that each learner but NTK-CL logged, images/s."""
    # The best, since a program's first record has its compiling in it
    records = [r for r in read_metrics(log) if r["kind"] == "train" and r["method"] != "ntkcl"]
    return {m: max(r["images_per_s"] for r in records if r["method"] == m) for m in {r["method"] for r in records}}


def save_seconds(folder: Path, trees: checkpoint.Trees) -> float:
    """Seconds of writing a checkpoint into a folder."""
    start = time.perf_counter()
    checkpoint.save(folder / "timed", trees, {})
    return time.perf_counter() - start
