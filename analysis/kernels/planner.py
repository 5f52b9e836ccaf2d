"""Which way to compute a kernel, with which tile, before anything is compiled: predicted memory and operations.

The tiled way needs, beside the kernel itself, `held + 1` tiles of Jacobian rows and the larger of the program that
computes a tile and the one that multiplies two. Among tiles that keep the machine busy the one that computes rows least
often is taken, and of equals the largest.
"""

from dataclasses import dataclass
from typing import Any, Literal

from analysis.errors import PlanError
from analysis.kernels.composite import Composite
from analysis.kernels.functions import ApplyFn, Groups, Params
from analysis.kernels.kinds import OUTPUTS, Outputs, Precision
from analysis.kernels.memory import planning_memory
from analysis.kernels.prices import PLANNED_WAYS, Option, PlannedWay, price
from analysis.kernels.problem import describe


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
        floor: fewest operations of an exact kernel: one backward pass through the activations for each example and
            output, and the product of the rows, half of it where the kernel is symmetric.
        devices: devices that share each tile.
        options: every way, with its costs.
        reasons: why this one, one line each.
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
    floor: float
    devices: int
    options: tuple[Option, ...]
    reasons: tuple[str, ...]

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
            f"{_size(o.peak_bytes):>11}{_operations(o.flops_jacobian):>13}{_operations(o.flops_products):>13}"
            f"  {o.reason}"
            for o in self.options
        ]
        about = (
            f"kernel {_size(self.kernel_bytes)}, memory to plan with {_size(self.memory_bytes)} on each of "
            f"{self.devices} device{'s' if self.devices > 1 else ''}; {self.floor_fraction:.0%} of the planned "
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
) -> Plan:
    """Plan a kernel without compiling anything.

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

    Raises:
        FunctionError: no kernel can be computed of these.
        PlanError: it doesn't fit, an unknown way or kind of outputs, or a way that doesn't know two functions.

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
    exact = PLANNED_WAYS[:2]
    if apply_fn2 is not None:
        n2 = n1 if n2 is None else n2
        if way not in ("auto", *exact):
            raise PlanError(f"way {way} knows no second function; leave the way out or use way tiled")
    memory = planning_memory(devices) if memory_bytes is None else memory_bytes
    lean = memory_bytes is not None
    asked = (apply_fn, params, x1, n1, n2, outputs, groups, precision, memory, devices, kernel_in_memory, lean)
    problem = describe(*asked, apply_fn2)
    chosen: PlannedWay = "tiled" if way == "auto" else way
    options = [price(problem, name, tile, through) for name in exact]
    if apply_fn2 is None:
        plain = describe(*asked, factors=False)  # the other ways know nothing of features
        options += [price(plain, name, tile, through) for name in PLANNED_WAYS[2:]]
    taken = next(option for option in options if option.way == chosen)
    kernel = 0 if chosen == "products" else problem.kernel
    if not taken.fits:
        raise PlanError(
            f"way {chosen} needs {_size(taken.peak_bytes)} at tile {taken.tile} ({_size(problem.kernel)} of it the "
            f"kernel) and {_size(memory)} may be used: choose outputs trace or pseudo, fewer images or a smaller tile, "
            "way sketched, or store the kernel on disk"
        )
    reasons = (
        f"{chosen}: " + ("asked for" if way != "auto" else "exact, and its memory is bounded by the tile"),
        f"tile {taken.tile}: " + ("asked for" if tile is not None else f"{taken.tile * problem.rows} Jacobian rows"),
        f"held {taken.held}: every Jacobian row is computed {taken.passes:.2f} times",
    )
    return Plan(
        chosen, taken.tile, taken.held, taken.passes, taken.peak_bytes, kernel, memory, taken.flops_jacobian,
        taken.flops_products, problem.floor, devices, tuple(options), reasons,
    )  # fmt: skip


def _size(number: float) -> str:
    return _scaled(number, "B")


def _operations(number: float) -> str:
    return _scaled(number, "FLOP")


def _scaled(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:.3g} T{unit}"
