"""Theory's learner on a run: ridge regression on the network's own tangent kernel, task after task.

Before task t the learner takes the Jacobian of the network's checkpoint t, and steps to the ridge optimum of the task's
images within that linear model (docs/theory.md, section 1.1). What the step changes on any image is one forward pass:
no inter-task kernel is needed. The network's own changes from checkpoint to checkpoint are measured beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from analysis import measures
from analysis.errors import HealthError, RecordError
from analysis.kernels.empirical import default_precision
from analysis.kernels.linearized import Linearized, step_length
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, centred_scores, difference, targets
from analysis.records.probes import Probes
from analysis.studies.fitting import kernel_of
from analysis.studies.request import MIN_PER_TASK, GapsRequest, Side
from analysis.theory.leave_one_out import choose_ridge
from analysis.theory.modes import Modes, dual_coefficients, modes
from analysis.theory.radius import matched_ridge

MOST_IMAGES = 40
"""Images of a task where no number is asked for."""
LARGEST_PRODUCT_ERROR = 1e-4
"""Between a kernel's product with the dual coefficients and the step's own effect: two ways to the same numbers, in
float32 Jacobians."""


@dataclass(frozen=True)
class Images:
    """The images of all tasks: those that theory's learner is trained on, and unseen ones.

    Attributes:
        pixels: all of them, in [0, 1].
        labels: their classes in the run's numbering.
        trained: task to places of its training images.
        unseen: task to places of its unseen images.
    """

    pixels: Float32[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, "n"]
    trained: dict[int, Int[np.ndarray, "m"]]
    unseen: dict[int, Int[np.ndarray, "m"]]


@dataclass(frozen=True)
class Stage:
    """One task learnt.

    Attributes:
        task: its number.
        intra: Φ_t(X_t, X_t) on its training images, sample-major.
        cross: Φ_t(Z_t, X_t) between unseen and training images.
        decomposed: modes of `intra`.
        ridge: λ.
        ridge_fraction: λ over the mean diagonal.
        ridge_decided: whether leave-one-out errors tell ridges apart; True where nobody asked them.
        residual: targets minus what the learner said before, on the training images.
        step_length: how far the learner moved the parameters.
        drift: what it changes on all images.
        network_before: what the network said of all images before the task.
        network_step_length: how far the network's training moved them.
        network_drift: what the network's own training (and the running mean's move) changed on all images.
        linear_drift: the same to first order, J Δp with the network's own Δp.
        health: figures of the kernel's checks.
    """

    task: int
    intra: Float[np.ndarray, "nk nk"]
    cross: Float[np.ndarray, "mk nk"]
    decomposed: Modes
    ridge: float
    ridge_fraction: float
    ridge_decided: bool
    residual: Float[np.ndarray, "n k"]
    step_length: float
    drift: Float[np.ndarray, "all k"]
    network_before: Float[np.ndarray, "all k"]
    network_drift: Float[np.ndarray, "all k"]
    network_step_length: float
    linear_drift: Float[np.ndarray, "all k"]
    health: dict[str, float]


def gather(records: Records, seed: int, request: GapsRequest, record: bool = True) -> Images:
    """Choose the images: class-balanced, fixed by the seed, recorded in the run unless that isn't wanted.

    Raises:
        RecordError: a task has fewer images than that.
    """
    n = request.per_task or _most(records, seed, request.side)
    if request.side == "train":
        chosen = [records.probes(seed, n, side=side, record=record) for side in ("train", "test")]
        parts = [(probes, slice(0, n)) for probes in chosen]
    else:
        # Two halves of one set of probes, so that no image is in both
        both = records.probes(seed, 2 * n, record=record)
        parts = [(both, slice(0, n)), (both, slice(n, 2 * n))]
    # Places in the concatenation below: training images of all tasks, then unseen ones of all tasks
    trained, unseen = (
        {
            task: np.arange(start, start + n)
            for task, start in zip(probes.tasks, range(first, first + n * len(probes.tasks), n), strict=True)
        }
        for (probes, _), first in zip(parts, (0, n * len(parts[0][0].tasks)), strict=True)
    )
    pixels, labels = (
        np.concatenate([_rows(probes, name, rows) for probes, rows in parts]) for name in ("images", "labels")
    )
    return Images(pixels, labels, trained, unseen)


def _most(records: Records, seed: int, side: Side) -> int:
    """As many images as every task has on each side, `MOST_IMAGES` at most."""

    def fewest(side: Side) -> int:
        return min(len(records.task(seed, task).labels_of(side)) for task in records.tasks(seed))

    # Trained and tested on either side, or on two halves of the test images
    n = min(fewest("train"), fewest("test")) if side == "train" else fewest("test") // 2
    if n < MIN_PER_TASK:
        raise RecordError(
            f"expected at least {MIN_PER_TASK} images a task to learn and as many to test on, got {n} in "
            f"{records.run.path}; leave-one-out and learning curves mean nothing below that"
        )
    return min(n, MOST_IMAGES)


def _rows(probes: Probes, name: str, rows: slice) -> np.ndarray:
    return np.concatenate([getattr(probes, name)[probes.rows(task)][rows] for task in probes.tasks])


def _model(records: Records, seed: int, checkpoint: int, images: Images) -> tuple[Linearized, Params]:
    """First-order model in the trainable parameters and the running mean: one compiled program for both learners."""
    fn, params = centred_scores(records, seed, checkpoint, with_mean=True)
    # Two images are enough to check the function with
    return Linearized(fn, params, images.pixels[:2]), params


def stages(records: Records, seed: int, images: Images, request: GapsRequest) -> Iterator[Stage]:
    """Learn all finished tasks of a seed in turn.

    Args:
        records: the run.
        seed: one of its seeds.
        images: what `gather` chose.
        request: ridge.

    Yields:
        Each task once it is learnt.

    Raises:
        AnalysisError: a damaged checkpoint, too little memory, or a kernel that fails its checks.
    """
    model, before = _model(records, seed, 0, images)
    # Both set out from the untrained network
    learner = network = model.values(images.pixels)
    k = model.outputs
    wanted = targets(images.labels, k)
    for task, rows in images.trained.items():
        next_model, after = _model(records, seed, task + 1, images)
        own_step = difference(after, before)
        fn, trainable = centred_scores(records, seed, task)
        # Without the running mean, which moves but doesn't train: theory's learner has to go as far by training alone
        own_length = step_length({path: own_step[path] for path in trainable})
        n = len(rows)
        # By what trains only; training and unseen images in one call, so that rows are computed once
        both = images.pixels[np.concatenate([rows, images.unseen[task]])]
        theta = kernel_of(fn, trainable, both, n, least=MIN_PER_TASK)
        intra, cross = measures.sample_major(theta[:n, :n]), measures.sample_major(theta[n:, :n])
        decomposed = modes(intra, float(np.finfo(default_precision()).eps))
        residual = wanted[rows] - learner[rows]
        ridge, decided = _ridge(request.ridge, decomposed, residual.ravel(), k, own_length)
        alpha = dual_coefficients(decomposed, residual.ravel(), ridge).reshape(n, k)
        pulled = model.step(images.pixels[rows], alpha)
        # The pullback has a part for the running mean, along which this learner doesn't step
        step = {path: value if path in trainable else np.zeros_like(value) for path, value in pulled.items()}
        drift = model.change(images.pixels, step)
        # The kernel and the step come from different programs: one wrong row or layout shows here
        health = check(task, intra, cross, alpha, drift[rows], drift[images.unseen[task]])
        learner = learner + drift
        now = next_model.values(images.pixels)
        yield Stage(
            task=task, intra=intra, cross=cross, decomposed=decomposed, ridge=ridge,
            ridge_fraction=ridge / float(decomposed.values.mean()), ridge_decided=decided, residual=residual,
            step_length=step_length(step), drift=drift, network_before=network,
            network_drift=now - network, network_step_length=own_length,
            linear_drift=model.change(images.pixels, own_step), health=health,
        )  # fmt: skip
        # The next checkpoint was loaded and evaluated already
        network, model, before = now, next_model, after


def _ridge(
    wanted: float | Literal["matched", "loo"],
    decomposed: Modes,
    residual: Float[np.ndarray, "nk"],
    k: int,
    length: float,
) -> tuple[float, bool]:
    """The ridge, and whether it was decided by what was to decide it."""
    if wanted == "loo":
        choice = choose_ridge(decomposed, residual, k)
        return choice.ridge, choice.decided
    if wanted == "matched":
        return matched_ridge(decomposed, residual, length), True
    return measures.absolute_ridge(decomposed.values, wanted), True


def check(
    task: int,
    intra: Float[np.ndarray, "nk nk"],
    cross: Float[np.ndarray, "mk nk"],
    alpha: Float[np.ndarray, "n k"],
    *changes: Float[np.ndarray, "m k"],
) -> dict[str, float]:
    """Compare the kernel with the network's own derivatives: Φ α must be what a step along Jᵀ α changes.

    Args:
        task: for the message.
        intra: kernel of the training images.
        cross: kernel between unseen and training images.
        alpha: dual coefficients.
        *changes: what the step changes on training and on unseen images.

    Returns:
        `product_error` (largest difference over the sum of the terms' sizes) and `symmetry_error` (over the largest
        entry).

    Raises:
        HealthError: they differ by more than rounding explains.
    """
    error = 0.0
    for matrix, change in zip((intra, cross), changes, strict=True):
        product = (matrix @ alpha.ravel()).reshape(change.shape)
        # With a small ridge, large coefficients cancel: rounding is relative to what is added up, not to the sum.
        scale = (np.abs(matrix) @ np.abs(alpha).ravel()).max()
        error = max(error, float(np.abs(product - change).max() / max(scale, np.finfo(float).tiny)))
    if not error <= LARGEST_PRODUCT_ERROR:
        raise HealthError(
            f"the kernel of task {task} is refused: its product differs from the network's own derivative by "
            f"{error:.1e}, {LARGEST_PRODUCT_ERROR:.0e} is allowed"
        )
    return {"product_error": error, "symmetry_error": float(np.abs(intra - intra.T).max() / np.abs(intra).max())}
