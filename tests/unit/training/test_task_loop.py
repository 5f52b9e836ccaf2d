"""Training of one task: the rate of each epoch, fresh moments, and what is reported meanwhile."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ComputeConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.errors import NonFiniteError
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.models.functional import Tree
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training import task_loop
from ntkcl_jax.training.step import TrainState, train_step
from ntkcl_jax.training.task_loop import Fitted, Position, Resume, fit_task
from tests.support import networks as tiny

CONFIG = RunConfig(
    model=tiny.SHALLOW,
    objective=ObjectiveConfig(lambda_reg=0.1, orthogonality_rank=3),
    optimizer=OptimizerConfig(learning_rate=0.2, later_learning_rate=0.04, batch_size=4, weight_decay=0.01, epochs=2),
    compute=ComputeConfig(checkpoint_every_steps=3),
)
LEARNER = tiny.ntkcl(objective=CONFIG.objective, batch_size=4, classes_per_task=2)
SCENARIO = Scenario(class_order=tuple(range(5)), task_sizes=(3, 2))
RECIPE = LEARNER.recipe_of(CONFIG)
STEPS = 2
"""Batches of an epoch."""
RATES = {0: [0.2, 0.2, 0.1, 0.1], 1: [0.04, 0.04, 0.02, 0.02]}
"""Rate of each step by hand: a cosine over two epochs is 1, then 1/2; later tasks start lower."""


def batches(task: int, epoch: int, first: int) -> Iterator[Batch]:
    for at in range(first, STEPS):
        images = np.random.default_rng([epoch, at]).integers(0, 256, (4, 8, 8, 3), np.uint8)
        yield Batch(images, 3 * task + np.array([0, 1, 1, 0], np.int32), np.array([True] * 4))


def fit(state: LearnerState, task: int, config: RunConfig = CONFIG, **more: Any) -> Iterator[Fitted]:
    feed = functools.partial(batches, task)
    return fit_task(LEARNER, config, SCENARIO, state, feed, task=task, seed=5, steps_in_epoch=STEPS, **more)


def trained(state: LearnerState, task: int, **more: Any) -> Tree:
    """What the last report holds."""
    return [*fit(state, task, **more)][-1].state.trainable


def fresh() -> Any:
    """Moments of nothing."""
    return RECIPE.transformation().init(tiny.ntkcl_state(LEARNER).trainable)


def by_hand(state: LearnerState, task: int, rates: list[float], moments: Any) -> TrainState:
    """The obvious twin: one `train_step` after the other, with these rates, from these moments."""
    carry = TrainState(*(jax.tree.map(jnp.copy, tree) for tree in (state.trainable, moments)), jnp.int32(0))
    arrays, key = Task.of(SCENARIO, task), jax.random.key(stream_seed(5, "steps", task))
    for step, rate in enumerate(rates):
        batch = list(batches(task, step // STEPS, 0))[step % STEPS]
        carry, _ = train_step(LEARNER, RECIPE.compiled, carry, state.frozen, arrays, batch, jnp.float32(rate), key)
    return carry


def same(one: Tree, other: Tree) -> bool:
    assert one.keys() == other.keys()
    return all(np.asarray(one[path]).tobytes() == np.asarray(other[path]).tobytes() for path in one)


@pytest.mark.parametrize("task", [0, 1])
def test_each_epoch_of_a_task_gets_its_rate_of_the_cosine(task: int) -> None:
    state = tiny.ntkcl_state(LEARNER)
    found = trained(state, task)
    assert same(found, by_hand(state, task, RATES[task], fresh()).trainable)
    constant = [RATES[task][0]] * len(RATES[task])
    assert not same(found, by_hand(state, task, constant, fresh()).trainable)
    assert not same(found, by_hand(state, task, RATES[1 - task], fresh()).trainable)


def test_rates_and_schedules_share_one_compiled_step() -> None:
    train_step.clear_cache()
    state = tiny.ntkcl_state(LEARNER)
    for task in (0, 1):
        trained(state, task)
    trained(state, 0, config=replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=0.01)))
    assert train_step._cache_size() == 1


def test_momentum_starts_afresh_in_each_task() -> None:
    """The second task repeats a twin without history to the bit; with the first task's momentum it would differ."""
    start = tiny.ntkcl_state(LEARNER)
    state = start.updated(trained(start, 0))
    momentum = by_hand(start, 0, RATES[0], fresh()).opt_state
    assert all(np.abs(buffer).max() > 0 for buffer in jax.tree.leaves(momentum))
    every_step = replace(CONFIG, compute=ComputeConfig(checkpoint_every_steps=1))
    first = jax.device_get(next(fit(state, 1, every_step)).state.trainable)
    assert same(first, by_hand(state, 1, RATES[1][:1], fresh()).trainable)
    carried = by_hand(state, 1, RATES[1][:1], momentum).trainable
    assert all((first[path] != carried[path]).any() for path in carried)


