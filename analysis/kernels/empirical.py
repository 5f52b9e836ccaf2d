"""The empirical neural tangent kernel of any pure function: the front door of this folder."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import Shaped

from analysis.errors import FunctionError, PlanError
from analysis.kernels import tiled
from analysis.kernels.batches import check_all
from analysis.kernels.functions import ApplyFn, Groups, Params, as_partial, check_images, inspect
from analysis.kernels.kinds import OUTPUTS, WAYS, Outputs, Precision, Way
from analysis.kernels.neural_tangents_backend import neural_tangents_ntk
from analysis.kernels.planner import plan


def check_request(
    apply_fn: ApplyFn, params: Params, sets: dict[str, Any], outputs: str, way: str, precision: str | None
) -> None:
    """Refuse what no kernel can be computed of: see the checks of `analysis.kernels.functions`.

    Raises:
        FunctionError: parameters, images or function are unfit.
        PlanError: an unknown kind of outputs, way or precision.
    """
    known = {"outputs": (outputs, OUTPUTS), "way": (way, WAYS), "precision": (precision, (*get_args(Precision), None))}
    for option, (value, values) in known.items():
        if value not in values:
            raise PlanError(f"expected {option} to be one of {', '.join(map(str, values))}; got {value!r}")
    for name, images in sets.items():
        check_images(images, name)
    one = sets["x1"].shape[1:]
    for name, images in sets.items():
        if images.shape[1:] != one:
            raise FunctionError(f"expected {name} of shape {('n', *one)} like x1; got {images.shape}".replace("'", ""))
    check_all(apply_fn, params, *sets.values())


def empirical_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[np.ndarray, "n1 ..."] | Shaped[jax.Array, "n1 ..."],
    x2: Shaped[np.ndarray, "n2 ..."] | Shaped[jax.Array, "n2 ..."] | None = None,
    *,
    outputs: Outputs = "full",
    way: Way = "auto",
    tile: int | None = None,
    groups: Groups = None,
    precision: Precision | None = None,
    memory_bytes: int | None = None,
    devices: list[jax.Device] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """Empirical NTK `Θ[i, j, c, d] = Σ_p ∂f_c(x1_i)/∂p ∂f_d(x2_j)/∂p`, exactly (theory.md section 0; undivided).

    Warning: every row of `apply_fn`'s result must depend on its own example only; this is checked on a few rows.

    Args:
        apply_fn: pure function of parameters and inputs to (n, k); bind large arrays with `jax.tree_util.Partial`.
        params: pytree of floating-point arrays: the parameters of the kernel.
        x1: examples of the rows.
        x2: examples of the columns; None for x1 again, at half the cost.
        outputs: `full` (n1, n2, k, k); `trace` (n1, n2), the mean of the diagonal over outputs; `diagonal` (n1, n2, k);
            `pseudo` (n1, n2), the kernel of the sum of outputs over √k, one backward pass an example: it is another
            kernel than `trace`, not an estimate of it.
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
    sets = {"x1": x1} if x2 is None else {"x1": x1, "x2": x2}
    check_request(apply_fn, params, sets, outputs, way, precision)
    if way == "neural_tangents":
        if precision == "float64" or any(option is not None for option in (groups, memory_bytes, devices)):
            raise PlanError(
                "way neural_tangents knows no groups, float64 sums, memory_bytes or devices; leave them out or use way "
                "tiled"
            )
        theta = neural_tangents_ntk(apply_fn, params, x1, x2, outputs=outputs, tile=tile)
        bad = np.mean(~np.isfinite(theta))
        if bad:
            raise FunctionError(
                f"expected a finite kernel; neural-tangents gives NaN or infinity in {bad:.0%} of its entries: use way "
                "tiled, or another tile"
            )
        advance(1, 1)
        return np.asarray(theta, np.float64)
    fn, shape = as_partial(apply_fn), inspect(apply_fn, params, x1, groups)
    if groups is not None and tiled.WHOLE in dict(shape.groups):
        raise FunctionError(f"expected groups of other names than {tiled.WHOLE}, which is their sum; rename that group")
    mesh = tiled.data_mesh(devices)
    precision = precision or default_precision()
    chosen = plan(
        fn, params, x1, len(x1), None if x2 is None else len(x2),
        outputs=outputs, groups=groups, precision=precision, way="tiled", tile=tile, memory_bytes=memory_bytes,
        devices=1 if mesh is None else mesh.size,
    )  # fmt: skip
    source = tiled.RowSource(fn, params, shape, chosen.tile, outputs == "pseudo", mesh)
    grid = tiled.Grid(len(x1), None if x2 is None else len(x2), chosen.tile)
    names = (tiled.WHOLE, *(name for name, _ in shape.groups if len(shape.groups) > 1))
    sink = tiled.Memory(grid, tiled.kernel_shape(grid, outputs, shape.outputs), names)
    total, done = len(grid.pairs()), 0

    def count() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    tiled.fill(source, x1, x2, sink, outputs=outputs, held=chosen.held, precision=precision, advance=count)
    whole = sink.arrays[tiled.WHOLE]
    if groups is None:
        return whole
    # A single group is the whole.
    return sink.arrays if len(shape.groups) > 1 else {tiled.WHOLE: whole, shape.groups[0][0]: whole.copy()}


def default_precision() -> Precision:
    """float64, except on TPU, which has none in hardware."""
    return "float32" if jax.default_backend() == "tpu" else "float64"
