"""The sentences of an advice: each number with its standard error."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.measures.error_bars import TOLD
from analysis.store.advice_forms import AdviceFile, MethodAdvice, Points
from ntkcl_jax.terminal.budget import in_points

if TYPE_CHECKING:
    from analysis.studies.advice.facts import Compared, Facts

NAMES = {"prototypes": "class means"}
"""Readouts as people call them."""
NOISE = " (nothing beyond noise)"


def shown(number: Points, *, signed: bool = False) -> str:
    """A number with its standard error.

    Example:
        >>> shown(Points(value=3.14, error=0.91)), shown(Points(value=3.14, error=0.91), signed=True)
        ('3.1 ± 0.9', '+3.1 ± 0.9')
    """
    sign = "+" if signed and number.value > 0 else ""
    return f"{sign}{in_points(number.value)} ± {in_points(number.error)}"


def named(readout: str) -> str:
    """A readout for people."""
    return NAMES.get(readout, readout)


def budget(facts: "Facts") -> str:
    """What the method reached, and what old tasks lost to either part."""
    start = f"{facts.method} ends at {shown(facts.final)} %"
    if facts.lost is None or facts.competition is None or facts.drift is None:
        return f"{start}; " + (
            "nothing came after its only task." if facts.tasks < 2 else "what it lost isn't counted."
        )
    if not facts.lost.told:
        return f"{start}; old tasks lost {shown(facts.lost)} points{NOISE}."
    parts = (
        f"{shown(part)} to {name}{'' if part.told else NOISE}"
        for part, name in ((facts.competition, "the competition of new classes"), (facts.drift, "drift"))
    )
    return f"{start}; old tasks lost {shown(facts.lost)} points: {', '.join(parts)}."


def rate(best: float, gain: Points, *, at_most: bool, reliable: bool) -> str:
    """Train later tasks more slowly.

    Example:
        >>> gain = Points(value=4.0, error=0.8)
        >>> rate(0.0, gain, at_most=True, reliable=True)
        'Set --optimizer.later-learning-rate 0: without the drift it would end at most 4.0 ± 0.8 points higher.'
    """
    start = f"Set --optimizer.later-learning-rate {best:g}:"
    if at_most:
        return f"{start} without the drift it would end at most {shown(gain)} points higher."
    doubt = "" if reliable else " (trust the direction, not the size: this run isn't linear in its parameters)"
    return f"{start} {shown(gain, signed=True)} points at the end are forecast{doubt}."


def still(left: "Compared") -> str:
    """Don't train later tasks at all."""
    assert left.rested and left.ended and left.rest_gain
    return (
        f"Set --optimizer.later-learning-rate 0: of {left.images} training images, each left out in turn, class means "
        f"over the network as it was after its first task name {shown(left.rested)} % right, the run at its end, which "
        f"has learnt them, {shown(left.ended)} %: {shown(left.rest_gain, signed=True)} points."
    )


def readout(left: "Compared", gain: Points, follow: str) -> str:
    """Classify by another readout, and over which network."""
    images = f"{left.images} training images of {left.classes} classes, each left out in turn"
    text = f"Use {follow}: of {images}, {named(left.best)} names {shown(left.accuracy)} % right"
    if left.own_accuracy is not None and left.own is not None:
        text += f", {named(left.own)} {shown(left.own_accuracy)} %: {shown(gain, signed=True)} points."
    else:
        text += f": {shown(gain, signed=True)} points against the run."
    if left.moved and left.network_gain is not None:
        text += f" What NTK-CL learns in its first task adds {shown(left.network_gain)} points to that; keep it."
    return text


def misfit(left: "Compared", changes: Mapping[str, Any]) -> str:
    """Take another backbone or larger images."""
    text = (
        f"The backbone hardly tells these classes apart: of {left.images} training images of {left.classes} classes, "
        f"each left out in turn, the best readout ({named(left.best)}) names {shown(left.accuracy)} % right and class "
        f"means {shown(left.means)} %, where chance is {100 / left.classes:.1f} %. "
    )
    if "weights" in changes:
        return f"{text}Its weights are random: take trained ones."
    if changes:
        return f"{text}Show it images of {changes['model.backbone.image_size']} px, for which it was made."
    return f"{text}Compare other weights before you train again."


def few(facts: "Facts", error: float | None, needed: int, *, scarce: bool) -> str:
    """Say what can't be told, and how many images or seeds it takes."""
    said = []
    if error is not None:
        what = f"{facts.seeds} seeds" if facts.of_seeds else f"{facts.images} test images"
        takes = "more seeds" if facts.of_seeds else f"about {needed} test images"
        said.append(
            f"This run can't tell what is wrong: two standard errors of its numbers are {TOLD * error:.1f} points with "
            f"{what}; to tell 5 points it takes {takes}."
        )
    if scarce:
        said.append(
            f"A class has as few as {facts.compared.per_class} training images: that says little of any readout, and "
            "more of them are worth more than any setting."
        )
    return " ".join(said)


def nothing(facts: "Facts") -> str:
    """Say that there is nothing to mend, and by which comparison."""
    left = facts.compared
    text = "There is nothing to mend beyond noise:"
    if facts.lost is not None and not facts.lost.told:
        return f"{text} nothing was lost that chance doesn't explain."
    if left.best == left.own:
        return f"{text} none of the compared readouts is better than {named(left.best)} ({shown(left.accuracy)} %)."
    if left.gain is not None and left.own is not None and left.own_accuracy is not None:
        return (
            f"{text} of {left.images} left-out images {named(left.best)} names {shown(left.accuracy)} % right, "
            f"{named(left.own)} {shown(left.own_accuracy)} %: {shown(left.gain, signed=True)} points."
        )
    return f"{text} the best compared readout names {shown(left.accuracy)} % of {left.images} left-out images right."


def told(made: AdviceFile) -> str:
    """The whole advice for a terminal: the first method in full, then the others."""
    return "\n\n".join(part(one) for one in made.methods)


def part(one: MethodAdvice) -> str:
    """A method's sentences and commands, below each other."""
    commands = [f"next      {shlex.join(one.command)}"] if one.command else []
    return "\n".join([*one.says, *commands, *(f"decides   {line}" for line in one.decide)])
