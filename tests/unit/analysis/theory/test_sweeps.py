"""Learning curves on subsets, and one sweep for each factor, against plain retraining."""

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.finite_population import finite_population
from analysis.theory.learning_curves import population_modes
from analysis.theory.leave_one_out import block_gcv, block_leave_one_out, leave_one_out
from analysis.theory.modes import modes
from analysis.theory.subsets import (
    draw_subset,
    subset_gcv,
    subset_leave_one_out,
    subset_rest_errors,
    subset_test_errors,
)
from analysis.theory.sweeps import TaskPair, orthogonality_sweep, regularization_sweep, sample_size_sweep

NEW = np.random.default_rng
K, RIDGE = 3, 0.7
FEATURES = NEW(0).standard_normal((30, K, 25)) * np.arange(1, 26) ** -0.5  # samples, outputs, parameters
FLAT = FEATURES.reshape(-1, 25)
TARGETS = NEW(1).standard_normal((30, K))
KERNEL = FLAT[: 20 * K] @ FLAT[: 20 * K].T
CROSS = FLAT[20 * K :] @ FLAT[: 20 * K].T


def trained(samples, residual, ridge=RIDGE):
    """Parameters that ridge regression in parameter space finds."""
    j = samples.reshape(-1, samples.shape[-1])
    return np.linalg.solve(j.T @ j + ridge * np.eye(j.shape[1]), j.T @ residual.ravel())


def test_test_errors_are_those_of_training_in_parameter_space():
    found = subset_test_errors(KERNEL, CROSS, TARGETS[:20], TARGETS[20:], (5, 12), 4, 7, RIDGE, K)
    for i, size in enumerate((5, 12)):
        errors = []
        for draw in range(4):
            chosen = draw_subset(20, size, draw, 7)
            said = FEATURES[20:] @ trained(FEATURES[chosen], TARGETS[chosen])
            errors.append(((TARGETS[20:] - said) ** 2).sum() / 10)
        assert found.mean[i] == pytest.approx(np.mean(errors), rel=1e-10)
        assert found.std[i] == pytest.approx(np.std(errors, ddof=1), rel=1e-10)
    assert found.sizes.tolist() == [5, 12]


def test_rest_errors_test_on_exactly_what_was_not_drawn():
    found = subset_rest_errors(KERNEL, TARGETS[:20].ravel(), (13,), 1, 7, RIDGE, K)
    chosen = draw_subset(20, 13, 0, 7)
    rest = np.setdiff1d(np.arange(20), chosen)
    said = FEATURES[rest] @ trained(FEATURES[chosen], TARGETS[chosen])
    assert found.mean[0] == pytest.approx(((TARGETS[rest] - said) ** 2).sum() / 7, rel=1e-10)
    assert np.isnan(found.std[0])


@pytest.mark.parametrize(("subset", "whole"), [(subset_leave_one_out, block_leave_one_out), (subset_gcv, block_gcv)])
def test_subset_estimates_are_those_of_the_modes_of_each_subset(subset, whole):
    found = subset(KERNEL, TARGETS[:20], (4, 20), 3, 5, RIDGE, K)
    for i, size in enumerate((4, 20)):
        errors = []
        for draw in range(3):
            chosen = draw_subset(20, size, draw, 5)
            rows = (chosen[:, None] * K + np.arange(K)).ravel()
            errors.append(whole(KERNEL[np.ix_(rows, rows)], TARGETS[chosen], RIDGE, K))
        assert found.mean[i] == pytest.approx(np.mean(errors), rel=1e-9)
    assert found.std[1] == pytest.approx(0, abs=1e-9)  # every draw is the whole sample


def test_a_shared_kernel_takes_a_column_for_each_output():
    shared = FLAT[:20] @ FLAT[:20].T
    found = subset_leave_one_out(shared, TARGETS[:20], (20,), 1, 0, RIDGE)
    assert found.mean[0] == pytest.approx(leave_one_out(shared, TARGETS[:20], RIDGE), rel=1e-9)


def test_subsets_depend_on_seed_size_and_draw_alone_and_repeat_nothing():
    assert len(set(draw_subset(50, 40, 1, 2).tolist())) == 40
    assert (draw_subset(50, 40, 1, 2) == draw_subset(50, 40, 1, 2)).all()
    others = [draw_subset(50, 40, 2, 2), draw_subset(50, 40, 1, 3), draw_subset(50, 41, 1, 2)[:40]]
    assert all((draw_subset(50, 40, 1, 2) != other).any() for other in others)
    alone = subset_gcv(KERNEL, TARGETS[:20], (8,), 2, 5, RIDGE, K)
    assert alone.mean[0] == subset_gcv(KERNEL, TARGETS[:20], (4, 8), 2, 5, RIDGE, K).mean[1]


