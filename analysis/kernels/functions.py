"""What a kernel is computed of: a pure function of parameters and inputs, checked before it is used.

`apply_fn(params, x) -> (n, k)` is any function whose rows don't depend on each other. Arrays that it closes over become
constants of every compiled program; make large ones arguments instead, with `jax.tree_util.Partial`, which is a pytree:

    apply_fn = jax.tree_util.Partial(network_fn, frozen=frozen)     # network_fn(params, x, *, frozen)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from analysis.errors import FunctionError
from analysis.kernels.composite import Composite
from analysis.kernels.tracing import leaves_used, remembered

Params = Any
"""A pytree of floating-point arrays."""
ApplyFn = Callable[[Params, jax.Array], jax.Array]
Function = Partial | Composite
"""An `ApplyFn` that is a pytree: what it binds is an argument of compiled programs."""
Groups = Mapping[str, Sequence[str]] | Callable[[str], str] | None
"""Parameter groups: name to path prefixes, or a function from a leaf's path to its group's name; None: one group."""

CHECKED_ROWS = 3
# Rows alone and in a batch differ by rounding only; a coupled row differs by the size of the outputs.
COUPLING_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Shape:
    """Sizes that decide about everything else.

    Attributes:
        outputs: k, columns of `apply_fn`'s result.
        dtype: type of the outputs.
        parameters: p, numbers in `params`.
        groups: names of the parameter groups with the positions of their leaves, in the order of `params`' leaves.
        group_parameters: numbers in each group.
        features: d of a `Composite`; None of any other function.
        head_leaves: positions of the leaves that the head of a `Composite` takes.
    """

    outputs: int
    dtype: np.dtype
    parameters: int
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    group_parameters: tuple[int, ...]
    features: int | None = None
    head_leaves: tuple[int, ...] = ()


def direct_leaves(outputs: str, *shapes: Shape) -> tuple[int, ...] | None:
    """Leaves whose Jacobian rows are held as rows of the outputs, where the others' are held as rows of the features.

    Args:
        outputs: kind of kernel.
        *shapes: of the functions that the kernel is between.

    Returns:
        Positions, or None where rows of the outputs serve better for all: features that are more than the outputs, or a
        function without any.

    Example:
        >>> wide = Shape(100, np.dtype("float32"), 9, (("all", (0, 1)),), (9,), features=5, head_leaves=(1,))
        >>> direct_leaves("full", wide), direct_leaves("pseudo", wide)
        ((1,), None)
    """
    features = [shape.features for shape in shapes if shape.features is not None]
    if len(features) < len(shapes) or outputs == "pseudo":
        return None
    # Products of each pair of examples and parameter: features with features, or what the kind of kernel needs.
    plain = shapes[0].outputs * (shapes[-1].outputs if outputs == "full" else 1)
    if features[0] * features[-1] >= plain:
        return None
    return tuple(sorted({leaf for shape in shapes for leaf in shape.head_leaves}))


def as_partial(apply_fn: ApplyFn) -> Function:
    """Make the function a pytree, so that arrays bound to it are arguments of compiled programs.

    Example:
        >>> as_partial(jnp.multiply)(2.0, jnp.ones(2)).tolist()
        [2.0, 2.0]
    """
    return apply_fn if isinstance(apply_fn, Function) else Partial(apply_fn)


def leaf_paths(params: Params) -> list[str]:
    """Paths of the leaves, parts joined by `/`, in the order of `jax.tree.leaves`.

    Example:
        >>> leaf_paths({"head": {"bias": 0.0, "kernel": 1.0}, "scale": 2.0})
        ['head/bias', 'head/kernel', 'scale']
    """
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]


def group_leaves(params: Params, groups: Groups = None) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Sort the leaves of `params` into groups.

    Args:
        params: parameters.
        groups: group name to prefixes of leaf paths (every leaf in exactly one group), or a function from the leaf's
            path to its group's name, or None for one group `all`.

    Returns:
        Name and leaf positions of each group, groups in the order in which they were given or first met.

    Raises:
        FunctionError: a leaf in no group or in two, or a group without leaves.

    Example:
        >>> group_leaves({"a": 1.0, "b/x": 2.0, "b/y": 3.0}, {"rest": ["a"], "b": ["b/"]})
        (('rest', (0,)), ('b', (1, 2)))
    """
    paths = leaf_paths(params)
    if groups is None:
        return (("all", tuple(range(len(paths)))),)
    found: dict[str, list[int]] = {}
    if isinstance(groups, Mapping):
        # Every name beforehand, so that one without leaves is noticed
        found = {name: [] for name in groups}
        for i, path in enumerate(paths):
            homes = [name for name, prefixes in groups.items() if any(path.startswith(prefix) for prefix in prefixes)]
            if len(homes) != 1:
                raise FunctionError(
                    f"expected every parameter in exactly one group; {path} is in {' and '.join(homes) or 'none'} of "
                    f"{', '.join(groups) or 'the 0 given'}: change the prefixes"
                )
            found[homes[0]].append(i)
    else:
        for i, path in enumerate(paths):
            found.setdefault(groups(path), []).append(i)
    empty = [name for name, leaves in found.items() if not leaves]
    if empty:
        raise FunctionError(f"expected parameters in every group; {empty[0]} has none of {', '.join(paths[:4])} ...")
    return tuple((name, tuple(leaves)) for name, leaves in found.items())


