"""Figures of what theory says: the parts of errors, forecasts of forgetting, learning curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analysis.plots.kernels import task_colour, task_key, task_ticks
from analysis.report.figures import legend_below, new_figure
from analysis.report.reading import floats, known
from analysis.store.forms import Numbers
from analysis.store.study_forms import Budget, ForecastPair, Gap, LearningCurve
from analysis.store.what_if_forms import WhatIfFile
from ntkcl_jax.plots.style import COLOURS, GREY, label, style

CURVES: Mapping[str, tuple[str, str, Callable[[LearningCurve], Numbers]]] = {
    "finite population": ("-", COLOURS[0], lambda curve: curve.finite_population),
    "eigenlearning": ("--", COLOURS[2], lambda curve: curve.eigenlearning),
    "leave-one-out": (":", COLOURS[3], lambda curve: curve.leave_one_out),
}
"""Line, colour and numbers of each estimator."""


def stack(budget: Budget) -> dict[str, float]:
    """The parts of a squared error, in the order in which they are stacked; absent numbers are left out.

    Returns:
        `own` (task-specific), `from K` for each later task K (from 1), `cross_own` and `cross_between` (sums).
    """
    parts = {"own": budget.task_specific}
    # S, I_k, and the sums of C_k and of X_kl (docs/theory.md, section 1.1)
    parts |= {f"from {k + 1}": value for k, value in sorted(budget.interplay.items())}
    parts["cross_own"] = sum(known(budget.cross.own.values()), 0.0)
    parts["cross_between"] = sum(known(budget.cross.between.values()), 0.0)
    return {name: value for name, value in parts.items() if value is not None}


@style()
def budget_figure(budgets: Sequence[Budget], tasks: Sequence[int], title: str, limits: tuple[float, float]) -> Figure:
    """Stack each task's parts of its squared error: what is above zero upwards, what is below downwards.

    Args:
        budgets: one for each task.
        tasks: task numbers, from 0.
        title: whose error.
        limits: of the axis, shared by the figures that are compared.
    """
    figure, axes = new_figure((4.6, 4.0))
    later = sorted({k for budget in budgets for k in budget.interplay})
    looks: dict[str, tuple[str | None, dict[str, Any]]] = {"own": ("left after learning it", {"color": "#444444"})}
    # Many later tasks would make a legend longer than the figure; a few of them name the colours
    keys = [task_key(i, later) for i in range(len(later))]
    looks |= {
        f"from {k + 1}": (key and f"from {key}", {"color": task_colour(i, len(later))})
        for i, (k, key) in enumerate(zip(later, keys, strict=True))
    }
    plain = {"edgecolor": GREY, "linewidth": 0.6}
    looks["cross_own"] = ("own × later", {"facecolor": "#dddddd", "hatch": "///", **plain})
    looks["cross_between"] = ("later × later", {"facecolor": "#ffffff", "hatch": "\\\\\\", **plain})
    stacks = [stack(budget) for budget in budgets]
    top, bottom = np.zeros(len(tasks)), np.zeros(len(tasks))
    at = np.arange(len(tasks))
    for name, (text, look) in looks.items():
        values = np.array([parts.get(name, 0.0) for parts in stacks])
        # Two stacks from zero, since cross terms may be negative: the diamond shows what they add up to
        base = np.where(values >= 0, top, bottom)
        axes.bar(at, values, bottom=base, width=0.66, label=text, **look)
        top, bottom = top + np.maximum(values, 0), bottom + np.minimum(values, 0)
    axes.plot(at, floats([budget.total for budget in budgets]), "D", color="black", mfc="white", ms=5, label="sum")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xticks(task_ticks(len(tasks)), [str(tasks[i] + 1) for i in task_ticks(len(tasks))])
    axes.set(title=title, xlabel="task", ylabel="squared error per image", ylim=limits)
    legend_below(figure, axes)
    return figure


def budget_limits(budgets: Sequence[Budget]) -> tuple[float, float]:
    """Axis that holds every stack, with room."""
    stacks = [list(stack(budget).values()) for budget in budgets]
    # Positive and negative parts are stacked apart, so each side has its own height
    high = max([sum(max(v, 0) for v in parts) for parts in stacks] + known(b.total for b in budgets), default=0)
    low = min((sum(min(v, 0) for v in parts) for parts in stacks), default=0)
    room = 0.06 * (high - low) or 1.0
    return low - (room if low < 0 else 0), high + room


@style()
def forecast_figure(pairs: Sequence[ForecastPair]) -> Figure:
    """Draw predicted against measured loss changes, a point for each pair of an old and a new task.

    Args:
        pairs: those with both numbers.
    """
    figure, axes = new_figure((4.6, 4.2))
    x = floats([pair.measured_loss_change for pair in pairs])
    y = floats([pair.predicted_loss_change for pair in pairs])
    old = floats([pair.old + 1 for pair in pairs])
    # Numbers before names, which can't be compared with each other
    new = sorted({pair.new for pair in pairs}, key=lambda name: (isinstance(name, str), name))
    # One range for both axes, so that the line of equal values is the diagonal
    low, high = min(x.min(), y.min(), 0), max(x.max(), y.max(), 0)
    room = 0.08 * (high - low) or 1e-3
    ends = (low - room, high + room)
    axes.plot(ends, ends, color=GREY, lw=1, ls="--", label="exact")
    axes.axhline(0, color="#cccccc", lw=0.7, zorder=0)
    axes.axvline(0, color="#cccccc", lw=0.7, zorder=0)
    for i, k in enumerate(new):
        chosen = np.array([pair.new == k for pair in pairs])
        axes.scatter(x[chosen], y[chosen], s=26, color=task_colour(i, len(new)), label=_new_name(i, new), zorder=3)
    # [n, n] distances between points, infinite to themselves: only one with room around it gets a number
    gaps = np.hypot(x[:, None] - x, y[:, None] - y) + np.where(np.eye(len(x)), np.inf, 0.0)
    for a, b, t, gap in zip(x, y, old, gaps.min(axis=1), strict=True):
        if gap > 0.07 * (ends[1] - ends[0]):  # room for a digit
            axes.annotate(f"{t:.0f}", (a, b), xytext=(4, 4), textcoords="offset points", fontsize=9)
    axes.set(xlim=ends, ylim=ends, aspect="equal", title="loss change of old tasks")
    axes.set(xlabel="measured (half squared loss)", ylabel="predicted before training")
    axes.locator_params(nbins=5)
    legend_below(figure, axes)
    return figure


def _new_name(index: int, new: Sequence[int | str]) -> str | None:
    """Key of what was learnt, among all that was, as `task_key` chooses."""
    if task_key(index, range(len(new))) is None:
        return None
    what = new[index]
    return f"by task {what + 1}" if isinstance(what, int) else f"by {label(what, 16)}"


@style()
def what_if_figure(what_if: WhatIfFile) -> Figure:
    """Draw the accuracies that later rates are expected to give, at the run's own epochs: of a task, and at the end."""
    figure, axes = new_figure((4.6, 4.2))
    j, rates = what_if.epochs.index(what_if.own.epochs), what_if.rates
    places = np.arange(len(rates))
    for number, title, colour in (
        ("new_accuracy", "new task", COLOURS[2]), ("old_accuracy", "old tasks", COLOURS[1]),
        ("accuracy", "all seen", COLOURS[0]),
    ):  # fmt: skip
        for part, line, name in ((what_if.mean.points, "o-", title), (what_if.mean.spared, "--", None)):
            values = floats([row[j] for row in getattr(part, number)])
            axes.plot(places, 100 * values, line, ms=3.5, lw=1.5, color=colour, label=name)
        measured = floats(getattr(what_if.mean.measured, number))
        axes.plot(rates.index(what_if.own.rate), 100 * measured, "x", ms=8, mew=2, color=colour)
    ends, best = floats(what_if.end.accuracy), what_if.best_course
    axes.plot(places, 100 * ends, "s-", ms=3.5, lw=1.5, color="black", label="run's end, all")
    axes.plot(rates.index(best.rate), 100 * best.accuracy, "*", ms=12, color="black", label="best")
    axes.plot([], [], "--", color=GREY, label="projected")
    axes.plot([], [], "x", color=GREY, ls="", label="measured")
    axes.axvline(rates.index(what_if.own.rate), color=GREY, lw=1, ls=":")
    # Rates are steps of a factor, and zero has no place on a logarithmic axis: each has its own
    axes.set_xticks(places, [f"{rate:.3g}" for rate in rates], rotation=45 if len(rates) > 6 else 0)
    axes.grid(alpha=0.25)
    axes.set(title="other later rates", xlabel="later learning rate", ylabel="expected accuracy, %")
    legend_below(figure, axes)
    return figure


