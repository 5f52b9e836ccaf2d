"""neural-tangents 0.6.5 on today's JAX.

The library's last release (February 2024) imports names that JAX has moved or dropped since, and its structured
derivatives rest on JAX's former internals. `load` imports it all the same:

* the missing names exist while it is imported and are taken back afterwards, so that `jax` is left as it was;
* its `experimental` part, the only one that needs TensorFlow, is replaced by an empty module during the import;
* inside of neural-tangents, three functions of its structured derivatives are replaced by ones on JAX's public
  transformations, and a helper that builds unit vectors (NTK-vector products use it too) by one that asks no shapes for
  their size as if they were arrays. Jacobian contraction runs unchanged.

Anyone may import neural-tangents before or after, and gets the same module.

Source: Novak, Sohl-Dickstein, Schoenholz, "Fast Finite Width Neural Tangent Kernel", ICML 2022.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import core
from jax.interpreters import ad

from analysis.errors import AnalysisError

VERSION = "0.6.5"
INSTALL = "install the extra `analysis`: `make setup` in this folder, or `pip install 'ntkcl-jax[analysis]'`"
STUBS = ("jax.util", "neural_tangents.experimental")


@functools.cache
def load() -> ModuleType:
    """Import neural-tangents, mended for this JAX.

    Returns:
        The module `neural_tangents`. Its `implementation=0` (automatic choice) is unreliable; use 1, 2 or 3.

    Raises:
        AnalysisError: neural-tangents isn't installed, is another release, or misses more than is known here.

    Example:
        >>> kernel = load().empirical_ntk_fn(lambda w, x: x * w, vmap_axes=0, implementation=1)
        >>> kernel(jnp.array([[1.0], [2.0]]), None, jnp.array(3.0)).tolist()
        [[1.0, 2.0], [2.0, 4.0]]
    """
    try:
        with _missing_names():
            module = importlib.import_module("neural_tangents")
            internals = importlib.import_module("neural_tangents._src.empirical")
    except ModuleNotFoundError as error:
        raise AnalysisError(
            f"expected neural-tangents {VERSION}; there is no module {error.name}: {INSTALL}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise AnalysisError(
            f"expected neural-tangents {VERSION} to import on jax {jax.__version__}; {error}: use the constrained "
            "versions, or another way"
        ) from error
    if module.__version__ != VERSION:
        raise AnalysisError(f"expected neural-tangents {VERSION}; found {module.__version__}: {INSTALL}")
    _mend_structured_derivatives(internals)
    return module


@contextmanager
def _missing_names() -> Generator[None]:
    """Give JAX the names that neural-tangents imports, where it has none, and take back what was given."""
    names = {
        core: {name: getattr(jex, name) for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")},
        # Only a key of a table of rules there; no equation has it any more.
        ad: {"zeros_like_p": jex.Primitive("zeros_like")},
    }
    # Only what is missing: a JAX that still has a name keeps its own
    given = [(module, name) for module, values in names.items() for name in values if name not in vars(module)]
    stubs = {name: ModuleType(name) for name in STUBS if name not in sys.modules}
    for module, name in given:
        setattr(module, name, names[module][name])
    sys.modules.update(stubs)
    # All that it takes from there
    if "jax.util" in stubs:
        vars(stubs["jax.util"]).update(safe_map=_safe_map, safe_zip=_safe_zip)
    try:
        yield
    finally:
        for module, name in given:
            delattr(module, name)
        for name in stubs:
            sys.modules.pop(name, None)
        # The import left the stub as an attribute of the package, beside its entry in `sys.modules`
        package = sys.modules.get("neural_tangents")
        if getattr(package, "experimental", None) in stubs.values():
            delattr(package, "experimental")  # so that who has TensorFlow can still import the real one


def _safe_zip(*lists: Any) -> list[tuple]:
    return list(zip(*map(list, lists), strict=True))


def _safe_map(function: Callable, *lists: Any) -> list:
    return [function(*values) for values in _safe_zip(*lists)]


def _mend_structured_derivatives(internals: Any) -> None:
    """Replace in `neural_tangents._src.empirical` what rests on JAX's former internals."""
    internals.ad = SimpleNamespace(
        add_tangents=ad.add_tangents,
        is_undefined_primal=ad.is_undefined_primal,
        # Names for profiles and checks of types while debugging: JAX keeps both to itself now.
        source_info_util=SimpleNamespace(transform_name_stack=lambda name: nullcontext()),
        config=SimpleNamespace(jax_enable_checks=False),
    )
    # Arrays of dynamic shape are gone; nothing is of this type.
    internals.core = SimpleNamespace(ShapedArray=core.ShapedArray, DShapedArray=type("DShapedArray", (), {}))
    internals._get_primals_out_and_pullback = functools.partial(_outputs_and_pullback, internals)
    internals._eqn_vjp_fn = _transpose_equation
    internals._eqn_jvp_fn = _push_through_equation
    internals._std_basis = functools.partial(_basis, internals)


