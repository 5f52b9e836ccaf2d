"""Tiles, strips and parts: however the work is cut, the kernel is that of the dense float64 Jacobian."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis.errors import FunctionError
from analysis.kernels import tiled
from analysis.kernels.functions import as_partial, inspect
from analysis.kernels.jacobian import products, tile_rows
from tests.support.dense import attention_net, dense_ntk, examples, mlp, reduced, relative_error

OUTPUTS = ("full", "trace", "diagonal", "pseudo")
GROUPS = {"head": ["head"], "adapters": ["adapters"]}
ROOT = Path(__file__).parents[4]


def compute(apply_fn, params, x1, x2, outputs, tile, held=2, groups=None, part=(0, 1), sink=None, precision="float64"):  # type: ignore[no-untyped-def]
    shape = inspect(apply_fn, params, x1, groups)
    source = tiled.RowSource(as_partial(apply_fn), params, shape, tile, outputs == "pseudo")
    grid = tiled.Grid(len(x1), None if x2 is None else len(x2), tile)
    names = (tiled.WHOLE, *(name for name, _ in shape.groups if groups))
    sink = sink or tiled.Memory(grid, tiled.kernel_shape(grid, outputs, shape.outputs), names)
    tiled.fill(source, x1, x2, sink, outputs=outputs, held=held, part=part, precision=precision)
    return sink.arrays


@pytest.fixture(scope="module")
def net():  # type: ignore[no-untyped-def]
    apply_fn, params = attention_net()
    x1, x2 = examples(7, (8, 8, 1)), examples(4, (8, 8, 1), seed=1)
    return apply_fn, params, x1, x2, {None: dense_ntk(apply_fn, params, x1), 2: dense_ntk(apply_fn, params, x1, x2)}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("second", [None, 2])
@pytest.mark.parametrize(("tile", "held"), [(3, 1), (3, 2), (7, 1), (10, 5)])
def test_every_tile_size_gives_the_dense_kernel(net, outputs, second, tile, held) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, x2, dense = net
    got = compute(apply_fn, params, x1, x2 if second else None, outputs, tile, held)["whole"]
    assert got.dtype == np.float64
    assert relative_error(got, reduced(dense[second], outputs)) < 1e-5


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_groups_add_up_to_the_whole_and_are_the_kernels_of_their_parameters(net, outputs) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, _, dense = net
    parts = compute(apply_fn, params, x1, None, outputs, 3, groups=GROUPS)
    assert set(parts) == {"whole", "head", "adapters"}
    assert relative_error(parts["head"] + parts["adapters"], parts["whole"]) < 1e-14
    assert relative_error(parts["whole"], reduced(dense[None], outputs)) < 1e-5
    # The head's own kernel: everything else held fixed.
    alone = Partial(_with_rest, apply_fn=apply_fn, rest={"adapters": params["adapters"]})
    head = reduced(dense_ntk(alone, {"head": params["head"]}, x1), outputs)
    assert relative_error(parts["head"], head) < 1e-5


def _with_rest(params, x, *, apply_fn, rest):  # type: ignore[no-untyped-def]
    return apply_fn({**params, **rest}, x)


def test_in_float64_the_kernel_is_exact_to_ten_digits() -> None:
    apply_fn, params = mlp()
    x = examples(5, (5,))
    dense = dense_ntk(apply_fn, params, x)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        got = compute(apply_fn, double, x.astype(np.float64), None, "full", 2)["whole"]
    assert relative_error(got, dense) < 1e-13


def test_the_kernel_is_symmetric_and_positive_semi_definite(net) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, *_ = net
    theta = compute(apply_fn, params, x1, None, "full", 3)["whole"]
    matrix = theta.transpose(0, 2, 1, 3).reshape(21, 21)
    assert np.abs(matrix - matrix.T).max() <= 1e-14 * np.abs(matrix).max()
    values = np.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-13 * values[-1]


@pytest.mark.parametrize("second", [None, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_the_work_cover_every_block_once(net, second, count) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, x2, dense = net
    grid = tiled.Grid(7, 4 if second else None, 2)
    seen: list = []

    class Noting(tiled.Memory):
        def put(self, i, j, blocks) -> None:  # type: ignore[no-untyped-def]
            seen.append((i, j))
            super().put(i, j, blocks)

    sink = Noting(grid, tiled.kernel_shape(grid, "trace", 3), ("whole",))
    for index in range(count):
        compute(apply_fn, params, x1, x2 if second else None, "trace", 2, part=(index, count), sink=sink)
    assert sorted(seen) == grid.pairs()
    assert relative_error(sink.arrays["whole"], reduced(dense[second], "trace")) < 1e-5


def test_blocks_that_the_sink_has_are_not_computed_again(net) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, *_ = net
    calls: list = []

    class Knowing(tiled.Memory):
        def has(self, i: int, j: int) -> bool:
            return (i, j) != (1, 2)

        def put(self, i, j, blocks) -> None:  # type: ignore[no-untyped-def]
            calls.append((i, j))

    grid = tiled.Grid(7, None, 3)
    compute(apply_fn, params, x1, None, "trace", 3, sink=Knowing(grid, (7, 7), ("whole",)))
    assert calls == [(1, 2)]


def test_float32_sums_are_an_option_that_costs_digits(net) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, *_ = net
    exact = compute(apply_fn, params, x1, None, "full", 3)["whole"]
    rounded = compute(apply_fn, params, x1, None, "full", 3, precision="float32")["whole"]
    assert 0 < relative_error(rounded, exact) < 1e-5


def test_a_jacobian_that_is_not_finite_is_refused_with_its_examples() -> None:
    x = np.ones((5, 2), np.float32)
    x[3] = 0
    with pytest.raises(FunctionError, match="examples 2 to 3"):
        compute(lambda p, x: jax.numpy.sqrt((x * p) ** 2), np.ones(2, np.float32), x, None, "trace", 2)


SHARDED = """
import sys, jax, numpy as np
from analysis import composite, empirical_ntk
from analysis.kernels import tiled
from analysis.kernels.functions import inspect
from tests.support.dense import attention_net, examples
assert len(jax.local_devices()) == 8
fn, params = attention_net()
x, y = examples(13, (8, 8, 1)), examples(5, (8, 8, 1), seed=1)
for second in (None, y):
    for outputs in ("full", "trace", "diagonal", "pseudo"):
        got = []
        for devices in (jax.local_devices(), jax.local_devices()[:1]):
            mesh = tiled.data_mesh(devices)
            source = tiled.RowSource(fn, params, inspect(fn, params, x), 8, outputs == "pseudo", mesh)
            grid = tiled.Grid(13, None if second is None else 5, 8)
            sink = tiled.Memory(grid, tiled.kernel_shape(grid, outputs, 3), ("whole",))
            tiled.fill(source, x, second, sink, outputs=outputs, held=2)
            got.append(sink.arrays["whole"])
        error = np.abs(got[0] - got[1]).max() / np.abs(got[1]).max()
        assert error < 1e-6, (outputs, error)
