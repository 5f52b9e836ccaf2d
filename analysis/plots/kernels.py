"""Figures of the kernels: heatmaps of inter/intra ratios, spectra, and every measure over checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis import measures
from analysis.errors import StoreError
from analysis.measures import Measure
from analysis.measures.measure import of_task, over_tasks
from ntkcl_jax.plots.style import COLOURS, GREY, INK, label, save, style

ANNOTATED = 8
"""Tasks up to which a heatmap's cells carry their numbers."""
COLUMNS = 4
"""Panels beside each other in a figure of many."""
FEW = 8
"""Tasks that a legend still names one by one, and ticks that have room beside each other."""
LONGEST_LABEL = 48
"""Signs of a title or axis that a panel has room for."""

FLAT = 0.02
"""Part of a measure's range (where that is open: of its largest value) below which its values tell nothing apart."""

Checkpoints = Mapping[str, Mapping[str, Any]]
"""One seed's part of `summary.json`: checkpoint number to figures."""


def checkpoint_name(number: int) -> str:
    """Name of a checkpoint for people, who count tasks from 1.

    Example:
        >>> checkpoint_name(0), checkpoint_name(2)
        ('before training', 'after task 2')
    """
    return f"after task {number}" if number else "before training"


@style()
def ratio_heatmaps(checkpoints: Checkpoints, tasks: Sequence[int]) -> Figure:
    """Draw ρ = ‖Θ(X_t, X_k)‖ / √(‖Θ(X_t, X_t)‖ ‖Θ(X_k, X_k)‖), one panel for each checkpoint, one colour scale.

    Args:
        checkpoints: figures of a seed.
        tasks: task numbers, from 0, in the order of the matrices.
    """
    count = len(checkpoints)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns + 1.0, 2.6 * rows + 0.5), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
    image = None
    for panel, (number, values) in zip(panels, checkpoints.items(), strict=False):
        image = ratio_panel(panel, values["inter_intra_ratio"], tasks)
        panel.set_title(checkpoint_name(int(number)))
    for panel in panels[count:]:
        panel.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="inter-task / intra-task kernel", shrink=0.8)
    return figure


def ratio_panel(axes: Axes, ratios: Sequence[Sequence[float | None]], tasks: Sequence[int]) -> AxesImage:
    """Draw one checkpoint's ratios ρ on axes.

    Args:
        axes: where.
        ratios: T rows of T; None where there is no gradient.
        tasks: task numbers, from 0.
    """
    # None becomes NaN, which is left blank
    values: Float[np.ndarray, "t t"] = np.array(ratios, dtype=float)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", interpolation="none")
    shown = task_ticks(len(tasks))
    names = [str(tasks[i] + 1) for i in shown]
    axes.set(xticks=shown, yticks=shown, xticklabels=names, yticklabels=names)
    axes.set(xlabel="task", ylabel="task")
    axes.spines[:].set_visible(False)
    if len(tasks) <= ANNOTATED:
        for (i, j), value in np.ndenumerate(values):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else INK)
    return image


@style()
def spectra(checkpoints: Checkpoints, tasks: Sequence[int]) -> Figure:
    """Draw the eigenvalues of each task's intra-task kernel at the first and the last checkpoint, on log scales.

    Args:
        checkpoints: figures of a seed.
        tasks: task numbers, from 0.
    """
    # A single checkpoint is first and last, and shown once
    shown = list(dict.fromkeys([next(iter(checkpoints)), list(checkpoints)[-1]]))
    figure = Figure(figsize=(4.2 * len(shown) + 0.6, 3.6), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(shown), squeeze=False, sharey=True))
    for panel, number in zip(panels, shown, strict=True):
        spectrum_panel(panel, checkpoints[number]["spectrum"], tasks)
        panel.set_title(checkpoint_name(int(number)))
    panels[0].set_ylabel("eigenvalue of Θ(X_t, X_t)")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def spectrum_panel(axes: Axes, spectra: Sequence[Sequence[float]], tasks: Sequence[int]) -> None:
    """Draw one checkpoint's eigenvalues, a line for each task; those that are zero have no place on a log scale."""
    for i, values in enumerate(spectra):
        positive = [value for value in values if value > 0]
        index = range(1, len(positive) + 1)
        axes.loglog(index, positive, color=task_colour(i, len(tasks)), lw=1.4, label=task_key(i, tasks))
    axes.set_xlabel("index")
    axes.grid(alpha=0.25)


