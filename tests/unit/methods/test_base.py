"""What learners share: recipes, padding, classes that haven't come, names."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import BaselineConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.data.affine import UNCHANGED
from ntkcl_jax.methods.adapters import AdapterTuning
from ntkcl_jax.methods.base import SEEN, UNSEEN, Recipe, Task, cross_entropy, pixels_of
from ntkcl_jax.training.step import TrainState, train_step
from tests.support import learners as small
from tests.support.networks import QUICKLY

LEARNER = small.learner(AdapterTuning, rank=3)


def updates(recipe: Recipe, start: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """Parameters after some updates by a recipe."""
    value = jnp.asarray(start)
    state = recipe.transformation().init({"x": value})
    for gradient in gradients:
        change, state = recipe.transformation().update({"x": jnp.asarray(gradient)}, state, {"x": value})
        value = value - rate * change["x"]
    return np.asarray(value)


def drawn() -> tuple[np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(0)
    return random.normal(size=4).astype(np.float32), [random.normal(size=4).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("momentum", [0.9, 0.6])
def test_sgd_is_momentum_after_clipping_and_coupled_decay(momentum: float) -> None:
    start, gradients = drawn()
    value, buffer = start.astype(np.float64), np.zeros(4)
    for gradient in gradients:
        clipped = gradient * min(1.0, 0.7 / np.linalg.norm(gradient))
        buffer = momentum * buffer + clipped + 0.1 * value
        value = value - 0.3 * buffer
    recipe = Recipe("sgd", 1.0, "constant", weight_decay=0.1, momentum=momentum, clip=0.7)
    np.testing.assert_allclose(updates(recipe, start, gradients, 0.3), value, rtol=1e-5)


def test_adam_divides_by_the_root_of_the_mean_square_and_corrects_both_means() -> None:
    start, gradients = drawn()
    value, mean, square = start.astype(np.float64), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(gradients, start=1):
        decayed = gradient + 0.1 * value
        mean = 0.9 * mean + 0.1 * decayed
        square = 0.999 * square + 0.001 * decayed**2
        value = value - 0.3 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    recipe = Recipe("adam", 1.0, "constant", weight_decay=0.1)
    np.testing.assert_allclose(updates(recipe, start, gradients, 0.3), value, rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [2.0, 2.0, 2.0]),
        ("cosine", [2.0, 1.5, 0.5]),
        ("quarter-cosine", [2.0, 2 * math.cos(math.radians(89.1) / 2), 2 * math.cos(math.radians(89.1))]),
    ],
)
def test_the_rate_of_every_epoch(schedule: str, rates: list[float]) -> None:
    recipe = Recipe("sgd", 2.0, schedule)  # ty: ignore[invalid-argument-type]
    assert [recipe.rate(epoch, 3) for epoch in range(3)] == pytest.approx(rates)
    assert recipe.rate(0, 1) == 2.0
    later = replace(recipe, later_learning_rate=0.5)
    assert [later.rate(epoch, 3) for epoch in range(3)] == pytest.approx(rates)
    assert [later.rate(epoch, 3, task=2) for epoch in range(3)] == pytest.approx([rate / 4 for rate in rates])
    assert later.compiled == recipe.compiled == replace(recipe, learning_rate=0.0, schedule="constant")


@pytest.mark.parametrize("rate", [None, 0.7])
def test_a_learner_trains_as_published_unless_the_run_names_a_rate_or_epochs(rate: float | None) -> None:
    plain = RunConfig(optimizer=OptimizerConfig(epochs=4), baselines=BaselineConfig(learning_rate=rate))
    wanted = LEARNER.recipe if rate is None else replace(LEARNER.recipe, learning_rate=rate)
    assert LEARNER.recipe_of(plain) == wanted
    assert LEARNER.epochs_of(plain, 1) == 4
    assert LEARNER.epochs_of(replace(plain, baselines=BaselineConfig(epochs=0)), 1) == 0


def test_bytes_become_pixels_from_0_to_1_and_views_are_made() -> None:
    images = small.batch([0, 1])
    np.testing.assert_allclose(pixels_of(images, 8), images.images / 255.0, atol=1e-7)
    boxes = np.array([[0, 0, 8, 8], [0, 0, 8, 8]], np.float32)
    cropped = pixels_of(images._replace(boxes=boxes, flips=np.array([False, True])), 8)
    np.testing.assert_allclose(cropped[0], images.images[0] / 255.0, atol=0.003)  # rounded to bytes and back
    np.testing.assert_allclose(cropped[1], images.images[1, :, ::-1] / 255.0, atol=0.003)
    maps = np.array([UNCHANGED, (1, 0, 3, 0, 1, 0)], np.float32)
    seen = pixels_of(images._replace(warps=maps, flips=np.array([True, False])), 8)
    np.testing.assert_allclose(seen[0], images.images[0, :, ::-1] / 255.0, atol=0.003)
    np.testing.assert_allclose(seen[1, :, :5], images.images[1, :, 3:] / 255.0, atol=0.003)


def test_a_task_is_its_number_and_its_classes() -> None:
    scenario = Scenario(class_order=(3, 0, 1, 4, 2), task_sizes=(2, 2, 1))
    for number, classes in enumerate(small.CLASSES_OF):
        found = Task.of(scenario, number)
        assert found.number == number
        assert np.flatnonzero(found.new).tolist() == list(classes)
        assert (found.offset, found.size) == (classes[0], len(classes))


def test_a_state_keeps_what_it_is_not_given_and_a_start_has_the_shapes_of_every_checkpoint() -> None:
    state = small.start(LEARNER)
    changed = state.updated({"head/bias": jnp.ones(5)}, {SEEN: jnp.ones(5, bool)})
    assert changed.trainable["head/bias"].tolist() == [1] * 5
    assert changed.frozen.buffers[SEEN].all()
    assert not state.frozen.buffers[SEEN].any()
    assert changed.trainable["head/kernel"] is state.trainable["head/kernel"]
    assert changed.frozen.backbone is state.frozen.backbone
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), LEARNER.shapes())
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), changed.stored)


def test_padded_rows_change_nothing() -> None:
    step = jax.jit(train_step.__wrapped__, static_argnames=("learner", "recipe", "sharding"), compiler_options=QUICKLY)
    images = small.batch([2, 3, 2]).images
    kinds = []
    for garbage, label in ((0, 0), (255, 4)):
        rows = np.concatenate([images, np.full((2, 8, 8, 3), garbage, np.uint8)])
        kinds.append(Batch(rows, np.array([2, 3, 2, label, label]), np.array([True] * 3 + [False] * 2)))
    kinds.append(small.batch([2, 3, 2]))
    results = []
    for batch in kinds:
        trainable, frozen = small.start(LEARNER)
        state = TrainState(trainable, LEARNER.recipe.transformation().init(trainable), jnp.int32(0))
        rest = (frozen, small.task(1), batch, jnp.float32(0.1), jax.random.key(0))
        results.append(step(LEARNER, LEARNER.recipe, state, *rest))
    (one, losses), (other, same), (alone, unpadded) = [(state.trainable, result) for state, result in results]
    assert all(np.asarray(one[path]).tobytes() == np.asarray(other[path]).tobytes() for path in one)
    assert losses.terms.tolist() == same.terms.tolist()
    np.testing.assert_allclose(losses.terms, unpadded.terms, rtol=1e-5)
    assert losses.correct == same.correct == unpadded.correct
    for path in one:
        np.testing.assert_allclose(one[path], alone[path], rtol=1e-4, atol=1e-6)


def test_the_cross_entropy_is_that_of_valid_rows_over_allowed_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    labels, valid = np.array([1, 2, 4, 1]), np.array([True, True, False, True])
    allowed = jnp.array([False, True, True, False, False])
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid), allowed)
    np.testing.assert_allclose(found, small.log_loss(logits[valid], labels[valid], (1, 2)), rtol=1e-6)


def test_classes_that_have_not_come_get_the_lowest_score() -> None:
    images, _ = small.pixels(small.views(0))
    trainable, frozen = small.learnt(LEARNER, small.start(LEARNER), range(2))
    scores = np.asarray(small.apply(LEARNER, trainable, frozen, images))
    assert np.all(scores[:, 4] == UNSEEN)
    assert np.all(np.abs(scores[:, :4]) < 1000)
    assert small.apply(LEARNER, trainable, frozen, images, "features").shape == (len(images), small.BACKBONE.dim)
    with pytest.raises(ValueError, match="scores, features"):
        LEARNER.apply_fn(trainable, frozen, jnp.asarray(images), "proxy")
