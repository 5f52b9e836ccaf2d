"""Training in function space: SGD on known batches of any differentiable loss (docs/theory.md, section 2.1).

A model that is linear in its parameters keeps p - p_start = Jᵀ a through all of training, so that the dual coefficients
a and the kernel J Jᵀ say everything. The objective is the *sum* over samples of their losses, plus ½ λ ‖p - p_start‖²
and ½ ω ‖p‖²; a batch of b samples has its gradient scaled by n/b. Training on the *mean* loss with rate η', ridge λ'
and weight decay ω' is the same with η'/n, n λ' and n ω'.

Logits are (n, K) here. A kernel is either of the outputs, laid out sample by sample (n1*K, n2*K), or, where it is k ⊗ I
(a linear classifier on frozen features), k alone (n1, n2): nothing of size n*K by n*K is then needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analysis.errors import FunctionError
from analysis.measures.checks import as_matrix
from analysis.theory.filters import check_momentum, step_rates

Gradient = Callable[[Float[np.ndarray, "b k"], Int[np.ndarray, "b"]], Float[np.ndarray, "b k"]]
"""(logits, rows) to the derivative of each sample's loss with respect to its own logits."""


@dataclass(frozen=True)
class Sgd:
    """What `optax.sgd` does on known batches.

    Attributes:
        rates: learning rate of each step, of the sum objective.
        batches: the samples of each step, in training's own order; a sample that stands in a batch twice counts twice.
            All samples in every step if None.
        momentum: in [0, 1).
        nesterov: Nesterov's momentum instead of heavy ball.
        ridge: λ, which pulls towards the start.
        weight_decay: ω, which pulls towards zero and is added to the gradient before momentum
            (`optax.add_decayed_weights` before `optax.sgd`).
    """

    rates: Sequence[float] | Float[np.ndarray, "steps"]
    batches: Sequence[Int[np.ndarray, "_"]] | Int[np.ndarray, "steps b"] | None = None
    momentum: float = 0.0
    nesterov: bool = False
    ridge: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Trained:
    """p = share * p_start + Jᵀ coefficients.

    Attributes:
        coefficients: a, for each training sample and logit.
        share: how much of the start is left; exactly 1 without weight decay.
    """

    coefficients: Float[np.ndarray, "n k"]
    share: float

    def drift(
        self, cross: Float[np.ndarray, "rows columns"], start: Float[np.ndarray, "m k"] | None = None
    ) -> Float[np.ndarray, "m k"]:
        """What training added to the logits of other samples: cross a + (share - 1) start.

        Args:
            cross: kernel of those samples (rows) with the training samples (columns).
            start: their logits before training; needed after weight decay, which shrinks them.

        Raises:
            FunctionError: shapes that don't fit, or no start after weight decay.
        """
        moved = apply_kernel(cross, self.coefficients)
        if self.share == 1:
            return moved
        if start is None or start.shape != moved.shape:
            raise FunctionError(
                f"expected the logits before training, of shape {moved.shape}, since weight decay shrinks them; got "
                f"{None if start is None else start.shape}"
            )
        return moved + (self.share - 1) * start


