"""Figures show the numbers they are given, keep their bytes, and can't be broken by names."""

import io
import json
import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.plots.accuracy import (
    SampleRow,
    accuracy_curves,
    accuracy_matrix_figure,
    forgetting_bars,
    sample_sheet,
    save_figures,
)
from tests.unit.terminal.test_tables import HOSTILE, TWO, many_tasks, results_of


def texts(figure) -> list[str]:
    """Every text in a figure, as it is written."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def png(figure) -> bytes:
    """The bytes of a drawn figure; drawing finds broken labels and missing glyphs."""
    memory = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(memory, format="png", metadata={"Software": None})
    return memory.getvalue()


def row(count: int = 3, wrong: int = 1) -> SampleRow:
    """A task of which the last `wrong` images are taken for another digit."""
    images = np.linspace(0, 1, count * 8 * 8 * 3).reshape(count, 8, 8, 3)
    said = ["3"] * (count - wrong) + ["7"] * wrong
    return SampleRow("digits 3 7", images, ["3"] * count, said)


def test_curves_show_accuracy_in_percent_with_a_band_over_seeds():
    axes = accuracy_curves(TWO).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[95.0, 85.0], [100.0, 52.5]]
    assert axes.lines[0].get_xdata().tolist() == [1, 2]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(85.0) and band[:, 1].max() == pytest.approx(100)  # 95 ± 7.07, cut at 100
    assert axes.get_ylabel() == "accuracy on all classes seen, %"
    assert {"ntkcl", "sequential"} <= set(texts(axes.figure))
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


def test_a_method_keeps_its_colour_whatever_stands_beside_it():
    alone = {**TWO, "summary": {"sequential": TWO["summary"]["sequential"]}}
    assert accuracy_curves(alone).axes[0].lines[0].get_color() == accuracy_curves(TWO).axes[0].lines[1].get_color()


@pytest.mark.parametrize("right", [0, 7, 10])
def test_labels_of_equal_curves_do_not_lie_on_each_other(right):
    methods = ["ntkcl", "prototypes", "sequential", "joint"]
    results = results_of({method: [[[5], [right, right]]] for method in methods}, ["a", "b"])
    axes = accuracy_curves(results).axes[0]
    heights = sorted(label.xy[1] for label in axes.texts)
    low, high = axes.get_ylim()
    assert np.diff(heights).min() >= 0.05 * (high - low)
    assert low <= heights[0] and heights[-1] <= high


def test_the_matrix_shows_every_number_once_and_nothing_above_the_diagonal():
    figure = accuracy_matrix_figure(TWO, "sequential")
    assert [t.get_text() for t in figure.axes[0].texts] == ["100.0", "5.0", "100.0"]
    assert figure.axes[0].images[0].get_array().mask.tolist() == [[False, True], [False, False]]
    assert {"1: 3 7", "2: 0 1", "sequential: accuracy, % (mean of 2 seeds)"} <= set(texts(figure))


def test_numbers_in_the_matrix_stand_out_from_their_cell():
    figure = accuracy_matrix_figure(results_of({"ntkcl": [[[3], [1, 10]]]}, ["a", "b"]), "ntkcl")
    shown = figure.axes[0].images[0]
    for label in figure.axes[0].texts:
        k, t = label.get_position()
        cell = np.mean(shown.to_rgba(shown.get_array())[int(t), int(k), :3])
        ink = np.mean(matplotlib.colors.to_rgb(label.get_color()))
        assert abs(cell - ink) > 0.4


def test_bars_show_forgetting_with_its_spread_and_seeds():
    axes = forgetting_bars(TWO).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([15.0, 95.0])
    assert {"15.0 ± 7.1", "95.0 ± 7.1"} <= set(texts(axes.figure))
    ticks = [line.get_xdata() for line in axes.lines if line.get_color() == "#666666" and line.get_marker() == "|"]
    assert [sorted(t) for t in ticks] == [pytest.approx([10, 20]), pytest.approx([90, 100])]


def test_negative_forgetting_stays_in_the_picture():
    axes = forgetting_bars(results_of({"ntkcl": [[[2], [8, 9]]]}, ["a", "b"])).axes[0]
    assert axes.patches[0].get_width() == pytest.approx(-60)
    assert axes.get_xlim()[0] < -60


def test_forgetting_of_a_single_task_is_refused():
    with pytest.raises(RunFolderError, match="two learned tasks"):
        forgetting_bars(results_of({"ntkcl": [[[7]]]}, ["all"]))


def test_the_sheet_marks_right_and_wrong_by_more_than_colour():
    figure = sample_sheet([row(3, wrong=1), row(2, wrong=0)])
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert labels == ["✓ 3", "✓ 3", "✗ 7\nis 3", "✓ 3", "✓ 3"]
    frames = [axes.spines["left"].get_visible() for axes in figure.axes if axes.get_xlabel()]
    assert frames == [False, False, True, False, False]
    assert "digits 3 7" in texts(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_fractions_give_the_same_picture(channels):
    pixels = np.arange(64 * channels, dtype=np.uint8).reshape(1, 8, 8, channels)
    sheets = [sample_sheet([SampleRow("a", image, ["3"], ["3"])]) for image in (pixels, pixels / 255)]
    assert png(sheets[0]) == png(sheets[1])
    assert sheets[0].axes[0].images[0].get_array().shape == (8, 8, 3)


def test_a_sheet_of_nothing_or_of_unequal_lists_is_refused():
    good = row()
    for rows in ([], [SampleRow("a", good.images, ["3"], ["3"])], [SampleRow("a", good.images[:0], [], [])]):
        with pytest.raises(ValueError, match="at least one image"):
            sample_sheet(rows)


def test_every_figure_is_saved_at_150_dots_per_inch(tmp_path):
    paths = save_figures(TWO, tmp_path / "new" / "figures", samples=[row()])
    assert [p.name for p in paths] == [
        "accuracy_curves.png",
        "accuracy_matrix_ntkcl.png",
        "accuracy_matrix_sequential.png",
        "forgetting.png",
        "forgetting_budget_ntkcl.png",
        "forgetting_budget_sequential.png",
        "samples.png",
    ]
    assert sorted(p.name for p in (tmp_path / "new" / "figures").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert round(image.info["dpi"][0]) == 150
            assert "Software" not in image.info and "Date" not in image.info
            assert np.asarray(image.convert("L")).std() > 10  # something is drawn


def test_the_same_numbers_give_the_same_bytes_whatever_the_user_has_set(tmp_path):
    first = [p.read_bytes() for p in save_figures(TWO, tmp_path / "a", samples=[row()])]
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "red", "savefig.bbox": "tight"}):
        second = [p.read_bytes() for p in save_figures(TWO, tmp_path / "b", samples=[row()])]
        assert matplotlib.rcParams["font.size"] == 30  # and the user's settings are left alone
    assert first == second


def test_a_single_task_has_curves_and_matrix_but_no_forgetting(tmp_path):
    paths = save_figures(results_of({"ntkcl": [[[7]]]}, ["all"]), tmp_path)
    assert [p.name for p in paths] == ["accuracy_curves.png", "accuracy_matrix_ntkcl.png"]


def test_hostile_names_are_drawn_as_they_are_written(tmp_path):
    results = many_tasks(3, ["ntkcl", "../$up$_{"], HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = save_figures(results, tmp_path, samples=[SampleRow(HOSTILE, row().images, ["$a$"] * 3, ["漢$b"] * 3)])
    assert all(p.parent == tmp_path for p in paths)
    written = texts(accuracy_matrix_figure(results, "../$up$_{"))
    assert not any("\x1b" in t or "漢" in t for t in written)
    assert any(t.startswith(r"../\$up\$_{") for t in written)


def test_long_task_names_are_shortened_and_leave_room_for_the_numbers():
    figure = accuracy_matrix_figure(many_tasks(12, ["ntkcl"], "a very long name of a task " * 4), "ntkcl")
    png(figure)  # lays the figure out
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.axes[0].get_window_extent()
    assert box.width > 0.6 * width and box.height > 0.6 * height


def test_an_unknown_method_is_named():
    with pytest.raises(RunFolderError, match="ntkcl, sequential, got method 'magic'"):
        accuracy_matrix_figure(TWO, "magic")


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="figures in"):
        save_figures(TWO, tmp_path / "file")


def test_figures_use_neither_pyplot_nor_jax():
    code = "import sys, ntkcl_jax.plots.accuracy; print([m for m in ('matplotlib.pyplot', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
