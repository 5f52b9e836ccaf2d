"""Which way to compute a kernel, with which tile, and what that costs in memory and operations.

The tiled way needs, beside the kernel itself, `held + 1` tiles of Jacobian rows and the larger of the program that
computes a tile and the one that multiplies two. The largest tile that may fit is compiled first, since it will be
needed; where XLA says that it takes more than there is, a smaller one.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh

from analysis.errors import PlanError, TooLargeError
from analysis.kernels import OUTPUTS, Outputs, Precision
from analysis.kernels.composite import Composite
from analysis.kernels.functions import ApplyFn, Groups, Params
from analysis.kernels.problem import Problem, describe
from analysis.kernels.tracing import pass_operations
from ntkcl_jax.devices.host_memory import host_memory

PlannedWay = Literal["tiled", "features", "neural_tangents", "sketched", "products"]
PLANNED_WAYS: tuple[PlannedWay, ...] = get_args(PlannedWay)
EXACT = PLANNED_WAYS[:2]
"""One program, which knows two functions."""
MEMORY_SHARE = 0.8
"""Part of the free memory that is planned with: compilers, other processes and fragments take the rest."""
SKETCH_WIDTH = 4096
"""Columns of a sketch of a few percent error."""
PRODUCTS_TILE = 32
"""Examples in a tile of the matrix-free way."""


def planning_memory(devices: int = 1) -> int:
    """Bytes to plan with on each of the first local devices: a fixed share of what is free.

    Simulated devices share the host's memory.

    Example:
        >>> planning_memory() <= host_memory() or jax.default_backend() != "cpu"
        True
    """
    used = jax.local_devices()[: max(1, devices)]
    free = []
    for device in used:
        stats = device.memory_stats() if device.platform != "cpu" else None
        # A backend that tells nothing of its memory is planned for as if it were the host's
        free.append(host_memory() // len(used) if not stats else stats["bytes_limit"] - stats["bytes_in_use"])
    return int(MEMORY_SHARE * min(free))


@dataclass(frozen=True)
class Option:
    """One way of computing the kernel, and what it would cost.

    Attributes:
        way: its name.
        tile: examples in a tile.
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


def settled(problem: Problem, tile: int | None) -> tuple[Problem, int, int]:
    """Settle on a tile of the exact way, and compile its program.

    Args:
        problem: what is to be computed.
        tile: examples in a tile to insist on.

    Returns:
        The problem as measured, the tile, and the tiles of rows to hold; where nothing fits, what comes closest.
    """
    # At least one tile is held, whether it fits or not: the price then tells how much is missing
    size, held = problem.best() if tile is None else (tile, max(1, problem.held(tile)))
    if problem.peak(size, held) > problem.memory:  # for what goes in and comes out alone: nothing has to be compiled
        return problem, size, held
    problem = problem.compiled(size)
    if tile is not None:
        return problem, size, max(1, problem.held(size))
    smaller, held = problem.best(most=size)
    # Each round's tile is smaller than the one before, so that it ends
    while smaller != size:
        # What the compiled tile needs says about what a smaller one does, and never quite: it is compiled as well.
        size, problem = smaller, problem.compiled(smaller)
        if problem.held(size):
            return problem, size, problem.holds(size)
        smaller, held = problem.best(most=size)
    return problem, size, held


def price(problem: Problem, way: PlannedWay, tile: int | None, through: bool) -> Option:
    """Price a way with the best tile and as many held as fit, or with the tile that is asked for.

    Args:
        problem: what is to be computed.
        way: which way.
        tile: examples in a tile to insist on.
        through: the functions are of features and head.
    """
    # The other ways hold rows of the outputs, never factors
    if way not in EXACT:
        return _price_other(problem.without_factors(), way, tile)
    problem, size, held = settled(problem, tile)
    peak = problem.peak(size, held)
    fits = peak <= problem.memory
    note = "exact, memory bounded by the tile" if fits else "exact; doesn't fit"
    if way == "features":
        note = "what tiled does with this function" if through else "needs a function of features and head"
    return Option(
        way, size, held, problem.passes(size, held), peak, problem.row_flops(*problem.sweeps(size, held)),
        problem.product_flops(), fits and (through or way == "tiled"), note,
    )  # fmt: skip


