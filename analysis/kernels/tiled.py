"""Exact kernels tile by tile: Jacobian rows of a few examples at a time, multiplied as they come.

Memory is bounded by the rows that are held. Where all of them fit, each is computed once; where not, strips of rows are
held while the others pass by. Tiles are padded, so that any size goes with any number of examples and one program
serves all of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from analysis.errors import FunctionError
from analysis.kernels import Outputs, Precision
from analysis.kernels.batches import padded
from analysis.kernels.functions import Function, Params, Shape
from analysis.kernels.jacobian import AXIS, Rows, jacobian_rows, products

WHOLE = "whole"
"""Name of the sum over all groups."""
Some = TypeVar("Some")


@runtime_checkable
class Sink(Protocol):
    """Takes the blocks of a kernel; one that has a block already spares its computation."""

    def has(self, i: int, j: int) -> bool:
        """Tell whether block (i, j) of the grid of tiles is there."""
        ...

    def put(self, i: int, j: int, blocks: dict[str, np.ndarray]) -> None:
        """Take block (i, j): arrays by group, and the sum over groups under `whole`."""
        ...


@dataclass(frozen=True)
class Grid:
    """How a kernel falls into tiles.

    Attributes:
        n1: examples of the rows.
        n2: examples of the columns; None for the rows' own, of which only the upper half is computed.
        tile: examples in a tile.

    Example:
        >>> Grid(5, None, 2).pairs()
        [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    """

    n1: int
    n2: int | None
    tile: int

    @property
    def symmetric(self) -> bool:
        """Whether rows and columns are the same examples."""
        return self.n2 is None

    @property
    def tiles(self) -> tuple[int, int]:
        """Number of tiles down and across."""
        n2 = self.n1 if self.n2 is None else self.n2
        return -(-self.n1 // self.tile), -(-n2 // self.tile)

    def pairs(self) -> list[tuple[int, int]]:
        """Blocks to compute."""
        down, across = self.tiles
        return [(i, j) for i in range(down) for j in range(i if self.symmetric else 0, across)]

    def rows(self, i: int) -> slice:
        """Examples of the i-th tile of rows."""
        return slice(i * self.tile, min((i + 1) * self.tile, self.n1))

    def columns(self, j: int) -> slice:
        """Examples of the j-th tile of columns."""
        return slice(j * self.tile, min((j + 1) * self.tile, self.n1 if self.n2 is None else self.n2))


class Memory:
    """A sink that keeps the kernel in this process's memory."""

    def __init__(self, grid: Grid, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
        """Allocate arrays of `shape`, float64, one for each name."""
        self.grid = grid
        self.arrays = {name: np.empty(shape) for name in names}

    def has(self, i: int, j: int) -> bool:
        """Nothing is known before it is computed."""
        return False

    def put(self, i: int, j: int, blocks: dict[str, np.ndarray]) -> None:
        """Write the block and, in a symmetric kernel, its mirror image."""
        for name, array in self.arrays.items():
            array[self.grid.rows(i), self.grid.columns(j)] = blocks[name]
            if self.grid.symmetric and i != j:
                array[self.grid.columns(j), self.grid.rows(i)] = mirrored(blocks[name])


def mirrored(block: np.ndarray) -> np.ndarray:
    """The block on the other side of the diagonal: examples swapped, and outputs where there are two of them.

    Example:
        >>> mirrored(np.zeros((2, 3, 5, 7))).shape
        (3, 2, 7, 5)
    """
    return block.transpose(1, 0, 3, 2) if block.ndim == 4 else block.swapaxes(0, 1)


def kernel_shape(grid: Grid, outputs: Outputs, k: int, k2: int | None = None) -> tuple[int, ...]:
    """Shape of the kernel on a grid; `k2` are the columns' outputs, where those are of another function.

    Example:
        >>> kernel_shape(Grid(4, 6, 2), "full", 3), kernel_shape(Grid(4, None, 2), "diagonal", 3)
        ((4, 6, 3, 3), (4, 4, 3))
    """
    across = grid.n1 if grid.n2 is None else grid.n2
    return (grid.n1, across, *{"full": (k, k2 or k), "diagonal": (k,)}.get(outputs, ()))


def data_mesh(devices: list[jax.Device] | None) -> Mesh | None:
    """One axis over the given devices (all local ones when None); None for a single device."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


@dataclass(frozen=True)
class RowSource:
    """Computes the Jacobian rows of any tile of examples.

    Attributes:
        fn: the function.
        params: where to differentiate.
        shape: its sizes.
        tile: examples in a tile, a multiple of the mesh's devices.
        summed: one row per example, of the scaled sum of outputs.
        mesh: devices that share the examples of a tile.
        direct: for a `Composite` whose rows stay in factors: see `functions.direct_leaves`.
        lean: compile for less memory rather than for speed: see `jacobian.lean_options`.
    """

    fn: Function
    params: Params
    shape: Shape
    tile: int
    summed: bool = False
    mesh: Mesh | None = None
    direct: tuple[int, ...] | None = None
    lean: bool = False

    def rows(self, examples: Any) -> Rows:
        """Rows of up to `tile` examples, padded: per group (tile, k or 1, p), or in factors."""
        # On a mesh every device gets its share straight from the host, and one shape is all that is compiled
        pixels = padded(examples, self.tile)
        images = pixels if self.mesh is None else jax.device_put(pixels, NamedSharding(self.mesh, PartitionSpec(AXIS)))
        leaves = tuple(positions for _, positions in self.shape.groups)
        return jacobian_rows(self.fn, self.params, images, leaves, self.summed, self.mesh, self.direct, self.lean)


def fill(
    source: RowSource,
    x1: Any,
    x2: Any,
    sink: Sink,
    *,
    outputs: Outputs,
    held: int,
    precision: Precision = "float64",
    part: tuple[int, int] = (0, 1),
    advance: Callable[[], None] = lambda: None,
    columns_source: RowSource | None = None,
) -> None:
    """Compute every block that the sink doesn't have.

    Args:
        source: gives Jacobian rows.
        x1: examples of the rows (n1, ...).
        x2: examples of the columns, or None for the symmetric kernel of x1.
        sink: takes the blocks.
        outputs: kind of kernel.
        held: tiles of rows to hold at a time, at least 1; one more passes by.
        precision: arithmetic of the products.
        part: (i, n): do the i-th of n equal parts of the work, for several processes.
        advance: called after each block, also after those that were there.
        columns_source: gives the columns' Jacobian rows, where those are of another function; x2 is then needed.

    Raises:
        FunctionError: a Jacobian isn't finite.
    """
    grid = Grid(len(x1), None if x2 is None else len(x2), source.tile)
    names = [name for name, _ in source.shape.groups]
    columns, columns_source = x1 if x2 is None else x2, columns_source or source

    def passing(j: int) -> Rows:
        return finite(columns_source.rows(columns[grid.columns(j)]), grid.columns(j))

    for strip in strips(grid, held, part):
        # Only this strip's tiles: those of the one before are let go
        rows: dict[int, Rows] = {}

        # The default binds this round's dictionary: a closure would look up the loop's last one
        def row(i: int, rows: dict[int, Rows] = rows) -> Rows:
            if i not in rows:
                rows[i] = finite(source.rows(x1[grid.rows(i)]), grid.rows(i))
            return rows[i]

        for j in range(strip[0] if grid.symmetric else 0, grid.tiles[1]):
            # Of a symmetric kernel only blocks on and above the diagonal
            wanted = [i for i in strip if (i <= j or not grid.symmetric)]
            missing = [i for i in wanted if not sink.has(i, j)]
            if missing:
                # A column tile of the strip itself is among its rows already
                shared = grid.symmetric and j in strip
                column = row(j) if shared else passing(j)
                for i in missing:
                    blocks = products(row(i), column, outputs, precision, source.mesh)
                    sink.put(i, j, named_blocks(blocks, names, grid, i, j))
            for _ in wanted:
                advance()


def strips(grid: Grid, held: int, part: tuple[int, int] = (0, 1)) -> Iterator[range]:
    """Strips of row tiles, in order, of this part.

    A part takes every n-th strip, from both ends in turn where the kernel is symmetric, so that parts are about equal.

    Example:
        >>> list(strips(Grid(10, None, 2), 2)), list(strips(Grid(10, None, 2), 2, (1, 2)))
        ([range(0, 2), range(2, 4), range(4, 5)], [range(1, 2), range(2, 3)])
    """
    down = grid.tiles[0]
    index, count = part
    if count > 1:  # shorter strips, so that there are enough to share
        held = max(1, min(held, down // (2 * count)))
    whole = [range(i, min(i + held, down)) for i in range(0, down, held)]
    for number, strip in enumerate(whole):
        # Parts in turn 0 1 ... n-1 n-1 ... 1 0: in a symmetric kernel later strips have fewer blocks
        turn = number % (2 * count)
        if min(turn, 2 * count - 1 - turn) == index:
            yield strip


def named_blocks(blocks: tuple, names: list[str], grid: Grid, i: int, j: int) -> dict[str, np.ndarray]:
    """Blocks by group without the padding, and their sum."""
    down, across = grid.rows(i), grid.columns(j)
    # Copied to the host in float64, padding left off
    cut = [np.asarray(b, np.float64)[: down.stop - down.start, : across.stop - across.start] for b in blocks]
    return {WHOLE: sum(cut[1:], cut[0]), **(dict(zip(names, cut, strict=True)) if len(names) > 1 else {})}


def finite(rows: Some, examples: slice) -> Some:
    """Refuse rows with NaN or infinity.

    Raises:
        FunctionError: naming the examples.
    """
    # Reduced on the device: one bool a group comes back instead of the rows
    if not all(bool(jax.numpy.isfinite(group).all()) for group in jax.tree.leaves(rows)):
        raise FunctionError(
            f"expected finite Jacobians; those of examples {examples.start} to {examples.stop - 1} have NaN or "
            "infinity: check the inputs, and square roots or norms at zero"
        )
    return rows
