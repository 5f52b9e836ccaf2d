"""Grids of learning rates in closed form, against explicit steps of a linear model; projections against brute force."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.errors import FunctionError
from analysis.theory.filters import heavy_ball_filter
from analysis.theory.modes import modes
from analysis.theory.what_if import (
    Objective,
    best_point,
    felt,
    matched_scale,
    momentum_filters,
    paired_gain,
    rescaled,
)

SHAPE = [1.0] * 7 + [0.5] * 7
RATES = [0.0, 0.01, 0.1, 0.4]
OBJECTIVE = Objective(samples=5, pull=0.3, shape=SHAPE, momentum=0.9, scale=0.7)


@pytest.fixture(scope="module")
def jacobians() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of five new images of three outputs, of four old ones, and of others; rows outnumber none of 40 parameters."""
    rng = np.random.default_rng(3)
    return tuple(rng.standard_normal((rows, 40)) / 4 for rows in (15, 12, 9))


def descended(
    jacobian: np.ndarray, residual: np.ndarray, rate: float, objective: Objective, slope: np.ndarray | float = 0.0
) -> np.ndarray:
    """The step of the parameters, one step of SGD after another on c/(2n) ‖r - J δ‖² + λ ‖δ‖² - slope · δ."""
    step, velocity = np.zeros(jacobian.shape[1]), np.zeros(jacobian.shape[1])
    for factor in objective.shape:
        error = jacobian @ step - residual
        gradient = objective.scale / objective.samples * jacobian.T @ error + 2 * objective.pull * step - slope
        velocity = objective.momentum * velocity + gradient
        step = step - rate * factor * velocity
    return step


@pytest.mark.parametrize("objective", [OBJECTIVE, replace(OBJECTIVE, momentum=0.0), replace(OBJECTIVE, pull=0.0)])
@pytest.mark.parametrize("elsewhere", [0.0, 1.0])
def test_every_point_of_the_grid_is_what_explicit_steps_of_a_linear_model_do(
    jacobians: tuple[np.ndarray, ...], objective: Objective, elsewhere: float
) -> None:
    new, _, other = jacobians
    rng = np.random.default_rng(4)
    # Another loss' slope, in directions that the new outputs feel and in others
    residual, slope, start = rng.standard_normal(15), elsewhere * rng.standard_normal(40), np.arange(9.0)
    decomposed = modes(new @ new.T)
    q = objective.filters(np.append(decomposed.values, 0.0), RATES)
    known = descended(new, residual, RATES[2], objective, slope)
    outside, duals = rescaled(decomposed, new @ known, q[2], q)
    for rate, share, dual in zip(RATES, outside, duals, strict=True):
        truth = start + other @ descended(new, residual, rate, objective, slope)
        np.testing.assert_allclose(start + share * (other @ known) + other @ new.T @ dual, truth, rtol=1e-8, atol=1e-8)
    assert outside[0] == 0 and not duals[0].any(), "a rate of zero changes nothing, exactly"
    assert outside[2] == 1 and not duals[2].any(), "the known rate gives the known step, exactly"
    assert abs(duals[[1, 3]]).min(axis=1).all()
    # Longer training is another schedule: the same known step
    longer = replace(objective, shape=[*objective.shape, 0.2, 0.1])
    outside, duals = rescaled(decomposed, new @ known, q[2], longer.filters(np.append(decomposed.values, 0.0), [0.05]))
    truth = descended(new, residual, 0.05, longer, slope)
    np.testing.assert_allclose(outside[0] * known + duals[0] @ new, truth, rtol=1e-8, atol=1e-8)


def test_scaling_the_whole_step_alone_would_be_wrong(jacobians: tuple[np.ndarray, ...]) -> None:
    new, residual = jacobians[0], np.random.default_rng(4).standard_normal(15)
    known, truth = (descended(new, residual, rate, OBJECTIVE) for rate in (0.4, 0.01))
    best = known * (known @ truth) / (known @ known)
    assert np.linalg.norm(best - truth) > 0.05 * np.linalg.norm(truth)


def test_many_rates_at_once_are_one_rate_after_the_other() -> None:
    g = np.array([0.0, 1e-9, 0.3, 2.0])
    found = momentum_filters(g, [0.2, 0.7], SHAPE, 0.5)
    for row, rate in zip(found, (0.2, 0.7), strict=True):
        np.testing.assert_allclose(row, heavy_ball_filter(g, [rate * f for f in SHAPE], 0.5, len(SHAPE)), rtol=1e-12)


