"""Figures of a finished run; each method has its own colour and marker and is named beside its line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.plots.budget import budget_figure, budget_limits
from ntkcl_jax.plots.style import COLOURS, GREY, INK, label, save, style
from ntkcl_jax.terminal.budget import known_budget
from ntkcl_jax.terminal.tables import percent, summary_of

TASK_LABEL = 28
"""Signs of a task's name beside its row."""
_MARKERS = "osD^vPX"
_RIGHT, _WRONG = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class SampleRow:
    """Some test images of one task and what the model said about each."""

    title: str
    """Name of the task."""
    images: Shaped[np.ndarray, "n h w c"]
    """Pixels, uint8 or float in [0, 1]; c is 1 or 3."""
    true_names: Sequence[str]
    """True class of each image."""
    predicted_names: Sequence[str]
    """Predicted class of each image."""


@style()
def accuracy_curves(results: Mapping[str, Any]) -> Figure:
    """Draw A_t over tasks: one line for each method, a band of one standard deviation over seeds.

    Args:
        results: what `results.json` holds (see `tables.accuracy_table`).

    Raises:
        RunFolderError: if `results` lacks a part.
    """
    summaries, _ = summary_of(results)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    ends = []
    lowest = 100.0
    for number, (method, summary) in enumerate(summaries.items()):
        colour, marker = _look(method, number)
        after = summary["accuracy_after_task"]
        mean = 100 * np.array(after["mean"], dtype=float)
        # None with a single seed: no band
        std = 100 * np.array([0.0 if s is None else s for s in after["std"]])
        x = np.arange(1, len(mean) + 1)
        # Not clipped: markers at 100 % would be cut in half by the frame
        axes.plot(x, mean, color=colour, marker=marker, markersize=5, linewidth=1.8, clip_on=False, zorder=3)
        if std.any():
            axes.fill_between(x, mean - std, np.minimum(mean + std, 100), color=colour, alpha=0.18, linewidth=0)
        ends.append((float(x[-1]), float(mean[-1]), label(method, 24), colour))
        lowest = min(lowest, float((mean - std).min()))
    tasks = int(max(x for x, *_ in ends))
    # Down to a whole ten with some room, so that differences among high accuracies can be seen
    bottom = max(0.0, 10 * np.floor((lowest - 2) / 10))
    axes.set(xlim=(0.8, tasks + 0.2), ylim=(bottom, 100), xticks=range(1, tasks + 1, 1 + tasks // 13))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(xlabel="tasks learned", ylabel="accuracy on all classes seen, %")
    axes.set_title(_over_seeds("Accuracy as tasks arrive", "band", summaries))
    # Names stand at the ends of lines, so no legend is needed; lines that end together are moved apart
    heights = _apart([y for _, y, *_ in ends], gap=(100 - bottom) * 0.055, low=bottom, high=100)
    for (x, _, name, colour), y in zip(ends, heights, strict=True):
        axes.annotate(
            name, (x, y), xytext=(9, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )
    return figure


@style()
def accuracy_matrix_figure(results: Mapping[str, Any], method: str) -> Figure:
    """Draw acc[t, k] of one method as a table of shaded numbers, mean over seeds.

    Args:
        results: what `results.json` holds.
        method: one of the methods in it.

    Raises:
        RunFolderError: if `results` lacks a part or the method.
    """
    summaries, task_names = summary_of(results)
    if method not in summaries or "accuracy_matrix" not in summaries[method]:
        raise RunFolderError(f"expected one of {', '.join(summaries)}, got method {method!r}; name one of them")
    matrix = summaries[method]["accuracy_matrix"]["mean"]
    tasks = len(matrix)
    values = np.array([[np.nan if v is None else 100 * v for v in row] for row in matrix], dtype=float)
    names = [label(task_label(name), TASK_LABEL) for name in task_names[:tasks]]
    names += [f"task {k + 1}" for k in range(len(names), tasks)]
    side = max(3.2, 0.62 * tasks)
    longest = max(map(len, names))
    # The names beside the rows need a width of their own
    figure = Figure(figsize=(side + max(2.2, 0.84 + 0.085 * longest), 0.75 * side + 1.6), layout="constrained")
    axes = figure.add_subplot()
    # Scale fixed and beyond 100: equal colours mean equal accuracies in all figures, and numbers stay legible
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=125, aspect="auto")
    for t, k in zip(*np.nonzero(np.isfinite(values)), strict=True):
        shade = "white" if values[t, k] > 75 else INK
        axes.text(k, t, f"{values[t, k]:.1f}", ha="center", va="center", color=shade, fontsize=9)
    wide = longest * 0.085 > side / tasks  # than their cells: the rows have the names
    axes.set_xticks(range(tasks), [str(t + 1) for t in range(tasks)] if wide else names)
    axes.set_yticks(range(tasks), [f"{t + 1}: {name}" for t, name in enumerate(names)])
    axes.set(xlabel="test images of task", ylabel="after learning task")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    n = summaries[method]["final_accuracy"]["n"]
    axes.set_title(f"{label(method, 24)}: accuracy, %" + (f" (mean of {n} seeds)" if n > 1 else ""))
    return figure


@style()
def forgetting_bars(results: Mapping[str, Any]) -> Figure:
    """Draw forgetting F of each method, with a whisker of one standard deviation and a tick for each seed.

    Args:
        results: what `results.json` holds; its "seeds" bring the ticks.

    Raises:
        RunFolderError: if `results` lacks a part, or there is a single task and so no forgetting.
    """
    summaries, _ = summary_of(results)
    known = {m: s["forgetting"] for m, s in summaries.items() if s["forgetting"]["mean"] is not None}
    if not known:
        raise RunFolderError("expected at least two learned tasks to show forgetting, got one; learn another task")
    figure = Figure(figsize=(7, 0.62 * len(known) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    reach = [0.0]
    for number, (method, forgetting) in enumerate(known.items()):
        mean, std = 100 * forgetting["mean"], 100 * (forgetting["std"] or 0.0)
        seeds = [of_seed[method]["forgetting"] for of_seed in results.get("seeds", {}).values() if method in of_seed]
        ticks = [100 * f for f in seeds if f is not None]
        # Its place among all methods, so that it has the colour that it has in the curves
        colour, _ = _look(method, list(summaries).index(method))
        axes.barh(number, mean, height=0.55, color=colour, alpha=0.75)
        if std:
            axes.errorbar(mean, number, xerr=std, color="black", linewidth=1.2, capsize=3)
        if len(ticks) > 1:
            axes.plot(ticks, [number + 0.36] * len(ticks), "|", color=GREY, markersize=6)
        right = max([mean + std, 0.0, *ticks])
        reach += [min([mean - std, *ticks]), right]
        value = percent(forgetting["mean"], forgetting["std"], digits=1)
        axes.annotate(value, (right, number), xytext=(7, 0), textcoords="offset points", va="center")
    # At least a point wide: bars that are all zero would give an axis without width
    room = max(max(reach) - min(reach), 1.0)
    axes.set_xlim(min(reach) - (0.03 * room if min(reach) < 0 else 0), max(reach) + 0.22 * room)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(known)), [label(m, 24) for m in known])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("forgetting F, percentage points (less is better)")
    axes.set_title(_over_seeds("Forgetting after the last task", "whisker", summaries))
    return figure


@style()
def sample_sheet(rows: Sequence[SampleRow]) -> Figure:
    """Draw a row of test images for each task, with the predicted class; wrong ones are framed and corrected.

    Args:
        rows: at least one, each with at least one image.

    Raises:
        ValueError: if there is nothing to draw, or a row's names and images differ in number.
    """
    if not rows or not all(len(r.images) == len(r.true_names) == len(r.predicted_names) > 0 for r in rows):
        raise ValueError("expected rows of at least one image, each image with a true and a predicted name")
    columns = max(len(row.images) for row in rows)
    figure = Figure(figsize=(1.05 * columns + 1.4, 1.3 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        for axes in line[len(row.images) :]:
            axes.set_axis_off()
        for axes, image, true, said in zip(line, row.images, row.true_names, row.predicted_names, strict=False):
            _sample(axes, np.asarray(image), str(true), str(said))
        line[0].set_ylabel(label(row.title, 18), rotation=0, ha="right", va="center", labelpad=8)
    figure.suptitle("Test images and what the model says (✓ right, ✗ wrong)", x=0.01, ha="left", fontsize=11)
    return figure


def save_figures(
    results: Mapping[str, Any], folder: Path, *, samples: Sequence[SampleRow] = (), dpi: int = 150
) -> list[Path]:
    """Draw everything there is to draw of a run as PNG files.

    Args:
        results: what `results.json` holds.
        folder: made if it doesn't exist; figures of the same names are replaced.
        samples: rows for the sample sheet; without any there is no sheet.
        dpi: dots per inch.

    Returns:
        The files written: accuracy_curves.png, accuracy_matrix_METHOD.png for each method, forgetting.png and
        forgetting_budget_METHOD.png where there are two tasks (the latter of methods whose budget is known),
        samples.png where there are samples.

    Raises:
        RunFolderError: if `results` lacks a part, or a file can't be written.
    """
    summaries, _ = summary_of(results)
    figures = {"accuracy_curves": accuracy_curves(results)}
    names = {method: file_name(method) for method in summaries}
    for method, name in names.items():
        figures[f"accuracy_matrix_{name}"] = accuracy_matrix_figure(results, method)
    if any(s["forgetting"]["mean"] is not None for s in summaries.values()):
        figures["forgetting"] = forgetting_bars(results)
    limits = budget_limits(results)
    for method, name in names.items():
        if known_budget(summaries[method]) is not None:
            figures[f"forgetting_budget_{name}"] = budget_figure(results, method, limits)
    if samples:
        figures["samples"] = sample_sheet(samples)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return [save(figure, Path(folder) / f"{name}.png", dpi) for name, figure in figures.items()]
    except OSError as error:
        raise RunFolderError(f"expected to write figures in {folder}, got {error.strerror}; free it") from error


def file_name(method: str) -> str:
    """A method's name as part of a file's.

    Example:
        >>> file_name("ease/ridge")
        'ease_ridge'
    """
    return re.sub(r"[^A-Za-z0-9-]+", "_", method)


def _sample(axes: Axes, image: np.ndarray, true: str, said: str) -> None:
    right = said == true
    colour = _RIGHT if right else _WRONG
    pixels = np.clip(image / (255 if image.dtype == np.uint8 else 1), 0, 1)
    axes.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=not right, color=colour, linewidth=2.5)
    text = f"✓ {label(said, 12)}" if right else f"✗ {label(said, 12)}\nis {label(true, 12)}"
    axes.set_xlabel(text, color=colour, fontsize=8, labelpad=3)


def _look(method: str, number: int) -> tuple[str, str]:
    """Colour and marker of a method: always the same for the project's own ones."""
    place = METHODS.index(method) if method in METHODS else len(METHODS) + number
    return COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]


def _over_seeds(title: str, sign: str, summaries: Mapping[str, Any]) -> str:
    counts = {s["final_accuracy"]["n"] for s in summaries.values()}
    if max(counts) == 1:
        return title
    seeds = f"{max(counts)} seeds" if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    return f"{title} (mean of {seeds}, {sign} ± 1 std)"


def _apart(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move labels as little as a sweep can, so that neighbours are `gap` apart and within [low, high] if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    # Upwards from the lowest, then down from the highest, so that what was pushed beyond the top comes back
    for before, i in zip([None, *order], order, strict=False):
        placed[i] = max(wanted[i], low if before is None else placed[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        placed[i] = min(placed[i], high if after is None else placed[after] - gap)
    return placed


def task_label(name: str, limit: int = TASK_LABEL) -> str:
    """Shorten a task's name, a list of classes, by whole words; how many classes they are stays.

    Example:
        >>> task_label("tench goldfish shark ray cock hen … (20 classes)"), task_label("0 1")
        ('tench … (20 classes)', '0 1')
        >>> task_label("aeroplane automobile helicopter"), task_label("a" * 40) == "a" * 40
        ('aeroplane automobile …', True)
    """
    if len(name) <= limit:
        return name
    classes, _, count = name.partition(" … ")
    words, end = classes.split(), f" … {count}".rstrip()
    fitting = [kept for kept in range(1, len(words)) if len(" ".join(words[:kept]) + end) <= limit]
    # A single word that is too long is left to `label`
    return " ".join(words[: max(fitting)]) + end if fitting else name
