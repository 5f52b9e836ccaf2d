"""Accuracy, forgetting and their spread over seeds, from exact counts (docs/method.md, section 7).

Everything here is a fraction in [0, 1] or a difference of two; percent appear only where something is printed. An
accuracy is one division of two integers, so it has the same bits on every machine. NumPy only.
"""

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec
import numpy as np
from jaxtyping import Integer

from ntkcl_jax.errors import DataError, NonFiniteError, RunFolderError

TOP5_ABOVE_CLASSES = 10
"""Top-5 accuracy is reported where more classes than this are seen."""


@dataclass(frozen=True)
class TaskEvaluation:
    """Counts of one evaluation after learning `task`, over the test images of every task so far.

    Example:
        >>> after = TaskEvaluation(task=1, images=(4, 6), correct=(3, 3), correct_task=8)
        >>> after.task_accuracies, after.accuracy, after.task_id_accuracy
        ((0.75, 0.5), 0.6, 0.8)
    """

    task: int
    """The task learned last, 0-based."""
    images: Sequence[int]
    """Test images of each task 0..task."""
    correct: Sequence[int]
    """How many of them were given their true class, chosen among all classes seen."""
    correct_task: int
    """Images, over all tasks, whose predicted class belongs to the true task."""
    correct_top5: int | None = None
    """Images whose true class is among the five best scores; None where 10 classes or fewer are seen."""
    correct_given_task: int | None = None
    """Images given their true class when only the true task's classes compete; None where not measured."""

    def __post_init__(self) -> None:
        """Refuse counts that no evaluation can have.

        Raises:
            ValueError: if there isn't one pair of counts for each task, or a count is out of its range.
        """
        object.__setattr__(self, "images", tuple(self.images))  # JSON brings lists
        object.__setattr__(self, "correct", tuple(self.correct))
        if not len(self.images) == len(self.correct) == self.task + 1:
            raise ValueError(f"expected counts of {self.task + 1} tasks, got {self.correct} of {self.images} images")
        if any(not 0 <= c <= n or n < 1 for c, n in zip(self.correct, self.images, strict=True)):
            raise ValueError(f"expected 0 <= right answers <= images, got {self.correct} of {self.images}")
        for name in ("correct_task", "correct_top5", "correct_given_task"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= sum(self.images):
                raise ValueError(f"expected 0 <= {name} <= {sum(self.images)}, got {count}")

    @property
    def task_accuracies(self) -> tuple[float, ...]:
        """acc[task, k] for k = 0..task."""
        return tuple(c / n for c, n in zip(self.correct, self.images, strict=True))

    @property
    def accuracy(self) -> float:
        """A_t: accuracy pooled over all images of the classes seen (not the mean of the tasks' accuracies)."""
        return sum(self.correct) / sum(self.images)

    @property
    def top5_accuracy(self) -> float | None:
        """Fraction of images whose true class is among the five best; None where 10 classes or fewer are seen."""
        return None if self.correct_top5 is None else self.correct_top5 / sum(self.images)

    @property
    def task_id_accuracy(self) -> float:
        """Fraction of images whose predicted class belongs to the true task."""
        return self.correct_task / sum(self.images)

    @property
    def accuracy_given_task(self) -> float | None:
        """Accuracy if the true task were known; None where not measured."""
        return None if self.correct_given_task is None else self.correct_given_task / sum(self.images)

    def to_record(self) -> dict[str, Any]:
        """The counts as a JSON-ready dict; `from_record` gives the evaluation back."""
        return dataclasses.asdict(self) | {"images": list(self.images), "correct": list(self.correct)}

    @classmethod
    def from_record(cls, record: Any, where: object) -> Self:
        """Read what `to_record` made.

        Args:
            record: anything that a checkpoint holds in its place.
            where: the checkpoint, for the message.

        Raises:
            RunFolderError: it isn't such a record.

        Example:
            >>> one = TaskEvaluation(0, (4,), (3,), 4)
            >>> TaskEvaluation.from_record(one.to_record(), "here") == one
            True
        """
        try:
            return msgspec.convert(record, cls)
        except ValueError as error:  # msgspec's, or the counts' own
            raise RunFolderError(
                f"{where} holds an evaluation that no run wrote ({error}); delete this checkpoint to compute it again"
            ) from error


def score_predictions(
    predictions: Integer[np.ndarray, "n"],
    labels: Integer[np.ndarray, "n"],
    offsets: Sequence[int],
    *,
    top5: Integer[np.ndarray, "n 5"] | None = None,
    within_task_predictions: Integer[np.ndarray, "n"] | None = None,
) -> TaskEvaluation:
    """Count right answers after the last task seen, t = len(offsets) - 2.

    Classes are numbered in the order they were learned: task k holds classes offsets[k]..offsets[k+1]-1.

    Args:
        predictions: predicted class of each test image, among all classes seen.
        labels: true class of each test image, same numbering.
        offsets: first class of each task *seen*, then the number of classes seen: (0, 2, 4) after two tasks of two.
        top5: the five best classes of each image; counted where more than 10 classes are seen, ignored elsewhere.
        within_task_predictions: best class of each image among its true task's classes.

    Returns:
        The evaluation of task t = len(offsets) - 2.

    Raises:
        DataError: if a task seen has no test image (its accuracy wouldn't exist).
        ValueError: if shapes, types, classes or offsets can't be.

    Example:
        >>> after = score_predictions(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 3]), (0, 2, 4))
        >>> after.task_accuracies, after.accuracy, after.task_id_accuracy
        ((1.0, 0.5), 0.75, 0.75)
    """
    bounds = _checked_offsets(offsets)
    labels = _checked_classes("labels", labels, bounds[-1], np.shape(labels)[:1])
    predictions = _checked_classes("predictions", predictions, bounds[-1], labels.shape)
    edges, tasks = np.array(bounds), len(bounds) - 1

    # [n]: class c is of task k where edges[k] <= c < edges[k + 1], hence `right` and one less
    true_task = np.searchsorted(edges, labels, side="right") - 1
    # minlength: a last task without images must show up as 0, not be missing
    images = np.bincount(true_task, minlength=tasks)
    if (images == 0).any():
        empty = int(np.flatnonzero(images == 0)[0])
        raise DataError(
            f"expected test images for every task seen, got none for task {empty} (0-based); give each class at "
            "least one test image"
        )
    right = predictions == labels
    same_task = np.searchsorted(edges, predictions, side="right") - 1 == true_task

    correct_top5 = None
    if top5 is not None and bounds[-1] > TOP5_ABOVE_CLASSES:
        best = _checked_classes("top5", top5, bounds[-1], (*labels.shape, 5))
        correct_top5 = int((best == labels[:, None]).any(axis=1).sum())
    correct_given_task = None
    if within_task_predictions is not None:
        within = _checked_classes("within_task_predictions", within_task_predictions, bounds[-1], labels.shape)
        if (np.searchsorted(edges, within, side="right") - 1 != true_task).any():
            raise ValueError("expected within_task_predictions among the true task's classes, got one of another task")
        correct_given_task = int((within == labels).sum())

    return TaskEvaluation(
        task=tasks - 1,
        images=tuple(int(n) for n in images),
        correct=tuple(int(n) for n in np.bincount(true_task[right], minlength=tasks)),
        correct_task=int(same_task.sum()),
        correct_top5=correct_top5,
        correct_given_task=correct_given_task,
    )


def summarise(evaluations: Sequence[TaskEvaluation]) -> dict[str, Any]:
    """All metrics of one seed from its evaluations after tasks 0, 1, ..., T-1.

    A run that isn't finished yet is summarised over the tasks it has: T is then the number of evaluations, and final
    accuracy and forgetting are those at that point.

    Args:
        evaluations: one for each task learned, in order.

    Returns:
        JSON-ready dict: `accuracy_matrix` (T rows of T, acc[t][k], None above the diagonal), `accuracy_after_task`
        (A_t), `average_incremental_accuracy` (mean of A_t), `final_accuracy` (A_{T-1}), `forgetting` (F) and
        `backward_transfer` (BWT), both None for a single task, and the lists `top5_after_task`,
        `task_id_accuracy_after_task`, `accuracy_given_task_after_task`.

    Raises:
        ValueError: if the evaluations aren't those of tasks 0, 1, ... in order, over the same test images.

    Example:
        >>> first = TaskEvaluation(task=0, images=(4,), correct=(4,), correct_task=4)
        >>> second = TaskEvaluation(task=1, images=(4, 4), correct=(3, 4), correct_task=8)
        >>> summary = summarise([first, second])
        >>> summary["accuracy_matrix"], summary["average_incremental_accuracy"], summary["forgetting"]
        ([[1.0, None], [0.75, 1.0]], 0.9375, 0.25)
    """
    learned = [e.task for e in evaluations]
    if not learned or learned != list(range(len(learned))):
        raise ValueError(f"expected evaluations after tasks 0, 1, ... in order, got {learned}")
    last = evaluations[-1]
    for evaluation in evaluations:
        # Rows of the matrix are compared with each other: every column must be of the same images
        if evaluation.images != last.images[: evaluation.task + 1]:
            raise ValueError(f"expected the same test images all along, got {evaluation.images}, then {last.images}")
    rows = [e.task_accuracies for e in evaluations]
    after = [e.accuracy for e in evaluations]
    return {
        "accuracy_matrix": [[*row, *[None] * (len(rows) - len(row))] for row in rows],
        "accuracy_after_task": after,
        "average_incremental_accuracy": statistics.fmean(after),
        "final_accuracy": after[-1],
        "forgetting": _forgetting(rows),
        "backward_transfer": _backward_transfer(rows),
        "top5_after_task": [e.top5_accuracy for e in evaluations],
        "task_id_accuracy_after_task": [e.task_id_accuracy for e in evaluations],
        "accuracy_given_task_after_task": [e.accuracy_given_task for e in evaluations],
    }


def mean_std(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (divisor n - 1; None for a single value) and n.

    Raises:
        ValueError: if there is no value.
        NonFiniteError: if a value is NaN or infinite.

    Example:
        >>> mean_std([0.5, 0.75, 1.0]), mean_std([0.5])
        ((0.75, 0.25, 3), (0.5, None, 1))
    """
    numbers = [float(v) for v in values]
    if not numbers:
        raise ValueError("expected at least one value to average, got none")
    if not all(map(math.isfinite, numbers)):
        raise NonFiniteError(f"expected finite values to average, got {numbers}; look for the seed that diverged")
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers)


def aggregate(per_seed: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation of every metric over seeds.

    A seed that has learned fewer tasks than the furthest one is left out: its final accuracy is another quantity.
    `n` says how many were averaged.

    Args:
        per_seed: one `summarise` dict for each seed.

    Returns:
        Metric -> {"mean", "std", "n"}. For lists and the matrix, mean and std have the metric's own nesting. An entry
        that any averaged seed lacks (None) has mean None; std is None there and where n is 1.

    Raises:
        ValueError: if there is no summary, or one lacks a metric that another has.
        NonFiniteError: if a value is NaN or infinite.
    """
    if not per_seed:
        raise ValueError("expected the summary of at least one seed, got none")
    furthest = max(len(s["accuracy_after_task"]) for s in per_seed)
    summaries = [s for s in per_seed if len(s["accuracy_after_task"]) == furthest]
    names = list(summaries[0])
    if any(set(s) != set(names) for s in summaries):
        raise ValueError("expected the same metrics for every seed; summarise all seeds with the same version")
    result = {}
    for name in names:
        mean, std = _nested_mean_std([s[name] for s in summaries])
        result[name] = {"mean": mean, "std": std, "n": len(summaries)}
    return result


def _checked_offsets(offsets: Sequence[int]) -> list[int]:
    bounds = [int(o) for o in offsets]
    if len(bounds) < 2 or bounds[0] != 0 or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise ValueError(f"expected offsets 0 < first < second < ..., one more than tasks seen, got {tuple(offsets)}")
    return bounds


def _checked_classes(name: str, classes: Any, seen: int, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(classes)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"expected {name} as integers of shape {shape}, got {array.dtype} of shape {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= seen):
        raise ValueError(f"expected {name} in 0..{seen - 1}, the classes seen, got {array.min()}..{array.max()}")
    return array


def _forgetting(rows: Sequence[Sequence[float]]) -> float | None:
    """F = mean over k < T-1 of (max over k <= t < T-1 of acc[t, k]) - acc[T-1, k]; the last row isn't in the max."""
    *earlier, last = rows
    drops = [max(row[k] for row in earlier[k:]) - last[k] for k in range(len(earlier))]
    return statistics.fmean(drops) if drops else None


def _backward_transfer(rows: Sequence[Sequence[float]]) -> float | None:
    """BWT = mean over k < T-1 of acc[T-1, k] - acc[k, k]."""
    *earlier, last = rows
    changes = [last[k] - row[k] for k, row in enumerate(earlier)]
    return statistics.fmean(changes) if changes else None


def _nested_mean_std(values: list[Any]) -> tuple[Any, Any]:
    if isinstance(values[0], list):
        pairs = [_nested_mean_std(list(column)) for column in zip(*values, strict=True)]
        return [mean for mean, _ in pairs], [std for _, std in pairs]
    return (None, None) if any(v is None for v in values) else _mean_std(tuple(values))


@functools.lru_cache(maxsize=2**16)
def _mean_std(values: tuple[float, ...]) -> tuple[float, float | None]:
    return mean_std(values)[:2]  # remembered: `stdev` is slow, and a million accuracies hold few different ones
