"""How far training on a new task moves the logits of an old one, before it happens (docs/theory.md, section 2).

Both kernels are of the checkpoint *before* the new task. The drift is exact for a model linear in its parameters, such
as a linear classifier on frozen features; for others it is the first order, good while the kernel moves little.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix
from analysis.theory.losses import CrossEntropy, SquaredError
from analysis.theory.modes import Modes
from analysis.theory.procedures import Procedure
from analysis.theory.recursion import Sgd, descend


@dataclass(frozen=True)
class Comparison:
    """A predicted drift beside the measured one.

    Attributes:
        cosine: of the two; None if one of them is zero.
        relative_error: ‖predicted - measured‖ / ‖measured‖; None if nothing moved.
        predicted_norm: ‖predicted‖.
        measured_norm: ‖measured‖.
    """

    cosine: float | None
    relative_error: float | None
    predicted_norm: float
    measured_norm: float


def predicted_drift(
    cross: Float[np.ndarray, "rows m"],
    decomposed: Modes,
    residual: Float[np.ndarray, "*shape"],
    ridge: float,
    procedure: Procedure,
) -> Float[np.ndarray, "*moved"]:
    """Drift of an old task's logits after training on a new one with squared error: D = Φ(X_t, X_k) U q(g) Uᵀ r.

    Args:
        cross: kernel of the old task's rows with the new task's.
        decomposed: modes of the new task's kernel Φ(X_k, X_k).
        residual: r, the new task's targets minus what the model says before it. Stacked sample by sample (n_k*K,); or
            (n_k, K) with kernels of samples, which stand for k ⊗ I.
        ridge: λ >= 0 of the sum objective; `Ridge` needs it above 0 where the kernel is singular.
        procedure: how the task is trained.

    Returns:
        (n_t*K,), or (n_t, K) for a residual of that layout.

    Raises:
        FunctionError: shapes that don't fit, a negative ridge, or what the procedure's filter refuses.

    Example:
        >>> from analysis.theory.modes import modes
        >>> from analysis.theory.procedures import Ridge
        >>> new, cross = np.diag([3.0, 1.0]), np.array([[1.0, 0.5]])
        >>> predicted_drift(cross, modes(new), np.array([4.0, 4.0]), ridge=1.0, procedure=Ridge()).round(12)
        array([2.])
    """
    if not (np.isfinite(ridge) and ridge >= 0):
        raise FunctionError(f"expected a ridge of at least 0 and finite, got {ridge}; 0 leaves it out")
    # α = U q(g) Uᵀ r (docs/theory.md, section 2.1)
    coefficients = decomposed.filtered(procedure.filter(decomposed.values + ridge), residual)
    cross = as_matrix("the inter-task kernel", cross)
    if cross.shape[1] != len(coefficients):
        raise FunctionError(
            f"expected an inter-task kernel with {len(coefficients)} columns, one for each row of the new task's; got "
            f"shape {cross.shape}: old samples are its rows"
        )
    return cross @ coefficients


def minibatch_drift(
    cross: Float[np.ndarray, "rows columns"],
    kernel: Float[np.ndarray, "m m"],
    residual: Float[np.ndarray, "n k"],
    sgd: Sgd,
) -> Float[np.ndarray, "n_t k"]:
    """Drift after training with half squared error on batches that are known; exact, momentum included.

    Batches drawn independently give the full-batch filter in expectation; shuffled epochs don't quite.

    Args:
        cross: kernel of the old samples with the new ones, of outputs (n_t*K, n*K) or of samples (n_t, n) for k ⊗ I.
        kernel: of the new samples, laid out in the same way.
        residual: targets minus logits before, of the new samples.
        sgd: rates and batches of the sum objective; without weight decay, which needs more than the residual.

    Raises:
        FunctionError: weight decay, or what `descend` refuses.

    Example:
        >>> one_sample_each = Sgd([0.5, 0.5], batches=[np.array([0]), np.array([1])])
        >>> minibatch_drift(np.array([[1.0, 1.0]]), np.eye(2), np.array([[1.0], [2.0]]), one_sample_each)
        array([[3.]])
    """
    if sgd.weight_decay:
        raise FunctionError(
            f"expected no weight decay, got {sgd.weight_decay}: it shrinks what the model said before, which residuals "
            "don't hold; use descend with the logits before and SquaredError(targets).gradient"
        )
    residual = as_matrix("the residual", residual)
    # Squared error sees differences only: logits from zero and the residual as targets are the same problem
    return descend(kernel, np.zeros_like(residual), SquaredError(residual).gradient, sgd).drift(cross)


def cross_entropy_drift(
    cross: Float[np.ndarray, "rows columns"],
    kernel: Float[np.ndarray, "m m"],
    start: Float[np.ndarray, "n k"],
    loss: CrossEntropy,
    sgd: Sgd,
    old_start: Float[np.ndarray, "n_t k"] | None = None,
) -> Float[np.ndarray, "n_t k"]:
    """Drift after training with softmax cross-entropy, by the function-space recursion.

    For several old tasks, `descend` once and ask its result for each task's drift.

    Args:
        cross: kernel of the old samples with the new ones, of outputs (n_t*K, n*K) or of samples (n_t, n) for k ⊗ I.
        kernel: of the new samples, laid out in the same way.
        start: logits of the new samples before.
        loss: labels of the new samples and the classes seen.
        sgd: rates, batches, momentum, ridge and weight decay of the sum objective.
        old_start: logits of the old samples before; needed with weight decay.

    Raises:
        FunctionError: what `descend` refuses, or labels of classes that aren't seen.

    Example:
        >>> loss = CrossEntropy(np.array([0]))
        >>> cross_entropy_drift(np.array([[2.0]]), np.eye(1), np.zeros((1, 2)), loss, Sgd([1.0]))
        array([[ 1., -1.]])
    """
    if len(loss.labels) != len(start):
        raise FunctionError(f"expected a label for each of {len(start)} samples, got {len(loss.labels)}; match them")
    return descend(kernel, start, loss.gradient, sgd).drift(cross, old_start)


def compare(predicted: Float[np.ndarray, "*shape"], measured: Float[np.ndarray, "*shape"]) -> Comparison:
    """Compare two drifts of the same logits.

    Args:
        predicted: what the kernels say.
        measured: what the trained model does.

    Raises:
        FunctionError: two shapes, or entries that aren't finite.

    Example:
        >>> compare(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
        Comparison(cosine=1.0, relative_error=0.5, predicted_norm=1.0, measured_norm=2.0)
    """
    if predicted.shape != measured.shape:
        raise FunctionError(
            f"expected two drifts of one shape, got {predicted.shape} and {measured.shape}; lay out one"
        )
    guess, truth = (np.asarray(x, np.float64).reshape(-1) for x in (predicted, measured))
    if not (np.isfinite(guess).all() and np.isfinite(truth).all()):
        raise FunctionError("expected finite drifts; NaN or infinity came: look for training that diverges")
    sizes = float(np.linalg.norm(guess)), float(np.linalg.norm(truth))
    return Comparison(
        # To unit length first: the product of two tiny norms may be zero
        cosine=float(guess / sizes[0] @ (truth / sizes[1])) if min(sizes) > 0 else None,
        relative_error=float(np.linalg.norm(guess - truth)) / sizes[1] if sizes[1] > 0 else None,
        predicted_norm=sizes[0],
        measured_norm=sizes[1],
    )
