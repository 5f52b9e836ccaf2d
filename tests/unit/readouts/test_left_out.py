"""Left-out images: exactly those that a classifier without them would have scored; and what is advised of them."""

import numpy as np
import pytest

from analysis.theory.leave_one_out import choose_ridge, leave_one_out
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.readouts.group_ridge import GroupRidge
from ntkcl_jax.readouts.layup import LayUP
from ntkcl_jax.readouts.left_out import RIDGES, LeftOut, advised, best_of, left_out, spread
from ntkcl_jax.readouts.multilevel import CANDIDATES, MultiLevel
from ntkcl_jax.readouts.prototypes import Prototypes
from ntkcl_jax.readouts.ranpac import RanPAC
from ntkcl_jax.readouts.ridge import Ridge


def task(spread_of: float = 1.0, images: int = 21, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three classes, whose numbers aren't 0, 1, 2."""
    rng = np.random.default_rng(0)
    labels = np.array([4, 1, 9])[np.arange(images) % 3]
    return rng.normal(size=(10, width))[labels] + spread_of * rng.normal(size=(images, width)), labels


def scores_without(x: np.ndarray, labels: np.ndarray, image: int, ridge: float) -> np.ndarray:
    """Scores of one image by ridge regression on all others, in its parameters."""
    rest = np.arange(len(x)) != image
    wanted = (labels[rest, None] == np.unique(labels)).astype(float)
    weights = np.linalg.solve(x[rest].T @ x[rest] + ridge * np.eye(x.shape[1]), x[rest].T @ wanted)
    return x[image] @ weights


@pytest.mark.parametrize("factor", [1.0, 1e3])
def test_an_image_is_scored_as_by_a_classifier_without_it(factor: float) -> None:
    x, labels = task(2.0)
    x = factor * x  # ridges are in units of the kernel, so that its scale doesn't matter
    found = left_out(x @ x.T, labels)
    known, scale = np.unique(labels), np.square(x).sum(axis=1).mean()
    wanted = (labels[:, None] == known).astype(float)
    errors = {}
    for ridge in RIDGES:
        scores = np.stack([scores_without(x, labels, i, ridge * scale) for i in range(len(x))])
        errors[ridge] = np.square(wanted - scores).sum(axis=1)
        if ridge == found.ridge:
            np.testing.assert_array_equal(found.right, known[scores.argmax(axis=1)] == labels)
    assert found.ridge == min(errors, key=lambda ridge: errors[ridge].mean())
    np.testing.assert_allclose(found.errors, errors[found.ridge], rtol=1e-9)
    assert 0 < found.accuracy < 1


def test_the_error_is_theorys() -> None:
    x, labels = task()
    kernel, wanted = x @ x.T, (labels[:, None] == np.unique(labels)).astype(float)
    found = left_out(kernel, labels)
    assert found.error == pytest.approx(
        leave_one_out(kernel, wanted, found.ridge * np.trace(kernel) / len(x)), rel=1e-9
    )
    assert choose_ridge(kernel, wanted, fractions=RIDGES).fraction == found.ridge


def test_a_kernel_of_nothing_tells_nothing() -> None:
    found = left_out(np.zeros((6, 6)), np.repeat([0, 1], 3))
    assert (found.error, found.right.tolist()) == (1, [True] * 3 + [False] * 3)


def test_of_several_kernels_the_least_error_counts() -> None:
    x, labels = task()
    noise = np.random.default_rng(1).normal(size=x.shape)
    both = [y @ y.T for y in (noise, x, 5 * noise)]
    assert best_of(iter(both), labels).error == left_out(both[1], labels).error < left_out(both[0], labels).error


def test_spread_takes_every_class_alike_and_no_image_twice() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 40))
    places = spread(labels, 50)
    assert len(np.unique(places)) == 50 and (np.diff(places) > 0).all()
    assert np.abs(np.bincount(labels[places]) - 10).max() <= 1
    np.testing.assert_array_equal(spread(labels, 1000), np.arange(200))


def test_advice_is_the_first_that_is_no_worse_than_chance_allows() -> None:
    hard, own = np.random.default_rng(0).uniform(0, 20, 100), np.tile([0.1, -0.1], 50)

    def readout(worse: float, sign: int = 1) -> LeftOut:
        # What is hard for one is hard for all; differences of two have the standard error 0.02, or none
        return LeftOut(0.1, hard + worse + sign * own, np.ones(100, bool))

    def of(cheap: float, middle: float, dear: float) -> str:
        return advised({"cheap": readout(cheap), "middle": readout(middle), "dear": readout(dear, -1)})

    assert readout(0).errors.std() / 10 > 0.3  # unpaired, nothing here could be told apart
    assert of(0.021, 0.021, 0.0) == "dear"
    assert of(0.021, 0.019, 0.0) == "middle"
    assert of(0.019, 0.0, -1e-4) == "cheap"
    assert of(0.001, 0.0, 0.5) == "middle"


BACKBONE = BackboneConfig(image_size=8, patch_size=4, dim=5, depth=8, heads=1)


def test_kernels_are_those_of_the_rows_that_each_ridge_regression_sees() -> None:
    x = np.random.default_rng(0).normal(size=(7, 30)).astype(np.float32)
    ridge, ranpac = Ridge(30, 3, seed=0), RanPAC(30, 3, seed=0, random_features=11)
    layup = LayUP(30, 3, seed=0, backbone=BACKBONE)
    for readout, width in ((ridge, 31), (ranpac, 11), (layup, 30)):
        (kernel,) = readout.kernels(x)
        rows = readout.expand(x).astype(np.float64)
        assert (rows.shape, kernel.dtype) == ((7, width), np.float64)
        assert readout.inputs == width
        np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-12)
    assert list(Prototypes(30, 3, seed=0).kernels(x)) == []


def test_multilevels_kernels_are_those_of_its_weighted_groups() -> None:
    """Left-out images by its kernels and by what it learns in the first task: the same."""
    x, labels = task(2.0)
    labels = np.searchsorted(np.unique(labels), labels)
    readout = MultiLevel(BACKBONE.dim, 3, 0, backbone=BACKBONE, widths=(8, 6, 9, 7))
    kernels = list(readout.kernels(x))
    assert (len(kernels), readout.inputs) == (len(CANDIDATES), 30)
    learnt = GroupRidge.empty(readout.widths, 3, CANDIDATES).learn(x[:, None], labels, seen=3)
    for weights, kernel in zip(CANDIDATES, kernels, strict=True):
        rows = x * np.repeat(np.array(weights) / learnt.norms, readout.widths)
        np.testing.assert_allclose(kernel, rows @ rows.T, atol=1e-12)
        assert np.trace(kernel) / len(x) == pytest.approx(np.square(weights).sum())


def test_a_group_that_is_all_zero_counts_for_nothing() -> None:
    readout = MultiLevel(BACKBONE.dim, 3, 0, backbone=BACKBONE, widths=(1, 1, 1, 1))
    x = np.array([[0.0, 1, 2, 3], [0, 1, 1, 1]])
    assert all(np.isfinite(kernel).all() for kernel in readout.kernels(x))
