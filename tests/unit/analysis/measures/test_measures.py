"""Measures of kernels: numbers and identities of docs/theory.md, sections 4 and 6, slow twins, and what is refused."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from jaxtyping import TypeCheckError

from analysis import measures as m
from analysis.errors import FunctionError
from analysis.theory.modes import modes
from tests.support.task_pairs import TaskPair, f4, generators, orthogonal, pairs, positive, random_pair

PAIR, TARGETS = f4()
A, B, C = PAIR.blocks
EYE = np.eye(3)
NEW = np.random.default_rng  # shorter


def overlap_fixture(angles):
    """Jacobians (8, 12) and (7, 12) whose row spaces stand at the given angles to each other."""
    rng, rank = NEW(0), len(angles)
    basis = orthogonal(rng, 12)
    v_t, rest = basis[:, :rank], basis[:, rank : 2 * rank]
    v_k = v_t * np.cos(angles) + rest * np.sin(angles)
    return rng.standard_normal((8, rank)) @ v_t.T, rng.standard_normal((7, rank)) @ v_k.T


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (lambda: PAIR.ratio, 0.697061994135),
        (lambda: m.target_alignment(A, TARGETS), 0.529862212069),
        (lambda: m.target_alignment(A, TARGETS[:, 0]), 0.529862212069),
        (lambda: m.target_alignment(A, TARGETS, centred=True), 0.592822575109),
        (lambda: m.debiased_cka(A, B), -0.691589549530),
        (lambda: m.effective_dimension(m.spectrum(A), 0.3), 4.381532388509),
        (lambda: m.participation_ratio(m.spectrum(A)), 3.923111775103),
        (lambda: m.drift(A, B), 0.985328455037),
        (lambda: m.kernel_distance(A, B), 0.578136527276),
    ],
)
def test_fixture_f4_of_the_theory_is_reproduced(measure, expected):
    assert measure() == pytest.approx(expected, abs=1e-10)


def test_principal_angles_of_constructed_row_spaces_are_found():
    found = TaskPair(*overlap_fixture([0.3, 0.8, 1.3])).cosines
    assert np.arccos(found) == pytest.approx([0.3, 0.8, 1.3], abs=1e-10)
    assert found == pytest.approx(np.cos([0.3, 0.8, 1.3]), abs=1e-10)


@given(generators())
def test_the_sample_major_layout_keeps_every_entry_where_the_definition_puts_it(rng):
    n1, n2, k = rng.integers(1, 5, size=3)
    theta = rng.standard_normal((n1, n2, k, k))
    matrix = m.sample_major(theta)
    assert matrix.shape == (n1 * k, n2 * k)
    for i, j, c, d in itertools.product(range(n1), range(n2), range(k), range(k)):
        assert matrix[i * k + c, j * k + d] == theta[i, j, c, d]
    assert (m.sample_major(theta[:, :, 0, 0]) == theta[:, :, 0, 0]).all()


@given(pairs(), generators(), positive)
def test_ridge_drift_factorises_into_overlap_and_spectra(pair, rng, ridge):
    a, b, c = pair.blocks
    residual = rng.standard_normal(len(b))
    ridge *= np.trace(b) / len(b)
    drift = c @ np.linalg.solve(b + ridge * np.eye(len(b)), residual)
    t, k = m.row_space(a), m.row_space(b)
    filtered = k.singular_values / (k.singular_values**2 + ridge) * (k.vectors.T @ residual)
    factored = t.vectors @ (t.singular_values * (m.overlap_matrix(t, k, c) @ filtered))
    assert factored == pytest.approx(drift, abs=1e-9 * (np.linalg.norm(drift) + 1e-12))


@given(pairs())
def test_the_squared_inter_norm_is_the_overlap_weighted_by_eigenvalues(pair):
    a, b, c = pair.blocks
    t, k = m.row_space(a), m.row_space(b)
    weighted = t.singular_values**2 @ m.overlap_matrix(t, k, c) ** 2 @ k.singular_values**2
    assert weighted == pytest.approx(np.linalg.norm(c) ** 2, rel=1e-10)


@given(pairs())
def test_the_squared_ratio_is_the_cosine_of_second_moments(pair):
    first, second = pair.j_t.T @ pair.j_t, pair.j_k.T @ pair.j_k
    cosine = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    assert pair.ratio**2 == pytest.approx(cosine, rel=1e-10)


@given(generators())
def test_debiased_cka_equals_the_sums_over_distinct_samples(rng):
    n = int(rng.integers(4, 7))
    first, second = random_pair(rng, n, n, 3).blocks[:2]

    def hsic(k, q):  # the U-statistic, term by term
        tuples = list(itertools.permutations(range(n), 4))
        return np.mean([k[i, j] * (q[i, j] + q[r, s] - 2 * q[i, r]) for i, j, r, s in tuples])

    expected = hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
    assert m.debiased_cka(first, second) == pytest.approx(expected, abs=1e-9)


@given(generators())
def test_the_grid_equals_the_ratio_of_every_pair_of_tasks(rng):
    sizes = rng.integers(1, 6, size=int(rng.integers(1, 5)))
    jacobian = rng.standard_normal((sizes.sum(), 4))
    offsets = [0, *np.cumsum(sizes).tolist()]
    grid = m.task_grid(jacobian @ jacobian.T, offsets)
    parts = np.split(jacobian, offsets[1:-1])
    for (t, j_t), (k, j_k) in itertools.product(enumerate(parts), repeat=2):
        sizes = [np.linalg.norm(kernel) for kernel in (j_t @ j_t.T, j_k @ j_k.T, j_t @ j_k.T)]
        assert grid.inter_intra_ratio[t, k] == pytest.approx(sizes[2] / np.sqrt(sizes[0] * sizes[1]), rel=1e-12)
        assert grid.kernel_norm[t, k] == pytest.approx(np.linalg.norm(j_t @ j_k.T), rel=1e-12)
    assert (grid.inter_intra_ratio == grid.inter_intra_ratio.T).all()
    assert (grid.inter_intra_ratio.diagonal() == 1).all()


def test_rounding_below_the_threshold_counts_as_no_dimension():
    jacobian = NEW(1).standard_normal((60, 6))
    eigenvalues = m.spectrum(jacobian @ jacobian.T)
    assert (np.diff(eigenvalues) <= 0).all()
    assert np.count_nonzero(eigenvalues) == 6
    tiny = 1e-17 * eigenvalues[0]
    assert m.effective_dimension(eigenvalues, tiny) == pytest.approx(6, abs=1e-10)
    clipped = np.clip(np.linalg.eigvalsh(jacobian @ jacobian.T), 0, None)
    assert m.effective_dimension(clipped, tiny) > 10  # what clipping negatives alone would give


def test_a_kernel_summed_in_float32_is_cut_where_its_own_rounding_begins():
    """Six directions: what float32 leaves of the other 54 is above float64's threshold and below its own."""
    jacobian = NEW(1).standard_normal((60, 6)).astype(np.float32)
    kernel = jacobian @ jacobian.T
    assert kernel.dtype == np.float32
    wide = kernel.astype(np.float64)
    assert np.count_nonzero(m.spectrum(wide)) > 12  # as if its sums had been float64's
    assert np.count_nonzero(m.spectrum(kernel)) == np.count_nonzero(modes(kernel).values) == 6
    eps = float(np.finfo(np.float32).eps)
    assert np.count_nonzero(modes(wide, eps).values) == 6
    read = m.Checkpoint(wide, (0, 60), np.zeros(60, int), 6, False, {}, eps)
    assert np.count_nonzero(read.spectra[0]) == len(read.row_spaces[0].singular_values) == 6


