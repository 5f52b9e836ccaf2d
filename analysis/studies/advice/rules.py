"""What is wrong with a method's run: rules with numbers, of which none speaks within two standard errors.

- `rate`: NTK-CL's later learning rate is above 0, and one of these is told: the gain of a lower one in `what_if.json`,
  that class means over its network after the first task tell more images right than the run at its end, or, without
  `what_if.json` and unless these images tell the opposite, drift.
- `readout`: competition (or drift) is told, and another readout tells more of the same left-out images right.
- `misfit`: even the best readout reaches less than `POOR` of the way from chance to all right (under random weights:
  class means do, as wide readouts classify simple images even there), or class means aren't told from chance.
- `few`: nothing of the above, and two standard errors are more than `RESOLUTION` points, or a class has fewer than
  `FEW` training images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from analysis.measures.error_bars import TOLD
from analysis.store.advice_forms import Finding, Points
from analysis.studies.advice import words
from analysis.studies.advice.facts import Compared, Facts
from analysis.studies.advice.left_out import FEW
from ntkcl_jax.config.model import BACKBONES
from ntkcl_jax.config.presets import preset

POOR = 0.5
"""Share of the way from chance to all right below which a backbone doesn't tell classes apart."""
RESOLUTION = 5.0
"""Points of accuracy that an error bar has to tell."""
ENOUGH = 20
"""Images of a class that are asked for where there are fewer than `FEW`."""
MOST_SEEDS = 10
"""Seeds that are asked for, at most."""


@dataclass(frozen=True)
class Diagnosis:
    """A finding and what mends it.

    Attributes:
        finding: what is wrong.
        changes: settings of the next run, by dotted field.
        follow: method of the next run that the finding is about; "" for the same one.
        decide: words after the program of a command that would tell more; RUN stands for the run folder.
    """

    finding: Finding
    changes: dict[str, Any] = field(default_factory=dict)
    follow: str = ""
    decide: tuple[str, ...] = ()


def diagnoses(facts: Facts) -> list[Diagnosis]:
    """What is wrong, most points to win first; a misfit alone, as all else was measured on that backbone."""
    if wrong := misfit(facts):
        return [wrong]
    found = [made for rule in RULES if (made := rule(facts))]
    found.sort(key=lambda one: -(one.finding.gain.value if one.finding.gain else 0.0))
    return found or [made for made in (few(facts),) if made]


def share_of_way(accuracy: float, classes: int) -> float:
    """How far an accuracy in points is from chance towards all right.

    Example:
        >>> share_of_way(50.0, 2), share_of_way(75.0, 2), share_of_way(100.0, 10)
        (0.0, 0.5, 1.0)
    """
    chance = 1 / classes
    return (accuracy / 100 - chance) / (1 - chance)


def misfit(facts: Facts) -> Diagnosis | None:
    """The backbone doesn't tell the classes apart."""
    left = facts.compared
    if left.per_class < FEW:
        return None
    random = facts.config.weights == "random"
    judged = left.means if random else left.accuracy
    poor = share_of_way(judged.value + TOLD * judged.error, left.classes) < POOR
    by_chance = left.means.value <= 100 / left.classes + TOLD * left.means.error
    if not (poor or by_chance):
        return None
    shape = facts.config.model.backbone
    changes: dict[str, Any] = {}
    larger = [one.image_size for one in BACKBONES.values() if alike(one, shape) and one.image_size > shape.image_size]
    if random and alike(BACKBONES["nano"], shape):
        changes = {"weights": "nano"}
    elif larger:
        size = min(larger)
        # Shorter side before the crop: as much larger as the preset has it
        usual = preset("digits").data.resize if alike(BACKBONES["nano"], shape) else 256
        changes = {"model.backbone.image_size": size, "data.resize": max(size, usual)}
    decide = () if changes else ("ntkcl", "verify", facts.config.preset, "--weights", "FILE")
    gain = Points(value=100 - left.accuracy.value, error=left.accuracy.error)
    finding = Finding(kind="misfit", gain=gain, at_most=True, says=words.misfit(left, changes))
    return Diagnosis(finding, changes, facts.method if changes else "", decide)


def alike(one: Any, other: Any) -> bool:
    """Whether weights of one shape fit the other but for the size of images."""
    return all(getattr(one, name) == getattr(other, name) for name in ("patch_size", "dim", "depth", "heads"))


