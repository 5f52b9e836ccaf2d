"""The loop over the steps of a task, the same for every method that trains.

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
from jaxtyping import Array

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.devices.mesh import copied
from ntkcl_jax.errors import NonFiniteError
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.training.step import StepResult

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


@dataclass(frozen=True)
class StepRecord:
    """Losses of one step, on the host."""

    step: int
    """Number of the update within the task, from 0."""
    terms: dict[str, float]
    """Unweighted loss terms by name, and their weighted `total`."""
    correct: int
    """Images of the batch that were classified rightly among the task's classes before the update."""


class Progressed(NamedTuple):
    """Where a task's training stands."""

    position: Position
    trainable: Tree
    moments: Any
    """State of the optimizer."""


def fresh(optimizer_state: Any, trainable: Tree, where: NamedSharding | None) -> Progressed:
    """Begin a task; the trainable tree is copied, since steps donate their buffers and the state must survive."""
    return _placed(Position(), jax.tree.map(jnp.copy, trainable), optimizer_state, where)


def resumed(
    optimizer_state: Any, position: Position, trainable: Tree, leaves: Sequence[Any], where: NamedSharding | None
) -> Progressed:
    """Go on from a checkpoint; `leaves` are those of the optimizer's state in their order."""
    moments = jax.tree.unflatten(jax.tree.structure(optimizer_state), [jnp.array(x) for x in leaves])
    return _placed(position, jax.tree.map(jnp.array, trainable), moments, where)


def _placed(position: Position, trainable: Tree, moments: Any, where: NamedSharding | None) -> Progressed:
    """Put a state where the steps leave it, so that the first of them is the same program as the others."""
    if where is not None:
        trainable, moments = copied(where.mesh, (trainable, moments))
    return Progressed(position, trainable, moments)


def check_finite(tree: Tree, what: str) -> None:
    """Stop where a parameter isn't finite.

    Raises:
        NonFiniteError: names the parameter and `what` was done.
    """
    for path, value in fetch(tree).items():
        if not np.isfinite(value).all():
            raise NonFiniteError(f"{path} isn't finite {what}; lower optimizer.learning_rate (or use float32)")


def _collect(pending: list[tuple[int, StepResult]], names: Sequence[str], task: int) -> list[StepRecord]:
    """Fetch step results from the device and stop at the first number that isn't finite."""
    records = []
    for (step, _), result in zip(pending, fetch([r for _, r in pending]), strict=True):
        terms = {name: float(x) for name, x in zip((*names, "total"), result.terms, strict=True)}
        bad = [name for name, x in terms.items() if not math.isfinite(x)]
        if bad:
            raise NonFiniteError(
                f"loss term {bad[0]} is {terms[bad[0]]} at step {step} of task {task}; lower "
                "optimizer.learning_rate or the term's weight (the last good state is in the run's checkpoints)"
            )
        records.append(StepRecord(step, terms, int(result.correct)))
    return records


def run_steps(
    start: Progressed,
    update: Callable[[Tree, Any, Batch, Array, Array], tuple[Tree, Any, StepResult]],
    epoch_batches: Callable[[int, int], Iterator[Batch]],
    *,
    names: Sequence[str],
    task: int,
    epochs: int,
    rate: Callable[[int], float],
    steps_in_epoch: int,
    save_every: int,
    on_records: Callable[[list[StepRecord]], None] = lambda records: None,
    save: Callable[[Position, Tree, Any], None] = lambda position, trainable, moments: None,
) -> Tree:
    """Train one task.

    Args:
        start: trainable tree and optimizer to begin with; their buffers may be donated.
        update: (trainable, moments, batch, rate, step of the task) -> those after the step, and its losses.
        epoch_batches: (epoch, first step) -> the rest of the epoch's batches.
        names: names of the loss terms.
        task: its number, from 0.
        epochs: passes over the task's images.
        rate: learning rate of each epoch.
        steps_in_epoch: batches of an epoch.
        save_every: steps from one `save` to the next.
        on_records: receives the steps' losses in order, some steps late.
        save: receives position, trainable tree and optimizer state.

    Returns:
        The trained tree.

    Raises:
        NonFiniteError: a loss term or parameter that isn't finite.
    """
    position, trainable, moments = start
    pending: list[tuple[int, StepResult]] = []
    for epoch in range(position.epoch, epochs):
        epoch_rate = jnp.float32(rate(epoch))
        first = position.step_in_epoch if epoch == position.epoch else 0
        for at, batch in enumerate(epoch_batches(epoch, first), start=first):
            step = epoch * steps_in_epoch + at
            trainable, moments, result = update(trainable, moments, batch, epoch_rate, jnp.int32(step))
            pending.append((step, result))
            if (step + 1) % save_every == 0:
                on_records(_collect(pending, names, task))
                pending = []
                check_finite(trainable, f"after step {step} of task {task}")
                end = at + 1 == steps_in_epoch
                save(Position(epoch + end, 0 if end else at + 1, step + 1), trainable, moments)
            elif len(pending) >= FETCH_EVERY + FETCH_LAG:
                on_records(_collect(pending[:FETCH_EVERY], names, task))
                pending = pending[FETCH_EVERY:]
    on_records(_collect(pending, names, task))
    check_finite(trainable, f"at the end of task {task}")
    return trainable
