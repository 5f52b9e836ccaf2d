"""neural-tangents as a way: right in all of its implementations, and JAX untouched by its import."""

import itertools
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jaxtyping import TypeCheckError

from analysis.errors import AnalysisError, FunctionError, PlanError
from analysis.kernels import neural_tangents_backend
from analysis.kernels.neural_tangents_backend import neural_tangents_ntk
from analysis.kernels.neural_tangents_compat import load
from tests.support.dense import attention_net, dense_ntk, examples, mlp, reduced, relative_error

ROOT = Path(__file__).parents[4]
IMPLEMENTATIONS = ("jacobian_contraction", "ntk_vector_products", "structured_derivatives")
OUTPUTS = ("full", "trace", "diagonal", "pseudo")
# 4 rows against 2: a tile of 3 divides neither.
X1, X2 = examples(4, (8, 8, 1)), examples(2, (8, 8, 1), seed=1)
WEIGHTS = jnp.asarray(np.random.default_rng(2).standard_normal((3, 5, 5)), jnp.float32)


def small_attention_net():
    return attention_net(d=4, blocks=1, bottleneck=1)


@pytest.fixture(scope="module")
def judge():
    """The dense kernels, by whether x2 is given."""
    apply_fn, params = small_attention_net()
    theta = dense_ntk(apply_fn, params, X1, np.concatenate([X1, X2]))
    return {False: theta[:, : len(X1)], True: theta[:, len(X1) :]}


def check_attention_net(judge, implementation, outputs, given, tile):
    apply_fn, params = small_attention_net()
    x2 = X2 if given else None
    got = neural_tangents_ntk(apply_fn, params, X1, x2, outputs=outputs, implementation=implementation, tile=tile)
    assert got.dtype == np.float32
    assert relative_error(got, reduced(judge[given], outputs)) < 1e-5


COMBINATIONS = list(itertools.product((False, True), (None, 3)))
# Two kinds of output of each implementation, with the combinations of x2 and tile in turn; compiling takes long.
QUICK = [
    (implementation, outputs, *COMBINATIONS[(i + j) % 4])
    for i, implementation in enumerate(IMPLEMENTATIONS)
    for j, outputs in enumerate(OUTPUTS)
    if j // 2 == i % 2
]
SLOW = [
    case for case in ((i, o, *c) for i in IMPLEMENTATIONS for o in OUTPUTS for c in COMBINATIONS) if case not in QUICK
]


@pytest.mark.parametrize(("implementation", "outputs", "given", "tile"), QUICK)
def test_a_kernel_of_an_attention_net_is_the_dense_one(judge, implementation, outputs, given, tile):
    check_attention_net(judge, implementation, outputs, given, tile)


@pytest.mark.slow
@pytest.mark.parametrize(("implementation", "outputs", "given", "tile"), SLOW)
def test_a_kernel_of_an_attention_net_is_the_dense_one_in_every_other_combination(
    judge, implementation, outputs, given, tile
):
    check_attention_net(judge, implementation, outputs, given, tile)


@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bound_arrays_are_arguments_of_one_compiled_program(implementation, tile):
    seen, params, x = [], {"kernel": WEIGHTS[2]}, examples(3, (5,))

    def network(params, x, *, frozen):
        seen.append(isinstance(frozen, jax.core.Tracer))
        return jnp.tanh(x @ frozen) @ params["kernel"]

    kernels = []
    for frozen in WEIGHTS[:2]:
        apply_fn = Partial(network, frozen=frozen)
        seen.clear()
        kernels.append(neural_tangents_ntk(apply_fn, params, x, implementation=implementation, tile=tile))
        # The look at the output's shape comes first, then the trace with placeholders; the second kernel needs neither.
        assert (seen[:1] == [False] and len(seen) > 1 and all(seen[1:])) if len(kernels) == 1 else not seen
    for frozen, theta in zip(WEIGHTS[:2], kernels, strict=True):
        assert relative_error(theta, dense_ntk(Partial(network, frozen=frozen), params, x)) < 1e-5


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_double_precision_in_gives_double_precision_out(implementation, outputs):
    apply_fn, params = mlp()
    x = examples(5, (5,))
    theta = reduced(dense_ntk(apply_fn, params, x), outputs)
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, x))
        got = neural_tangents_ntk(apply_fn, params, x, outputs=outputs, implementation=implementation, tile=2)
    assert got.dtype == np.float64
    assert relative_error(got, theta) < 1e-12


def scanned(params, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params)[0]


def rematerialised(params, x):
    return jax.checkpoint(lambda params, x: jnp.tanh(x @ params[0]) @ params[1])(params, x)


def tied(params, x):
    return jnp.tanh(x @ params[0]) @ params[0].T + params[1].sum(axis=0)  # and params[2] is unused


def normalised(params, x):
    first, second = jnp.split(params[0], [2], axis=1)
    weight = jax.nn.softmax(jnp.concatenate([second, jnp.cos(first)], axis=1), axis=0) * jax.nn.relu(params[1])
    return jnp.cumsum(jnp.max(x[:, None, :] * weight.T, axis=-1), axis=-1) / jnp.linalg.norm(params[2])


