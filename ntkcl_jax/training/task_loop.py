"""The loop over the steps of a task, the same for every learner.

The host runs ahead of the device: results are fetched in groups, a few steps late, so that no step waits for a number
that only the log needs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.devices.mesh import replicate
from ntkcl_jax.errors import NonFiniteError
from ntkcl_jax.methods.base import Learner, LearnerState, Recipe, Task
from ntkcl_jax.models.functional import Tree
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.step import StepResult, TrainState, train_step

FETCH_EVERY = 24
"""Step results fetched from the device at a time."""
FETCH_LAG = 8
"""Steps that stay in flight when results are fetched."""


@dataclass(frozen=True)
class Position:
    """How far a task has come: `step` updates of the task are done."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


class Resume(NamedTuple):
    """A task's training where an interrupted process left it."""

    position: Position
    trainable: Tree
    opt_state: Sequence[Any]
    """Leaves of the optimizer's state, in their order."""


@dataclass(frozen=True)
class StepRecord:
    """Losses of one step, on the host."""

    step: int
    """Number of the update within the task, from 0."""
    terms: dict[str, float]
    """Unweighted loss terms by name, and their weighted `total`."""
    correct: int
    """Images of the batch that were classified rightly among the task's classes before the update."""


class Fitted(NamedTuple):
    """Where a task's training stands.

    Attributes:
        position: steps done.
        state: what they have changed. The next step donates its buffers: use it before asking for more.
        records: losses of the steps since the last report, in order, some steps late.
        due: whether a checkpoint is due; the records are then complete up to here.
    """

    position: Position
    state: TrainState
    records: list[StepRecord]
    due: bool = False


def fit_task(
    learner: Learner,
    config: RunConfig,
    scenario: Scenario,
    state: LearnerState,
    epoch_batches: Callable[[int, int], Iterator[Batch]],
    *,
    task: int,
    seed: int,
    steps_in_epoch: int,
    resume: Resume | None = None,
    sharding: NamedSharding | None = None,
) -> Iterator[Fitted]:
    """Train one task.

    Args:
        learner: what trains.
        config: its optimizer, epochs, and how often a checkpoint is due.
        scenario: classes of the task.
        state: after `Learner.begin`; it stays as it is.
        epoch_batches: (epoch, first batch) -> the rest of the epoch's batches.
        task: its number, from 0.
        seed: the run's seed.
        steps_in_epoch: batches of an epoch.
        resume: where to go on from.
        sharding: on which devices all of the state lies, when there are several.

    Yields:
        Where training stands, every few steps and at the end: the last one has the trained tree.

    Raises:
        NonFiniteError: a loss term or parameter that isn't finite; names it, the step and the task.
    """
    recipe, epochs = learner.recipe_of(config), learner.epochs_of(config, task)
    save_every = config.compute.checkpoint_every_steps
    # One key for the task: each step folds its own number in, so draws don't depend on where a process began
    arrays, key = Task.of(scenario, task), jax.random.key(stream_seed(seed, *learner.stream("steps", task)))
    position, carry = begun(recipe, state.trainable, resume)
    if sharding is not None:  # where the steps leave them, so that the first step is the same program as the others
        arrays, carry = replicate(sharding.mesh, (arrays, carry))
    start, pending = position, []
    for epoch in range(start.epoch, epochs):
        rate = jnp.float32(recipe.rate(epoch, epochs, task))
        # Only the epoch that was broken off begins in its middle
        first = start.step_in_epoch if epoch == start.epoch else 0
        for at, batch in enumerate(epoch_batches(epoch, first), start=first):
            carry, result = train_step(
                learner, recipe.compiled, carry, state.frozen, arrays, batch, rate, key, sharding=sharding
            )
            step, last = epoch * steps_in_epoch + at, at + 1 == steps_in_epoch
            # After an epoch's last batch the place is the start of the next one, with its order of images and its rate
            position = Position(epoch + last, 0 if last else at + 1, step + 1)
            pending.append((step, result))
            if position.step % save_every == 0:
                # Nothing stays in flight here: the log and the checkpoint must end at the same step
                records, pending = _collect(pending, learner, task), []
                # Losses are those before the update: what the last one made, only the parameters tell
                check_finite(carry.trainable, f"after step {step} of task {task}")
                yield Fitted(position, carry, records, due=True)
            elif len(pending) >= FETCH_EVERY + FETCH_LAG:
                # The oldest are done by now; the rest keep the device busy while these are read
                yield Fitted(position, carry, _collect(pending[:FETCH_EVERY], learner, task))
                pending = pending[FETCH_EVERY:]
    records = _collect(pending, learner, task)
    check_finite(carry.trainable, f"at the end of task {task}")
    yield Fitted(position, carry, records)


def begun(recipe: Recipe, trainable: Tree, resume: Resume | None) -> tuple[Position, TrainState]:
    """What the first step of a task starts from; arrays are copied, since steps donate them and the state stays."""
    if resume is None:
        copy = jax.tree.map(jnp.copy, trainable)
        return Position(), TrainState(copy, recipe.transformation().init(copy), jnp.int32(0))
    # A checkpoint holds the optimizer's leaves alone; how they belong together follows from the recipe
    structure = jax.tree.structure(jax.eval_shape(recipe.transformation().init, trainable))
    opt_state = jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in resume.opt_state])
    copy = jax.tree.map(jnp.array, resume.trainable)
    return resume.position, TrainState(copy, opt_state, jnp.int32(resume.position.step))


def check_finite(tree: Tree, what: str) -> None:
    """Stop where a parameter isn't finite.

    Raises:
        NonFiniteError: names the parameter and `what` was done.
    """
    for path, value in fetch(tree).items():
        if not np.isfinite(value).all():
            raise NonFiniteError(f"{path} isn't finite {what}; lower optimizer.learning_rate (or use float32)")


def _collect(pending: list[tuple[int, StepResult]], learner: Learner, task: int) -> list[StepRecord]:
    """Fetch step results from the device and stop at the first number that isn't finite."""
    records = []
    for (step, _), result in zip(pending, fetch([r for _, r in pending]), strict=True):
        terms = {name: float(x) for name, x in zip((*learner.terms, "total"), result.terms, strict=True)}
        bad = [name for name, x in terms.items() if not math.isfinite(x)]
        if bad:
            raise NonFiniteError(
                f"loss term {bad[0]} is {terms[bad[0]]} at step {step} of task {task}; lower "
                "optimizer.learning_rate or the term's weight (the last good state is in the run's checkpoints)"
            )
        records.append(StepRecord(step, terms, int(result.correct)))
    return records
