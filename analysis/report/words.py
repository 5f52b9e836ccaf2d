"""Plain words under the figures: what each shows and what would be good (fixed), what a run says (from its numbers)."""

from dataclasses import dataclass

import numpy as np
from msgspec import to_builtins

from analysis.plots.kernels import checkpoint_name
from analysis.report.facts import (
    clip_of,
    forecast_facts,
    gap_facts,
    kernel_facts,
    mean,
    mean_alignment,
    median,
    relative,
    shown_method,
)
from analysis.report.gains import falls
from analysis.report.reading import RunFiles, TaskKernel, clean, floats, known
from analysis.report.verdict import closeness, cosine, number, percent, sizes, unmatched, with_error
from analysis.store.forms import Numbers
from analysis.store.study_forms import ForecastFile, GapsFile, LearningCurve, SummaryFile
from analysis.store.what_if_forms import WhatIfFile
from analysis.studies.what_if.table import verdict as what_if_verdict


@dataclass(frozen=True)
class Caption:
    """What holds for every run.

    Attributes:
        shows: what a figure shows.
        good: what would be good to see.
        then: what a reader does about it.
    """

    shows: str
    good: str
    then: str = ""


CAPTIONS = {
    "budget": Caption(
        "What each old task has lost between being learned and the end, in points of accuracy, split exactly. "
        "Competition (blue): the image is still told right among the old classes, but a new class scores higher. Drift "
        "(orange): answers among the classes that were there before changed; below zero, it won answers back. Shades "
        "part the later tasks; diamonds are the sums. A method that lost far more has an axis of its own. In text and "
        "table, ± is a standard error over test images, or that over seeds if it is larger.",
        "No orange: later training left old answers alone. What is blue below frozen prototypes' is what training has "
        "won: a network that never moves loses to competition too.",
        "Mostly blue: another readout or better features; protecting weights wins nothing back. Mostly orange: a "
        "smaller later learning rate or more protection. Neither beyond its error: this run has nothing to mend.",
    ),
    "accuracy": Caption(
        "Each row is the state after one more task, each column the test images of one task; a number is the accuracy "
        "in percent among all classes seen so far. The curve is the accuracy on all classes seen.",
        "Columns that keep their colour from the diagonal down: what was learned stays. Below frozen prototypes, "
        "training has harmed; above plain training, the method protects.",
        "Find the column that fades most and the row where it does: that task lost most, and to that later task. "
        "The budget above says to what.",
    ),
    "kernels": Caption(
        "Every pixel compares two probe images: the cosine between their Jacobians, 1 where a training step on one "
        "image moves the outputs for the other as much as for itself, 0 where it doesn't reach it, below 0 where it "
        "moves them the other way. Images are ordered by task and class, and lines part them; of more than 160, some "
        "at even distances are shown.",
        "Bright blocks on the diagonal (images of one class help each other) and dark ones off the tasks' diagonal: "
        "learning one task leaves the others alone.",
        "Look for bright pixels off the blocks: those two images are learned as one. If their classes are confused, "
        "or a label is wrong, it shows here.",
    ),
    "ratios": Caption(
        "The size of the kernel between two tasks over the geometric mean of their own kernels, as training goes on. "
        "1 means that two tasks are the same to the network.",
        "Small numbers off the diagonal, near what unrelated tasks would give, that don't grow: little interplay.",
        "It says which tasks share directions, not how much is forgotten: a pair that stands out is where a later "
        "rate or a projection matters most.",
    ),
    "drift": Caption(
        "Per task and checkpoint: how well the kernel's strongest directions match the labels (alignment, 1 is "
        "perfect), and how much the kernel changed since the last computed checkpoint (drift, 0 is not at all).",
        "Alignment that doesn't fall for old tasks, and a drift well below 0.1: then one kernel describes training, "
        "and forecasts can be trusted.",
        "With little drift, go by the forecasts and rates of this report. With much, take them as directions, not "
        "sizes, and try two or three rates by training.",
    ),
    "gaps": Caption(
        "The squared error of each task after all tasks, split exactly: what was left when the task was learned, what "
        "each later task did, and signed cross terms, which can cancel (below zero). The diamond is the sum. Once for "
        "theory's learner (ridge regression on the network's own tangent kernels), once measured on the network.",
        "Short bars with little colour: later tasks did little. Two figures of one shape: theory explains this run.",
        "A tall dark part was never learned: more images, more epochs or another backbone. A tall coloured part was "
        "taken by later tasks: see the later learning rate.",
    ),
    "bounds": Caption(
        "Half squared losses of theory's learner beside the estimates made without test images: leave-one-out, "
        "generalized cross-validation (GCV), and theory's upper bound, with whether it is proven here.",
        "Leave-one-out close to the measured loss after learning. The bound is a ceiling and usually far too high "
        "at these sample sizes; its complexity part is meant for ranking tasks, not for predicting losses.",
        "Where leave-one-out is close to the measured loss, choose settings by it and keep the test images for the "
        "end.",
    ),
    "forecast": Caption(
        "A point for each pair of tasks: the change of an old task's loss predicted before the new task was trained "
        "(up) against the change that was then measured (right). Numbers beside points "
        "name the old task, where there is room. In the table, errors shrink from column to column by what each adds: "
        "the step that training really took, then the Jacobians of both ends.",
        "Points on the dashed line. Right of zero and below the line: more was forgotten than was forecast.",
        "On the line: believe the rates that this report advises. Far from it: only their order, and train before "
        "you decide.",
    ),
    "what_if": Caption(
        "Accuracies that other later rates are expected to give. Black: on all tasks at the run's end, had every later "
        "task been trained at that rate. In colour: one later task at a time, from the run's own checkpoint before it, "
        "mean over later tasks: on old tasks, the new one, and all of them; dashed: without the directions that old "
        "tasks feel most. The run's own step is rescaled mode by mode of the new task's kernel. The dotted line is the "
        "run's own rate, crosses are what it measured.",
        "Crosses on the lines: then the rest can be believed. Flat lines: the rate hardly matters. Dashed lines above "
        "full ones: what is forgotten lies in few directions, and projecting them away would cost the new task little.",
        "Set --optimizer.later-learning-rate to the best rate if its gain is beyond its error and crosses lie on "
        "the lines; leave it otherwise.",
    ),
    "influence": Caption(
        "Each row begins with an old test image that a later task made worse; beside it the new training images that, "
        "to first order, pushed its loss up most, and those that pushed it down most. A number is the change of the "
        "half squared error of its scores that the new image brings: the product of the two images' gradients, summed "
        "over training. Below, the same by class: how far all images of a new class (columns) move the scores of an "
        "old class's images (rows), and by how much they raise (orange) or lower (blue) their loss.",
        "Pairs that look alike: then old images were taken for something similar, and more pixels, another readout or "
        "some old images beside the new ones would help. Pairs without likeness, or a few new images that harm many: "
        "look for wrong labels, and leave these images out.",
    ),
    "curves": Caption(
        "The test loss that theory predicts for each number of training images, by three estimators; dots are kernel "
        "regressions really fitted to random subsets (bars: one standard deviation), the star is the trained network.",
        "Lines through the dots: then theory can say what more images would bring. A star below the dots means that "
        "the network does better than its own kernel.",
        "Lines that still fall at their right end: more images of that task would help. Flat ones: they wouldn't.",
    ),
    "shares": Caption(
        "How much of the kernel's trace each group of parameters carries: which parts of the network do the learning, "
        "or, of a readout, which feature maps. The axis is logarithmic; the shares add up to 1. In the table, each "
        "group's kernel by itself: how well its directions match the labels without what all images share, and how "
        "much tasks have in common in it.",
        "No single answer is good; a group that stays near zero hardly learns and could be left out. Alignment says "
        "what a group's strongest directions know of the labels. It doesn't rank feature maps by accuracy: to choose a "
        "readout or its columns, compare left-out images with ntkcl verify.",
        "Train without a group that stays near zero, and keep it out if accuracy stays.",
    ),
    "methods": Caption(
        "Kernels on the same probe images, each of a method's own trainable parameters: means over tasks and pairs.",
        "A low ratio and little drift. Dimension and alignment also depend on the number of probe images: compare them "
        "only where the last column of the table is the same.",
        "Choose by accuracy; among equals take the method whose kernel moves less, since what is said of it ahead "
        "holds.",
    ),
}


