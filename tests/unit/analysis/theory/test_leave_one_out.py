"""Leave-one-out and GCV against learning again without each sample; the choice of a ridge; what is refused."""

from itertools import combinations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.measures import absolute_ridge, spectrum
from analysis.theory.leave_one_out import (
    block_gcv,
    block_leave_one_out,
    choose_ridge,
    flat_gcv,
    gcv,
    leave_one_out,
    stored,
)
from analysis.theory.modes import modes

X = np.arange(20)
KERNEL = np.exp(-(np.subtract.outer(X, X) ** 2) / 18)  # fixture F5
TARGET = np.stack([np.sin(0.7 * X), np.cos(X**2)], axis=1)
A = np.arange(24)
JACOBIAN = np.cos(0.37 * np.outer(A + 1, np.arange(1, 31)))
BLOCK, RESIDUAL = JACOBIAN @ JACOBIAN.T, np.sin(A**2)
NEW = np.random.default_rng


def learned_without_each(kernel, residual, ridge, outputs):
    """Held-out residuals (n, outputs, columns) by solving n times, with one sample's rows deleted each time."""
    rows = len(kernel)
    columns = residual.reshape(rows, -1)
    out = []
    for i in range(rows // outputs):
        own = np.arange(i * outputs, (i + 1) * outputs)
        rest = np.setdiff1d(np.arange(rows), own)
        alpha = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(len(rest)), columns[rest])
        out.append(columns[own] - kernel[np.ix_(own, rest)] @ alpha)
    return np.array(out)


def random_kernel(rng, rows, rank):
    root = rng.standard_normal((rows, rank)) * np.arange(1, rank + 1) ** -0.7
    return root @ root.T


def test_fixture_f5_of_the_theory_is_reproduced():
    assert gcv(KERNEL, TARGET, 0.1) == pytest.approx(0.503274880669, abs=1e-10)
    assert leave_one_out(KERNEL, TARGET, 0.1) == pytest.approx(0.490829739603, abs=1e-10)
    assert block_leave_one_out(BLOCK, RESIDUAL, 0.5, 3) == pytest.approx(2.244550115344, abs=1e-10)
    assert block_gcv(BLOCK, RESIDUAL, 0.5, 3) == pytest.approx(2.597248277908, abs=1e-10)
    assert flat_gcv(BLOCK, RESIDUAL, 0.5, 3) == pytest.approx(2.660612339348, abs=1e-10)


def test_gcv_equals_kare_and_the_classical_form():
    n, ridge = 20, 0.1
    inverse = np.linalg.inv(KERNEL / n + ridge / n * np.eye(n))
    kare = np.trace(TARGET.T @ inverse @ inverse @ TARGET) / n / (np.trace(inverse) / n) ** 2
    hat = KERNEL @ np.linalg.inv(KERNEL + ridge * np.eye(n))
    classical = ((TARGET - hat @ TARGET) ** 2).sum() / n / (1 - np.trace(hat) / n) ** 2
    assert gcv(KERNEL, TARGET, ridge) == pytest.approx(kare, rel=1e-12)
    assert gcv(KERNEL, TARGET, ridge) == pytest.approx(classical, rel=1e-11)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("rank", [7, 90])
def test_leaving_one_out_equals_learning_again_without_it(outputs, ridge, rank):
    rng = NEW(outputs)
    kernel = random_kernel(rng, 12 * outputs, rank)
    residual = rng.standard_normal((12 * outputs, 3 if outputs == 1 else 1))
    slow = learned_without_each(kernel, residual, ridge, outputs)
    found = stored(kernel, residual, ridge, outputs)
    assert found.held_out() == pytest.approx(slow, rel=1e-10, abs=1e-10 * np.abs(slow).max())
    assert found.leave_one_out() == pytest.approx((slow**2).sum() / 12, rel=1e-10)


def test_leaving_out_a_sample_is_not_leaving_out_its_rows_one_by_one():
    rows = leave_one_out(BLOCK, RESIDUAL, 0.5) * 3
    assert abs(rows / block_leave_one_out(BLOCK, RESIDUAL, 0.5, 3) - 1) > 0.05


@pytest.mark.parametrize("block", [block_leave_one_out, block_gcv, flat_gcv])
def test_a_kernel_times_identity_over_outputs_gives_the_shared_kernels_errors(block):
    scalar = leave_one_out if block is block_leave_one_out else gcv
    matrix = block(np.kron(KERNEL, np.eye(2)), TARGET.ravel(), 0.1, 2)
    assert matrix == pytest.approx(scalar(KERNEL, TARGET, 0.1), rel=1e-12)


def test_residuals_may_be_a_row_for_each_sample_and_kernels_their_modes():
    plain = block_leave_one_out(BLOCK, RESIDUAL, 0.5, 3)
    assert block_leave_one_out(BLOCK, RESIDUAL.reshape(8, 3), 0.5, 3) == plain
    assert block_leave_one_out(modes(BLOCK), RESIDUAL, 0.5, 3) == plain


