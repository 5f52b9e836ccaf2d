"""What a traced program costs: operations and memory, read off its jaxpr without compiling it.

Memory is what XLA calls temporary plus output memory: everything but the arguments. The program is walked through in
its own order, adding up what is alive. That needs to know which values XLA writes to memory at all, and this is the
model, calibrated against XLA's memory analysis (tests/unit/analysis/kernels/test_costs.py):

- results of products, convolutions, reductions, joins, gathers and loops are written, and so are products' operands;
- anything else is computed inside of the one value that needs it, and written if two different ones need it;
- what is computed of numbers alone is written only to be joined with something else;
- products whose axes aren't in the order of a matrix product need copies of their operands meanwhile;
- a reshape shares its operand's memory; equal computations are done once, results that nobody needs never.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from analysis.kernels.primitives import (
    COSTLY,
    MOVES,
    PIECES,
    PRODUCTS,
    elements,
    is_elementwise,
    is_view,
    product_flops,
    rearranged_bytes,
    size_in_bytes,
)


@dataclass(frozen=True)
class Cost:
    """What a program costs.

    Attributes:
        flops: additions, multiplications and elementwise operations; a product of (m, k) and (k, n) has 2 m n k.
        peak_bytes: largest temporary memory at any time plus the outputs, without the arguments; bytes.
        output_bytes: bytes of the outputs.
        argument_bytes: bytes of the arguments.
    """

    flops: float
    peak_bytes: int
    output_bytes: int
    argument_bytes: int


@dataclass
class _Value:
    """A computed array, on the way from a jaxpr to a list of what is written when."""

    size: int
    inputs: tuple[int, ...] = ()
    flops: float = 0.0
    inside: int = 0
    stored: bool = False
    needs_stored: bool = False
    constant: bool = False
    spreads: bool = False
    joins: bool = False
    costly: bool = False
    argument: bool = False
    roots: set[int] = field(default_factory=set)


class Graph:
    """A jaxpr without its nesting: inner functions inlined, equal computations merged."""

    def __init__(self) -> None:
        self.values: list[_Value] = []
        self.seen: dict[Any, list[int]] = {}
        self.scopes = 0

    def add(self, value: _Value) -> int:
        """Append a value; return its position."""
        self.values.append(value)
        return len(self.values) - 1

    def argument(self, aval: Any) -> int:
        """Append an argument of the program."""
        return self.add(_Value(size_in_bytes(aval), stored=True, argument=True))

    def walk(self, jaxpr: Jaxpr, arguments: Sequence[int], scope: int = 0) -> list[int]:
        """Add the equations of a jaxpr; return the values of its outputs."""
        known: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {var: self.argument(var.aval) for var in jaxpr.constvars}

        def value(atom: Any) -> int:
            if not isinstance(atom, Literal):
                return known[atom]
            return self.add(_Value(size_in_bytes(atom.aval), constant=True))

        for eqn in jaxpr.eqns:
            inner = _called(eqn)
            if inner is not None:
                inputs = [value(atom) for atom in eqn.invars]
                fresh = eqn.primitive.name.startswith(("remat", "checkpoint")) and eqn.params.get("prevent_cse", True)
                self.scopes += bool(fresh)
                results = self.walk(inner, inputs, self.scopes if fresh else scope)
            else:
                key = _key(eqn, known, scope)
                results = self.seen.get(key) if key is not None else None
                if results is None:
                    results = self.equation(eqn, [value(atom) for atom in eqn.invars])
                    if key is not None:
                        self.seen[key] = results
            known.update(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[int]) -> list[int]:
        """Append the results of an equation; return their positions."""
        name = eqn.primitive.name
        sizes = [size_in_bytes(var.aval) for var in eqn.outvars]
        if is_view(eqn):
            return inputs[: len(sizes)]
        constant = all(self.values[i].constant for i in inputs)
        value = _Value(sizes[0] * PIECES.get(name, 1), tuple(inputs), constant=constant, costly=name in COSTLY)
        count = max((elements(atom) for atom in (*eqn.outvars, *eqn.invars)), default=0)
        if name in PRODUCTS:
            value.flops, value.stored, value.needs_stored = product_flops(eqn), True, True
            value.inside = rearranged_bytes(eqn)
        elif name in MOVES:
            value.spreads = name == "broadcast_in_dim"
        elif _bodies(eqn):
            value.flops, value.inside = _inside(eqn)
            value.stored, value.needs_stored = True, True
        elif is_elementwise(eqn):
            value.flops = float(count)
        else:
            value.stored, value.constant, value.joins = True, False, name == "concatenate"
            value.flops = float(count) if name.startswith(("reduce", "arg", "cum", "sort")) else 0.0
        return [self.add(value)] + [
            self.add(_Value(size, tuple(inputs), stored=value.stored, needs_stored=value.needs_stored))
            for size in sizes[1:]
        ]

    def decide(self, outputs: set[int]) -> list[bool]:
        """Decide from the end what is written to memory; return which values are needed at all."""
        values = self.values
        needed = [False] * len(values)
        for i in reversed(range(len(values))):
            value = values[i]
            if i in outputs:
                value.stored = True
            needed[i] = i in outputs or bool(value.roots) or value.argument
            if not needed[i]:
                continue
            if len(value.roots) > 1 and not value.constant and not value.spreads:
                value.stored = True
            roots = {i} if value.stored else value.roots
            for j in value.inputs:
                source = values[j]
                if len(source.roots) < 2:
                    source.roots |= roots
                if value.needs_stored or (value.spreads and source.costly) or (value.joins and source.constant):
                    source.stored = True
        return needed

    def peak(self, outputs: set[int]) -> tuple[float, int]:
        """FLOPs, and the largest temporary memory at any time, in bytes."""
        values = self.values
        needed = self.decide(outputs)
        reads: list[set[int]] = []
        last: dict[int, int] = {}
        for i, value in enumerate(values):
            read: set[int] = set()
            for j in value.inputs:
                read |= {j} if values[j].stored else reads[j]
            reads.append(read)
            if needed[i] and value.stored:
                for j in read:
                    last[j] = i
        dying: dict[int, list[int]] = {}
        for j, i in last.items():
            dying.setdefault(i, []).append(j)
        temporary = [v.stored and not v.argument and i not in outputs and needed[i] for i, v in enumerate(values)]
        alive = peak = 0
        for i, value in enumerate(values):
            if temporary[i]:
                alive += value.size
            if needed[i] and value.stored:
                peak = max(peak, alive + value.inside)
            alive -= sum(values[j].size for j in dying.get(i, ()) if temporary[j])
        flops = sum(value.flops for value, wanted in zip(values, needed, strict=True) if wanted)
        return flops, peak


def _called(eqn: JaxprEqn) -> Jaxpr | None:
    """The function that an equation calls once, if that is all that it does."""
    if eqn.primitive.name in ("scan", "while", "cond", "shard_map"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = getattr(eqn.params.get(name), "jaxpr", eqn.params.get(name))
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return inner
    return None


def _bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    """Every jaxpr among an equation's parameters."""
    found = []
    for parameter in eqn.params.values():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found


