"""Eigen-learning and finite-population curves: reference numbers, the second form, limits, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.finite_population import finite_population
from analysis.theory.learning_curves import effective_ridge, eigenlearning, population_modes
from analysis.theory.leave_one_out import gcv
from analysis.theory.modes import modes
from analysis.theory.subsets import subset_rest_errors
from tests.support.task_pairs import orthogonal

R = np.arange(1, 51)
ETA, POWER = R**-2.0, R**-2.5  # fixture F3
NEW = np.random.default_rng


def second_form(eta, power, samples, ridge):
    """t, h and the error by the second form (docs/theory.md, section 3.1), weights w̄² = c²/η; geometric bisection."""

    def sums(t):
        inverse = 1 / (1 / eta + samples / (ridge + t))
        return inverse.sum(), (inverse**2).sum(), (power / eta**2 * inverse**2).sum()

    low, high = -100.0, np.log(eta.sum())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sums(np.exp(middle))[0] > np.exp(middle) else (low, middle)
    t = np.exp((low + high) / 2)
    _, squares, error = sums(t)
    return t, squares, error / (1 - samples * squares / (ridge + t) ** 2)


def random_problem(rng, zeros=False):
    """A spectrum over many decades, a target, a number of samples and a ridge."""
    count = int(rng.integers(5, 200))
    eta = np.exp(rng.normal(0, rng.uniform(0.1, 4), count))
    if zeros:
        eta[rng.random(count) < 0.3] = 0.0
    return eta, rng.exponential(1, count), int(rng.integers(1, 2 * count)), float(np.exp(rng.uniform(-9, 3)))


@pytest.mark.parametrize(
    ("samples", "ridge", "kappa", "gamma", "error"),
    [
        (10, 0.1, 0.360483552554, 0.363466887460, 0.069236141220),
        (40, 0.01, 0.043332994172, 0.546127709451, 0.004159115733),
        (200, 1, 1.094097513549, 0.050196343198, 0.009917352859),
        (25, 0, 0.051765506441, 0.650811074266, 0.010849614507),
    ],
)
def test_fixture_f3_of_the_theory_is_reproduced(samples, ridge, kappa, gamma, error):
    point = eigenlearning(ETA, POWER, samples, ridge)
    assert effective_ridge(ETA, samples, ridge) == point.effective_ridge == pytest.approx(kappa, abs=1e-10)
    assert point.overfitting == pytest.approx(gamma, abs=1e-10)
    assert point.generalization_error == point.noisy_test_error == pytest.approx(error, abs=1e-10)


def test_label_noise_adds_what_is_fitted_of_it_and_then_itself():
    point = eigenlearning(ETA, POWER, 10, 0.1, noise=0.05)
    assert point.generalization_error == pytest.approx(0.097786650243, abs=1e-10)
    assert point.noisy_test_error == pytest.approx(0.147786650243, abs=1e-10)


def test_the_second_form_has_the_reference_numbers():
    t, squares, error = second_form(ETA, POWER, 10, 0.1)
    assert (t, squares, error) == pytest.approx((0.260483552554, 0.004723193745, 0.069236141220), abs=1e-10)


def test_both_forms_agree_on_300_random_spectra():
    rng = NEW(0)
    for _ in range(300):
        eta, power, samples, ridge = random_problem(rng)
        point = eigenlearning(eta, power, samples, ridge)
        t, _, error = second_form(eta, power, samples, ridge)
        assert point.effective_ridge == pytest.approx(ridge + t, rel=1e-10)
        assert point.generalization_error == pytest.approx(error, rel=1e-10)


def test_kappa_solves_its_equation_and_learnabilities_use_up_the_samples():
    rng = NEW(1)
    for _ in range(100):
        eta, power, samples, ridge = random_problem(rng, zeros=True)
        point = eigenlearning(eta, power, samples, ridge)
        kappa = point.effective_ridge
        assert kappa == pytest.approx(ridge + (kappa * eta / (kappa + samples * eta)).sum(), rel=1e-12)
        assert point.learnability.sum() + samples * ridge / kappa == pytest.approx(samples, rel=1e-12)
        assert point.overfitting == pytest.approx((samples * eta**2 / (kappa + samples * eta) ** 2).sum(), rel=1e-12)


def test_without_a_ridge_enough_samples_leave_what_cannot_be_learned():
    eta, power = np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.25])
    point = eigenlearning(eta, power, 4, 0.0)
    assert (point.effective_ridge, point.overfitting, point.generalization_error) == (0.0, 0.5, 0.5)
    assert point.learnability.tolist() == [1, 1, 0]
    assert eigenlearning(eta, power, 4, 1e-12).generalization_error == pytest.approx(0.5, rel=1e-9)
    assert eigenlearning(eta[:2], power[:2], 2, 0.0).generalization_error == 0.0
    assert eigenlearning(eta, power, 2, 0.0).generalization_error == np.inf  # the interpolation peak
    assert eigenlearning(eta[:2], power[:2], 2, 0.0, noise=0.1).noisy_test_error == np.inf


def test_a_kernel_of_nothing_learns_nothing():
    point = eigenlearning(np.zeros(3), np.ones(3), 5, 0.0)
    assert (point.effective_ridge, point.generalization_error) == (0.0, 3.0)
    assert finite_population(np.zeros(3), np.ones(3), 2, 0.5).unseen_error == 3.0


def test_samples_past_the_number_of_modes_are_welcome():
    assert eigenlearning(ETA, POWER, 5000, 1e-3).generalization_error < 1e-9


@pytest.mark.parametrize(
    ("samples", "ridge", "mu", "unseen", "train"),
    [
        (10, 0.1, 1.683684791586, 0.081849712960, 0.005221552526),
        (25, 0.1, 0.358660055539, 0.029765433289, 0.004448908522),
        (40, 0.01, 0.031755332907, 0.013118692420, 0.000173236380),
        (50, 0.1, 0.1, 0.014992597213, 0.003657693547),
    ],
)
def test_finite_population_numbers_of_the_theory_are_reproduced(samples, ridge, mu, unseen, train):
    point = finite_population(ETA, POWER, samples, ridge)
    assert point.effective_ridge == pytest.approx(mu, abs=1e-10)
    assert point.unseen_error == pytest.approx(unseen, abs=1e-10)
    assert point.train_error == pytest.approx(train, abs=1e-10)


def test_finite_population_solves_the_two_equations_as_they_are_written():
    rng = NEW(2)
    for _ in range(100):
        eta, power, samples, ridge = random_problem(rng, zeros=True)
        samples = min(samples, len(eta))
        point = finite_population(eta, power, samples, ridge)
        a, mu, e = samples / len(eta), point.effective_ridge, eta * len(eta)
        x = e / (e + mu)
        d, d2 = x.mean(), (x**2).mean()
        assert ridge * (1 - d) == pytest.approx(mu * (a - d), rel=1e-8, abs=1e-12)
        expected = (power * (1 - x) ** 2).sum() * a / (d**2 - d2 + a * (1 - 2 * d + d2))
        assert point.unseen_error == pytest.approx(expected, rel=1e-6)
        assert point.train_error == pytest.approx(expected * (1 - d / a) ** 2, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1, 10.0])
def test_the_whole_population_gives_exactly_gcv(ridge):
    rng = NEW(3)
    kernel = orthogonal(rng, 40)
    kernel = kernel * np.exp(rng.normal(0, 2, 40)) @ kernel.T
    target = rng.standard_normal((40, 3))
    whole = finite_population(*population_modes(modes(kernel), target), 40, ridge)
    assert whole.unseen_error == pytest.approx(gcv(kernel, target, ridge), rel=1e-12)
    assert whole.effective_ridge == ridge


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_vast_population_gives_eigenlearning(ridge):
    finite = finite_population(ETA, POWER, 10, ridge, population=10**7)
    curve = eigenlearning(ETA, POWER, 10, ridge)
    assert finite.unseen_error == pytest.approx(curve.generalization_error, rel=1e-5)
    assert finite.effective_ridge * 10 / 10**7 == pytest.approx(curve.effective_ridge, rel=1e-5)


def test_modes_that_are_not_listed_count_as_zeros():
    padded = [np.concatenate([values, np.zeros(30)]) for values in (ETA, POWER)]
    listed, counted = finite_population(*padded, 20, 0.1), finite_population(ETA, POWER, 20, 0.1, population=80)
    assert vars(listed) == pytest.approx(vars(counted), rel=1e-12)


def test_without_a_ridge_the_finite_population_is_the_limit_of_small_ones():
    for eta, power, samples in [
        (ETA, POWER, 25),
        (ETA, POWER, 50),
        (np.array([2.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.2, 0.1]), 3),
    ]:
        limit, small = (finite_population(eta, power, samples, ridge) for ridge in (0.0, 1e-12))
        assert limit.unseen_error == pytest.approx(small.unseen_error, rel=1e-8)
        assert limit.train_error == pytest.approx(small.train_error, rel=1e-8, abs=1e-18)
    peak = finite_population(np.array([2.0, 1.0, 0.0, 0.0]), np.ones(4), 2, 0.0)
    assert peak.unseen_error == np.inf


def test_free_eigenvectors_are_predicted_within_the_error_of_the_mean():
    rng = NEW(4)
    size, draws = 600, 24
    eta = np.arange(1, size + 1) ** -1.5
    power = np.arange(1, size + 1) ** -1.3
    for samples, ridge in [(60, 1e-3), (200, 0.3), (450, 1e-3)]:
        measured = []
        for seed in range(draws // 4):  # four subsets for each basis
            basis = orthogonal(rng, size)
            target = basis @ (np.sqrt(size * power) * rng.choice([-1, 1], size))
            kernel = basis * (size * eta) @ basis.T
            measured.append(subset_rest_errors(kernel, target, [samples], 4, seed, ridge).mean[0])
        error = np.std(measured, ddof=1) / np.sqrt(len(measured))
        predicted = finite_population(eta, power, samples, ridge).unseen_error
        assert abs(predicted / np.mean(measured) - 1) < 0.033
        assert abs(predicted - np.mean(measured)) < 4 * error
        if samples == 450:  # what the correction is for
            assert eigenlearning(eta, power, samples, ridge).generalization_error < 0.4 * np.mean(measured)


def test_population_modes_sum_outputs_and_keep_all_power():
    rng = NEW(5)
    root, target = rng.standard_normal((12, 12)), rng.standard_normal((12, 3))
    kernel = root @ root.T
    eta, power = population_modes(modes(kernel), target)
    each = [population_modes(modes(kernel), column)[1] for column in target.T]
    assert power == pytest.approx(np.sum(each, axis=0), rel=1e-12)
    assert power.sum() == pytest.approx((target**2).sum() / 12, rel=1e-12)
    assert eta.sum() == pytest.approx(kernel.trace() / 12, rel=1e-12)


def test_a_kernel_times_identity_over_outputs_gives_the_shared_kernels_curves():
    rng = NEW(6)
    root, target = rng.standard_normal((20, 8)), rng.standard_normal((20, 3))
    kernel = root @ root.T
    scalar, block = (
        population_modes(modes(kernel), target),
        population_modes(modes(np.kron(kernel, np.eye(3))), target.ravel(), outputs=3),
    )
    matrix = population_modes(modes(np.kron(kernel, np.eye(3))), target, outputs=3)
    assert (matrix[1] == block[1]).all()
    for samples, ridge in [(5, 0.1), (15, 2.0)]:
        one, three = (eigenlearning(*m, n * samples, ridge) for m, n in ((scalar, 1), (block, 3)))
        assert three.effective_ridge == pytest.approx(one.effective_ridge, rel=1e-12)
        assert three.overfitting == pytest.approx(one.overfitting, rel=1e-12)
        assert three.generalization_error == pytest.approx(one.generalization_error, rel=1e-12)
        finite = [finite_population(*m, n * samples, ridge).unseen_error for m, n in ((scalar, 1), (block, 3))]
        assert finite[1] == pytest.approx(finite[0], rel=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: eigenlearning(ETA, POWER, 0, 0.1),
        lambda: eigenlearning(ETA, POWER, 10, -0.1),
        lambda: eigenlearning(ETA, POWER, 10, 0.1, noise=-1),
        lambda: eigenlearning(ETA, POWER[:-1], 10, 0.1),
        lambda: eigenlearning(ETA, -POWER, 10, 0.1),
        lambda: eigenlearning(-ETA, POWER, 10, 0.1),
        lambda: effective_ridge(ETA, np.nan, 0.1),
        lambda: finite_population(ETA, POWER, 51, 0.1),
        lambda: finite_population(ETA, POWER, 10, 0.1, population=49),
        lambda: population_modes(modes(np.eye(4)), np.ones(3)),
        lambda: population_modes(modes(np.eye(4)), np.ones(4), outputs=3),
    ],
)
def test_what_means_nothing_is_refused(call):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        call()
    if caught.type is FunctionError:
        caught.match(r"expected .*(got|has)")


def test_the_table_in_the_docs_is_that_of_the_measured_points():
    from experiments.sweep.tables import markdown
    from experiments.theory_curves import table

    root = Path(__file__).parents[4]
    cases = json.loads((root / "experiments" / "results" / "theory_curves.json").read_text())["cases"]
    text = markdown(*table(cases))
    assert text in (root / "docs" / "theory.md").read_text()
