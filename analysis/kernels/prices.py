"""What each way of computing a kernel would cost: memory of a device and operations, for the planner."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, get_args

import jax

from analysis.errors import PlanError
from analysis.kernels.composite import Composite
from analysis.kernels.costs import Cost, flops_by_dependence, program_cost
from analysis.kernels.functions import ApplyFn, Function, Groups, Params, Shape, as_partial, inspect
from analysis.kernels.jacobian import Leaves, tile_rows
from analysis.kernels.kinds import Outputs, Precision
from analysis.kernels.memo import remembered
from analysis.kernels.memory import host_memory
from analysis.kernels.tiled import Grid, kernel_shape, strips

PlannedWay = Literal["tiled", "features", "neural_tangents", "sketched", "products"]
PLANNED_WAYS: tuple[PlannedWay, ...] = get_args(PlannedWay)

BUSY_ROWS = 40
"""Rows b·k of a tile below which time is lost: one core, demo model, k = 10: products of 10, 20, 40, 80, 160, 320 rows
run at 2, 12, 19, 31, 21, 29 GFLOP/s, and Jacobians in tiles of 1, 2, 4, 8, 16, 32 take 11, 10, 12, 17, 16, 16 ms."""
MOST_ROWS = {"cpu": 160}
"""Rows b·k beyond which a larger tile gains nothing, by platform."""
MOST_ROWS_ELSEWHERE = 1280
"""The same on accelerators (not measured)."""
SKETCH_WIDTH = 4096
"""Columns of a sketch of a few percent error."""
PRODUCTS_TILE = 32
"""Examples in a tile of the matrix-free way."""
TRACED_TILE = 2
"""Examples of the traced tile; every array in the program is proportional to them."""


def margin() -> float:
    """Factor by which a compiled program may need more memory than predicted.

    1.25 is the model's accuracy. From jaxlib 0.11 on, XLA's YNN fusions on CPU store some broadcast numbers besides: up
    to 1.84 times the prediction on the demo's model.
    """
    fusions = jax.default_backend() == "cpu" and tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)
    return 1.9 if fusions else 1.25


@dataclass(frozen=True)
class Option:
    """One way of computing the kernel, and what it would cost.

    Attributes:
        way: its name.
        tile: examples in a tile; 0 where nothing fits.
        held: tiles of Jacobian rows in memory at a time.
        passes: how often a Jacobian row is computed, on average.
        peak_bytes: memory of one device at the worst moment, with the kernel where that is in memory; bytes.
        flops_jacobian: operations for Jacobian rows, all passes, all devices.
        flops_products: operations for their products.
        fits: whether memory is enough.
        reason: why it was or wasn't taken.
    """

    way: PlannedWay
    tile: int
    held: int
    passes: float
    peak_bytes: int
    flops_jacobian: float
    flops_products: float
    fits: bool
    reason: str


@dataclass(frozen=True)
class Problem:
    """Everything that the price of a way depends on; bytes and operations of a tile are for one example.

    Attributes:
        n1: examples of the rows.
        n2: examples of the columns; None for the rows' own.
        outputs: kind of kernel.
        shape: sizes of the function.
        row_bytes: of one example's Jacobian.
        tile_cost: of the program that computes Jacobians.
        product_item: bytes of a number in the sums over parameters.
        forward: operations of one evaluation.
        backward: those of them whose results depend on the parameters.
        kernel: bytes of the kernel, all groups.
        counted: those that are to be in the planned memory.
        memory: bytes of a device to stay within.
        devices: devices that share each tile.
    """

    n1: int
    n2: int | None
    outputs: Outputs
    shape: Shape
    row_bytes: int
    tile_cost: Cost
    product_item: int
    forward: float
    backward: float
    kernel: int
    counted: int
    memory: int
    devices: int

    @property
    def rows(self) -> int:
        """Jacobian rows of an example."""
        return 1 if self.outputs == "pseudo" else self.shape.outputs

    @property
    def examples(self) -> int:
        """Examples whose Jacobian is needed."""
        return self.n1 + (self.n2 or 0)

    @property
    def jacobian_flops(self) -> float:
        """Operations for every Jacobian row once."""
        return self.examples * self.tile_cost.flops

    @property
    def block(self) -> int:
        """Numbers of the kernel for one pair of examples."""
        return prod(kernel_shape(Grid(1, 1, 1), self.outputs, self.shape.outputs))

    @property
    def peak_one(self) -> float:
        """Memory of the program that computes Jacobians, for one example, with the margin."""
        return margin() * self.tile_cost.peak_bytes

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
        converted = 2 * tile * self.rows * self.shape.parameters * self.product_item
        block = 2 * tile * tile * self.block * len(self.shape.groups) * 8
        working = max(tile * self.peak_one, converted + block)
        return self.counted + int(((held + 1) * tile * self.row_bytes + working) / self.devices)

    def held(self, tile: int) -> int:
        """As many tiles as fit, at most all; 0 if not even one does."""
        room = (self.memory - self.peak(tile, 0)) * self.devices // (tile * self.row_bytes)
        return max(0, min(room, Grid(self.n1, self.n2, tile).tiles[0]))

    def passes(self, tile: int, held: int) -> float:
        """How often a row is computed on average: once in its strip, and once for every strip that it passes by."""
        grid = Grid(self.n1, self.n2, tile)
        down, across = grid.tiles
        if grid.symmetric:
            return sum(down - strip.start for strip in strips(grid, held)) / down
        return (down + len(list(strips(grid, held))) * across) / (down + across)

    def product_flops(self, parameters: int | None = None, symmetric: bool = True) -> float:
        """Operations for the products of all rows, half of them where the kernel is symmetric."""
        k = self.shape.outputs
        pairs = self.n1 * (self.n1 / (1 + symmetric) if self.n2 is None else self.n2)
        each = {"full": k * k, "pseudo": 1}.get(self.outputs, k)
        return 2.0 * pairs * each * (self.shape.parameters if parameters is None else parameters)

    @property
    def floor(self) -> float:
        """Fewest operations of an exact kernel.

        A backward pass goes through what depends on the parameters only, and costs there what the forward one does.
        """
        return self.examples * self.rows * self.backward + self.product_flops()


def _traced(fn: Function, params: Params, image: Any, leaves: Leaves, summed: bool) -> tuple[Cost, float, float]:
    """Cost of the program that computes a tile's rows; operations of one evaluation, and of its trainable part."""
    tile = program_cost(lambda fn, p, x: tile_rows(fn, p, x, leaves, summed), fn, params, image)
    every, trainable = flops_by_dependence(lambda p, fn, x: fn(p, x), params, fn, image)
    return tile, every / TRACED_TILE, trainable / TRACED_TILE