def check_params(params: Params) -> None:
    """Refuse parameters that have no kernel: none at all, integers, NaN or infinity.

    Raises:
        FunctionError: with the path of the leaf.
    """
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise FunctionError(
            "expected parameters with at least one array; the tree has no leaves (was everything frozen?)"
        )
    for path, leaf in zip(leaf_paths(params), leaves, strict=True):
        path = path or "params"  # a single array has an empty path
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise FunctionError(
                f"expected floating-point parameters; {path} is {dtype}: bind it to apply_fn with "
                "jax.tree_util.Partial instead"
            )
        array = np.asarray(leaf)  # on the host: dozens of small arrays cost a device more calls than work
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            raise FunctionError(f"expected finite parameters; {path} has {bad} of {array.size} NaN or infinite")


def check_images(x: Any, what: str = "x") -> None:
    """Refuse an input set that is empty, no array, or not finite.

    Raises:
        FunctionError: with the set's name.
    """
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise FunctionError(f"expected {what} to be an array with one row per example; got {type(x).__name__}")
    if not x.shape or not x.shape[0]:
        raise FunctionError(f"expected {what} with at least one row; its shape is {tuple(x.shape)}")
    if jnp.issubdtype(x.dtype, jnp.floating) and not _finite(x):
        row = int(np.flatnonzero(~np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1))[0])
        raise FunctionError(f"expected finite numbers in {what}; row {row} has NaN or infinity")


def _finite(x: Any) -> bool:
    """Whether every number is finite, asked where they lie: a device sends one answer back."""
    return bool(np.isfinite(x).all() if isinstance(x, np.ndarray) else _finite_on_device(x))


# By one program, where each operation alone would be one for every shape
@jax.jit
def _finite_on_device(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def inspect(apply_fn: ApplyFn, params: Params, x: Any, groups: Groups = None) -> Shape:
    """Find the sizes without computing anything.

    Raises:
        FunctionError: the function fails on these shapes, doesn't return one row per example, (n, k), or not of real
            floating-point numbers; or the features of a `Composite` aren't (n, d).
    """
    # The type that JAX will give the examples: float64 ones become float32 unless it was told otherwise.
    examples = jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))
    fn = as_partial(apply_fn)

    def shapes() -> tuple[Any, Any]:
        out = jax.eval_shape(fn, params, examples)
        # The features' shape is asked for at once, so that one cached trace serves both
        return out, jax.eval_shape(fn.features, params, examples) if isinstance(fn, Composite) else out

    try:
        out, inner = remembered("shapes", (fn, params, examples), None, shapes)
    except Exception as error:  # a stranger's function may raise anything
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise FunctionError(f"apply_fn(params, x) fails on x of shape {tuple(x.shape)}: {reason}") from error
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != x.shape[0] or not shape[1]:
        raise FunctionError(
            f"expected apply_fn(params, x) to return ({x.shape[0]}, k), one row per example; got "
            f"{shape if shape is not None else type(out).__name__}"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise FunctionError(f"expected apply_fn(params, x) to return floating-point numbers; got {out.dtype}")
    if getattr(inner, "ndim", None) != 2 or inner.shape[0] != x.shape[0]:
        raise FunctionError(
            f"expected features of shape ({x.shape[0]}, d); got {getattr(inner, 'shape', type(inner).__name__)}: "
            "reshape them, and back in the head"
        )
    sorted_leaves = group_leaves(params, groups)
    sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(params)]
    per_group = tuple(sum(sizes[i] for i in leaves) for _, leaves in sorted_leaves)
    plain = Shape(int(shape[1]), np.dtype(out.dtype), sum(sizes), sorted_leaves, per_group)
    if not isinstance(fn, Composite):
        return plain
    taken = remembered("head", (fn, params, inner), None, lambda: leaves_used(fn.head, params, inner))
    return replace(plain, features=int(inner.shape[1]), head_leaves=taken)


