"""The empirical neural tangent kernel of any pure function: the front door of this folder."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import Shaped

from analysis.errors import FunctionError, PlanError
from analysis.kernels import OUTPUTS, WAYS, Outputs, Precision, Way, tiled
from analysis.kernels.batches import check_all
from analysis.kernels.functions import ApplyFn, Groups, Params, as_partial, direct_leaves, inspect
from analysis.kernels.neural_tangents_backend import evaluate_ntk
from analysis.kernels.planner import plan


def check_options(outputs: str, way: str, precision: str | None) -> None:
    """Refuse options that don't exist.

    Raises:
        PlanError: an unknown kind of outputs, way or precision.
    """
    known = {"outputs": (outputs, OUTPUTS), "way": (way, WAYS), "precision": (precision, (*get_args(Precision), None))}
    for option, (value, values) in known.items():
        if value not in values:
            raise PlanError(f"expected {option} to be one of {', '.join(map(str, values))}; got {value!r}")


def empirical_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[np.ndarray, "n1 ..."] | Shaped[jax.Array, "n1 ..."],
    x2: Shaped[np.ndarray, "n2 ..."] | Shaped[jax.Array, "n2 ..."] | None = None,
    *,
    apply_fn2: ApplyFn | None = None,
    outputs: Outputs = "full",
    way: Way = "auto",
    tile: int | None = None,
    groups: Groups = None,
    precision: Precision | None = None,
    memory_bytes: int | None = None,
    devices: list[jax.Device] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """Empirical NTK `Θ[i, j, c, d] = Σ_p ∂f_c(x1_i)/∂p ∂f_d(x2_j)/∂p`, undivided (docs/theory.md, section 0).

    With `apply_fn2`, g instead of the second f: the kernel between two functions' outputs, such as a network's scores
    and its logits.

    Warning: every row of `apply_fn`'s result must depend on its own example only; this is checked on a few rows.

    Args:
        apply_fn: pure function of parameters and inputs to (n, k); bind large arrays with `jax.tree_util.Partial`.
        params: pytree of floating-point arrays: the parameters of the kernel.
        x1: examples of the rows.
        x2: examples of the columns; None for x1 again, at half the cost (not with `apply_fn2`).
        apply_fn2: function of the columns, g(params, x) to (n, k2), of all the same `params`; None for `apply_fn`.
        outputs: `full` (n1, n2, k, k2); `trace` (n1, n2), the mean of the diagonal over outputs; `diagonal` (n1, n2,
            k); `pseudo` (n1, n2), the kernel of the sum of outputs over √k, one backward pass an example: it is another
            kernel than `trace`, not an estimate of it. `trace` and `diagonal` pair output c with output c, so that two
            functions need equally many.
        way: `tiled`, `neural_tangents` (its Jacobian contraction), or `auto`: tiled.
        tile: examples in a tile, any number; None lets the planner choose.
        groups: parameter groups, as name to prefixes of paths or as a function of the path: the result is then a dict
            of one kernel per group and their sum under `whole`.
        precision: of the sums over parameters: `float64`, or `float32` at highest matrix precision (faster on TPU).
            None: float64 wherever the devices have it (not on TPU).
        memory_bytes: memory to stay within; None: most of what is free.
        devices: share each tile's examples between them; None: all local devices.
        advance: called with the blocks done and the blocks in total (one with `neural_tangents`).

    Returns:
        float64 array, or a dict of them when `groups` is given.

    Raises:
        FunctionError: parameters, function or inputs that no kernel can be computed of.
        PlanError: it can't be done in the memory there is, or the options don't go together.

    Example:
        >>> theta = empirical_ntk(lambda w, x: x @ w, np.ones((2, 3)), np.array([[1.0, 2.0], [0.0, 1.0]]))
        >>> theta.shape, theta[0, 1, 0].tolist()
        ((2, 2, 3, 3), [2.0, 0.0, 0.0])
    """
    check_options(outputs, way, precision)
    check_all(apply_fn, params, x1, x2, name="x1", apply_fn2=apply_fn2)
    if way == "neural_tangents":
        # It sums in the rows' own type, on one device, and plans nothing
        if precision == "float64" or any(option is not None for option in (groups, memory_bytes, devices, apply_fn2)):
            raise PlanError(
                "way neural_tangents knows no groups, float64 sums, memory_bytes, devices or apply_fn2; leave them out "
                "or use way tiled"
            )
        theta = evaluate_ntk(apply_fn, params, x1, x2, outputs, "jacobian_contraction", tile)
        bad = np.mean(~np.isfinite(theta))
        if bad:
            raise FunctionError(
                f"expected a finite kernel; neural-tangents gives NaN or infinity in {bad:.0%} of its entries: use way "
                "tiled, or another tile"
            )
        # It computes everything in one call, so that there is a single block
        advance(1, 1)
        return np.asarray(theta, np.float64)
    fn, shape = as_partial(apply_fn), inspect(apply_fn, params, x1, groups)
    if groups is not None and tiled.WHOLE in dict(shape.groups):
        raise FunctionError(f"expected groups of other names than {tiled.WHOLE}, which is their sum; rename that group")
    fn2, shape2 = fn, shape
    if apply_fn2 is not None:
        # Two functions have no symmetric half to save, even of the same examples: x2 is given a value from here on
        x2 = x1 if x2 is None else x2
        fn2, shape2 = as_partial(apply_fn2), inspect(apply_fn2, params, x2, groups)
    if outputs in ("trace", "diagonal") and shape2.outputs != shape.outputs:
        raise PlanError(
            f"outputs {outputs} pairs each output with its own; apply_fn has {shape.outputs} and apply_fn2 "
            f"{shape2.outputs}: choose outputs full or pseudo"
        )
    mesh = tiled.data_mesh(devices)
    # Settled before the plan, which counts the sums' memory
    precision = precision or default_precision()
    chosen = plan(
        fn, params, x1, len(x1), None if x2 is None else len(x2),
        outputs=outputs, groups=groups, precision=precision, way="tiled", tile=tile, memory_bytes=memory_bytes,
        devices=1 if mesh is None else mesh.size, mesh=mesh, apply_fn2=None if apply_fn2 is None else fn2,
    )  # fmt: skip
    # Leaves that either side's head takes: rows of both sides have to be split alike to be multiplied group by group
    direct, lean = direct_leaves(outputs, shape, shape2), memory_bytes is not None
    source, source2 = (
        tiled.RowSource(f, params, s, chosen.tile, outputs == "pseudo", mesh, direct, lean)
        for f, s in ((fn, shape), (fn2, shape2))
    )
    grid = tiled.Grid(len(x1), None if x2 is None else len(x2), chosen.tile)
    # Of a single group nothing is kept beside the whole, which it is
    names = (tiled.WHOLE, *(name for name, _ in shape.groups if len(shape.groups) > 1))
    sink = tiled.Memory(grid, tiled.kernel_shape(grid, outputs, shape.outputs, shape2.outputs), names)
    total, done = len(grid.pairs()), 0

    def count() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    tiled.fill(
        source, x1, x2, sink,
        outputs=outputs, held=chosen.held, precision=precision, advance=count, columns_source=source2,
    )  # fmt: skip
    whole = sink.arrays[tiled.WHOLE]
    if groups is None:
        return whole
    # A single group is the whole.
    return sink.arrays if len(shape.groups) > 1 else {tiled.WHOLE: whole, shape.groups[0][0]: whole.copy()}


def default_precision() -> Precision:
    """float64, except on TPU, which has none in hardware."""
    return "float32" if jax.default_backend() == "tpu" else "float64"
