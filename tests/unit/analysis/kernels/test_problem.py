"""A plan's memory is XLA's own of the program that runs, and that program is compiled once."""

from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis import empirical_ntk
from analysis.errors import PlanError
from analysis.kernels import jacobian
from analysis.kernels.functions import inspect
from analysis.kernels.jacobian import _products, jacobian_rows, lean_options, rows_program
from analysis.kernels.planner import plan
from analysis.kernels.problem import Program, describe
from ntkcl_jax.config.presets import preset
from ntkcl_jax.models.ntkcl import Network
from tests.support.dense import attention_net, examples, mlp, relative_error


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def planned(fn, params, x, memory=10**10, **options):
    return plan(fn, params, x, x.shape[0], memory_bytes=memory, **options)


@contextmanager
def compilations():
    """The programs that are compiled meanwhile, one number each."""
    seen: list[float] = []

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def xla_bytes(compiled):
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def check_against_xla(fn, params, x, **options):
    """The planned peak is that of XLA's analysis of the very program, plus what is held."""
    chosen = planned(fn, params, x, **options)
    leaves = (tuple(range(len(jax.tree.leaves(params)))),)
    lowered = rows_program(jax.default_backend(), True).lower(fn, params, x, leaves, False, None, None)
    p, k = inspect(fn, params, x).parameters, inspect(fn, params, x).outputs
    rows, tile = 4 * k * p * chosen.tile, chosen.tile
    images = int(np.prod(x.shape)) * x.dtype.itemsize
    products = 2 * rows * 2 + 2 * tile * tile * k * k * 8
    working = max(xla_bytes(lowered.compile()) + images, products)
    assert chosen.peak_bytes == chosen.kernel_bytes + (chosen.held + 1) * rows + working
    counted = lowered.cost_analysis()
    assert counted is not None and chosen.flops_jacobian == pytest.approx(counted["flops"])


@pytest.mark.parametrize("tile", [4, 16])
def test_the_peak_of_an_mlp_is_what_xla_says(tile):
    fn, params = mlp((32, 64, 64, 64, 64, 64, 10))
    check_against_xla(Partial(fn), params, array(tile, 32), tile=tile)


@pytest.mark.parametrize("tile", [4, 16])
def test_the_peak_of_an_attention_network_is_what_xla_says(tile):
    check_against_xla(*attention_net(), array(tile, 8, 8, 1), tile=tile)


class Scores:
    """The whole network's scores, with everything frozen as arguments."""

    def __init__(self, network):
        self.network = network

    def __call__(self, params, images, *, frozen):
        return self.network.apply_fn(params, frozen, images, "scores")


def network(config):
    net, b = Network(config, 2, 10), config.backbone
    adaptation, frozen = jax.jit(net.init)(jax.random.key(0))
    return Partial(Scores(net), frozen=frozen), adaptation, (b.image_size, b.image_size, b.channels)


@pytest.mark.slow
def test_the_peak_of_the_demo_is_what_xla_says():
    fn, params, image = network(preset("digits").model)
    check_against_xla(fn, params, array(4, *image), tile=4)


@pytest.mark.parametrize(
    ("outputs", "precision"),
    [
        ("full", "float64"),
        ("trace", "float64"),
        ("diagonal", "float64"),
        ("full", "float32"),
        ("trace", "float32"),
        ("diagonal", "float32"),
    ],
)
def test_memory_of_the_products_is_what_xla_needs_or_a_little_more(outputs, precision):
    fn, params = mlp((190, 10))
    problem = describe(fn, params, array(16, 190), 16, None, outputs, None, precision, 10**9, 1, True, lean=True)
    rows = (array(16, 10, 1910),)
    with jax.enable_x64(precision == "float64"):
        actual = xla_bytes(_products.lower(rows, rows, outputs, precision, None).compile())
    assert actual <= problem.product_bytes(16)
    if precision == "float64":  # rows that needn't be converted may need no copy, which isn't counted on
        assert problem.product_bytes(16) <= 1.25 * actual


def test_what_is_compiled_for_a_plan_is_what_runs():
    fn, params = attention_net(blocks=3)
    x = examples(9, (8, 8, 1))
    with compilations() as seen:
        chosen = planned(fn, params, x, tile=5)
        assert len(seen) == 1
        leaves = (tuple(range(len(jax.tree.leaves(params)))),)
        jax.block_until_ready(jacobian_rows(fn, params, x[: chosen.tile], leaves, lean=True))
        assert len(seen) == 1
        planned(fn, params, x, tile=5)
        assert len(seen) == 1
        jax.jit(lambda x: x + 1.25)(1.0)
        assert len(seen) == 2  # the listener hears


def test_a_tile_that_must_be_smaller_costs_one_compilation_more():
    fn, params = attention_net(blocks=2, d=16, heads=4)
    x = array(40, 8, 8, 1)
    ample = planned(fn, params, x)
    with compilations() as seen:
        tight = planned(fn, params, x, memory=ample.kernel_bytes + (ample.peak_bytes - ample.kernel_bytes) // 3)
    assert tight.tile < ample.tile
    assert tight.peak_bytes <= tight.memory_bytes
    assert len(seen) == 2  # the largest that might have fitted, and the one that does


@pytest.mark.parametrize("memory", [1000, 10_000])
def test_what_cannot_fit_is_refused_without_compiling(memory):
    fn, params = attention_net(blocks=2)
    with compilations() as seen, pytest.raises(PlanError, match="may be used"):
        planned(fn, params, array(100, 8, 8, 1), memory=memory)
    assert seen == []


def test_a_kernel_stays_within_a_bound_that_makes_tiles_smaller():
    fn, params = attention_net(blocks=2)
    x = examples(30, (8, 8, 1))
    wanted = empirical_ntk(fn, params, x)
    most, least = planned(fn, params, x).peak_bytes, planned(fn, params, x, tile=1).peak_bytes
    assert least < most
    tiles = []
    for memory in np.linspace(least, most, 5).astype(int):
        chosen = planned(fn, params, x, memory=int(memory))
        assert chosen.peak_bytes <= memory
        tiles.append(chosen.tile)
        assert relative_error(empirical_ntk(fn, params, x, memory_bytes=int(memory)), wanted) < 1e-6
    assert tiles[0] < tiles[-1]


class Silent:
    """A backend's compiled program that doesn't tell what it needs."""

    def memory_analysis(self):
        return None


def test_a_backend_that_does_not_tell_is_planned_with_what_goes_in_and_comes_out(monkeypatch):
    fn, params = attention_net(blocks=1, d=12)
    x = array(6, 8, 8, 1)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, *_, **__: Silent())
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda self: None)
    chosen = planned(fn, params, x, tile=3)
    shape = inspect(fn, params, x)
    rows = 3 * shape.outputs * shape.parameters * 4
    products = 2 * rows * 2 + 2 * 9 * shape.outputs**2 * 8
    held = chosen.kernel_bytes + (chosen.held + 1) * rows
    assert chosen.peak_bytes == held + max(products, rows + 3 * 64 * 4)
    assert chosen.flops_jacobian == 0


def test_a_program_is_about_proportional_to_the_tile_where_it_was_not_compiled():
    fn, params = mlp()
    problem = describe(fn, params, array(8, 5), 8, None, "full", None, "float64", 10**9, 1, True, lean=True)
    problem = replace(problem, programs=(Program(4, 1000), Program(4, 400)))
    assert [problem.program_bytes(tile) for tile in (1, 4, 8)] == [263, 1000, 2100]


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
