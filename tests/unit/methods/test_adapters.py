"""Sequential fine-tuning of adapters against the same computed token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.methods.adapters import AdapterTuning, adapted_feature
from tests.support import learners as small
from tests.support.networks import QUICKLY

LEARNER = small.learner(AdapterTuning, rank=3)


def test_the_feature_is_that_of_a_slow_twin() -> None:
    trainable, frozen = small.start(LEARNER)
    trainable = small.moved(trainable)
    images, _ = small.pixels(small.views(0))
    fast = small.apply(LEARNER, trainable, frozen, images, "features")
    np.testing.assert_allclose(fast, small.adapter_twin(frozen, trainable, images), rtol=2e-5, atol=2e-5)


def test_adapters_start_as_the_untouched_backbone() -> None:
    trainable, frozen = small.start(LEARNER)
    images, _ = small.pixels(small.views(0))
    assert all(np.any(trainable[path] != 0) == path.endswith("down") for path in trainable if "adapters" in path)
    fast = small.apply(LEARNER, trainable, frozen, images, "features")
    np.testing.assert_allclose(fast, small.adapter_twin(frozen, None, images), rtol=1e-5, atol=1e-5)


def test_dropout_in_the_adapters_needs_a_key_and_keeps_the_mean() -> None:
    trainable, frozen = small.start(LEARNER)
    trainable = small.moved(trainable, size=0.03)
    images, _ = small.pixels(small.views(0))

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def features(keys: jax.Array) -> jax.Array:
        return jax.lax.map(
            lambda key: adapted_feature(LEARNER.vit(frozen), trainable, jnp.asarray(images[:1]), key, 0.4), keys
        )

    dry = small.adapter_twin(frozen, trainable, images[:1])
    drawn = features(jax.random.split(jax.random.key(0), 400))
    assert np.unique(np.asarray(drawn), axis=0).shape[0] > 20
    spread = drawn.std(axis=0) / 20
    assert np.max(np.abs(drawn.mean(axis=0) - dry) / spread) < 5


def test_the_loss_is_the_cross_entropy_over_the_tasks_own_classes_and_its_gradient_that_of_finite_differences() -> None:
    with jax.enable_x64(True):
        learner = small.learner(AdapterTuning, rank=3, dtype="float64")
        trainable, frozen = small.widened(small.start(LEARNER))
        trainable = small.moved(trainable)
        images, labels = small.pixels(small.views(1))
        rest = (frozen, small.task(1), images.astype(np.float64), labels, np.ones(len(labels), bool), jax.random.key(0))
        (loss, logits), gradient = jax.tree.map(np.asarray, small.loss_and_gradient(learner, trainable, *rest))
        features = small.adapter_twin(frozen, trainable, images)
        slow = features @ np.asarray(trainable["head/kernel"]) + np.asarray(trainable["head/bias"])
        np.testing.assert_allclose(logits, slow, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(loss, small.log_loss(slow, labels, (2, 3)), rtol=1e-10)
        assert np.all(gradient["head/kernel"][:, [0, 1, 4]] == 0)
        assert np.all(gradient["head/kernel"][:, [2, 3]] != 0)
        for part in ("adapters/", "head/"):
            towards = {path: x * path.startswith(part) for path, x in small.moved(trainable, 1, 1.0).items()}
            at = [{path: x + step * towards[path] for path, x in trainable.items()} for step in (1e-5, -1e-5)]
            ends = [float(small.loss_and_gradient(learner, p, *rest)[0][0]) for p in at]
            slope = sum(np.vdot(gradient[path], towards[path]) for path in trainable)
            np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-6)