def test_noise_directions_are_cut_before_they_look_aligned():
    rng, basis = NEW(2), orthogonal(NEW(3), 12)
    j_t, j_k = rng.standard_normal((8, 3)) @ basis[:3], rng.standard_normal((8, 3)) @ basis[3:6]
    a, b, c = j_t @ j_t.T, j_k @ j_k.T, j_t @ j_k.T
    assert m.ntk_overlap(m.row_space(a), m.row_space(b), c) == pytest.approx(np.zeros(3), abs=1e-10)
    noise = 1e-13 * rng.standard_normal((2, 8, 8))
    a, b = a + noise[0] @ noise[0].T * 1e13, b + noise[1] @ noise[1].T * 1e13
    c = c + 1e-12 * rng.standard_normal((8, 8))
    assert m.ntk_overlap(m.row_space(a), m.row_space(b), c) == pytest.approx(np.zeros(3), abs=1e-8)
    uncut = (m.row_space(kernel, rtol=1e-14) for kernel in (a, b))
    assert m.ntk_overlap(*uncut, c).max() > 0.1


def test_row_space_rebuilds_the_kernel_from_orthonormal_vectors():
    space = m.row_space(A)
    assert space.vectors.T @ space.vectors == pytest.approx(np.eye(space.vectors.shape[1]), abs=1e-12)
    assert (space.vectors * space.singular_values**2) @ space.vectors.T == pytest.approx(A, abs=1e-12)
    assert (np.diff(space.singular_values) <= 0).all()


