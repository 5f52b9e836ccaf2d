"""Figure of the forgetting budget: what each old task lost to competition and to drift, by the later task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.plots.style import GREY, label, style
from ntkcl_jax.terminal.budget import known_budget
from ntkcl_jax.terminal.tables import summary_of

LOOKS = {"competition": "Blues", "drift": "Oranges"}
"""Colours of each part: dark for the first later task, light for the last one."""
DARK, LIGHT = 0.9, 0.3


def parts_by_task(summary: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "t t"]]:
    """What each old task lost to each later one, in points, mean over seeds: `[s, k]` of task k by task s.

    Args:
        summary: of a method in `results.json`, with a budget.

    Returns:
        `competition` and `drift`, zero where k >= s.

    Example:
        >>> plain = {"accuracy_matrix": [[1.0, None], [0.5, 1.0]]}
        >>> plain["accuracy_among_old_classes"] = [[None, None], [0.75, None]]
        >>> parts_by_task({name: {"mean": matrix} for name, matrix in plain.items()})["drift"].tolist()
        [[0.0, 0.0], [25.0, 0.0]]
    """
    after, among_old = (
        np.array(summary[name]["mean"], dtype=float) for name in ("accuracy_matrix", "accuracy_among_old_classes")
    )
    # Row s of the accuracies before task s; before the first one there are none
    before = np.vstack([np.full((1, len(after)), np.nan), after[:-1]])
    parts = {"competition": among_old - after, "drift": before - among_old}
    return {name: 100 * np.tril(np.nan_to_num(values), -1) for name, values in parts.items()}


def budget_limits(results: Mapping[str, Any]) -> tuple[float, float]:
    """Axis that holds the bars of every method, so that the heights in their figures can be compared."""
    low, high = 0.0, 1.0  # at least a point: nothing lost would give an axis without height
    for summary in summary_of(results)[0].values():
        if known_budget(summary) is not None:
            both = np.concatenate(list(parts_by_task(summary).values()))
            high = max(high, float(np.maximum(both, 0).sum(axis=0).max()), *_ends(summary)[1])
            low = min(low, float(np.minimum(both, 0).sum(axis=0).min()), *_ends(summary)[0])
    room = 0.05 * (high - low)
    return low - (room if low < 0 else 0), high + room


@style()
def budget_figure(
    results: Mapping[str, Any], method: str, limits: tuple[float, float] | None = None, width: float | None = None
) -> Figure:
    """Stack what each old task lost to each later one: losses upwards, what was won back downwards.

    Args:
        results: what `results.json` holds.
        method: one of the methods in it.
        limits: of the axis in points; those of `budget_limits` when None.
        width: of the figure in inches; None: what its tasks need.

    Raises:
        RunFolderError: if `results` lacks a part or the method's budget.
    """
    summaries, _ = summary_of(results)
    budget = known_budget(summaries[method]) if method in summaries else None
    if budget is None:
        raise RunFolderError(
            f"expected a forgetting budget of method {method!r} in the results; evaluate the run again"
        )
    parts, tasks = parts_by_task(summaries[method]), len(budget["mean"]["test_images"])
    figure = Figure(figsize=(width or max(4.6, 0.42 * tasks + 2), 3.9), layout="constrained")
    axes, at = figure.add_subplot(), np.arange(tasks - 1)
    top, bottom = np.zeros(tasks - 1), np.zeros(tasks - 1)
    for name, colours in LOOKS.items():
        for s in range(1, tasks):
            values = parts[name][s, :-1]
            base = np.where(values >= 0, top, bottom)
            axes.bar(at, values, bottom=base, width=0.72, color=_shade(colours, s, tasks), edgecolor="white", lw=0.3)
            top, bottom = top + np.maximum(values, 0), bottom + np.minimum(values, 0)
    low, high = (np.array(end) for end in _ends(summaries[method]))
    mean, several = 100 * np.array(budget["mean"]["of_task"]["lost"]), budget["n"] > 1
    error: dict[str, Any] = {"fmt": "D", "color": "black", "mfc": "white", "ms": 4, "lw": 1, "capsize": 2}
    what = "lost in all, ± standard " + ("deviation" if several else "error")
    axes.errorbar(at, mean, yerr=(mean - low, high - mean), label=what, **error)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xticks(at, [str(k + 1) for k in at])
    # A single bar would be as wide as the figure
    side = max(0.6, 1.5 - 0.5 * len(at))
    axes.set(xlim=(-side, len(at) - 1 + side), ylim=limits or budget_limits(results))
    axes.set(xlabel="old task", ylabel="points of accuracy lost")
    seeds = f" (mean of {budget['n']} seeds)" if several else ""
    axes.set_title(f"{label(method, 24)}: lost since learned{seeds}")
    patches = [Patch(color=_shade(colours, 1, 2), label=name) for name, colours in LOOKS.items()]
    handles = [*patches, *axes.get_legend_handles_labels()[0]]
    title = f"dark to light: by task 2 to {tasks}" if tasks > 2 else None
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _shade(colours: str, later: int, tasks: int) -> tuple[float, float, float, float]:
    """Colour of what a later task did, of tasks 1 to tasks - 1."""
    part = (later - 1) / (tasks - 2) if tasks > 2 else 0.35
    return colormaps[colours](DARK + (LIGHT - DARK) * part)


def _ends(summary: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Ends of the whiskers of each old task, in points: standard errors, or deviations over several seeds."""
    mean, std = (summary["forgetting_budget"][name] for name in ("mean", "std"))
    spread = std["of_task"]["lost"] if summary["forgetting_budget"]["n"] > 1 else mean["of_task"]["lost_error"]
    pairs = list(zip(mean["of_task"]["lost"], spread, strict=True))
    return [100 * (m - (s or 0)) for m, s in pairs], [100 * (m + (s or 0)) for m, s in pairs]
