"""What `gaps.json` says of each task: theory's learner beside the trained network.

Squared errors and their parts are per image and summed over outputs; losses are half of that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.records.outputs import drift_floor, half_squared, root_mean_square, targets
from analysis.studies.gaps.learner import Images, Stage
from analysis.studies.request import GapsRequest
from analysis.theory.complexity import contraction, generalization_bound, rademacher_complexity
from analysis.theory.finite_population import finite_population
from analysis.theory.forgetting import compare
from analysis.theory.interplay import Decomposition, decompose
from analysis.theory.learning_curves import eigenlearning, population_modes
from analysis.theory.leave_one_out import block_gcv, block_leave_one_out, choose_ridge
from analysis.theory.radius import radius
from analysis.theory.subsets import subset_leave_one_out, subset_test_errors

CLIP = 1.0
"""Where the bound's loss is clipped: without clipping there is no bound."""
GRID = 2.0**-10
"""First radius of the bound's grid, fixed before any data; smaller radii count as this one."""
DRAWS = 8
"""Random training sets for each point of a learning curve."""
MATCHED = 1e-2
"""Part of the network's step that the matched learner's may lack; the step is computed in float32."""
FRACTIONS = (0.125, 0.25, 0.5, 0.75)
"""Sizes of these training sets, as parts of a task's training images."""


def entries(
    learnt: Sequence[Stage],
    images: Images,
    request: GapsRequest,
    train_images: Sequence[int],
) -> list[dict[str, Any]]:
    """Make the JSON object of each task.

    Args:
        learnt: all stages, in the order of tasks.
        images: what they were computed on.
        request: what was asked for.
        train_images: how many training images the network had, task by task.
    """
    start = learnt[0].network_before  # both learners set out from the untrained network
    wanted = targets(images.labels, start.shape[1])
    theory = Course(start, [stage.drift for stage in learnt], wanted, images)
    network = Course(start, [stage.network_drift for stage in learnt], wanted, images)
    return [
        {
            **_learnt(stage, theory, at, images, request, len(learnt)),
            **theory.split(at),
            **theory.losses(at),
            "learning_curve": {
                # What this task has to learn: targets less what was said before it
                **curve(stage, wanted[images.unseen[stage.task]] - theory.before(at)[images.unseen[stage.task]]),
                "network": {"images": train_images[at], "loss": network.losses(at)["learned_test_loss"]},
            },
            "network": {**network.split(at), **network.losses(at), "step": stage.network_step_length},
            "laziness": _laziness(stage, images),
        }
        for at, stage in enumerate(learnt)
    ]


class Course:
    """A learner's outputs on all images, task after task."""

    def __init__(
        self,
        start: Float[np.ndarray, "all k"],
        drifts: Sequence[Float[np.ndarray, "all k"]],
        wanted: Float[np.ndarray, "all k"],
        images: Images,
    ) -> None:
        """Begin with `start`; each task adds its drift."""
        # [1 + tasks, all, k]: entry t is the state before the t-th task
        self.outputs = np.cumsum([start, *drifts], axis=0)
        self.drifts, self.wanted, self.images = drifts, wanted, images
        self.tasks = list(images.trained)

    def before(self, at: int) -> Float[np.ndarray, "all k"]:
        """Outputs before the at-th task."""
        return self.outputs[at]

    def split(self, at: int) -> dict[str, Any]:
        """Exact split of the task's final squared error on its training images (docs/theory.md, section 1.1)."""
        rows = self.images.trained[self.tasks[at]]
        later = {self.tasks[k]: self.drifts[k][rows] for k in range(at + 1, len(self.tasks))}
        # The residual just after the task; what came later is in `later`
        return split_json(decompose(self.wanted[rows] - self.outputs[at + 1][rows], later))

    def losses(self, at: int) -> dict[str, float]:
        """Half squared errors just after the task and after all tasks, on training and unseen images."""

        def loss(where: dict[int, np.ndarray], when: int) -> float:
            rows = where[self.tasks[at]]
            return half_squared(self.outputs[when][rows], self.wanted[rows])

        trained, unseen = self.images.trained, self.images.unseen
        return {
            "train_loss": loss(trained, -1),
            "test_loss": loss(unseen, -1),
            "learned_train_loss": loss(trained, at + 1),
            "learned_test_loss": loss(unseen, at + 1),
        }


def split_json(split: Decomposition) -> dict[str, Any]:
    """A decomposition as JSON values; keys are task numbers, `k,l` for a pair."""
    return {
        "task_specific": split.task_specific,
        "interplay": {str(k): value for k, value in split.interplay.items()},
        "cross": {
            "own": {str(k): value for k, value in split.own_cross.items()},
            "between": {f"{a},{b}": value for (a, b), value in split.between_cross.items()},
        },
        "total": split.total,
        "direct": split.direct,
        "forgetting": split.forgetting,
    }


