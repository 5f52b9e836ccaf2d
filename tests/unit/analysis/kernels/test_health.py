"""Healthy kernels pass the gate with small figures; each way of being wrong is refused with its reason."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis.errors import HealthError
from analysis.kernels import health
from analysis.kernels.functions import as_partial, inspect
from analysis.kernels.jacobian import products
from analysis.kernels.tiled import RowSource
from tests.support.dense import attention_net, dense_ntk, examples, mlp, reduced

OUTPUTS = ("full", "trace", "diagonal", "pseudo")


def source(apply_fn: Callable, params: dict, x: np.ndarray, outputs: str) -> RowSource:
    return RowSource(as_partial(apply_fn), params, inspect(apply_fn, params, x), 4, outputs == "pseudo")


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_right_kernel_is_healthy(outputs: str) -> None:
    apply_fn, params = attention_net()
    x = examples(5, (8, 8, 1))
    kernel = reduced(dense_ntk(apply_fn, params, x), outputs)
    found = health.check_kernel(kernel, source(apply_fn, params, x, outputs), x, outputs=outputs)
    assert found.reason == ""
    found.require("kernel")
    assert found.recomputation_error < 1e-12
    assert found.symmetry_error < 1e-6
    assert -1e-12 < found.smallest_eigenvalue < 1
    assert found.to_json()["recomputed"] == list(found.recomputed)


def broken(kernel: np.ndarray, how: str) -> np.ndarray:
    kernel = kernel.copy()
    if how == "scaled":
        kernel *= 1.001
    elif how == "asymmetric":
        kernel[0, 1] += 0.01 * np.abs(kernel).max()
    elif how == "indefinite":
        kernel[np.arange(len(kernel)), np.arange(len(kernel))] *= 0
    elif how == "nan":
        kernel[1, 2] = np.nan
    else:
        kernel *= 0
    return kernel


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("scaled", "float64 recomputation"),
        ("asymmetric", "asymmetry"),
        ("indefinite", "smallest eigenvalue"),
        ("nan", "NaN"),
        ("zero", "no parameter has a gradient"),
    ],
)
def test_a_wrong_kernel_is_refused(outputs: str, how: str, words: str) -> None:
    apply_fn, params = mlp()
    x = examples(4, (5,))
    kernel = broken(reduced(dense_ntk(apply_fn, params, x), outputs), how)
    found = health.check_kernel(kernel, source(apply_fn, params, x, outputs), x, outputs=outputs)
    with pytest.raises(HealthError, match=words):
        found.require("kernel")


def test_both_ends_of_a_large_spectrum_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((80, 80)))[0]
    matrix = q @ np.diag(np.linspace(-2.0, 8.0, 80)) @ q.T
    dense = health.smallest_over_largest(matrix)
    monkeypatch.setattr(health, "DENSE_EIGENVALUES", 10)
    assert dense == pytest.approx(-0.25, rel=1e-9)
    assert health.smallest_over_largest(matrix) == pytest.approx(-0.25, rel=1e-4)


def test_the_same_float32_rows_give_a_positive_kernel_in_float64_sums_and_not_in_float32_sums() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 1, 400)) * np.arange(1, 401) ** -2.0
    rows = jnp.asarray(rows, jnp.float32)
    double, single = (
        health.smallest_over_largest(np.asarray(products((rows,), (rows,), "trace", precision)[0], np.float64))
        for precision in ("float64", "float32")
    )
    assert single < -1e-9 < 0 < double


def test_the_recomputation_is_in_float64() -> None:
    fn = Partial(
        lambda p, x: jnp.sin(x * p),
    )
    block = health.dense_block(fn, jnp.float32(0.3) * jnp.ones(2), np.ones((1, 2), np.float32), "full")
    assert block.dtype == np.float64
    assert block[0, 0, 0, 0] == pytest.approx(np.cos(float(np.float32(0.3))) ** 2, rel=1e-14)
