"""Ranges and invariances in the table of docs/theory.md, section 4, and the invariances that a measure doesn't have."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from analysis import measures as m
from tests.support.task_pairs import TaskPair, f4, generators, invertible, orthogonal, pairs, positive, random_pair

ROUNDING = 1e-12
PAIR, TARGETS = f4()
A, B, _ = PAIR.blocks


def kernels_of(rng: np.random.Generator, samples: int) -> list[np.ndarray]:
    """Two kernels of the same samples."""
    return list(random_pair(rng, samples, samples, int(rng.integers(1, 12))).blocks[:2])


def cosine_error(pair: TaskPair) -> float:
    """What rounding in a Gram matrix does to its overlap: eps times the condition of the part above the rank cut."""
    spectra = [m.row_space(kernel).singular_values ** 2 for kernel in pair.blocks[:2]]
    return 100 * np.finfo(float).eps * max(values[0] / values[-1] for values in spectra)


def changes(before: float, after: float) -> bool:
    return abs(after - before) > 0.01


@given(pairs())
def test_the_ratio_lies_between_zero_and_one(pair):
    assert 0 <= pair.ratio <= 1 + ROUNDING


@given(pairs(), positive, positive)
def test_the_ratio_ignores_the_scale_of_either_jacobian(pair, factor_t, factor_k):
    assert pair.scaled(factor_t, -factor_k).ratio == pytest.approx(pair.ratio, rel=1e-9)


@given(pairs(), generators())
def test_the_ratio_ignores_orthogonal_mixing_of_rows_and_rotation_of_parameters(pair, rng):
    mixed = pair.mixed(orthogonal(rng, len(pair.j_t)), orthogonal(rng, len(pair.j_k)))
    assert mixed.rotated(orthogonal(rng, pair.j_t.shape[1])).ratio == pytest.approx(pair.ratio, rel=1e-9)


def test_the_ratio_of_a_task_with_itself_is_one_and_of_orthogonal_tasks_zero():
    assert TaskPair(PAIR.j_t, PAIR.j_t).ratio == pytest.approx(1, abs=ROUNDING)
    assert TaskPair(np.eye(4)[:2], np.eye(4)[2:]).ratio == 0


def test_the_ratio_notices_mixing_that_is_not_orthogonal():
    assert changes(PAIR.ratio, PAIR.mixed(np.diag(10.0 ** np.arange(8)), np.eye(8)).ratio)


@given(generators(), positive, positive, st.booleans())
def test_target_alignment_lies_between_zero_and_one_and_ignores_scale_and_rotation(rng, factor, times, centred):
    kernel, targets = kernels_of(rng, 8)[0], rng.standard_normal((8, 3))
    value = m.target_alignment(kernel, targets, centred=centred)
    assert 0 <= value <= 1 + ROUNDING
    changed = m.target_alignment(factor * kernel, times * targets @ orthogonal(rng, 3), centred=centred)
    assert changed == pytest.approx(value, rel=1e-9)


@given(generators())
def test_centred_target_alignment_ignores_shifts_of_targets_and_features(rng):
    features, targets = rng.standard_normal((8, 5)), rng.standard_normal((8, 3))
    shifted = features + 3 * rng.standard_normal(5)
    value = m.target_alignment(features @ features.T, targets, centred=True)
    moved = m.target_alignment(shifted @ shifted.T, targets + 3 * rng.standard_normal(3), centred=True)
    assert moved == pytest.approx(value, rel=1e-9)


def test_uncentred_target_alignment_notices_shifts_of_targets():
    assert changes(m.target_alignment(A, TARGETS), m.target_alignment(A, TARGETS + 1))


def test_a_kernel_made_of_the_targets_is_aligned_with_them():
    for centred in (False, True):
        assert m.target_alignment(TARGETS @ TARGETS.T, TARGETS, centred=centred) == pytest.approx(1, abs=ROUNDING)


@given(rng=generators(), factor=positive, times=positive)
def test_debiased_cka_has_its_range_and_ignores_scale_rotation_and_shift_of_features(rng, factor, times):
    measure = m.debiased_cka
    features, others = rng.standard_normal((2, 8, 5))
    second = others @ others.T
    value = measure(features @ features.T, second)
    assert -1 - ROUNDING <= value <= 1 + ROUNDING
    moved = features @ orthogonal(rng, 5) + 3 * rng.standard_normal(5)
    assert measure(factor * moved @ moved.T, times * second) == pytest.approx(value, abs=1e-9)
    assert measure(second, features @ features.T) == pytest.approx(value, abs=1e-12)
    assert measure(second, second) == pytest.approx(1, abs=1e-12)


def test_debiased_cka_can_be_negative():
    assert m.debiased_cka(A, B) < -0.5


@given(pairs(), positive, positive, generators())
def test_effective_dimension_stays_below_rows_and_parameters_and_ignores_joint_scaling(pair, ridge, factor, rng):
    kernel = pair.blocks[0]
    value = m.effective_dimension(m.spectrum(kernel), ridge)
    assert 0 <= value <= min(pair.j_t.shape) + 1e-9
    inverse = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), kernel)
    assert value == pytest.approx(np.trace(inverse), rel=1e-8)  # its definition
    mix = orthogonal(rng, len(kernel))
    again = m.effective_dimension(m.spectrum(factor * mix @ kernel @ mix.T), factor * ridge)
    assert again == pytest.approx(value, rel=1e-8)


def test_effective_dimension_notices_scaling_of_the_kernel_alone():
    eigenvalues = m.spectrum(A)
    assert changes(m.effective_dimension(eigenvalues, 0.3), m.effective_dimension(2 * eigenvalues, 0.3))


def test_effective_dimension_falls_from_the_rank_to_zero_as_the_ridge_grows():
    eigenvalues = m.spectrum(PAIR.j_t[:, :5] @ PAIR.j_t[:, :5].T)
    values = [m.effective_dimension(eigenvalues, ridge) for ridge in 10.0 ** np.arange(-12, 12)]
    assert (np.diff(values) < 0).all()
    assert values[0] == pytest.approx(np.count_nonzero(eigenvalues), abs=1e-6)
    assert values[-1] < 1e-9


@given(pairs(), positive, generators())
def test_participation_ratio_lies_between_one_and_the_rank_and_ignores_scale_and_mixing(pair, factor, rng):
    kernel = pair.blocks[0]
    value = m.participation_ratio(m.spectrum(kernel))
    assert 1 - ROUNDING <= value <= min(pair.j_t.shape) + 1e-9
    assert value == pytest.approx(np.trace(kernel) ** 2 / np.sum(kernel**2), rel=1e-10)  # its definition
    mix = orthogonal(rng, len(kernel))
    assert m.participation_ratio(m.spectrum(factor * mix @ kernel @ mix.T)) == pytest.approx(value, rel=1e-9)


@given(generators(), positive, positive)
def test_drift_is_nonnegative_and_ignores_common_scaling_while_distance_ignores_any(rng, factor, times):
    before, after = kernels_of(rng, 6)
    drift, distance = m.drift(before, after), m.kernel_distance(before, after)
    assert drift >= 0
    assert -ROUNDING <= distance <= 1 + ROUNDING
    assert m.drift(factor * before, factor * after) == pytest.approx(drift, rel=1e-9)
    assert m.kernel_distance(factor * before, times * after) == pytest.approx(distance, abs=1e-12)
    assert m.drift(before, before) == m.kernel_distance(before, before) == 0


def test_drift_notices_growth_that_distance_ignores():
    assert m.drift(A, 1.5 * A) == pytest.approx(0.5)
    assert m.kernel_distance(A, 1.5 * A) == pytest.approx(0, abs=1e-15)
    assert changes(m.drift(A, B), m.drift(A, 1.5 * B))


def test_distance_keeps_its_digits_where_kernels_nearly_agree():
    turned = np.array([[1.0, 1e-9], [1e-9, 1.0]])
    assert m.kernel_distance(np.eye(2), turned) == pytest.approx(0.5e-18, rel=1e-6)  # 1 - cos gives 0


@given(pairs(), generators(), positive, positive)
def test_overlap_depends_on_row_spaces_alone(pair, rng, factor_t, factor_k):
    cosines = pair.cosines
    assert ((cosines >= 0) & (cosines <= 1)).all()
    assert len(cosines) == min(*pair.j_t.shape, *pair.j_k.shape)
    mixed = pair.mixed(invertible(rng, len(pair.j_t)), invertible(rng, len(pair.j_k))).scaled(factor_t, factor_k)
    assert mixed.cosines == pytest.approx(cosines, abs=cosine_error(mixed))


@given(pairs())
def test_principal_angles_equal_those_from_the_jacobians_themselves(pair):
    v_t, v_k = (np.linalg.qr(jacobian.T).Q for jacobian in (pair.j_t, pair.j_k))
    cosines = np.linalg.svd(v_t.T @ v_k, compute_uv=False)
    assert pair.cosines == pytest.approx(cosines, abs=cosine_error(pair))
    expected = scipy.linalg.subspace_angles(pair.j_t.T, pair.j_k.T)[::-1]
    angle_error = np.sqrt(2 * cosine_error(pair))  # arccos: half the digits near 0
    assert np.arccos(pair.cosines) == pytest.approx(expected, abs=angle_error)


def test_overlap_ignores_magnitudes_that_the_ratio_weighs():
    weak = PAIR.replaced(j_t=np.concatenate([np.eye(12)[:1], 1e-3 * np.eye(12)[1:2]]), j_k=np.eye(12)[1:2])
    assert weak.cosines == pytest.approx([1.0])
    assert weak.ratio < 1e-2


def test_some_angles_are_zero_by_counting_dimensions():
    angles = np.arccos(random_pair(np.random.default_rng(0), 5, 4, 7).cosines)
    assert np.count_nonzero(angles < 1e-6) == 5 + 4 - 7
