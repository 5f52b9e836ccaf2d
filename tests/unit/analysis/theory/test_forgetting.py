"""Forecast of drift: fixture F2, its mutants, and optax training a linear model (docs/theory.md, section 2.2)."""

import functools
import itertools
import re

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.forgetting import compare, minibatch_drift, predicted_drift
from analysis.theory.modes import modes
from analysis.theory.procedures import Descent, Flow, HeavyBall, Nesterov, Ridge, Schedule
from analysis.theory.recursion import Sgd

RIDGE = 0.3
HALVING = tuple(0.04 * 0.5 ** (i // 10) for i in range(30))


def jacobian(task: int, checkpoint: int) -> np.ndarray:
    """F1 of docs/theory.md, section 6, tasks counted from 0."""
    i, a = np.arange(1, 2 * (4, 5, 3)[task] + 1)[:, None], np.arange(1, 13)
    return np.cos(0.7 * i * a + 0.9 * task + 0.05 * checkpoint)


def start(task: int) -> np.ndarray:
    return 0.1 * np.cos(np.arange(2 * (4, 5, 3)[task]) + task)


def targets(task: int) -> np.ndarray:
    return np.sin(1.1 * np.arange(1, 2 * (4, 5, 3)[task] + 1) + task)


def residual() -> np.ndarray:
    """Of the second task after the first was learned, at checkpoint 0."""
    own, cross = jacobian(0, 0) @ jacobian(0, 0).T, jacobian(1, 0) @ jacobian(0, 0).T
    learned = cross @ np.linalg.solve(own + RIDGE * np.eye(8), targets(0) - start(0))
    return targets(1) - start(1) - learned


def f2(procedure=None, *, old=1, new=1, r=None, ridge=RIDGE):
    """Drift on the first task from the second; `old` and `new` are the checkpoints of their Jacobians."""
    j_t, j_k = jacobian(0, old), jacobian(1, new)
    return predicted_drift(j_t @ j_k.T, modes(j_k @ j_k.T), residual() if r is None else r, ridge, procedure or Ridge())


@pytest.mark.parametrize(
    ("drift", "norm", "first"),
    [
        (f2, 1.133679119003, -0.725109543740),
        (lambda: f2(Flow(0.05)), 0.209730679929, -0.147343842132),
        (lambda: f2(Descent(0.02, 50)), 1.135068407161, -0.726390825373),
        (lambda: f2(Descent(0.02, 50), ridge=0.0), 1.223567399903, -0.778996454270),
        (lambda: f2(HeavyBall(0.02, 0.9, 50)), 1.127365955846, -0.733553211918),
        (lambda: f2(Nesterov(0.02, 0.9, 50)), 1.130077113909, -0.725158464725),
        (lambda: f2(Schedule(HALVING)), 1.088684618167, -0.700573500154),
        (lambda: f2(HeavyBall(HALVING, 0.0, 30)), 1.088684618167, -0.700573500154),
        (lambda: f2(Descent(0.02, 3)), 0.256379262410, None),
    ],
)
def test_fixture_f2_of_the_theory_is_reproduced(drift, norm, first):
    found = drift()
    assert np.linalg.norm(found) == pytest.approx(norm, abs=1e-10)
    assert first is None or found[0] == pytest.approx(first, abs=1e-10)


@pytest.mark.parametrize(
    ("mutant", "norm"),
    [
        (lambda: f2(old=0, new=0), 1.0728),
        (lambda: f2(old=2, new=2), 1.1994),
        (lambda: f2(old=0), 1.1364),
        (lambda: f2(r=targets(1)), 1.0749),
        (lambda: f2(r=targets(1) - start(1)), 1.0052),
        (lambda: f2(ridge=5 * RIDGE), 0.8787),
        (lambda: f2(ridge=10 * RIDGE), 0.6786),
    ],
)
def test_fixture_f2_tells_the_usual_mistakes_from_the_truth(mutant, norm):
    found = np.linalg.norm(mutant())
    assert found == pytest.approx(norm, abs=5.1e-5)  # the theory states four digits
    assert abs(found - 1.133679119003) > 2e-3


def test_fixture_f2_tells_one_step_more_from_the_truth():
    assert np.linalg.norm(f2(Descent(0.02, 4))) == pytest.approx(0.325645539127, abs=1e-10)


# A linear classifier on 6 features and a constant, 3 logits: kernel x xᵀ ⊗ I, of rank 7 among 12 samples.
NEW, OLD, FEATURES, LOGITS = 12, 8, 6, 3


@functools.cache
def problem() -> tuple[np.ndarray, ...]:
    """Inputs of new and old task, weights to start at, targets of the new one: float32 numbers in float64."""
    rng = np.random.default_rng(0)
    x, old = (np.c_[rng.standard_normal((n, FEATURES)) + 0.5, np.ones(n)] for n in (NEW, OLD))
    weights, y = 0.3 * rng.standard_normal((FEATURES + 1, LOGITS)), np.eye(LOGITS)[np.arange(NEW) % LOGITS]
    return tuple(np.asarray(v, np.float32).astype(np.float64) for v in (x, old, weights, y))


X, X_OLD, W, Y = problem()
KERNEL, CROSS, R = X @ X.T, X_OLD @ X.T, Y - X @ W
TOP = float(np.linalg.eigvalsh(KERNEL)[-1])
COSINE = tuple(0.5 / TOP * (1 + np.cos(np.pi * np.arange(100) / 100)))


@functools.partial(jax.jit, static_argnames=("optimizer", "weigh"))
def scan(optimizer, weigh, weights, ridge, batches, x, y):
    start = weights

    def loss(weights, rows):
        fit = weigh * len(x) / len(rows) * jnp.sum((x[rows] @ weights - y[rows]) ** 2) / 2
        return fit + weigh * ridge * jnp.sum((weights - start) ** 2) / 2

    def step(carry, rows):
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, rows), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (weights, optimizer.init(weights)), batches)[0][0]


