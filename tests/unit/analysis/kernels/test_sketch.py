"""Sketched kernels against the dense float64 kernel: unbiased, with an error that is the one they state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError, PlanError
from analysis.kernels.sketch import sketched_ntk
from tests.support.dense import attention_net, dense_ntk, examples, mlp, reduced, relative_error

KINDS = ["full", "trace", "diagonal", "pseudo"]
SEEDS = range(24)


@pytest.fixture(scope="module")
def net():
    """A network of 899 parameters; sets of 9 and 6 examples; its dense kernels of the two."""
    fn, params = mlp((10, 64, 3))
    x1, x2 = examples(9, (10,)), examples(6, (10,), seed=1)
    return fn, params, x1, x2, {False: dense_ntk(fn, params, x1), True: dense_ntk(fn, params, x1, x2)}


def linear(p, x):
    return x @ p


def frobenius(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def root_mean_square(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_the_one_that_is_stated(net, kind, between):
    fn, params, x1, x2, theta = net
    want = reduced(theta[between], kind)
    found = [
        sketched_ntk(fn, params, x1, x2 if between else None, width=256, seed=seed, outputs=kind) for seed in SEEDS
    ]
    true = root_mean_square([frobenius(one.kernel, want) for one in found])
    predicted = root_mean_square([one.predicted_error for one in found])
    measured = root_mean_square([one.measured_error for one in found])
    assert 0.75 < measured / true < 1.35
    assert (0.9 if kind == "trace" else 0.8) < predicted / true < (1.8 if kind == "trace" else 1.3)
    mean = np.mean([one.kernel for one in found], axis=0)  # unbiased: the mean's error is that of a wider sketch
    assert frobenius(mean, want) < 2 * true / np.sqrt(len(found))


def test_gradients_of_one_sign_do_not_bias_the_kernel():
    x = np.abs(examples(6, (400,)))
    found = [sketched_ntk(linear, jnp.zeros((400, 1)), x, width=64, seed=seed) for seed in SEEDS]
    error = root_mean_square([frobenius(one.kernel[:, :, 0, 0], x.astype(np.float64) @ x.T) for one in found])
    assert 0.7 < error / root_mean_square([one.predicted_error for one in found]) < 1.3


def test_outputs_that_are_equal_do_not_average_the_error_away():
    x = examples(6, (400,))
    found = [
        sketched_ntk(lambda p, x: jnp.tile(x @ p, 3), jnp.zeros((400, 1)), x, width=64, seed=seed, outputs="trace")
        for seed in SEEDS
    ]
    error = root_mean_square([frobenius(one.kernel, x.astype(np.float64) @ x.T) for one in found])
    assert 0.65 < error / root_mean_square([one.predicted_error for one in found]) < 1.1


def test_the_error_shrinks_like_one_over_the_root_of_the_width(net):
    fn, params, x1, _, theta = net
    want = theta[False]
    errors = [
        root_mean_square([frobenius(sketched_ntk(fn, params, x1, width=w, seed=s).kernel, want) for s in SEEDS])
        for w in (32, 128)
    ]
    assert 1.6 < errors[0] / errors[1] < 2.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_as_wide_as_the_parameters_is_exact(kind):
    fn, params = attention_net(blocks=1)
    x1, x2 = examples(4, (8, 8, 1)), examples(3, (8, 8, 1), seed=1)
    width = 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    found = sketched_ntk(fn, params, x1, x2, width=width, seed=0, outputs=kind, tile=3)
    assert relative_error(found.kernel, reduced(dense_ntk(fn, params, x1, x2), kind)) < 1e-5
    assert found.predicted_error == 0.0 and found.measured_error < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_any_tile_gives_the_same_kernel_to_rounding_and_any_call_the_same_bits(net, kind):
    fn, params, x1, x2, _ = net
    make = partial(sketched_ntk, fn, params, x1, x2, width=64, seed=3, outputs=kind)
    first = make()
    np.testing.assert_array_equal(first.kernel, make().kernel)
    for tile in (1, 4, 20):
        assert relative_error(make(tile=tile).kernel, first.kernel) < 1e-5
    other = sketched_ntk(fn, params, x1, x2, width=64, seed=4, outputs=kind)
    assert relative_error(other.kernel, first.kernel) > 1e-3


def test_sets_share_one_projection(net):
    fn, params, x1, x2, _ = net
    both = np.concatenate([x1, x2])
    whole = sketched_ntk(fn, params, both, width=64, seed=0).kernel
    assert relative_error(sketched_ntk(fn, params, x1, x2, width=64, seed=0).kernel, whole[:9, 9:]) < 1e-5
    assert relative_error(sketched_ntk(fn, params, x2, width=64, seed=0).kernel, whole[9:, 9:]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_of_one_set_is_symmetric_and_positive_semidefinite(net, kind, monkeypatch):
    monkeypatch.setattr("analysis.kernels.sketch.BLOCK_ROWS", 7)  # several blocks, the last one smaller
    fn, params, x1, _, _ = net
    kernel = sketched_ntk(fn, params, x1, width=8, seed=0, outputs=kind).kernel
    matrices = {
        "full": lambda: [kernel.transpose(0, 2, 1, 3).reshape(27, 27)],
        "diagonal": lambda: list(np.moveaxis(kernel, 2, 0)),
    }.get(kind, lambda: [kernel])()
    for matrix in matrices:
        np.testing.assert_array_equal(matrix, matrix.T)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues[0] > -1e-12 * eigenvalues[-1] and eigenvalues[-1] > 0


def test_blocks_of_the_product_do_not_show(net, monkeypatch):
    fn, params, x1, x2, _ = net
    for second in (None, x2):
        make = partial(sketched_ntk, fn, params, x1, second, width=64, seed=3)
        whole = make()
        with monkeypatch.context() as patch:
            patch.setattr("analysis.kernels.sketch.BLOCK_ROWS", 7)
            parts = make()
        assert relative_error(parts.kernel, whole.kernel) < 1e-12
        assert parts.measured_error == pytest.approx(whole.measured_error, rel=1e-9)
        assert parts.predicted_error == pytest.approx(whole.predicted_error, rel=1e-9)


def test_in_float64_rows_are_projected_in_float64(net):
    fn, params, x1, _, theta = net
    with jax.enable_x64(True):
        params, x1 = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, x1))
        found = sketched_ntk(fn, params, x1, width=2 * 899, seed=0)
    assert relative_error(found.kernel, theta[False]) < 1e-10


def test_meaningless_requests_and_inputs_without_a_kernel_are_refused(net):
    fn, params, x1, _, _ = net
    for width in (0, 7):
        with pytest.raises(PlanError, match="even width"):
            sketched_ntk(fn, params, x1, width=width, seed=0)
    with pytest.raises(PlanError, match="tile"):
        sketched_ntk(fn, params, x1, width=4, seed=0, tile=0)
    with pytest.raises((PlanError, TypeCheckError), match=r"full.*trace.*pseudo"):  # the latter under --shape-checks
        sketched_ntk(fn, params, x1, width=4, seed=0, outputs="sum")
    with pytest.raises(FunctionError, match="no leaves"):
        sketched_ntk(fn, {}, x1, width=4, seed=0)
    with pytest.raises(FunctionError, match="finite parameters"):
        sketched_ntk(fn, jax.tree.map(lambda leaf: leaf * jnp.nan, params), x1, width=4, seed=0)
    with pytest.raises(FunctionError, match="independent rows"):
        sketched_ntk(lambda p, x: fn(p, x) - fn(p, x).mean(axis=0), params, x1, width=4, seed=0)
    with pytest.raises(FunctionError, match="finite Jacobians"):
        sketched_ntk(lambda p, x: jnp.sqrt(jnp.square(x @ p)), jnp.zeros((10, 3)), x1, width=4, seed=0)
