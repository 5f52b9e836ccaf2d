"""The verdict: a few sentences in plain words, each computed from the run's numbers."""

from analysis.report.facts import (
    SAME_SIZE,
    ForecastFacts,
    GapFacts,
    KernelFacts,
    by_method,
    forecast_facts,
    gap_facts,
    kernel_facts,
    shown_method,
)
from analysis.report.gains import Difference, forgetting, gain
from analysis.report.lost import UNCOUNTED, lost_facts, split_says
from analysis.report.reading import RunFiles, clean
from analysis.store.study_forms import GapsFile
from ntkcl_jax.config.methods import HEAD

UNKNOWN = "unknown"
BASELINES = {
    "prototypes": "frozen prototypes without training",
    "sequential": "plain training on one task after the other",
    "joint": "training on all tasks at once",
    "ntkcl": "NTK-CL",
}


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with a few significant digits.

    Example:
        >>> number(0.123456), number(12345.6), number(-0.0), number(None)
        ('0.123', '12300', '0', 'unknown')
    """
    if value is None or value != value:  # NaN alone differs from itself
        return UNKNOWN
    if value == 0:
        return "0"
    short = f"{value:.{digits}g}"
    # `g` writes 12345 as 1.23e+04: people read 12300
    return f"{float(short):.0f}" if "e" in short and 1e-4 <= abs(value) < 1e6 else short


def cosine(value: float | None) -> str:
    """Write a cosine or a correlation with three decimals, as they are often close to 1.

    Example:
        >>> cosine(0.99761), cosine(None)
        ('0.998', 'unknown')
    """
    return UNKNOWN if value is None else f"{value:.3f}"


def percent(value: float | None, digits: int = 1) -> str:
    r"""Write a fraction in percent; the sign stays on the number's line.

    Example:
        >>> percent(0.9464), percent(None)
        ('94.6\xa0%', 'unknown')
    """
    return UNKNOWN if value is None else f"{100 * value:.{digits}f}\u00a0%"


def points(value: float | None) -> str:
    """Write a difference of fractions in percentage points.

    Example:
        >>> points(0.0325), points(0.01)
        ('3.3 points', '1.0 points')
    """
    # 3.25 may be stored a little below: halves round up, as readers expect
    return UNKNOWN if value is None else f"{100 * value + 1e-9:.1f} points"


def with_error(found: Difference, *, size: bool = False) -> str:
    """Write a difference with its standard error; its size alone, where the sentence says the direction.

    Example:
        >>> with_error(Difference(-0.032, 0.011)), with_error(Difference(-0.01, None), size=True)
        ('-3.2 ± 1.1 points', '1.0 points (standard error unknown)')
    """
    value = points(abs(found.value) if size else found.value)
    if found.error is None:
        return f"{value} (standard error {UNKNOWN})"
    return f"{value.removesuffix(' points')} ± {points(found.error)}"


def verdict(files: RunFiles) -> list[str]:
    """Say in three to five sentences what the run achieved and what theory says about it."""
    sentences = [_accuracy(files), _forgetting(files), _kernels(files)]
    if files.gaps:
        sentences.append(_gaps(files.gaps))
    # Only NTK-CL's own training is forecast here
    return [*sentences, _forecast(files)] if files.method == "ntkcl" else sentences


def method_name(method: str) -> str:
    """A method for people."""
    return BASELINES.get(method, f"method {clean(method)}")


def _accuracy(files: RunFiles) -> str:
    if not files.results:
        return "How accurate the run is isn't known yet: it has no results."
    summary, method = files.results.summary, shown_method(files)
    final = {name: made.final_accuracy.mean for name, made in summary.items()}
    tasks, seeds = summary[method].tasks, summary[method].final_accuracy.n
    text = (
        f"After {tasks} {'task' if tasks == 1 else 'tasks'}, {method_name(method)} names "
        f"{percent(final[method])} of the test images of all classes right"
    )
    text += f" (mean of {seeds} seeds)" if seeds > 1 else ""
    others = [f"{method_name(name)} {percent(value)}" for name, value in final.items() if name != method]
    text += f"; {' and '.join(others)}." if others else "."
    found = None if method == "prototypes" else gain(files, method, "prototypes")
    if found is None or found.error is None:
        return text
    what = "training" if files.config.config.pair(method).readout == HEAD else "its classifier"
    if not found.told:
        return f"{text} What {what} changed of it ({with_error(found)}) is nothing beyond noise."
    return f"{text} So {what} has {'gained' if found.value > 0 else 'cost'} {with_error(found, size=True)}."


def _forgetting(files: RunFiles) -> str:
    made = files.results.summary[shown_method(files)] if files.results else None
    if made is not None and (facts := lost_facts(made)):
        return split_says(facts)
    found = forgetting(files, shown_method(files)) if files.results else None
    if found is None:
        return "How much it forgot isn't known: that takes results of at least two tasks."
    fell = "fell" if found.value >= 0 else "rose"
    return (
        f"Accuracy on an earlier task {fell} by {with_error(found, size=True)} on average between its best and the "
        f"end. {UNCOUNTED}"
    )


def _kernels(files: RunFiles) -> str:
    if not files.summary:
        return "What its kernels say isn't known yet: they haven't been computed."
    facts = kernel_facts(files.summary)
    drift = "" if facts.drift is None else f" A task's kernel changed by {percent(facts.drift)} {facts.drift_over}" + (
        ", close to the constant kernel that theory assumes." if facts.drift < 0.1
        else ", too much for a theory of constant kernels." if facts.drift > 0.5
        else ", so theory of constant kernels is only approximate."
    )  # fmt: skip
    return closeness(facts) + drift


def closeness(facts: KernelFacts) -> str:
    """Say how much the tasks share, between the floor and the ceiling of the ratio."""
    if facts.last is None:
        return "With a single task there is no interplay between tasks to see in the kernels."
    low, high = facts.unrelated, facts.same
    share = "share directions" if high is not None or not facts.too_few else "may share directions"
    # A ratio says little by itself: see where it lies between floor and ceiling (docs/theory.md, section 4)
    if low is not None and high is not None and high > low:
        between = (facts.last - low) / (high - low)
        steps = ((0.15, "hardly share any directions"), (0.6, "share part of their directions"))
        share = next((words for limit, words in steps if between < limit), "share most of their directions")
    said = (
        f"In the kernels, tasks {share}: the inter-task kernel is {number(facts.last, 2)} of the intra-task ones, "
        f"where unrelated tasks would give {number(low, 2)}"
    )
    if high is None and facts.too_few:
        return (
            f"{said}. What a second sample of the same task would give can't be told: no two probe images are of one "
            "class; compute kernels with a larger --per-task."
        )
    return f"{said} and a second sample of the same task {number(high, 2)}."


def methods_says(files: RunFiles) -> str:
    """Which method's tasks share most in the kernels, and whose kernel changes most."""
    facts = {method_name(method): kernel_facts(summary) for method, summary in by_method(files).items()}
    said = []
    for what, value in (
        ("inter-task kernels at the last checkpoint", {name: one.last for name, one in facts.items()}),
        ("changes of a task's kernel", {name: one.drift for name, one in facts.items()}),
    ):
        known_ones = sorted((size, name) for name, size in value.items() if size is not None)
        if len(known_ones) > 1:
            (low, least), (high, most) = known_ones[0], known_ones[-1]
            said.append(f"The largest {what} has {most} ({number(high, 2)}), the smallest {least} ({number(low, 2)}).")
    return " ".join(said)


