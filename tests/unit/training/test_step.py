"""The compiled steps: draws, one compilation for all tasks, padding, predictions, features."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Task
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.methods.ntkcl_objective import TERMS
from ntkcl_jax.training.step import TrainState, eval_step, feature_step, train_step
from tests.support import networks as tiny

OBJECTIVE = ObjectiveConfig(lambda_dis=0.2, lambda_orth=0.1, lambda_reg=0.1, orthogonality_rank=3)
LEARNER = tiny.ntkcl(objective=OBJECTIVE, batch_size=4, classes_per_task=2)
CONFIG = RunConfig(
    model=tiny.SHALLOW, optimizer=OptimizerConfig(learning_rate=0.1, batch_size=4, weight_decay=0.01, epochs=3)
)
RECIPE = LEARNER.recipe_of(CONFIG).compiled


def task_of(offset: int, size: int) -> Task:
    classes = jnp.arange(5)
    return Task(jnp.int32(offset > 0), (classes >= offset) & (classes < offset + size))


def batch(labels: list[int], valid: list[bool] | None = None, seed: int = 0) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return Batch(images, np.array(labels, np.int32), np.array(valid or [True] * len(labels)))


def start(step: int = 0) -> TrainState:
    """A fresh copy of the parameters (the step donates what it is given) and an empty momentum."""
    trainable = jax.tree.map(jnp.copy, tiny.ntkcl_state(LEARNER).trainable)
    return TrainState(trainable, RECIPE.transformation().init(trainable), jnp.int32(step))


def train(task: Task, images: Batch, step: int = 0, rate: float = 0.1, seed: int = 0) -> tuple:
    frozen, key = tiny.ntkcl_state(LEARNER).frozen, jax.random.key(seed)
    return train_step(LEARNER, RECIPE, start(step), frozen, task, images, jnp.float32(rate), key)


def test_one_compilation_serves_all_tasks_steps_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    traces, loss = [], NTKCL.loss

    def counted(*args: Any) -> Any:
        traces.append(args)
        return loss(*args)

    monkeypatch.setattr(NTKCL, "loss", counted)
    train_step.clear_cache()
    results = []
    for t, (offset, size) in enumerate([(0, 3), (3, 2), (2, 1)]):
        for step in range(2):
            images = batch([offset, offset, offset + size - 1, offset], seed=10 * t + step)
            results.append(train(task_of(offset, size), images, step, rate=0.1 / (1 + t), seed=t)[1])
    assert len(traces) == train_step._cache_size() == 1
    assert len({float(r.terms[-1]) for r in results}) == len(results)


def test_a_step_repeats_from_its_key_and_number_alone_and_differs_from_the_next() -> None:
    """Dropout and drawn prototypes follow (key, step)."""
    task, images = task_of(3, 2), batch([3, 3, 4, 4])
    first, again = train(task, images), train(task, images)
    later, other = train(task, images, step=1), train(task, images, seed=1)
    for path in first[0].trainable:
        np.testing.assert_array_equal(first[0].trainable[path], again[0].trainable[path])
    np.testing.assert_array_equal(first[1].terms, again[1].terms)
    assert float(later[1].terms[-1]) != float(first[1].terms[-1]) != float(other[1].terms[-1])


def test_a_step_changes_the_trainable_tree_and_leaves_everything_else_alone() -> None:
    frozen = tiny.ntkcl_state(LEARNER).frozen
    before, given = jax.device_get(frozen), start().trainable
    state, result = train_step(
        LEARNER, RECIPE, start(4), frozen, task_of(0, 3), batch([0, 1, 2, 2]), jnp.float32(0.1), jax.random.key(0)
    )
    assert set(state.trainable) == set(given)
    assert all(not np.array_equal(state.trainable[path], given[path]) for path in given)  # decay moves dead ones too
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))
    assert state.step == 5
    assert result.terms.shape == (len(TERMS) + 1,)
    weights = np.array([1, 1, 1, OBJECTIVE.lambda_dis, OBJECTIVE.lambda_orth, OBJECTIVE.lambda_reg])
    np.testing.assert_allclose(result.terms[-1], weights @ np.asarray(result.terms[:-1]), rtol=1e-5)


def test_an_update_is_the_rate_times_what_the_recipe_makes_of_the_gradient() -> None:
    """Plain SGD with decay from an empty momentum, the gradient by the loss alone."""
    (trainable, frozen), task, images = tiny.ntkcl_state(LEARNER), task_of(3, 2), batch([3, 3, 4, 4])
    key = jax.random.fold_in(jax.random.key(0), 2)
    pixels = Batch(*map(jnp.asarray, (images.images / np.float32(255), images.labels, images.valid)))

    @functools.partial(jax.jit, compiler_options=tiny.QUICKLY)
    def gradient(trainable: Any) -> Any:
        def loss(trainable: Any) -> Any:
            terms, _ = LEARNER.loss(trainable, frozen, task, pixels, key)
            return sum(LEARNER.weights.get(name, 1.0) * terms[name] for name in LEARNER.terms)

        return jax.grad(loss)(trainable)

    found, slope = train(task, images, step=2, rate=0.3)[0], gradient(trainable)
    for path, value in trainable.items():
        expected = value - 0.3 * (slope[path] + 0.01 * value)
        np.testing.assert_allclose(found.trainable[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_padded_batch_updates_like_its_valid_rows_alone() -> None:
    """Without dropout, which draws for padded rows too."""
    dry = tiny.ntkcl(tiny.DRY, objective=OBJECTIVE, batch_size=4, classes_per_task=2)
    step = jax.jit(
        train_step.__wrapped__, static_argnames=("learner", "recipe", "sharding"), compiler_options=tiny.QUICKLY
    )
    full = batch([3, 3, 4, 3, 0, 1], [True] * 4 + [False] * 2)
    alone = Batch(*(x[:4] for x in full[:3]))
    rest = (jnp.float32(0.1), jax.random.key(0))
    frozen = tiny.ntkcl_state(dry).frozen
    padded, short = (step(dry, RECIPE, start(), frozen, task_of(3, 2), b, *rest) for b in (full, alone))
    np.testing.assert_allclose(padded[1].terms, short[1].terms, rtol=1e-5)
    assert padded[1].correct == short[1].correct
    for path, value in short[0].trainable.items():
        np.testing.assert_allclose(padded[0].trainable[path], value, atol=2e-5, err_msg=path)


def test_right_answers_are_counted_among_the_tasks_own_classes_before_the_update() -> None:
    images = batch([3, 4, 4, 3, 0], [True] * 4 + [False])
    dry = tiny.ntkcl(tiny.DRY, objective=OBJECTIVE, batch_size=4, classes_per_task=2)
    trainable, frozen = tiny.ntkcl_state(dry)
    proxy = np.asarray(tiny.scores(dry.network, trainable, frozen, images.images / np.float32(255))[1])
    wanted = int(np.sum((3 + proxy[:4, :2].argmax(axis=1)) == images.labels[:4]))
    _, result = train_step(dry, RECIPE, start(), frozen, task_of(3, 2), images, jnp.float32(0.1), jax.random.key(0))
    assert result.correct == wanted


def test_predictions_are_the_best_scores_overall_within_the_true_task_and_among_old_classes() -> None:
    trainable, frozen = tiny.ntkcl_state(LEARNER)
    images = batch([0, 3, 1, 2])
    scores = np.asarray(tiny.scores(LEARNER.network, trainable, frozen, images.images / np.float32(255))[0])
    task_of_class = jnp.array([0, 0, 1, 1, 1])
    made = eval_step(LEARNER, trainable, frozen, images, task_of_class, task_of_class < 1)
    np.testing.assert_array_equal(made.best, scores.argmax(axis=1))
    np.testing.assert_array_equal(made.top5, np.argsort(-scores, axis=1))
    own = [[0, 1], [2, 3, 4], [0, 1], [2, 3, 4]]
    np.testing.assert_array_equal(made.within_task, [c[np.argmax(row[c])] for c, row in zip(own, scores, strict=True)])
    np.testing.assert_array_equal(made.among_old, scores[:, :2].argmax(axis=1))


def test_features_for_readouts_are_the_hybrid_ones() -> None:
    trainable, frozen = tiny.ntkcl_state(LEARNER)
    images = batch([0, 3, 1, 2])
    hybrid = tiny.features(LEARNER.network, trainable, frozen, images.images / np.float32(255)).hybrid
    np.testing.assert_allclose(feature_step(LEARNER, trainable, frozen, images), hybrid, atol=1e-5)