def _learnt(stage: Stage, theory: Course, at: int, images: Images, request: GapsRequest, tasks: int) -> dict[str, Any]:
    n, k = stage.residual.shape
    found = radius(stage.decomposed, stage.residual.ravel(), stage.ridge)
    trace = float(stage.decomposed.values.sum())
    # The loss isn't clipped, and so never less than the one that the bound is about
    bound = generalization_bound(
        theory.losses(at)["learned_train_loss"], found.exact, trace, n, contraction("half_squared", CLIP),
        outputs=k, delta=request.confidence, tasks=tasks, grid=GRID,
    )  # fmt: skip
    return {
        "task": stage.task,
        "images": n,
        "test_images": len(images.unseen[stage.task]),
        "outputs": k,
        "ridge": stage.ridge,
        "ridge_fraction": stage.ridge_fraction,
        **ridge_says(request.ridge, stage.ridge_decided, stage.network_step_length, stage.step_length),
        "radius": {"exact": found.exact, "quadratic": found.quadratic, "a_priori": found.a_priori,
                   "step": stage.step_length},
        "trace": trace,
        "complexity": rademacher_complexity(found.exact, trace, n),
        "bound": {"value": bound.value, "empirical": bound.empirical, "complexity": bound.complexity,
                  "confidence": bound.confidence, "radius": bound.radius, "vacuous": bound.vacuous,
                  **standing(request)},
        "loo": 0.5 * block_leave_one_out(stage.decomposed, stage.residual.ravel(), stage.ridge, k),
        "gcv": 0.5 * block_gcv(stage.decomposed, stage.residual.ravel(), stage.ridge, k),
        "health": stage.health,
    }  # fmt: skip


def ridge_says(wanted: float | str, decided: bool, network: float, learner: float) -> dict[str, Any]:
    """Whether the ridge is what was asked for: `matched` (None where that wasn't) and `ridge_note`, why it isn't.

    The learner can't go as far as a network whose step is longer than that of the smallest ridge; what it then does
    says nothing of a network that went farther.

    Args:
        wanted: the request's ridge.
        decided: whether leave-one-out errors tell ridges apart.
        network: length of the network's step.
        learner: length of the learner's.

    Example:
        >>> ridge_says("matched", True, 768.0, 6.1)["matched"], ridge_says("matched", True, 6.1, 6.1)["matched"]
        (False, True)
    """
    if wanted == "loo" and not decided:
        return {"matched": None, "ridge_note": "every ridge has the same leave-one-out error, so the smallest is taken"}
    if wanted != "matched":
        return {"matched": None, "ridge_note": ""}
    if not network:
        return {"matched": True, "ridge_note": "training moved nothing, so theory's learner stays where it is too"}
    if learner >= (1 - MATCHED) * network:
        return {"matched": True, "ridge_note": ""}
    return {
        "matched": False,
        "ridge_note": f"the network's step of {network:.3g} is out of the learner's reach: with the smallest ridge it "
        f"goes {learner:.3g}",
    }


def standing(request: GapsRequest) -> dict[str, Any]:
    """Whether the bound is a theorem, and why (docs/theory.md, section 1.4).

    Example:
        >>> standing(GapsRequest(side="test"))["theorem"], standing(GapsRequest())["theorem"]
        (True, False)
    """
    if request.side == "test":
        note = (
            "for theory's learner just after the task, as kernel and readout have never seen its images, whatever the "
            "ridge; it says nothing of the network"
        )
    else:
        note = (
            "the readout's prototypes were computed from the task's training images, so the class of functions depends "
            "on the sample; with --side test it is a theorem"
        )
    return {"theorem": request.side == "test", "note": note}


def curve(stage: Stage, unseen: Float[np.ndarray, "m k"]) -> dict[str, Any]:
    """Loss on unseen images against the number of training images, predicted and measured (docs/theory.md, section 3).

    Whatever the learner's own ridge, here it is the best one of the whole sample by leave-one-out: the question is what
    more images would bring.

    Args:
        stage: the task learnt; its training images are the reference sample.
        unseen: residual targets of the unseen images.
    """
    n, k = stage.residual.shape
    residual = stage.residual.ravel()
    # Leave-one-out needs two images
    sizes = sorted({max(2, round(part * n)) for part in FRACTIONS})
    eta, power = population_modes(stage.decomposed, residual, k)
    choice = choose_ridge(stage.decomposed, residual, k)
    ridge = choice.ridge
    # The task's number is the seed: prediction and measurement draw the same subsets
    drawn = (sizes, DRAWS, stage.task, ridge, k)
    left_out = subset_leave_one_out(stage.intra, residual, *drawn)
    measured = subset_test_errors(stage.intra, stage.cross, residual, unseen.ravel(), *drawn)
    # An output's row counts as a sample (docs/theory.md, section 3.2)
    predicted = [finite_population(eta, power, size * k, ridge) for size in sizes]
    plain = [eigenlearning(eta, power, size * k, ridge) for size in sizes]
    return {
        "ridge": ridge,
        "ridge_decided": choice.decided,
        "sizes": sizes,
        "finite_population": [0.5 * point.unseen_error for point in predicted],
        "eigenlearning": [0.5 * point.generalization_error for point in plain],
        "leave_one_out": (0.5 * left_out.mean).tolist(),
        "measured": (0.5 * measured.mean).tolist(),
        "measured_std": (0.5 * measured.std).tolist(),
    }


def _laziness(stage: Stage, images: Images) -> dict[str, float | bool | None]:
    """How far the network's own change on its task's unseen images is from first order; None where nothing moved."""
    rows = images.unseen[stage.task]
    linear, measured = stage.linear_drift[rows], stage.network_drift[rows]
    length = root_mean_square(measured)
    moved = max(length, root_mean_square(linear)) > drift_floor(measured.shape[1])
    found = compare(linear, measured)
    return {
        "relative_error": found.relative_error if moved else None,
        "cosine": found.cosine if moved else None,
        "drift_norm": length,
        "moved": moved,
    }
