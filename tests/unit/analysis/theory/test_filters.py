"""Scalar filters of training: exact arithmetic, other forms of the same recursion, stability, and what is refused."""

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory import filters as f
from analysis.theory.procedures import Descent, Flow, HeavyBall, Nesterov, Ridge, Schedule

EIGENVALUES = np.array([0.0, 1e-300, 1e-17, 1e-9, 1e-3, 0.3, 1.0, 1.7, 1.999])


def exact_schedule(g: float, rates: list[float]) -> float:
    """(1 - prod (1 - rate g)) / g in rational numbers: no rounding until the end."""
    left = Fraction(1)
    for rate in rates:
        left *= 1 - Fraction(rate) * Fraction(g)
    return float((1 - left) / Fraction(g)) if g else float(sum(map(Fraction, rates)))


def closed_heavy_ball(g: float, rate: float, momentum: float, steps: int) -> float:
    """The closed form in the characteristic roots, complex or double."""
    e1 = 1 - rate * g
    middle = (1 + momentum - rate * g) / 2
    root = np.sqrt(complex(middle**2 - momentum))
    if abs(root) < 1e-7:  # double
        left = middle ** (steps - 1) * (steps * e1 - (steps - 1) * middle)
    else:
        plus, minus = middle + root, middle - root
        left = (((e1 - minus) * plus**steps - (e1 - plus) * minus**steps) / (plus - minus)).real
    return (1 - left) / g


def remainder_matrix(x: float, momentum: float, nesterov: bool) -> np.ndarray:
    """One step of (e, rate * v) for rate * g = x, e being what remains of the residual: optax.trace, written out."""
    velocity = np.array([-x, momentum])  # rate g v' = momentum (rate g v) - x e, in units where g v is one number
    update = np.array([-x, 0.0]) + momentum * velocity if nesterov else velocity
    return np.array([[1.0 + update[0], update[1]], velocity])


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("rate", [1.0, 0.37])
def test_descent_equals_rational_arithmetic_for_eigenvalues_of_any_size(rate, steps):
    exact = [exact_schedule(g, [rate] * steps) for g in EIGENVALUES]
    np.testing.assert_allclose(f.descent_filter(EIGENVALUES, rate, steps), exact, rtol=2e-14)


def test_a_schedule_equals_rational_arithmetic_also_where_single_steps_overshoot():
    rates = [0.5, 0.0, 1.0, 0.25, 0.9]
    exact = [exact_schedule(g, rates) for g in EIGENVALUES]
    np.testing.assert_allclose(f.schedule_filter(EIGENVALUES, rates), exact, rtol=2e-14)
    np.testing.assert_allclose(f.schedule_filter(EIGENVALUES, [0.3] * 9), f.descent_filter(EIGENVALUES, 0.3, 9))


def test_the_naive_form_fails_in_float32_where_the_stable_one_does_not():
    """docs/theory.md, section 5: relative error 1.0 at g = 1e-8 and 4.6e-2 at 1e-6, against less than 1e-7."""
    g = np.array([1e-8, 1e-6], np.float32)
    rate, steps = 0.5, 1
    exact = np.array([exact_schedule(float(x), [rate] * steps) for x in g])
    naive = (1 - (1 - np.float32(rate) * g) ** steps) / g
    assert naive.dtype == np.float32
    assert abs(naive / exact - 1) == pytest.approx([1.0, 4.6e-2], abs=1e-3)
    assert (abs(f.descent_filter(g, rate, steps).astype(np.float32) / exact - 1) < 1e-7).all()
    in_float32 = -np.expm1(steps * np.log1p(-np.float32(rate) * g)) / g
    assert in_float32.dtype == np.float32
    assert (abs(in_float32 / exact - 1) < 1e-7).all()


@pytest.mark.parametrize("steps", [1, 100])
def test_in_float64_the_naive_form_fails_at_1e_17_where_the_shipped_one_does_not(steps):
    g = np.array([1e-17])
    exact = exact_schedule(1e-17, [0.5] * steps)
    assert abs((1 - (1 - 0.5 * g) ** steps) / g / exact - 1)[0] == 1.0
    assert f.descent_filter(g, 0.5, steps)[0] == pytest.approx(exact, rel=1e-15)


def test_gradient_flow_is_descent_in_many_small_steps_and_ends_at_the_ridge_optimum():
    g = EIGENVALUES[4:]
    np.testing.assert_allclose(f.flow_filter(g, 3.0), f.descent_filter(g, 3e-6, 10**6), rtol=1e-5)
    np.testing.assert_allclose(f.flow_filter(g, 1e6), f.ridge_filter(g), rtol=1e-12)
    np.testing.assert_array_equal(f.flow_filter(EIGENVALUES[:3], 3.0), [3.0, 3.0, 3.0])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_heavy_ball_equals_its_closed_form(momentum):
    double = (1 - np.sqrt(momentum)) ** 2  # with rate 1, where both roots are equal
    g = np.array([1e-3, 0.01, double, 0.5, 1.2, 1.9])
    for steps in (1, 2, 3, 50):
        closed = [closed_heavy_ball(x, 1.0, momentum, steps) for x in g]
        np.testing.assert_allclose(f.heavy_ball_filter(g, 1.0, momentum, steps), closed, rtol=1e-11)


def test_the_double_root_is_met_in_the_closed_form_and_by_the_recursion():
    momentum, rate, steps = 0.25, 0.5, 30  # sqrt is exact: (1 - 0.5)^2 = rate g
    g = 0.5
    assert (1 + momentum - rate * g) ** 2 == 4 * momentum
    assert f.heavy_ball_filter(np.array([g]), rate, momentum, steps)[0] == pytest.approx(
        closed_heavy_ball(g, rate, momentum, steps), rel=1e-14
    )


