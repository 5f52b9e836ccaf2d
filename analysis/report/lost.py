"""What a run says of its forgetting budget: what old tasks lost, to what, and what a reader does about it."""

import math
from dataclasses import dataclass

from analysis.measures.error_bars import TOLD
from analysis.report.facts import shown_method
from analysis.report.reading import RunFiles
from analysis.store.forms import MethodResults
from ntkcl_jax.terminal.budget import adding_up, in_points

UNMOVED = ("frozen", "first-session")
"""Learners whose network stays as it is in later tasks."""
UNCOUNTED = (
    "How much of it new classes took by competing, and how much is drift of what was learned, isn't known: a version "
    "evaluated the run that kept no answers to single images. ntkcl evaluate counts it again."
)


@dataclass(frozen=True)
class Amount:
    """Accuracy in points, with its standard error: over test images, or that over seeds if it is larger.

    Attributes:
        value: points; of parts, rounded so that they add up.
        error: its standard error, unrounded.
        exact: points, unrounded.
    """

    value: float
    error: float
    exact: float

    @property
    def beyond_noise(self) -> bool:
        """Whether it is told from zero."""
        return self.exact != 0 and abs(self.exact) >= TOLD * self.error

    def __str__(self) -> str:
        """As it stands in a sentence."""
        return f"{in_points(self.value)} ± {in_points(self.error)}"


@dataclass(frozen=True)
class LostFacts:
    """The budget of a method, means over old tasks and seeds.

    Attributes:
        lost: in all, between learning a task and the end.
        competition: what new classes alone took of it.
        drift: what learning later tasks did to answers among the classes that were there.
        still: no such answer changed at all.
    """

    lost: Amount
    competition: Amount
    drift: Amount
    still: bool


def lost_facts(made: MethodResults) -> LostFacts | None:
    """Reduce a method's budget to a few numbers; None where it isn't known."""
    budget = made.forgetting_budget
    if budget is None or budget.mean is None or budget.std is None:
        return None
    mean = budget.mean

    def error(of_images: float, over_seeds: float | None) -> float:
        # Seeds share their test images, so that their spread alone may be too small; a few may be alike by luck, too
        return 100 * max(of_images, 0.0 if over_seeds is None else over_seeds / math.sqrt(budget.n))

    lost, competition, drift = adding_up(mean.lost, [mean.competition, mean.drift])
    return LostFacts(
        Amount(lost, error(mean.lost_error, budget.std.lost), 100 * mean.lost),
        Amount(competition, error(mean.competition_error, budget.std.competition), 100 * mean.competition),
        Amount(drift, error(mean.drift_error, budget.std.drift), 100 * mean.drift),
        still=not any(value for row in mean.drift_lost for value in row) and not any(mean.of_task.drift),
    )


def split_says(facts: LostFacts) -> str:
    """The budget in a sentence.

    Example:
        >>> lost, competition = Amount(5.9, 0.6, 5.9), Amount(5.6, 0.5, 5.6)
        >>> print(split_says(LostFacts(lost, competition, Amount(0.3, 0.4, 0.3), still=False)))
        Since each was learned, old tasks lost 5.9 ± 0.6 points on average: 5.6 ± 0.5 to the competition of new classes, 0.3 ± 0.4 to drift (nothing beyond noise).
    """  # noqa: E501
    noise = "" if facts.lost.beyond_noise else ", nothing beyond noise"
    verb = "won" if facts.lost.beyond_noise and facts.lost.exact < 0 else "lost"
    lost = Amount(-facts.lost.value, facts.lost.error, -facts.lost.exact) if verb == "won" else facts.lost
    text = f"Since each was learned, old tasks {verb} {lost} points on average{noise}: "
    text += (
        f"{facts.competition} to the competition of new classes, "
        if facts.competition.exact
        else ("nothing to the competition of new classes, ")
    )
    if facts.still:
        return text + "nothing to drift (no answer among the classes that were there before changed)."
    if not facts.drift.beyond_noise:
        return text + f"{facts.drift} to drift (nothing beyond noise)."
    if facts.drift.exact > 0:
        return text + f"{facts.drift} to drift."
    return text + f"while drift won {Amount(-facts.drift.value, facts.drift.error, 0)} back."


def lost_says(files: RunFiles) -> str:
    """The budget, what can be done about either part, and what frozen prototypes lost, of the method that is shown."""
    if not files.results:
        return ""
    method = shown_method(files)
    made = files.results.summary[method]
    facts = lost_facts(made)
    if facts is None:
        return UNCOUNTED if made.tasks > 1 else "There is one task, and nothing came after it."
    said, still = [split_says(facts)], files.config.config.pair(method).learner in UNMOVED
    if facts.competition.beyond_noise:
        slower = "" if still else "; or a smaller learning rate in later tasks, where training favours its own classes"
        said.append(
            "What went to competition is still right among the old classes, so protected weights won't win it back: it "
            f"takes a better readout or better features{slower}."
        )
    said += _of_drift(facts, still_network=still)
    others = files.results.summary
    frozen = lost_facts(others["prototypes"]) if "prototypes" in others and method != "prototypes" else None
    if frozen is not None:
        part = ", all of them to competition" if frozen.still and frozen.competition.exact else ""
        said.append(f"Frozen prototypes, which nothing trains, lost {frozen.lost} points in the same stream{part}.")
    return " ".join(said)


def _of_drift(facts: LostFacts, *, still_network: bool) -> list[str]:
    if facts.still:
        return []
    if still_network:
        # Nothing was trained in the network, so advice on its training would be for nothing
        return ["The network doesn't move in later tasks: drift is what fitting the classifier again changed."]
    if not facts.drift.beyond_noise:
        most = Amount(facts.drift.exact + TOLD * facts.drift.error, 0, 0).value
        return [
            "Of drift, a smaller learning rate in later tasks or more protection could win back "
            f"{in_points(max(most, 0))} points at most (drift and two standard errors)."
        ]
    if facts.drift.exact < 0:
        return ["Later training helped answers among the old classes, and slowing it down would cost that part."]
    return ["Drift can be lessened: by a smaller learning rate in later tasks, or by more protection."]