def test_a_ridge_is_a_fraction_of_the_mean_diagonal_and_warns_where_rounding_rules():
    eigenvalues = m.spectrum(A)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert m.absolute_ridge(eigenvalues, 0.3) == pytest.approx(0.3 * A.diagonal().mean(), rel=1e-12)
        assert m.absolute_ridge(eigenvalues, 2.4e-10) > 1e-10 * eigenvalues[0]
    with pytest.warns(RuntimeWarning, match="raise the fraction 2.2e-10"):
        assert m.absolute_ridge(eigenvalues, 2.2e-10) < 1e-10 * eigenvalues[0]


@pytest.mark.parametrize("rows_at_once", [1, 3, 8, 1024])
def test_symmetry_is_judged_over_all_rows_and_only_rounding_is_averaged_away(monkeypatch, rows_at_once):
    monkeypatch.setattr(m.checks, "CHECKED_ROWS", rows_at_once)
    rounding = 1e-8 * NEW(4).standard_normal((8, 8))
    for kernel in (A + rounding, rounding - A.max() - 1):
        assert (m.symmetrise(kernel) == m.symmetrise(kernel).T).all()
        assert m.symmetrise(kernel) == pytest.approx((kernel + kernel.T) / 2, abs=1e-15)
    assert (m.spectrum(A + rounding) == m.spectrum((A + rounding).T)).all()
    corner = np.zeros((8, 8))
    corner[7, 5] = 2e-6 * A.max()
    with pytest.raises(FunctionError, match="symmetric"):
        m.symmetrise(A + corner)


def test_float32_kernels_are_measured_in_float64():
    for result in (m.sample_major(A.astype(np.float32)), m.spectrum(A.astype(np.float32)), m.symmetrise(np.eye(2))):
        assert result.dtype == np.float64
    single = m.task_grid(np.block([[A, C], [C.T, B]]).astype(np.float32), (0, 8, 16))
    assert single.inter_intra_ratio[0, 1] == pytest.approx(0.697061994135, abs=1e-6)


def test_arguments_are_left_as_they_were():
    before = [x.copy() for x in (A, B, C, TARGETS)]
    m.debiased_cka(A, B), m.spectrum(A), m.ntk_overlap(m.row_space(A), m.row_space(B), C), m.same_population_ratio(A, 2)
    m.target_alignment(A, TARGETS, centred=True), m.kernel_distance(A, B), m.task_grid(A, (0, 4, 8))
    assert all((x == y).all() for x, y in zip(before, (A, B, C, TARGETS), strict=True))