def test_the_sample_size_sweep_is_one_point_after_the_other_and_stops_at_the_population():
    spectrum = population_modes(modes(FLAT[:20] @ FLAT[:20].T), TARGETS[:20])
    sweep = sample_size_sweep(*spectrum, (5, 20, 21), RIDGE)
    assert sweep.finite_population[:2] == pytest.approx(
        [finite_population(*spectrum, size, RIDGE).unseen_error for size in (5, 20)]
    )
    assert np.isnan(sweep.finite_population[2])
    assert (np.diff(sweep.eigenlearning) < 0).all()


def pair_of(old, new):
    """Tasks of the first 8 targets and 6 later ones."""
    j_t, j_k = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    return TaskPair(j_t @ j_t.T, j_k @ j_k.T, j_t @ j_k.T, TARGETS[:8], TARGETS[10:16])


def test_a_cosine_is_the_angle_by_which_the_new_gradients_are_turned_into_fresh_parameters():
    old, new = FEATURES[:8], FEATURES[10:16]
    sweep = orthogonality_sweep(pair_of(old, new), (-0.5, 0.0, 0.6, 1.0), RIDGE)
    for i, cosine in enumerate(sweep.values):
        padded = np.concatenate([old, np.zeros_like(old)], axis=2)
        turned = np.concatenate([cosine * new, np.sqrt(1 - cosine**2) * new], axis=2)
        first = trained(padded, TARGETS[:8])
        second = trained(turned, TARGETS[10:16] - turned @ first)
        left, drift = TARGETS[:8] - padded @ first, padded @ second
        assert sweep.task_specific[i] == pytest.approx((left**2).sum() / 8, rel=1e-10)
        assert sweep.interplay[i] == pytest.approx((drift**2).sum() / 8, rel=1e-9, abs=1e-14)
        assert sweep.cross[i] == pytest.approx(-2 * (left * drift).sum() / 8, rel=1e-9, abs=1e-14)
        assert sweep.total[i] == pytest.approx(((left - drift) ** 2).sum() / 8, rel=1e-10)
        held = []
        for j in range(6):
            rest = np.delete(np.arange(6), j)
            without = trained(turned[rest], (TARGETS[10:16] - turned @ first)[rest])
            held.append(((TARGETS[10 + j] - turned[j] @ (first + without)) ** 2).sum())
        assert sweep.new_test_error[i] == pytest.approx(np.mean(held), rel=1e-9)
    assert sweep.interplay[1] == 0
    assert np.ptp(sweep.old_test_error) == 0


def test_the_less_two_tasks_share_the_less_is_forgotten():
    opposed = replace(pair_of(FEATURES[:8], FEATURES[:6]), new_residual=-TARGETS[:6])
    sweep = orthogonality_sweep(opposed, np.linspace(0, 1, 6).tolist(), RIDGE)
    assert (np.diff(sweep.interplay) > 0).all()


def test_a_small_ridge_leaves_no_task_specific_error_and_a_large_one_no_interplay():
    pair = pair_of(FEATURES[:8], FEATURES[10:16])
    sweep = regularization_sweep(pair, (1e-6, 1.0, 1e6))
    assert sweep.task_specific[0] < 1e-6 < sweep.interplay[0]
    assert sweep.interplay[2] < 1e-6 < sweep.task_specific[2]
    assert sweep.total == pytest.approx(sweep.task_specific + sweep.interplay + sweep.cross, rel=1e-12)
    assert sweep.total[2] == pytest.approx((TARGETS[:8] ** 2).sum() / 8, rel=1e-4)
    for i, ridge in enumerate(sweep.values):
        assert sweep.old_test_error[i] == pytest.approx(block_leave_one_out(pair.old, TARGETS[:8], ridge, K))


@pytest.mark.parametrize(
    "call",
    [
        lambda: subset_leave_one_out(KERNEL, TARGETS[:20], (1,), 2, 0, RIDGE, K),
        lambda: subset_leave_one_out(KERNEL, TARGETS[:20], (21,), 2, 0, RIDGE, K),
        lambda: subset_leave_one_out(KERNEL, TARGETS[:20], (), 2, 0, RIDGE, K),
        lambda: subset_leave_one_out(KERNEL, TARGETS[:20], (5,), 0, 0, RIDGE, K),
        lambda: subset_gcv(KERNEL, TARGETS[:20], (5,), 2, 0, 0.0, K),
        lambda: subset_gcv(np.ones((4, 4)), np.ones(4), (3,), 1, 0, 1e-18),
        lambda: subset_rest_errors(KERNEL, TARGETS[:20], (20,), 1, 0, RIDGE, K),
        lambda: subset_test_errors(KERNEL, CROSS[:, 1:], TARGETS[:20], TARGETS[20:], (5,), 1, 0, RIDGE, K),
        lambda: subset_test_errors(KERNEL, CROSS, TARGETS[:20], TARGETS[21:], (5,), 1, 0, RIDGE, K),
        lambda: orthogonality_sweep(pair_of(FEATURES[:8], FEATURES[10:16]), (1.5,), RIDGE),
        lambda: regularization_sweep(pair_of(FEATURES[:8], FEATURES[10:16]), (0.0,)),
    ],
)
def test_what_means_nothing_is_refused(call):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        call()
    if caught.type is FunctionError:
        caught.match(r"expected .*got")
