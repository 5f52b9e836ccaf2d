"""Our own measures, each declared once: what is computed, how it is named, what it is for. docs/measures.md lists them.

Θ is the kernel of one checkpoint, X_t the probes of task t, s_i the eigenvalues of a task's own kernel A = Θ(X_t, X_t).
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from analysis.measures.alignment import DEBIASED_ROWS, debiased_cka, drift, kernel_distance, target_alignment
from analysis.measures.checkpoint import Checkpoint, one_hot
from analysis.measures.measure import Measure
from analysis.measures.ratios import random_orientation_ratio, same_population_ratio
from analysis.measures.spectrum import absolute_ridge, effective_dimension, participation_ratio

RIDGE_FRACTION = 1.0
"""Ridge of the effective dimension, as a fraction of the kernel's mean diagonal (at 1e-3 nearly every row counts)."""


def _of_pairs(tasks: int, value: Callable[[int, int], float], own: float) -> Float[np.ndarray, "t t"]:
    """Values of all pairs t < k, on both sides of a diagonal of `own`."""
    found = np.full((tasks, tasks), own)
    for t, k in itertools.combinations(range(tasks), 2):
        found[t, k] = found[k, t] = value(t, k)
    return found


def _unrelated_ratio(now: Checkpoint) -> Float[np.ndarray, "t t"]:
    spread = [participation_ratio(values) for values in now.spectra]
    return _of_pairs(now.tasks, lambda t, k: random_orientation_ratio(spread[t], spread[k], now.parameters), 1.0)


def _same_task_ratio(now: Checkpoint) -> Float[np.ndarray, "t t"]:
    same = [same_population_ratio(kernel, now.outputs) for kernel in now.intra]
    return _of_pairs(now.tasks, lambda t, k: (same[t] * same[k]) ** 0.5, 1.0)


def _overlap(now: Checkpoint) -> Float[np.ndarray, "t t"]:
    return _of_pairs(now.tasks, lambda t, k: float(np.mean(now.cosines[t, k] ** 2)), 1.0)


def _smallest_angle(now: Checkpoint) -> Float[np.ndarray, "t t"]:
    return _of_pairs(now.tasks, lambda t, k: float(np.arccos(now.cosines[t, k].max())), 0.0)


def _target_alignment(now: Checkpoint) -> list[float]:
    wanted = [now.targets[images] for images in now.images]
    if now.stacked:
        # Entry i k + c of both is output c of image i
        return [target_alignment(a, y.reshape(-1)) for a, y in zip(now.intra, wanted, strict=True)]
    return [target_alignment(a, y) for a, y in zip(now.intra_samples, wanted, strict=True)]


def _centred_target_alignment(now: Checkpoint) -> list[float | None]:
    # Columns for all tasks' classes: those of others are zero and add nothing
    classes = np.unique(now.labels)
    return [
        target_alignment(kernel, one_hot(now.labels[rows], classes), centred=True)
        if len(np.unique(now.labels[rows])) > 1 else None  # targets that don't vary have no direction
        for kernel, rows in zip(now.intra_samples, now.images, strict=True)
    ]  # fmt: skip


def _debiased_cka(now: Checkpoint, before: Checkpoint) -> list[float | None]:
    return [
        debiased_cka(old, new) if len(new) >= DEBIASED_ROWS else None
        for old, new in zip(before.intra_samples, now.intra_samples, strict=True)
    ]