@jax.jit
def _evaluate(fn: Function, params: Params, x: jax.Array) -> jax.Array:
    return fn(params, x)


def check_rows(apply_fn: ApplyFn, params: Params, x: Any) -> None:
    """Refuse a function that has state or whose rows depend on each other (batch norm, dropout, a batch-wise vote).

    The first rows are evaluated together, the first and the last of them beside other companions, the last alone, and
    the function is traced twice; a kernel of single examples would silently be the kernel of another function.

    Raises:
        FunctionError: two traces differ, a row changes with its companions, or an output isn't finite.
    """
    # A few rows: what couples examples couples these
    fn, rows = as_partial(apply_fn), jnp.asarray(x[: max(CHECKED_ROWS, 2)])
    whole = np.asarray(_evaluate(fn, params, rows), np.float64)
    if not np.isfinite(whole).all():
        row = int(np.flatnonzero(~np.isfinite(whole).all(axis=1))[0])
        raise FunctionError(f"expected finite outputs; apply_fn(params, x) gives NaN or infinity in row {row}")
    # Parameters may hide it, such as a head of zeros: the companions are changed for each of them.
    # A single example stands beside itself: there has to be a companion to change
    batch = np.asarray(rows if len(rows) > 1 else jnp.repeat(rows, 2, axis=0))
    for kept in (0, -1):
        # Halved and in another order: other numbers of the same type and about the same size
        other = (batch[::-1] * 0.5).astype(batch.dtype)
        other[kept] = batch[kept]
        _check_same(np.asarray(_evaluate(fn, params, jnp.asarray(other)), np.float64)[kept], whole[kept], whole)
    # State and an eye for the batch's size are in the code, where looking once will do.
    remembered("rows", (fn, params, rows), None, lambda: _check_code(fn, params, rows, whole))


def _check_code(fn: Function, params: Params, rows: jax.Array, whole: np.ndarray) -> None:
    # Traced twice, the function runs twice: a counter or generator inside of it leaves other numbers in the program.
    first, second = (_program(fn, params, rows[-1:]) for _ in range(2))
    if first != second:
        raise FunctionError(
            "expected a pure apply_fn; two equal calls gave different programs: take dropout, random numbers and state "
            "out of it"
        )
    _check_same(np.asarray(_evaluate(fn, params, rows[-1:]), np.float64)[0], whole[-1], whole)


def _program(fn: Function, params: Params, rows: jax.Array) -> tuple[str, list[bytes]]:
    """Text and constants of the function's program; the addresses of inner functions are no part of it."""
    # A function object of its own each time, or JAX would remember the first program.
    traced = jax.make_jaxpr(lambda params, rows: fn(params, rows))(params, rows)  # noqa: PLW0108
    return re.sub(r" at 0x[0-9a-f]+", "", str(traced)), [np.asarray(c).tobytes() for c in getattr(traced, "consts", ())]


def _check_same(row: np.ndarray, expected: np.ndarray, whole: np.ndarray) -> None:
    # Outputs of zero everywhere agree, and nothing is divided by zero
    size = np.abs(whole).max() + np.finfo(np.float32).tiny
    changed = np.abs(row - expected).max()
    # NaN fails as well
    if not changed <= COUPLING_TOLERANCE * size:
        raise FunctionError(
            f"expected independent rows; an example's outputs change by {changed / size:.1e} of the largest with the "
            "others of its batch: use running statistics instead of batch statistics"
        )
