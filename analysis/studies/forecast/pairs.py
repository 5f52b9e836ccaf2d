"""An old task and a new one: forecast, measured drift, and why they differ (docs/theory.md, sections 2.2 and 2.3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis import measures
from analysis.records.outputs import drift_floor, half_squared, root_mean_square
from analysis.theory.concentration import concentration
from analysis.theory.forgetting import Comparison, compare
from analysis.theory.modes import modes

SHARES = {"90": 0.90, "95": 0.95, "99": 0.99}
"""Shares of a drift's energy that modes are counted for."""
TOP = 10
"""Modes whose share of the energy is told."""


@dataclass(frozen=True)
class Drifts:
    """Changes of an old task's outputs while a new task is learnt.

    Attributes:
        before: outputs at the checkpoint before the new task.
        wanted: their targets.
        predicted: the forecast change.
        measured: what training did; None if it hasn't happened.
        true_step: J Δp with the parameters' own change.
        trapezoid: the same with the mean of the Jacobians before and after.
        kernel: the old task's kernel before, sample-major, of its first images.
        kernel_after: the same after.
    """

    before: Float[np.ndarray, "n k"]
    wanted: Float[np.ndarray, "n k"]
    predicted: Float[np.ndarray, "n k"]
    measured: Float[np.ndarray, "n k"] | None = None
    true_step: Float[np.ndarray, "n k"] | None = None
    trapezoid: Float[np.ndarray, "n k"] | None = None
    kernel: Float[np.ndarray, "m m"] | None = None
    kernel_after: Float[np.ndarray, "m m"] | None = None

    def loss_change(self, drift: Float[np.ndarray, "n k"] | None) -> float | None:
        """By how much a drift changes the half squared error."""
        if drift is None:
            return None
        return half_squared(self.before + drift, self.wanted) - half_squared(self.before, self.wanted)


def pair(old: int, new: int | str, drifts: Drifts, largest: float = 1.0) -> dict[str, Any]:
    """The entry of `forecast.json` for an old and a new task; what wasn't measured is None.

    Where forecast and measured drift are both within rounding (`moved` is False), their cosine, error and modes mean
    nothing and are None too.

    Args:
        old: the old task.
        new: the new one, or the name of new data.
        drifts: of the old task's outputs.
        largest: size of an output before what all outputs share is taken out, of which rounding is a part.

    Example:
        >>> zero, one = np.zeros((1, 2)), np.array([[0.0, 1.0]])
        >>> entry = pair(0, 1, Drifts(zero, one, predicted=one, measured=2 * one))
        >>> entry["cosine"], entry["relative_error"], entry["predicted_loss_change"], entry["measured_norm"]
        (1.0, 0.5, -0.5, 2.0)
        >>> still = pair(0, 1, Drifts(zero, one, predicted=-1e-8 * one, measured=1e-7 * one))
        >>> still["moved"], still["cosine"], still["relative_error"]
        (False, None, None)
    """
    drift, measured = drifts.predicted, drifts.measured
    floor = drift_floor(drift.shape[1], largest)
    moved = None if measured is None else max(map(root_mean_square, (drift, measured))) > floor
    if moved is False:
        # Two roundings beside each other: that a forecast holds, or doesn't, can't be read off them
        measured = None
    found = compared(drift, measured)
    # Modes are those of a drift that happened, in a kernel that was computed
    known = drifts.kernel is not None and measured is not None
    return {
        "old": old,
        "new": new,
        "images": len(drift),
        "cosine": found.cosine if found else None,
        "relative_error": found.relative_error if found else None,
        "predicted_norm": root_mean_square(drift),
        "measured_norm": None if drifts.measured is None else root_mean_square(drifts.measured),
        "rounding": floor,
        "moved": moved,
        "predicted_loss_change": drifts.loss_change(drift),
        "measured_loss_change": drifts.loss_change(drifts.measured),
        "ntk_drift": _kernel_drift(drifts.kernel, drifts.kernel_after),
        "true_step": quality(drifts.true_step, measured),
        "trapezoid": quality(drifts.trapezoid, measured),
        "concentration": concentrated(drifts.kernel, measured) if known else None,
    }


def compared(drift: Float[np.ndarray, "n k"] | None, measured: Float[np.ndarray, "n k"] | None) -> Comparison | None:
    """A forecast beside what was measured; None unless both are there."""
    return None if drift is None or measured is None else compare(drift, measured)


def quality(
    drift: Float[np.ndarray, "n k"] | None, measured: Float[np.ndarray, "n k"] | None
) -> dict[str, float | None] | None:
    """Cosine and relative error of a drift; None unless both are there."""
    found = compared(drift, measured)
    return None if found is None else {"cosine": found.cosine, "relative_error": found.relative_error}


def concentrated(
    kernel: Float[np.ndarray, "m m"] | None, drift: Float[np.ndarray, "n k"], of_samples: bool = False
) -> dict[str, Any] | None:
    """In how few modes of the old task's kernel a drift lives; None for no drift or no kernel.

    Args:
        kernel: of the first images' outputs, sample-major; or of all n samples, where it stands for kernel ⊗ I.
        drift: of at least these images.
        of_samples: which of the two. Sizes don't tell: 20 images of 10 outputs have as many rows as 200 samples.

    Returns:
        `modes` (share in percent to modes of logits) and `top` (the energy of the leading `TOP` modes, or of the
        leading mode of features where each counts k times, beside a random change of the parameters).

    Example:
        >>> drift = np.ones((4, 2))  # two images of two outputs make four rows too
        >>> [concentrated(np.eye(4), drift, of_samples=which)["modes"]["95"] for which in (False, True)]
        [4, 8]
    """
    if kernel is None:
        return None
    k = drift.shape[1]
    # The kernel is of the first images only: their part of the drift, stacked as its rows are
    part = drift if of_samples else drift[: len(kernel) // k].reshape(-1)
    if not np.any(part) or not np.trace(kernel) > 0:
        return None
    found = concentration(modes(kernel), part)
    # A mode of samples counts once for each output: the first alone is k modes of logits
    leading = 0 if of_samples else min(TOP, len(found.energy)) - 1
    return {
        "modes": {name: found.modes_for(share) for name, share in SHARES.items()},
        "top": {
            "modes": (leading + 1) * found.group,
            "energy": float(found.energy[leading]),
            "baseline": float(found.baseline[leading]),
        },
    }


def _kernel_drift(before: np.ndarray | None, after: np.ndarray | None) -> float | None:
    return None if before is None or after is None or not np.any(before) else measures.drift(before, after)


def correlation(pairs: list[dict[str, Any]]) -> float | None:
    """Pearson correlation of forecast and measured loss changes of pairs in which something moved.

    None for fewer than 3 of them or without variation.

    Example:
        >>> changes = [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]
        >>> correlation([{"predicted_loss_change": a, "measured_loss_change": b} for a, b in changes])
        1.0
    """
    both = [(p["predicted_loss_change"], p["measured_loss_change"]) for p in pairs if p.get("moved") is not False]
    values = np.array([(a, b) for a, b in both if b is not None], np.float64).reshape(-1, 2)
    return correlated(values[:, 0], values[:, 1])


def correlated(one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"]) -> float | None:
    """Pearson correlation; None of fewer than 3 values, or where either doesn't vary.

    Example:
        >>> correlated(np.arange(3.0), np.arange(3.0)), correlated(np.ones(3), np.arange(3.0))
        (1.0, None)
    """
    # Two points always lie on a line
    if len(one) < 3 or 0 in (np.ptp(one), np.ptp(other)):
        return None
    return float(np.clip(np.corrcoef(one, other)[0, 1], -1, 1))
