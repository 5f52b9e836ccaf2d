"""What a kernel to be planned consists of: how many examples, and what one of them costs each function."""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np

from analysis.errors import PlanError
from analysis.kernels.costs import program_cost
from analysis.kernels.dependence import flops_by_dependence
from analysis.kernels.functions import (
    ApplyFn,
    Function,
    Groups,
    Params,
    Shape,
    as_partial,
    direct_leaves,
    inspect,
)
from analysis.kernels.jacobian import held_rows, lean_options
from analysis.kernels.kinds import Outputs, Precision
from analysis.kernels.memo import remembered
from analysis.kernels.tiled import Grid, kernel_shape, strips
from ntkcl_jax.devices.host_memory import host_memory

BUSY_ROWS = 40
"""Rows b·k of a tile below which time is lost: one core, demo model, k = 10: products of 10, 20, 40, 80, 160, 320 rows
run at 2, 12, 19, 31, 21, 29 GFLOP/s, and Jacobians in tiles of 1, 2, 4, 8, 16, 32 take 11, 10, 12, 17, 16, 16 ms."""
MOST_ROWS = {"cpu": 160}
"""Rows b·k beyond which a larger tile gains nothing, by platform."""
MOST_ROWS_ELSEWHERE = 1280
"""The same on accelerators (not measured)."""
TRACED_TILE = 2
"""Examples of the traced tile; every array in the program is proportional to them."""
MARGIN = 1.25
"""Factor by which a compiled program may need more memory than predicted: the accuracy of the model in `costs`."""
FUSED_MARGIN = 1.9
"""The same where memory wasn't bounded and the compiler may store more for speed: see `jacobian.lean_options`."""


@dataclass(frozen=True)
class RowCost:
    """What the Jacobian rows of one example cost.

    Attributes:
        rows: rows that are held: one an output, a feature of a `Composite` in factors, or a single one.
        numbers: numbers that are held.
        row_bytes: bytes of them.
        peak_bytes: memory of the program that computes them, by prediction.
        flops: operations of that program.
        forward: operations of one evaluation of the function.
        backward: those of them whose results depend on the parameters.
    """

    rows: int
    numbers: int
    row_bytes: int
    peak_bytes: int
    flops: float
    forward: float
    backward: float


