"""What a program tells before it runs: operations by XLA's count, and which parameters it uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis.kernels.tracing import leaves_used, operations, pass_operations
from tests.support.dense import attention_net, mlp


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(fn, *args):
    return operations(jax.jit(fn).lower(*args))


def test_a_product_has_two_operations_for_each_pair_of_factors():
    assert counted(jnp.matmul, array(3, 5), array(5, 7)) == 2 * 3 * 5 * 7


def test_a_convolution_counts_its_window_and_channels():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert counted(convolve, array(2, 8, 8, 3), array(3, 3, 3, 4)) == 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)


def test_a_forward_pass_has_products_and_biases_and_a_backward_pass_their_counterparts():
    fn, params = mlp((5, 8, 3))
    forward, backward = pass_operations(Partial(fn), params, array(1, 5))
    assert 2 * (5 * 8 + 8 * 3) + 8 + 3 <= forward <= 2 * (5 * 8 + 8 * 3) + 8 + 3 + 8  # tanh may count apart
    # Both outer products, and the hidden layer's gradient; elementwise derivatives of 8 units come on top.
    least = 2 * (5 * 8 + 8 * 3) + 2 * 8 * 3
    assert least <= backward <= least + 8 * 8


def test_what_does_not_depend_on_the_parameters_has_no_backward_pass():
    fn = Partial(lambda w, x, frozen: (x @ frozen) @ w, frozen=np.ones((50, 4), np.float32))
    assert pass_operations(fn, array(4, 3), array(1, 50)) == (2 * (50 * 4 + 4 * 3), 2 * 4 * 3)


def test_passes_of_an_attention_network_are_proportional_to_the_examples():
    fn, params = attention_net()
    one, four = (pass_operations(fn, params, array(n, 8, 8, 1)) for n in (1, 4))
    np.testing.assert_allclose(four, np.multiply(4, one), rtol=0.02)


with_jvp = jax.custom_jvp(lambda a: a["b"] @ a["b"])
with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[0]["b"]))
with_vjp = jax.custom_vjp(lambda a: a["b"] @ a["b"])
with_vjp.defvjp(lambda a: (with_vjp(a), None), lambda _, g: ({"a": g, "b": g},))


@pytest.mark.parametrize(
    "nested",
    [
        lambda tree: tree["b"] @ tree["b"],
        jax.jit(lambda tree: tree["b"] @ tree["b"]),
        jax.checkpoint(lambda tree: tree["b"] @ tree["b"]),
        jax.jit(lambda tree: (tree["a"] + 1, tree["b"] * 2)[1]),
        with_jvp,
        with_vjp,
    ],
    ids=["plain", "jit", "checkpoint", "one result of two", "custom_jvp", "custom_vjp"],
)
def test_leaves_are_followed_into_what_is_nested(nested):
    assert leaves_used(nested, {"a": array(3, 3), "b": array(3, 3)}) == (1,)


def test_what_a_loop_takes_counts_as_used_and_what_nobody_needs_does_not():
    def steps(tree):
        unused = tree["c"] @ tree["c"]  # noqa: F841
        return jax.lax.scan(lambda carry, _: (carry @ tree["b"], None), tree["a"], length=7)[0]

    assert leaves_used(steps, dict.fromkeys("abcd", array(3, 3))) == (0, 1)


def test_a_leaf_that_is_returned_as_it_is_is_used():
    assert leaves_used(lambda tree, x: (tree["a"], x), {"a": 1.0, "b": 2.0}, 3.0) == (0,)
