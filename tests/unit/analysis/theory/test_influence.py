"""Influence against explicit descent of a linear model, and its kernel algebra against dense gradients."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.influence import by_class, influences, interplay, kept_off, pivoted_cholesky

RNG = np.random.default_rng(3)
M, N, K, E, P = 5, 7, 3, 4, 60
OLD, NEW = RNG.standard_normal((M, K, P)), RNG.standard_normal((N, E, P))


def softmax(z: np.ndarray) -> np.ndarray:
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def test_parts_add_up_to_the_first_order_change_of_a_linear_model_that_descends_by_momentum() -> None:
    start, wanted = RNG.standard_normal((N, E)), np.eye(E)[RNG.integers(0, E, N)]
    rates, momentum = np.array([0.02, 0.02, 0.01, 0.005]), 0.9
    step, velocity, duals, dual_velocity = np.zeros(P), np.zeros(P), np.zeros((N, E)), np.zeros((N, E))
    for rate in rates:
        slope = softmax(start + NEW @ step) - wanted  # of the cross-entropy, by each image's outputs
        velocity = momentum * velocity + np.einsum("je,jep->p", slope, NEW)
        dual_velocity = momentum * dual_velocity + slope
        step, duals = step - rate * velocity, duals - rate * dual_velocity
    gradients = RNG.standard_normal((M, K))
    found = influences(gradients, np.einsum("icp,jdp->ijcd", OLD, NEW), duals)
    np.testing.assert_allclose(found.sum(axis=1), (gradients * (OLD @ step)).sum(axis=1), rtol=1e-11)
    # Each part alone: what the old image's loss would change by, had the step been that image's
    alone = np.array([[(gradients[i] * (OLD[i] @ (NEW[j].T @ duals[j]))).sum() for j in range(N)] for i in range(M)])
    np.testing.assert_allclose(found, alone, rtol=1e-11)
    with pytest.raises((FunctionError, TypeCheckError), match=r"kernel of shape \(m, n, k, e\)|Type-check error"):
        influences(gradients, np.zeros((M, N, E, K)), duals)


def test_classes_are_means_of_their_images() -> None:
    changes, labels = RNG.standard_normal((2, M, K)), np.array([4, 1, 4, 1, 1])
    found = interplay(changes, labels, np.array([1, 4]))
    for i, c in enumerate((1, 4)):
        rows = [m for m in range(M) if labels[m] == c]
        for j in range(2):
            assert found[i, j] == pytest.approx(sum(np.linalg.norm(changes[j, m]) ** 2 for m in rows) / len(rows))
    with pytest.raises(FunctionError, match="none of class 2"):
        by_class(np.zeros((M, 1)), labels, np.array([1, 2]))


def test_pivoted_cholesky_takes_the_row_that_the_chosen_explain_least() -> None:
    rows = RNG.standard_normal((12, 6)) * np.linspace(1, 3, 12)[:, None]
    chosen: list[int] = []
    for _ in range(6):
        basis = np.linalg.qr(rows[chosen].T)[0] if chosen else np.zeros((6, 0))
        chosen.append(int(np.square(rows - rows @ basis @ basis.T).sum(axis=1).argmax()))
    assert pivoted_cholesky(rows @ rows.T, most=4).tolist() == chosen[:4]
    assert pivoted_cholesky(rows @ rows.T, most=12).tolist() == chosen, "six directions are all that there are"
    assert pivoted_cholesky(np.zeros((3, 3)), most=2).tolist() == []
    with pytest.raises(FunctionError, match="at least 0 rows"):
        pivoted_cholesky(np.eye(2), most=-1)


def test_a_step_that_leaves_remembered_losses_alone_is_the_projected_one() -> None:
    gradients, step = RNG.standard_normal((9, P)), RNG.standard_normal(P)
    kept = [2, 5, 7]
    basis = np.linalg.qr(gradients[kept].T)[0]
    projected = gradients @ (step - basis @ (basis.T @ step))
    kernel, change = gradients @ gradients.T, gradients @ step
    found = kept_off(kernel[np.ix_(kept, kept)], kernel[:, kept], change, change[kept])
    np.testing.assert_allclose(found, projected, atol=1e-10)
    assert abs(found[kept]).max() < 1e-10 < abs(change[kept]).min()
    # One image twice is one direction
    again = [2, 2]
    found = kept_off(kernel[np.ix_(again, again)], kernel[:, again], change, change[again])
    assert abs(found[2]) < 1e-9