wide = composite(fn, lambda params, z: jax.numpy.tanh(z @ jax.numpy.ones((3, 5)) * params["head"]["bias"].sum()))
got = [empirical_ntk(wide, params, x, apply_fn2=composite(fn, lambda params, z: jax.numpy.tile(z, 2)), devices=devices)
       for devices in (None, jax.local_devices()[:1])]
assert got[0].shape == (13, 13, 5, 6)
assert np.abs(got[0] - got[1]).max() / np.abs(got[1]).max() < 1e-6
print("same")
"""


def test_eight_devices_give_the_kernel_of_one() -> None:
    import os

    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_both_programs_lower_for_cpu_cuda_and_tpu(net, outputs) -> None:  # type: ignore[no-untyped-def]
    apply_fn, params, x1, *_ = net
    platforms, leaves = ("cpu", "cuda", "tpu"), ((0, 1, 2, 3), (4, 5))
    # Partial isn't among the containers that an exported program can name: its leaves are the arguments here.
    values, structure = jax.tree.flatten((apply_fn, params))
    rows = jax.jit(lambda values, x: tile_rows(*structure.unflatten(values), x, leaves, outputs == "pseudo"))
    made = jax.export.export(rows, platforms=platforms)(values, x1)
    assert made.platforms == platforms
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in made.out_avals]
    assert [shape.shape[:2] for shape in shapes] == [(7, 1 if outputs == "pseudo" else 3)] * 2
    for precision in ("float64", "float32"):
        multiply = jax.jit(lambda a, b, precision=precision: products(a, b, outputs, precision))
        with jax.enable_x64(precision == "float64"):
            product = jax.export.export(multiply, platforms=platforms)(tuple(shapes), tuple(shapes))
        assert product.platforms == platforms
        assert {aval.dtype for aval in product.out_avals} == {np.dtype(precision)}