def _outputs_and_pullback(
    internals: Any, fn: Callable, mode: Any, j_rules: bool, s_rules: bool, fwd: bool | None, params: Any
) -> tuple[Any, Callable]:
    """Outputs of `fn(params)`, and a function that runs neural-tangents' backward pass over its linear part."""
    leaves, tree = jax.tree.flatten(params)
    with jax.disable_jit():  # there are rules for plain operations only
        outputs, tangents_of = jax.linearize(lambda *leaves: fn(tree.unflatten(leaves)), *leaves)
        linear = _plain(jax.make_jaxpr(tangents_of)(*leaves), leaves)

    def pullback(cotangents: Any) -> tuple[Any]:
        parts = internals._backward_pass(
            linear.jaxpr,
            mode=mode,
            consts=linear.consts,
            # Marks what the pass is linear in; the tangent program has no other arguments
            primals_in=[ad.UndefinedPrimal(v.aval) for v in linear.jaxpr.invars],
            cotangents_in=tuple(jax.tree.leaves(cotangents)),
            _j_rules=j_rules,
            _s_rules=s_rules,
            _fwd=fwd,
        )
        return (tree.unflatten(parts),)

    return outputs, pullback


def _plain(linear: jex.ClosedJaxpr, leaves: list) -> jex.ClosedJaxpr:
    """Rewrite `split` as slices: neural-tangents takes operations with one result only.

    Raises:
        NotImplementedError: another operation with several results.
    """

    def run(*arguments: jax.Array) -> list:
        # The program read equation by equation, each variable with what it stands for
        values: dict = dict(zip(linear.jaxpr.invars, arguments, strict=True))
        values |= zip(linear.jaxpr.constvars, linear.consts, strict=True)

        def read(v: Any) -> Any:
            return v.val if isinstance(v, jex.Literal) else values[v]

        for eqn in linear.jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            if eqn.primitive.name == "split":
                axis = eqn.params["axis"]
                results, start = [], 0
                for size in eqn.params["sizes"]:
                    results.append(jax.lax.slice_in_dim(operands[0], start, start + size, axis=axis))
                    start += size
            else:
                results = _bind(eqn, operands)
            values |= zip(eqn.outvars, results, strict=True)
        return [read(v) for v in linear.jaxpr.outvars]

    # Traced again only where there is something to rewrite
    several = {eqn.primitive.name for eqn in linear.jaxpr.eqns if len(eqn.outvars) != 1}
    if several - {"split"}:
        raise NotImplementedError(f"operation with several results: {', '.join(sorted(several - {'split'}))}")
    return jax.make_jaxpr(run)(*leaves) if several else linear


def _bind(eqn: jex.JaxprEqn, operands: list) -> list:
    """Results of an equation."""
    results = eqn.primitive.bind(*operands, **eqn.params)
    return results if eqn.primitive.multiple_results else [results]


def _transpose_equation(eqn: jex.JaxprEqn | None, cotangent: Any, *operands: Any) -> list:
    """Cotangents of an equation's operands: None for those that are known."""
    if eqn is None:  # the identity
        return [cotangent]
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    unknown = [i for i, operand in enumerate(operands) if isinstance(operand, ad.UndefinedPrimal)]

    def run(*linear: jax.Array) -> jax.Array:
        merged = [_value(operand) for operand in operands]
        for i, value in zip(unknown, linear, strict=True):
            merged[i] = value
        return _bind(eqn, merged)[0]

    # Only the operands that the cotangent is asked for take part; the known ones are constants of `run`
    shapes = [jax.ShapeDtypeStruct(operands[i].aval.shape, operands[i].aval.dtype) for i in unknown]
    cotangents = dict(zip(unknown, jax.linear_transpose(run, *shapes)(cotangent), strict=True))
    return [cotangents.get(i) for i in range(len(operands))]


def _push_through_equation(eqn: jex.JaxprEqn | None, index: int, tangent: jax.Array, *operands: Any) -> jax.Array:
    """Tangent of an equation's result for a tangent of one operand."""
    if eqn is None:  # the identity
        return tangent
    values = [_value(operand) for operand in operands]

    def run(operand: jax.Array) -> jax.Array:
        return _bind(eqn, [*values[:index], operand, *values[index + 1 :]])[0]

    return jax.jvp(run, (values[index],), (tangent,))[1]


def _value(operand: Any) -> Any:
    """An operand, zeros where only its shape is known: the derivative of a linear map is the same everywhere."""
    aval = operand.aval if isinstance(operand, ad.UndefinedPrimal) else operand
    return jnp.zeros(aval.shape, aval.dtype) if isinstance(aval, core.ShapedArray) else operand


def _basis(internals: Any, tree: Any) -> Any:
    """Unit vectors of a tree of shapes, stacked in front: asks shapes for their size where JAX wants arrays."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(*[leaf.dtype for leaf in leaves])
    return internals._unravel_array_into_pytree(tree, 1, jnp.eye(sum(leaf.size for leaf in leaves), dtype=dtype))
