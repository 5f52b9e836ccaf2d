"""Costs read off a program, against counts by hand and against XLA's own memory analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis.kernels import jacobian
from analysis.kernels.costs import program_cost
from analysis.kernels.jacobian import _products, held_rows, jacobian_rows, lean_options, rows_program
from analysis.kernels.problem import FUSED_MARGIN
from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.config.presets import preset
from ntkcl_jax.models.ntkcl import Network
from tests.support.dense import attention_net, mlp


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_product_has_two_operations_for_each_pair_of_factors():
    cost = program_cost(jnp.matmul, array(3, 5), array(5, 7))
    assert (cost.flops, cost.peak_bytes, cost.output_bytes, cost.argument_bytes) == (2 * 3 * 5 * 7, 84, 84, 200)


def test_a_convolution_counts_its_window_and_channels():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert program_cost(convolve, array(2, 8, 8, 3), array(3, 3, 3, 4)).flops == 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)


def test_an_mlp_costs_its_products_biases_and_activations():
    fn, params = mlp((5, 8, 3))
    assert program_cost(fn, params, array(4, 5)).flops == 4 * (2 * (5 * 8 + 8 * 3) + 8 + 3 + 8)


def test_a_chain_of_products_keeps_one_operand_and_one_result():
    def chain(x, *weights):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x.sum()

    # The result of a product and its tanh, which the next product reads; then that and the next product's result.
    cost = program_cost(chain, array(100, 100), *(array(100, 100) for _ in range(6)))
    assert cost.peak_bytes == 2 * 100 * 100 * 4 + 4


def test_elementwise_chains_take_no_memory():
    assert program_cost(lambda x: jnp.sum(jnp.sin(x) * 2 + 1), array(1000)).peak_bytes == 4


def test_equal_computations_are_done_once_and_unused_ones_never():
    def twice(a, b):
        unused = a.T @ b  # noqa: F841
        return (a @ b) + (a @ b)

    assert program_cost(twice, array(10, 10), array(10, 10)).flops == 2 * 10**3 + 100


with_jvp = jax.custom_jvp(lambda a: a @ a)
with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[0]))
with_vjp = jax.custom_vjp(lambda a: a @ a)
with_vjp.defvjp(lambda a: (with_vjp(a), None), lambda _, g: (g,))


@pytest.mark.parametrize(
    "nested",
    [
        jax.jit(lambda a: a @ a),
        jax.checkpoint(lambda a: a @ a),
        with_jvp,
        with_vjp,
        lambda a: jax.lax.cond(True, lambda b: b @ b, lambda b: b + b, a),
    ],
    ids=["jit", "checkpoint", "custom_jvp", "custom_vjp", "cond"],
)
def test_what_is_nested_is_counted(nested):
    assert 2 * 10**3 <= program_cost(nested, array(10, 10)).flops <= 2 * 10**3 + 1


def test_a_scan_costs_its_steps_in_time_and_one_of_them_in_memory():
    def steps(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=7)[0]

    cost = program_cost(steps, array(10, 10))
    assert cost.flops == 7 * 2 * 10**3
    assert cost.peak_bytes <= 2 * 400


def test_a_while_loops_steps_count_once():
    cost = program_cost(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), array(10, 10))
    assert 2 * 10**3 <= cost.flops <= 2 * 10**3 + 101


def test_a_sharded_function_costs_what_all_shards_do():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    spec = jax.sharding.PartitionSpec("rows")
    sharded = jax.shard_map(lambda a: a @ a.T, mesh=mesh, in_specs=spec, out_specs=spec)
    cost = program_cost(sharded, array(10, 10))
    assert (cost.flops, cost.peak_bytes) == (2 * 10**3, 400)


def close_to_xla(fn, params, images, direct=None):
    """Whether the predicted memory of the rows is within 25 % of XLA's, compiled as for a bounded memory."""
    leaves = (tuple(range(len(jax.tree.leaves(params)))),)
    program = rows_program(jax.default_backend(), lean=True)
    memory = program.lower(fn, params, images, leaves, False, None, direct).compile().memory_analysis()
    cost = program_cost(lambda fn, p, x: held_rows(fn, p, x, leaves, False, direct), fn, params, images)
    assert cost.output_bytes == memory.output_size_in_bytes
    actual = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert cost.peak_bytes == pytest.approx(actual, rel=0.25), cost.peak_bytes / actual


