"""Readouts without a network: seven clusters in ten dimensions, in three tasks."""

from collections.abc import Iterable

import numpy as np

from ntkcl_jax.data import Scenario
from ntkcl_jax.readouts.base import Lesson, Readout, State
from ntkcl_jax.training.evaluate import score_classes
from ntkcl_jax.training.metrics import TaskEvaluation

SCENARIO = Scenario(class_order=tuple(range(7)), task_sizes=(3, 2, 2))
WIDTH, CLASSES = 10, 7


def clusters(seed: int, per_class: int, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels."""
    centres = 3 + 2 * np.random.default_rng(1).normal(size=(CLASSES, WIDTH))  # off the origin, as a network's are
    labels = np.tile(np.arange(CLASSES), per_class)
    noise = np.random.default_rng(seed).normal(size=(len(labels), WIDTH))
    return (centres[labels] + spread * noise).astype(np.float32), labels


def lesson(features: np.ndarray, labels: np.ndarray, task: int, views: int = 0) -> Lesson:
    """A task's own rows; its views are the rows with more noise."""
    own, seen = np.isin(labels, SCENARIO.classes(task)), SCENARIO.offsets[task + 1]
    noise = np.random.default_rng([9, task]).normal(size=(own.sum(), views, WIDTH)).astype(np.float32)
    rows = np.concatenate([features[own][:, None], features[own][:, None] + 0.2 * noise], axis=1)
    return Lesson(task, rows, labels[own], seen, lambda: (features[labels < seen], labels[labels < seen]))


def learnt(
    readout: Readout, features: np.ndarray, labels: np.ndarray, tasks: Iterable[int] = range(SCENARIO.num_tasks)
) -> list[State]:
    """What a readout knows after each task."""
    states = [readout.init()]
    for task in tasks:
        states.append(readout.learn(states[-1], lesson(features, labels, task, readout.views)))
    return states[1:]


def evaluated(
    readout: Readout, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> list[TaskEvaluation]:
    """How it classifies after each task."""
    out = []
    for task, state in enumerate(learnt(readout, *train)):
        seen = test[1] < SCENARIO.offsets[task + 1]
        scores = readout.scores(state, test[0][seen], SCENARIO.offsets[task + 1])
        out.append(score_classes(scores, test[1][seen], SCENARIO.offsets[: task + 2]))
    return out
