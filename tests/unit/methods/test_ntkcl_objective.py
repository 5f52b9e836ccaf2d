"""Every loss term equals a slow twin, with and without padding, and has the gradient that finite differences give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcl_jax.config import ObjectiveConfig
from ntkcl_jax.methods import ntkcl_objective as objective
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.methods.ntkcl_objective import OldRows
from ntkcl_jax.models.ntkcl import Features
from ntkcl_jax.training.step import total
from tests.support import networks as tiny
from tests.support import objective_twins as twins

VARIANTS = ("paper", "reference")
B, OLD, E, N = 6, 4, 5, 4
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def dissimilarity(variant: str, temperature: float):
    def loss(x, y, valid, old):
        return objective.dissimilarity(x, y, valid, old, temperature, variant)

    return compiled(jax.value_and_grad(loss))


@functools.cache
def orthogonality(variant: str):
    def loss(channel, patch, valid, basis):
        return objective.orthogonality(Features(channel, patch, channel), valid, basis, variant)

    return compiled(jax.value_and_grad(loss, argnums=(0, 1)))


cross_entropy = compiled(jax.value_and_grad(objective.cross_entropy))


def rows(seed: int, count: int = B) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, E)).astype(np.float32)


def old_rows(valid: list[bool], labels: tuple[int, ...] = (0, 1, 2, 3), seed: int = 9) -> OldRows:
    return OldRows(rows(seed, OLD), np.array(labels, np.int32), np.array(valid))


NO_OLD = old_rows([False] * OLD)


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    labels=st.lists(st.integers(0, 6), min_size=B, max_size=B),
    valid=st.lists(st.booleans(), min_size=B, max_size=B),
    old_valid=st.lists(st.booleans(), min_size=OLD, max_size=OLD),
    seed=st.integers(0, 99),
)
def test_dissimilarity_equals_its_twin_on_the_valid_rows(variant, labels, valid, old_valid, seed) -> None:
    x, y, valid, old = rows(seed), np.array(labels, np.int32), np.array(valid), old_rows(old_valid)
    value, gradient = dissimilarity(variant, 0.5)(x, y, valid, old)

    def twin(x: np.ndarray) -> float:
        keep = old.valid
        return twins.dissimilarity(x[valid], y[valid], old.features[keep], old.labels[keep], 0.5, variant)

    expected = twin(x.astype(np.float64))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, twins.slope(twin, x.astype(np.float64)), atol=1e-4)
    assert not np.asarray(gradient)[~valid].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_padding_and_invalid_old_rows_hold_does_not_matter(variant) -> None:
    y, valid = np.array([4, 4, 5, 5, 4, 0], np.int32), np.array([True] * 4 + [False] * 2)
    old_valid = [True, True, False, False]
    x, other = rows(1), rows(1)
    other[4:] = 1e4 * rows(2)[4:]
    noise = old_rows(old_valid)
    noise.features[2:] = -1e3
    noise.labels[2:] = 4
    first = dissimilarity(variant, 0.1)(x, y, valid, old_rows(old_valid))
    second = dissimilarity(variant, 0.1)(other, np.where(valid, y, 5).astype(np.int32), valid, noise)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[1], second[1], atol=1e-6)
    basis = np.linalg.qr(rows(3).T.astype(np.float64))[0][:, :2].astype(np.float32)
    a = orthogonality(variant)(x, rows(5), valid, basis)
    b = orthogonality(variant)(other, rows(5), valid, basis)
    np.testing.assert_allclose(a[0], b[0], atol=1e-6)
    assert not np.asarray(b[1][0])[4:].any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("labels", "valid"),
    [([0, 1, 2, 3, 4, 5], [True] * B), ([7] * B, [True] + [False] * 5), ([7] * B, [False] * B)],
    ids=["no shared class", "one valid row", "no valid row"],
)
def test_without_a_positive_pair_dissimilarity_and_its_gradient_are_zero(variant, labels, valid) -> None:
    value, gradient = dissimilarity(variant, 0.1)(rows(0), np.array(labels, np.int32), np.array(valid), NO_OLD)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((B, E)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_prototypes_get_no_gradient(variant) -> None:
    x, y, valid = (jnp.asarray(a) for a in (rows(0), np.array([4, 4, 5, 5, 6, 6], np.int32), np.ones(B, bool)))

    def loss(old_features):
        old = OldRows(old_features, jnp.arange(4, 8), jnp.ones(OLD, bool))
        return objective.dissimilarity(x, y, valid, old, 0.5, variant)

    assert not np.asarray(compiled(jax.grad(loss))(rows(1, OLD))).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_rows_have_finite_losses_and_zero_gradients(variant) -> None:
    x = rows(0)
    x[2] = 0
    old = old_rows([True] * OLD)
    old.features[1] = 0
    y = np.array([7, 7, 7, 8, 8, 9], np.int32)
    value, gradient = dissimilarity(variant, 0.1)(x, y, np.ones(B, bool), old)
    expected = twins.dissimilarity(x.astype(float), y, old.features.astype(float), old.labels, 0.1, variant)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[2].any()
    value, gradients = orthogonality(variant)(x, x, np.ones(B, bool), np.eye(E, 2, dtype=np.float32))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() and not np.asarray(g)[2].any() for g in gradients)


def test_paper_dissimilarity_falls_and_reference_dissimilarity_rises_with_same_class_similarity() -> None:
    """The release's sign is turned; `paper` is the contrastive loss that the name promises."""
    y = np.array([4, 4, 5, 5, 6, 6], np.int32)
    near, far = rows(0), rows(0)
    near[1::2] = near[::2] + 0.1 * rows(1)[::2]
    slopes = {
        v: [float(dissimilarity(v, 0.5)(x, y, np.ones(B, bool), NO_OLD)[0]) for x in (near, far)] for v in VARIANTS
    }
    assert slopes["paper"][0] < slopes["paper"][1]
    assert slopes["reference"][0] > slopes["reference"][1]


