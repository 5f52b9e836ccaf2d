"""neural-tangents as one way of computing an empirical NTK: the field's reference, for comparison and as an oracle.

Its three implementations give the same kernel at different costs: contraction of whole Jacobians, NTK-vector products,
and structured derivatives, which use that a layer's derivative with respect to its weights is mostly zeros.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from analysis.errors import FunctionError, PlanError
from analysis.kernels import Outputs
from analysis.kernels.batches import padded
from analysis.kernels.functions import ApplyFn, Function, Params, as_partial, check_images, check_params, inspect
from analysis.kernels.neural_tangents_compat import load

Implementation = Literal["jacobian_contraction", "ntk_vector_products", "structured_derivatives"]

NUMBERS = {"jacobian_contraction": 1, "ntk_vector_products": 2, "structured_derivatives": 3}
"""neural-tangents' numbers of its implementations; 0, its automatic choice, is unreliable and isn't offered."""
AXES = {"full": ((), ()), "trace": ((-1,), ()), "diagonal": ((), (-1,)), "pseudo": ((-1,), ())}
"""Output axes that are averaged over, and of which the diagonal is taken."""


def neural_tangents_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[np.ndarray, "n1 *shape"] | Shaped[jax.Array, "n1 *shape"],
    x2: Shaped[np.ndarray, "n2 *shape"] | Shaped[jax.Array, "n2 *shape"] | None = None,
    *,
    outputs: Outputs = "full",
    implementation: Implementation = "jacobian_contraction",
    tile: int | None = None,
) -> Float[np.ndarray, "n1 n2 ..."]:
    """Compute an empirical NTK with neural-tangents, in our conventions.

    Theta(x, x') = J(x) J(x')^T with J = d apply_fn / d params, (k, p): docs/theory.md, section 0. Products run at full
    precision on accelerators. Only one device is used.

    Args:
        apply_fn: function of parameters and inputs to (n, k), rows independent of each other. Arrays bound to it with
            `jax.tree_util.Partial` are arguments of the compiled program.
        params: what to differentiate, a tree of floating-point arrays.
        x1: rows of the kernel.
        x2: columns; None: the same as the rows.
        outputs: `full`, or `trace` (mean of the diagonal over outputs), `diagonal`, `pseudo` (kernel of the outputs'
            sum over sqrt(k)).
        implementation: neural-tangents' implementation.
        tile: rows and columns computed at a time, any number; None: everything at once. The last tile is filled up with
            copies, and the symmetric half isn't saved.

    Returns:
        `full` (n1, n2, k, k), `trace` and `pseudo` (n1, n2), `diagonal` (n1, n2, k), in neural-tangents' dtype: that of
        the parameters and outputs.

    Raises:
        AnalysisError: neural-tangents isn't installed.
        FunctionError: bad inputs, or a function that the implementation can't take.
        PlanError: unknown options, or a tile of less than one row.

    Example:
        >>> neural_tangents_ntk(lambda w, x: x * w, jnp.array(3.0), np.eye(2, 1) + 1, outputs="trace").tolist()
        [[4.0, 2.0], [2.0, 1.0]]
    """
    check_params(params)
    for name, x in {"x1": x1, **({} if x2 is None else {"x2": x2})}.items():
        check_images(x, name)
        inspect(apply_fn, params, x)
    return evaluate_ntk(apply_fn, params, x1, x2, outputs, implementation, tile)


def evaluate_ntk(
    apply_fn: ApplyFn, params: Params, x1: Any, x2: Any, outputs: Outputs, implementation: Implementation,
    tile: int | None,
) -> Float[np.ndarray, "n1 n2 ..."]:  # fmt: skip
    """`neural_tangents_ntk` of a function, parameters and examples that were checked before."""
    if outputs not in AXES or implementation not in NUMBERS:
        raise PlanError(
            f"expected outputs of {', '.join(AXES)} and an implementation of {', '.join(NUMBERS)}; got {outputs!r} and "
            f"{implementation!r}"
        )
    if tile is not None and tile < 1:
        raise PlanError(f"expected a tile of at least one row; got {tile}")
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    size = None if tile is None else min(tile, max(n1, n2))
    # Its batches have to divide both sides
    first, second = (None if x is None else jnp.asarray(padded(x, size or 1)) for x in (x1, x2))
    # nt.batch passes an argument on to the compiled program only if all of its leaves are arrays.
    arguments = jax.tree.map(jnp.asarray, (as_partial(apply_fn), params))
    try:
        with warnings.catch_warnings(), jax.default_matmul_precision("highest"):
            # It differentiates the operation in full instead: costs more, and is as right.
            warnings.filterwarnings("ignore", message="No Jacobian rule found", category=UserWarning)
            theta = _kernel(outputs, implementation, size)(first, second, arguments)
    except (TypeError, ValueError, KeyError, NotImplementedError, AssertionError) as error:
        # The others take every function that has derivatives: what they raise is a fault, and keeps its trace
        if implementation != "structured_derivatives":
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FunctionError(
            f"neural-tangents' {implementation} can't take this apply_fn ({lines[0][:200]}): use another "
            "implementation, or take control flow and rematerialisation out of it"
        ) from error
    return np.asarray(theta)[:n1, :n2]


@functools.lru_cache
def _kernel(outputs: Outputs, implementation: Implementation, size: int | None) -> Callable:
    """Function of x1, x2 and (apply_fn, params), kept so that equal requests are compiled once."""
    nt = load()
    trace, diagonal = AXES[outputs]

    def evaluate(params: Params, x: jax.Array, *, fn: Function) -> jax.Array:
        out = fn(params, x)
        # Σ outputs / √k, summed before it is differentiated: a single row for each example
        return out.sum(axis=-1, keepdims=True) * out.shape[-1] ** -0.5 if outputs == "pseudo" else out

    ntk = nt.empirical_ntk_fn(
        evaluate, trace_axes=trace, diagonal_axes=diagonal, vmap_axes=0, implementation=NUMBERS[implementation]
    )

    def kernel(x1: jax.Array, x2: jax.Array | None, arguments: tuple[Function, Params]) -> jax.Array:
        fn, params = arguments
        return ntk(x1, x2, params, fn=fn)

    # A device count of 0 is its word for batches one after the other, without `pmap`
    return jax.jit(kernel) if size is None else nt.batch(kernel, batch_size=size, device_count=0)
