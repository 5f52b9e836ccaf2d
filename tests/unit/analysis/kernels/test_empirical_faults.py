"""What no kernel can be computed of is refused by `analysis.empirical_ntk` in one line, before anything is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jaxtyping import TypeCheckError

import analysis
from analysis import composite, empirical_ntk
from analysis.errors import AnalysisError, FunctionError, PlanError, TooLargeError
from tests.support.dense import examples, mlp, relative_error

FN, PARAMS = mlp()
X = examples(4, (5,))
W = np.ones((5, 3), np.float32)
RANDOM = np.random.default_rng(0)


def with_bad_row(row: int) -> np.ndarray:
    x = X.copy()
    x[row, 2] = np.nan
    return x


def linear(p: Any, x: jax.Array) -> jax.Array:
    return x @ p


def refused(error: type[AnalysisError], *words: str, call: Callable[[], Any]) -> None:
    # --shape-checks refuses values that no signature allows before our own checks see them.
    with pytest.raises((error, TypeCheckError)) as caught:
        call()
    if isinstance(caught.value, TypeCheckError):
        return
    line = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in line and len(line) < 300
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, ["no leaves", "frozen"]),
        ({"a": None, "b": []}, ["no leaves"]),
        ({**PARAMS, "steps": np.arange(3)}, ["floating-point", "steps is int"]),
        ({**PARAMS, "on": True}, ["floating-point", "on is bool"]),
        ({**PARAMS, "name": "vit"}, ["floating-point", "name is <U3"]),
        ({**PARAMS, "bad": np.array([1, np.nan, np.inf])}, ["finite parameters", "bad has 2 of 3"]),
        (W * np.nan, ["finite parameters", "params has 15 of 15"]),
    ],
)
def test_parameters_without_a_kernel_are_refused_by_path(params: Any, words: list[str]) -> None:
    refused(FunctionError, *words, call=lambda: empirical_ntk(FN, params, X))


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ((X[:0],), ["x1 with at least one row", "(0, 5)"]),
        ((X, X[:0]), ["x2 with at least one row"]),
        ((np.float32(1),), ["x1 with at least one row", "()"]),
        ((X.tolist(),), ["x1 to be an array", "list"]),
        ((X, X.tolist()), ["x2 to be an array", "list"]),
        ((X.tolist(), X[:, :2]), ["x1 to be an array", "list"]),
        ((with_bad_row(3),), ["finite numbers in x1", "row 3"]),
        ((X, jnp.asarray(with_bad_row(1))), ["finite numbers in x2", "row 1"]),
        ((X, X[:, :4]), ["x2 of shape (n, 5)", "(4, 4)"]),
        ((X, X[0]), ["x2 of shape (n, 5)", "(5,)"]),
        ((X[:, :4],), ["fails on x of shape (4, 4)"]),
        ((np.array([["a"] * 5] * 2),), ["fails on x of shape (2, 5)"]),
    ],
)
@pytest.mark.parametrize("way", ["tiled", "neural_tangents"])
def test_images_without_a_kernel_are_refused_by_name(way: Any, sets: tuple, words: list[str]) -> None:
    refused(FunctionError, *words, call=lambda: empirical_ntk(FN, PARAMS, *sets, way=way))


def raising(error: Exception) -> Callable:
    def apply_fn(p: Any, x: jax.Array) -> jax.Array:
        raise error

    return apply_fn


class Counter:
    """A function with state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, p: Any, x: jax.Array) -> jax.Array:
        self.calls += 1
        return x @ p * self.calls


def batch_norm(p: Any, x: jax.Array) -> jax.Array:
    return (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-3) @ p


def unknown_features(p: Any, x: jax.Array) -> jax.Array:
    return jnp.stack([x, x], axis=-1)


PURE = ["pure apply_fn", "state"]
ALONE = ["independent rows", "batch statistics"]


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda p, x: (x @ p).sum(), ["return (4, k)", "got ()"]),
        (lambda p, x: (x @ p)[:, 0], ["return (4, k)", "got (4,)"]),
        (lambda p, x: (x @ p)[1:], ["return (4, k)", "got (3, 3)"]),
        (lambda p, x: (x @ p)[:, :0], ["return (4, k)", "got (4, 0)"]),
        (lambda p, x: (x @ p, x), ["return (4, k)", "got tuple"]),
        (lambda p, x: None, ["return (4, k)", "got NoneType"]),
        (lambda p, x: (x @ p).astype(int), ["floating-point numbers", "int32"]),
        (lambda p, x: x @ p + 1j, ["floating-point numbers", "complex64"]),
        (lambda p, x: jnp.log(x @ p * 0 - 1), ["finite outputs", "row 0"]),
        (lambda p, x: jnp.sqrt(jnp.square(x @ p * 0)), ["finite Jacobians", "examples 0 to"]),
        (batch_norm, ALONE),
        (lambda p, x: jnp.cumsum(x @ p, axis=0), ALONE),
        (lambda p, x: jnp.cumsum((x @ p)[::-1], axis=0)[::-1], ALONE),
        (composite(batch_norm, lambda p, z: z), ALONE),
        (composite(lambda p, x: x @ p, lambda p, z: z - z.mean(axis=0)), ALONE),
        (composite(unknown_features, lambda p, z: z[..., 0] @ p), ["features of shape (4, d)", "(4, 5, 2)"]),
        (Counter(), PURE),
        (lambda p, x: x @ p + RANDOM.random(), PURE),
        (lambda p, x: x @ p * (RANDOM.random((len(x), 1)) > 0.5), PURE),
        (
            raising(RuntimeError("no such layer\nand more")),
            ["fails on x of shape (4, 5)", "RuntimeError: no such layer"],
        ),
        (raising(KeyError("kernel")), ["KeyError: 'kernel'"]),
        (raising(AssertionError()), ["AssertionError"]),
        (lambda p, x: p["kernel"] @ x, ["fails on x"]),
        (lambda p, x: x @ p if float(x[0, 0]) > 0 else x, ["fails on x"]),
    ],
)
def test_functions_without_a_kernel_are_refused_with_the_reason(fn: Any, words: list[str]) -> None:
    refused(FunctionError, *words, call=lambda: empirical_ntk(fn, jnp.asarray(W), X))