def test_only_the_cpus_compiler_sees_its_options(monkeypatch):
    assert [lean_options(other) for other in ("tpu", "gpu", "cuda", "rocm")] == [{}] * 4
    assert bool(lean_options("cpu")) == (jax.__version_info__ >= (0, 11))
    fn, params = mlp((5, 8, 3))
    arguments = (Partial(fn), params, np.ones((2, 5), np.float32), ((0, 1, 2, 3),))
    other = rows_program("tpu", lean=True)
    jax.jit(lambda: other(*arguments, False, None, None))()  # what has options can't be inside of another program
    asked = []
    monkeypatch.setattr(jacobian, "rows_program", lambda platform, lean: asked.append((platform, lean)) or other)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (jacobian.AXIS,))
    for where in (None, mesh):
        for lean in (False, True):
            jacobian_rows(*arguments, False, where, lean=lean)
    assert asked == [(jax.default_backend(), lean) for lean in (False, True)] * 2


@pytest.mark.parametrize("tile", [4, 64])
def test_memory_of_an_mlps_jacobian_is_within_a_quarter_of_xla(tile):
    fn, params = mlp((32, 64, 64, 64, 64, 64, 10))
    close_to_xla(Partial(fn), params, array(tile, 32))


@pytest.mark.parametrize("tile", [4, 16])
def test_memory_of_an_attention_networks_jacobian_is_within_a_quarter_of_xla(tile):
    fn, params = attention_net()
    close_to_xla(fn, params, array(tile, 8, 8, 1))


# The trace of float32 rows is left out: no temporary memory at all, XLA divides the product by k where it lies.
@pytest.mark.parametrize(
    ("outputs", "precision"),
    [("full", "float64"), ("trace", "float64"), ("diagonal", "float64"), ("full", "float32"), ("diagonal", "float32")],
)
def test_memory_of_the_products_is_within_a_quarter_of_xla(outputs, precision):
    rows = (array(16, 10, 2000),)
    with jax.enable_x64(precision == "float64"):
        memory = _products.lower(rows, rows, outputs, precision, None).compile().memory_analysis()
        cost = program_cost(lambda a, b: _products(a, b, outputs, precision, None), rows, rows)
    assert cost.peak_bytes == pytest.approx(memory.temp_size_in_bytes + memory.output_size_in_bytes, rel=0.25)


class Scores:
    """The whole network's scores, with everything frozen as arguments."""

    def __init__(self, network):
        self.network = network

    def __call__(self, params, images, *, frozen):
        return self.network.apply_fn(params, frozen, images, "scores")


def network(config):
    net, b = Network(config, 2, 10), config.backbone
    adaptation, frozen = jax.eval_shape(net.init, jax.random.key(0))
    return Partial(Scores(net), frozen=frozen), adaptation, (b.image_size, b.image_size, b.channels)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [4, 16, 32])
def test_memory_of_the_demos_jacobian_is_within_a_quarter_of_xla(tile):
    fn, params, image = network(preset("digits").model)
    close_to_xla(fn, params, array(tile, *image))


@pytest.mark.slow
def test_compiled_for_speed_the_demos_jacobian_stays_within_the_wider_margin():
    fn, params, image = network(preset("digits").model)
    leaves, images = (tuple(range(len(params))),), array(16, *image)
    program = rows_program(jax.default_backend(), lean=False)
    memory = program.lower(fn, params, images, leaves, False, None, None).compile().memory_analysis()
    predicted = program_cost(lambda fn, p, x: held_rows(fn, p, x, leaves, False, None), fn, params, images).peak_bytes
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes <= FUSED_MARGIN * predicted


@pytest.mark.slow
def test_memory_of_a_small_vits_jacobian_is_within_a_quarter_of_xla():
    backbone = BackboneConfig(image_size=32, patch_size=8, dim=48, depth=3, heads=3)
    fn, params, image = network(ModelConfig(backbone=backbone, adapter_rank=4))
    close_to_xla(fn, params, array(2, *image))
