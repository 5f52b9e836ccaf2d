"""The figure of the forgetting budget shows every part once, at its height, whatever the number of tasks."""

import io
import warnings
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.plots.accuracy import save_figures
from ntkcl_jax.plots.budget import budget_figure, budget_limits, parts_by_task
from tests.unit.terminal.test_tables import TWO, many_tasks, results_of

# Task 1 loses two, then wins one back; task 2 loses four: the smaller halves to competition
THREE = results_of({"ntkcl": [[[10], [8, 10], [9, 6, 10]]]}, ["a", "b", "c"])


def test_parts_are_those_of_each_pair_of_tasks():
    parts = parts_by_task(THREE["summary"]["ntkcl"])
    assert parts["competition"] == pytest.approx(np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0]]))
    assert parts["drift"] == pytest.approx(np.array([[0, 0, 0], [10, 0, 0], [-10, 20, 0]]))


def test_bars_add_up_to_the_diamond_and_what_was_won_hangs_from_zero():
    axes = budget_figure(THREE, "ntkcl").axes[0]
    heights = np.zeros(2)
    for bar in axes.patches:
        assert bar.get_height() >= 0 or bar.get_y() <= 0
        heights[round(bar.get_x() + bar.get_width() / 2)] += bar.get_height()
    marked = next(line for line in axes.lines if line.get_marker() == "D")
    assert heights == pytest.approx(marked.get_ydata()) and heights == pytest.approx([10, 40])
    spread = [path.vertices[:, 1] for path in axes.collections[0].get_paths()]
    error = 100 * np.sqrt(4 - 4**2 / 10) / 10
    assert spread[1] == pytest.approx([40 - error, 40 + error])


def test_the_parts_and_the_later_tasks_can_be_told_apart():
    axes = budget_figure(THREE, "ntkcl").axes[0]
    seen = [bar for bar in axes.patches if abs(bar.get_height()) > 1e-9]
    # To task 1 by task 2, to both by task 3: blue, then orange
    colours = {tuple(bar.get_facecolor()) for bar in seen}
    assert len(seen) == 5 and len(colours) == 4
    blue = [c for c in colours if c[2] > c[0]]
    assert len(blue) == 2
    legend = axes.figure.legends[0]
    assert legend.get_title().get_text() == "dark to light: by task 2 to 3"
    assert [t.get_text() for t in legend.get_texts()] == ["competition", "drift", "lost in all, ± standard error"]


@pytest.mark.parametrize("tasks", [2, 20])
def test_all_methods_share_an_axis_that_holds_their_bars(tasks):
    results = many_tasks(tasks, ["ntkcl", "prototypes"])
    low, high = budget_limits(results)
    figure = budget_figure(results, "prototypes", (low, high))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
    axes = figure.axes[0]
    assert axes.get_ylim() == (low, high)
    edges = [edge for bar in axes.patches for edge in (bar.get_y(), bar.get_y() + bar.get_height())]
    assert low <= min(edges) and max(edges) <= high
    box, (width, height) = axes.get_window_extent(), figure.get_size_inches() * figure.dpi
    assert box.width > 0.6 * width and box.height > 0.5 * height
    labels = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(labels))  # none lies on another


def test_a_method_without_a_budget_is_left_out_of_the_files_and_named_when_asked_for(tmp_path):
    older = deepcopy(TWO)
    del older["summary"]["ntkcl"]["forgetting_budget"]
    names = [path.name for path in save_figures(older, tmp_path)]
    assert "forgetting_budget_sequential.png" in names and "forgetting_budget_ntkcl.png" not in names
    for results, method in ((older, "ntkcl"), (TWO, "magic")):
        with pytest.raises(RunFolderError, match=f"forgetting budget of method '{method}'"):
            budget_figure(results, method)