def test_a_single_example_shows_batch_statistics_too() -> None:
    refused(FunctionError, *ALONE, call=lambda: empirical_ntk(batch_norm, jnp.asarray(W), X[:1]))


def test_neural_tangents_kernels_that_are_not_finite_are_refused() -> None:
    rooted = composite(lambda p, x: jnp.square(x @ p * 0), lambda p, z: jnp.sqrt(z))
    refused(FunctionError, "finite kernel", "100%", call=lambda: empirical_ntk(rooted, W, X, way="neural_tangents"))


def hidden_coupling(p: Any, x: jax.Array) -> jax.Array:
    return batch_norm(p, x)


def logarithm(p: Any, x: jax.Array) -> jax.Array:
    return jnp.log(jnp.square(x) @ p)


def test_a_function_that_was_taken_is_refused_where_its_outputs_are_not_finite() -> None:
    # Its derivatives are finite at negative numbers too: nothing else would notice.
    assert np.isfinite(empirical_ntk(logarithm, W, X)).all()
    refused(FunctionError, "finite outputs", "row 0", call=lambda: empirical_ntk(logarithm, -W, X))


def test_coupled_rows_that_a_head_of_zeros_hid_are_refused_once_it_is_trained() -> None:
    assert np.isfinite(empirical_ntk(hidden_coupling, np.zeros((5, 3), np.float32), X)).all()
    refused(FunctionError, *ALONE, call=lambda: empirical_ntk(hidden_coupling, W, X))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outputs": "sum"}, ["outputs to be one of full, trace, diagonal, pseudo", "'sum'"]),
        ({"way": "fast"}, ["way to be one of auto, tiled, neural_tangents", "'fast'"]),
        ({"precision": "bfloat16"}, ["precision to be one of float64, float32", "'bfloat16'"]),
        ({"tile": 0}, ["tile", "got 0"]),
        ({"tile": -1}, ["tile", "got -1"]),
        ({"tile": 0, "way": "neural_tangents"}, ["tile", "got 0"]),
        ({"memory_bytes": 1000}, ["1 kB may be used", "choose outputs"]),
        ({"memory_bytes": 0}, ["0 B may be used"]),
        ({"memory_bytes": 20_000, "tile": 4000}, ["may be used"]),
        ({"groups": {"all": [""]}, "way": "neural_tangents"}, ["neural_tangents", "groups", "way tiled"]),
        ({"precision": "float64", "way": "neural_tangents"}, ["neural_tangents", "float64", "way tiled"]),
        ({"memory_bytes": 10**9, "way": "neural_tangents"}, ["neural_tangents", "memory_bytes", "way tiled"]),
        ({"devices": [], "way": "neural_tangents"}, ["neural_tangents", "devices", "way tiled"]),
    ],
)
def test_options_that_mean_nothing_or_do_not_fit_are_refused(options: dict[str, Any], words: list[str]) -> None:
    error = TooLargeError if "memory_bytes" in options and "way" not in options else PlanError
    refused(error, *words, call=lambda: empirical_ntk(FN, PARAMS, X, **options))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": ["layer"], "b": ["layer1"]}, ["exactly one group", "layer1/bias is in a and b"]),
        ({"b": ["layer1"]}, ["exactly one group", "layer0/bias is in none"]),
        ({}, ["exactly one group", "layer0/bias is in none"]),
        ({"a": ["layer"], "b": ["head"]}, ["parameters in every group", "b has none"]),
        ({"a": ["layer"], "b": []}, ["parameters in every group", "b has none"]),
        ({"whole": ["layer0"], "rest": ["layer1"]}, ["other names than whole", "rename"]),
        (lambda path: "whole", ["other names than whole", "rename"]),
    ],
)
def test_groups_that_do_not_share_out_the_parameters_are_refused(groups: Any, words: list[str]) -> None:
    refused(FunctionError, *words, call=lambda: empirical_ntk(FN, PARAMS, X, groups=groups))


def test_nothing_is_counted_and_no_other_function_is_hurt_by_a_refusal() -> None:
    seen: list[tuple[int, int]] = []
    before = empirical_ntk(FN, PARAMS, X)
    note = {"advance": lambda done, total: seen.append((done, total))}
    refused(TooLargeError, call=lambda: empirical_ntk(FN, PARAMS, X, memory_bytes=10, **note))
    assert not seen
    np.testing.assert_array_equal(empirical_ntk(FN, PARAMS, X), before)


@pytest.mark.filterwarnings("error")
def test_float64_images_and_whole_numbers_need_no_permission() -> None:
    whole = np.round(X * 10)
    wanted = empirical_ntk(linear, W, whole)
    for x in (whole.astype(np.float64), whole.astype(np.int8)):
        assert relative_error(empirical_ntk(linear, W, x), wanted) < 1e-6
    assert relative_error(empirical_ntk(Partial(linear), W.astype(np.float64), whole), wanted) < 1e-6


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'analysis' has no attribute 'emprical_ntk'$"):
        analysis.emprical_ntk  # noqa: B018
    assert all(hasattr(analysis, name) for name in analysis.__all__)
