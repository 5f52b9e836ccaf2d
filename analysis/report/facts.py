"""The few numbers of a run that its verdict and its captions speak of; None where they can't be known."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.report.reading import RunFiles, floats, known
from analysis.report.theory_figures import stack
from analysis.store.forms import Matrix
from analysis.store.study_forms import ForecastFile, GapsFile, KernelFigures, KernelSeed, SummaryFile

SAME_SIZE = 1.5
"""Factor, up or down, within which a forecast's size counts as right."""
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
    # Two points always lie on a line; without spread there is none to divide by
    if len(pairs) < 3 or not pairs.std(axis=0).all():
        return None
    return float(np.corrcoef(pairs.T)[0, 1])


def shown_method(files: RunFiles) -> str:
    """The method that the report is about: NTK-CL, or else the first one."""
    methods = list(files.results.summary) if files.results else files.config.config.methods
    return METHOD if METHOD in methods or not methods else methods[0]


def by_method(files: RunFiles) -> dict[str, SummaryFile]:
    """Summary of the kernels of every method that has one, the run's own first."""
    return ({files.method: files.summary} if files.summary else {}) | files.others


def pairs_of(matrix: Matrix) -> list[float]:
    """Entries above the diagonal that are known."""
    return known(value for t, row in enumerate(matrix) for value in row[t + 1 :])


@dataclass(frozen=True)
class KernelFacts:
    """What kernels say, over all seeds, pairs and tasks.

    Attributes:
        checkpoints: which were computed.
        first: mean inter/intra ratio at the first checkpoint.
        last: the same at the last.
        unrelated: what unrelated tasks would give at the last.
        same: what another sample of the same tasks would give at the last; None where no task's probes can tell.
        drift: mean relative change of a task's kernel from each of the checkpoints to the next.
        dimension: mean effective dimension of a task's kernel at the last checkpoint.
        alignment: mean alignment of a task's kernel with its targets there; None as `same`.
        closest: the pair of tasks (from 0) with the largest ratio at the last checkpoint of the first seed.
        closest_ratio: that ratio.
        too_few: whether there are tasks of whose probes no two are of one class.
    """

    checkpoints: tuple[int, ...]
    first: float | None
    last: float | None
    unrelated: float | None
    same: float | None
    drift: float | None
    dimension: float | None
    alignment: float | None
    closest: tuple[int, int] | None
    closest_ratio: float | None
    too_few: bool

    @property
    def drift_over(self) -> str:
        """From which checkpoints to which the drift is, for people.

        Example:
            >>> of = lambda *checkpoints: KernelFacts(checkpoints, *[None] * 9, False).drift_over
            >>> of(0, 1, 2), of(0, 4, 8)
            ('per task learned', 'from each of the checkpoints 0, 4, 8 to the next')
        """
        numbers = self.checkpoints
        if numbers == tuple(range(numbers[0], numbers[-1] + 1)):
            return "per task learned"
        return f"from each of the checkpoints {', '.join(map(str, numbers))} to the next"


def kernel_facts(summary: SummaryFile) -> KernelFacts:
    """Reduce `summary.json` to a few numbers."""
    seeds = list(summary.seeds.values())
    first, last = [seed.first for seed in seeds], [seed.last for seed in seeds]
    drift = mean(value for seed in seeds for figures in seed.checkpoints.values() for value in figures.drift)
    # Where no two probes are of one class, likeness within classes can't be told: such a task doesn't count
    same = mean(
        value
        for seed in seeds
        for t, row in enumerate(seed.last.same_task_ratio)
        for k, value in enumerate(row)
        if k > t and seed.classes_told[t] and seed.classes_told[k]
    )
    # Above the diagonal only: the matrix is symmetric, and a task's ratio with itself is 1
    tasks, ratios = seeds[0].tasks, np.triu(np.nan_to_num(floats(last[0].inter_intra_ratio)), 1)
    several = len(tasks) > 1
    t, k = divmod(int(np.argmax(ratios)), len(tasks))  # place in the flattened matrix to row and column
    return KernelFacts(
        tuple(sorted({number for seed in seeds for number in seed.checkpoints})),
        mean(value for figures in first for value in pairs_of(figures.inter_intra_ratio)),
        mean(value for figures in last for value in pairs_of(figures.inter_intra_ratio)),
        mean(value for figures in last for value in pairs_of(figures.unrelated_ratio)),
        same,
        drift,
        mean(value for figures in last for value in figures.effective_dimension),
        mean_alignment(seeds, last),
        (tasks[t], tasks[k]) if several else None, float(ratios[t, k]) if several else None,
        any(seed.too_few for seed in seeds),
    )  # fmt: skip


def mean_alignment(seeds: Sequence[KernelSeed], at: Sequence[KernelFigures]) -> float | None:
    """Mean target alignment over the tasks whose probes can tell, at a checkpoint of each seed."""
    return mean(
        value
        for seed, figures in zip(seeds, at, strict=True)
        for value, told in zip(figures.target_alignment, seed.classes_told, strict=True)
        if told
    )


OVER_CHECKPOINTS: dict[str, Callable[[KernelFigures], Iterable[float | None]]] = {
    "inter_intra_ratio": lambda figures: pairs_of(figures.inter_intra_ratio),
    "effective_dimension": lambda figures: figures.effective_dimension,
    "target_alignment": lambda figures: figures.target_alignment,
    "drift": lambda figures: figures.drift,
}
"""The numbers of a checkpoint whose means are compared over checkpoints."""