def accuracy_says(files: RunFiles) -> str:
    """Where accuracy fell, and what most of the errors are."""
    if not files.results:
        return ""
    method = shown_method(files)
    last = floats(files.results.summary[method].accuracy_matrix.mean)[-1]
    text = f"The final accuracies of single tasks lie between {percent(last.min())} and {percent(last.max())}"
    if len(last) < 2:
        return text + "."
    found = falls(files, method)
    worst = max(range(len(found)), key=lambda t: found[t].value)
    if found[worst].value <= 0:
        return text + "; no task fell below its best."
    if not found[worst].told:
        most = with_error(found[worst])
        return f"{text}; no task fell below its best by more than chance explains, at most by {most}."
    return f"{text}; task {worst + 1} fell most, by {with_error(found[worst])} from its best to the end."


def kernels_says(kernels: tuple[TaskKernel, ...]) -> str:
    """Mean cosine within a class, between classes of a task, and between tasks, first and last."""
    sentences = []
    for kernel in kernels:
        same_task = kernel.tasks[:, None] == kernel.tasks
        same_class = kernel.labels[:, None] == kernel.labels
        # An image's cosine with itself is 1 and says nothing about its class
        alike = same_class & ~np.eye(len(same_class), dtype=bool)
        groups = (
            (alike, "within a class"),
            (same_task & ~same_class, "between classes of one task"),
            (~same_task, "between tasks"),
        )
        parts = [f"{number(float(kernel.cosines[mask].mean()), 2)} {name}" for mask, name in groups if mask.any()]
        if parts:
            when = checkpoint_name(kernel.checkpoint).capitalize()
            sentences.append(f"{when}, the mean cosine is {', '.join(parts)}.")
    return " ".join(sentences)


