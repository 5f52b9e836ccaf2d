"""Jacobian rows of a tile of examples, and their products: the two compiled programs behind every exact kernel."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from analysis.kernels import composite
from analysis.kernels.composite import Composite
from analysis.kernels.functions import Function, Params
from analysis.kernels.kinds import Outputs, Precision

Leaves = tuple[tuple[int, ...], ...]
"""Positions of each group's leaves in `jax.tree.leaves(params)`."""
AXIS = "examples"


def example_rows(
    fn: Function, params: Params, image: Shaped[Array, "..."], leaves: Leaves, summed: bool
) -> tuple[Float[Array, "r _"], ...]:
    """Rows d f_c(x) / d params of one example, one array per group.

    One forward pass, then one backward pass per output, or per feature of a `Composite`.

    Args:
        fn: function of parameters and a batch.
        params: where to differentiate.
        image: one example.
        leaves: leaf positions of each group.
        summed: differentiate the sum of outputs over the square root of their number instead: a single row.

    Returns:
        Per group (outputs, parameters of the group).
    """

    def outputs(params: Params) -> Array:
        out = fn(params, image[None])[0]
        return jnp.sum(out, keepdims=True) / len(out) ** 0.5 if summed else out

    if isinstance(fn, Composite) and not summed:
        rows = composite.example_rows(fn, params, image)
    else:
        out, pull = jax.vjp(outputs, params)
        (rows,) = jax.vmap(pull)(jnp.eye(len(out), dtype=out.dtype))
    flat = [row.reshape(len(row), -1) for row in jax.tree.leaves(rows)]
    return tuple(jnp.concatenate([flat[i] for i in group], axis=1) for group in leaves)


def tile_rows(
    fn: Function, params: Params, images: Shaped[Array, "b ..."], leaves: Leaves, summed: bool
) -> tuple[Float[Array, "b r _"], ...]:
    """Rows of a tile of examples, each evaluated alone: see `example_rows`."""
    # TF32 would cost three digits of the kernel (theory.md section 5).
    with jax.default_matmul_precision("highest"):
        return jax.vmap(partial(example_rows, leaves=leaves, summed=summed), in_axes=(None, None, 0))(
            fn, params, images
        )


@partial(jax.jit, static_argnames=("leaves", "summed", "mesh"))
def jacobian_rows(
    fn: Function,
    params: Params,
    images: Shaped[Array, "b ..."],
    leaves: Leaves,
    summed: bool = False,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "b r _"], ...]:
    """Compiled `tile_rows`; with a mesh, every device computes its share of the examples.

    Example:
        >>> fn = jax.tree_util.Partial(lambda params, x: x * params["scale"])
        >>> (rows,) = jacobian_rows(fn, {"scale": jnp.ones(2)}, jnp.array([[3.0, 4.0]]), ((0,),))
        >>> rows.tolist()
        [[[3.0, 0.0], [0.0, 4.0]]]
    """
    rows = partial(tile_rows, leaves=leaves, summed=summed)
    if mesh is not None:
        split = PartitionSpec(AXIS)
        rows = jax.shard_map(
            rows, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), split), out_specs=split, check_vma=False
        )
    return rows(fn, params, images)


@partial(jax.jit, static_argnames=("outputs", "precision", "mesh"))
def _products(rows1: tuple, rows2: tuple, outputs: Outputs, precision: Precision, mesh: Mesh | None) -> tuple:
    def one(j1: Array, j2: Array) -> Array:
        j1, j2 = j1.astype(precision), j2.astype(precision)
        (b1, k, p), b2 = j1.shape, len(j2)
        multiply = partial(jnp.matmul, precision="highest")
        if outputs == "full":
            block = multiply(j1.reshape(-1, p), j2.reshape(-1, p).T).reshape(b1, k, b2, -1).transpose(0, 2, 1, 3)
        elif outputs == "diagonal":
            block = multiply(j1.transpose(1, 0, 2), j2.transpose(1, 2, 0)).transpose(1, 2, 0)
        else:  # a pseudo row is a single one, so that this mean is its own product
            block = multiply(j1.reshape(b1, -1), j2.reshape(b2, -1).T) / k
        if mesh is not None:
            block = jax.lax.with_sharding_constraint(block, NamedSharding(mesh, PartitionSpec(AXIS)))
        return block

    return tuple(one(j1, j2) for j1, j2 in zip(rows1, rows2, strict=True))


def products(
    rows1: tuple[Float[Array, "b1 r _"], ...],
    rows2: tuple[Float[Array, "b2 r _"], ...],
    outputs: Outputs,
    precision: Precision = "float64",
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "b1 b2 *r"], ...]:
    """Multiply the Jacobians of two tiles, group by group.

    The sum over parameters is what rounding spoils: rows rounded to float32 still have an exact, positive semi-definite
    Gram matrix, which float64 sums keep (theory.md section 5).

    Args:
        rows1: per group (b1, k, p).
        rows2: per group (b2, k, p).
        outputs: `full` (b1, b2, k, k), `trace` and `pseudo` (b1, b2), `diagonal` (b1, b2, k).
        precision: arithmetic of the sums.
        mesh: devices over which the examples of both tiles are spread.

    Returns:
        One block per group.
    """
    with jax.enable_x64(precision == "float64" or any(row.dtype == jnp.float64 for row in rows1)):
        return _products(rows1, rows2, outputs, precision, mesh)