def method_curves(files: RunFiles) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Checkpoint and mean over tasks (or pairs of tasks) of the first seed, by method and figure."""

    def points(summary: SummaryFile, values: Callable[[KernelFigures], Iterable[float | None]]) -> list:
        means = ((c, mean(values(figures))) for c, figures in sorted(summary.first_seed[1].checkpoints.items()))
        return [(c, value) for c, value in means if value is not None]

    return {
        method: {name: points(made, values) for name, values in OVER_CHECKPOINTS.items()}
        for method, made in by_method(files).items()
    }


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
        resting: tasks in whose training nothing moved beyond rounding.
        unmatched: tasks on which the learner couldn't go as far as the network.
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
    resting: int
    unmatched: int
    loo_error: float | None
    bounds: tuple[int, int]
    identity: float | None


def gap_facts(gaps: GapsFile) -> GapFacts:
    """Reduce `gaps.json` to a few numbers."""
    every = gaps.every
    # Nothing comes after a seed's last task, so it would only dilute what later tasks did
    earlier = [gap for seed in gaps.seeds.values() for gap in seed.by_task[:-1]]
    cross = [sum(v for name, v in stack(gap).items() if name.startswith("cross")) for gap in earlier]
    bounds = known(gap.bound.value for gap in every)
    return GapFacts(
        mean(gap.task_specific for gap in every), mean(gap.total for gap in every),
        mean(gap.forgetting for gap in earlier), mean(cross),
        mean(gap.network.total for gap in every), mean(gap.network.forgetting for gap in earlier),
        median(gap.laziness.relative_error for gap in every),
        sum(gap.laziness.moved is False for gap in every), sum(gap.matched is False for gap in every),
        median(relative(gap.loo, gap.learned_test_loss) for gap in every),
        (sum(value < clip_of(gaps) for value in bounds), len(bounds)),
        max(known(relative(gap.total, gap.direct) for gap in every), default=None),
    )  # fmt: skip


def clip_of(gaps: GapsFile) -> float:
    """Largest loss that the bounds of a file count."""
    return gaps.clip or CLIP


def relative(value: float | None, truth: float | None) -> float | None:
    """Absolute relative error; None where it has no meaning.

    Example:
        >>> relative(1.5, 1.0), relative(1.0, None)
        (0.5, None)
    """
    return abs(value - truth) / abs(truth) if value is not None and truth else None


def quotient(value: float | None, of: float | None) -> float | None:
    """One number over another; None where it has no meaning.

    Example:
        >>> quotient(3.0, 2.0), quotient(1.0, 0.0), quotient(None, 1.0)
        (1.5, None, None)
    """
    return value / of if value is not None and of else None


@dataclass(frozen=True)
class ForecastFacts:
    """How good the forecast was, over all seeds and pairs.

    Attributes:
        pairs: how many.
        still: in how many of them nothing moved beyond rounding; these count nowhere below.
        cosine: median cosine between the predicted and the measured drift.
        error: median relative error of the drift.
        size: median over pairs of the predicted drift's length over the measured one's.
        loss_size: length of all predicted loss changes, as a vector, over that of the measured ones.
        correlation: of predicted and measured loss changes.
        worst: old and new task (from 0, or its name) of the largest relative error.
        worst_error: that error.
        bias: mean of predicted minus measured loss change.
    """

    pairs: int
    still: int
    cosine: float | None
    error: float | None
    size: float | None
    loss_size: float | None
    correlation: float | None
    worst: tuple[int, int | str] | None
    worst_error: float | None
    bias: float | None

    @property
    def verdict(self) -> str | None:
        """`holds`, `direction` (only), `no`, `still` where nothing moved, or None where there is nothing to judge by.

        A forecast holds if direction, correlation and size all do: the lengths of drifts and of loss changes differ by
        a factor of `SAME_SIZE` at most.
        """
        if self.pairs and self.still == self.pairs:
            return "still"
        if self.cosine is None or self.error is None:
            return None
        sized = all(ratio is None or 1 / SAME_SIZE <= ratio <= SAME_SIZE for ratio in (self.size, self.loss_size))
        related = self.correlation is None or self.correlation >= 0.8
        if self.cosine >= 0.9 and self.error <= 0.5 and related and sized:
            return "holds"
        return "direction" if self.cosine >= 0.6 else "no"


def forecast_facts(forecast: ForecastFile) -> ForecastFacts:
    """Reduce `forecast.json` to a few numbers."""
    every = [pair for seed in forecast.seeds.values() for pair in seed.pairs]
    pairs = [pair for pair in every if pair.moved is not False]
    change = [(pair.predicted_loss_change, pair.measured_loss_change) for pair in pairs]
    complete = [(a, b) for a, b in change if a is not None and b is not None]
    judged = [(pair.relative_error, pair) for pair in pairs if pair.relative_error is not None]
    # By the error alone: pairs with equal errors can't be compared
    error, worst = max(judged, key=lambda one: one[0], default=(None, None))
    return ForecastFacts(
        len(every), len(every) - len(pairs),
        median(pair.cosine for pair in pairs), median(pair.relative_error for pair in pairs),
        median(quotient(pair.predicted_norm, pair.measured_norm) for pair in pairs),
        quotient(*(float(np.linalg.norm(side)) for side in zip(*complete, strict=True))) if complete else None,
        correlation([a for a, _ in change], [b for _, b in change]),
        (worst.old, worst.new) if worst else None, error,
        mean(a - b for a, b in complete),
    )  # fmt: skip