def ratios_says(summary: SummaryFile) -> str:
    """Mean ratio, its change, and the closest pair."""
    facts = kernel_facts(summary)
    text = closeness(facts)
    if facts.closest is None or facts.first is None or facts.last is None:
        return text
    t, k = facts.closest
    pair = f"tasks {t + 1} and {k + 1} ({number(facts.closest_ratio, 2)})."
    if len(facts.checkpoints) == 1:
        # What was computed once neither stayed nor changed
        return f"{text} The closest pair is {pair}"
    return f"{text} Over training the mean ratio {went(facts.first, facts.last)}. The closest pair at the end is {pair}"


def went(first: float | None, last: float | None) -> str:
    """Say how a number moved, as far as two digits tell.

    Example:
        >>> went(0.351, 0.349), went(0.3, 0.4)
        ('stayed at 0.35', 'went from 0.3 to 0.4')
    """
    ends = number(first, 2), number(last, 2)
    return f"stayed at {ends[1]}" if ends[0] == ends[1] else f"went from {ends[0]} to {ends[1]}"


def drift_says(summary: SummaryFile) -> str:
    """Drift, and how alignment and effective dimension moved."""
    seeds, facts = list(summary.seeds.values()), kernel_facts(summary)
    ends = [seed.first for seed in seeds], [seed.last for seed in seeds]
    dimensions = [mean(value for figures in at for value in figures.effective_dimension) for at in ends]
    alignments = [mean_alignment(seeds, at) for at in ends]
    drifts = known(value for seed in seeds for figures in seed.checkpoints.values() for value in figures.drift)
    # What was computed at one checkpoint is there, and neither stayed nor changed
    moved = went if len(facts.checkpoints) > 1 else lambda _, last: f"is {number(last, 2)}"
    alignment = "" if facts.alignment is None else f"alignment {moved(*alignments)} and "
    text = f"On average over tasks, {alignment}the effective dimension {moved(*dimensions)}."
    if facts.too_few:
        text += (
            " Where no two probe images are of one class, alignment can't tell how alike images of a class are, and "
            "such tasks aren't counted; compute kernels with a larger --per-task."
        )
    if not drifts:
        return text + " With one checkpoint there is no drift."
    return (
        f"{text} Kernels changed by {percent(mean(drifts))} {facts.drift_over} on average, {percent(max(drifts))} at "
        "most."
    )


def gaps_says(gaps: GapsFile) -> str:
    """Theory's split and the network's, the check of the identity, and how lazy training was."""
    facts = gap_facts(gaps)
    text = (
        f"Theory's learner ends with a mean squared error of {number(facts.total, 2)}, the network with "
        f"{number(facts.network_total, 2)}."
    )
    if facts.forgetting is not None:
        text += (
            f" On earlier tasks, later ones added {number(facts.forgetting, 2)} (cross terms: "
            f"{number(facts.cross, 2)}) in theory and {number(facts.network_forgetting, 2)} in the network."
        )
    if facts.identity is not None:
        off = f"to {number(facts.identity, 1)} of it" if facts.identity else "exactly"
        text += f" The parts add up to the error itself {off}."
    if facts.unmatched:
        text += (
            f" The ridge couldn't be matched on {unmatched(facts, gaps)}: the network's step is out of the learner's "
            "reach even with the smallest ridge, so their errors can't be compared there."
        )
    if facts.resting:
        text += f" In training on {facts.resting} of {len(gaps.every)} tasks nothing moved beyond rounding."
    if facts.laziness is not None:
        text += (
            f" A first-order model of each task's training is off by {percent(facts.laziness, 0)} (median), so this "
            f"run is {'lazy' if facts.laziness < 0.1 else 'nearly lazy' if facts.laziness < 0.3 else 'not lazy'}."
        )
    return text


