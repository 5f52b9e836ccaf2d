"""Jacobian rows of a tile of examples, and their products: the two compiled programs behind every exact kernel."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from analysis.kernels import Outputs, Precision, composite
from analysis.kernels.composite import Composite, Factored
from analysis.kernels.functions import Function, Params

Leaves = tuple[tuple[int, ...], ...]
"""Positions of each group's leaves in `jax.tree.leaves(params)`."""
Rows = tuple[Float[Array, "_ _ _"], ...] | Factored
"""Jacobian rows of a tile of examples: per group (b, outputs, parameters), or in factors."""
AXIS = "examples"


def lean_options(platform: str) -> dict[str, str]:
    """Options of the compiler that save memory in the program for Jacobians; only their own platform knows them.

    From jaxlib 0.11 on, XLA's YNN fusions on CPU make the rows of a 12-block ViT a third faster, but store numbers that
    are broadcast: up to 1.84 times the memory (demo's model, tile 16 and more). Without them numbers differ by 2e-7.

    Example:
        >>> lean_options("tpu")
        {}
    """
    fusions = platform == "cpu" and jax.__version_info__ >= (0, 11)
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if fusions else {}


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
        # A batch of one: `fn` takes batches, while `vmap` maps single examples
        out = fn(params, image[None])[0]
        return jnp.sum(out, keepdims=True) / len(out) ** 0.5 if summed else out

    if isinstance(fn, Composite) and not summed:
        return _joined(composite.product(*composite.example_factors(fn, params, image)), leaves)
    out, pull = jax.vjp(outputs, params)
    # A unit vector for each output: leaves [r, *leaf], the forward pass shared by all
    (rows,) = jax.vmap(pull)(jnp.eye(len(out), dtype=out.dtype))
    return _joined(rows, leaves)


def example_factors(
    fn: Composite, params: Params, image: Shaped[Array, "..."], leaves: Leaves, direct: tuple[int, ...]
) -> Factored:
    """Rows of one example in factors: those of the leaves in `direct` are rows of the outputs, the others' of features.

    See `example_rows`.
    """
    lift, inner, fixed = composite.example_factors(fn, params, image)
    # Groups of the leaves that go through features only, and groups of those in `direct`
    apart = [tuple(tuple(i for i in group if (i in direct) == at) for group in leaves) for at in (False, True)]
    return Factored(lift, _joined(inner, apart[0]), _joined(composite.product(lift, inner, fixed), apart[1]))


def _joined(rows: Params, leaves: Leaves) -> tuple[Array, ...]:
    flat = [row.reshape(len(row), -1) for row in jax.tree.leaves(rows)]
    # A group keeps its place where it has no leaves on this side: products add up group by group
    none = jnp.zeros((len(flat[0]), 0), flat[0].dtype)
    return tuple(jnp.concatenate([flat[i] for i in group], axis=1) if group else none for group in leaves)


def tile_rows(
    fn: Function, params: Params, images: Shaped[Array, "b ..."], leaves: Leaves, summed: bool
) -> tuple[Float[Array, "b r _"], ...]:
    """Rows of a tile of examples, each evaluated alone: see `example_rows`."""
    return _each(partial(example_rows, leaves=leaves, summed=summed), fn, params, images)


def tile_factors(
    fn: Composite, params: Params, images: Shaped[Array, "b ..."], leaves: Leaves, direct: tuple[int, ...]
) -> Factored:
    """Rows of a tile of examples in factors, each evaluated alone: see `example_factors`."""
    return _each(partial(example_factors, leaves=leaves, direct=direct), fn, params, images)


def _each(one: Callable, fn: Function, params: Params, images: Array) -> Any:
    # TF32 would cost three digits of the kernel (docs/theory.md, section 5).
    with jax.default_matmul_precision("highest"):
        return jax.vmap(one, in_axes=(None, None, 0))(fn, params, images)


def held_rows(
    fn: Function, params: Params, images: Shaped[Any, "b ..."], leaves: Leaves, summed: bool,
    direct: tuple[int, ...] | None,
) -> Rows:  # fmt: skip
    """`tile_factors` where `direct` says which leaves are left out of it, else `tile_rows`."""
    if direct is not None and isinstance(fn, Composite):
        return tile_factors(fn, params, images, leaves, direct)
    return tile_rows(fn, params, images, leaves, summed)


def _rows(
    fn: Function, params: Params, images: Array, leaves: Leaves, summed: bool, mesh: Mesh | None,
    direct: tuple[int, ...] | None,
) -> Rows:  # fmt: skip
    rows = partial(held_rows, leaves=leaves, summed=summed, direct=direct)
    if mesh is not None:
        # Every device has all parameters and its share of the examples; rows stay where they are computed
        split = PartitionSpec(AXIS)
        rows = jax.shard_map(
            rows, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(), split), out_specs=split, check_vma=False
        )
    return rows(fn, params, images)


@functools.cache
def rows_program(platform: str, lean: bool) -> jax.stages.Wrapped:
    """`jacobian_rows` to compile for one platform; with options of the compiler it can't be part of another program."""
    # Static: these decide the program's shape, and all of them can be hashed
    static = ("leaves", "summed", "mesh", "direct")
    # Kept for each platform and setting: another `jit` object would compile everything again
    options = lean_options(platform) if lean else {}
    return jax.jit(_rows, static_argnames=static, compiler_options=options or None)


