"""What each step would leave: accuracy and loss of old images and of new ones, and whether a first order tells them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, targets
from analysis.records.probes import Probes
from analysis.studies.forecast.pairs import quality
from analysis.studies.what_if.network import End, measured_scores, task_end
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
        first_order: cosine and relative error of the known step's change on old images against the measured one; None
            where the run made no step.
        scale: see `TaskSteps`.
        matched: see `TaskSteps`.
    """

    task: int
    grid: Seen
    spared: Seen
    measured: Seen
    first_order: dict[str, float | None] | None
    scale: float
    matched: bool


def look(records: Records, seed: int, task: int, probes: Probes, grid: Grid, directions: int, stage: Stage) -> TaskLook:
    """Look at a later task from the checkpoint before it.

    Args:
        records: the run.
        seed: one of its seeds.
        task: the later task.
        probes: test images of all finished tasks.
        grid: rates and epochs.
        directions: how many are projected off in `spared`.
        stage: shows the twin's steps, where one is trained.

    Raises:
        AnalysisError: a damaged checkpoint, or memory that doesn't suffice.
        NtkclError: images that can't be read, or a twin that diverges.
    """
    # Probes come task by task, so that those of the tasks seen are the first
    images, labels = (part[: probes.rows(task).stop] for part in (probes.images, probes.labels))
    end, kernel_images = task_end(records, seed, task, probes.images[:2]), chosen(records, seed, task)
    steps = task_steps(records, seed, task, end, kernel_images, grid, directions, stage)
    wanted, new = targets(labels, end.classes), kernel_images[1]
    plain, spared = (outcomes(end, images, new, basis, steps.weights) for basis in (steps.basis, steps.spared))
    measured, first_order = measured_scores(records, seed, task, images), None
    if grid.rates[grid.own[0]] > 0:
        # Against a rate of zero, which moves nothing but the mean and the new prototypes
        old, none = probes.rows(task).start, plain[0, 0]
        first_order = quality((plain[grid.own] - none)[:old], (measured - none)[:old])
    return TaskLook(
        task, Seen.of(plain, wanted), Seen.of(spared, wanted), Seen.of(measured, wanted), first_order, steps.scale,
        steps.matched,
    )  # fmt: skip


def outcomes(
    end: End, images: Float[np.ndarray, "n h w c"], new: Probes, basis: list[Params],
    weights: Float[np.ndarray, "*points basis"],
) -> Float[np.ndarray, "*points n k"]:  # fmt: skip
    """Centred scores of images after each step: features to first order, new prototypes moved with theirs.

    Args:
        end: of the task.
        images: to be classified.
        new: training images of the task, whose features move the prototypes.
        basis: steps that all are sums of.
        weights: of each point.
    """
    n, both = len(images), np.concatenate([images, new.images])
    start, changes = end.features.values(images), np.stack([end.features.change(both, step) for step in basis])
    # The new prototypes move by the mean change of their class' images
    classes = np.eye(end.classes - end.offset)[new.labels - end.offset]
    moves = np.einsum("bne,nc->bce", changes[:, n:], classes / classes.sum(axis=0))
    flat = weights.reshape(-1, len(basis))
    scores = [end.read(start + np.tensordot(row, changes[:, :n], 1), np.tensordot(row, moves, 1)) for row in flat]
    return np.stack(scores).reshape(*weights.shape[:-1], n, end.classes)