def train(optimizer, steps, ridge=0.0, batches=None, *, bits=64, weigh=1.0):
    """Weights after training with optax on the sum objective, at 32 or 64 bits."""
    rows = np.tile(np.arange(NEW), (steps, 1)) if batches is None else np.asarray(batches)
    dtype = f"float{bits}"
    with jax.enable_x64(bits == 64):
        args = (jnp.asarray(W, dtype), jnp.asarray(ridge, dtype), rows, jnp.asarray(X, dtype), jnp.asarray(Y, dtype))
        return np.asarray(scan(optimizer, weigh, *args), np.float64)


def drift_of(weights):
    return X_OLD @ (weights - W)


def error(predicted, weights):
    return compare(predicted, drift_of(weights)).relative_error


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(
    ("procedure", "optimizer", "ridge"),
    [
        (Descent(1 / TOP, 1), lambda: optax.sgd(1 / TOP), 1.0),
        (Descent(1 / TOP, 10), lambda: optax.sgd(1 / TOP), 1.0),
        (Descent(1 / TOP, 200), lambda: optax.sgd(1 / TOP), 1.0),
        (Descent(1 / TOP, 2000), lambda: optax.sgd(1 / TOP), 1.0),
        (Descent(1 / TOP, 200), lambda: optax.sgd(1 / TOP), 0.0),  # the kernel is singular
        (Descent(1.9 / TOP, 50), lambda: optax.sgd(1.9 / TOP), 0.0),
        (HeavyBall(0.3 / TOP, 0.9, 100), lambda: optax.sgd(0.3 / TOP, 0.9), 1.0),
        (HeavyBall(0.3 / TOP, 0.5, 100), lambda: optax.sgd(0.3 / TOP, 0.5), 1.0),
        (Nesterov(0.3 / TOP, 0.9, 100), lambda: optax.sgd(0.3 / TOP, 0.9, nesterov=True), 1.0),
        (Schedule(COSINE), lambda: optax.sgd(optax.cosine_decay_schedule(1 / TOP, 100)), 1.0),
        (HeavyBall(COSINE, 0.9, 100), lambda: optax.sgd(optax.cosine_decay_schedule(1 / TOP, 100), 0.9), 1.0),
        (
            Nesterov(COSINE, 0.9, 100),
            lambda: optax.sgd(optax.cosine_decay_schedule(1 / TOP, 100), 0.9, nesterov=True),
            1.0,
        ),
    ],
)
def test_a_linear_classifier_drifts_as_predicted(procedure, optimizer, ridge, bits):
    predicted = predicted_drift(CROSS, modes(KERNEL), R, ridge, procedure)
    steps = procedure.steps if hasattr(procedure, "steps") else len(procedure.rates)
    assert error(predicted, train(optimizer(), steps, ridge, bits=bits)) < (1e-9 if bits == 64 else 1e-6)


def test_the_ridge_optimum_of_the_parameters_drifts_as_predicted():
    stacked = np.r_[X, np.eye(FEATURES + 1)]  # ½‖x w - r‖² + ½ λ ‖w‖² with λ = 1, as least squares
    change = np.linalg.lstsq(stacked, np.r_[R, np.zeros((FEATURES + 1, LOGITS))])[0]
    assert error(predicted_drift(CROSS, modes(KERNEL), R, 1.0, Ridge()), W + change) < 1e-12


def test_gradient_flow_integrated_by_runge_kutta_drifts_as_predicted():
    time, steps = 60 / TOP, 4000
    change, h = np.zeros_like(W), time / steps

    def slope(change):
        return X.T @ (R - X @ change) - change

    for _ in range(steps):
        a = slope(change)
        b = slope(change + h / 2 * a)
        c = slope(change + h / 2 * b)
        change = change + h / 6 * (a + 2 * b + 2 * c + slope(change + h * c))
    assert error(predicted_drift(CROSS, modes(KERNEL), R, 1.0, Flow(time)), W + change) < 1e-9


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_known_batches_drift_as_predicted(momentum, nesterov, bits):
    batches = np.random.default_rng(1).integers(0, NEW, (150, 5))  # some samples stand in a batch twice
    rate = 0.1 / TOP
    sgd = Sgd([rate] * 150, batches, momentum=momentum, nesterov=nesterov, ridge=1.0)
    weights = train(optax.sgd(rate, momentum, nesterov=nesterov), 150, 1.0, batches, bits=bits)
    assert error(minibatch_drift(CROSS, KERNEL, R, sgd), weights) < (1e-9 if bits == 64 else 1e-6)


