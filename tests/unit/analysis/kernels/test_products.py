"""Kernel-vector products, and what is solved with nothing but them, against the dense float64 kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jaxtyping import TypeCheckError

from analysis.errors import AnalysisError, FunctionError, PlanError
from analysis.kernels.products import KernelOperator, ntk_vector_product
from analysis.kernels.solve import extreme_eigenvalues, ridge_solve
from tests.support.dense import attention_net, dense_ntk, examples, mlp, relative_error

N = 7
NETS = {"mlp": (mlp, (5,)), "attention": (partial(attention_net, blocks=1), (8, 8, 1))}


def problem(name: str, n: int = N, seed: int = 0):
    build, shape = NETS[name]
    return *build(), examples(n, shape, seed)


def matrix(theta: np.ndarray) -> np.ndarray:
    """(n1, n2, k, k) as a matrix, examples first."""
    return theta.transpose(0, 2, 1, 3).reshape(theta.shape[0] * theta.shape[2], -1)


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


@pytest.fixture(scope="module", params=NETS)
def case(request):
    fn, params, x = problem(request.param)
    v = np.random.default_rng(1).standard_normal((N, 3))
    return fn, params, x, v, dense_ntk(fn, params, x)


@pytest.mark.parametrize("tile", [None, 1, 3, N, N + 5])
def test_a_product_is_that_of_the_dense_kernel_for_any_tile(case, tile):
    fn, params, x, v, theta = case
    want = np.einsum("ijcd,jd->ic", theta, v)
    assert relative_error(ntk_vector_product(fn, params, x, v, tile=tile), want) < 1e-5


@pytest.mark.parametrize("tile", [1, 3])
def test_in_float64_a_product_keeps_ten_digits(case, tile):
    fn, params, x, v, theta = case
    with jax.enable_x64(True):
        got = ntk_vector_product(double(fn) if isinstance(fn, Partial) else fn, double(params), double(x), v, tile=tile)
    assert relative_error(got, np.einsum("ijcd,jd->ic", theta, v)) < 1e-10


def test_a_product_between_two_sets_takes_a_vector_of_the_second(case):
    fn, params, x, v, _ = case
    x1 = examples(3, x.shape[1:], seed=5)
    want = np.einsum("ijcd,jd->ic", dense_ntk(fn, params, x1, x), v)
    assert relative_error(ntk_vector_product(fn, params, x1, v, x2=x, tile=2), want) < 1e-5


def test_parameters_may_be_numbers_and_have_no_entries():
    params = {"scale": jnp.float32(2.0), "none": jnp.zeros((0, 3)), "shift": jnp.ones(3)}
    x = examples(4, (3,))
    v = np.ones((4, 3))

    def fn(p, x):
        return p["scale"] ** 2 * x + p["shift"] + p["none"].sum()

    want = 16 * x * np.sum(x * v) + 4.0  # d/d scale is 4 x, d/d shift the identity
    assert relative_error(ntk_vector_product(fn, params, x, v, tile=3), want) < 1e-5


def test_a_product_sees_one_tile_at_a_time_and_compiles_each_half_once():
    plain, params, x = problem("mlp", n=11)
    seen = []

    def fn(p, x):
        seen.append(x.shape[0])
        return plain(p, x)

    operator = KernelOperator(fn, params, x, tile=4)
    seen.clear()
    for _ in range(3):
        operator @ np.ones(33)
    assert seen == [4, 4]


def test_vectors_far_below_float32_keep_their_digits():
    fn, params, x = problem("mlp")
    operator = KernelOperator(fn, params, x)
    v = np.random.default_rng(0).standard_normal(operator.shape[0])
    np.testing.assert_array_equal(operator @ (v * 2.0**-400), (operator @ v) * 2.0**-400)
    np.testing.assert_array_equal(operator @ np.zeros_like(v), 0.0)


def test_the_operator_is_the_matrix_and_counts_its_products(case):
    fn, params, x, v, theta = case
    told = []
    operator = KernelOperator(fn, params, x, tile=2, progress=told.append)
    assert operator.shape == (N * 3, N * 3) and operator.products == 0
    assert relative_error(operator @ np.eye(N * 3)[:, :4], matrix(theta)[:, :4]) < 1e-5
    assert relative_error(operator.T @ v.reshape(-1), matrix(theta) @ v.reshape(-1)) < 1e-5
    assert operator.products == 5 and told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("tile", [3, N + 5])
def test_the_operators_diagonal_is_exact(case, tile):
    fn, params, x, _, theta = case
    got = KernelOperator(fn, params, x, tile=tile).diagonal()
    assert relative_error(got, np.diag(matrix(theta))) < 1e-5


def test_an_operator_made_in_float64_stays_in_float64():
    fn, params, x = problem("mlp")
    with jax.enable_x64(True):
        operator = KernelOperator(fn, double(params), double(x))
    want = matrix(dense_ntk(fn, params, x))
    assert relative_error(operator @ np.ones(N * 3), want @ np.ones(N * 3)) < 1e-12
    assert relative_error(operator.diagonal(), np.diag(want)) < 1e-12


def test_conjugate_gradients_solve_what_a_direct_solver_solves(case):
    fn, params, x, _, theta = case
    dense = matrix(theta)
    # Ten times less, and rounding of float32 products alone leaves about 1e-5 of the targets, on some machines more
    ridge = 1e-1 * np.trace(dense) / len(dense)
    targets = np.random.default_rng(2).standard_normal((len(dense), 2))
    operator = KernelOperator(fn, params, x)
    found = ridge_solve(operator, targets, ridge)
    want = np.linalg.solve(dense + ridge * np.eye(len(dense)), targets)
    assert relative_error(found.solution, want) < 1e-3  # the residual's 1e-5 times the condition of at most 1e2
    true = np.linalg.norm(targets - (dense + ridge * np.eye(len(dense))) @ found.solution, axis=0)
    assert np.all(true / np.linalg.norm(targets, axis=0) < 1.5e-5)
    assert max(found.residuals) <= 1e-5
    assert operator.products >= sum(found.iterations) > 2


def test_in_float64_conjugate_gradients_reach_ten_digits():
    fn, params, x = problem("mlp")
    dense = matrix(dense_ntk(fn, params, x))
    target = np.random.default_rng(2).standard_normal(len(dense))
    with jax.enable_x64(True):
        found = ridge_solve(KernelOperator(fn, double(params), double(x)), target, 0.1, tolerance=1e-12)
    assert relative_error(found.solution, np.linalg.solve(dense + 0.1 * np.eye(len(dense)), target)) < 1e-10


def test_targets_of_zero_have_coefficients_of_zero():
    fn, params, x = problem("mlp")
    found = ridge_solve(KernelOperator(fn, params, x), np.zeros(N * 3), 1.0)
    assert not found.solution.any() and found.iterations == (0,) and found.residuals == (0.0,)


def test_what_does_not_converge_is_refused_with_a_remedy():
    fn, params, x = problem("mlp")
    operator, target = KernelOperator(fn, params, x), np.random.default_rng(0).standard_normal(N * 3)
    with pytest.raises(AnalysisError, match=r"column 0 is at .* after 2 iterations .* max_iterations"):
        ridge_solve(operator, target, 1e-3, max_iterations=2)
    with pytest.raises(AnalysisError, match=r"raise it, accept a larger tolerance, or use float64"):
        ridge_solve(operator, target, 1e-4, tolerance=1e-12)  # below float32's rounding
    with pytest.raises(AnalysisError, match=r"converged .* raise max_restarts"):
        extreme_eigenvalues(operator, 2, end="smallest", tolerance=1e-14, max_restarts=1)


@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_lanczos_finds_the_eigenvalues_of_the_dense_kernel(case, end):
    fn, params, x, _, theta = case
    every = np.linalg.eigvalsh(matrix(theta))[::-1]
    found = extreme_eigenvalues(KernelOperator(fn, params, x), 3, end=end)
    want = every[:3] if end == "largest" else every[-3:]
    assert np.abs(found.values - want).max() < 1e-5 * every[0]
    slack = 1e-6 * every[0]  # the products' own rounding
    assert np.all(np.abs(found.values - want) <= found.errors + slack) and np.all(found.errors < 1e-4 * every[0])


def test_in_float64_lanczos_reaches_ten_digits():
    fn, params, x = problem("mlp")
    every = np.linalg.eigvalsh(matrix(dense_ntk(fn, params, x)))[::-1]
    with jax.enable_x64(True):
        found = extreme_eigenvalues(KernelOperator(fn, double(params), double(x)), 4, tolerance=1e-13)
    assert relative_error(found.values, every[:4]) < 1e-10 and found.errors.max() < 1e-9 * every[0]


def test_equal_calls_find_equal_bits():
    fn, params, x = problem("mlp")
    operator = KernelOperator(fn, params, x, tile=3)
    for solve in (
        lambda: extreme_eigenvalues(operator, 2).values,
        lambda: ridge_solve(operator, np.ones(21), 1.0).solution,
    ):
        np.testing.assert_array_equal(solve(), solve())


def centred(p, x):
    return (x - x.mean(axis=0)) @ p


def rooted(p, x):
    return jnp.sqrt(jnp.square(x @ p))


@pytest.mark.parametrize(
    ("fn", "params", "x", "message"),
    [
        (centred, jnp.ones((5, 3)), examples(N, (5,)), "independent rows"),
        (mlp()[0], {}, examples(N, (5,)), "at least one array"),
        (mlp()[0], {"layer0": {"kernel": jnp.full((5, 3), jnp.nan)}}, examples(N, (5,)), "finite parameters"),
        (jnp.matmul, jnp.ones((5, 3)), np.full((N, 5), np.nan, np.float32), "finite numbers in x"),
        (lambda p, x: jnp.sum(x @ p), jnp.ones((5, 3)), examples(N, (5,)), "expected apply_fn"),
        (rooted, jnp.zeros((5, 3)), examples(N, (5,)), "finite derivatives"),
    ],
)  # fmt: skip
def test_inputs_without_a_kernel_are_refused(fn, params, x, message):
    flipped = fn if fn is not jnp.matmul else lambda p, x: x @ p
    with pytest.raises(FunctionError, match=message):
        ntk_vector_product(flipped, params, x, np.ones((N, 3)))
    with pytest.raises(FunctionError, match=message):
        KernelOperator(flipped, params, x) @ np.ones(N * 3)


def test_meaningless_requests_are_refused():
    fn, params, x = problem("mlp")
    operator = KernelOperator(fn, params, x)
    ones = np.ones(N * 3)
    with pytest.raises(FunctionError, match=r"shape \(7, 3\).*reshape"):
        ntk_vector_product(fn, params, x, np.ones((3, 7)))
    with pytest.raises(FunctionError, match="finite numbers in v"):
        operator @ (ones * np.nan)
    with pytest.raises(FunctionError, match="x2"):
        ntk_vector_product(fn, params, x, np.ones((N, 3)), x2=x * np.nan)
    with pytest.raises(PlanError, match="tile"):
        KernelOperator(fn, params, x, tile=0)
    with pytest.raises(FunctionError, match=r"flatten \(n, k\)"):
        ridge_solve(operator, np.ones((N, 3)), 1.0)
    with pytest.raises(FunctionError, match="finite targets"):
        ridge_solve(operator, ones * np.inf, 1.0)
    with pytest.raises(PlanError, match="ridge"):
        ridge_solve(operator, ones, -1.0)
    with pytest.raises(PlanError, match="tolerance"):
        ridge_solve(operator, ones, 1.0, tolerance=0.0)
    for count in (0, N * 3):
        with pytest.raises(PlanError, match="count of 1 to 20"):
            extreme_eigenvalues(operator, count)
    with pytest.raises((PlanError, TypeCheckError), match=r"largest.*smallest"):  # the latter under --shape-checks
        extreme_eigenvalues(operator, 1, end="middle")
    assert operator.products == 0
