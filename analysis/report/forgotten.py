"""Which test images a run forgot: right when their task was learned, wrong at the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from ntkcl_jax.training.metrics import TaskEvaluation


@dataclass(frozen=True)
class Forgotten:
    """What became of an old task's test images, of one seed.

    Attributes:
        task: its number, from 0.
        count: its test images.
        images: numbers of those forgotten among them, from 0.
        by: the later task that turned each wrong for good.
        competed: whether each was then still right among the older classes: a new class outbid it.
        won: how many were wrong when the task was learned and are right at the end.
    """

    task: int
    count: int
    images: Int[np.ndarray, "f"]
    by: Int[np.ndarray, "f"]
    competed: Bool[np.ndarray, "f"]
    won: int


def forgotten(evaluations: Sequence[TaskEvaluation]) -> list[Forgotten]:
    """Follow every test image from its task to the end.

    Args:
        evaluations: after tasks 0, 1, ..., with the answers to single images.

    Returns:
        One for each task but the last; forgotten images less won ones are what the task's accuracy lost.
    """
    answers = [evaluation.answers for evaluation in evaluations]
    made = []
    for k in range(len(evaluations) - 1):
        # [after task k, ..., after the last], and among older classes [after task k + 1, ...]; images
        right = np.array([every[k] for every, _ in (of for of in answers[k:] if of)])
        among_old = np.array([old[k] for _, old in (of for of in answers[k + 1 :] if of)])
        images = np.flatnonzero(right[0] & ~right[-1])
        # Wrong for good from the first evaluation on after which it is right no more
        steps = len(right) - np.argmax(right[::-1, images], axis=0)
        won = int((~right[0] & right[-1]).sum())
        made.append(Forgotten(k, right.shape[1], images, k + steps, among_old[steps - 1, images], won))
    return made
