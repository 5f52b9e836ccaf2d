"""Class means over batches, what is written where, and the running mean of the streams."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.data import Batch
from ntkcl_jax.errors import DataError
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import NTKCL, updated_mean, write_prototypes
from tests.support import networks as tiny

LEARNER = NTKCL(tiny.SHALLOW.backbone, tasks=2, classes=5, task_classes=3, model=tiny.SHALLOW)
NET = LEARNER.network


def batches(labels: list[list[int]], valid: list[list[bool]]) -> list[Batch]:
    return [
        Batch(tiny.images(4, seed=i), np.array(y, np.int32), np.array(v))
        for i, (y, v) in enumerate(zip(labels, valid, strict=True))
    ]


def test_class_means_are_means_of_hybrid_features_over_all_valid_rows() -> None:
    parts = batches([[2, 3, 3, 2], [3, 3, 0, 2]], [[True] * 4, [True, True, False, False]])
    parameters = tiny.randomised(NET)
    made = class_means(LEARNER, *parameters, iter(parts), offset=2, classes=2)
    hybrid = np.concatenate([np.asarray(tiny.features(NET, *parameters, b.images).hybrid, np.float64) for b in parts])
    expected = [hybrid[[0, 3]].mean(axis=0), hybrid[[1, 2, 4, 5]].mean(axis=0)]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_padding_that_overflows_does_not_reach_a_mean() -> None:
    (part,) = batches([[2, 3, 2, 3]], [[True, True, False, False]])
    clean = class_means(LEARNER, *tiny.randomised(NET), [part], offset=2, classes=2)
    part.images[2:] = np.nan
    np.testing.assert_array_equal(class_means(LEARNER, *tiny.randomised(NET), [part], offset=2, classes=2), clean)


def test_a_class_without_an_image_is_named() -> None:
    parts = batches([[2, 2, 4, 3]], [[True, True, True, False]])
    message = "class 3 has no training image, so it has no prototype"
    with pytest.raises(DataError, match=re.escape(message)):
        class_means(LEARNER, *tiny.randomised(NET), parts, offset=2, classes=3)


def test_writing_prototypes_touches_the_tasks_own_rows_only() -> None:
    _, frozen = tiny.randomised(NET)
    before = {**frozen.buffers, "prototypes/seen": jnp.array([True, False, False, False, False])}
    means = np.full((2, 16), 7, np.float32)
    changed = write_prototypes(before, means, offset=2)
    assert set(changed) == {"prototypes/kernel", "prototypes/seen"}
    after = before | changed
    kernel = np.asarray(before["prototypes/kernel"]).copy()
    kernel[2:4] = 7
    np.testing.assert_array_equal(after["prototypes/kernel"], kernel)
    np.testing.assert_array_equal(after["prototypes/seen"], [True, False, True, True, False])
    assert not before["prototypes/seen"][2]


def test_the_running_mean_is_the_mean_of_the_current_sets_whatever_it_started_from() -> None:
    rng = np.random.default_rng(0)
    currents = [rng.normal(size=(3, 2)).astype(np.float32) for _ in range(7)]
    mean = {"mean/adapters/0/up/kernel": jnp.full((3, 2), 1e30)}
    for t, current in enumerate(currents):
        trainable = {"current/adapters/0/up/kernel": jnp.asarray(current), "proxy/kernel": jnp.ones(1)}
        mean = updated_mean(mean, trainable, t)
        expected = np.mean(currents[: t + 1], axis=0)
        np.testing.assert_allclose(mean["mean/adapters/0/up/kernel"], expected, atol=1e-6)
    assert set(mean) == {"mean/adapters/0/up/kernel"}


def test_every_mean_variable_follows_its_own_current_variable() -> None:
    trainable, frozen = tiny.randomised(NET)
    after = jax.jit(updated_mean, static_argnums=2)(frozen.buffers, trainable, 0)
    assert set(after) == {path for path in frozen.buffers if path.startswith("mean/")}
    for path, value in after.items():
        np.testing.assert_array_equal(value, trainable[path.replace("mean/", "current/")])
