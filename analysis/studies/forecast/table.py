"""A forecast for people: the table of pairs, and what it says in plain words."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from analysis.measures.error_bars import is_told, of_mean, over_seeds
from ntkcl_jax.terminal.progress import plain_text

LAZY = ((0.1, "lazy: nearly linear in its parameters over a task"), (0.3, "mostly lazy: first order holds roughly"))
"""Largest relative error of J Δp, and what it means."""
NOT_LAZY = "not lazy: its Jacobian changes while it learns, and first order misses much"


def told(made: Mapping[str, Any]) -> str:
    """The table and the sentences below it."""
    pairs = [(seed, pair) for seed, part in made["seeds"].items() for pair in part["pairs"]]
    if "new_data" in made:
        return f"{new_table(pairs)}\n\n{new_verdict(made)}"
    return f"{table(pairs)}\n\n{verdict(made)}"


def table(pairs: list[tuple[str, Mapping[str, Any]]]) -> str:
    """One line for each seed and pair of tasks, counted from 1.

    Example:
        >>> numbers = {"cosine": 0.99, "relative_error": 0.1, "predicted_loss_change": 0.01}
        >>> print(table([("0", {"old": 0, "new": 1, "measured_loss_change": 0.02, "ntk_drift": None, **numbers})]))
        seed  old  new   cosine  relative error  loss change forecast   measured  kernel moved
        0     1    2     0.9900          0.1000               +0.0100    +0.0200             –
    """
    lines = ["seed  old  new   cosine  relative error  loss change forecast   measured  kernel moved"]
    for seed, p in pairs:
        lines.append(
            f"{seed:<5} {p['old'] + 1:<4} {p['new'] + 1:<4} {_number(p['cosine'], '.4f'):>7} "
            f"{_number(p['relative_error'], _form(p['relative_error'])):>15} "
            f"{_number(p['predicted_loss_change'], '+.4f'):>21} {_number(p['measured_loss_change'], '+.4f'):>10} "
            f"{_number(p['ntk_drift'], '.1%'):>13}"
        )
    return "\n".join(lines)


def new_table(pairs: list[tuple[str, Mapping[str, Any]]]) -> str:
    """One line for each seed and old task."""
    lines = ["seed  old   drift  loss change  accuracy now  change by drift  with new classes"]
    for seed, p in pairs:
        lines.append(
            f"{seed:<5} {p['old'] + 1:<4} {p['predicted_norm']:>6.3f} {p['predicted_loss_change']:>+12.4f} "
            f"{p['accuracy']:>13.1%} {_points(p['predicted_accuracy_change']):>16} "
            f"{_points(p['predicted_accuracy_change_with_new']):>17}"
        )
    return "\n".join(lines)


def verdict(made: Mapping[str, Any]) -> str:
    """How good the forecast is, and how lazy the run."""
    pairs = [pair for part in made["seeds"].values() for pair in part["pairs"]]
    errors = _known(pairs, "relative_error")
    # A forecast that is zero throughout has no direction
    cosine = median(_known(pairs, "cosine") or [math.nan])
    still = sum(pair["moved"] is False for pair in pairs)
    if not errors:
        return (
            "Nothing moved: forecast and measured drift are both within the rounding of float32 outputs."
            if still == len(pairs)
            else "Nothing moved that could be compared."
        )
    sizes = [p["predicted_norm"] / p["measured_norm"] for p in pairs if p["moved"] and p["measured_norm"]]
    lines = [
        f"The forecast misses the drift by {_share(median(errors))} in the middle ({_share(min(errors))} to "
        f"{_share(max(errors))}), at a cosine of {cosine:.4f} and {median(sizes):.2f} times its size."
    ]
    if still:
        lines.append(f"In {still} of {len(pairs)} pairs nothing moved beyond rounding; they aren't compared.")
    if made["loss_change_correlation"] is not None:
        lines.append(f"Forecast and measured loss changes correlate at {made['loss_change_correlation']:.3f}.")
    # Pairs of which the step is known and in which something moved
    split = [(p["true_step"], p["trapezoid"]) for p in pairs if p["true_step"] and p["true_step"]["relative_error"]]
    if split:
        true, ends = (median(part["relative_error"] for part in side) for side in zip(*split, strict=True))
        moved = _share(median(_known(pairs, "ntk_drift")))
        words = next((words for limit, words in LAZY if true <= limit), NOT_LAZY)
        lines.append(
            f"This run is {words}. With the step that training really took, first order misses {_share(true)}, with "
            f"the Jacobians of both ends {_share(ends)}; the kernel moved by {moved}."
        )
    if made["method"] == "sequential":
        lines.append("A linear classifier has one kernel for ever: what is left is float32 rounding of its training.")
    elif made["procedure"] != "run":
        lines.append(f"Forecast for {made['procedure']}; measured is the run's own training, which is another one.")
    return "\n".join(lines)


def new_verdict(made: Mapping[str, Any]) -> str:
    """What training on the new images would do to the accuracy on old tasks, with standard errors.

    Example:
        >>> names = ("predicted_accuracy_change", "predicted_accuracy_change_with_new")
        >>> pair = {"accuracy": 0.9, names[0]: -0.01, names[1]: -0.2, "predicted_loss_change": 0.01, "old": 0}
        >>> pair |= {f"{name}_error": 0.03 for name in names}
        >>> print(new_verdict({"new_data": {"classes": ["owl"]}, "seeds": {"0": {"names": ["cat"], "pairs": [pair]}}}))
        Training on 1 new class next would change the accuracy on old tasks by -1.0 ± 3.0 points through drift
        (no change that these images tell) and by -20.0 ± 3.0 points with the new class competing (means over tasks,
        ± their standard error); most on task 1, cat.
    """
    parts = list(made["seeds"].values())
    pairs = [(pair, part["names"][pair["old"]]) for part in parts for pair in part["pairs"]]
    drift, both = (
        _mean_change(parts, name) for name in ("predicted_accuracy_change", "predicted_accuracy_change_with_new")
    )
    # Of equal accuracies the one whose loss grows most
    worst, name = min(
        pairs, key=lambda found: (found[0]["predicted_accuracy_change_with_new"], -found[0]["predicted_loss_change"])
    )
    count = len(made["new_data"]["classes"])
    classes = "class" if count == 1 else "classes"
    most = f"; most on task {worst['old'] + 1}, {plain_text(name)}" if is_told(*both) else ""
    return (
        f"Training on {count} new {classes} next would change the accuracy on old tasks by {_change(*drift)} through "
        f"drift\n{_untold(*drift)}and by {_change(*both)} with the new {classes} competing {_untold(*both)}(means over "
        f"tasks,\n± their standard error){most}."
    )


def _mean_change(parts: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Mean over seeds and tasks of a change of accuracy, and its standard error."""
    means = [fmean(pair[name] for pair in part["pairs"]) for part in parts]
    # Seeds may share images: the error of one seed's mean is no smaller for there being several
    of_images = max(of_mean([pair[f"{name}_error"] for pair in part["pairs"]]) for part in parts)
    error = over_seeds(means, of_images)
    assert error is not None
    return fmean(means), error


def _change(value: float, error: float) -> str:
    return f"{_points(value)} ± {100 * error:.1f} points"


def _untold(value: float, error: float) -> str:
    return "" if is_told(value, error) else "(no change that these images tell) "


def _known(pairs: list[Mapping[str, Any]], name: str) -> list[float]:
    return [pair[name] for pair in pairs if pair[name] is not None]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _form(value: float | None) -> str:
    return ".1e" if value is not None and value < 1e-3 else ".4f"


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 1e-3 else f"{value:.1e}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
