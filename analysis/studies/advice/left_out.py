"""What other readouts would make of a run's stream: its training images left out in turn, over two networks.

`ntkcl_jax.training.first_task` does so before a run, with the images of a first task, in which nearly all are told
right. After a run there are images of all classes, so that the shares that are told right can be compared with what the
run reached. As each is learnt from a few hundred images, they are lower than what a run with all of them ends with.
The networks are the frozen backbone, and NTK-CL's as it was after its first task, which a later rate of 0 keeps. Beside
them stand the answers of NTK-CL at the run's end, to images that it has learnt: what is told against it is sure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.store.advice_forms import LeftOutImages, Points
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.models.functional import Frozen
from ntkcl_jax.readouts.base import unit
from ntkcl_jax.readouts.left_out import advised, best_of, spread
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import Progress
from ntkcl_jax.runs.recorded import RecordedRun
from ntkcl_jax.training.first_task import LEARNER, compared, passes, rows_of
from ntkcl_jax.training.readout_run import UNMAPPED

IMAGES = 500
"""Images that are left out in turn, at most."""
FEW = 5
"""Images of a class below which leaving one out says little of it; more classes are left to the stream's first ones."""
MEANS = "prototypes"
"""Nearest class means, which are compared beside the ridge readouts."""
TRAINED = "ntkcl"
"""The learner whose network after its first task is looked at too."""


@dataclass(frozen=True)
class LeftOutAnswers:
    """Which of the images each readout told right without having learnt them.

    Attributes:
        classes: that the images are of.
        of_stream: whether these are all classes.
        per_class: training images of the class that has fewest.
        later: which images are of later tasks.
        untouched: answers over the frozen backbone, by readout.
        rested: answers over NTK-CL's network after its first task; None of a run without it.
        ended: NTK-CL's own answers at the run's end, which has learnt these images; None of a run without it.
        best: the cheapest ridge readout whose squared error none of them is better than by more than a standard error.
    """

    classes: int
    of_stream: bool
    per_class: int
    later: Bool[np.ndarray, "n"]
    untouched: dict[str, Bool[np.ndarray, "n"]]
    rested: dict[str, Bool[np.ndarray, "n"]] | None
    ended: Bool[np.ndarray, "n"] | None
    best: str

    def form(self) -> LeftOutImages:
        """As the file has it."""

        def shares(answers: Mapping[str, Bool[np.ndarray, "n"]]) -> dict[str, Points]:
            return {name: points(flags) for name, flags in answers.items()}

        return LeftOutImages(
            images=len(self.later), classes=self.classes, per_class=self.per_class, untouched=shares(self.untouched),
            rested=None if self.rested is None else shares(self.rested),
            ended=None if self.ended is None else points(self.ended), best=self.best,
        )  # fmt: skip


def points(values: Bool[np.ndarray, "n"] | Int[np.ndarray, "n"]) -> Points:
    """Mean in points with its standard error; of answers a share of right ones, of differences of answers a paired one.

    Example:
        >>> points(np.array([True, True, False, False]))
        Points(value=50.0, error=25.0)
    """
    return Points(value=100 * float(np.mean(values)), error=100 * float(np.std(values)) / len(values) ** 0.5)


def paired(one: Bool[np.ndarray, "n"], other: Bool[np.ndarray, "n"]) -> Points:
    """How many points more of the same images one way tells right than another.

    Example:
        >>> found = paired(np.array([True, True, False, False]), np.array([False, False, True, False]))
        >>> found.value, round(found.error, 2)
        (25.0, 41.46)
    """
    return points(one.astype(int) - other)


def nearest_means(features: Float[np.ndarray, "n e"], labels: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Whether each image is nearest, by cosine, to the mean of its class without itself.

    Args:
        features: of the images.
        labels: any integers; an image that is alone in its class is told wrong.

    Example:
        >>> nearest_means(np.array([[1, 0.1], [1, 0], [0, 1], [0.1, 1]]), np.array([3, 3, 5, 5])).tolist()
        [True, True, True, True]
    """
    own = np.unique(labels, return_inverse=True)[1]
    x = features.astype(np.float64)
    sums = np.eye(own.max() + 1)[own].T @ x
    # The mean's direction is that of the sum
    scores = unit(x) @ unit(sums).T
    without = np.sum(unit(x) * unit(sums[own] - x), axis=1)
    scores[np.arange(len(x)), own] = np.where(np.bincount(own)[own] > 1, without, -np.inf)
    return scores.argmax(axis=1) == own


def left_out_answers(run: RecordedRun, progress: Progress) -> LeftOutAnswers:
    """Compare readouts on training images of the stream, with the classes and drawn matrices of the first seed.

    Raises:
        NtkclError: a damaged checkpoint, or an image that can't be read.
    """
    context, seed = run.context, run.seeds[0]
    scenario = context.scenarios[seed]
    labels = scenario.relabel(context.source.train.labels)
    classes = min(scenario.num_classes, IMAGES // FEW)
    members = np.flatnonzero(labels < classes)
    per_class = int(np.bincount(labels[members], minlength=classes).min())
    members = members[spread(labels[members], IMAGES)]
    chosen = labels[members]
    frozen = context.learner(LEARNER)
    # The key draws nothing: a frozen backbone has no parameters of its own
    networks = {"frozen backbone": (frozen, frozen.start(jax.random.key(0), context.backbone_of(seed)))}
    if rest := state_after(run, seed, 0):
        networks["network after the first task"] = context.learner(TRAINED), rest
    answers, best = [], ""
    for name, network in networks.items():
        made = compared(context, network[0], seed)
        own, rows = rows_of(context, network, made, members, progress, f"left-out images · {name}")
        found = {readout.name: best_of(readout.kernels(x), chosen) for readout, x in rows}
        best = best or advised(found)
        answers.append({MEANS: nearest_means(own, chosen)} | {name: one.right for name, one in found.items()})
    ended = None
    if rest and (end := state_after(run, seed, scenario.num_tasks - 1)):
        learner = context.learner(TRAINED)
        (own,) = passes(context, (learner, end), (UNMAPPED,), members, progress, "left-out images · last network")
        with jax.enable_x64(False):
            ended = np.asarray(learner.logits(*end, jnp.asarray(own))).argmax(axis=1) == chosen
    return LeftOutAnswers(
        classes=classes, of_stream=classes == scenario.num_classes, per_class=per_class,
        later=scenario.task_of_class[chosen] > 0, untouched=answers[0],
        rested=answers[1] if len(answers) > 1 else None, ended=ended, best=best,
    )  # fmt: skip


def state_after(run: RecordedRun, seed: int, task: int) -> LearnerState | None:
    """NTK-CL's state after a task; None of a run in which it hasn't learnt it."""
    path = RunFolder(run.path).task(seed, task, "after", TRAINED)
    if not checkpoint.exists(path):
        return None
    learner = run.context.learner(TRAINED)
    with jax.enable_x64(False):  # as the run itself computed
        trees = jax.device_put(dict(checkpoint.load(path, learner.shapes())[0]))
        return LearnerState(trees["trainable"], Frozen(run.context.backbone_of(seed), trees["buffers"]))