def rate(facts: Facts) -> Diagnosis | None:
    """Later tasks move NTK-CL's network too far."""
    drift, optimizer, still = facts.drift, facts.config.optimizer, facts.compared.rest_gain
    own = optimizer.learning_rate if optimizer.later_learning_rate is None else optimizer.later_learning_rate
    if facts.learner != "ntkcl" or own == 0:
        return None
    better_still = still is not None and still.told and still.value > 0
    found = facts.what_if
    best = found.best_course if found else None
    if found and best and best.told and best.rate < own and (found.reliable or not better_still):
        gain = Points(value=100 * best.gain, error=100 * best.error)
        said = words.rate(best.rate, gain, at_most=False, reliable=found.reliable)
        finding = Finding(kind="rate", gain=gain, says=said)
        return Diagnosis(finding, {"optimizer.later_learning_rate": best.rate}, facts.method)
    # Whether a rate between is better takes kernels
    decide = ("ntk-analysis", "whatif", "RUN") if facts.readout == "head" and not found else ()
    changes = {"optimizer.later_learning_rate": 0.0}
    if better_still:
        finding = Finding(kind="rate", gain=still, says=words.still(facts.compared))
        return Diagnosis(finding, changes, facts.method, decide)
    worse_still = still is not None and still.told
    if found or worse_still or drift is None or not drift.told or drift.value < 0:
        return None
    old = (facts.tasks - 1) / facts.tasks
    gain = Points(value=old * drift.value, error=old * drift.error)
    finding = Finding(kind="rate", gain=gain, at_most=True, says=words.rate(0.0, gain, at_most=True, reliable=True))
    return Diagnosis(finding, changes, facts.method, decide)


def below(one: Points, other: Points) -> bool:
    """Whether an accuracy is told to be lower than another, of other images."""
    return Points(value=one.value - other.value, error=math.hypot(one.error, other.error)).told and (
        one.value < other.value
    )


def readout(facts: Facts) -> Diagnosis | None:
    """Another readout tells more of the same images right."""
    left = facts.compared
    if not any(part and part.told and part.value > 0 for part in (facts.competition, facts.drift)):
        return None
    if left.best == left.own or (left.of_stream and below(left.accuracy, facts.final)):
        return None
    gain = better(left, facts.final)
    if gain is None or not gain.told or gain.value < 0:
        return None
    changes: dict[str, Any] = {}
    learner = "frozen"
    if left.moved:
        # What was measured is the network as it stands after its first task
        learner, changes = "ntkcl", {"optimizer.later_learning_rate": 0.0}
    elif facts.learner == "first-session":
        learner = facts.learner
    follow = f"{learner}/{left.best}"
    return Diagnosis(Finding(kind="readout", gain=gain, says=words.readout(left, gain, follow)), changes, follow)


def better(left: Compared, final: Points) -> Points | None:
    """What the best readout gains: over the own one on the same images, else over what the run reached on others."""
    if left.own is not None:
        return left.gain
    if not left.of_stream:
        return None
    return Points(value=left.accuracy.value - final.value, error=math.hypot(left.accuracy.error, final.error))


def few(facts: Facts) -> Diagnosis | None:
    """There are too few images or seeds to tell anything."""
    widest = max((part.error for part in (facts.final, facts.lost) if part), default=0.0)
    scarce, wide = facts.compared.per_class < FEW, TOLD * widest > RESOLUTION
    if not (scarce or wide):
        return None
    times = (TOLD * widest / RESOLUTION) ** 2
    data, changes = facts.config.data, dict[str, Any]()
    if wide and facts.of_seeds:
        changes["seeds"] = tuple(range(min(MOST_SEEDS, math.ceil(times * facts.seeds))))
    needed = math.ceil(times * facts.images) if wide and not facts.of_seeds else 0
    if data.images_per_class and (scarce or needed):
        changes["data.images_per_class"] = max(ENOUGH, math.ceil(needed / facts.classes))
    if scarce and data.limit_per_class:
        changes["data.limit_per_class"] = ENOUGH
    said = words.few(facts, widest if wide else None, needed, scarce=scarce)
    return Diagnosis(Finding(kind="few", says=said), changes, facts.method if changes else "")


RULES: tuple[Callable[[Facts], Diagnosis | None], ...] = (rate, readout)
"""Those that may hold together."""
