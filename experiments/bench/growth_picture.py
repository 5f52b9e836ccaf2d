"""The picture of `experiments.bench.growth`: one small panel for each axis, both scales logarithmic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ntkcl_jax.plots.style import COLOURS, GREY, save, style

WIDTH = 3
"""Panels in a row."""


@style()
def draw(axes: Mapping[str, tuple[list[dict[str, Any]], str, str]], path: Path) -> Path:
    """Draw each axis with a grey line that grows as the axis does.

    Args:
        axes: by name, the points, the field to draw, and its unit.
        path: of the PNG file.
    """
    down = -(-len(axes) // WIDTH)
    across = min(WIDTH, len(axes))
    figure = Figure(figsize=(3.4 * across, 2.9 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, (axis, (points, field, unit)), colour in zip(panels, axes.items(), COLOURS, strict=False):
        # Zero has no place on a logarithmic scale
        shown = [point for point in points if point[field] > 0]
        x, y = [point["x"] for point in shown], [point[field] for point in shown]
        panel.set(xscale="log", yscale="log", xlabel=axis, title=unit)
        # In proportion to the axis, from the first point
        panel.plot(x, [y[0] * at / x[0] for at in x], color=GREY, linewidth=0.8, linestyle=":")
        panel.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.6)
        low, high = min(y), max(y)
        panel.set_ylim(low / 3, max(high, 10 * low) * 1.5)
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(figure, path)
