"""The forgetting budget in points of accuracy, for people: parts that add up to the total that is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "–"
PARTS = ("lost", "competition", "drift")
LEGEND = (
    "Competition: still right among the old classes, but a new one scores higher; it takes a better readout or better "
    "features, and a smaller later learning rate where training favours its own classes. Drift: answers among the old "
    "classes changed; protection or a smaller later learning rate lessens it."
)
OLDER = (
    "–: evaluated by a version that kept no answers to single images. `ntkcl evaluate RUN` counts them again for "
    "methods with a checkpoint of every task; a readout has to be learned again."
)


def adding_up(total: float, parts: Sequence[float], digits: int = 1) -> list[float]:
    """Round a sum and its parts, fractions, to points of which the rounded parts add up to the rounded sum.

    Args:
        total: sum of the parts.
        parts: its parts.
        digits: after the decimal point.

    Returns:
        The sum, then the parts. A part that isn't rounded to its nearest is the one that was furthest from it.

    Raises:
        ValueError: the parts aren't those of the sum.

    Example:
        >>> adding_up(0.0588, [0.0556, 0.0032]), adding_up(0.0588, [0.05545, 0.00335])
        ([5.9, 5.6, 0.3], [5.9, 5.6, 0.3])
        >>> adding_up(0.01, [0.01, 0.0])
        [1.0, 1.0, 0.0]
    """
    scale = 100 * 10**digits
    whole, units = round(total * scale), [round(part * scale) for part in parts]
    if abs(whole - sum(units)) > len(parts):
        raise ValueError(f"expected parts that add up to {total}, got {list(parts)}")
    while (short := whole - sum(units)) != 0:
        step = 1 if short > 0 else -1
        furthest = max(range(len(parts)), key=lambda i: step * (parts[i] * scale - units[i]))
        units[furthest] += step
    return [unit / 10**digits for unit in (whole, *units)]


def in_points(value: float, digits: int = 1) -> str:
    """Write a number of points without a negative zero.

    Example:
        >>> in_points(-0.01), in_points(5.94)
        ('0.0', '5.9')
    """
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def known_budget(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The budget of a method in the summary of `results.json`; None of a single task, and of older versions' runs."""
    budget = summary.get("forgetting_budget")
    return budget if budget and budget["mean"] is not None else None


def is_older(summary: Mapping[str, Any]) -> bool:
    """Tell whether a method has forgotten something that isn't split, as a version without the budget evaluated it."""
    return known_budget(summary) is None and len(summary["accuracy_after_task"]["mean"]) > 1


def budget_cells(summary: Mapping[str, Any], *, several: bool) -> list[str]:
    """What old tasks lost and its two parts, with standard errors, or deviations over seeds where a run has several.

    Args:
        summary: of a method, as `metrics.aggregate` makes it.
        several: whether any method of the run has several seeds.

    Example:
        >>> mean = {"lost": 0.0588, "competition": 0.0556, "drift": 0.0032}
        >>> mean |= {"lost_error": 0.006, "competition_error": 0.005, "drift_error": 0.004}
        >>> budget_cells({"forgetting_budget": {"mean": mean, "std": None, "n": 1}}, several=False)
        ['5.9 ± 0.6', '5.6 ± 0.5', '0.3 ± 0.4']
    """
    budget = known_budget(summary)
    if budget is None:
        return [UNKNOWN] * len(PARTS)
    mean = budget["mean"]
    shown = adding_up(mean["lost"], [mean["competition"], mean["drift"]])
    spread = [budget["std"][part] if several else mean[f"{part}_error"] for part in PARTS]
    return [
        in_points(value) + ("" if of is None else f" ± {in_points(100 * of)}")
        for value, of in zip(shown, spread, strict=True)
    ]