def task_key(index: int, tasks: Sequence[int]) -> str | None:
    """Name of a task in a legend: each where they are few, else the first, middle and last, which tell the colours.

    Example:
        >>> [task_key(i, range(3)) for i in range(3)], [task_key(i, range(20)) for i in (0, 1, 10, 19)]
        (['task 1', 'task 2', 'task 3'], ['task 1', None, 'task 11', 'task 20'])
    """
    count = len(tasks)
    return f"task {tasks[index] + 1}" if count <= FEW or index in (0, count // 2, count - 1) else None


def task_ticks(count: int) -> range:
    """Places of the tasks whose numbers stand at an axis, so that they don't touch.

    Example:
        >>> list(task_ticks(5)), list(task_ticks(20))
        ([0, 1, 2, 3, 4], [0, 3, 6, 9, 12, 15, 18])
    """
    return range(0, count, -(-count // FEW))


def task_colour(index: int, count: int) -> Any:
    """Colour of a task: told apart where there are few, in their order on a scale where there are many.

    Example:
        >>> task_colour(0, 5)
        '#0072B2'
    """
    return COLOURS[index] if count <= len(COLOURS) else colormaps["viridis"](index / (count - 1))


def drawn(checkpoints: Checkpoints) -> list[Measure]:
    """Measures that have a panel over checkpoints: with any value, and not drawn in another's panel to compare with.

    Args:
        checkpoints: figures of a seed.

    Raises:
        MeasureError: a measure of an installed package can't be used.

    Example:
        >>> [measure.name for measure in drawn({"0": {"unrelated_ratio": [[1.0]], "drift": [None], "rank": [3]}})]
        ['rank']
    """
    found = measures.by_name()
    valued = {
        name for figures in checkpoints.values() for name in found
        if name in figures and over_tasks(figures[name]) is not None
    }  # fmt: skip
    compared = {  # another package can't take a panel away by naming it
        name for measure in found.values() for name in measure.references
        if isinstance(name, str) and found[name].package == measure.package and name != measure.name
    }  # fmt: skip
    return [measure for name, measure in found.items() if name in valued - compared]


def still(checkpoints: Checkpoints, measure: Measure) -> bool:
    """Whether all values of a measure, of all tasks and checkpoints, are one to the eye: its panel would tell nothing.

    Example:
        >>> at = lambda a, b: {"0": {"rank": [a, b]}, "1": {"rank": [b, b]}}
        >>> rank = measures.by_name()["rank"]
        >>> still(at(96, 96), rank), still(at(96, 90), rank)
        (True, False)
    """
    if measure.references:  # what it is compared with tells something even where it doesn't move
        return False
    there = [values[measure.name] for values in checkpoints.values() if measure.name in values]
    points = [of_task(values, i) for values in there for i in range(len(values))]  # what a panel's lines go through
    known = np.array([value for value in points if value is not None])
    ends = measure.lowest, measure.highest
    scale = ends[1] - ends[0] if ends[0] is not None and ends[1] is not None else np.abs(known).max()
    return bool(np.ptp(known) <= FLAT * scale)


def still_says(checkpoints: Checkpoints, found: Sequence[Measure]) -> str:
    """What to say instead of panels that would be flat; "" where there are none.

    Example:
        >>> still_says({"0": {"rank": [96, 96]}}, [measures.by_name()["rank"]])
        'Much the same in every task and at every checkpoint: rank 96.'
    """
    means = {
        m.title: np.mean([x for v in checkpoints.values() if (x := over_tasks(v[m.name])) is not None]) for m in found
    }
    told = "; ".join(f"{title} {value:.3g}" for title, value in means.items())
    return f"Much the same in every task and at every checkpoint: {told}." if told else ""


@style()
def task_lines(checkpoints: Checkpoints, tasks: Sequence[int]) -> Figure:
    """Draw the measures of every task over checkpoints, and the groups' shares; those that don't move are told below.

    Args:
        checkpoints: figures of a seed.
        tasks: task numbers, from 0.
    """
    valued = drawn(checkpoints)
    flat = [measure for measure in valued if still(checkpoints, measure)]
    shown = [measure for measure in valued if measure not in flat]
    grouped = bool(next(iter(checkpoints.values()))["groups"])
    count = max(len(shown) + grouped, 1)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(3.7 * min(count, COLUMNS), 3.4 * rows), layout="constrained")
    panels = np.ravel(figure.subplots(rows, min(count, COLUMNS), squeeze=False))
    for panel, measure in zip(panels, shown, strict=False):
        line_panel(panel, checkpoints, measure.name, tasks)
        panel.set_title(label(measure.title, LONGEST_LABEL), fontsize=9)
        panel.set_ylabel(label(measure.unit, LONGEST_LABEL), fontsize=8)
    for panel in panels[count:]:
        panel.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    # One for all panels, which have the same lines
    figure.legend(handles, names, loc="outside upper left", ncols=max(len(names), 1), frameon=False, fontsize=8)
    if grouped:
        share_panel(panels[count - 1], checkpoints)
        panels[count - 1].set_title("share of the trace, by parameters", fontsize=9)
    figure.supxlabel(still_says(checkpoints, flat), fontsize=8)
    return figure


def line_panel(axes: Axes, checkpoints: Checkpoints, name: str, tasks: Sequence[int]) -> None:
    """Draw a measure of every task over checkpoints, with what to compare it with; where it is None there is no point.

    Of a measure of pairs of tasks a line is a task's mean over its pairs with others.

    Args:
        axes: where.
        checkpoints: figures of a seed.
        name: of the measure.
        tasks: task numbers, from 0.
    """
    there = {int(number): values[name] for number, values in checkpoints.items() if name in values}
    for i in range(len(tasks)):
        points = [(number, of_task(values, i)) for number, values in there.items()]
        colour = task_colour(i, len(tasks))
        _line(axes, points, "o-", ms=3.5, lw=1.3, color=colour, label=task_key(i, tasks))
    known = measures.by_name()
    # Told apart in grey; further references repeat the first kind
    dashes = iter(("--", ":", "-."))
    for reference in known[name].references if name in known else ():
        if isinstance(reference, str):
            points = [(int(c), over_tasks(v[reference])) for c, v in checkpoints.items() if reference in v]
            title = label(known[reference].title, LONGEST_LABEL)
            _line(axes, points, next(dashes, "--"), lw=1.1, color=GREY, label=title)
        else:
            axes.axhline(reference, ls="--", lw=0.8, color=GREY)
    _over_checkpoints(axes, checkpoints)


def _line(axes: Axes, points: Sequence[tuple[int, float | None]], kind: str, **look: Any) -> None:
    """Draw the points whose value is known."""
    known = [(x, y) for x, y in points if y is not None]
    if known:
        axes.plot(*zip(*known, strict=True), kind, **look)


def _over_checkpoints(axes: Axes, checkpoints: Checkpoints) -> None:
    """Set the ticks to checkpoints, thinned where they would touch."""
    numbers = [int(number) for number in checkpoints]
    axes.set(xlabel="checkpoint (tasks learned)", xticks=numbers[:: 1 + len(numbers) // 12])
    axes.grid(alpha=0.25)


def share_panel(axes: Axes, checkpoints: Checkpoints) -> None:
    """Draw each parameter group's mean share of the traces; on a log scale, as one often dwarfs the rest."""
    numbers = [int(number) for number in checkpoints]
    for i, name in enumerate(next(iter(checkpoints.values()))["groups"]):
        share = [float(np.mean(values["groups"][name]["share"])) for values in checkpoints.values()]
        axes.plot(numbers, share, "s-", ms=3.5, lw=1.3, color=COLOURS[i % len(COLOURS)], label=name)
    _over_checkpoints(axes, checkpoints)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)


def save_figures(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every seed of a summary as PNG files.

    Args:
        summary: what `summary.json` holds.
        folder: made if it doesn't exist; figures of the same names are replaced.

    Returns:
        `ratios_seedS.png`, `spectra_seedS.png` and `tasks_seedS.png` for each seed S.

    Raises:
        StoreError: a file can't be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for seed, part in summary["seeds"].items():
            for name, draw in (("ratios", ratio_heatmaps), ("spectra", spectra), ("tasks", task_lines)):
                written.append(save(draw(part["checkpoints"], part["tasks"]), folder / f"{name}_seed{seed}.png"))
    except OSError as error:
        raise StoreError(f"expected to write figures in {folder}; got {error.strerror}: free it") from error
    return written