def test_one_output_makes_all_forms_of_gcv_the_same():
    values = [gcv(KERNEL, TARGET, 0.1), stored(KERNEL, TARGET, 0.1).flat_gcv()]
    assert values[0] == pytest.approx(values[1], rel=1e-13)


def test_without_a_ridge_a_regular_kernel_gives_the_limit_of_small_ones():
    kernel = random_kernel(NEW(0), 10, 40)
    target = NEW(1).standard_normal(10)
    assert leave_one_out(kernel, target, 0.0) == pytest.approx(leave_one_out(kernel, target, 1e-10), rel=1e-7)
    assert gcv(kernel, target, 0.0) == pytest.approx(gcv(kernel, target, 1e-10), rel=1e-7)
    slow = learned_without_each(kernel, target, 0.0, 1)
    assert leave_one_out(kernel, target, 0.0) == pytest.approx((slow**2).mean(), rel=1e-9)


def test_a_singular_kernel_is_right_down_to_tiny_ridges():
    rng = NEW(2)
    features = rng.standard_normal((30, 6))
    target = features @ rng.standard_normal(6) + 0.1 * rng.standard_normal(30)
    hat = features @ np.linalg.pinv(features)  # least squares, the limit
    expected = (((target - hat @ target) / (1 - hat.diagonal())) ** 2).mean()
    assert leave_one_out(features @ features.T, target, 1e-8) == pytest.approx(expected, rel=1e-6)


def test_leave_one_out_of_all_subsets_is_the_test_error_of_one_sample_less_on_the_rest():
    small, target = KERNEL[::3, ::3], TARGET[::3]  # seven points
    predicted = [leave_one_out(small[np.ix_(c, c)], target[list(c)], 0.1) for c in combinations(range(7), 4)]
    measured = []
    for c in combinations(range(7), 3):
        rest = np.setdiff1d(np.arange(7), c)
        said = small[np.ix_(rest, c)] @ np.linalg.solve(small[np.ix_(c, c)] + 0.1 * np.eye(3), target[list(c)])
        measured.append(((target[rest] - said) ** 2).sum() / 4)
    assert np.mean(predicted) == pytest.approx(np.mean(measured), rel=1e-12)


def test_the_ridge_chosen_is_the_one_that_retraining_would_choose():
    rng = NEW(3)
    kernel = random_kernel(rng, 36, 90)
    residual = rng.multivariate_normal(np.zeros(36), kernel + 0.3 * np.eye(36))
    fractions = (1e-4, 1e-2, 0.1, 0.3, 1.0, 10.0)
    choice = choose_ridge(kernel, residual, 3, fractions)
    ridges = [fraction * kernel.trace() / 36 for fraction in fractions]
    slow = [(learned_without_each(kernel, residual, ridge, 3) ** 2).sum() / 12 for ridge in ridges]
    assert choice.errors == pytest.approx(slow, rel=1e-9)
    best = int(np.argmin(slow))
    assert 0 < best < len(fractions) - 1
    assert choice.fraction == fractions[best]
    assert choice.ridge == pytest.approx(ridges[best], rel=1e-12)
    assert choice.ridge == absolute_ridge(spectrum(kernel), choice.fraction)


def test_a_ridge_that_no_error_chose_is_marked():
    nothing = choose_ridge(KERNEL, np.zeros(20))
    assert nothing.fraction == min(nothing.fractions) and not nothing.decided
    assert choose_ridge(KERNEL, TARGET).decided


def test_noise_asks_for_a_larger_ridge_than_none():
    rng = NEW(4)
    kernel = random_kernel(rng, 40, 200)
    signal = rng.multivariate_normal(np.zeros(40), kernel)
    quiet, loud = (choose_ridge(kernel, signal + noise * rng.standard_normal(40)) for noise in (1e-3, 3.0))
    assert quiet.fraction < 0.1 < 1 <= loud.fraction


@pytest.mark.parametrize(
    "call",
    [
        lambda: leave_one_out(KERNEL, TARGET, -0.1),
        lambda: leave_one_out(KERNEL, TARGET[:-1], 0.1),
        lambda: gcv(np.ones((3, 3)), np.ones(3), 0.0),
        lambda: block_leave_one_out(BLOCK, RESIDUAL, 0.5, 5),
        lambda: block_leave_one_out(BLOCK, RESIDUAL, 0.5, 0),
        lambda: block_gcv(BLOCK, RESIDUAL.reshape(3, 8), 0.5, 3),
        lambda: flat_gcv(BLOCK[:-1], RESIDUAL, 0.5, 3),
        lambda: choose_ridge(KERNEL, TARGET, fractions=()),
        lambda: choose_ridge(KERNEL, TARGET, fractions=(0.0,)),
    ],
)
def test_what_means_nothing_is_refused(call):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        call()
    if caught.type is FunctionError:
        caught.match(r"expected .*(got|has)")