def descend(
    kernel: Float[np.ndarray, "rows rows"], start: Float[np.ndarray, "n k"], gradient: Gradient, sgd: Sgd
) -> Trained:
    """Train in function space; exact for models linear in their parameters.

    With weight decay the model must also be homogeneous (no part that isn't a parameter's): then start = J p_start.
    Each step costs b n K, the size of its batch times the coefficients.

    Args:
        kernel: of the training samples, of outputs (n*K, n*K) or of samples (n, n) for k ⊗ I.
        start: logits of the training samples before.
        gradient: derivative of the samples' losses, as `SquaredError.gradient` and `CrossEntropy.gradient`.
        sgd: rates, batches and the rest.

    Raises:
        FunctionError: shapes, rates, batches or a momentum that don't fit, or training that diverges.

    Example:
        >>> target = np.array([[1.0]])
        >>> descend(np.eye(1), np.zeros((1, 1)), lambda f, rows: f - target[rows], Sgd([0.5, 0.5])).coefficients
        array([[0.75]])
    """
    start = as_matrix("the logits before training", start)
    n, outputs = start.shape
    kernel = as_matrix("the kernel", kernel)
    if kernel.shape not in ((n, n), (n * outputs, n * outputs)):
        raise FunctionError(
            f"expected the kernel of {n} samples, {(n, n)} or {(n * outputs,) * 2} with outputs; got {kernel.shape}"
        )
    rates, momentum = step_rates(sgd.rates, len(sgd.rates)), check_momentum(sgd.momentum)
    for name, value in (("ridge", sgd.ridge), ("weight decay", sgd.weight_decay)):
        if not (np.isfinite(value) and value >= 0):
            raise FunctionError(f"expected a {name} of at least 0 and finite, got {value}; 0 leaves it out")
    batches = _checked_batches(sgd.batches, len(rates), n)
    blocks = kernel.reshape(n, -1, kernel.shape[1])  # all rows of one sample together
    everything = np.arange(n)
    coefficients, velocity = np.zeros_like(start), np.zeros_like(start)
    share, share_velocity = 1.0, 0.0
    # Training that diverges is told after the loop
    with np.errstate(over="ignore", invalid="ignore"):
        for step, rate in enumerate(rates.tolist()):
            rows = everything if batches is None else batches[step]
            # With all samples in every step the kernel isn't copied
            part = kernel if batches is None else blocks[rows].reshape(-1, kernel.shape[1])
            # docs/theory.md, section 2.1: the batch's logits, then the slopes of a and of w
            logits = share * start[rows] + apply_kernel(part, coefficients)
            slope = (sgd.ridge + sgd.weight_decay) * coefficients
            # Adds one by one, so that a sample that stands in a batch twice counts twice
            np.add.at(slope, rows, n / len(rows) * gradient(logits, rows))
            share_slope = sgd.ridge * (share - 1) + sgd.weight_decay * share
            velocity, share_velocity = momentum * velocity + slope, momentum * share_velocity + share_slope
            if sgd.nesterov:
                # As optax does it: the velocity's next step is taken ahead
                coefficients = coefficients - rate * (slope + momentum * velocity)
                share -= rate * (share_slope + momentum * share_velocity)
            else:
                coefficients = coefficients - rate * velocity
                share -= rate * share_velocity
    if not (np.isfinite(coefficients).all() and np.isfinite(share)):
        raise FunctionError("expected training to stay finite, but it diverges; lower the rates (sum objective: η'/n)")
    return Trained(coefficients, float(share))


def apply_kernel(
    kernel: Float[np.ndarray, "rows columns"], coefficients: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "m k"]:
    """Kernel times coefficients, for a kernel of outputs (m*K, n*K) or of samples (m, n), which stands for k ⊗ I.

    Raises:
        FunctionError: columns that are neither n nor n*K, or rows that don't make up whole samples.

    Example:
        >>> coefficients = np.array([[1.0, 2.0]])
        >>> apply_kernel(np.array([[3.0]]), coefficients), apply_kernel(np.diag([3.0, 1.0]), coefficients)
        (array([[3., 6.]]), array([[3., 2.]]))
    """
    n, outputs = coefficients.shape
    rows, columns = kernel.shape
    # k ⊗ I: the same kernel for each column
    if columns == n:
        return kernel @ coefficients
    if columns != n * outputs or rows % outputs:
        raise FunctionError(
            f"expected a kernel with {n} columns, or {n * outputs} with {outputs} outputs for each sample and row; got "
            f"{kernel.shape}: pass the kernel of these samples, laid out by sample_major"
        )
    # Stacked sample by sample, as the kernel's rows are
    return (kernel @ coefficients.reshape(-1)).reshape(-1, outputs)


def _checked_batches(batches: Sequence[np.ndarray] | np.ndarray | None, steps: int, n: int) -> list[np.ndarray] | None:
    if batches is None:
        return None
    rows = [np.asarray(batch) for batch in batches]
    if len(rows) != steps:
        raise FunctionError(f"expected a batch for each of {steps} rates, got {len(rows)}; give every step its samples")
    if any(b.ndim != 1 or b.size == 0 or b.dtype.kind not in "iu" or b.min() < 0 or b.max() >= n for b in rows):
        raise FunctionError(f"expected batches of row numbers from 0 to {n - 1}, none empty; count from the task's own")
    return rows
