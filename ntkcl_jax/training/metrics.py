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
from ntkcl_jax.training.budget import by_task, check_answers, forgetting_budget, unpacked

TOP5_ABOVE_CLASSES = 10
"""Top-5 accuracy is reported where more classes than this are seen."""
SPLIT = ("accuracy_among_old_classes", "forgetting_budget")
"""Metrics that take the answers to single images, which runs of older versions haven't kept."""


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
    right: Sequence[str] | None = None
    """Which images of each task were given their true class, as `budget.packed` writes it, in the source's order; None
    where not kept."""
    right_among_old: Sequence[str] | None = None
    """The same of each task before `task` where only the classes seen before it compete."""

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
        if (self.right is None) != (self.right_among_old is None):
            raise ValueError("expected answers to single images among all classes and among the old ones, got one kind")
        if self.right is not None and self.right_among_old is not None:
            object.__setattr__(self, "right", tuple(self.right))
            object.__setattr__(self, "right_among_old", tuple(self.right_among_old))
            check_answers(self.correct, self.images, self.right, self.right_among_old)

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

    @property
    def answers(self) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """Flags of the images answered rightly, a vector for each task; None where not kept.

        Those among all classes, and those of tasks before `task` among the classes seen before it.
        """
        if self.right is None or self.right_among_old is None:
            return None
        # Of the last task there is nothing among old classes, so the second list ends one earlier
        kinds = (zip(texts, self.images, strict=False) for texts in (self.right, self.right_among_old))
        every, among_old = ([unpacked(text, n) for text, n in kind] for kind in kinds)
        return every, among_old

    def agrees(self, other: Self) -> bool:
        """Tell whether two evaluations say the same, as far as both keep it: older runs have no answers to images."""
        if None not in (self.right, other.right):
            return self == other
        return dataclasses.replace(self, right=None, right_among_old=None) == dataclasses.replace(
            other, right=None, right_among_old=None
        )

    def to_record(self) -> dict[str, Any]:
        """The counts as a JSON-ready dict; `from_record` gives the evaluation back."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

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
    among_old_predictions: Integer[np.ndarray, "n"] | None = None,
) -> TaskEvaluation:
    """Count right answers after the last task seen, t = len(offsets) - 2.

    Classes are numbered in the order they were learned: task k holds classes offsets[k]..offsets[k+1]-1.

    Args:
        predictions: predicted class of each test image, among all classes seen.
        labels: true class of each test image, same numbering.
        offsets: first class of each task *seen*, then the number of classes seen: (0, 2, 4) after two tasks of two.
        top5: the five best classes of each image; counted where more than 10 classes are seen, ignored elsewhere.
        within_task_predictions: best class of each image among its true task's classes.
        among_old_predictions: best class of each image among those seen before task t. With them the evaluation keeps
            the answer to each image; of images of task t, and after the first task, they are ignored.

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
    answers: dict[str, Any] = {}
    if among_old_predictions is not None:
        among_old = _checked_classes("among_old_predictions", among_old_predictions, bounds[-1], labels.shape)
        answers["right"] = by_task(right, true_task, tasks)
        answers["right_among_old"] = by_task(among_old == labels, true_task, tasks - 1)

    return TaskEvaluation(
        task=tasks - 1,
        images=tuple(int(n) for n in images),
        correct=tuple(int(n) for n in np.bincount(true_task[right], minlength=tasks)),
        correct_task=int(same_task.sum()),
        correct_top5=correct_top5,
        correct_given_task=correct_given_task,
        **answers,
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
        `backward_transfer` (BWT), both None for a single task, the lists `top5_after_task`,
        `task_id_accuracy_after_task`, `accuracy_given_task_after_task`, and what splits forgetting:
        `accuracy_among_old_classes` (T rows of T, [s][k] the accuracy on task k after task s > k among the classes seen
        before s, None elsewhere) and `forgetting_budget` (see `budget.forgetting_budget`). Both are None where an
        evaluation keeps no answers to single images, as those of older runs; the latter for a single task too.

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
        **_split(evaluations),
    }


def _split(evaluations: Sequence[TaskEvaluation]) -> dict[str, Any]:
    """What is known only from the answers to single images: accuracies among old classes, and the forgetting budget."""
    answers = [found for e in evaluations if (found := e.answers) is not None]
    if len(answers) < len(evaluations):
        return dict.fromkeys(SPLIT)
    right, among_old = zip(*answers, strict=True)
    rows = [[int(flags.sum()) / len(flags) for flags in row] for row in among_old]
    matrix = [[*row, *[None] * (len(rows) - len(row))] for row in rows]
    return dict(zip(SPLIT, (matrix, forgetting_budget(right, among_old)), strict=True))


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
        Metric -> {"mean", "std", "n"}. For lists, matrices and the budget, mean and std have the metric's own nesting.
        An entry that any averaged seed lacks (None) has mean None; std is None there and where n is 1.

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
    if any(v is None for v in values):
        return None, None
    if isinstance(values[0], dict):
        named = {name: _nested_mean_std([v[name] for v in values]) for name in values[0]}
        return {name: mean for name, (mean, _) in named.items()}, {name: std for name, (_, std) in named.items()}
    if isinstance(values[0], list):
        pairs = [_nested_mean_std(list(column)) for column in zip(*values, strict=True)]
        return [mean for mean, _ in pairs], [std for _, std in pairs]
    return _mean_std(tuple(values))


@functools.lru_cache(maxsize=2**16)
def _mean_std(values: tuple[float, ...]) -> tuple[float, float | None]:
    return mean_std(values)[:2]  # remembered: `stdev` is slow, and a million accuracies hold few different ones