def test_a_task_taken_up_in_the_middle_ends_with_the_same_bits() -> None:
    state = tiny.ntkcl_state(LEARNER)
    stored: dict[Position, tuple] = {}
    for fitted in fit(state, 1):
        if fitted.due:
            stored[fitted.position] = jax.device_get((fitted.state.trainable, jax.tree.leaves(fitted.state.opt_state)))
        whole = fitted.state
    ((position, (trainable, leaves)),) = stored.items()
    assert position == Position(epoch=1, step_in_epoch=1, step=3)
    spoilt = state.updated({path: jnp.zeros_like(value) for path, value in state.trainable.items()})
    again = [*fit(spoilt, 1, resume=Resume(position, trainable, leaves))][-1]
    assert same(whole.trainable, again.state.trainable)
    for one, other in zip(*map(jax.tree.leaves, (whole.opt_state, again.state.opt_state)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.step == again.state.step == 4
    assert [record.step for record in again.records] == [3]


def test_losses_are_reported_in_order_once_and_up_to_each_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_loop, "FETCH_EVERY", 2)
    monkeypatch.setattr(task_loop, "FETCH_LAG", 0)
    reports = [(f.position, [r.step for r in f.records], f.due) for f in fit(tiny.ntkcl_state(LEARNER), 0)]
    assert reports == [
        (Position(1, 0, 2), [0, 1], False),
        (Position(1, 1, 3), [2], True),
        (Position(2, 0, 4), [3], False),
    ]


def test_some_steps_stay_in_flight_while_others_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_loop, "FETCH_EVERY", 1)
    monkeypatch.setattr(task_loop, "FETCH_LAG", 2)
    late = replace(CONFIG, compute=ComputeConfig(checkpoint_every_steps=100))
    reports = [(f.position.step, [r.step for r in f.records]) for f in fit(tiny.ntkcl_state(LEARNER), 0, late)]
    assert reports == [(3, [0]), (4, [1]), (4, [2, 3])]


def test_a_report_tells_the_terms_by_name_and_their_weighted_total() -> None:
    records = [r for f in fit(tiny.ntkcl_state(LEARNER), 1) for r in f.records]
    for record in records:
        assert list(record.terms) == [*LEARNER.terms, "total"]
        total = sum(LEARNER.weights.get(name, 1.0) * record.terms[name] for name in LEARNER.terms)
        assert record.terms["total"] == pytest.approx(total, rel=1e-5)
        assert 0 <= record.correct <= 4


def test_no_epoch_is_one_report_of_the_tree_as_it_was() -> None:
    state = tiny.ntkcl_state(LEARNER)
    (fitted,) = fit(state, 1, replace(CONFIG, optimizer=replace(CONFIG.optimizer, later_learning_rate=0.0)))
    assert (fitted.position, fitted.records, fitted.due) == (Position(), [], False)
    assert same(fitted.state.trainable, state.trainable)


def test_training_leaves_the_state_it_started_from_alone() -> None:
    state = tiny.ntkcl_state(LEARNER)
    before = jax.device_get(state)
    trained(state, 0)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_a_loss_or_parameter_that_is_not_finite_is_named() -> None:
    state = tiny.ntkcl_state(LEARNER)
    path = "current/adapters/0/up/kernel"
    spoilt = state.updated({path: state.trainable[path] * jnp.nan})
    with pytest.raises(NonFiniteError, match="loss term regularization is nan at step 0 of task 0; lower"):
        trained(spoilt, 0)
    with pytest.raises(NonFiniteError, match=f"{path} isn't finite at the end of task 1; lower"):
        trained(spoilt, 1, config=replace(CONFIG, optimizer=replace(CONFIG.optimizer, later_learning_rate=0.0)))
