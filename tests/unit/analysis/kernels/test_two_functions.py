"""`empirical_ntk` between the outputs of two functions of the same parameters: exact, planned, and checked on both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis import composite, empirical_ntk
from analysis.errors import FunctionError, PlanError
from analysis.kernels.planner import plan
from tests.support.dense import attention_net, dense_jacobian, examples, mlp, reduced, relative_error

OUTPUTS = ("full", "trace", "diagonal", "pseudo")
NET, PARAMS = mlp((5, 8, 3))
X1, X2 = examples(5, (5,)), examples(4, (5,), seed=1)
READ = jnp.asarray(examples(8, (2,), seed=7))


def hidden(params: dict, x: jax.Array, *, read: jax.Array) -> jax.Array:
    """Another readout of the first layer; the last layer's parameters have no part in it."""
    return jnp.sin(x @ params["layer0"]["kernel"] + params["layer0"]["bias"]) @ read


def squared(params: dict, x: jax.Array) -> jax.Array:
    """As many outputs as the network has."""
    return jnp.square(NET(params, x)) + x[:, :1]


TWO = Partial(hidden, read=READ)


def definition(fn: Any, fn2: Any, x2: Any) -> np.ndarray:
    first, other = dense_jacobian(fn, PARAMS, X1), dense_jacobian(fn2, PARAMS, X1 if x2 is None else x2)
    return np.einsum("icp,jdp->ijcd", first, other)


@pytest.mark.parametrize("tile", [2, 5])
@pytest.mark.parametrize("x2", [None, X2], ids=["one set", "two sets"])
def test_the_kernel_is_that_of_both_dense_jacobians(x2: Any, tile: int) -> None:
    theta = definition(NET, TWO, x2)
    got = empirical_ntk(NET, PARAMS, X1, x2, apply_fn2=TWO, tile=tile)
    assert got.shape == (5, 5 if x2 is None else 4, 3, 2)
    assert relative_error(got, theta) < 1e-5
    pseudo = empirical_ntk(NET, PARAMS, X1, x2, apply_fn2=TWO, outputs="pseudo", tile=tile)
    assert relative_error(pseudo, theta.sum(axis=(2, 3)) / (3 * 2) ** 0.5) < 1e-5


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_functions_of_equally_many_outputs_have_every_kind_of_kernel(outputs: Any) -> None:
    got = empirical_ntk(NET, PARAMS, X1, X2, apply_fn2=squared, outputs=outputs, tile=3)
    assert relative_error(got, reduced(definition(NET, squared, X2), outputs)) < 1e-5


def test_in_float64_it_is_exact_to_ten_digits() -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PARAMS)
        fn2 = Partial(hidden, read=np.asarray(READ, np.float64))
        got = empirical_ntk(NET, params, X1.astype(np.float64), apply_fn2=fn2, tile=2)
    assert relative_error(got, definition(NET, TWO, None)) < 1e-10


def test_one_set_is_not_taken_for_a_symmetric_kernel() -> None:
    seen: list[tuple[int, int]] = []
    got = empirical_ntk(NET, PARAMS, X1, apply_fn2=squared, tile=2, advance=lambda *count: seen.append(count))
    assert seen == [(done, 9) for done in range(1, 10)]
    assert np.abs(got - got.transpose(1, 0, 3, 2)).max() > 0.01 * np.abs(got).max()


def test_swapping_functions_and_sets_transposes_the_kernel() -> None:
    across = empirical_ntk(NET, PARAMS, X1, X2, apply_fn2=TWO, tile=2)
    back = empirical_ntk(TWO, PARAMS, X2, X1, apply_fn2=NET, tile=2)
    assert relative_error(across, back.transpose(1, 0, 3, 2)) < 1e-12


def test_a_function_with_itself_has_its_own_kernel() -> None:
    twice, once = (empirical_ntk(NET, PARAMS, X1, apply_fn2=fn2, tile=2) for fn2 in (NET, None))
    assert relative_error(twice, once) < 1e-12


def test_groups_add_up_and_what_one_function_does_not_use_adds_nothing() -> None:
    groups = {"first": ["layer0"], "last": ["layer1"]}
    parts = empirical_ntk(NET, PARAMS, X1, X2, apply_fn2=TWO, groups=groups, tile=2)
    assert not parts["last"].any()
    assert relative_error(parts["first"], definition(NET, TWO, X2)) < 1e-5
    np.testing.assert_array_equal(parts["first"], parts["whole"])