@pytest.mark.parametrize(("shipped", "nesterov"), [(f.heavy_ball_filter, False), (f.nesterov_filter, True)])
def test_momentum_equals_powers_of_the_step_matrix_for_any_schedule(shipped, nesterov):
    g, momentum = np.array([0.05, 0.4, 1.1]), 0.8
    for rates in ([0.7] * 12, list(0.7 * 0.9 ** np.arange(12))):
        left = []
        for x in g:
            e, v = 1.0, 0.0  # as optax does it: v is the trace of gradients of a loss with slope -e
            for rate in rates:
                slope = -e
                v = momentum * v + slope
                e += rate * x * (slope + momentum * v if nesterov else v)
            left.append(e)
        np.testing.assert_allclose(shipped(g, rates, momentum, 12), (1 - np.array(left)) / g, rtol=1e-13)
    powers = [np.linalg.matrix_power(remainder_matrix(0.7 * x, momentum, nesterov), 12)[0, 0] for x in g]
    np.testing.assert_allclose(shipped(g, 0.7, momentum, 12), (1 - np.array(powers)) / g, rtol=1e-12)


def test_without_momentum_both_kinds_are_descent():
    for shipped in (f.heavy_ball_filter, f.nesterov_filter):
        np.testing.assert_allclose(
            shipped(EIGENVALUES, 0.9, 0.0, 20), f.descent_filter(EIGENVALUES, 0.9, 20), rtol=1e-14
        )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_below_the_stable_rate_a_step_shrinks_every_remainder_and_above_it_does_not(momentum, nesterov):
    g = 3.0
    limit = f.stable_rate(g, momentum, nesterov=nesterov)

    def growth(rate):
        return abs(np.linalg.eigvals(remainder_matrix(rate * g, momentum, nesterov))).max()

    assert growth(0.999 * limit) < 1 < growth(1.001 * limit)
    assert all(growth(part * limit) < 1 for part in np.linspace(0.01, 0.99, 50))


@pytest.mark.parametrize(
    "train",
    [
        lambda rate: f.descent_filter(np.array([2.0, 0.1]), rate, 3),
        lambda rate: f.schedule_filter(np.array([2.0, 0.1]), [0.1, rate]),
        lambda rate: f.heavy_ball_filter(np.array([2.0, 0.1]), 1.5 * rate, 0.5, 3),
        lambda rate: f.nesterov_filter(np.array([2.0, 0.1]), 0.75 * rate, 0.5, 3),
    ],
)
def test_a_rate_that_diverges_is_warned_of_and_still_computed(train):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(0.99)
    with pytest.warns(RuntimeWarning, match="expected learning rates below") as caught:
        assert np.isfinite(train(1.01)).all()
    shape_checks = hasattr(f.descent_filter, "__wrapped__")  # then the caller is a wrapper
    assert shape_checks or caught[0].filename == __file__


def test_training_beyond_float64_is_an_error():
    diverging = (
        lambda: f.descent_filter(np.array([2.0]), 5.0, 5000),
        lambda: f.heavy_ball_filter(np.array([2.0]), 5.0, 0.9, 5000),
    )
    for train in diverging:
        with pytest.warns(RuntimeWarning), pytest.raises(FunctionError, match="diverges beyond float64"):
            train()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: f.ridge_filter(np.array([1.0, 0.0])),
        lambda: f.flow_filter(np.ones(1), 0.0),
        lambda: f.flow_filter(np.array([-1.0]), 1.0),
        lambda: f.descent_filter(np.ones(1), -0.1, 3),
        lambda: f.descent_filter(np.ones(1), 0.1, 0),
        lambda: f.descent_filter(np.ones(1), np.nan, 3),
        lambda: f.descent_filter(np.array([np.nan]), 0.1, 3),
        lambda: f.schedule_filter(np.ones(1), []),
        lambda: f.heavy_ball_filter(np.ones(1), [0.1, 0.1], 0.9, 3),
        lambda: f.heavy_ball_filter(np.ones(1), 0.1, 1.0, 3),
        lambda: f.nesterov_filter(np.ones(1), 0.1, -0.1, 3),
        lambda: f.nesterov_filter(np.ones(1), 0.1, 0.5, 2.5),
        lambda: f.stable_rate(-1.0),
    ],
)
def test_what_no_filter_can_mean_is_refused_in_one_line(bad):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        bad()
    assert caught.type is TypeCheckError or re.fullmatch(r"expected [^\n]+", str(caught.value))


def test_each_procedure_calls_its_own_filter():
    g = EIGENVALUES[4:]
    rates = (0.5, 0.3)
    for procedure, expected in [
        (Ridge(), f.ridge_filter(g)),
        (Flow(2.0), f.flow_filter(g, 2.0)),
        (Descent(0.5, 4), f.descent_filter(g, 0.5, 4)),
        (Schedule(rates), f.schedule_filter(g, rates)),
        (HeavyBall(0.5, 0.9, 4), f.heavy_ball_filter(g, 0.5, 0.9, 4)),
        (HeavyBall(rates, 0.9, 2), f.heavy_ball_filter(g, rates, 0.9, 2)),
        (Nesterov(0.5, 0.9, 4), f.nesterov_filter(g, 0.5, 0.9, 4)),
    ]:
        np.testing.assert_array_equal(procedure.filter(g), expected)
    assert f.stable_rate(0.0) == np.inf