def test_rates_at_which_training_diverges_have_no_number_and_those_just_below_have() -> None:
    values = np.array([2.0, 0.5])
    # Stable below 2 (1 + 0.9) / (0.7/5 · 2 + 2 · 0.3)
    limit = 3.8 / (0.14 * 2 + 0.6)
    found = OBJECTIVE.filters(values, [limit * (1 - 1e-9), limit * (1 + 1e-9)])
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_the_matched_scale_is_the_one_whose_step_it_was(jacobians: tuple[np.ndarray, ...]) -> None:
    new = jacobians[0]
    decomposed, residual = modes(new @ new.T), np.random.default_rng(5).standard_normal(15)
    z = decomposed.coordinates(residual)

    def length(q: np.ndarray) -> float:
        return float(np.linalg.norm(np.sqrt(decomposed.values) * q * z))

    seen = float(np.linalg.norm(descended(new, residual, 0.1, OBJECTIVE)))
    scale, reached = matched_scale(replace(OBJECTIVE, scale=99.0), decomposed.values, 0.1, length, seen)
    assert reached and scale == pytest.approx(OBJECTIVE.scale, rel=1e-9)
    # Longer than any scale's step: the nearest is the longest
    scale, reached = matched_scale(OBJECTIVE, decomposed.values, 0.1, length, 1e3)
    others = [replace(OBJECTIVE, scale=scale * f).filters(decomposed.values, [0.1])[0] for f in (0.01, 0.1, 1.0)]
    assert not reached and max(map(length, others)) == length(others[-1]) < 1e3
    least, reached = matched_scale(OBJECTIVE, decomposed.values, 0.1, length, -1.0)
    assert not reached and least < 1e-6 * scale
    with pytest.raises(FunctionError, match="the pull leaves"):
        matched_scale(replace(OBJECTIVE, pull=20.0), decomposed.values, 0.1, length, seen)


@pytest.mark.parametrize("k", [0, 1, 5, 12, 99])
def test_projected_steps_leave_the_strongest_old_directions_alone(jacobians: tuple[np.ndarray, ...], k: int) -> None:
    new, old, other = jacobians
    steps = np.random.default_rng(6).standard_normal((2, 15)) @ new
    # By brute force: the right singular vectors themselves
    left, _, right = np.linalg.svd(old, full_matrices=False)
    truth = steps - steps @ right[:k].T @ right[:k]
    beta = felt(steps @ old.T, modes(old @ old.T), k)
    np.testing.assert_allclose(steps - beta @ old, truth, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose((steps - beta @ old) @ other.T, truth @ other.T, rtol=1e-8, atol=1e-8)
    kept = (steps - beta @ old) @ old.T @ left
    assert abs(kept[:, :k]).max(initial=0) < 1e-9
    if k < 12:
        np.testing.assert_allclose(kept[:, k:], (steps @ old.T @ left)[:, k:], rtol=1e-8, atol=1e-9)
        assert abs(kept[:, k:]).max() > 0.1


def test_directions_without_a_gradient_are_not_projected_on() -> None:
    old = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert felt(np.array([[4.0, 0.0]]), modes(old @ old.T), 2).tolist() == [[1.0, 0.0]]
    with pytest.raises(FunctionError, match="12 outputs"):
        felt(np.ones((1, 3)), modes(np.eye(12)), 2)


def test_the_error_of_a_gain_is_mcnemars_and_looks_at_one_image_go_together() -> None:
    rng = np.random.default_rng(7)
    before, after = rng.random((2, 50)) < [[0.7], [0.8]]
    found = paired_gain(before, after, np.arange(50), np.full(50, 1 / 50))
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    assert found.value == pytest.approx((gained - lost) / 50)
    assert found.error == pytest.approx(np.sqrt(gained + lost - (gained - lost) ** 2 / 50) / 50)
    # The same look three times tells no more than once
    thrice = paired_gain(*np.tile([before, after], 3), np.tile(np.arange(50), 3), np.full(150, 1 / 150))
    assert (thrice.value, thrice.error) == (pytest.approx(found.value), pytest.approx(found.error))


def test_of_equal_points_the_smallest_rate_and_the_shortest_training_is_best() -> None:
    table = np.array([[0.8, 0.9], [0.9, 0.9], [np.nan, np.nan], [0.9, 0.8]])
    assert best_point(table, [0.4, 0.1, 0.0, 0.2]) == (1, 0)
    assert best_point(table + np.array([[0.05, 0], [0, 0], [0, 0], [0, 0.3]]), [0.4, 0.1, 0.0, 0.2]) == (3, 1)