def describe(
    apply_fn: ApplyFn, params: Params, x1: Any, n1: int, n2: int | None, outputs: Outputs, groups: Groups,
    precision: Precision, memory: int, devices: int, kernel_in_memory: bool,
) -> Problem:  # fmt: skip
    """Trace the two programs of the tiled way at a small tile; arguments are those of `planner.plan`."""
    fn = as_partial(apply_fn)
    image = jax.ShapeDtypeStruct((TRACED_TILE, *x1.shape[1:]), jax.dtypes.canonicalize_dtype(x1.dtype))
    shape = inspect(apply_fn, params, image, groups)
    leaves = tuple(positions for _, positions in shape.groups)
    summed = outputs == "pseudo"
    tile, forward, backward = remembered(
        "costs", (fn, params, image), (leaves, summed), lambda: _traced(fn, params, image, leaves, summed)
    )
    tile = Cost(
        tile.flops / TRACED_TILE, tile.peak_bytes // TRACED_TILE, tile.output_bytes // TRACED_TILE, tile.argument_bytes
    )
    whole = prod(kernel_shape(Grid(n1, n2, 1), outputs, shape.outputs)) * 8
    whole *= len(shape.groups) + (len(shape.groups) > 1)
    counted = whole if kernel_in_memory and jax.default_backend() == "cpu" else 0
    if kernel_in_memory and not counted and whole > host_memory():
        raise PlanError(
            f"the kernel needs {whole / 1e9:.3g} GB of the host's memory and {host_memory() / 1e9:.3g} GB are free: "
            "choose outputs trace or pseudo, fewer images, or store it on disk"
        )
    item = 8 if precision == "float64" else 4
    return Problem(
        n1, n2, outputs, shape, tile.output_bytes, tile, item, forward, backward, whole, counted, memory, devices
    )


