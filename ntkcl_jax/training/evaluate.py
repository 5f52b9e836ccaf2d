"""Test images classified: by a learner's head, by the scores of a readout, and again by a run's stored states."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ntkcl_jax.data import Scenario
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.methods.base import Learner, LearnerState
from ntkcl_jax.runs.context import RunContext
from ntkcl_jax.training.metrics import TaskEvaluation, score_predictions
from ntkcl_jax.training.step import eval_step


def evaluate_head(
    context: RunContext, learner: Learner, scenario: Scenario, task: int, state: LearnerState
) -> tuple[TaskEvaluation, Int[np.ndarray, "n"]]:
    """Classify the test images of all classes seen after `task` with a learner's own head.

    Args:
        context: images and batch size.
        learner: what classifies.
        scenario: class order and tasks.
        task: its number, from 0.
        state: at the task's end.

    Returns:
        The counts, and the predicted label of each of those images in the source's order.
    """
    labels = scenario.relabel(context.source.test.labels)
    chosen = np.flatnonzero(labels < scenario.offsets[task + 1])
    task_of_class, old = jnp.asarray(scenario.task_of_class), jnp.asarray(scenario.task_of_class < task)
    # Fetched together after the loop: no batch waits for the one before
    results = [
        (*eval_step(learner, *state, batch, task_of_class, old), batch.valid)
        for batch in context.views("test", chosen, labels[chosen])
    ]
    best, top5, within, among_old, valid = (np.concatenate(x) for x in zip(*fetch(results), strict=True))
    # Without the padding they are in the order of `chosen`
    best, top5, within, among_old = best[valid], top5[valid], within[valid], among_old[valid]
    evaluation = score_predictions(
        best,
        labels[chosen],
        scenario.offsets[: task + 2],
        top5=top5 if top5.shape[1] == 5 else None,
        within_task_predictions=within,
        among_old_predictions=among_old,
    )
    return evaluation, best


def score_classes(
    scores: Float[np.ndarray, "n s"], labels: Int[np.ndarray, "n"], offsets: Sequence[int]
) -> TaskEvaluation:
    """Evaluate a matrix of class scores.

    Args:
        scores: of each class seen, for each image.
        labels: the images' classes.
        offsets: first class of each task seen, then the number of classes seen.

    Example:
        >>> score_classes(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), (0, 1, 2)).correct
        (1, 0)
    """
    # Stable: of equal scores the lower class wins, as in `top_k` and `argmax`
    order = np.argsort(-scores, axis=1, kind="stable")
    # Number of each class's task, from 1: it is only compared
    task = np.searchsorted(np.array(offsets), np.arange(scores.shape[1]), side="right")
    within = np.where(task[None, :] == task[labels][:, None], scores, -np.inf).argmax(axis=1)
    top5 = order[:, :5] if scores.shape[1] >= 5 else None
    # The first old class in the order of all; after the first task there is none
    among_old = order[np.arange(len(order)), (order < offsets[-2]).argmax(axis=1)]
    return score_predictions(
        order[:, 0],
        labels,
        offsets,
        top5=top5,
        within_task_predictions=within,
        among_old_predictions=among_old,
    )
