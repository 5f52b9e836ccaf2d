"""What a kernel to be planned consists of, and the tile that suits it.

How much memory the program for a tile's Jacobian rows takes is asked of XLA, about the very program that will run: JAX
keeps what is compiled here, so that the computation compiles it no second time. For tiles that weren't compiled the
figure is taken as about proportional to the tile. The products of rows are arithmetic on shapes.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from analysis.errors import TooLargeError
from analysis.kernels import Outputs, Precision
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
from analysis.kernels.jacobian import held_rows, lowered_rows
from analysis.kernels.tiled import Grid, kernel_shape, strips
from analysis.kernels.tracing import operations, pass_operations, remembered
from ntkcl_jax.devices.host_memory import host_memory

BUSY_ROWS = 40
"""Rows b·k of a tile below which time is lost: one core, demo model, k = 10: products of 10, 20, 40, 80, 160, 320 rows
run at 2, 12, 19, 31, 21, 29 GFLOP/s, and Jacobians in tiles of 1, 2, 4, 8, 16, 32 take 11, 10, 12, 17, 16, 16 ms."""
MOST_ROWS = {"cpu": 160}
"""Rows b·k beyond which a larger tile gains nothing, by platform."""
MOST_ROWS_ELSEWHERE = 1280
"""The same on accelerators (not measured)."""
OTHER_TILE = 1.05
"""Memory of a program per example, over that at the tile that was compiled: some parts don't shrink with the tile."""


@dataclass(frozen=True)
class Rows:
    """The Jacobian rows of one example.

    Attributes:
        count: how many are held: one an output, a feature of a `Composite` in factors, or a single one.
        numbers: numbers that are held.
        size: bytes of them.
    """

    count: int
    numbers: int
    size: int