def _price_other(problem: Problem, way: PlannedWay, tile: int | None) -> Option:
    """Price a way that knows nothing of features, from the exact way's program."""
    problem, compiled, _ = settled(problem, tile)
    # Kept from `settled` where that compiled it; where it gave up before, this is the first time
    one = problem.compiled(compiled).program_bytes(compiled) / compiled
    flops, examples = problem.row_flops(), problem.n1 + (problem.n2 or 0)
    parameters = problem.functions.shapes[0].parameters
    if way == "neural_tangents":  # single precision, both triangles; every pair of tiles computes its rows anew
        size = min(tile or problem.largest, problem.largest)
        # Rows of two tiles, one for each side of a block
        while tile is None and size > 1 and problem.counted + 2 * size * one > problem.memory:
            size = -(-size // 2)
        passes, held = float(-(-problem.largest // size)), 1
        peak = problem.counted + int(2 * size * one) + 4 * size * size * problem.block
        products, note = problem.product_flops(symmetric=False), "exact, no symmetric half; for comparison"
    elif way == "sketched":
        size = tile or problem.busy
        kept = 8 * examples * problem.count * SKETCH_WIDTH
        peak, passes, held = problem.counted + kept + int(size * one), 1.0, 1
        products = problem.product_flops() * SKETCH_WIDTH / parameters
        note = f"approximate (width {SKETCH_WIDTH}); only when asked for"
    else:
        size = min(tile or PRODUCTS_TILE, problem.largest)
        # A pass keeps the activations of its tile once, not once an output.
        peak, held, passes = int(size * one / problem.count) + 16 * parameters, 0, 0.0
        functions = problem.functions
        both = sum(pass_operations(functions.pair[0], functions.params, functions.examples(1)))
        flops, products = 0.0, 2 * examples * both
        note = "no kernel, only its product with a vector (operations of one); only when asked for"
    return Option(way, size, held, passes, peak, flops * max(passes, 1.0), products, peak <= problem.memory, note)


@dataclass(frozen=True)
class Plan:
    """How a kernel will be computed.

    Attributes:
        way: name of the way.
        tile: examples in a tile, a multiple of the devices.
        held: tiles of Jacobian rows in memory at a time.
        passes: how often a Jacobian row is computed, on average.
        peak_bytes: predicted memory of one device, bytes.
        kernel_bytes: bytes of the kernel, all groups; 0 for a way without one.
        memory_bytes: memory that was there to plan with, bytes a device.
        flops_jacobian: operations for Jacobian rows.
        flops_products: operations for their products.
        devices: devices that share each tile.
        reasons: why this one, one line each.
        problem: what the plan is for.
        asked_tile: the tile that was insisted on.
    """

    way: PlannedWay
    tile: int
    held: int
    passes: float
    peak_bytes: int
    kernel_bytes: int
    memory_bytes: int
    flops_jacobian: float
    flops_products: float
    devices: int
    reasons: tuple[str, ...]
    problem: Problem = field(compare=False, repr=False)
    asked_tile: int | None = field(compare=False, repr=False)

    @property
    def floor(self) -> float:
        """Fewest operations of an exact kernel: see `Problem.floor`."""
        return self.problem.floor(self.tile)

    @property
    def options(self) -> tuple[Option, ...]:
        """Every way, with its costs; priced when asked for, since none but the chosen one is needed to compute."""
        first, second = self.problem.functions.pair
        through = isinstance(first, Composite) and isinstance(second, Composite)
        ways = PLANNED_WAYS if first is second else EXACT
        return tuple(price(self.problem, way, self.asked_tile, through) for way in ways)

    @property
    def flops(self) -> float:
        """All operations."""
        return self.flops_jacobian + self.flops_products

    @property
    def flops_per_device(self) -> float:
        """Operations of one device."""
        return self.flops / self.devices

    @property
    def floor_fraction(self) -> float:
        """Fewest operations over planned ones."""
        return self.floor / self.flops

    def lines(self) -> list[str]:
        """A table of all ways, for people."""
        head = f"{'way':<16}{'tile':>6}{'held':>6}{'passes':>8}{'memory':>11}{'Jacobians':>13}{'products':>13}  note"
        mark = " *"
        rows = [
            f"{o.way + mark * (o.way == self.way):<16}{o.tile:>6}{o.held:>6}{o.passes:>8.2f}"
            f"{readable_bytes(o.peak_bytes):>11}{_operations(o.flops_jacobian):>13}{_operations(o.flops_products):>13}"
            f"  {o.reason}"
            for o in self.options
        ]
        about = (
            f"kernel {readable_bytes(self.kernel_bytes)}, memory to plan with {readable_bytes(self.memory_bytes)} on "
            f"each of {self.devices} device{'s' if self.devices > 1 else ''}; {self.floor_fraction:.0%} of the planned "
            "operations are unavoidable"
        )
        return [head, *rows, about, *self.reasons]


def plan(
    apply_fn: ApplyFn,
    params: Params,
    x1: Any,
    n1: int,
    n2: int | None = None,
    *,
    outputs: Outputs = "full",
    groups: Groups = None,
    precision: Precision = "float64",
    way: PlannedWay | Literal["auto"] = "auto",
    tile: int | None = None,
    memory_bytes: int | None = None,
    devices: int = 1,
    kernel_in_memory: bool = True,
    apply_fn2: ApplyFn | None = None,
    mesh: Mesh | None = None,
) -> Plan:
    """Plan a kernel; the program that it compiles is the one that the computation runs, which needn't compile it again.

    Args:
        apply_fn: function of parameters and examples to (n, k).
        params: its parameters.
        x1: anything with the examples' shape (n, ...) and dtype.
        n1: examples of the rows.
        n2: examples of the columns; None: the rows' own, at half the cost.
        outputs: kind of kernel.
        groups: parameter groups; with two and more, each has a kernel of its own.
        precision: of the sums over parameters.
        way: one to insist on; `auto` takes the tiled one, the others only when asked for.
        tile: examples in a tile to insist on.
        memory_bytes: memory of a device to stay within, for which programs are compiled with care; None: 0.8 of what
            is free, and compiled for speed.
        devices: devices that share each tile.
        kernel_in_memory: count the kernel; False where it is streamed to disk.
        apply_fn2: function of the columns, where it is another one; n2 None is then n1, and no half is saved.
        mesh: the devices themselves, for the program that runs on them; None: one device's share stands for all.

    Raises:
        FunctionError: no kernel can be computed of these.
        TooLargeError: it doesn't fit.
        PlanError: an unknown way or kind of outputs, or a way that doesn't know two functions.

    Example:
        >>> import numpy as np
        >>> chosen = plan(lambda w, x: x @ w, np.ones((3, 2)), np.ones((100, 3)), 100, memory_bytes=10**9)
        >>> chosen.way, chosen.tile, chosen.held, chosen.passes, chosen.kernel_bytes
        ('tiled', 80, 2, 1.0, 320000)
    """
    if outputs not in OUTPUTS:
        raise PlanError(f"expected outputs to be one of {', '.join(OUTPUTS)}; got {outputs!r}")
    if way not in ("auto", *PLANNED_WAYS):
        raise PlanError(f"expected way to be auto or one of {', '.join(PLANNED_WAYS)}; got {way!r}")
    if min(n1, n1 if n2 is None else n2, devices) < 1:
        raise PlanError(f"expected at least one example and device; got n1 {n1}, n2 {n2} and {devices} devices")
    if tile is not None and tile < 1:
        raise PlanError(f"expected a tile of at least 1 example; got {tile}: leave it out or choose a larger one")
    if tile is not None:
        tile = -(-tile // devices) * devices  # every device gets equally many, the last ones padded
    through = all(isinstance(fn, Composite) for fn in (apply_fn, apply_fn if apply_fn2 is None else apply_fn2))
    if way == "features" and not through:
        raise PlanError("way features needs a function of features and head (analysis.kernels.composite); got another")
    if apply_fn2 is not None:
        n2 = n1 if n2 is None else n2
        if way not in ("auto", *EXACT):
            raise PlanError(f"way {way} knows no second function; leave the way out or use way tiled")
    memory = planning_memory(devices) if memory_bytes is None else memory_bytes
    problem = describe(
        apply_fn, params, x1, n1, n2, outputs, groups, precision, memory, devices, kernel_in_memory,
        memory_bytes is not None, apply_fn2, mesh,
    )  # fmt: skip
    chosen: PlannedWay = "tiled" if way == "auto" else way
    taken = price(problem, chosen, tile, through)
    kernel = 0 if chosen == "products" else problem.kernel
    if not taken.fits:
        raise TooLargeError(
            f"way {chosen} needs {readable_bytes(taken.peak_bytes)} at tile {taken.tile} "
            f"({readable_bytes(problem.kernel)} of it the kernel) and {readable_bytes(memory)} may be used",
            "choose outputs trace or pseudo, fewer images or a smaller tile; sketched_ntk approximates the kernel, "
            "KernelOperator knows its products alone",
        )
    reasons = (
        f"{chosen}: " + ("asked for" if way != "auto" else "exact, and its memory is bounded by the tile"),
        f"tile {taken.tile}: " + ("asked for" if tile is not None else f"{taken.tile * problem.count} Jacobian rows"),
        f"held {taken.held}: every Jacobian row is computed {taken.passes:.2f} times",
    )
    return Plan(
        chosen, taken.tile, taken.held, taken.passes, taken.peak_bytes, kernel, memory, taken.flops_jacobian,
        taken.flops_products, devices, reasons, problem, tile,
    )  # fmt: skip


def readable_bytes(number: float) -> str:
    """A size for people.

    Example:
        >>> readable_bytes(1234), readable_bytes(2e9)
        ('1.23 kB', '2 GB')
    """
    return _scaled(number, "B")


def _operations(number: float) -> str:
    return _scaled(number, "FLOP")


def _scaled(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:.3g} T{unit}"