@pytest.mark.parametrize("memory", [20_000, 10**9])
def test_the_planned_memory_changes_nothing_but_rounding(memory: int) -> None:
    got = empirical_ntk(NET, PARAMS, X1, X2, apply_fn2=TWO, memory_bytes=memory)
    assert relative_error(got, definition(NET, TWO, X2)) < 1e-5


def planned(fn2: Any, n1: int = 60, n2: int | None = 40, **options: Any) -> Any:
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    return plan(FN, WEIGHTS, image, n1, n2, apply_fn2=fn2, memory_bytes=10**9, **options)


FN, WEIGHTS = attention_net(3)


def wide(params: dict, x: jax.Array, *, frozen: dict) -> jax.Array:
    return FN.func(params, x, frozen=frozen) @ jnp.ones((3, 7))


WIDE = Partial(wide, **FN.keywords)


def test_a_plan_counts_the_passes_and_rows_of_both() -> None:
    one, other, both = planned(None), planned(WIDE, n1=40, n2=60), planned(WIDE)
    p = sum(leaf.size for leaf in jax.tree.leaves(WEIGHTS))
    assert both.flops_products == 2 * 60 * 40 * 3 * 7 * p
    assert both.kernel_bytes == 60 * 40 * 3 * 7 * 8
    # Rows of the first for 60 and of the second for 40 examples, and the other way around: all of both for 100.
    first = one.flops_jacobian / 100
    second = (both.flops_jacobian + other.flops_jacobian) / 100 - first
    assert 1.5 * first < second < 7 / 3 * first
    # A tile does some of its work for all its examples at once: a hundred-thousandth here.
    assert both.flops_jacobian == pytest.approx(60 * first + 40 * second, rel=1e-4)
    assert both.passes == 1.0
    assert [option.way for option in both.options] == ["tiled", "features"]


def test_a_plan_without_columns_takes_the_rows_examples_and_saves_no_half() -> None:
    assert planned(WIDE, n1=60, n2=None).flops_products == planned(WIDE, n1=60, n2=60).flops_products


def test_the_peak_has_held_rows_of_the_first_and_passing_ones_of_the_second() -> None:
    chosen = planned(WIDE, tile=5)
    p = sum(leaf.size for leaf in jax.tree.leaves(WEIGHTS))
    rows = 5 * p * (chosen.held * 3 + 7) * 4
    products = 5 * p * (3 + 7) * 8 + 2 * 25 * 21 * 8
    assert chosen.peak_bytes >= chosen.kernel_bytes + rows + products
    assert chosen.held == 12


@pytest.mark.parametrize("outputs", ["trace", "diagonal"])
def test_outputs_that_pair_off_need_equally_many(outputs: Any) -> None:
    with pytest.raises(PlanError, match="apply_fn has 3 and apply_fn2 2: choose outputs full or pseudo"):
        empirical_ntk(NET, PARAMS, X1, apply_fn2=TWO, outputs=outputs)


@pytest.mark.parametrize("way", ["neural_tangents", "sketched", "products"])
def test_other_ways_know_one_function_only(way: Any) -> None:
    with pytest.raises(PlanError, match=f"way {way} knows no"):
        planned(WIDE, way=way)
    if way == "neural_tangents":
        with pytest.raises(PlanError, match=r"neural_tangents knows .* apply_fn2"):
            empirical_ntk(NET, PARAMS, X1, apply_fn2=TWO, way=way)


def test_features_are_asked_of_both_functions() -> None:
    through = composite(FN, lambda params, z: jnp.tile(z, 2))
    options = {"memory_bytes": 10**9, "way": "features"}
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
    assert plan(through, WEIGHTS, image, 8, apply_fn2=through, **options).way == "features"
    with pytest.raises(PlanError, match="features and head"):
        plan(through, WEIGHTS, image, 8, apply_fn2=WIDE, **options)


@pytest.mark.parametrize(
    ("fn2", "words"),
    [
        (lambda p, x: x @ p["other"], "^apply_fn2: .* fails on x"),
        (lambda p, x: NET(p, x) - NET(p, x).mean(axis=0), "^apply_fn2: expected independent rows"),
        (lambda p, x: jnp.log(-jnp.square(NET(p, x))), "^apply_fn2: expected finite outputs"),
        (lambda p, x: jnp.sqrt(0 * NET(p, x)), "finite Jacobians; those of examples 0 to 3"),
    ],
)
def test_a_second_function_without_a_kernel_is_refused_by_name(fn2: Any, words: str) -> None:
    with pytest.raises(FunctionError, match=words) as error:
        empirical_ntk(NET, PARAMS, X1, X2, apply_fn2=fn2)
    assert "\n" not in str(error.value)
