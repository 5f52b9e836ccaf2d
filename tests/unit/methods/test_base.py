"""What the baselines inside the backbone share: recipes, padding, classes that haven't come, names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config.methods import METHODS, TUNED_METHODS
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.adapters import AdapterTuning
from ntkcl_jax.methods.base import UNSEEN, Recipe, cross_entropy, tuned_step
from ntkcl_jax.methods.registry import TUNED
from tests.support import learners as small
from tests.support.networks import QUICKLY

NET = small.method(AdapterTuning, rank=3)


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


def test_sgd_is_momentum_after_clipping_and_coupled_decay() -> None:
    start, gradients = drawn()
    value, buffer = start.astype(np.float64), np.zeros(4)
    for gradient in gradients:
        clipped = gradient * min(1.0, 0.7 / np.linalg.norm(gradient))
        buffer = 0.9 * buffer + clipped + 0.1 * value
        value = value - 0.3 * buffer
    recipe = Recipe("sgd", 1.0, "constant", weight_decay=0.1, clip=0.7)
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


def test_padded_rows_change_nothing() -> None:
    step = jax.jit(tuned_step.__wrapped__, static_argnums=(0, 1), compiler_options=QUICKLY)
    images = small.batch([2, 3, 2]).images
    kinds = []
    for garbage, label in ((0, 0), (255, 4)):
        rows = np.concatenate([images, np.full((2, 8, 8, 3), garbage, np.uint8)])
        kinds.append(Batch(rows, np.array([2, 3, 2, label, label]), np.array([True] * 3 + [False] * 2)))
    kinds.append(small.batch([2, 3, 2]))
    results = []
    for batch in kinds:
        trainable, held = small.start(NET)
        moments = NET.recipe.transformation().init(trainable)
        rest = (held, small.task(1), batch, jnp.float32(0.1), jax.random.key(0), jnp.int32(0))
        results.append(step(NET, NET.recipe, trainable, moments, *rest))
    (one, _, losses), (other, _, same), (alone, _, unpadded) = results
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
    trainable, held = small.start(NET)
    images, _ = small.pixels(small.views(0))
    trainable, held = small.learnt(NET, trainable, held, range(2))
    scores = np.asarray(small.apply(NET, trainable, held, images))
    assert np.all(scores[:, 4] == UNSEEN)
    assert np.all(np.abs(scores[:, :4]) < 1000)
    assert small.apply(NET, trainable, held, images, "features").shape == (len(images), small.BACKBONE.dim)
    with pytest.raises(ValueError, match="scores, features"):
        NET.apply_fn(trainable, held, images, "proxy")  # ty: ignore[invalid-argument-type]


def test_the_registry_holds_the_methods_that_a_config_may_name() -> None:
    assert tuple(TUNED) == TUNED_METHODS
    assert set(TUNED_METHODS) < set(METHODS)
    assert all(kind.name == name for name, kind in TUNED.items())