def jacobian_rows(
    fn: Function,
    params: Params,
    images: Shaped[Any, "b ..."],
    leaves: Leaves,
    summed: bool = False,
    mesh: Mesh | None = None,
    direct: tuple[int, ...] | None = None,
    lean: bool = False,
) -> Rows:
    """Compiled `held_rows`; with a mesh, every device computes its share of the examples; `lean` saves memory.

    Example:
        >>> fn = jax.tree_util.Partial(lambda params, x: x * params["scale"])
        >>> (rows,) = jacobian_rows(fn, {"scale": jnp.ones(2)}, jnp.array([[3.0, 4.0]]), ((0,),))
        >>> rows.tolist()
        [[[3.0, 0.0], [0.0, 4.0]]]
    """
    program = rows_program(_platform(params, mesh), lean)
    return program(fn, params, images, leaves, summed, mesh, direct)


def lowered_rows(
    fn: Function,
    params: Params,
    images: jax.ShapeDtypeStruct,
    leaves: Leaves,
    summed: bool,
    mesh: Mesh | None,
    direct: tuple[int, ...] | None,
    lean: bool,
) -> jax.stages.Lowered:
    """`jacobian_rows` of examples of this shape, ready to be compiled and asked about.

    JAX keeps what is compiled from here: `jacobian_rows` of such examples then compiles nothing.
    """
    if mesh is not None:
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        # Spread as `RowSource.rows` spreads them, or the program would be compiled twice
        images = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=split)
    program = rows_program(_platform(params, mesh), lean)
    return program.lower(fn, params, images, leaves, summed, mesh, direct)


def _platform(params: Params, mesh: Mesh | None) -> str:
    """Where the rows are computed: on the mesh's devices, or where the parameters lie."""
    if mesh is not None:
        return mesh.devices.flat[0].platform
    placed = [device for leaf in jax.tree.leaves(params) for device in getattr(leaf, "devices", set)()]
    return placed[0].platform if placed else jax.default_backend()


@partial(jax.jit, static_argnames=("outputs", "precision", "mesh"))
def _products(rows1: Rows, rows2: Rows, outputs: Outputs, precision: Precision, mesh: Mesh | None) -> tuple:
    multiply = partial(jnp.matmul, precision="highest")

    def one(j1: Array, j2: Array, outputs: str = outputs) -> Array:
        # Converted inside the program: wider rows exist for one product, the ones held stay narrow
        j1, j2 = j1.astype(precision), j2.astype(precision)
        (b1, k, p), (b2, k2, _) = j1.shape, j2.shape
        if outputs == "full":
            block = multiply(j1.reshape(b1 * k, p), j2.reshape(b2 * k2, p).T)
            # [b1, k, b2, k2] to [b1, b2, k, k2]
            return block.reshape(b1, k, b2, k2).transpose(0, 2, 1, 3)
        if outputs == "diagonal":
            # A matrix product for each output: [k, b1, p] · [k, p, b2], then outputs last
            return multiply(j1.transpose(1, 0, 2), j2.transpose(1, 2, 0)).transpose(1, 2, 0)
        # a pseudo row is a single one, so that this mean is its own product
        return multiply(j1.reshape(b1, k * p), j2.reshape(b2, k2 * p).T) / k

    def lifted(j1: Array, j2: Array, h1: Array, h2: Array) -> Array:
        """Kernel of the outputs from that of the features: H1 Θ H2ᵀ for each pair of examples."""
        h1, h2 = h1.astype(precision), h2.astype(precision)
        # [b1, b2, k1, d2], then from the right
        half = jnp.einsum("ica,ijab->ijcb", h1, one(j1, j2, "full"), precision="highest")
        # Only what is wanted is summed up: a diagonal or trace never makes blocks of k x k
        to = {"full": "ijcd", "diagonal": "ijc", "trace": "ij"}[outputs]
        block = jnp.einsum(f"ijcb,j{'d' if outputs == 'full' else 'c'}b->{to}", half, h2, precision="highest")
        return block / h1.shape[1] if outputs == "trace" else block

    def spread(block: Array) -> Array:
        if mesh is None:
            return block
        # Blocks stay spread by rows, so that no device holds the whole
        return jax.lax.with_sharding_constraint(block, NamedSharding(mesh, PartitionSpec(AXIS)))

    if isinstance(rows1, tuple) and isinstance(rows2, tuple):
        return tuple(spread(one(j1, j2)) for j1, j2 in zip(rows1, rows2, strict=True))
    # Both sides in factors: `direct_leaves` decides for the pair
    assert isinstance(rows1, Factored) and isinstance(rows2, Factored)
    # A parameter is in exactly one of the two, so that their blocks add up
    inner = [lifted(*pair, rows1.lift, rows2.lift) for pair in zip(rows1.inner, rows2.inner, strict=True)]
    outer = [one(*pair) for pair in zip(rows1.outer, rows2.outer, strict=True)]
    return tuple(spread(a + b) for a, b in zip(inner, outer, strict=True))


def products(
    rows1: Rows,
    rows2: Rows,
    outputs: Outputs,
    precision: Precision = "float64",
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "b1 b2 *r"], ...]:
    """Multiply the Jacobians of two tiles, group by group.

    The sum over parameters is what rounding spoils: rows rounded to float32 still have an exact, positive semi-definite
    Gram matrix, which float64 sums keep (docs/theory.md, section 5).

    Args:
        rows1: per group (b1, k1, p), or in factors.
        rows2: per group (b2, k2, p), or in factors as `rows1`.
        outputs: `full` (b1, b2, k1, k2), `trace` and `pseudo` (b1, b2), `diagonal` (b1, b2, k).
        precision: arithmetic of the sums.
        mesh: devices over which the examples of both tiles are spread.

    Returns:
        One block per group.
    """
    double = any(row.dtype == jnp.float64 for row in jax.tree.leaves((rows1, rows2)))
    # Rows in float64 need it too: without, they would be rounded on their way in
    with jax.enable_x64(precision == "float64" or double):
        return _products(rows1, rows2, outputs, precision, mesh)