@dataclass(frozen=True)
class Program:
    """The program that computes a tile's rows.

    Attributes:
        tile: examples in the tile.
        size: bytes on one device: temporary ones, results and the tile's examples, without parameters.
        flops: operations on all devices, by XLA's count; 0 while nobody has counted.
    """

    tile: int
    size: int
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class Functions:
    """The functions that a kernel is between, and how their rows are computed.

    Attributes:
        pair: the rows' function and the columns', the same where there is one.
        shapes: their sizes.
        params: their parameters.
        example: shape and type of one example.
        outputs: kind of kernel.
        direct: leaves that are left out of rows in factors: see `functions.direct_leaves`.
        lean: compile for little memory: see `jacobian.lean_options`.
        devices: devices that share each tile.
        mesh: these devices; None where there is one, or where a plan is made for a machine that isn't this one.
    """

    pair: tuple[Function, Function]
    shapes: tuple[Shape, Shape]
    params: Params
    example: jax.ShapeDtypeStruct
    outputs: Outputs
    direct: tuple[int, ...] | None
    lean: bool
    devices: int
    mesh: Mesh | None

    @property
    def summed(self) -> bool:
        """Whether an example has a single row."""
        return self.outputs == "pseudo"

    def leaves(self, side: int) -> tuple[tuple[int, ...], ...]:
        """Positions of each group's leaves."""
        return tuple(positions for _, positions in self.shapes[side].groups)

    def examples(self, count: int) -> jax.ShapeDtypeStruct:
        """Shape and type of so many examples."""
        return jax.ShapeDtypeStruct((count, *self.example.shape), self.example.dtype)

    def rows(self, side: int) -> Rows:
        """What is held of one example."""
        fn, shape, settings = self.pair[side], self.shapes[side], (self.leaves(side), self.summed, self.direct)

        def trace() -> Rows:
            made = jax.eval_shape(lambda fn, p, x: held_rows(fn, p, x, *settings), fn, self.params, self.examples(1))
            # What a product multiplies for an example: one row, rows of outputs, or rows of features
            count = 1 if self.summed else shape.outputs if self.direct is None else shape.features or 0
            held = jax.tree.leaves(made)
            return Rows(count, sum(a.size for a in held), sum(a.size * a.dtype.itemsize for a in held))

        return remembered("row sizes", (fn, self.params, self.examples(1)), (settings, shape.outputs), trace)

    def compiled(self, side: int, tile: int) -> Program:
        """Compile the program of a tile, a multiple of the devices, and ask XLA about it."""
        share = 1 if self.mesh is not None else self.devices  # an absent device's share is compiled on this one
        settings = (self.leaves(side), self.summed, self.mesh, self.direct, self.lean)

        def ask() -> Program:
            lowered = lowered_rows(self.pair[side], self.params, self.examples(tile // share), *settings)
            memory = lowered.compile().memory_analysis()
            flops = operations(lowered) * self.devices  # a sharded program's are those of one share
            inside = tile // self.devices * self.examples(1).size * self.example.dtype.itemsize
            if memory is None:  # a backend that doesn't tell: what goes in and comes out is certain
                return Program(tile, inside + tile // self.devices * self.rows(side).size, flops)
            # Results that take an argument's place need no memory of their own
            inside += memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
            return Program(tile, inside, flops)

        return remembered("program", (self.pair[side], self.params, self.examples(tile)), (*settings, share), ask)


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that the price of a way depends on.

    Attributes:
        n1: examples of the rows.
        n2: examples of the columns; None for the rows' own.
        functions: the functions, and how their rows are computed.
        rows: what is held of an example of the rows, and of the columns.
        programs: what their programs need, at one tile.
        block: numbers of the kernel for one pair of examples, all groups.
        lifted: numbers that lie between the features' kernel and the outputs', for one pair of examples.
        pair_flops: operations of one pair of examples' product.
        product_item: bytes of a number in the sums over parameters.
        kernel: bytes of the kernel, all groups.
        counted: those that are to be in the planned memory.
        memory: bytes of a device to stay within.
    """

    n1: int
    n2: int | None
    functions: Functions
    rows: tuple[Rows, Rows]
    programs: tuple[Program, Program]
    block: int
    lifted: int
    pair_flops: float
    product_item: int
    kernel: int
    counted: int
    memory: int

    @property
    def devices(self) -> int:
        """Devices that share each tile."""
        return self.functions.devices

    @property
    def count(self) -> int:
        """Jacobian rows of an example."""
        return max(rows.count for rows in self.rows)

    @property
    def largest(self) -> int:
        """Examples of the longer side."""
        return max(self.n1, self.n2 or 0)

    def _whole(self, tile: int) -> int:
        return -(-tile // self.devices) * self.devices

    @property
    def busy(self) -> int:
        """Examples of the smallest tile that keeps the machine busy, or all examples."""
        return min(self._whole(-(-BUSY_ROWS // self.count)), self._whole(self.largest))

    def ladder(self) -> list[int]:
        """Tiles to choose from, smallest first: multiples of the devices, doubled up to the largest useful one."""
        # The figures are those of one device, and all of them share a tile
        rows = MOST_ROWS.get(jax.default_backend(), MOST_ROWS_ELSEWHERE) * self.devices
        most = min(max(self.busy, self._whole(rows // self.count)), self._whole(self.largest))
        sizes = {self.busy, most}
        size = self.devices
        while size < most:
            sizes.add(size)
            size *= 2
        return sorted(sizes)

    def program_bytes(self, tile: int) -> int:
        """Memory of one device for the program that computes a tile's rows: exact at the tile that was compiled."""
        return max(
            program.size if tile == program.tile else math.ceil(OTHER_TILE * program.size * tile / program.tile)
            for program in self.programs
        )

    def product_bytes(self, tile: int) -> int:
        """Memory of one device for the products of two tiles: converted rows, and the block twice, in two orders."""
        converted = tile * sum(rows.numbers for rows in self.rows) * self.product_item
        return math.ceil((converted + 2 * tile * tile * (self.block + self.lifted) * 8) / self.devices)

    def peak(self, tile: int, held: int) -> int:
        """Memory of one device with `held` tiles of rows, one that passes by, and the larger of the two programs."""
        rows = math.ceil(tile * (held * self.rows[0].size + self.rows[1].size) / self.devices)
        return self.counted + rows + max(self.program_bytes(tile), self.product_bytes(tile))

    def held(self, tile: int) -> int:
        """As many tiles as fit, at most all; 0 if not even one does."""
        # Less one byte: `peak` rounds up once more with the rows in it
        room = (self.memory - self.peak(tile, 0) - 1) * self.devices // (tile * self.rows[0].size)
        return max(0, min(room, Grid(self.n1, self.n2, tile).tiles[0]))

    def sweeps(self, tile: int, held: int) -> tuple[float, float]:
        """How often the rows of an example are computed on average: of the rows' examples, of the columns'."""
        grid = Grid(self.n1, self.n2, tile)
        if not grid.symmetric:
            # Rows once, in their strip; columns pass by every strip anew
            return 1.0, float(len(list(strips(grid, held))))
        down = grid.tiles[0]
        # A strip's own rows and all that pass by on its right: everything from its start on
        return sum(down - strip.start for strip in strips(grid, held)) / down, 0.0

    def passes(self, tile: int, held: int) -> float:
        """How often a row is computed on average: once in its strip, and once for every strip that it passes by."""
        of_rows, of_columns = self.sweeps(tile, held)
        return (of_rows * self.n1 + of_columns * (self.n2 or 0)) / (self.n1 + (self.n2 or 0))

    def row_flops(self, of_rows: float = 1.0, of_columns: float = 1.0) -> float:
        """Operations for every Jacobian row so often."""
        first, second = (program.flops / program.tile for program in self.programs)
        return of_rows * self.n1 * first + of_columns * (self.n2 or 0) * second

    def product_flops(self, symmetric: bool = True) -> float:
        """Operations for the products of all rows, half of them where the kernel is symmetric."""
        # Half of the square where the kernel is symmetric; what the diagonal adds is left out
        pairs = self.n1 * (self.n1 / (1 + symmetric) if self.n2 is None else self.n2)
        return pairs * self.pair_flops

    def floor(self, tile: int) -> float:
        """Fewest operations of an exact kernel.

        A backward pass for each example and output without the forward pass before it, or the program of a tile of rows
        where that does part of it for all examples at once; and the products of the rows, half of them where the kernel
        is symmetric.
        """
        sides = zip((self.n1, self.n2 or 0), self.functions.pair, self.rows, strict=True)
        one = self.functions.examples(1)
        backward = sum(
            n * rows.count * pass_operations(fn, self.functions.params, one)[1] for n, fn, rows in sides if n
        )
        return min(backward, self.compiled(tile).row_flops()) + self.product_flops()

    def holds(self, tile: int) -> int:
        """Tiles to hold: as many as fit, and one of tiles that are too small to be good for anything but little memory.

        So more memory never means more passes.
        """
        return min(1, self.held(tile)) if tile < self.busy else self.held(tile)

    def best(self, most: int | None = None) -> tuple[int, int]:
        """Tile and tiles to hold: fewest passes among tiles that keep the machine busy, then the largest tile.

        Args:
            most: no larger tile than this.
        """
        ladder = [size for size in self.ladder() if most is None or size <= most]
        fitting = [(size, self.holds(size)) for size in ladder if self.held(size)]
        busy = [pair for pair in fitting if pair[0] >= self.busy]
        # Tiles that keep the machine busy, else the largest that fits, else the smallest, which comes closest
        sizes = busy or fitting[-1:] or [(ladder[0], 1)]
        return min(sizes, key=lambda pair: (self.passes(*pair), -pair[0]))

    def without_factors(self) -> "Problem":
        """The same with rows of the outputs, for ways that know nothing of features."""
        if self.functions.direct is None:
            return self
        functions = replace(self.functions, direct=None)
        pair_flops, _ = _pair_flops(functions.shapes, functions.outputs, 0, factored=False)
        rows = (functions.rows(0), functions.rows(1))
        program = _certain(functions, rows)
        return replace(
            self, functions=functions, rows=rows, programs=(program, program), lifted=0, pair_flops=pair_flops
        )

    def compiled(self, tile: int) -> "Problem":
        """The same with both programs compiled at this tile."""
        first = self.functions.compiled(0, tile)
        same = self.functions.pair[0] is self.functions.pair[1]
        return replace(self, programs=(first, first if same else self.functions.compiled(1, tile)))


def _certain(functions: Functions, rows: tuple[Rows, Rows]) -> Program:
    """What goes into any program for the rows and comes out, for one example on each device."""
    one = functions.examples(1)
    return Program(functions.devices, max(side.size for side in rows) + one.size * one.dtype.itemsize)


def _pair_flops(shapes: tuple[Shape, Shape], outputs: Outputs, apart: int, factored: bool) -> tuple[float, int]:
    """Operations of one pair of examples' product, `apart` parameters held as rows of the outputs where it is factored.

    And the numbers that lie between the features' kernel and the outputs'.
    """
    k1, k2 = (shape.outputs for shape in shapes)
    # A trace multiplies as many numbers as a diagonal: each output's row with its own
    plain = {"full": k1 * k2, "pseudo": 1}.get(outputs, k1)
    if not factored:
        return 2.0 * plain * shapes[0].parameters, 0
    d1, d2 = (shape.features or 0 for shape in shapes)
    between = d1 * d2 + k1 * d2
    # The features' kernel, then H1 from the left and H2 from the right
    inner = d1 * d2 * (shapes[0].parameters - apart) + k1 * d2 * d1 + plain * d2
    return 2.0 * (inner + plain * apart), between


def describe(
    apply_fn: ApplyFn, params: Params, x1: Any, n1: int, n2: int | None, outputs: Outputs, groups: Groups,
    precision: Precision, memory: int, devices: int, kernel_in_memory: bool, lean: bool,
    apply_fn2: ApplyFn | None = None, mesh: Mesh | None = None,
) -> Problem:  # fmt: skip
    """Collect the sizes that a plan needs, without compiling; arguments are those of `planner.plan`.

    Until a tile is compiled its program is taken to need no more than goes in and comes out.

    Raises:
        FunctionError: no kernel can be computed of these.
        TooLargeError: the kernel doesn't fit into the host's memory.
    """
    example = jax.ShapeDtypeStruct(tuple(x1.shape[1:]), jax.dtypes.canonicalize_dtype(x1.dtype))
    first = as_partial(apply_fn)
    pair = (first, first if apply_fn2 is None else as_partial(apply_fn2))
    # Nothing is evaluated: two examples tell the sizes as well as all
    few = jax.ShapeDtypeStruct((2, *example.shape), example.dtype)
    shape, shape2 = (inspect(fn, params, few, groups) for fn in pair)
    direct = direct_leaves(outputs, shape, shape2)
    functions = Functions(pair, (shape, shape2), params, example, outputs, direct, lean, devices, mesh)
    rows = (functions.rows(0), functions.rows(1))
    program = _certain(functions, rows)
    # The result is float64, whatever the sums are in
    whole = math.prod(kernel_shape(Grid(n1, n2, 1), outputs, shape.outputs, shape2.outputs)) * 8
    # Beside two and more groups their sum is kept
    whole *= len(shape.groups) + (len(shape.groups) > 1)
    # Only on CPU does the kernel lie in the memory that is planned with; accelerators leave it on the host
    counted = whole if kernel_in_memory and jax.default_backend() == "cpu" else 0
    if kernel_in_memory and not counted and whole > host_memory():
        raise TooLargeError(
            f"the kernel needs {whole / 1e9:.3g} GB of the host's memory and {host_memory() / 1e9:.3g} GB are free",
            "choose outputs trace or pseudo, or fewer images",
        )
    sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(params)]
    pair_flops, lifted = _pair_flops((shape, shape2), outputs, sum(sizes[i] for i in direct or ()), direct is not None)
    block = math.prod(kernel_shape(Grid(1, 1, 1), outputs, shape.outputs, shape2.outputs)) * len(shape.groups)
    return Problem(
        n1, n2, functions, rows, (program, program), block, lifted, pair_flops, 8 if precision == "float64" else 4,
        whole, counted, memory,
    )  # fmt: skip
