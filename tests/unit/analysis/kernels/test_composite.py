"""Composites keep d rows of the features instead of k of the outputs: the same kernel, at less memory and work."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis import composite, empirical_ntk, sketched_ntk
from analysis.kernels.composite import Composite, Factored
from analysis.kernels.functions import direct_leaves, inspect
from analysis.kernels.health import check_kernel
from analysis.kernels.jacobian import _products, held_rows, lowered_rows, products
from analysis.kernels.planner import plan
from analysis.kernels.tiled import RowSource
from analysis.kernels.tracing import leaves_used
from tests.support.dense import dense_jacobian, dense_ntk, examples, mlp, reduced, relative_error

D, K, K2 = 2, 12, 7
OUTPUTS = ("full", "trace", "diagonal", "pseudo")
NET, BODY = mlp((5, 6, D), seed=4)
PARAMS = {"body": BODY, "head": jnp.asarray(examples(D, (K,), seed=5)), "scale": jnp.float32(0.7)}
X1, X2 = examples(5, (5,)), examples(3, (5,), seed=1)
READ = jnp.asarray(examples(D, (K2,), seed=6))


def features(params: dict, x: jax.Array) -> jax.Array:
    """The scale is taken here and by a head: it reaches the outputs in two ways."""
    return NET(params["body"], x) * params["scale"]


def linear(params: dict, z: jax.Array) -> jax.Array:
    return z @ params["head"]


def scaled(params: dict, z: jax.Array, *, read: jax.Array) -> jax.Array:
    return jnp.tanh(z @ read) * params["scale"] + z[:, :1]


def fixed(params: dict, z: jax.Array, *, read: jax.Array) -> jax.Array:
    return jnp.tanh(z @ read)


def whole(params: dict, x: jax.Array, *, fn: Composite) -> jax.Array:
    return fn(params, x)


LINEAR, SCALED, FIXED = (
    composite(features, head) for head in (linear, Partial(scaled, read=READ), Partial(fixed, read=READ))
)
GROUPS = {"body": ["body"], "head": ["head"], "scale": ["scale"]}


@pytest.mark.parametrize("fn", [LINEAR, SCALED, FIXED], ids=["linear", "scaled", "fixed"])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_every_head_gives_the_dense_kernel_whatever_it_takes_itself(fn: Composite, outputs: Any) -> None:
    dense = dense_ntk(Partial(whole, fn=fn), PARAMS, X1, X2)
    assert relative_error(empirical_ntk(fn, PARAMS, X1, X2, outputs=outputs, tile=2), reduced(dense, outputs)) < 1e-5


@pytest.mark.parametrize("outputs", ["full", "diagonal"])
def test_groups_are_the_kernels_of_their_parameters(outputs: Any) -> None:
    rows = dense_jacobian(Partial(whole, fn=SCALED), PARAMS, X1)
    body = sum(leaf.size for leaf in jax.tree.leaves(BODY))  # leaves in order: body, head, scale
    cuts = {"body": rows[..., :body], "head": rows[..., body:-1], "scale": rows[..., -1:], "whole": rows}
    parts = empirical_ntk(SCALED, PARAMS, X1, outputs=outputs, groups=GROUPS, tile=2)
    assert set(parts) == set(cuts)
    largest = np.abs(parts["whole"]).max()
    for name, j in cuts.items():
        wanted = reduced(np.einsum("icp,jdp->ijcd", j, j), outputs)
        assert np.abs(parts[name] - wanted).max() < 1e-5 * largest, name


def test_two_heads_on_the_same_features_have_the_kernel_between_them() -> None:
    first, second = (dense_jacobian(Partial(whole, fn=fn), PARAMS, X1) for fn in (LINEAR, SCALED))
    wanted = np.einsum("icp,jdp->ijcd", first, second)
    assert relative_error(empirical_ntk(LINEAR, PARAMS, X1, apply_fn2=SCALED, tile=2), wanted) < 1e-5
    # Beside a function without features, rows of the outputs are the only ones that fit both.
    plain = empirical_ntk(LINEAR, PARAMS, X1, apply_fn2=Partial(whole, fn=SCALED), tile=2)
    assert relative_error(plain, wanted) < 1e-5


def test_in_float64_it_is_exact_to_ten_digits() -> None:
    with jax.enable_x64(True):
        fn, params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (SCALED, PARAMS))
        got = empirical_ntk(fn, params, X1.astype(np.float64), tile=2)
    assert relative_error(got, dense_ntk(Partial(whole, fn=SCALED), PARAMS, X1)) < 1e-10


def test_a_sketch_of_a_composite_is_that_of_the_function_written_out() -> None:
    options = {"width": 64, "seed": 0}
    sketches = [sketched_ntk(fn, PARAMS, X1, **options).kernel for fn in (SCALED, Partial(whole, fn=SCALED))]
    assert relative_error(*sketches) < 1e-5


def sizes(fn: Any) -> Any:
    return inspect(fn, PARAMS, X1)


def test_leaves_that_the_head_takes_are_found() -> None:
    names = sorted(PARAMS)  # one leaf each but for the body's four
    head, scale = (4, 5)
    assert names == ["body", "head", "scale"]
    assert [sizes(fn).head_leaves for fn in (LINEAR, SCALED, FIXED)] == [(head,), (scale,), ()]
    assert leaves_used(jax.jit(linear), PARAMS, X1[:, :D]) == (head,)  # also from inside of another function


@pytest.mark.parametrize(
    ("fns", "outputs", "wanted"),
    [
        ((LINEAR,), "full", (4,)),
        ((LINEAR, SCALED), "full", (4, 5)),
        ((LINEAR,), "trace", (4,)),  # 2 · 2 products of features, 12 of outputs
        ((LINEAR,), "pseudo", None),
        ((Partial(whole, fn=LINEAR),), "full", None),
        ((LINEAR, Partial(whole, fn=LINEAR)), "full", None),
        ((composite(features, lambda p, z: z),), "full", None),  # as many features as outputs
        ((composite(features, lambda p, z: jnp.tile(z, 2)),), "full", ()),
        ((composite(features, lambda p, z: jnp.tile(z, 2)),), "diagonal", None),
    ],
)
def test_rows_of_the_features_are_held_where_that_is_less_work(fns: tuple, outputs: str, wanted: Any) -> None:
    shapes = [sizes(fn) for fn in fns]
    assert direct_leaves(outputs, shapes[0], shapes[-1]) == wanted


def test_a_plan_has_the_features_rows_and_products() -> None:
    p = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    n, taken = 100, 1
    factored, plain = (
        plan(fn, PARAMS, X1, n, memory_bytes=10**9, tile=4) for fn in (SCALED, Partial(whole, fn=SCALED))
    )
    between = K2 * D * D + K2 * K2 * D
    assert factored.flops_products == n * n * (D * D * (p - taken) + K2 * K2 * taken + between)
    assert plain.flops_products == n * n * K2 * K2 * p
    rows = 4 * (factored.held + 1) * 4 * (D * (p - taken) + K2 * taken + K2 * D)
    assert factored.kernel_bytes + rows < factored.peak_bytes < plain.peak_bytes
    # Ways that know nothing of features cost what they do of any function.
    ways = {option.way: option for option in factored.options}
    assert ways["sketched"].peak_bytes > 8 * n * K2 * 4096
    assert ways["features"].peak_bytes == ways["tiled"].peak_bytes


def big(heads: str) -> tuple[Composite, dict]:
    """Eight features of a few tokens, read out to 64 outputs."""
    body, weights = mlp((16, 32, 32, 8), seed=2)
    read = jnp.asarray(examples(8, (64,), seed=3))

    def tokens(params: dict, x: jax.Array) -> jax.Array:
        return body(params["body"], x).mean(axis=1)

    params = {"body": weights, **({"head": read} if heads == "trained" else {})}
    return composite(tokens, lambda p, z: jnp.tanh(z) @ p.get("head", read)), params


@pytest.mark.parametrize("heads", ["trained", "fixed"])
def test_the_planned_memory_is_that_of_the_rows_in_factors(heads: str) -> None:
    fn, params = big(heads)
    x = jax.ShapeDtypeStruct((16, 10, 16), np.float32)
    shape = inspect(fn, params, x)
    leaves, direct = tuple(positions for _, positions in shape.groups), direct_leaves("full", shape)
    memory = lowered_rows(fn, params, x, leaves, False, None, direct, True).compile().memory_analysis()
    program = plan(fn, params, x, 16, tile=16, memory_bytes=10**9).problem.compiled(16).programs[0]
    assert program.size == memory.temp_size_in_bytes + memory.output_size_in_bytes + 16 * 10 * 16 * 4


@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal"])
def test_products_need_no_more_memory_than_planned(outputs: Any) -> None:
    fn, params = big("trained")
    x = jax.ShapeDtypeStruct((16, 10, 16), np.float32)
    shape = inspect(fn, params, x)
    leaves, direct = tuple(positions for _, positions in shape.groups), direct_leaves(outputs, shape)
    rows = jax.eval_shape(lambda fn, p, x: held_rows(fn, p, x, leaves, False, direct), fn, params, x)
    with jax.enable_x64(True):
        memory = _products.lower(rows, rows, outputs, "float64", None).compile().memory_analysis()
    chosen = plan(fn, params, x, 16, 16, outputs=outputs, tile=16, memory_bytes=10**9, kernel_in_memory=False)
    held = 2 * sum(row.size * 4 for row in jax.tree.leaves(rows))
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes + held <= chosen.peak_bytes


@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal"])
def test_the_gate_takes_rows_in_factors(outputs: Any) -> None:
    shape = sizes(SCALED)
    source = RowSource(SCALED, PARAMS, shape, 4, direct=direct_leaves(outputs, shape))
    rows = source.rows(X1[:4])
    assert isinstance(rows, Factored) == (outputs == "full" or D * D < K2)
    right = reduced(dense_ntk(Partial(whole, fn=SCALED), PARAMS, X1), outputs)
    assert check_kernel(right, source, X1, outputs=outputs).reason == ""
    assert "recomputation" in check_kernel(1.001 * right, source, X1, outputs=outputs).reason


def test_float32_sums_are_taken_through_the_features_too() -> None:
    shape = sizes(SCALED)
    rows = RowSource(SCALED, PARAMS, shape, 4, direct=direct_leaves("full", shape)).rows(X1[:4])
    (rounded,), (exact,) = (products(rows, rows, "full", precision) for precision in ("float32", "float64"))
    assert (rounded.dtype, exact.dtype) == (np.float32, np.float64)
    assert 0 < relative_error(rounded, np.asarray(exact)) < 1e-5
