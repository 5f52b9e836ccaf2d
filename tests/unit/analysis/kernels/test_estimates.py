"""Estimators against the dense float64 kernel: unbiased, with error bars that mean what they say."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from analysis.errors import FunctionError, PlanError
from analysis.kernels.density import SpectralDensity, spectral_density
from analysis.kernels.estimates import Estimate, frobenius_norm, kernel_trace
from analysis.kernels.products import KernelOperator
from tests.support.dense import dense_ntk, examples, mlp

SEEDS = range(50)
RIDGE = 0.1


@pytest.fixture(scope="module")
def dense():
    """A kernel of rank 75 in 120 dimensions."""
    fn, params = mlp()
    theta = dense_ntk(fn, params, examples(40, (5,)))
    return theta.transpose(0, 2, 1, 3).reshape(120, 120)


@pytest.fixture(scope="module")
def operator():
    fn, params = mlp()
    return KernelOperator(fn, params, examples(40, (5,)))


def scores(estimates: list[Estimate], truth: float) -> np.ndarray:
    return np.array([(e.value - truth) / e.standard_error for e in estimates])


def four_sigma(probes: int) -> float:
    """As unlikely as four standard errors, for errors that are themselves estimated from a few probes."""
    return float(stats.t.isf(stats.norm.sf(4.0), probes - 1))


def assert_calibrated(estimates: list[Estimate], truth: float) -> None:
    z = scores(estimates, truth)
    assert np.abs(z).max() < four_sigma(estimates[0].probes)
    assert 0.7 <= z.std() <= 1.4
    assert abs(z.mean()) < 4 / np.sqrt(len(z))


@pytest.mark.parametrize("directions", [None, 0, 5])
def test_the_traces_error_bars_are_calibrated(dense, directions):
    op = aslinearoperator(dense)
    found = [kernel_trace(op, probes=16, seed=seed, directions=directions) for seed in SEEDS]
    assert_calibrated(found, np.trace(dense))


@pytest.mark.parametrize("directions", [None, 0, 5])
def test_the_norms_error_bars_are_calibrated(dense, directions):
    op = aslinearoperator(dense)
    found = [frobenius_norm(op, probes=16, seed=seed, directions=directions) for seed in SEEDS]
    assert_calibrated(found, np.linalg.norm(dense))


def test_the_densitys_error_bars_are_calibrated(dense):
    op, eigenvalues = aslinearoperator(dense), np.linalg.eigvalsh(dense)

    def share(s):
        return s / (s + RIDGE)

    densities = [spectral_density(op, probes=12, seed=seed, steps=40) for seed in SEEDS]
    assert_calibrated([d.trace_of(share) for d in densities], share(eigenvalues).sum())
    assert_calibrated([d.trace_of(lambda s: s) for d in densities], eigenvalues.sum())
    gap = np.argmax(np.diff(eigenvalues[-12:-2])) + len(eigenvalues) - 12  # nodes don't settle on inner eigenvalues
    place = np.array([eigenvalues[gap : gap + 2].mean()])
    shares = [Estimate(*(float(part[0]) for part in d.cumulative(place)), 12) for d in densities]
    assert_calibrated(shares, (gap + 1) / len(eigenvalues))


def test_deflation_beats_hutchinson_at_equal_products(dense):
    op, truth = aslinearoperator(dense), np.trace(dense)
    deflated, plain = (
        np.std([kernel_trace(op, probes=probes, seed=seed, directions=directions).value - truth for seed in SEEDS])
        for probes, directions in ((16, 16), (48, 0))
    )
    assert deflated < plain / 2


def test_enough_directions_leave_nothing_to_estimate(dense):
    found = kernel_trace(aslinearoperator(dense), probes=2, seed=0, directions=500)
    assert found.value == pytest.approx(np.trace(dense), rel=1e-12)
    assert found.standard_error < 1e-12 * found.value


def test_quadratures_with_every_step_integrate_polynomials_exactly(dense):
    op = aslinearoperator(dense)
    density = spectral_density(op, probes=3, seed=4, steps=120)
    signs = np.random.default_rng(4).choice([-1.0, 1.0], (120, 3))
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0, rtol=1e-12)
    power = dense
    for degree in range(1, 4):
        want = np.einsum("np,nm,mp->p", signs, power, signs) / 120
        np.testing.assert_allclose(np.sum(density.weights * density.nodes**degree, axis=1), want, rtol=1e-10)
        power = power @ dense


def test_the_density_integrates_to_the_cumulative_share(dense):
    density = spectral_density(aslinearoperator(dense), probes=4, seed=0)
    edges = np.linspace(-20, 1.2 * np.linalg.norm(dense, 2), 3001)
    values, errors = density.density(edges, width=0.05)
    assert values.shape == errors.shape == (3000,) and (values >= 0).all() and (errors >= 0).all()
    shares = np.cumsum(values * np.diff(edges))
    assert shares[-1] == pytest.approx(1.0, abs=1e-6)
    cumulative, _ = density.cumulative(edges[1:])
    assert np.abs(shares - cumulative).mean() < 2e-3


def test_a_kernel_of_low_rank_ends_lanczos_early():
    matrix = np.diag([3.0, 3.0, 0.0, 0.0])
    density = spectral_density(aslinearoperator(matrix), probes=2, seed=0, steps=4)
    assert density.trace_of(np.abs).value == pytest.approx(6.0)
    assert density.trace_of(lambda s: (s > 1.0) * 1.0).value == pytest.approx(2.0)


def test_estimates_of_an_operator_agree_with_the_dense_kernel(dense, operator):
    assert operator.diagonal().sum() == pytest.approx(np.trace(dense), rel=1e-6) and operator.products == 0
    for estimate, truth in ((kernel_trace, np.trace(dense)), (frobenius_norm, np.linalg.norm(dense))):
        before = operator.products
        found = estimate(operator, probes=6, seed=3)
        assert abs(found.value - truth) < 4 * found.standard_error + 1e-6 * truth and found.probes == 6
        assert operator.products - before == 18
    found = spectral_density(operator, probes=3, seed=1, steps=10).trace_of(lambda s: s**2)
    assert abs(found.value - np.linalg.norm(dense) ** 2) < 4 * found.standard_error


def test_rounding_is_part_of_the_error_bar():
    matrix = np.diag([1.0, 2.0])
    coarse = aslinearoperator(matrix)
    coarse.rounding = 1e-3
    assert kernel_trace(coarse, probes=2, seed=0).standard_error == pytest.approx(3e-3)


def test_equal_seeds_give_equal_bits_and_others_do_not(dense):
    op = aslinearoperator(dense)
    for estimate in (kernel_trace, frobenius_norm):
        assert estimate(op, probes=3, seed=5) == estimate(op, probes=3, seed=5)
        assert estimate(op, probes=3, seed=5) != estimate(op, probes=3, seed=6)
    first, again = (spectral_density(op, probes=3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.nodes, again.nodes)
    np.testing.assert_array_equal(first.weights, again.weights)


def test_meaningless_requests_are_refused(dense):
    op = aslinearoperator(dense)
    for estimate in (kernel_trace, frobenius_norm, spectral_density):
        with pytest.raises(PlanError, match="2 or more probes"):
            estimate(op, probes=1, seed=0)
    with pytest.raises(PlanError, match="directions"):
        kernel_trace(op, probes=2, seed=0, directions=-1)
    with pytest.raises(PlanError, match="steps"):
        spectral_density(op, probes=2, seed=0, steps=0)
    density = SpectralDensity(np.ones((2, 1)), np.ones((2, 1)), 3)
    for edges, width in ((np.array([0.0, 1.0]), 0.0), (np.array([1.0, 0.0]), 1.0)):
        with pytest.raises(PlanError, match="ascending edges"):
            density.density(edges, width)


def test_products_that_are_not_finite_are_refused():
    class Broken(LinearOperator):
        def _matvec(self, x):
            return x * np.nan

    for estimate in (kernel_trace, frobenius_norm, spectral_density):
        with pytest.raises(FunctionError, match="finite products"):
            estimate(Broken(np.float64, (4, 4)), probes=2, seed=0)