@style()
def curve_figure(gap: Gap) -> Figure:
    """Draw a task's predicted test losses against training-set size, beside kernel regression and the network.

    Args:
        gap: what `gaps.json` says of the task.
    """
    figure, axes = new_figure()
    curve, network = gap.learning_curve, gap.learning_curve.network
    sizes, measured = floats(curve.sizes), floats(curve.measured)
    predicted = [floats(values(curve)) for _, _, values in CURVES.values()]
    for (name, (line, colour, _)), values in zip(CURVES.items(), predicted, strict=True):
        if np.isfinite(values).any():
            axes.plot(sizes, values, line, color=colour, lw=1.6, label=name)
    # One subset has no deviation: a dot without bars
    spread = np.nan_to_num(floats(curve.measured_std))
    look: dict[str, Any] = {"fmt": "o", "ms": 4.5, "capsize": 2.5, "lw": 1}
    if len(sizes):
        axes.errorbar(sizes, measured, spread, color="black", label="kernel regression", **look)
    axes.set_xscale("log")
    ticks = sorted(set(curve.sizes))
    ticks = ticks[:: 1 + len(ticks) // 5]  # about five have room
    heights = [*known(np.ravel(predicted)), *known(measured + spread)]
    if network.loss is not None:
        axes.plot(network.images, network.loss, "*", ms=12, color=COLOURS[1], label="trained network", ls="")
        ticks.append(network.images)
        heights.append(network.loss)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    # A logarithmic axis would write numbers of its own between these
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.1 * max(heights, default=1.0) or 1.0)
    axes.grid(alpha=0.25)
    axes.set(title=f"task {gap.task + 1}", xlabel="training images of the task", ylabel="half squared test loss")
    legend_below(figure, axes, columns=2)
    return figure
