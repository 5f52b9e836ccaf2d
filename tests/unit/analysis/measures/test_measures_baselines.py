"""What chance gives: baselines of the ratio and of CKA against seeded Monte Carlo.

The standard error of every mean is measured, and four of them are allowed. The closed forms are ratios of expectations;
where the mean of a ratio is compared with one, it may differ by a stated part more.
"""

import numpy as np
import pytest

from analysis import measures as m
from tests.support.task_pairs import TaskPair, orthogonal, random_pair

JENSEN = 0.02  # measured: 0.2 % or less from 10 rows and 50 parameters on, 1 % for uneven gradients


def assert_mean_close(values, expected, relative=JENSEN):
    values = np.array(values)
    error = 4 * values.std(ddof=1) / np.sqrt(len(values))
    assert error < 0.05 * expected  # else the check means nothing
    assert values.mean() == pytest.approx(expected, abs=error + relative * expected)


def frobenius(j_t, j_k):
    return TaskPair(j_t, j_k).ratio


def population_participation(scale):
    """Of gradients with these standard deviations: (tr S)^2 / tr S^2."""
    return np.sum(scale**2) ** 2 / np.sum(scale**4)


def baseline(n, p):
    """Ratio of expectations that two tasks of n unrelated isotropic gradients in p dimensions reach."""
    return np.sqrt(n / (n + p + 1))


def floor(pair):
    """Ratio of two tasks of these spectra, turned at random."""
    spread = [m.participation_ratio(m.spectrum(kernel)) for kernel in pair.blocks[:2]]
    return m.random_orientation_ratio(*spread, pair.j_t.shape[1])


@pytest.mark.parametrize(("n", "p"), [(20, 50), (10, 400), (40, 200)])
def test_unrelated_isotropic_tasks_reach_both_baselines(n, p):
    rng = np.random.default_rng(n)
    pairs = [random_pair(rng, n, n, p) for _ in range(200)]
    measured = [pair.ratio for pair in pairs]
    assert_mean_close(measured, baseline(n, p))
    assert_mean_close(measured, np.mean([floor(pair) for pair in pairs]))


def test_tasks_of_different_sizes_reach_the_geometric_mean_of_their_baselines():
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, 6, 30, 40) for _ in range(300)]
    measured = [pair.ratio for pair in pairs]
    assert_mean_close(measured, np.sqrt(baseline(6, 40) * baseline(30, 40)))
    assert_mean_close(measured, np.mean([floor(pair) for pair in pairs]))


def test_uneven_gradients_reach_it_with_the_populations_participation_ratio_not_the_samples():
    rng, n, scale = np.random.default_rng(1), 20, np.arange(1.0, 301) ** -0.4
    pairs = [random_pair(rng, n, n, 300, decay=0.4) for _ in range(200)]
    measured = [frobenius(x.j_t, x.j_k) for x in pairs]
    effective = population_participation(scale)
    assert_mean_close(measured, baseline(n, effective))
    sample = np.array([m.participation_ratio(m.spectrum(x.blocks[0])) for x in pairs])
    assert sample.mean() < n < effective
    assert baseline(n, sample.mean()) > 1.3 * np.mean(measured)  # the mistake to avoid
    # What the docstring says of the sample's holds for the ratio of expectations, not for the expected ratio.
    traces, squares = np.array([(np.trace(a) ** 2, np.sum(a**2)) for a in (x.blocks[0] for x in pairs)]).T
    of_means, error = traces.mean() / squares.mean(), sample.std(ddof=1) / np.sqrt(len(sample))
    assert of_means == pytest.approx((n * effective + 2) / (n + effective + 1), abs=4 * error)


def test_samples_with_several_correlated_outputs_reach_what_one_kernel_foretells():
    rng, n, outputs, p, draws = np.random.default_rng(2), 12, 3, 60, 150
    scale = np.arange(1.0, p + 1) ** -0.3
    coupling = np.array([[1.0, 0.9, 0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 0.3]])

    def jacobian():  # a size for each sample (heavy tails), correlated outputs, a mean that all samples share
        sizes = rng.lognormal(sigma=0.3, size=(n, 1, 1))
        rows = coupling @ rng.standard_normal((n, outputs, p)) + 0.2
        return (sizes * rows * scale).reshape(n * outputs, p)

    pairs = [(jacobian(), jacobian()) for _ in range(draws)]
    foretold = np.array([m.same_population_ratio(j_t @ j_t.T, outputs) for j_t, _ in pairs])
    measured = [frobenius(*pair) for pair in pairs]
    assert_mean_close(measured, foretold.mean())
    as_if_rows_were_independent = np.mean([m.same_population_ratio(j_t @ j_t.T) for j_t, _ in pairs])
    assert as_if_rows_were_independent > 1.05 * np.mean(measured)  # outputs of a sample are no pair of samples


def test_one_kernel_foretells_the_baseline_of_gaussian_gradients():
    rng = np.random.default_rng(3)
    kernels = [random_pair(rng, 25, 25, 60).blocks[0] for _ in range(200)]
    assert_mean_close([m.same_population_ratio(kernel) for kernel in kernels], baseline(25, 60))


def test_spectra_turned_at_random_reach_the_ratio_of_their_participation():
    rng, p = np.random.default_rng(4), 40
    x = random_pair(rng, 8, 15, p, decay=1.0)
    a, b, _ = x.blocks
    expected = m.random_orientation_ratio(*(m.participation_ratio(m.spectrum(k)) for k in (a, b)), p)
    squares = [frobenius(x.j_t @ orthogonal(rng, p), x.j_k) ** 2 for _ in range(4000)]
    assert_mean_close(squares, expected**2, relative=0)  # exact in the mean square
    assert frobenius(x.j_t, x.j_k) > 2 * expected  # both lean on the same parameters


@pytest.mark.parametrize(("n", "p"), [(5, 7), (40, 9), (10, 1000)])
def test_both_baselines_agree_for_isotropic_gradients(n, p):
    sample = n * p / (n + p + 1)
    assert m.random_orientation_ratio(sample, sample, p) == pytest.approx(baseline(n, p), rel=1e-12)


@pytest.mark.parametrize(("n", "p"), [(20, 50), (10, 400)])
def test_debiased_cka_of_unrelated_kernels_is_near_zero(n, p):
    rng = np.random.default_rng(5)
    values = np.array([m.debiased_cka(*random_pair(rng, n, n, p).blocks[:2]) for _ in range(300)])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(len(values)) < 0.06
