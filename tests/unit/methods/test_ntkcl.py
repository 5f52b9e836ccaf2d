"""Training of one task: the rate of each epoch, a fresh momentum, and what is told and stored meanwhile."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ComputeConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.ntkcl import LearnerState, fit_task
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training import task_loop as fitting
from ntkcl_jax.training.step import TaskArrays, make_optimizer, train_step
from ntkcl_jax.training.task_loop import Position, StepRecord
from tests.support import networks as tiny

NET = tiny.network(tiny.SHALLOW)
CONFIG = RunConfig(
    model=tiny.SHALLOW,
    objective=ObjectiveConfig(lambda_reg=0.1, orthogonality_rank=3),
    optimizer=OptimizerConfig(learning_rate=0.2, later_learning_rate=0.04, batch_size=4, weight_decay=0.01, epochs=2),
    compute=ComputeConfig(checkpoint_every_steps=3),
)
STEPS = 2
"""Batches of an epoch."""
RATES = {0: [0.2, 0.2, 0.1, 0.1], 1: [0.04, 0.04, 0.02, 0.02]}
"""Rate of each step by hand: a cosine over two epochs is 1, then 1/2; later tasks start lower."""


def batches(epoch: int, first: int) -> Iterator[Batch]:
    for at in range(first, STEPS):
        images = np.random.default_rng([epoch, at]).integers(0, 256, (4, 8, 8, 3), np.uint8)
        yield Batch(images, np.array([0, 1, 1, 0], np.int32), np.array([True] * 4))


def start() -> tuple[LearnerState, TaskArrays]:
    """A state with all parameters away from zero, and the arrays of a task of classes 0 and 1."""
    adaptation, frozen = tiny.randomised(NET)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 3)))[0].astype(np.float32)
    anchor = {path: value + 0.1 for path, value in adaptation.items()}
    task = TaskArrays(anchor, jnp.asarray(basis), jnp.arange(3) < 2, jnp.int32(0), jnp.int32(0))
    return LearnerState(adaptation, frozen, anchor), task


def fit(state: LearnerState, task: int, config: RunConfig = CONFIG, **more: Any) -> Tree:
    return fit_task(NET, config, state, start()[1], batches, task=task, seed=5, steps_in_epoch=STEPS, **more)


def fresh_momentum() -> Any:
    return make_optimizer(CONFIG.optimizer).init(start()[0].adaptation)


def by_hand(state: LearnerState, task: int, rates: list[float], momentum: Any) -> tuple[Tree, Any]:
    """The obvious twin: one `train_step` after the other, with these rates, from this momentum."""
    adaptation, momentum = (jax.tree.map(jnp.copy, tree) for tree in (state.adaptation, momentum))
    key = jax.random.key(stream_seed(5, "steps", task))
    for step, rate in enumerate(rates):
        batch = list(batches(step // STEPS, 0))[step % STEPS]
        settings = (NET, CONFIG.objective, CONFIG.optimizer)
        numbers = (jnp.float32(rate), key, jnp.int32(step))
        adaptation, momentum, _ = train_step(*settings, adaptation, momentum, state.frozen, start()[1], batch, *numbers)
    return adaptation, momentum


def same(one: Tree, other: Tree) -> bool:
    assert one.keys() == other.keys()
    return all(np.asarray(one[path]).tobytes() == np.asarray(other[path]).tobytes() for path in one)


@pytest.mark.parametrize("task", [0, 1])
def test_each_epoch_of_a_task_gets_its_rate_of_the_cosine(task: int) -> None:
    state, _ = start()
    trained = fit(state, task)
    assert same(trained, by_hand(state, task, RATES[task], fresh_momentum())[0])
    constant = [RATES[task][0]] * len(RATES[task])
    assert not same(trained, by_hand(state, task, constant, fresh_momentum())[0])
    assert not same(trained, by_hand(state, task, RATES[1 - task], fresh_momentum())[0])


def test_momentum_starts_afresh_in_each_task() -> None:
    """The second task repeats a twin without history to the bit; with the first task's momentum it would differ."""
    state, _ = start()
    state = state._replace(adaptation=fit(state, 0))
    momentum = by_hand(start()[0], 0, RATES[0], fresh_momentum())[1]
    assert all(np.abs(buffer).max() > 0 for buffer in jax.tree.leaves(momentum))
    stored: list[Tree] = []
    every_step = replace(CONFIG, compute=ComputeConfig(checkpoint_every_steps=1))
    fit(state, 1, every_step, save=lambda position, adaptation, momentum: stored.append(jax.device_get(adaptation)))
    assert same(stored[0], by_hand(state, 1, RATES[1][:1], fresh_momentum())[0])
    carried = by_hand(state, 1, RATES[1][:1], momentum)[0]
    assert all((stored[0][path] != carried[path]).any() for path in carried)


def test_a_task_taken_up_in_the_middle_ends_with_the_same_bits() -> None:
    state, _ = start()
    stored: dict[Position, tuple] = {}

    def save(position: Position, adaptation: Tree, momentum: Any) -> None:
        stored[position] = jax.tree.map(jnp.copy, (adaptation, jax.tree.leaves(momentum)))

    whole = fit(state, 1, save=save)
    ((position, (adaptation, leaves)),) = stored.items()
    assert position == Position(epoch=1, step_in_epoch=1, step=3)
    spoilt = state._replace(adaptation=jax.tree.map(jnp.zeros_like, state.adaptation))
    assert same(whole, fit(spoilt, 1, resume=(position, adaptation, leaves)))


def test_losses_are_told_in_order_once_and_before_the_state_they_led_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "FETCH_EVERY", 2)
    monkeypatch.setattr(fitting, "FETCH_LAG", 0)
    told: list[list[int] | Position] = []

    def tell(records: list[StepRecord]) -> None:
        told.append([record.step for record in records])

    fit(start()[0], 0, on_records=tell, save=lambda position, *_: told.append(position))
    assert told == [[0, 1], [2], Position(1, 1, 3), [3]]


def test_training_leaves_the_state_it_started_from_alone() -> None:
    state, _ = start()
    before = jax.device_get(state)
    fit(state, 0)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))