NAN = np.where(np.arange(64).reshape(8, 8) == 5, np.nan, A)
LOPSIDED = A + 1e-5 * A.max() * np.tri(8, k=-1)
HUGE = np.full((8, 8), np.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.sample_major(np.ones((2, 2, 3, 4))), r"\(2, 2, 3, 4\)"),
        (lambda: m.sample_major(np.ones(4)), r"got \(4,\)"),
        (lambda: m.sample_major(np.ones((0, 2, 3, 3))), "at least one entry"),
        (lambda: m.sample_major(np.full((1, 1, 2, 2), np.nan)), "4 of 4"),
        (lambda: m.spectrum(np.ones((2, 3))), "square"),
        (lambda: m.spectrum(np.ones((0, 0))), "at least one entry"),
        (lambda: m.spectrum(A + 1j), "real numbers"),
        (lambda: m.spectrum([[1.0], [1.0, 2.0]]), "isn't an array"),
        (lambda: m.spectrum(NAN), "1 of 64"),
        (lambda: m.spectrum(HUGE), "64 of 64"),
        (lambda: m.spectrum(LOPSIDED), "symmetric"),
        (lambda: m.spectrum(np.diag([1.0, -0.5])), "semi-definite"),
        (lambda: m.absolute_ridge(np.zeros(3), 0.1), "non-zero"),
        (lambda: m.absolute_ridge(np.ones(3), 0.0), "fraction"),
        (lambda: m.effective_dimension(np.ones(3), -1.0), "the ridge"),
        (lambda: m.effective_dimension(np.ones(3), float("nan")), "the ridge"),
        (lambda: m.effective_dimension(np.array([1.0, -1.0]), 1.0), "eigenvalues >= 0"),
        (lambda: m.participation_ratio(np.zeros(3)), "non-zero"),
        (lambda: m.participation_ratio(EYE), "vector"),
        (lambda: m.task_grid(A, (0, 3, 9)), r"\(0, 3, 9\)"),
        (lambda: m.task_grid(A, (0, 3, 3, 8)), "0 < first"),
        (lambda: m.task_grid(A, (0,)), "0 < first"),
        (lambda: m.task_grid(LOPSIDED, (0, 8)), "symmetric"),
        (lambda: m.task_grid(NAN, (0, 8)), "1 of 64"),
        (lambda: m.task_grid(np.diag([1.0, 0.0]), (0, 1, 2)), "task 1's"),
        (lambda: m.target_alignment(A, TARGETS[:7]), "8 rows"),
        (lambda: m.target_alignment(A, 0 * TARGETS), "targets"),
        (lambda: m.target_alignment(A, 0.1 + 0 * TARGETS, centred=True), "targets"),
        (lambda: m.target_alignment(np.full((8, 8), 0.1), TARGETS, centred=True), "non-zero"),
        (lambda: m.debiased_cka(A, EYE), "second kernel"),
        (lambda: m.debiased_cka(LOPSIDED, A), "first kernel"),
        (lambda: m.debiased_cka(EYE, EYE), "at least 4"),
        (lambda: m.debiased_cka(A, np.eye(8) + 0.1), "non-zero"),
        (lambda: m.drift(A, EYE), "later kernel"),
        (lambda: m.drift(0 * A, A), "earlier kernel"),
        (lambda: m.kernel_distance(A, 0 * A), "non-zero"),
        (lambda: m.row_space(0 * A), "zero matrix"),
        (lambda: m.row_space(A, rtol=1.0), "between 0 and 1"),
        (lambda: m.row_space(LOPSIDED), "symmetric"),
        (lambda: m.ntk_overlap(m.row_space(A), m.row_space(B), C[:, :3]), r"got \(8, 3\)"),
        (lambda: m.ntk_overlap(m.row_space(A), m.row_space(B), NAN), "1 of 64"),
        (lambda: m.random_orientation_ratio(3.0, 9.0, 8), r"\(3\.0, 9\.0\)"),
        (lambda: m.random_orientation_ratio(float("nan"), 2.0, 8), "nan"),
        (lambda: m.same_population_ratio(A, 3), "3 rows each"),
        (lambda: m.same_population_ratio(A, 8), "at least two"),
        (lambda: m.same_population_ratio(0 * A), "non-zero"),
    ],
)
def test_input_that_a_measure_is_undefined_for_is_refused_in_one_clear_line(call, message):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        call()
    if caught.type is FunctionError:
        caught.match(message)
        assert "\n" not in str(caught.value)
        assert "expected" in str(caught.value)