def test_the_function_space_recursion_on_all_samples_is_the_filter():
    for momentum, nesterov, procedure in (
        (0.0, False, Schedule(COSINE)),
        (0.9, False, HeavyBall(COSINE, 0.9, 100)),
        (0.9, True, Nesterov(COSINE, 0.9, 100)),
    ):
        recursion = minibatch_drift(CROSS, KERNEL, R, Sgd(COSINE, momentum=momentum, nesterov=nesterov, ridge=1.0))
        assert compare(recursion, predicted_drift(CROSS, modes(KERNEL), R, 1.0, procedure)).relative_error < 1e-11


def mean_drift(orders, n, rate):
    """Of all these orders of single samples, each as likely."""
    kernel, cross = KERNEL[:n, :n], CROSS[:, :n]
    drifts = [minibatch_drift(cross, kernel, R[:n], Sgd([rate] * len(o), np.array(o)[:, None])) for o in orders]
    return np.mean(drifts, axis=0)


def test_independent_batches_follow_full_descent_in_expectation_and_shuffled_epochs_do_not():
    n, rate = 3, 0.1 / TOP
    full = predicted_drift(CROSS[:, :n], modes(KERNEL[:n, :n]), R[:n], 0.0, Descent(rate, n))
    independent = mean_drift(itertools.product(range(n), repeat=n), n, rate)
    shuffled = mean_drift(itertools.permutations(range(n)), n, rate)
    assert compare(independent, full).relative_error < 1e-13
    assert compare(shuffled, full).relative_error > 1e-3


def test_adam_is_predicted_by_no_length_of_descent():
    weights = train(optax.adam(1e-2), 100)
    lengths = np.unique(np.geomspace(1, 10_000, 60).astype(int))
    forecasts = [predicted_drift(CROSS, modes(KERNEL), R, 0.0, Descent(1 / TOP, int(m))) for m in lengths]
    assert min(error(predicted, weights) for predicted in forecasts) > 0.01


def test_a_rate_of_the_mean_loss_is_the_samples_times_that_of_the_sum():
    weights = train(optax.sgd(NEW * 0.5 / TOP), 20, 1.0, weigh=1 / NEW)
    assert error(predicted_drift(CROSS, modes(KERNEL), R, 1.0, Descent(0.5 / TOP, 20)), weights) < 1e-9


def test_a_kernel_of_samples_stands_for_its_kronecker_product_with_the_identity():
    eye = np.eye(LOGITS)
    full, cross = np.kron(KERNEL, eye), np.kron(CROSS, eye)
    small = predicted_drift(CROSS, modes(KERNEL), R, 1.0, HeavyBall(0.3 / TOP, 0.9, 20))
    large = predicted_drift(cross, modes(full), R.reshape(-1), 1.0, HeavyBall(0.3 / TOP, 0.9, 20))
    assert large.shape == (OLD * LOGITS,)
    np.testing.assert_allclose(large, small.reshape(-1), rtol=1e-10, atol=1e-12)
    sgd = Sgd([0.1 / TOP] * 4, [np.array([0, 3]), np.array([5]), np.array([5, 5, 1]), np.arange(NEW)], momentum=0.5)
    np.testing.assert_allclose(
        minibatch_drift(cross, full, R, sgd), minibatch_drift(CROSS, KERNEL, R, sgd), rtol=1e-10, atol=1e-12
    )


def test_a_comparison_counts_direction_and_size():
    found = compare(np.array([[3.0, 0.0]]), np.array([[3.0, 4.0]]))
    assert (found.cosine, found.relative_error) == pytest.approx((0.6, 0.8))
    assert (found.predicted_norm, found.measured_norm) == pytest.approx((3.0, 5.0))
    nothing = compare(np.ones(2), np.zeros(2))
    assert (nothing.cosine, nothing.relative_error, nothing.measured_norm) == (None, None, 0.0)
    assert compare(np.zeros(2), np.ones(2)).relative_error == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        lambda: predicted_drift(CROSS, modes(KERNEL), R, -1.0, Ridge()),
        lambda: predicted_drift(CROSS, modes(KERNEL), R, 0.0, Ridge()),
        lambda: predicted_drift(CROSS.T, modes(KERNEL), R, 1.0, Ridge()),
        lambda: predicted_drift(CROSS, modes(KERNEL), R.reshape(-1), 1.0, Ridge()),
        lambda: minibatch_drift(CROSS, KERNEL, R, Sgd([0.1], weight_decay=0.1)),
        lambda: compare(np.ones(2), np.ones(3)),
        lambda: compare(np.array([np.nan]), np.ones(1)),
    ],
)
def test_what_no_drift_can_be_predicted_from_is_refused_in_one_line(bad):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        bad()
    assert caught.type is TypeCheckError or re.fullmatch(r"expected [^\n]+", str(caught.value))
