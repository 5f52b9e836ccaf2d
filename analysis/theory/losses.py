"""Losses of logits (n, K) in NumPy: their values, and the derivatives that drive training in function space."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax, softmax

from analysis.errors import FunctionError


@dataclass(frozen=True)
class SquaredError:
    """Half squared error ½‖f(x_i) - y_i‖², summed over logits.

    Attributes:
        targets: y.

    Example:
        >>> loss = SquaredError(np.array([[1.0, 0.0]]))
        >>> loss.values(np.zeros((1, 2))), loss.gradient(np.zeros((1, 2)), np.array([0]))
        (array([0.5]), array([[-1.,  0.]]))
    """

    targets: Float[np.ndarray, "n k"]

    def values(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
        """½‖f - y‖² of each sample.

        Raises:
            FunctionError: other than one row of logits for each target.
        """
        _check_logits(logits, self.targets.shape)
        return 0.5 * ((logits - self.targets) ** 2).sum(axis=1)

    def gradient(self, logits: Float[np.ndarray, "b k"], rows: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b k"]:
        """Difference f - y for the samples `rows`."""
        return logits - self.targets[rows]


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy -log softmax(f(x_i))[y_i] over the classes seen so far.

    Attributes:
        labels: y, the class of each sample.
        seen: classes that take part; the logits of the others are left out, as if they were minus infinity. All
            classes if None.

    Example:
        >>> loss = CrossEntropy(np.array([0]), seen=np.array([True, True, False]))
        >>> loss.values(np.array([[0.0, 0.0, 9.0]])).round(4), loss.gradient(np.zeros((1, 3)), np.array([0]))
        (array([0.6931]), array([[-0.5,  0.5,  0. ]]))
    """

    labels: Int[np.ndarray, "n"]
    seen: Bool[np.ndarray, "k"] | None = None

    def values(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n"]:
        """Cross-entropy of each sample, in nats.

        Raises:
            FunctionError: other than one row of logits for each label, or a label that isn't among the classes seen.
        """
        _check_logits(logits, (len(self.labels), logits.shape[-1]))
        # Columns of the classes seen, ascending: a label's place among them is found by bisection
        part = np.flatnonzero(self._part(logits.shape[1], self.labels))
        return -log_softmax(logits[:, part], axis=1)[np.arange(len(logits)), np.searchsorted(part, self.labels)]

    def gradient(self, logits: Float[np.ndarray, "b k"], rows: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b k"]:
        """Softmax minus one-hot for the samples `rows`; zero for classes that aren't seen.

        Raises:
            FunctionError: a label that isn't among the classes seen.
        """
        part = self._part(logits.shape[1], self.labels[rows])
        slope = np.zeros(logits.shape)
        slope[:, part] = softmax(logits[:, part], axis=1)
        # One entry in each row, so that none is met twice
        slope[np.arange(len(rows)), self.labels[rows]] -= 1
        return slope

    def _part(self, classes: int, labels: np.ndarray) -> np.ndarray:
        part = np.ones(classes, bool) if self.seen is None else self.seen
        if part.shape != (classes,) or labels.min() < 0 or labels.max() >= classes or not part[labels].all():
            raise FunctionError(
                f"expected labels among the classes seen and a mask of {classes} logits, got labels {labels.min()} to "
                f"{labels.max()} and {part.sum()} classes seen of a mask of shape {part.shape}; add the labels' classes"
            )
        return part


Loss = SquaredError | CrossEntropy


def loss_change(loss: Loss, logits: Float[np.ndarray, "n k"], drift: Float[np.ndarray, "*shape"]) -> float:
    """How much a drift of the logits changes the mean loss: positive where the task is forgotten.

    Args:
        loss: with the targets of these samples.
        logits: before.
        drift: what is added, (n, K) or stacked sample by sample (n K,).

    Returns:
        Mean over samples of loss(logits + drift) - loss(logits).

    Raises:
        FunctionError: a drift of another size, or logits that don't fit the loss.

    Example:
        >>> loss_change(SquaredError(np.zeros((2, 1))), np.zeros((2, 1)), np.array([1.0, 1.0]))
        0.5
    """
    if drift.size != logits.size:
        raise FunctionError(
            f"expected a drift for each of the logits {logits.shape}, got shape {drift.shape}; predict it for the same "
            "samples and outputs"
        )
    return float((loss.values(logits + drift.reshape(logits.shape)) - loss.values(logits)).mean())


def _check_logits(logits: np.ndarray, shape: tuple[int, ...]) -> None:
    if logits.shape != shape:
        raise FunctionError(f"expected logits of shape {shape}, got {logits.shape}; pass those of the same samples")
