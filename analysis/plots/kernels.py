"""Figures of the kernels: heatmaps of inter/intra ratios, spectra, and how tasks change over checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.errors import StoreError
from ntkcl_jax.plots.style import COLOURS, save, style

ANNOTATED = 8
"""Tasks up to which a heatmap's cells carry their numbers."""
LINES = {
    "effective_dimension": "effective dimension (ridge = mean diagonal)",
    "target_alignment": "kernel-target alignment",
    "drift": "drift since the checkpoint before, ‖ΔΘ‖ / ‖Θ‖",
}

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
    values: Float[np.ndarray, "t t"] = np.array(ratios, dtype=float)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", interpolation="none")
    names = [str(t + 1) for t in tasks]
    axes.set(xticks=range(len(tasks)), yticks=range(len(tasks)), xticklabels=names, yticklabels=names)
    axes.set(xlabel="task", ylabel="task")
    axes.spines[:].set_visible(False)
    if len(tasks) <= ANNOTATED:
        for (i, j), value in np.ndenumerate(values):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else "k")
    return image


@style()
def spectra(checkpoints: Checkpoints, tasks: Sequence[int]) -> Figure:
    """Draw the eigenvalues of each task's intra-task kernel at the first and the last checkpoint, on log scales.

    Args:
        checkpoints: figures of a seed.
        tasks: task numbers, from 0.
    """
    shown = list(dict.fromkeys([next(iter(checkpoints)), list(checkpoints)[-1]]))
    figure = Figure(figsize=(4.2 * len(shown) + 0.6, 3.6), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(shown), squeeze=False, sharey=True))
    for panel, number in zip(panels, shown, strict=True):
        spectrum_panel(panel, checkpoints[number]["spectrum"], tasks)
        panel.set_title(checkpoint_name(int(number)))
    panels[0].set_ylabel("eigenvalue of Θ(X_t, X_t)")
    if len(tasks) <= len(COLOURS):
        panels[-1].legend(frameon=False, fontsize=8)
    return figure


def spectrum_panel(axes: Axes, spectra: Sequence[Sequence[float]], tasks: Sequence[int]) -> None:
    """Draw one checkpoint's eigenvalues, a line for each task; those that are zero have no place on a log scale."""
    for i, values in enumerate(spectra):
        positive = [value for value in values if value > 0]
        index = range(1, len(positive) + 1)
        axes.loglog(index, positive, color=task_colour(i, len(tasks)), lw=1.4, label=f"task {tasks[i] + 1}")
    axes.set_xlabel("index")
    axes.grid(alpha=0.25)


def task_colour(index: int, count: int) -> Any:
    """Colour of a task: told apart where there are few, in their order on a scale where there are many.

    Example:
        >>> task_colour(0, 5)
        '#0072B2'
    """
    return COLOURS[index] if count <= len(COLOURS) else colormaps["viridis"](index / (count - 1))


@style()
def task_lines(checkpoints: Checkpoints, tasks: Sequence[int]) -> Figure:
    """Draw effective dimension, target alignment and drift of every task over checkpoints, and the groups' shares.

    Args:
        checkpoints: figures of a seed.
        tasks: task numbers, from 0.
    """
    grouped = bool(next(iter(checkpoints.values()))["groups"])
    figure = Figure(figsize=(3.7 * (len(LINES) + grouped), 3.4), layout="constrained")
    panels = np.ravel(figure.subplots(1, len(LINES) + grouped, squeeze=False))
    for panel, (name, title) in zip(panels, LINES.items(), strict=False):
        line_panel(panel, checkpoints, name, tasks)
        panel.set_title(title, fontsize=9)
    if len(tasks) <= len(COLOURS):
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside left center", frameon=False, fontsize=8)
    if grouped:
        share_panel(panels[-1], checkpoints)
        panels[-1].set_title("share of the trace, by parameters", fontsize=9)
    return figure


def line_panel(axes: Axes, checkpoints: Checkpoints, name: str, tasks: Sequence[int]) -> None:
    """Draw one figure of every task over checkpoints; where it is None there is no point.

    Args:
        axes: where.
        checkpoints: figures of a seed.
        name: one of `LINES`.
        tasks: task numbers, from 0.
    """
    for i, task in enumerate(tasks):
        points = [(int(c), values[name][i]) for c, values in checkpoints.items() if values[name][i] is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o-", ms=3.5, lw=1.3, color=task_colour(i, len(tasks)), label=f"task {task + 1}")
    _over_checkpoints(axes, checkpoints)


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
