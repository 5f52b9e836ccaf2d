"""The few numbers of a run that its verdict and its captions speak of; None where they can't be known."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.report.reading import RunFiles, floats, known
from analysis.report.theory_figures import stack

CLIP = 1.0
"""Largest loss that a bound counts, where `gaps.json` doesn't say."""
METHOD = "ntkcl"
"""The method that a run is about, if it has it."""


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the numbers that are there.

    Example:
        >>> mean([1.0, None, 2.0]), mean([])
        (1.5, None)
    """
    numbers = known(values)
    return statistics.fmean(numbers) if numbers else None


def median(values: Iterable[float | None]) -> float | None:
    """Median of the numbers that are there."""
    numbers = known(values)
    return statistics.median(numbers) if numbers else None


def correlation(x: Sequence[float | None], y: Sequence[float | None]) -> float | None:
    """Pearson's correlation over the places where both are known; None for fewer than three or without spread.

    Example:
        >>> round(correlation([1, 2, 3], [2, 4, 6]), 6), correlation([1, 2], [1, 2])
        (1.0, None)
    """
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if len(known([a, b])) == 2])
    if len(pairs) < 3 or not pairs.std(axis=0).all():
        return None
    return float(np.corrcoef(pairs.T)[0, 1])


def shown_method(files: RunFiles) -> str:
    """The method that the report is about: NTK-CL, or else the first one."""
    methods = list(files.results["summary"]) if files.results else files.config["config"]["methods"]
    return METHOD if METHOD in methods or not methods else methods[0]


def by_method(files: RunFiles) -> dict[str, dict[str, Any]]:
    """Summary of the kernels of every method that has one, the run's own first."""
    return ({files.method: files.summary} if files.summary else {}) | files.others


def pairs_of(matrix: Sequence[Sequence[float | None]]) -> list[float]:
    """Entries above the diagonal that are known."""
    return known(value for t, row in enumerate(matrix) for value in row[t + 1 :])


@dataclass(frozen=True)
class KernelFacts:
    """What kernels say, over all seeds, pairs and tasks.

    Attributes:
        first: mean inter/intra ratio at the first checkpoint.
        last: the same at the last.
        unrelated: what unrelated tasks would give at the last.
        same: what another sample of the same tasks would give at the last.
        drift: mean relative change of a task's kernel from one checkpoint to the next.
        dimension: mean effective dimension of a task's kernel at the last checkpoint.
        alignment: mean alignment of a task's kernel with its targets there.
        closest: the pair of tasks (from 0) with the largest ratio at the last checkpoint of the first seed.
        closest_ratio: that ratio.
    """

    first: float | None
    last: float | None
    unrelated: float | None
    same: float | None
    drift: float | None
    dimension: float | None
    alignment: float | None
    closest: tuple[int, int] | None
    closest_ratio: float | None


def kernel_facts(summary: Mapping[str, Any]) -> KernelFacts:
    """Reduce `summary.json` to a few numbers."""
    seeds = list(summary["seeds"].values())
    first = [part["checkpoints"][min(part["checkpoints"], key=int)] for part in seeds]
    last = [part["checkpoints"][max(part["checkpoints"], key=int)] for part in seeds]

    def of_pairs(checkpoints: list[Mapping[str, Any]], name: str) -> float | None:
        return mean(value for figures in checkpoints for value in pairs_of(figures[name]))

    drift = mean(value for part in seeds for figures in part["checkpoints"].values() for value in figures["drift"])
    tasks, ratios = seeds[0]["tasks"], np.triu(np.nan_to_num(floats(last[0]["inter_intra_ratio"])), 1)
    several = len(tasks) > 1
    t, k = divmod(int(np.argmax(ratios)), len(tasks))
    return KernelFacts(
        of_pairs(first, "inter_intra_ratio"), of_pairs(last, "inter_intra_ratio"), of_pairs(last, "unrelated_ratio"),
        of_pairs(last, "same_task_ratio"), drift,
        mean(value for figures in last for value in figures["effective_dimension"]),
        mean(value for figures in last for value in figures["target_alignment"]),
        (tasks[t], tasks[k]) if several else None, float(ratios[t, k]) if several else None,
    )  # fmt: skip


