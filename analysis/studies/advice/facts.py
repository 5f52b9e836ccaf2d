"""What is known of a method before anything is said about it: numbers with their errors, in points of accuracy."""

import math
from dataclasses import dataclass

from analysis.measures.error_bars import over_seeds
from analysis.store.advice_forms import Points
from analysis.store.forms import MethodResults, ResultsFile
from analysis.store.what_if_forms import WhatIfFile
from analysis.studies.advice.left_out import MEANS, LeftOutAnswers, paired, points
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.methods import HEAD

SWITCHES = {HEAD: MEANS, MEANS: MEANS}
"""Which compared readout stands for another: NTK-CL's own head classifies by cosines to class means."""


@dataclass(frozen=True)
class Compared:
    """What left-out images say of the readouts of one method.

    Attributes:
        images: how many.
        classes: that they are of.
        of_stream: whether these are all classes.
        per_class: training images of the class that has fewest.
        best: name of the best readout.
        own: name of the method's own among those compared; None where it isn't.
        moved: whether NTK-CL's network after its first task serves the best readout better than the frozen backbone,
            told from noise on images of later tasks, which that network wasn't trained on.
        network_gain: by how much; None of a run without NTK-CL.
        accuracy: of the best readout, over that network where `moved`, else over the frozen backbone.
        own_accuracy: the same of the method's own.
        gain: paired difference of these two.
        rested: accuracy of class means over NTK-CL's network after its first task, which a later rate of 0 keeps; None
            of another method.
        ended: accuracy of NTK-CL's own head on the same images at the run's end, which has learnt them.
        rest_gain: paired difference of these two.
        means: accuracy of class means over the frozen backbone.
    """

    images: int
    classes: int
    of_stream: bool
    per_class: int
    best: str
    own: str | None
    moved: bool
    network_gain: Points | None
    accuracy: Points
    own_accuracy: Points | None
    gain: Points | None
    rested: Points | None
    ended: Points | None
    rest_gain: Points | None
    means: Points

    @classmethod
    def of(cls, left: LeftOutAnswers, learner: str, readout: str) -> "Compared":
        """For a method's learner and readout."""
        own = SWITCHES.get(readout, readout) if learner in ("ntkcl", "frozen") or readout != HEAD else None
        own = own if own in left.untouched else None
        rested = left.rested if learner == "ntkcl" else None
        gain = None
        if rested is not None and left.later.any():
            gain = paired(rested[left.best][left.later], left.untouched[left.best][left.later])
        moved = gain is not None and gain.told and gain.value > 0
        still = None if rested is None or readout != HEAD or left.ended is None else rested[MEANS]
        answers = rested if moved and rested is not None else left.untouched
        return cls(
            images=len(left.later), classes=left.classes, of_stream=left.of_stream, per_class=left.per_class,
            best=left.best, own=own, moved=moved, network_gain=gain, accuracy=points(answers[left.best]),
            own_accuracy=None if own is None else points(answers[own]),
            gain=None if own is None else paired(answers[left.best], answers[own]),
            rested=None if still is None else points(still),
            ended=None if still is None or left.ended is None else points(left.ended),
            rest_gain=None if still is None or left.ended is None else paired(still, left.ended),
            means=points(left.untouched[MEANS]),
        )  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """A method of a run.

    Attributes:
        method: its name.
        learner: what trains.
        readout: what classifies.
        tasks: of the stream.
        classes: of the stream.
        images: test images of all classes.
        seeds: how many.
        of_seeds: whether the spread over seeds, rather than the number of test images, limits what is known.
        final: accuracy at the end.
        lost: what old tasks lost; None of a single task, and where it wasn't counted.
        competition: what new classes took of it.
        drift: what training later tasks did.
        compared: readouts on left-out images.
        what_if: other later rates; None where they weren't computed, or of another method than NTK-CL.
        config: of the run.
    """

    method: str
    learner: str
    readout: str
    tasks: int
    classes: int
    images: int
    seeds: int
    of_seeds: bool
    final: Points
    lost: Points | None
    competition: Points | None
    drift: Points | None
    compared: Compared
    what_if: WhatIfFile | None
    config: RunConfig

    @property
    def pair(self) -> str:
        """Learner and readout in one word."""
        return f"{self.learner}/{self.readout}"


def facts_of(
    results: ResultsFile, method: str, config: RunConfig, left: LeftOutAnswers, what_if: WhatIfFile | None,
    test_images: int, classes: int,
) -> Facts:  # fmt: skip
    """Gather what is known of a method.

    Args:
        results: of the run.
        method: one of its methods.
        config: of the run.
        left: readouts on left-out images.
        what_if: other later rates, if they were computed.
        test_images: of all classes.
        classes: of the stream.
    """
    made, pair = results.summary[method], config.pair(method)
    final = made.final_accuracy.mean
    of_images = math.sqrt(final * (1 - final) / test_images)
    by_seed = [one[method].final_accuracy for one in results.seeds.values() if method in one]
    error = over_seeds([value for value in by_seed if value is not None], of_images)
    assert error is not None  # that of the images is known
    lost, competition, drift = parts(made)
    return Facts(
        method=method, learner=pair.learner, readout=pair.readout, tasks=made.tasks, classes=classes,
        images=test_images, seeds=made.final_accuracy.n, of_seeds=error > of_images,
        final=Points(value=100 * final, error=100 * error), lost=lost, competition=competition, drift=drift,
        compared=Compared.of(left, *pair), what_if=what_if if method == "ntkcl" else None, config=config,
    )  # fmt: skip


def parts(made: MethodResults) -> tuple[Points | None, Points | None, Points | None]:
    """What old tasks lost, to competition and to drift; of the errors over images and over seeds the larger one."""
    budget = made.forgetting_budget
    if budget is None or budget.mean is None or budget.std is None:
        return None, None, None
    found = []
    for name in ("lost", "competition", "drift"):
        of_images, spread = getattr(budget.mean, f"{name}_error"), getattr(budget.std, name)
        error = max(of_images, 0.0 if spread is None else spread / math.sqrt(budget.n))
        found.append(Points(value=100 * getattr(budget.mean, name), error=100 * error))
    return found[0], found[1], found[2]