@pytest.mark.parametrize("variant", VARIANTS)
@given(valid=st.lists(st.booleans(), min_size=B, max_size=B), seed=st.integers(0, 99), columns=st.integers(0, 3))
def test_orthogonality_equals_its_twin_on_the_valid_rows(variant, valid, seed, columns) -> None:
    channel, patch, valid = rows(seed), rows(seed + 100), np.array(valid)
    basis = np.linalg.qr(rows(seed + 200).T.astype(np.float64))[0][:, :3]
    basis[:, columns:] = 0
    value, gradients = orthogonality(variant)(channel, patch, valid, basis.astype(np.float32))
    c, p = channel.astype(np.float64), patch.astype(np.float64)
    np.testing.assert_allclose(value, twins.orthogonality(c[valid], p[valid], basis, variant), atol=1e-5)
    np.testing.assert_allclose(
        gradients[0], twins.slope(lambda x: twins.orthogonality(x[valid], p[valid], basis, variant), c), atol=1e-4
    )
    np.testing.assert_allclose(
        gradients[1], twins.slope(lambda x: twins.orthogonality(c[valid], x[valid], basis, variant), p), atol=1e-4
    )


def test_paper_orthogonality_is_zero_for_a_zero_basis_and_one_inside_the_span() -> None:
    x, valid = rows(0), np.ones(B, bool)
    assert orthogonality("paper")(x, x, valid, np.zeros((E, 3), np.float32))[0] == 0
    inside = np.zeros((B, E), np.float32)
    inside[:, :2] = x[:, :2]
    outside = x - inside
    value = orthogonality("paper")(inside, outside, valid, np.eye(E, 3, dtype=np.float32)[:, [0, 1, 1]] * [1, 1, 0])[0]
    np.testing.assert_allclose(value, 1, atol=1e-6)


def test_the_paper_basis_spans_the_old_prototypes_and_has_no_more_columns_than_their_rank() -> None:
    prototypes = np.zeros((6, 8), np.float32)
    prototypes[:4] = np.random.default_rng(0).normal(size=(4, 8)) * [[1], [100], [0.01], [1]]
    prototypes[3] = 3 * prototypes[0] - prototypes[1]
    basis = objective.orthogonality_basis(prototypes, old=4, allocated=6, rank=5, variant="paper")
    assert basis.shape == (8, 5)
    assert basis.dtype == np.float32
    np.testing.assert_allclose(basis.T @ basis, np.diag([1, 1, 1, 0, 0]), atol=1e-5)
    left = prototypes[:4] - prototypes[:4] @ basis @ basis.T
    np.testing.assert_allclose(left / np.linalg.norm(prototypes[:4], axis=1)[:, None], 0, atol=1e-5)
    most = objective.orthogonality_basis(prototypes, old=4, allocated=6, rank=2, variant="paper")
    np.testing.assert_allclose(np.abs(np.sum(most * basis[:, :2], axis=0)), 1, atol=1e-5)


