"""What each way of computing a kernel would cost: memory of a device and operations, for the planner."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from analysis.kernels.problem import Problem

PlannedWay = Literal["tiled", "features", "neural_tangents", "sketched", "products"]
PLANNED_WAYS: tuple[PlannedWay, ...] = get_args(PlannedWay)
"""The two exact ones first, which are one program and know two functions."""

SKETCH_WIDTH = 4096
"""Columns of a sketch of a few percent error."""
PRODUCTS_TILE = 32
"""Examples in a tile of the matrix-free way."""


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


def price(problem: Problem, way: PlannedWay, tile: int | None, through: bool) -> Option:
    """Price a way with the best tile and as many held as fit, or with the tile that is asked for.

    Args:
        problem: what is to be computed.
        way: which way.
        tile: examples in a tile to insist on.
        through: the functions are of features and head.
    """
    if way in ("tiled", "features"):
        option = tiled(problem, tile)
        if way == "features":
            note = "what tiled does with this function" if through else "needs a function of features and head"
            return replace(option, way=way, fits=option.fits and through, reason=note)
        return option
    flops, examples, rows = problem.jacobian_flops(), problem.examples, problem.rows
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
        products = problem.product_flops() * SKETCH_WIDTH / problem.parameters
        note = f"approximate (width {SKETCH_WIDTH}); only when asked for"
    else:
        size = min(tile or PRODUCTS_TILE, largest)
        # A pass keeps the activations of its tile once, not once an output.
        peak, held, passes = int(size * problem.peak_one / rows) + 16 * problem.parameters, 0, 0.0
        flops, products = 0.0, 4 * examples * problem.first.forward
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
    fits, flops = peak <= problem.memory, problem.jacobian_flops(*problem.sweeps(size, held))
    return Option(
        "tiled", size, held, passes, peak, flops, problem.product_flops(), fits,
        "exact, memory bounded by the tile" if fits else "exact; doesn't fit",
    )  # fmt: skip