MEASURES = (
    Measure(
        name="inter_intra_ratio",
        title="inter-task / intra-task kernel",
        kind="pair",
        function=lambda now: now.grid.inter_intra_ratio,
        formula="ρ = ‖Θ(X_t, X_k)‖ / √(‖Θ(X_t, X_t)‖ ‖Θ(X_k, X_k)‖), Frobenius",
        unit="ratio ρ (1 = one task)",
        lowest=0.0,
        highest=1.0,
        references=("unrelated_ratio", "same_task_ratio"),
        column="inter/intra",
        sentence="Far above what unrelated tasks reach, training one task moves the other's outputs: protect this pair "
        "(replay, a stronger penalty) or learn it together; near it, spend no protection on it.",
    ),
    Measure(
        name="kernel_norm",
        title="inter-task kernel, undivided",
        kind="pair",
        function=lambda now: now.grid.kernel_norm,
        formula="‖Θ(X_t, X_k)‖, Frobenius",
        unit="size of the kernel",
        lowest=0.0,
        sentence="Look here when the ratio changed: if this changed with it, the tasks came closer or moved apart; if "
        "it stayed, their own kernels grew or shrank, and the learning rate is what to change.",
    ),
    Measure(
        name="unrelated_ratio",
        title="ratio of unrelated tasks",
        kind="pair",
        function=_unrelated_ratio,
        formula="(r_t r_k)^(1/4) / √p, r the participation ratios, p the trainable parameters",
        unit="ratio ρ",
        lowest=0.0,
        highest=1.0,
        column="if unrelated",
        sentence="The floor, tasks of these spectra turned at random: read a ratio as its distance from here, as few "
        "parameters alone raise both.",
    ),
    Measure(
        name="same_task_ratio",
        title="ratio of a task to itself",
        kind="pair",
        function=_same_task_ratio,
        formula="√(σ_t σ_k), σ_t² = n/(n - 1) (1 - Σ_i ‖A_ii‖² / ‖A‖²), A_ij the block of images i and j",
        unit="ratio ρ",
        lowest=0.0,
        highest=1.0,
        sentence="The ceiling to expect, another sample of the same tasks: two tasks that come near it are one task to "
        "the network, so merge them or expect the later to overwrite the earlier.",
    ),
    Measure(
        name="overlap",
        title="overlap of directions",
        kind="pair",
        function=_overlap,
        formula="mean of cos²φ_i over the principal angles φ of the Jacobians' row spaces (Doan et al. 2021)",
        unit="mean cos² (1 = the same directions)",
        lowest=0.0,
        highest=1.0,
        sentence="Near 1 no direction belongs to one task alone, so training orthogonally to the old task would leave "
        "nothing to learn with: choose another protection; near 0 orthogonal training costs nothing.",
    ),
    Measure(
        name="smallest_angle",
        title="smallest angle between directions",
        kind="pair",
        function=_smallest_angle,
        formula="smallest principal angle of the Jacobians' row spaces",
        unit="radians (π/2 = none shared)",
        lowest=0.0,
        highest=math.pi / 2,
        sentence="Near π/2 training one task leaves the other as it is, so nothing need be done; near 0 at least one "
        "direction is shared whole, even where the mean overlap is small: look at the ratio before you call it safe.",
    ),
    Measure(
        name="effective_dimension",
        title="effective dimension",
        kind="task",
        function=lambda now: [effective_dimension(s, absolute_ridge(s, RIDGE_FRACTION)) for s in now.spectra],
        formula="Σ s_i / (s_i + λ), λ the mean diagonal of A",
        unit="directions (ridge = mean diagonal)",
        lowest=0.0,
        column="effective dimension",
        digits=1,
        sentence="Where it grows with the number of probe images, take more (--per-task) before you compare tasks; a "
        "fall from checkpoint to checkpoint says that the task is left with fewer directions to learn in.",
    ),
    Measure(
        name="participation_ratio",
        title="participation ratio",
        kind="task",
        function=lambda now: [participation_ratio(values) for values in now.spectra],
        formula="r = (Σ s_i)² / Σ s_i²",
        unit="equal directions",
        lowest=1.0,
        sentence="Near 1 a single direction carries the kernel, and ratio, drift and uncentred alignment speak of that "
        "one: read the centred alignment and the spectra instead.",
    ),
    Measure(
        name="rank",
        title="rank",
        kind="task",
        function=lambda now: [int(np.count_nonzero(values)) for values in now.spectra],
        formula="number of s_i above m ε s_1, m the rows of A",
        unit="directions",
        lowest=0.0,
        sentence="Below the number of rows (images times outputs) some targets can't be fitted to first order: train "
        "more parameters, or don't expect theory's learner to reach zero.",
    ),
    Measure(
        name="target_alignment",
        title="kernel-target alignment",
        kind="task",
        function=_target_alignment,
        formula="⟨A, Y Yᵀ⟩ / (‖A‖ ‖Y Yᵀ‖), Y the one-hot targets",
        unit="alignment (1 = perfect)",
        lowest=0.0,
        highest=1.0,
        column="target alignment",
        sentence="High, the strongest directions are those of the labels and few steps learn the task; where it falls "
        "for an old task, plan more steps (or a rehearsal) to learn it again.",
    ),
    Measure(
        name="centred_target_alignment",
        title="centred kernel-target alignment",
        kind="task",
        function=_centred_target_alignment,
        formula="the same of H A H and H Y, H = I - 11ᵀ/n, A a kernel of images",
        unit="alignment (1 = perfect)",
        lowest=0.0,
        highest=1.0,
        sentence="Without what all images share, which can make the uncentred one high although no class is told "
        "apart, or low although they are: where the two disagree, go by this one.",
    ),
    Measure(
        name="drift",
        title="drift since the last computed checkpoint",
        kind="change",
        function=lambda now, before: [drift(a, b) for a, b in zip(before.intra, now.intra, strict=True)],
        formula="‖A' - A‖ / ‖A‖, A' after A",
        unit="change / size of the kernel, ‖ΔΘ‖ / ‖Θ‖",
        lowest=0.0,
        references=(0.1,),
        column="drift",
        sentence="Well below 0.1 one kernel describes training, and forecasts can be trusted; above it, forecast with "
        "the Jacobians of both ends of a task.",
    ),
    Measure(
        name="kernel_distance",
        title="turning since the last computed checkpoint",
        kind="change",
        function=lambda now, before: [kernel_distance(a, b) for a, b in zip(before.intra, now.intra, strict=True)],
        formula="1 - ⟨A, A'⟩ / (‖A‖ ‖A'‖) (Fort et al. 2020)",
        unit="1 - cosine of the kernels",
        lowest=0.0,
        highest=1.0,
        sentence="Near 0 beside a large drift, the kernel only grew, which a smaller learning rate undoes; where both "
        "are large it turned, and what was read off earlier kernels has to be computed again.",
    ),
    Measure(
        name="debiased_cka",
        title="images' likeness kept (debiased CKA)",
        kind="change",
        function=_debiased_cka,
        formula="cosine of A and A' as kernels of images, U-centred (Song et al. 2012), from 4 images on",
        unit="debiased CKA (0 = unrelated)",
        lowest=-1.0,
        highest=1.0,
        sentence="Near 1 the images keep their likenesses, so prototypes and readouts of before still fit; as it "
        "falls, compute them again.",
    ),
)