def bounds_says(gaps: GapsFile) -> str:
    """How close leave-one-out comes, and whether the bound says anything."""
    facts = gap_facts(gaps)
    below, count = facts.bounds
    clip = clip_of(gaps)
    text = (
        f"Leave-one-out misses the measured loss after learning by {percent(facts.loo_error, 0)} (median over tasks)."
    )
    if not count:
        return text + " No bound could be computed."
    # Most tasks have the same note: each is told once
    notes = list(dict.fromkeys(clean(gap.bound.note, 200) for gap in gaps.every if gap.bound.note))[:3]
    why = f" About the bounds: {'; '.join(notes)}." if notes else ""
    empty = "all are" if below == 0 else f"{count - below} of {count} are"
    return (
        text
        + (
            f" Of the bounds {empty} above {number(clip)}, the largest loss that they count, and so say nothing."
            if below < count
            else f" All {count} bounds are below {number(clip)}, the largest loss that they count: they say something."
        )
        + why
    )


def forecast_says(forecast: ForecastFile) -> str:
    """Quality over pairs, the worst pair, and on which side the forecast errs."""
    facts = forecast_facts(forecast)
    moving = facts.pairs - facts.still
    if not moving:
        return "Nothing moved: forecast and measured drift are within the rounding of float32 outputs in every pair."
    text = (
        f"Over {moving} {'pair' if moving == 1 else 'pairs'} of tasks, the median cosine between the "
        f"predicted and the measured drift of the outputs is {cosine(facts.cosine)}, the median relative error "
        f"{number(facts.error, 2)}"
    )
    text += f", and loss changes correlate at {cosine(facts.correlation)}." if facts.correlation is not None else "."
    text += f" {sizes(facts)}"
    if facts.still:
        text += f" In {facts.still} further pairs nothing moved beyond rounding."
    if facts.worst is not None:
        old, new = facts.worst
        under = f"task {new + 1}" if isinstance(new, int) else clean(new)
        text += f" Worst is task {old + 1} under {under} (relative error {number(facts.worst_error, 2)})."
    if facts.bias is not None:
        side = "more" if facts.bias > 0 else "less"
        text += f" On average it predicts {number(abs(facts.bias), 2)} {side} loss than was measured."
    return text


def what_if_says(what_if: WhatIfFile) -> str:
    """Whether another rate would have been better, beyond noise, and whether to believe it."""
    return " ".join(what_if_verdict(to_builtins(what_if)).split())


def curves_says(gaps: GapsFile) -> str:
    """How far each estimator is from kernel regression, and where the network stands."""
    every = [gap.learning_curve for gap in gaps.every]
    parts = []
    for text, errors in (
        ("finite-population estimator", [off for curve in every for off in _off(curve.finite_population, curve)]),
        ("eigenlearning curve", [off for curve in every for off in _off(curve.eigenlearning, curve)]),
        ("leave-one-out", [off for curve in every for off in _off(curve.leave_one_out, curve)]),
    ):
        if known(errors):
            parts.append(f"{percent(median(errors), 0)} ({text})")
    said = (
        f"The median distance from kernel regression is {', '.join(parts)}." if parts else "No point can be compared."
    )
    # The last dot has most images: nearest to what the network was trained on
    ends = [(curve.network.loss, (known(curve.measured) or [None])[-1]) for curve in every]
    both = [(a, b) for a, b in ends if a is not None and b is not None]
    better = sum(a < b for a, b in both)
    return said + (
        f" On {better} of {len(both)} tasks the trained network's loss is below that of the last dot." if both else ""
    )


def _off(predicted: Numbers, curve: LearningCurve) -> list[float | None]:
    """Relative distances of an estimator from kernel regression."""
    return [relative(a, b) for a, b in zip(predicted, curve.measured, strict=True)]


def shares_says(summary: SummaryFile) -> str:
    """Which group carries most, and which least, at the last checkpoint of all seeds."""
    last = [seed.last for seed in summary.seeds.values()]
    shares = {name: mean(v for figures in last for v in figures.groups[name].share) for name in last[0].groups}
    ordered = sorted(((value, name) for name, value in shares.items() if value is not None), reverse=True)
    text = f"At the last checkpoint: {', '.join(f'{clean(name)} {percent(value)}' for value, name in ordered)}."
    aligned = {name: mean(figures.groups[name].stream_alignment for figures in last) for name in last[0].groups}
    best = sorted(((value, name) for name, value in aligned.items() if value is not None), reverse=True)
    if len(best) < 2:
        return text
    (high, first), (low, worst) = best[0], best[-1]
    return (
        f"{text} The labels of all tasks are best aligned with {clean(first)} ({number(high, 2)}), least with "
        f"{clean(worst)} ({number(low, 2)})."
    )