def _gaps(gaps: GapsFile) -> str:
    facts = gap_facts(gaps)
    if facts.total is None or facts.forgetting is None:
        return "With a single task, theory's error is that of learning it alone: nothing came later."
    text = (
        f"For theory's learner, later tasks added {number(facts.forgetting, 2)} to an earlier task's squared error "
        f"(mean error at the end {number(facts.total, 2)}); for the network they added "
        f"{number(facts.network_forgetting, 2)}."
    )
    if facts.unmatched:
        text += (
            f" The two can't be compared: on {unmatched(facts, gaps)} the network went farther than the learner can."
        )
    return text


def unmatched(facts: GapFacts, gaps: GapsFile) -> str:
    """On how many tasks the learner couldn't be matched with the network."""
    return f"{facts.unmatched} of {len(gaps.every)} tasks"


def _forecast(files: RunFiles) -> str:
    if not files.forecast:
        return "Whether forgetting can be forecast here isn't known yet: no forecast was made."
    facts = forecast_facts(files.forecast)
    if facts.verdict == "still":
        return (
            "Nothing moved: of all pairs of tasks, forecast and measured drift are within the rounding of float32 "
            "outputs, so there was nothing to forecast."
        )
    ending = {
        "holds": "holds",
        "direction": "holds in direction, but not in size",
        "no": "does not hold",
        None: "can't be judged",
    }[facts.verdict]
    related = "" if facts.correlation is None else f", correlation of loss changes {cosine(facts.correlation)}"
    return (
        f"The forecast made before each task {ending}: over {facts.pairs - facts.still} pairs of tasks the median "
        f"cosine of the predicted drift is {cosine(facts.cosine)} and its median relative error "
        f"{number(facts.error, 2)}{related}. {sizes(facts)}"
    )


def sizes(facts: ForecastFacts) -> str:
    """How large the forecast is beside what happened, and what counts as right."""
    parts = [(facts.size, "drifts"), (facts.loss_size, "loss changes")]
    told = " and ".join(f"{what} {number(ratio, 2)} times" for ratio, what in parts if ratio is not None)
    if not told:
        return "How large it is beside what happened can't be told."
    return f"It makes {told} as large as they were; between {1 / SAME_SIZE:.2f} and {SAME_SIZE:.2f} counts as right."