def independent(params, x):
    return jnp.tanh(x)


@pytest.mark.parametrize("function", [scanned, rematerialised, tied, normalised, independent])
def test_structured_derivatives_take_functions_they_have_no_rules_for_silently(function):
    params = WEIGHTS if function is scanned else list(WEIGHTS)
    x = examples(3, (5,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = neural_tangents_ntk(function, params, x, implementation="structured_derivatives")
    theta = dense_ntk(function, params, x)
    assert np.abs(got - theta).max() <= 1e-5 * np.abs(theta).max()


def test_structured_derivatives_refuse_what_they_cannot_take_in_one_line():
    def apply_fn(params, x):
        first, second = jax.checkpoint(lambda p, x: (jnp.sin(x @ p[0]), jnp.tanh(x @ p[1])))(params, x)
        return first * second

    params, x = list(WEIGHTS), examples(3, (5,))
    with pytest.raises(
        FunctionError, match=r"structured_derivatives .* several results: remat.* use another"
    ) as caught:
        neural_tangents_ntk(apply_fn, params, x, implementation="structured_derivatives")
    assert "\n" not in str(caught.value)
    assert relative_error(neural_tangents_ntk(apply_fn, params, x), dense_ntk(apply_fn, params, x)) < 1e-5


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, AttributeError])
def test_a_fault_of_its_own_is_not_blamed_on_the_function(monkeypatch, error):
    def broken(*_):
        raise error("module 'jax' has no attribute 'core'")

    monkeypatch.setattr(neural_tangents_backend, "_kernel", lambda *_: broken)
    apply_fn, params = mlp()
    for implementation in ("jacobian_contraction", "ntk_vector_products"):
        with pytest.raises(error, match="no attribute"):
            neural_tangents_ntk(apply_fn, params, examples(3, (5,)), implementation=implementation)
    with pytest.raises(error if error is AttributeError else FunctionError, match="no attribute"):
        neural_tangents_ntk(apply_fn, params, examples(3, (5,)), implementation="structured_derivatives")


@pytest.mark.parametrize(
    "options", [{"outputs": "sum"}, {"implementation": "auto"}, {"implementation": 1}, {"tile": 0}, {"tile": -3}]
)
def test_options_that_mean_nothing_are_refused(options):
    apply_fn, params = mlp()
    with pytest.raises((PlanError, TypeCheckError), match=r"expected .*; got |type"):  # the latter under --shape-checks
        neural_tangents_ntk(apply_fn, params, examples(3, (5,)), **options)


def test_bad_inputs_are_refused_by_name():
    apply_fn, params = mlp()
    x = examples(3, (5,))
    with pytest.raises(FunctionError, match="x2"):
        neural_tangents_ntk(apply_fn, params, x, x * np.nan)
    with pytest.raises(FunctionError, match="no leaves"):
        neural_tangents_ntk(apply_fn, {}, x)


def test_another_release_of_neural_tangents_is_refused(monkeypatch):
    monkeypatch.setattr(load(), "__version__", "0.6.6")
    load.cache_clear()
    with pytest.raises(AnalysisError, match=r"0\.6\.5; found 0\.6\.6"):
        load()


def test_neural_tangents_that_is_already_imported_is_used_as_it_is():
    module = load()
    load.cache_clear()
    assert load() is module is sys.modules["neural_tangents"]


def run_fresh(script: str) -> None:
    """Run a script in a process that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_loading_leaves_nothing_behind_in_jax():
    run_fresh("""
        import sys
        import jax, jax.core
        from jax.interpreters import ad

        before = set(vars(jax.core)), set(vars(ad))
        try:
            import neural_tangents
        except ImportError:
            pass
        else:
            raise AssertionError("it imports by itself: the module that mends it isn't needed any more")

        from analysis.kernels.neural_tangents_compat import load
        module = load()
        assert (set(vars(jax.core)), set(vars(ad))) == before
        for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var"):
            assert not hasattr(jax.core, name), name
        assert not hasattr(ad, "zeros_like_p")
        assert not hasattr(jax, "util")
        assert not hasattr(module, "experimental")
        assert not {"jax.util", "neural_tangents.experimental", "tensorflow"} & set(sys.modules)

        import neural_tangents
        assert neural_tangents is module is load()
    """)


def test_without_neural_tangents_the_error_says_what_to_install():
    run_fresh("""
        import sys
        import jax.core

        class NotInstalled:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "neural_tangents":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, NotInstalled())
        from analysis.errors import AnalysisError
        from analysis.kernels.neural_tangents_compat import load
        try:
            load()
        except AnalysisError as error:
            message = str(error)
        assert "neural_tangents" in message and "extra `analysis`" in message and "\\n" not in message, message
        assert not hasattr(jax.core, "Jaxpr") and "jax.util" not in sys.modules

        sys.meta_path.pop(0)  # installed meanwhile
        assert load().__version__ == "0.6.5"
    """)
