"""What XLA does with JAX's primitives, as far as their costs go: which share memory, move, fuse, or need copies."""

from math import prod
from typing import Any

from jax.extend.core import JaxprEqn

VIEWS = {"reshape", "squeeze", "expand_dims", "copy", "copy_p", "stop_gradient", "optimization_barrier"}
"""Primitives whose results share the memory of their operands."""
MOVES = {"broadcast_in_dim", "transpose", "slice", "rev", "iota", "split", "pad", "dynamic_slice"}
"""Primitives that change no number and are computed inside of what needs them."""
PRODUCTS = {"dot_general", "conv_general_dilated"}
COSTLY = {"exp", "log", "erf", "erfc", "tanh", "logistic", "rsqrt", "sqrt", "div", "pow", "sin", "cos"}
"""Elementwise primitives that XLA doesn't repeat for every element of a broadcast."""

PIECES = {"erfc": 3}
"""Arrays that XLA keeps of a function that it computes piecewise, where the result is needed more than once."""


def _aval(atom: Any) -> Any:
    return atom.aval


def size_in_bytes(aval: Any) -> int:
    """Bytes of an array by its abstract value; 0 for tokens."""
    return prod(getattr(aval, "shape", ())) * getattr(getattr(aval, "dtype", None), "itemsize", 0)


def elements(atom: Any) -> int:
    """Numbers in an operand or result of an equation."""
    return prod(getattr(atom.aval, "shape", ()))


def product_flops(eqn: JaxprEqn) -> float:
    """Operations of a product or convolution: two for each pair of factors."""
    left, right = (_aval(atom).shape for atom in eqn.invars[:2])
    size = elements(eqn.outvars[0])
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * size * prod(left[axis] for axis in contracted)
    # A kernel is (out features, in features of one group, *window) in the order of its specification.
    return 2.0 * size * prod(right) / right[eqn.params["dimension_numbers"].rhs_spec[0]]


def rearranged_bytes(eqn: JaxprEqn) -> int:
    """Bytes of a product's operands and result that must be copied into the order that matrix products know.

    That is (batch, free, contracted) or (batch, contracted, free), with each kind of axes together and in order.
    """
    if eqn.primitive.name != "dot_general":
        return 0
    total = 0
    for atom, contracted, batch in zip(eqn.invars, *eqn.params["dimension_numbers"], strict=True):
        shape = _aval(atom).shape
        free = [axis for axis in range(len(shape)) if axis not in (*contracted, *batch)]
        orders = ([*batch, *free, *contracted], [*batch, *contracted, *free])
        wide = [[axis for axis in order if shape[axis] > 1] for order in orders]
        total += 0 if any(order == sorted(order) for order in wide) else size_in_bytes(atom.aval)
    return total


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether each number of the result comes from the same place of the operands, axes of one repeated."""
    name = eqn.primitive.name
    shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
    result = getattr(eqn.outvars[0].aval, "shape", ())
    moved = name.startswith(("cum", "sort", "gather", "scatter", "dynamic", "triangular", "cholesky", "fft"))
    return not moved and all(
        not shape or (len(shape) == len(result) and all(a in (1, b) for a, b in zip(shape, result, strict=True)))
        for shape in shapes
    )


def is_view(eqn: JaxprEqn) -> bool:
    """Whether the result shares the memory of the first operand."""
    name = eqn.primitive.name
    if name in VIEWS:
        return True
    if not eqn.invars or len(eqn.outvars) != 1:
        return False
    source, result = _aval(eqn.invars[0]), _aval(eqn.outvars[0])
    if name == "transpose":  # of a matrix: products read either order
        return sum(axis > 1 for axis in result.shape) <= 2
    if name == "convert_element_type":
        return source.dtype == result.dtype
    same = getattr(source, "shape", None) is not None and prod(source.shape) == prod(result.shape)
    return same and name in ("broadcast_in_dim", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "slice")