def method_curves(files: RunFiles) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Checkpoint and mean over tasks (or pairs of tasks) of the first seed, by method and figure."""

    def points(summary: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
        checkpoints = next(iter(summary["seeds"].values()))["checkpoints"]
        values = {
            int(c): mean(pairs_of(figures[name]) if name == "inter_intra_ratio" else figures[name])
            for c, figures in checkpoints.items()
        }
        return [(c, value) for c, value in sorted(values.items()) if value is not None]

    names = ("inter_intra_ratio", "effective_dimension", "target_alignment", "drift")
    return {method: {name: points(made, name) for name in names} for method, made in by_method(files).items()}


@dataclass(frozen=True)
class GapFacts:
    """What the gaps say, means over seeds and tasks (all but each seed's last one where later tasks matter).

    Attributes:
        own: squared error that learning the task left, of theory's learner.
        total: squared error after all tasks.
        forgetting: what later tasks added.
        cross: part of it in signed cross terms.
        network_total: squared error of the network after all tasks.
        network_forgetting: what later tasks added to the network's.
        laziness: median relative error of the first-order model of a task's training.
        loo_error: median relative error of leave-one-out against the learned test loss.
        bounds: how many of the bounds are below the clipped loss, and of how many.
        identity: largest relative difference between the sum of the parts and the error itself.
    """

    own: float | None
    total: float | None
    forgetting: float | None
    cross: float | None
    network_total: float | None
    network_forgetting: float | None
    laziness: float | None
    loo_error: float | None
    bounds: tuple[int, int]
    identity: float | None


def gap_facts(gaps: Mapping[str, Any]) -> GapFacts:
    """Reduce `gaps.json` to a few numbers."""
    clip = gaps.get("clip") or CLIP
    every = [gap for part in gaps["seeds"].values() for gap in part["by_task"]]
    earlier = [gap for part in gaps["seeds"].values() for gap in part["by_task"][:-1]]
    cross = [sum(v for name, v in stack(gap).items() if name.startswith("cross")) for gap in earlier]
    bounds = known(gap["bound"]["value"] for gap in every)
    identity = [relative(gap["total"], gap["direct"]) for gap in every]
    return GapFacts(
        mean(gap["task_specific"] for gap in every), mean(gap["total"] for gap in every),
        mean(gap["forgetting"] for gap in earlier), mean(cross),
        mean(gap["network"]["total"] for gap in every), mean(gap["network"]["forgetting"] for gap in earlier),
        median(gap["laziness"]["relative_error"] for gap in every),
        median(relative(gap["loo"], gap["learned_test_loss"]) for gap in every),
        (sum(value < clip for value in bounds), len(bounds)),
        max(known(identity), default=None),
    )  # fmt: skip


def relative(value: float | None, truth: float | None) -> float | None:
    """Absolute relative error; None where it has no meaning.

    Example:
        >>> relative(1.5, 1.0), relative(1.0, None)
        (0.5, None)
    """
    return abs(value - truth) / abs(truth) if value is not None and truth else None


@dataclass(frozen=True)
class ForecastFacts:
    """How good the forecast was, over all seeds and pairs.

    Attributes:
        pairs: how many.
        cosine: median cosine between the predicted and the measured drift.
        error: median relative error of the drift.
        correlation: of predicted and measured loss changes.
        worst: pair (from 0) of the largest relative error.
        worst_error: that error.
        bias: mean of predicted minus measured loss change.
    """

    pairs: int
    cosine: float | None
    error: float | None
    correlation: float | None
    worst: tuple[int, int] | None
    worst_error: float | None
    bias: float | None

    @property
    def verdict(self) -> str | None:
        """`holds`, `direction` (only), `no`, or None where there is nothing to judge by."""
        if self.cosine is None or self.error is None:
            return None
        if self.cosine >= 0.9 and self.error <= 0.5 and (self.correlation is None or self.correlation >= 0.8):
            return "holds"
        return "direction" if self.cosine >= 0.6 else "no"


def forecast_facts(forecast: Mapping[str, Any]) -> ForecastFacts:
    """Reduce `forecast.json` to a few numbers."""
    pairs = [pair for part in forecast["seeds"].values() for pair in part["pairs"]]
    change = [(pair["predicted_loss_change"], pair["measured_loss_change"]) for pair in pairs]
    judged = [pair for pair in pairs if pair["relative_error"] is not None]
    worst = max(judged, key=lambda pair: pair["relative_error"], default=None)
    return ForecastFacts(
        len(pairs), median(pair["cosine"] for pair in pairs), median(pair["relative_error"] for pair in pairs),
        correlation([a for a, _ in change], [b for _, b in change]),
        (worst["old"], worst["new"]) if worst else None, worst["relative_error"] if worst else None,
        mean(a - b for a, b in change if a is not None and b is not None),
    )  # fmt: skip
