"""Radius of a task: figures of docs/theory.md, section 6, parameters as twin, and singular kernels."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import FunctionError
from analysis.theory.interplay import learn_sequentially
from analysis.theory.modes import Modes, dual_coefficients, modes, non_negative
from analysis.theory.radius import matched_ridge, radius
from tests.support.theory_tasks import f1

EXACT = 1e-10
seeds = st.integers(0, 2**32 - 1)
ridges = st.floats(-3, 3).map(lambda exponent: 10**exponent)


def f1_radii():
    tasks = f1()
    return [task.radius for task in learn_sequentially(tasks.block, tasks.targets, tasks.outputs, tasks.ridges)]


def singular(rows: int = 300, rank: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, rank)), rng.normal(size=rows)


def true_radius(jacobian: np.ndarray, residual: np.ndarray, ridge: float) -> float:
    """‖(JᵀJ + λI)⁻¹ Jᵀ r‖ in parameter space, where a tall Jacobian of full rank leaves nothing singular."""
    return float(
        np.linalg.norm(
            np.linalg.solve(jacobian.T @ jacobian + ridge * np.eye(jacobian.shape[1]), jacobian.T @ residual)
        )
    )


def test_radii_of_fixture_f1_have_the_known_squares():
    squares = np.array([dataclasses.astuple(task) for task in f1_radii()]) ** 2
    assert squares[:, 0] == pytest.approx([0.305055449117, 0.480050876876, 0.155887701182], abs=EXACT)
    assert squares[:, 1] == pytest.approx([0.635168661745, 3.241071349920, 0.179968414818], abs=EXACT)
    assert squares[:, 2] == pytest.approx([2.901009342605, 2.019494625665, 0.454651124394], abs=EXACT)


def test_the_smaller_of_the_two_bounds_is_another_one_for_each_task_of_f1():
    first, second, _ = f1_radii()
    assert first.quadratic < first.a_priori
    assert second.a_priori < second.quadratic


@pytest.mark.parametrize("ridge", [1e-1, 1e-5, 1e-8])
def test_the_radius_is_right_on_a_singular_kernel(ridge):
    jacobian, residual = singular()
    got = radius(modes(jacobian @ jacobian.T), residual, ridge).exact
    assert got == pytest.approx(true_radius(jacobian, residual, ridge), rel=1e-9)


def test_neither_dual_coefficients_nor_clipping_alone_give_the_radius_of_a_singular_kernel():
    jacobian, residual = singular()
    kernel, ridge = jacobian @ jacobian.T, 1e-8
    truth = true_radius(jacobian, residual, ridge)
    alpha = dual_coefficients(modes(kernel), residual, ridge)
    assert abs(alpha @ kernel @ alpha) > 10 * truth**2
    values, vectors = np.linalg.eigh(kernel)
    clipped = radius(Modes(np.maximum(values, 0), vectors), residual, ridge).exact
    assert clipped > 10 * truth


@given(seeds, ridges)
def test_both_bounds_hold_the_radius_of_any_problem(seed, ridge):
    rng = np.random.default_rng(seed)
    rows, parameters = rng.integers(1, 12, 2)
    jacobian, residual = rng.normal(size=(rows, parameters)), rng.normal(size=rows)
    got = radius(modes(jacobian @ jacobian.T), residual, ridge)
    assert got.exact == pytest.approx(true_radius(jacobian, residual, ridge), rel=1e-8)
    assert got.exact <= min(got.quadratic, got.a_priori) * (1 + 1e-12)


def test_the_a_priori_bound_is_reached_where_the_ridge_is_the_eigenvalue():
    got = radius(modes(2.0 * np.eye(3)), np.array([1.0, 2.0, 3.0]), ridge=2.0)
    assert got.exact == pytest.approx(got.a_priori)


def test_with_a_vanishing_ridge_radius_and_quadratic_bound_meet_at_the_shortest_interpolation():
    rng = np.random.default_rng(1)
    jacobian, residual = rng.normal(size=(6, 20)), rng.normal(size=6)
    got = radius(modes(jacobian @ jacobian.T), residual, ridge=1e-9)
    shortest = np.linalg.norm(np.linalg.lstsq(jacobian, residual, rcond=None)[0])
    assert (got.exact, got.quadratic) == pytest.approx((shortest, shortest), rel=1e-8)


def test_outputs_that_share_a_kernel_of_samples_have_the_radius_of_the_whole_kernel():
    rng = np.random.default_rng(2)
    jacobian, residual = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    shared = radius(modes(jacobian @ jacobian.T), residual, 0.5)
    whole = radius(modes(np.kron(jacobian @ jacobian.T, np.eye(3))), residual.ravel(), 0.5)
    assert dataclasses.astuple(shared) == pytest.approx(dataclasses.astuple(whole))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: radius(modes(np.eye(2)), np.ones(2), 0.0), "the ridge to be positive"),
        (lambda: radius(modes(np.eye(2)), np.ones(3), 1.0), "a target of 2 rows"),
        (lambda: non_negative("a length", -1e-9), "a length to be finite and not neg"),
    ],
)
def test_what_has_no_radius_is_refused_by_name(call, message):
    with pytest.raises(FunctionError, match=message):
        call()


@pytest.mark.parametrize("ridge", [1e-4, 0.3, 50.0])
def test_a_matched_ridge_gives_back_the_ridge_whose_step_it_was(ridge: float) -> None:
    rng = np.random.default_rng(5)
    factor = rng.standard_normal((12, 8))  # singular: rank 8 of 12
    found, residual = modes(factor @ factor.T), rng.standard_normal(12)
    length = radius(found, residual, ridge).exact
    assert matched_ridge(found, residual, length) == pytest.approx(ridge, rel=1e-8)


def test_a_step_longer_than_any_ridge_allows_gets_the_smallest_ridge() -> None:
    found, residual = modes(np.diag([4.0, 1.0])), np.array([1.0, 1.0])
    longest = radius(found, residual, 1e-12).exact
    assert matched_ridge(found, residual, 2 * longest) == 4.0 * 1e-10
    with pytest.raises(FunctionError, match="length of the step"):
        matched_ridge(found, residual, -1.0)


def test_no_step_at_all_gets_the_largest_ridge_which_moves_nothing() -> None:
    found, residual = modes(np.diag([4.0, 1.0])), np.array([1.0, 1.0])
    assert matched_ridge(found, residual, 0.0) == 4.0 / 1e-10
    assert matched_ridge(found, residual, 1e-14) == 4.0 / 1e-10  # shorter than even that ridge's step
    assert radius(found, residual, 4.0 / 1e-10).exact < 1e-10
    assert matched_ridge(found, np.zeros(2), 0.0) == 4.0 / 1e-10
    assert matched_ridge(found, np.zeros(2), 1.0) == 4.0 * 1e-10  # nothing to learn: no ridge goes anywhere
