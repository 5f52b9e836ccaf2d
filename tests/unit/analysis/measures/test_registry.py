"""Measures are declared once: ours, and those of packages outside the tree, from the declaration to what people see."""

import csv
import itertools
import re
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.cli import NTK_ANALYSIS
from analysis.errors import AnalysisError, FunctionError, MeasureError
from analysis.measures import Checkpoint, Measure, by_name
from analysis.measures.catalogue import MEASURES
from analysis.plots.kernels import drawn, line_panel, still, still_says, task_lines
from analysis.studies.summary import measures_csv, summarise, summary_table
from tests.support import measures_page, plugins
from tests.support.task_pairs import generators

OFFSETS, LABELS, K, P = (0, 4, 9), np.array([0, 1, 0, 1, 2, 2, 3, 2, 3]), 4, 30


def checkpoint(rng, offsets=OFFSETS, labels=LABELS, outputs=K, p=P, stacked=True, kind="full"):
    """Made-up kernels of the given kind; groups are the first and the other parameters."""
    jacobian = rng.standard_normal((len(labels), outputs, p))
    parts = [jacobian * (np.arange(p) < p // 2), jacobian * (np.arange(p) >= p // 2)]
    whole, *parts = (np.einsum("iap,jbp->ijab", j, j) for j in (jacobian, *parts))
    reduced = {
        "full": lambda theta: theta,
        "trace": lambda theta: np.einsum("ijcc->ij", theta) / outputs,
        "diagonal": lambda theta: np.einsum("ijcc->ijc", theta),
    }[kind]
    groups = {name: reduced(part) for name, part in zip("ab", parts, strict=True)}
    return Checkpoint(reduced(whole), offsets, labels, p, stacked, groups)


def made_summary(count=3, seed=0):
    made = [checkpoint(np.random.default_rng([seed, c])) for c in range(count)]
    pairs = itertools.pairwise([None, *made])
    figures = {str(c): summarise(now, before) for c, (before, now) in enumerate(pairs)}
    return {"seeds": {"4": {"tasks": [0, 2], "checkpoints": figures}}}


def titles(summary):
    part = summary["seeds"]["4"]
    return [axes.get_title(loc="left") for axes in task_lines(part["checkpoints"], part["tasks"]).axes]


def rows(summary):
    return list(csv.DictReader(measures_csv(summary).splitlines()))


# ours


@given(generators(), st.sampled_from(["full", "trace", "diagonal"]), st.booleans(), st.integers(1, 3))
def test_every_measure_keeps_its_range_and_shape_on_random_kernels(rng, kind, stacked, tasks):
    sizes = rng.integers(2, 6, size=tasks)
    offsets = (0, *np.cumsum(sizes).tolist())
    labels = rng.integers(0, 3, size=offsets[-1])
    p = int(rng.integers(1 if kind == "full" else 6, 12))  # the mean over outputs has more directions than parameters
    before, now = (checkpoint(rng, offsets, labels, 3, p, stacked, kind) for _ in range(2))
    for measure in MEASURES:
        values = measure.values(now, before)
        shape = (tasks, tasks) if measure.kind == "pair" else (tasks,)
        assert np.shape(values) == shape
        known = [v for v in np.ravel(np.array(values, dtype=object)) if v is not None]
        assert all(np.isfinite(v) for v in known)
        assert measure.lowest is None or min(known, default=np.inf) >= measure.lowest - 1e-9
        assert measure.highest is None or max(known, default=-np.inf) <= measure.highest + 1e-9
        if measure.kind == "change":
            assert measure.values(now) == [None] * tasks


def test_figures_files_and_table_show_what_was_declared():
    made = made_summary()
    names = {m.name for m in MEASURES}
    assert {row["measure"] for row in rows(made)} == names
    part = made["seeds"]["4"]["checkpoints"]
    valued = [m for m in MEASURES if m.name not in ("unrelated_ratio", "same_task_ratio")]
    shown = [m for m in valued if not still(part, m)]
    assert [title for title in titles(made) if title] == [m.title for m in shown] + [
        "share of the trace, by parameters"
    ]
    told = still_says(part, [m for m in valued if m not in shown])
    assert all((m.title in told) == (m not in shown) for m in valued)
    header = summary_table(made).splitlines()[0]
    assert re.split(r"  +", header)[2:] == [m.column for m in MEASURES if m.column]
    assert max(map(len, summary_table(made).splitlines())) <= 100


def test_the_file_of_measures_holds_every_value_of_the_summary():
    made = made_summary()
    checkpoints = made["seeds"]["4"]["checkpoints"]
    found = rows(made)
    assert len(found) == 3 * sum(4 if m.kind == "pair" else 2 for m in MEASURES)
    for row in found:
        t, k = ({"1": 0, "3": 1, "": None}[row[name]] for name in ("task", "other_task"))
        value = checkpoints[row["checkpoint"]][row["measure"]][t]
        value = value if k is None else value[k]
        assert row["seed"] == "4" and row["value"] == ("" if value is None else repr(value))


def test_what_a_panel_is_compared_with_is_drawn_in_it():
    part = made_summary()["seeds"]["4"]
    axes = Figure().add_subplot()
    line_panel(axes, part["checkpoints"], "inter_intra_ratio", part["tasks"])
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["task 1", "task 3", "ratio of unrelated tasks", "ratio of a task to itself"]
    floor = [figures["unrelated_ratio"][0][1] for figures in part["checkpoints"].values()]
    assert lines["ratio of unrelated tasks"] == pytest.approx(floor)


def test_a_measure_without_any_value_has_no_panel():
    checkpoints = made_summary(count=1)["seeds"]["4"]["checkpoints"]
    assert {m.kind for m in drawn(checkpoints)} == {"task", "pair"}


def test_a_checkpoint_cannot_be_written_to():
    now = checkpoint(np.random.default_rng(0))
    arrays = [now.matrix, now.samples, now.targets, now.intra[0], now.inter(0, 1), now.spectra[1], now.cosines[0, 1]]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    now.kernel[0] = now.kernel[0]  # the caller's own array stays as it was


def test_the_page_of_measures_is_made_from_their_declarations():
    page = measures_page.PAGE.read_text()
    assert measures_page.renewed(page) == page
    assert all(f"`{m.name}`" in page and m.sentence in page for m in MEASURES)


# of packages outside the tree


def guide():
    """The guide's file and its entry points."""
    text = measures_page.PAGE.read_text()
    (source,), (project,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "toml"))
    return source, tomllib.loads(project)["project"]["entry-points"]["analysis.measures"]


def test_the_measure_of_the_guide_shows_up_everywhere(tmp_path, monkeypatch):
    source, entries = guide()
    plugins.installed(monkeypatch, tmp_path, "top_share", source, entries)
    made = made_summary()
    for figures in made["seeds"]["4"]["checkpoints"].values():
        assert figures["top_share"] == pytest.approx([s[0] / sum(s) for s in figures["spectrum"]])
    found = [(row["task"], row["other_task"]) for row in rows(made) if row["measure"] == "top_share"]
    assert found == 3 * [("1", ""), ("3", "")]
    assert "share of the largest eigenvalue" in titles(made)
    captions = [m.caption for m in by_name().values()]
    assert captions[-1].startswith("Share of the largest eigenvalue. Near 1 nearly every step")
    lines = summary_table(made).split("\n\n")  # the sixth column doesn't fit beside the others
    assert [table.split("\n")[0].split()[-2:] for table in lines] == [["alignment", "drift"], ["top", "share"]]
    assert all(len(line) <= 100 for table in lines for line in table.split("\n"))
    means = [f"{np.mean(figures['top_share']):.3f}" for figures in made["seeds"]["4"]["checkpoints"].values()]
    assert [line.split() for line in lines[1].split("\n")[1:]] == [["4", str(c), v] for c, v in enumerate(means)]


def test_packages_bring_pairs_and_changes_in_the_order_of_their_names(tmp_path, monkeypatch):
    pair = plugins.module("[[1.0, None], [float(checkpoints[0].parameters), 4]]", name="asymmetric", kind="pair")
    change = plugins.module("[len(checkpoints), 0.5]", name="moved", kind="change", more="references=(1.0, 'rank')")
    plugins.installed(monkeypatch, tmp_path / "b", "zeta", pair)
    plugins.installed(monkeypatch, tmp_path / "a", "alpha", change)
    assert [(m.name, m.package) for m in by_name().values()][-2:] == [("moved", "alpha"), ("asymmetric", "zeta")]
    made = made_summary()
    figures = made["seeds"]["4"]["checkpoints"]
    assert [figures[c]["moved"] for c in "012"] == [[None, None], [2, 0.5], [2, 0.5]]
    assert figures["1"]["asymmetric"] == [[1.0, None], [30.0, 4]]
    assert {"rank", "made up"} <= set(titles(made))  # naming one of ours doesn't take its panel away


def test_a_package_that_is_gone_leaves_its_values_and_no_trace_in_tables(tmp_path, monkeypatch):
    with monkeypatch.context() as while_there:
        plugins.installed(while_there, tmp_path, "gone", plugins.module(more="column='gone'"))
        made = made_summary()
        assert "gone" in summary_table(made)
    assert made["seeds"]["4"]["checkpoints"]["0"]["made"] == [1.0, 2.0]
    assert "gone" not in summary_table(made) and "made" not in measures_csv(made) and "made up" not in titles(made)


def test_titles_of_packages_are_text_and_never_mathematics(tmp_path, monkeypatch):
    text = plugins.module(title=r"cost in $\\frac{", more=r"unit='$x_', references=('rank',)")
    plugins.installed(monkeypatch, tmp_path, "hostile", text)
    part = made_summary(count=1)["seeds"]["4"]
    FigureCanvasAgg(task_lines(part["checkpoints"], part["tasks"])).draw()


BROKEN = {
    "import": ("import not_there_at_all", r"not_there_at_all"),
    "syntax": ("def (", "SyntaxError"),
    "exit": ("raise SystemExit('bye')", "SystemExit: bye"),
    "lacking": ("x = 1", "AttributeError"),
    "other type": ("MEASURE = 3", "is a int, expected an analysis.measures.Measure"),
    "duplicate": (plugins.module(name="drift"), "'drift' from ntkcl-jax and from broken"),
    "name": (plugins.module(name="No Name"), "small letters"),
    "taken": (plugins.module(name="groups"), "other than spectrum, groups"),
    "kind": (
        plugins.module(kind="nothing"),
        "kind task, pair, change|TypeCheckError",
    ),  # the latter under --shape-checks
    "range": (plugins.module(more="lowest=1.0, highest=0.0"), "lowest below highest"),
    "column": (plugins.module(more=f"column='{25 * 'x'}'"), "at most 24 signs"),
    "lines": (plugins.module(title="a\\nb"), "title to be one line"),
    "reference": (plugins.module(more="references=('nothing',)"), "refers to 'nothing'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_package_that_cannot_be_used_is_told_in_one_line_before_anything_is_computed(
    tmp_path, monkeypatch, capsys, case
):
    text, words = BROKEN[case]
    plugins.installed(monkeypatch, tmp_path / "site", "broken", text)
    with pytest.raises(MeasureError, match=words) as caught:
        by_name()
    assert isinstance(caught.value, AnalysisError)
    assert NTK_ANALYSIS.run(["kernels", str(tmp_path / "nowhere"), "--quiet"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "broken" in told.err and "uninstall" in told.err and "Traceback" not in told.err


VALUES = {
    "nan": ("[1.0, float('nan')]", "task", r"task 2 in order, got nan"),
    "infinite": ("[float('inf'), 1.0]", "task", r"task 1 in order, got inf"),
    "huge": ("[10 ** 400, 1.0]", "task", r"task 1 in order, got 1000"),
    "text": ("['a', 1.0]", "task", r"task 1 in order, got a"),
    "truth": ("[True, 1.0]", "task", r"task 1 in order, got True"),
    "complex": ("[1j, 1.0]", "task", r"got 1j"),
    "short": ("[1.0]", "task", r"shape \(2,\), got shape \(1,\)"),
    "number": ("1.0", "task", r"a value for each task, shape \(2,\), got shape \(\)"),
    "nothing": ("None", "task", r"got shape \(\)"),
    "vector of pairs": ("[1.0, 2.0]", "pair", r"shape \(2, 2\), got shape \(2,\)"),
    "ragged": ("[[1.0, 2.0], [3.0]]", "pair", r"shape \(2, 2\), got shape \(2,\)"),
    "pair": ("[[1.0, float('nan')], [1.0, 1.0]]", "pair", "tasks 1 and 2 in order, got nan"),
    "raises": ("1 / 0", "task", "ZeroDivisionError: division by zero"),
    "writes": ("checkpoints[0].matrix.fill(0)", "task", "read-only"),
    "many lines": (r"(_ for _ in ()).throw(ValueError('one\nand two'))", "task", "ValueError: one and two"),
    "range": ("[1.0, 5.0]", "task", r"\(0 to 2\) or None for task 2 in order, got 5.0"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_none_are_told_in_one_line(tmp_path, monkeypatch, case):
    values, kind, words = VALUES[case]
    more = "lowest=0.0, highest=2.0" if case == "range" else ""
    plugins.installed(monkeypatch, tmp_path, "broken", plugins.module(values, kind=kind, more=more))
    with pytest.raises(MeasureError, match=words) as caught:
        made_summary()
    assert "\n" not in str(caught.value) and "package broken" in str(caught.value)


def test_a_bug_of_our_own_keeps_its_traceback_and_memory_its_remedy():
    now = checkpoint(np.random.default_rng(0))
    of = Measure(name="x", title="x", kind="task", sentence="x", function=lambda now: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        of.values(now)

    def full(now):
        raise MemoryError

    with pytest.raises(MemoryError):
        replace(of, function=full, package="theirs").values(now)
    flat = replace(now, kernel=np.zeros_like(now.kernel))
    with pytest.raises(FunctionError, match="task 0"):
        by_name()["inter_intra_ratio"].values(flat)
