"""One task in, one task out: the sequence of docs/method.md, section 6.

`start_task` -> training epochs -> `finish_task` -> evaluation. Every function takes state and returns state; files,
progress and seeds of a whole run are `run.py`'s business.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array

from ntkcl_jax.config import RunConfig, Variant
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.errors import NonFiniteError
from ntkcl_jax.methods.class_means import class_means, updated_mean, write_prototypes
from ntkcl_jax.methods.ntkcl_objective import TERMS, orthogonality_basis
from ntkcl_jax.models.heads import ProxyHead
from ntkcl_jax.models.ntkcl import Frozen, Network, Tree
from ntkcl_jax.models.variables import Adaptation
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.step import StepResult, TaskArrays, learning_rate, make_optimizer, train_step
from ntkcl_jax.training.task_loop import Position, StepRecord, fresh, resumed, run_steps


class LearnerState(NamedTuple):
    """Everything that one task hands to the next."""

    adaptation: Tree
    """Trainable tree."""
    frozen: Frozen
    """Backbone, running mean and prototypes."""
    anchor: Tree
    """Trainable tree at the previous task's end (the initial one in task 0)."""


def old_prototype_rows(variant: Variant, seen: int, new: int, classes_per_task: int) -> int:
    """Number of prototype rows that L_dis draws from.

    `paper`: the classes of earlier tasks. `reference`: all but the last `classes_per_task` rows, which in a task 0
    larger than the others takes still-empty rows of its own classes for old ones, as the release does.

    Args:
        variant: which rule.
        seen: classes up to and including the task.
        new: classes of the task.
        classes_per_task: classes of every task but the first.

    Example:
        >>> old_prototype_rows("paper", seen=7, new=7, classes_per_task=5)
        0
        >>> old_prototype_rows("reference", seen=7, new=7, classes_per_task=5)
        2
    """
    return seen - new if variant == "paper" else max(seen - classes_per_task, 0)


def task_arrays(
    network: Network, config: RunConfig, scenario: Scenario, task: int, frozen: Frozen, anchor: Tree
) -> TaskArrays:
    """Gather what a task changes: anchor, orthogonality basis, class mask, offsets."""
    offset, size = scenario.offsets[task], scenario.task_sizes[task]
    objective = config.objective
    basis = orthogonality_basis(
        fetch(frozen.prototypes["prototypes/kernel"]),
        old=offset,
        allocated=offset + size,
        rank=objective.orthogonality_rank,
        variant=objective.orthogonality,
    )
    old = old_prototype_rows(objective.dissimilarity, offset + size, size, config.data.classes_per_task)
    mask = jnp.arange(network.task_classes) < size
    return TaskArrays(anchor, jnp.asarray(basis), mask, jnp.int32(offset), jnp.int32(old))


def start_task(network: Network, task: int, seed: int, state: LearnerState) -> LearnerState:
    """Give the task a new proxy head, drawn from its own stream; everything else goes on from the task before."""
    rngs = nnx.Rngs(params=jax.random.key(stream_seed(seed, "proxy", task)))
    head = ProxyHead(network.task_classes, network.config.feature_dim, Adaptation, rngs)
    proxy = {"proxy/kernel": head.kernel[...], "proxy/scale": head.scale[...]}
    return state._replace(adaptation={**state.adaptation, **proxy})


def fit_task(
    network: Network,
    config: RunConfig,
    state: LearnerState,
    arrays: TaskArrays,
    epoch_batches: Callable[[int, int], Iterator[Batch]],
    *,
    task: int,
    seed: int,
    steps_in_epoch: int,
    resume: tuple[Position, Tree, Any] | None = None,
    where: NamedSharding | None = None,
    on_records: Callable[[list[StepRecord]], None] = lambda records: None,
    save: Callable[[Position, Tree, Any], None] = lambda position, adaptation, momentum: None,
) -> Tree:
    """Train one task.

    Args:
        network: the architecture.
        config: optimizer, objective and how often to save.
        state: after `start_task`.
        arrays: the task's arrays.
        epoch_batches: (epoch, first step) -> the rest of the epoch's batches.
        task: its number, from 0.
        seed: the run's seed.
        steps_in_epoch: batches of an epoch.
        resume: position, trainable tree and momentum to go on from.
        where: devices on which all of the state lies, when there are several.
        on_records: receives the steps' losses in order, some steps late.
        save: receives position, trainable tree and momentum every `compute.checkpoint_every_steps` steps.

    Returns:
        The trained tree.

    Raises:
        NonFiniteError: a loss term or parameter that isn't finite.
    """
    optimizer = config.optimizer
    momentum = make_optimizer(optimizer).init(state.adaptation)
    task_key = jax.random.key(stream_seed(seed, "steps", task))

    def update(adaptation: Tree, momentum: Any, batch: Batch, rate: Array, step: Array) -> tuple[Tree, Any, StepResult]:
        return train_step(
            network,
            config.objective,
            optimizer,
            adaptation,
            momentum,
            state.frozen,
            arrays,
            batch,
            rate,
            task_key,
            step,
            where,
        )

    return run_steps(
        fresh(momentum, state.adaptation, where) if resume is None else resumed(momentum, *resume, where),
        update,
        epoch_batches,
        names=TERMS,
        task=task,
        epochs=optimizer.epochs_of(task),
        rate=lambda epoch: learning_rate(optimizer, epoch, task),
        steps_in_epoch=steps_in_epoch,
        save_every=config.compute.checkpoint_every_steps,
        on_records=on_records,
        save=save,
    )


def finish_task(
    network: Network,
    state: LearnerState,
    batches: Iterable[Batch],
    *,
    task: int,
    last: bool,
    offset: int,
    classes: int,
) -> LearnerState:
    """Update the running mean (unless it is the last task), compute the new prototypes with it, move the anchor.

    Args:
        network: the architecture.
        state: at the end of the task's training.
        batches: the task's training images under the test transform.
        task: its number, from 0.
        last: whether no task follows; the mean then stays, as in the release.
        offset: first class of the task.
        classes: number of its classes.

    Returns:
        The state that the next task starts from, and that is evaluated.
    """
    frozen = state.frozen
    if not last:
        frozen = frozen._replace(mean=updated_mean(frozen.mean, state.adaptation, task))
    means = class_means(network, state.adaptation, frozen, batches, offset, classes)
    if not np.isfinite(means).all():
        raise NonFiniteError(f"a prototype of task {task} isn't finite: the features have overflowed")
    frozen = frozen._replace(prototypes=write_prototypes(frozen.prototypes, means, offset))
    return LearnerState(state.adaptation, frozen, state.adaptation)