def _inside(eqn: JaxprEqn) -> tuple[float, int]:
    """FLOPs of a loop, a branch or a sharded function, and the memory that it needs besides its operands and results.

    A `while` loop's steps aren't known: they count once.
    """
    parts = [_jaxpr_cost(body) for body in _bodies(eqn)]
    name = eqn.primitive.name
    flops, memory = [part.flops for part in parts], max(part.peak_bytes for part in parts)
    if name == "cond":
        return max(flops), memory
    times = eqn.params["length"] if name == "scan" else eqn.params["mesh"].size if name == "shard_map" else 1
    shares = times if name == "shard_map" else 1
    results = sum(size_in_bytes(var.aval) for var in eqn.outvars) if name == "shard_map" else 0
    return sum(flops) * times, max(0, memory * shares - results)


def _key(eqn: JaxprEqn, known: dict[Any, int], scope: int) -> Any:
    """What makes two equations equal; None for loops and for what has effects, which are kept apart."""
    if eqn.effects or _bodies(eqn):
        return None
    atoms = tuple(
        ("number", str(atom.val), str(atom.aval)) if isinstance(atom, Literal) else known[atom] for atom in eqn.invars
    )
    return scope, eqn.primitive.name, str(sorted(eqn.params.items())), atoms


def _jaxpr_cost(jaxpr: Jaxpr) -> Cost:
    graph = Graph()
    arguments = [graph.argument(var.aval) for var in jaxpr.invars]
    outputs = graph.walk(jaxpr, arguments)
    flops, temporary = graph.peak(set(outputs))
    output_bytes = sum(size_in_bytes(atom.aval) for atom in jaxpr.outvars)
    return Cost(flops, temporary + output_bytes, output_bytes, sum(size_in_bytes(var.aval) for var in jaxpr.invars))


def opened(traced: Any) -> Any:
    """The jaxpr without its constants; newer versions of JAX make no difference."""
    return getattr(traced, "jaxpr", traced)


def program_cost(fn: Callable, *args: Any) -> Cost:
    """Cost of `fn(*args)`, compiled as a whole, from tracing it only.

    Args:
        fn: function of pytrees of arrays.
        *args: its arguments; `jax.ShapeDtypeStruct` will do for arrays.

    Example:
        >>> matrix = jax.ShapeDtypeStruct((100, 100), "float32")
        >>> program_cost(lambda a, b: (a @ b).sum(), matrix, matrix)
        Cost(flops=2010000.0, peak_bytes=40004, output_bytes=4, argument_bytes=80000)
    """
    traced = jax.make_jaxpr(fn)(*args)
    return _jaxpr_cost(opened(traced))
