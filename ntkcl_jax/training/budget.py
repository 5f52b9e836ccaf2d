"""The forgetting budget: what old tasks lost, split exactly into the competition of new classes and drift.

a_s(k, C) is the accuracy on task k's test images of the state after task s where it may answer with classes C only,
and C_s are the classes seen up to task s. What task k has lost by the last task T-1 telescopes over later tasks:

    a_k(k, C_k) - a_{T-1}(k, C_{T-1}) = sum over s = k+1 .. T-1 of
        [a_{s-1}(k, C_{s-1}) - a_s(k, C_{s-1})]      drift: what learning task s did to answers among the classes that
                                                     were there before
      + [a_s(k, C_{s-1}) - a_s(k, C_s)]              competition: what the new classes alone took

Only a_s(k, C_{s-1}) isn't in the accuracy matrix, and the scores of the evaluation after task s hold it. A network that
stays under class means has no drift at all. Competition takes right answers away and gives none back: an image whose
true class has the best score of all classes has it among fewer ones too. It is counted in the state after task s, so
it holds what learning s did in favour of its own classes too. Everything is counted image by image, so that errors are
those of paired differences. NumPy only.
"""

import base64
import binascii
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

PARTS = ("lost", "competition", "drift")
"""What was lost altogether, and the two parts that add up to it."""


def packed(flags: Bool[np.ndarray, "n"]) -> str:
    """Write whether each image was answered rightly as text: eight images a byte, in base64.

    Example:
        >>> packed(np.array([True, False, True])), unpacked("oA==", 3).tolist()
        ('oA==', [True, False, True])
    """
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def unpacked(text: str, images: int) -> Bool[np.ndarray, "n"]:
    """Read what `packed` wrote.

    Args:
        text: of `packed`.
        images: how many flags it holds.

    Raises:
        ValueError: it doesn't hold flags of so many images.
    """
    try:
        held = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:  # ValueError: signs beyond ASCII
        raise ValueError(f"expected answers in base64, got {text[:20]!r}") from error
    flags = np.unpackbits(held).astype(bool)
    if len(held) != -(-images // 8) or flags[images:].any():
        raise ValueError(f"expected answers to {images} images, got {len(held)} bytes")
    return flags[:images]


def paired(changes: Int[np.ndarray, "n"]) -> tuple[float, float]:
    """Mean of the images' changes, and its standard error.

    Of g gains and l losses among n images, each -1 or 1, it is sqrt(g + l - (g - l)² / n) / n.

    Args:
        changes: right answers that each image has lost (negative: won), whole numbers.

    Example:
        >>> mean, error = paired(np.array([1, 1, -1, 0]))
        >>> mean, error == (3 - 1 / 4) ** 0.5 / 4
        (0.25, True)
    """
    images, total = len(changes), int(changes.sum())
    return total / images, math.sqrt(int(np.square(changes).sum()) - total**2 / images) / images


def forgetting_budget(
    right: Sequence[Sequence[Bool[np.ndarray, "_"]]], among_old: Sequence[Sequence[Bool[np.ndarray, "_"]]]
) -> dict[str, Any] | None:
    """Split what old tasks lost between being learned and the end.

    Args:
        right: `right[s][k]`, for k = 0..s, says of each test image of task k, always in the same order, whether it was
            answered rightly after task s among all classes seen.
        among_old: `among_old[s][k]`, for k = 0..s-1, the same among the classes seen before task s.

    Returns:
        JSON-ready fractions; None for a single task, which nothing came after:

        - `lost`, `competition`, `drift`: means over tasks k = 0..T-2, the last two adding up to the first, which is
          minus the backward transfer; `lost_error` and so on: their standard errors over test images.
        - `of_task`: the same six as lists, an entry for each of those tasks.
        - `drift_lost`: T rows of T, `[s][k]` the fraction of task k's images whose right answer among the old classes
          learning task s took; None where k >= s. What it gave is that minus the drift, which is the difference of
          two accuracies.
        - `test_images`: of each task.

    Example:
        >>> first = np.array([True, True, True, False])
        >>> made = forgetting_budget([[first], [first & False, first]], [[], [np.array([True, True, False, True])]])
        >>> made["lost"], made["competition"], made["drift"], made["drift_lost"][1][0]
        (0.75, 0.75, 0.0, 0.25)
    """
    tasks = len(right)
    if tasks < 2:
        return None
    lost: list[list[float | None]] = [[None] * tasks for _ in range(tasks)]
    of_task: dict[str, list[float]] = {name: [] for part in PARTS for name in (part, f"{part}_error")}
    for k in range(tasks - 1):
        images = len(right[k][k])
        # [n]: right answers that each image has lost to either part, over all later tasks
        changes = {part: np.zeros(images, int) for part in PARTS}
        for s in range(k + 1, tasks):
            before, between, after = right[s - 1][k], among_old[s][k], right[s][k]
            changes["drift"] += before.astype(int) - between
            changes["competition"] += between.astype(int) - after
            lost[s][k] = int((before & ~between).sum()) / images
        changes["lost"] = changes["competition"] + changes["drift"]
        for part in PARTS:
            mean, error = paired(changes[part])
            of_task[part].append(mean)
            of_task[f"{part}_error"].append(error)
    means = {
        name: value
        for part in PARTS
        for name, value in (
            (part, statistics.fmean(of_task[part])),
            # No two tasks share an image, so that their errors are independent
            (f"{part}_error", math.hypot(*of_task[f"{part}_error"]) / (tasks - 1)),
        )
    }
    images_of = [len(flags) for flags in right[-1]]
    return {**means, "of_task": of_task, "drift_lost": lost, "test_images": images_of}


def check_answers(
    correct: Sequence[int], images: Sequence[int], right: Sequence[str], among_old: Sequence[str]
) -> None:
    """Refuse answers to single images that don't fit the counts of an evaluation, or each other.

    Raises:
        ValueError: says what was expected.
    """
    if len(right) != len(images) or len(among_old) != len(images) - 1:
        raise ValueError(f"expected answers for each of {len(images)} tasks, got {len(right)} and {len(among_old)}")
    flags = [unpacked(text, n) for text, n in zip(right, images, strict=True)]
    if [int(f.sum()) for f in flags] != list(correct):
        raise ValueError(f"expected answers with {tuple(correct)} right ones, got others")
    old = [unpacked(text, n) for text, n in zip(among_old, images[:-1], strict=True)]
    if any((f & ~o).any() for f, o in zip(flags, old, strict=False)):
        raise ValueError("expected answers that are right among all classes to be right among fewer, got others")


def by_task(flags: Bool[np.ndarray, "n"], task_of: Int[np.ndarray, "n"], tasks: int) -> tuple[str, ...]:
    """Pack the answers of each of the first `tasks` tasks' images, in their order.

    Example:
        >>> by_task(np.array([True, False, True]), np.array([0, 1, 1]), 2)
        ('gA==', 'QA==')
    """
    order = np.argsort(task_of, kind="stable")
    bounds = np.searchsorted(task_of[order], np.arange(tasks + 1))
    return tuple(packed(flags[order[first:end]]) for first, end in itertools.pairwise(bounds))