@dataclass(frozen=True)
class Problem:
    """Everything that the price of a way depends on.

    Attributes:
        n1: examples of the rows.
        n2: examples of the columns; None for the rows' own.
        parameters: p.
        groups: number of parameter groups.
        first: costs of the rows' function.
        second: costs of the columns' function, the same where there is one function.
        block: numbers of the kernel for one pair of examples.
        lifted: numbers that lie between the features' kernel and the outputs', for one pair of examples.
        pair_flops: operations of one pair of examples' product.
        product_item: bytes of a number in the sums over parameters.
        kernel: bytes of the kernel, all groups.
        counted: those that are to be in the planned memory.
        memory: bytes of a device to stay within.
        devices: devices that share each tile.
        margin: factor by which the program for Jacobians may need more memory than predicted.
    """

    n1: int
    n2: int | None
    parameters: int
    groups: int
    first: RowCost
    second: RowCost
    block: int
    lifted: int
    pair_flops: float
    product_item: int
    kernel: int
    counted: int
    memory: int
    devices: int
    margin: float

    @property
    def rows(self) -> int:
        """Jacobian rows of an example."""
        return max(self.first.rows, self.second.rows)

    @property
    def examples(self) -> int:
        """Examples whose Jacobian is needed."""
        return self.n1 + (self.n2 or 0)

    @property
    def peak_one(self) -> float:
        """Memory of the program that computes Jacobians, for one example, with the margin."""
        return self.margin * max(self.first.peak_bytes, self.second.peak_bytes)

    @property
    def busy(self) -> int:
        """Examples of the smallest tile that keeps the machine busy, or all examples."""
        return min(self._whole(-(-BUSY_ROWS // self.rows)), self._whole(max(self.n1, self.n2 or 0)))

    def _whole(self, tile: int) -> int:
        return -(-tile // self.devices) * self.devices

    def ladder(self) -> list[int]:
        """Tiles to choose from, smallest first: multiples of the devices, doubled up to the largest useful one."""
        rows = MOST_ROWS.get(jax.default_backend(), MOST_ROWS_ELSEWHERE) * self.devices
        most = min(max(self.busy, self._whole(rows // self.rows)), self._whole(max(self.n1, self.n2 or 0)))
        sizes = {self.busy, most}
        size = self.devices
        while size < most:
            sizes.add(size)
            size *= 2
        return sorted(sizes)

    def peak(self, tile: int, held: int) -> int:
        """Memory of one device with `held` tiles of rows, one that passes by, and the larger of the two programs."""
        converted = tile * (self.first.numbers + self.second.numbers) * self.product_item
        block = 2 * tile * tile * (self.block * self.groups + self.lifted) * 8
        working = max(tile * self.peak_one, converted + block)
        rows = tile * (held * self.first.row_bytes + self.second.row_bytes)
        return self.counted + int((rows + working) / self.devices)

    def held(self, tile: int) -> int:
        """As many tiles as fit, at most all; 0 if not even one does."""
        room = (self.memory - self.peak(tile, 0)) * self.devices // (tile * self.first.row_bytes)
        return max(0, min(room, Grid(self.n1, self.n2, tile).tiles[0]))

    def sweeps(self, tile: int, held: int) -> tuple[float, float]:
        """How often the rows of an example are computed on average: of the rows' examples, of the columns'."""
        grid = Grid(self.n1, self.n2, tile)
        if not grid.symmetric:
            return 1.0, float(len(list(strips(grid, held))))
        down = grid.tiles[0]
        return sum(down - strip.start for strip in strips(grid, held)) / down, 0.0

    def passes(self, tile: int, held: int) -> float:
        """How often a row is computed on average: once in its strip, and once for every strip that it passes by."""
        of_rows, of_columns = self.sweeps(tile, held)
        return (of_rows * self.n1 + of_columns * (self.n2 or 0)) / self.examples

    def jacobian_flops(self, of_rows: float = 1.0, of_columns: float = 1.0) -> float:
        """Operations for every Jacobian row so often."""
        return of_rows * self.n1 * self.first.flops + of_columns * (self.n2 or 0) * self.second.flops

    def product_flops(self, symmetric: bool = True) -> float:
        """Operations for the products of all rows, half of them where the kernel is symmetric."""
        pairs = self.n1 * (self.n1 / (1 + symmetric) if self.n2 is None else self.n2)
        return pairs * self.pair_flops

    @property
    def floor(self) -> float:
        """Fewest operations of an exact kernel.

        A backward pass goes through what depends on the parameters only, and costs there what the forward one does.
        """
        passes = self.n1 * self.first.rows * self.first.backward
        return passes + (self.n2 or 0) * self.second.rows * self.second.backward + self.product_flops()


def _row_cost(fn: Function, params: Params, image: Any, shape: Shape, outputs: str, direct: Any) -> RowCost:
    """Trace the program that computes a tile's rows at a small tile, and one evaluation."""
    leaves, summed = tuple(positions for _, positions in shape.groups), outputs == "pseudo"

    def rows(fn: Function, params: Params, images: Any) -> Any:
        return held_rows(fn, params, images, leaves, summed, direct)

    def trace() -> RowCost:
        cost = program_cost(rows, fn, params, image)
        held = jax.tree.leaves(jax.eval_shape(rows, fn, params, image))
        every, trainable = flops_by_dependence(lambda p, fn, x: fn(p, x), params, fn, image)
        count = 1 if summed else shape.outputs if direct is None else shape.features or 0
        return RowCost(
            count, sum(array.size for array in held) // TRACED_TILE, cost.output_bytes // TRACED_TILE,
            cost.peak_bytes // TRACED_TILE, cost.flops / TRACED_TILE, every / TRACED_TILE, trainable / TRACED_TILE,
        )  # fmt: skip

    return remembered("costs", (fn, params, image), (leaves, summed, direct), trace)


def _pair_flops(shapes: tuple[Shape, Shape], outputs: Outputs, apart: int, factored: bool) -> tuple[float, int]:
    """Operations of one pair of examples' product, `apart` parameters held as rows of the outputs where it is factored.

    And the numbers that lie between the features' kernel and the outputs'.
    """
    k1, k2 = (shape.outputs for shape in shapes)
    plain = {"full": k1 * k2, "pseudo": 1}.get(outputs, k1)
    if not factored:
        return 2.0 * plain * shapes[0].parameters, 0
    d1, d2 = (shape.features or 0 for shape in shapes)
    between = d1 * d2 + k1 * d2
    inner = d1 * d2 * (shapes[0].parameters - apart) + k1 * d2 * d1 + plain * d2
    return 2.0 * (inner + plain * apart), between


def describe(
    apply_fn: ApplyFn, params: Params, x1: Any, n1: int, n2: int | None, outputs: Outputs, groups: Groups,
    precision: Precision, memory: int, devices: int, kernel_in_memory: bool, lean: bool,
    apply_fn2: ApplyFn | None = None, factors: bool = True,
) -> Problem:  # fmt: skip
    """Trace the programs of the tiled way at a small tile; arguments are those of `planner.plan`.

    Raises:
        FunctionError: no kernel can be computed of these.
        PlanError: the kernel doesn't fit into the host's memory.
    """
    image = jax.ShapeDtypeStruct((TRACED_TILE, *x1.shape[1:]), jax.dtypes.canonicalize_dtype(x1.dtype))
    fns = [as_partial(fn) for fn in (apply_fn, apply_fn if apply_fn2 is None else apply_fn2)]
    shape, shape2 = (inspect(fn, params, image, groups) for fn in fns)
    direct = direct_leaves(outputs, shape, shape2) if factors else None
    pair = zip(fns, (shape, shape2), strict=True)
    first, second = (_row_cost(fn, params, image, own, outputs, direct) for fn, own in pair)
    whole = prod(kernel_shape(Grid(n1, n2, 1), outputs, shape.outputs, shape2.outputs)) * 8
    whole *= len(shape.groups) + (len(shape.groups) > 1)
    counted = whole if kernel_in_memory and jax.default_backend() == "cpu" else 0
    if kernel_in_memory and not counted and whole > host_memory():
        raise PlanError(
            f"the kernel needs {whole / 1e9:.3g} GB of the host's memory and {host_memory() / 1e9:.3g} GB are free: "
            "choose outputs trace or pseudo, fewer images, or store it on disk"
        )
    sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(params)]
    pair_flops, lifted = _pair_flops((shape, shape2), outputs, sum(sizes[i] for i in direct or ()), direct is not None)
    return Problem(
        n1, n2, shape.parameters, len(shape.groups), first, second,
        prod(kernel_shape(Grid(1, 1, 1), outputs, shape.outputs, shape2.outputs)), lifted, pair_flops,
        8 if precision == "float64" else 4, whole, counted, memory, devices,
        MARGIN if lean or not lean_options(jax.default_backend()) else FUSED_MARGIN,
    )  # fmt: skip
