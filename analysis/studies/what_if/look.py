"""What each step would leave: accuracy and loss of old images and of new ones, and whether a first order tells them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analysis.records.checkpoints import Records
from analysis.records.outputs import targets
from analysis.records.probes import Probes
from analysis.studies.forecast.pairs import quality
from analysis.studies.what_if.course import Course
from analysis.studies.what_if.network import End, centred_cosines, measured, task_end
from analysis.studies.what_if.steps import Grid, chosen, task_steps
from ntkcl_jax.terminal.progress import Stage


@dataclass(frozen=True)
class Seen:
    """How each test image of the tasks seen would be classified, at every point of a grid.

    Attributes:
        right: whether its own class would score highest; False where training diverges.
        loss: its half squared error; NaN where training diverges.
    """

    right: Bool[np.ndarray, "*points n"]
    loss: Float[np.ndarray, "*points n"]

    @classmethod
    def of(cls, scores: Float[np.ndarray, "*points n k"], wanted: Float[np.ndarray, "n k"]) -> "Seen":
        """From centred scores and their targets."""
        finite = np.isfinite(scores).all(axis=-1)
        hit = np.nan_to_num(scores).argmax(axis=-1) == wanted.argmax(axis=-1)
        return cls(hit & finite, 0.5 * np.square(wanted - scores).sum(axis=-1))


@dataclass(frozen=True)
class TaskLook:
    """One later task, before it is trained and after.

    Attributes:
        task: its number.
        grid: of every rate and number of epochs.
        spared: the same with the projected step.
        measured: what the run's own training left, without points.
        course: the same had every later task up to this one been trained at each of the rates, for its own epochs.
        first_order: cosine and relative error of the known step's change on old images against the measured one; None
            where the run made no step.
        scale: see `TaskSteps`.
        matched: see `TaskSteps`.
    """

    task: int
    grid: Seen
    spared: Seen
    measured: Seen
    course: Seen
    first_order: dict[str, float | None] | None
    scale: float
    matched: bool


def look(
    records: Records, seed: int, task: int, probes: Probes, grid: Grid, directions: int, course: Course, stage: Stage
) -> TaskLook:
    """Look at a later task from the checkpoint before it.

    Args:
        records: the run.
        seed: one of its seeds.
        task: the later task.
        probes: test images of all finished tasks.
        grid: rates and epochs.
        directions: how many are projected off in `spared`.
        course: of the later tasks before; this one is added.
        stage: shows the twin's steps, where one is trained.

    Raises:
        AnalysisError: a damaged checkpoint, or memory that doesn't suffice.
        NtkclError: images that can't be read, or a twin that diverges.
    """
    # Probes come task by task, so that those of the tasks seen are the first
    seen, tests, old = probes.rows(task).stop, len(probes.images), probes.rows(task).start
    end, kernel_images = task_end(records, seed, task, probes.images[:2]), chosen(records, seed, task)
    steps = task_steps(records, seed, task, end, kernel_images, grid, directions, stage)
    wanted = targets(probes.labels[:seen], end.classes)
    later = [t for t in probes.tasks if t >= 1]
    trained = {t: kernel_images[1] if t == task else chosen(records, seed, t)[1] for t in later}
    # Test images of all tasks, then training images of each later one, whose prototypes move with them
    images = np.concatenate([probes.images, *(trained[t].images for t in later)])
    start = tests + sum(len(trained[t].images) for t in later if t < task)
    new = slice(start, start + len(trained[task].images))
    classes = np.eye(end.classes - end.offset)[trained[task].labels - end.offset]
    average = (classes / classes.sum(axis=0)).T
    streams, means = (np.stack(part) for part in zip(*(end.apart(images, step) for step in steps.basis), strict=True))
    features = end.features.values(probes.images[:seen])
    plain = outcomes(end, features, streams + end.share * means, steps.weights, new, average)
    both = np.concatenate([probes.images[:seen], trained[task].images])
    spared = outcomes(
        end, features, np.stack([end.change(both, step) for step in steps.spared]), steps.weights,
        slice(seen, len(both)), average,
    )  # fmt: skip
    left, prototypes = measured(records, seed, task, probes.images[:seen])
    found = centred_cosines(left, prototypes, end.weights)
    # At the run's own epochs, against its own step
    own = steps.weights[:, grid.own[1]]
    apart = own - own[grid.own[0]]
    moved = course.add(task, *(np.tensordot(apart, part, 1) for part in (streams, means)))
    ran = course.read(left, prototypes, moved[:, :seen], average @ moved[:, new])
    first_order = None
    if grid.own[0]:
        # Against a rate of zero, which moves nothing but the mean and the new prototypes
        none = plain[0, 0]
        first_order = quality((plain[grid.own] - none)[:old], (found - none)[:old])
    return TaskLook(
        task, *(Seen.of(scores, wanted) for scores in (plain, spared, found, ran)), first_order, steps.scale,
        steps.matched,
    )  # fmt: skip


def outcomes(
    end: End, features: Float[np.ndarray, "n e"], changes: Float[np.ndarray, "basis m e"],
    weights: Float[np.ndarray, "*points basis"], new: slice, average: Float[np.ndarray, "c i"],
) -> Float[np.ndarray, "*points n k"]:  # fmt: skip
    """Centred scores of images after each step: features to first order, new prototypes moved with theirs.

    Args:
        end: of the task.
        features: of the images, at a rate of zero.
        changes: of the features of these images, which are the first, and of others, by each of a few steps.
        weights: of each point, which is a sum of them.
        new: where training images of the task are.
        average: makes the mean of each new class of them.
    """
    n = len(features)
    scores = [
        end.read(features + np.tensordot(row, changes[:, :n], 1), average @ np.tensordot(row, changes[:, new], 1))
        for row in weights.reshape(-1, len(changes))
    ]
    return np.stack(scores).reshape(*weights.shape[:-1], n, end.classes)
