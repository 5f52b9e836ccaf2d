"""Training in function space against training of parameters: the `sequential` baseline itself, optax, a plain loop."""

import re

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.forgetting import compare, cross_entropy_drift, predicted_drift
from analysis.theory.losses import CrossEntropy, SquaredError, loss_change
from analysis.theory.modes import modes
from analysis.theory.procedures import Descent
from analysis.theory.recursion import Sgd, Trained, apply_kernel, descend
from ntkcl_jax.readouts.linear import LINEAR_MOMENTUM, LINEAR_RATE, fit_linear

CLASSES, FEATURES = 7, 10


def task(seed: int, classes: range, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a constant, and labels, of clusters off the origin."""
    centres = 1 + np.random.default_rng(1).normal(size=(CLASSES, FEATURES))
    labels = np.repeat(np.array(classes), per_class)
    noise = np.random.default_rng(seed).normal(size=(len(labels), FEATURES))
    x = np.c_[centres[labels] + 0.5 * noise, np.ones(len(labels))]
    return x.astype(np.float32).astype(np.float64), labels


OLD, OLD_LABELS = task(2, range(0, 3), 5)
NEW, LABELS = task(3, range(3, 5), 15)
N = len(NEW)
WEIGHTS = np.random.default_rng(4).normal(0, 0.3, (FEATURES + 1, CLASSES)).astype(np.float32).astype(np.float64)
KERNEL, CROSS = NEW @ NEW.T, OLD @ NEW.T
SEEN = np.arange(CLASSES) < 5


def batch_order(key, epochs: int, batch: int) -> np.ndarray:
    """The samples of each step of `fit_linear`."""
    steps = -(-N // batch)
    epoch_keys = jax.random.split(key, epochs)
    orders = [np.resize(np.asarray(jax.random.permutation(k, N)), (steps, batch)) for k in epoch_keys]
    return np.concatenate(orders)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("batch", [8, 32])  # the last batch wraps around; the only batch has samples twice
def test_the_sequential_baseline_forgets_exactly_what_is_predicted(batch, bits):
    epochs, key = 20, jax.random.key(5)
    with jax.enable_x64(bits == 64):
        trained = fit_linear(
            jnp.asarray(WEIGHTS, f"float{bits}"),
            jnp.asarray(NEW, f"float{bits}"),
            jnp.asarray(LABELS),
            jnp.int32(5),
            key,
            epochs=epochs,
            batch=batch,
        )
        batches, other = (batch_order(k, epochs, batch) for k in (key, jax.random.key(6)))
    assert trained.dtype == f"float{bits}"
    rates = LINEAR_RATE * 0.5 * (1 + np.cos(np.pi * np.arange(len(batches)) / len(batches))) / N
    sgd = Sgd(rates, batches, momentum=LINEAR_MOMENTUM)
    predicted = cross_entropy_drift(CROSS, KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS, SEEN), sgd)
    measured = OLD @ (np.asarray(trained, np.float64) - WEIGHTS)
    assert compare(predicted, measured).relative_error < (1e-9 if bits == 64 else 1e-6)
    assert (predicted[:, ~SEEN] == 0).all()
    assert abs(predicted).max() > 0.1

    wrong_ways = (Sgd(rates, other, LINEAR_MOMENTUM), Sgd(rates, batches), Sgd(rates, momentum=LINEAR_MOMENTUM))
    for wrong in wrong_ways:
        mutant = cross_entropy_drift(CROSS, KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS, SEEN), wrong)
        assert compare(mutant, measured).relative_error > 1e-4
    unmasked = cross_entropy_drift(CROSS, KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS), sgd)
    assert compare(unmasked, measured).relative_error > 1e-2


def optax_weights(optimizer, steps, ridge=0.0, bits=64):
    """Weights after training on the sum of cross-entropies of all classes, pulled to the start by a ridge."""
    with jax.enable_x64(bits == 64):
        start, x = jnp.asarray(WEIGHTS, f"float{bits}"), jnp.asarray(NEW, f"float{bits}")

        def loss(weights):
            fit = optax.softmax_cross_entropy_with_integer_labels(x @ weights, jnp.asarray(LABELS)).sum()
            return fit + 0.5 * ridge * jnp.sum((weights - start) ** 2)

        @jax.jit
        def run(weights):
            def step(carry, _):
                weights, state = carry
                updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
                return (optax.apply_updates(weights, updates), state), None

            return jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps)[0][0]

        return np.asarray(run(start), np.float64)


@pytest.mark.parametrize("bits", [64, 32])
def test_cross_entropy_on_all_samples_drifts_as_predicted_and_not_as_squared_error(bits):
    rate, steps, ridge = 2e-3, 300, 0.5
    measured = OLD @ (optax_weights(optax.sgd(rate), steps, ridge, bits) - WEIGHTS)
    predicted = cross_entropy_drift(
        CROSS, KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS), Sgd([rate] * steps, ridge=ridge)
    )
    assert compare(predicted, measured).relative_error < (1e-9 if bits == 64 else 1e-6)
    residual = np.eye(CLASSES)[LABELS] - NEW @ WEIGHTS
    squared = predicted_drift(CROSS, modes(KERNEL), residual, ridge, Descent(rate, steps))
    assert compare(squared, measured).relative_error > 0.1


@pytest.mark.parametrize("nesterov", [False, True])
def test_weight_decay_shrinks_the_start_as_it_does_in_optax(nesterov):
    rate, steps, decay = 2e-3, 60, 0.7
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, 0.9, nesterov=nesterov))
    measured = OLD @ (optax_weights(optimizer, steps, ridge=0.2) - WEIGHTS)
    sgd = Sgd([rate] * steps, momentum=0.9, nesterov=nesterov, ridge=0.2, weight_decay=decay)
    trained = descend(KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS).gradient, sgd)
    assert compare(trained.drift(CROSS, OLD @ WEIGHTS), measured).relative_error < 1e-9
    assert trained.share < 0.9
    whole = cross_entropy_drift(CROSS, KERNEL, NEW @ WEIGHTS, CrossEntropy(LABELS), sgd, OLD @ WEIGHTS)
    np.testing.assert_array_equal(whole, trained.drift(CROSS, OLD @ WEIGHTS))
    with pytest.raises(FunctionError, match="weight decay shrinks them"):
        trained.drift(CROSS)


@pytest.mark.parametrize("nesterov", [False, True])
def test_any_loss_of_any_jacobian_follows_a_plain_loop_over_parameters(nesterov):
    """No Kronecker structure, a robust loss, uneven batches, a schedule, both penalties."""
    rng = np.random.default_rng(6)
    n, outputs, p = 6, 3, 11
    jacobian, old = rng.normal(size=(n, outputs, p)), rng.normal(size=(4, outputs, p))
    start, y = rng.normal(size=p), rng.normal(size=(n, outputs))
    batches = [rng.choice(n, size) for size in (2, 6, 1, 3, 4, 2, 5, 3)]
    rates = 0.01 * 0.9 ** np.arange(len(batches))
    ridge, decay, momentum = 0.4, 0.3, 0.8
    weights, velocity = start.copy(), np.zeros(p)
    for rate, rows in zip(rates, batches, strict=True):
        slope = ridge * (weights - start) + decay * weights
        for i in rows:
            slope = slope + n / len(rows) * jacobian[i].T @ np.tanh(jacobian[i] @ weights - y[i])
        velocity = momentum * velocity + slope
        weights = weights - rate * (slope + momentum * velocity if nesterov else velocity)
    flat, flat_old = jacobian.reshape(-1, p), old.reshape(-1, p)
    sgd = Sgd(rates, batches, momentum, nesterov, ridge, decay)
    trained = descend(flat @ flat.T, jacobian @ start, lambda f, rows: np.tanh(f - y[rows]), sgd)
    found = trained.drift(flat_old @ flat.T, old @ start)
    assert compare(found, old @ (weights - start)).relative_error < 1e-12


def test_losses_and_their_gradients_equal_those_of_optax_and_automatic_differentiation():
    rng = np.random.default_rng(7)
    logits, rows = 3 * rng.normal(size=(N, CLASSES)), np.array([3, 0, 3, 20])
    y = rng.normal(size=(N, CLASSES))

    def cross_entropy(f, labels):
        return optax.softmax_cross_entropy_with_integer_labels(jnp.where(SEEN, f, -jnp.inf), labels)

    with jax.enable_x64(True):
        for loss, twin, target in (
            (CrossEntropy(LABELS, SEEN), cross_entropy, LABELS),
            (SquaredError(y), lambda f, y: optax.l2_loss(f, y).sum(axis=-1), y),
        ):
            np.testing.assert_allclose(loss.values(logits), twin(logits, target), rtol=1e-12)
            slope = jax.grad(lambda f, twin=twin, target=target: twin(f, target[rows]).sum())(logits[rows])
            np.testing.assert_allclose(loss.gradient(logits[rows], rows), slope, rtol=1e-10, atol=1e-14)


def test_a_change_of_loss_is_the_mean_over_samples_after_minus_before():
    logits, drift = OLD @ WEIGHTS, np.random.default_rng(8).normal(size=(len(OLD), CLASSES))
    y = np.eye(CLASSES)[OLD_LABELS]
    samples = list(zip(logits, drift, y, OLD_LABELS, strict=True))
    squared = np.mean([(np.sum((f + d - t) ** 2) - np.sum((f - t) ** 2)) / 2 for f, d, t, _ in samples])
    assert loss_change(SquaredError(y), logits, drift) == pytest.approx(squared, rel=1e-12)
    assert loss_change(SquaredError(y), logits, drift.reshape(-1)) == pytest.approx(squared, rel=1e-12)

    def nats(f, c):
        return -np.log(np.exp(f[c]) / np.exp(f[:5]).sum())

    change = np.mean([nats(f + d, c) - nats(f, c) for f, d, _, c in samples])
    assert loss_change(CrossEntropy(OLD_LABELS, SEEN), logits, drift) == pytest.approx(change, rel=1e-12)


def test_logits_of_any_size_have_a_finite_cross_entropy():
    loss = CrossEntropy(np.array([0, 1]))
    logits = np.array([[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_allclose(loss.values(logits), [0.0, 2e4])
    np.testing.assert_array_equal(loss.gradient(logits, np.array([0, 1])), [[0.0, 0.0], [1.0, -1.0]])


START, GRADIENT = NEW @ WEIGHTS, CrossEntropy(LABELS).gradient


@pytest.mark.parametrize(
    "bad",
    [
        lambda: descend(KERNEL[:, :-1], START, GRADIENT, Sgd([0.1])),
        lambda: descend(KERNEL[:5, :5], START, GRADIENT, Sgd([0.1])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([-0.1])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], momentum=1.0)),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], ridge=-1.0)),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], weight_decay=np.inf)),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1, 0.1], batches=[np.arange(3)])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], batches=[np.array([N])])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], batches=[np.array([-1])])),
        lambda: descend(KERNEL, START, GRADIENT, Sgd([0.1], batches=[np.array([], int)])),
        lambda: descend(KERNEL, START, lambda f, rows: f, Sgd([10.0] * 300)),
        lambda: cross_entropy_drift(CROSS, KERNEL, START, CrossEntropy(LABELS[:-1]), Sgd([0.1])),
        lambda: cross_entropy_drift(CROSS, KERNEL, START, CrossEntropy(LABELS, np.arange(CLASSES) < 4), Sgd([0.1])),
        lambda: cross_entropy_drift(CROSS, KERNEL, START, CrossEntropy(LABELS, SEEN[:5]), Sgd([0.1])),
        lambda: cross_entropy_drift(CROSS[:, :-1], KERNEL, START, CrossEntropy(LABELS), Sgd([0.1])),
        lambda: CrossEntropy(LABELS).values(START[:-1]),
        lambda: CrossEntropy(LABELS + 3).values(START),
        lambda: SquaredError(START).values(START[:, :-1]),
        lambda: loss_change(SquaredError(START), START, START[:-1]),
        lambda: apply_kernel(np.ones((4, 6)), np.ones((2, 3))),
        lambda: Trained(np.ones((2, 3)), 0.5).drift(np.ones((3, 6)), np.ones((2, 3))),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(bad):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        bad()
    assert caught.type is TypeCheckError or re.fullmatch(r"expected [^\n]+", str(caught.value))