def price(problem: Problem, way: PlannedWay, tile: int | None, apply_fn: ApplyFn) -> Option:
    """Price a way with the best tile and as many held as fit, or with the tile that is asked for."""
    if way in ("tiled", "features"):
        option = tiled(problem, tile)
        through = isinstance(apply_fn, Composite)
        if way == "features":
            note = "what tiled does with this function" if through else "needs a function of features and head"
            return replace(option, way=way, fits=option.fits and through, reason=note)
        return option
    flops, examples, rows = problem.jacobian_flops, problem.examples, problem.rows
    largest = max(problem.n1, problem.n2 or 0)
    if way == "neural_tangents":  # single precision, both triangles; every pair of tiles computes its rows anew
        size = min(tile or largest, largest)
        while tile is None and size > 1 and problem.counted + 2 * size * problem.peak_one > problem.memory:
            size = -(-size // 2)
        passes = float(-(-largest // size))
        peak = problem.counted + int(size * (2 * problem.peak_one)) + 4 * size * size * problem.block
        products, held, note = problem.product_flops(symmetric=False), 1, "exact, no symmetric half; for comparison"
    elif way == "sketched":
        size = tile or problem.busy
        kept = 8 * examples * rows * SKETCH_WIDTH
        peak, passes, held = problem.counted + kept + int(size * problem.peak_one), 1.0, 1
        products, note = problem.product_flops(SKETCH_WIDTH), f"approximate (width {SKETCH_WIDTH}); only when asked for"
    else:
        size = min(tile or PRODUCTS_TILE, largest)
        # A pass keeps the activations of its tile once, not once an output.
        peak, held, passes = int(size * problem.peak_one / rows) + 16 * problem.shape.parameters, 0, 0.0
        flops, products = 0.0, 4 * examples * problem.forward
        note = "no kernel, only its product with a vector (operations of one); only when asked for"
    return Option(way, size, held, passes, peak, flops * max(passes, 1.0), products, peak <= problem.memory, note)


def tiled(problem: Problem, tile: int | None) -> Option:
    """Price the exact way: fewest passes among tiles that keep the machine busy, then the largest tile.

    Smaller tiles come last and hold one, so that more memory never means more passes.
    """
    if tile is not None:
        sizes = [(tile, max(1, problem.held(tile)))]
    else:
        sizes = [(size, problem.held(size)) for size in problem.ladder() if size >= problem.busy]
        sizes = [pair for pair in sizes if pair[1]]
        small = [(size, 1) for size in problem.ladder() if size < problem.busy and problem.held(size)]
        sizes = sizes or small[-1:] or [(problem.ladder()[0], 1)]
    size, held = min(sizes, key=lambda pair: (problem.passes(*pair), -pair[0]))
    passes, peak = problem.passes(size, held), problem.peak(size, held)
    fits = peak <= problem.memory
    return Option(
        "tiled", size, held, passes, peak, problem.jacobian_flops * passes, problem.product_flops(), fits,
        "exact, memory bounded by the tile" if fits else "exact; doesn't fit",
    )  # fmt: skip
