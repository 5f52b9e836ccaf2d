"""Figures of the report: each small enough that its text can be read at the width of a phone."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from msgspec import to_builtins

from analysis.measures import by_name
from analysis.measures.catalogue import MEASURES
from analysis.plots.kernels import (
    checkpoint_name,
    line_panel,
    ratio_panel,
    share_panel,
    task_ticks,
)
from analysis.report.reading import TaskKernel
from analysis.store.study_forms import KernelFigures
from ntkcl_jax.plots.style import COLOURS, label, style

SIZE = (4.6, 3.5)
"""Inches: 10-point text is then about 10 pixels high on a phone."""
CLASSES = 24
"""Classes up to which the ticks of a heatmap name them."""
LABELS = {m.name: (m.title, m.unit) for m in MEASURES if m.column and m.kind != "pair"}
"""Title and axis of what is compared between methods over checkpoints."""


def new_figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """A figure of one panel, inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Put the legend below the axes, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


@style()
def kernel_heatmap(kernel: TaskKernel, names: Sequence[str], low: float) -> Figure:
    """Draw the cosines between the Jacobians of all probes, ordered by task and class; lines part tasks and classes.

    Args:
        kernel: at one checkpoint.
        names: names of the classes, in the run's numbering.
        low: lower end of the colour scale, shared by the figures that are compared.
    """
    figure, axes = new_figure((4.6, 4.3))
    # Without interpolation, since every pixel is a pair of images of its own
    image = axes.imshow(kernel.cosines, vmin=low, vmax=1, cmap="cividis", interpolation="none")
    n = len(kernel.tasks)
    groups = _runs([f"{t}/{c}" for t, c in zip(kernel.tasks, kernel.labels, strict=True)])
    blocks = _runs(kernel.tasks.tolist())
    # Between classes a thin line, between tasks a bold one; pixel i reaches from i - 0.5 to i + 0.5
    few = groups if len(groups) <= max(n // 4, CLASSES) else []  # many lines would hide the pixels between them
    for edges, width, shade in ((few, 0.4, 0.5), (blocks, 1.4, 1.0)):
        for start, _ in edges[1:]:
            axes.axhline(start - 0.5, color="white", lw=width, alpha=shade)
            axes.axvline(start - 0.5, color="white", lw=width, alpha=shade)
    shown = [blocks[i] for i in task_ticks(len(blocks))]
    middle = [(start + stop - 1) / 2 for start, stop in shown]
    axes.set_xticks(middle, [str(kernel.tasks[start] + 1) for start, _ in shown])
    axes.set_xlabel("probe images of task")
    if len(groups) <= CLASSES:
        at = [(start + stop - 1) / 2 for start, stop in groups]
        classes = [kernel.labels[start] for start, _ in groups]
        axes.set_yticks(at, [label(names[c], 10) if c < len(names) else str(c) for c in classes], fontsize=9)
        axes.set_ylabel("class")
    else:
        axes.set_yticks(middle, [str(kernel.tasks[start] + 1) for start, _ in shown])
        axes.set_ylabel("task")
    # Lines at the edge must not widen the axes; the first row stays at the top
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(checkpoint_name(kernel.checkpoint))
    figure.colorbar(image, ax=axes, label="cosine of two images' Jacobians", shrink=0.85)
    return figure


def _runs(values: Sequence[Any]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of equal values.

    Example:
        >>> _runs([1, 1, 2])
        [(0, 2), (2, 3)]
    """
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))


@style()
def ratio_figure(values: KernelFigures, tasks: Sequence[int], checkpoint: int) -> Figure:
    """Draw the inter/intra ratios of one checkpoint."""
    side = max(3.4, 0.42 * len(tasks) + 1.0)
    figure, axes = new_figure((side + 0.9, side))
    image = ratio_panel(axes, values.inter_intra_ratio, tasks)
    axes.set_title(checkpoint_name(checkpoint))
    figure.colorbar(image, ax=axes, label="inter-task / intra-task kernel", shrink=0.85)
    return figure


@style()
def line_figure(checkpoints: Mapping[str, Any], tasks: Sequence[int], name: str) -> Figure:
    """Draw a measure over checkpoints (figures by name, as `summary.json` has them), a line for each task."""
    figure, axes = new_figure()
    line_panel(axes, checkpoints, name, tasks)
    measure = by_name()[name]
    axes.set(title=label(measure.title, 48), ylabel=label(measure.unit, 48))
    if name == "drift":
        axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return figure


@style()
def methods_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Figure:
    """Draw what the kernels of several methods say over checkpoints.

    Args:
        curves: checkpoints and values of `inter_intra_ratio` and each of `LABELS`, by method.
    """
    figure = Figure(figsize=(7.4, 6.0), layout="constrained")
    titles = {"inter_intra_ratio": "inter-task / intra-task kernel", **{n: title for n, (title, _) in LABELS.items()}}
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        # There may be more methods than colours
        for colour, (method, values) in zip(cycle(COLOURS), curves.items(), strict=False):
            x, y = [c for c, _ in values[name]], [value for _, value in values[name]]
            axes.plot(x, y, "o-", ms=3.5, lw=1.3, color=colour, label=method)
        # With zero on the axis, so that small changes don't look large; all zeros would give it no height
        shown = [0.0, *(value for values in curves.values() for _, value in values[name])]
        axes.set(title=title, xlabel="checkpoint (tasks learned)", ylim=(1.1 * min(shown), 1.1 * max(shown) or 1))
        axes.grid(alpha=0.25)
    legend_below(figure, figure.axes[0], columns=4)
    return figure


@style()
def share_figure(checkpoints: Mapping[int, KernelFigures]) -> Figure:
    """Draw each parameter group's share of the kernel's trace over checkpoints."""
    figure, axes = new_figure()
    plain = to_builtins(checkpoints, str_keys=True)
    for values in plain.values():
        values["groups"] = {label(name, 24): group for name, group in values["groups"].items()}
    share_panel(axes, plain)
    # `share_panel` puts one inside, which on a small figure hides the lines
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    axes.set_title("share of the kernel, by parameters")
    axes.set_ylabel("share of the trace (1 = all)")
    legend_below(figure, axes, columns=4)
    return figure