def test_the_basis_of_task_0_is_zero_in_the_paper_and_unit_vectors_in_the_reference() -> None:
    prototypes = np.zeros((6, 8), np.float32)
    paper, reference = (objective.orthogonality_basis(prototypes, 0, 3, 5, v) for v in VARIANTS)
    np.testing.assert_array_equal(paper, np.zeros((8, 5)))
    np.testing.assert_array_equal(reference, np.eye(8, 5))


def test_the_reference_basis_is_orthonormal_whatever_the_rank_and_starts_with_the_span() -> None:
    prototypes = np.zeros((6, 8), np.float32)
    prototypes[:3] = np.random.default_rng(0).normal(size=(3, 8))
    basis = objective.orthogonality_basis(prototypes, old=3, allocated=6, rank=40, variant="reference")
    assert basis.shape == (8, 8)
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-5)
    first = basis[:, :3]
    np.testing.assert_allclose(prototypes[:3] @ first @ first.T, prototypes[:3], atol=1e-5)


@given(valid=st.lists(st.booleans(), min_size=B, max_size=B), seed=st.integers(0, 99), size=st.integers(1, N))
def test_cross_entropy_is_the_mean_over_valid_rows_and_the_tasks_classes(valid, seed, size) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(B, N)).astype(np.float32), rng.integers(0, size, B).astype(np.int32)
    valid, classes = np.array(valid), np.arange(N) < size
    targets[~valid] = N - 1  # perhaps a class that the task hasn't: it must not turn the loss infinite
    value, gradient = cross_entropy(logits, targets, valid, classes)

    def twin(x: np.ndarray) -> float:
        return twins.cross_entropy(x, targets, valid, classes)

    np.testing.assert_allclose(value, twin(logits.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(gradient, twins.slope(twin, logits.astype(np.float64)), atol=1e-5)


def test_regularization_pulls_kernels_of_streams_and_fusion_and_in_the_reference_norm_scales() -> None:
    tree = {
        "current/adapters/0/up/kernel": (1, 2),
        "current/adapters/0/up/bias": (10,),
        "current/prompts/0/token_map/kernel": (3, 1),
        "current/prompts/0/norm_scale": (4,),
        "current/prompts/0/norm_bias": (20,),
        "fusion/value/kernel": (2, 2),
        "fusion/value/bias": (30,),
        "proxy/kernel": (40,),
        "proxy/scale": (50,),
    }
    anchor = {path: jnp.full(shape, 3.0) for path, shape in tree.items()}
    live = {path: jnp.full(shape, 1.0) for path, shape in tree.items()}
    expected = {"paper": 4.0 * (2 + 3 + 4), "reference": 4.0 * (2 + 3 + 4 + 4)}
    for variant, value in expected.items():
        pull = compiled(jax.value_and_grad(objective.regularization), static_argnums=2)
        made, gradient = pull(live, anchor, variant)
        assert made == value
        pulled = {path for path, g in gradient.items() if np.asarray(g).any()}
        assert pulled == {path for path in tree if objective.is_regularized(path, variant)}
        assert all(set(np.unique(gradient[path])) == {-4.0} for path in pulled)


def test_the_total_weighs_each_term_by_its_own_setting() -> None:
    settings = ObjectiveConfig(lambda_dis=0.5, lambda_orth=0.25, lambda_reg=0.125)
    learner = NTKCL(tiny.SHALLOW.backbone, tasks=2, classes=5, task_classes=3, model=tiny.SHALLOW, objective=settings)
    terms = {name: jnp.float32(10**i) for i, name in enumerate(objective.TERMS)}
    assert total(learner, terms) == 111 + 0.5 * 1e3 + 0.25 * 1e4 + 0.125 * 1e5
