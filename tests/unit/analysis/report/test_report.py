"""The report says what the numbers say, needs nothing but itself, and no file or name can break it."""

import base64
import csv
import json
import re
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from jinja2.exceptions import UndefinedError
from msgspec.structs import replace
from PIL import Image

from analysis.errors import StoreError
from analysis.plots.kernels import ratio_heatmaps, task_lines
from analysis.report import words, write_report
from analysis.report.facts import ForecastFacts, forecast_facts, gap_facts, kernel_facts
from analysis.report.output import render
from analysis.report.page import RunView, render_page
from analysis.report.reading import read_run
from analysis.report.sections import SECTIONS, Part, all_tables
from analysis.report.svg import address
from analysis.report.tables import Table
from analysis.report.theory_figures import budget_figure, budget_limits, curve_figure, forecast_figure
from analysis.report.verdict import verdict
from ntkcl_jax.plots.accuracy import accuracy_matrix_figure
from tests.support import reported
from tests.support.reported import Page, edit, of_counts

HEBREW = "\u05e9\u05dc\u05d5\u05dd"
RIGHT_TO_LEFT = f"{HEBREW} \u202e \u200f<b>"
HOSTILE = ["<script>alert(1)</script>", r"$\frac{", '"quo\'te"\nnew line', RIGHT_TO_LEFT, "=1+1 \ud800 \x00"]


def test_one_file_holds_everything_and_figures_and_tables_lie_beside_it(run: Path) -> None:
    out = write_report([run])
    assert out == run / "analysis" / "report.html"
    page = Page(out)
    loads = [attrs.get(name) for _, attrs in page.tags for name in ("src", "href") if attrs.get(name)]
    assert loads and all(str(load).startswith(("data:", "#")) for load in loads)
    assert not re.search(r"@import|url\(", re.sub(r'src="data:[^"]*"', "", out.read_text()))
    figures, tables = run / "analysis" / "figures", run / "analysis" / "tables"
    drawn = {p.stem for p in figures.glob("*.svg")}
    assert {address(p.read_bytes()) for p in figures.glob("*.svg")} == set(page.sources)
    assert drawn == {p.stem for p in figures.glob("*.png")} and len(drawn) == 21
    for path in figures.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 300 and pixels.std() > 5
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    csvs = {p.stem for p in tables.glob("*.csv")}
    assert {"accuracy_matrix", "ratios", "spectra", "per_task", "shares", "gaps", "gap_parts", "learning_curves",
            "bounds", "forecast", "forgetting_budget", "forgetting_budget_summary", "what_if", "influence",
            "influence_images"} <= csvs  # fmt: skip
    assert not list(run.rglob("*.partial"))


def test_names_of_users_are_text_everywhere(tmp_path: Path) -> None:
    names = HOSTILE[:2]
    run = reported.made_run(
        tmp_path / "<img src=x>$", tasks=2, names=names, class_names=HOSTILE[1:], preset=HOSTILE[0], checkpoints=(0,)
    )
    edit(run / "config.json", lambda config: config.update(machine=HOSTILE[3], command=HOSTILE))
    hostile = reported.forecast(2, [0], names, new="x")
    for pair in hostile["seeds"]["0"]["pairs"]:
        pair["new"] = HOSTILE[4]
    reported.write(run / "analysis/forecast-<b>.json", hostile)
    edit(run / "analysis/gaps.json", lambda gaps: gaps["seeds"]["0"]["by_task"][0]["bound"].update(note=HOSTILE[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or broken mathematics
        page = Page(write_report([run]))
    assert {tag for tag, _ in page.tags}.isdisjoint({"b>", "bdi<"})
    # The kernels of images and of tasks, the colour scales, and what draws them
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 4 == len(page.data) + 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert any(HOSTILE[1] in row for made in page.data for row in made.get("rows", ()))
    assert len([tag for tag, _ in page.tags if tag == "img"]) == len(page.pictures)
    assert HOSTILE[0] in page.text and r"$\frac{" in page.text and HEBREW in page.text
    assert not {"\u202e", "\x00"} & set(page.text + json.dumps(page.data, ensure_ascii=False))
    for picture in page.pictures:
        ElementTree.fromstring(picture)
        assert b"<script" not in picture
    for path in (run / "analysis" / "tables").glob("*.csv"):
        cells = [cell for row in csv.reader(path.read_text().splitlines()) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") and not cell[1:2].isdigit()]
    assert "'=1+1" in (run / "analysis" / "tables" / "forecast__b_.csv").read_text()


def test_sentences_carry_the_numbers_of_the_files(made: Path) -> None:
    files = read_run(made)
    said = verdict(files)
    assert 3 <= len(said) <= 5
    assert "90.0\xa0%" not in said[0] and "After 3 tasks, NTK-CL names 95.0\xa0%" in said[0]
    assert "plain training on one task after the other 80.0\xa0%" in said[0]
    # A twentieth of the images a later task, of two old tasks: 10 and 5 %; errors sqrt(share - share²) / sqrt(2000)
    assert "lost 7.5 ± 0.4 points" in said[1] and "7.5 ± 0.4 to drift" in said[1]
    last = files.summary.seeds[0].checkpoints[3]
    ratios = np.array(last.inter_intra_ratio)[np.triu_indices(3, 1)]
    assert kernel_facts(files.summary).last == pytest.approx(ratios.mean())
    assert f"kernel is {ratios.mean():.2g} of" in said[2]
    gaps = gap_facts(files.gaps)
    added = [gap.total - gap.task_specific for gap in files.gaps.seeds[0].by_task[:2]]
    assert gaps.forgetting == pytest.approx(np.mean(added)) and f"added {np.mean(added):.2g} to" in said[3]
    assert gaps.loo_error == pytest.approx(0.1)
    pairs = files.forecast.seeds[0].pairs
    told = forecast_facts(files.forecast)
    assert told.error == pytest.approx(np.median([pair.relative_error for pair in pairs]))
    changes = [(pair.predicted_loss_change, pair.measured_loss_change) for pair in pairs]
    assert told.correlation == pytest.approx(np.corrcoef(np.transpose(changes))[0, 1])
    assert "3 pairs" in said[4] and "holds" in said[4]


def test_a_sentence_changes_with_its_number(run: Path) -> None:
    before = verdict(read_run(run))
    edit(run / "analysis/forecast.json", lambda f: [p.update(cosine=0.1) for p in f["seeds"]["0"]["pairs"]])
    edit(run / "results.json", lambda r: r["summary"]["ntkcl"].update(of_counts([[20], [20, 20], [20, 20, 20]])))
    after = verdict(read_run(run))
    assert "nothing to drift" not in before[1] and "lost 0.0 ± 0.0 points on average, nothing beyond" in after[1]
    assert "nothing to drift (no answer" in after[1]
    assert "does not hold" in after[4] and before[2] == after[2]


def test_a_forecast_holds_only_in_direction_and_in_size() -> None:
    def judged(
        cosine: float | None, error: float | None, correlation: float | None, size: float = 1.0, loss: float = 1.0
    ) -> str | None:
        return ForecastFacts(3, 0, cosine, error, size, loss, correlation, None, None, None).verdict

    assert judged(0.95, 0.3, 0.9) == "holds" and judged(0.95, 0.3, None) == "holds"
    assert judged(0.95, 0.7, 0.9) == judged(0.95, 0.3, 0.5) == judged(0.7, 0.3, 0.9) == "direction"
    assert judged(0.2, 0.3, 0.9) == "no" and judged(None, 0.3, 0.9) is None
    # Right in direction and order, but 1.85 and 3.4 times what happened, or a third of it
    for size in (1.85, 3.4, 1 / 3):
        assert judged(0.95, 0.3, 0.9, size=size) == judged(0.95, 0.3, 0.9, loss=size) == "direction"
    assert judged(0.95, 0.3, 0.9, size=1.4, loss=0.7) == "holds"
    assert ForecastFacts(3, 3, None, None, None, None, None, None, None, None).verdict == "still"


def test_the_size_of_a_forecast_is_said_beside_what_counts_as_right(run: Path) -> None:
    def larger(forecast: Any) -> None:
        for pair in forecast["seeds"]["0"]["pairs"]:
            pair.update(measured_norm=0.1, predicted_norm=0.12, measured_loss_change=0.01, predicted_loss_change=0.03)

    edit(run / "analysis/forecast.json", larger)
    files = read_run(run)
    assert "holds in direction, but not in size" in verdict(files)[4]
    for said in (verdict(files)[4], words.forecast_says(files.forecast)):
        assert "makes drifts 1.2 times and loss changes 3 times as large as they were; between 0.67 and 1.50" in said


def test_where_nothing_moved_a_forecast_neither_holds_nor_fails(run: Path) -> None:
    still = {"moved": False, "rounding": 2e-6, "cosine": None, "relative_error": None, "measured_norm": 1e-8}
    edit(run / "analysis/forecast.json", lambda f: [p.update(still) for p in f["seeds"]["0"]["pairs"]])
    files = read_run(run)
    assert verdict(files)[4].startswith("Nothing moved") and words.forecast_says(files.forecast).startswith("Nothing")
    edit(run / "analysis/forecast.json", lambda f: f["seeds"]["0"]["pairs"][0].update(moved=True, cosine=0.95))
    assert "In 2 further pairs nothing moved" in words.forecast_says(read_run(run).forecast)


def test_an_unmatched_ridge_is_named(run: Path) -> None:
    edit(run / "analysis/gaps.json", lambda g: g["seeds"]["0"]["by_task"][1].update(matched=False, ridge_note="short"))
    edit(run / "analysis/gaps.json", lambda g: g["seeds"]["0"]["by_task"][2]["laziness"].update(moved=False))
    files = read_run(run)
    assert "can't be compared: on 1 of 3 tasks the network went farther" in verdict(files)[3]
    said = words.gaps_says(files.gaps)
    assert "couldn't be matched on 1 of 3 tasks" in said and "on 1 of 3 tasks nothing moved" in said


@pytest.mark.usefixtures("undrawn")
def test_one_checkpoint_neither_stays_nor_moves_and_a_gap_between_checkpoints_is_named(tmp_path: Path) -> None:
    one = read_run(reported.made_run(tmp_path / "one", tasks=2, checkpoints=(2,))).summary
    for said in (words.ratios_says(one), words.drift_says(one)):
        assert "stayed" not in said and "went" not in said and "Over training" not in said
    assert "alignment is " in words.drift_says(one) and "The closest pair is tasks 1 and 2" in words.ratios_says(one)
    every = read_run(reported.made_run(tmp_path / "every", tasks=2)).summary
    assert (
        "per task learned" in words.drift_says(every) and "per task learned" in verdict(read_run(tmp_path / "every"))[2]
    )
    some = read_run(reported.made_run(tmp_path / "some", tasks=2, checkpoints=(0, 2)))
    for said in (words.drift_says(some.summary), verdict(some)[2]):
        assert "from each of the checkpoints 0, 2 to the next" in said and "per task" not in said


def test_probes_with_one_image_of_a_class_say_nothing_of_classes(run: Path) -> None:
    before = kernel_facts(read_run(run).summary)
    edit(run / "analysis/summary.json", lambda summary: summary["seeds"]["0"].update(too_few=[0, 1, 2]))
    files = read_run(run)
    facts = kernel_facts(files.summary)
    assert (facts.same, facts.alignment) == (None, None) and None not in (before.same, before.alignment)
    assert "can't be told: no two probe images are of one class" in verdict(files)[2]
    assert "unknown" not in verdict(files)[2] + words.drift_says(files.summary)
    assert "alignment can't tell" in words.drift_says(files.summary)
    edit(run / "analysis/summary.json", lambda summary: summary["seeds"]["0"].update(too_few=[2]))
    last = files.summary.seeds[0].last
    some = kernel_facts(read_run(run).summary)
    assert some.same == pytest.approx(last.same_task_ratio[0][1])
    assert some.alignment == pytest.approx(np.mean(last.target_alignment[:2]))


def test_influence_shows_pairs_of_images_and_classes_and_tells_which_task_cost_most(run: Path) -> None:
    part = SECTIONS["influence"][1](read_run(run))
    images, classes = (panel.figure for panel in part.panels)
    # Four old images, each with the two new ones that helped it beside the five that harmed it; a place is left empty
    shown = [axes for axes in images.axes if axes.images]
    assert len(shown) == 4 * (1 + 5 + 2) and len(images.axes) == 4 * 9
    assert shown[0].get_ylabel() == "task 2: forgotten\n+0.300" and shown[1].get_xlabel() == "3\n+0.0300"
    moved, changed = (axes.images[0].get_array() for axes in classes.axes[:2])
    assert moved.shape == changed.shape == (4, 4) and np.isnan(moved.filled(np.nan)[2:, :2]).all()
    assert "Task 3 raised old images' loss most, by +0.0400 ± 0.0030 a test image." in part.says
    assert (
        "the 5 % of its training images that push it up most bring +0.0080, all of them together +0.0200." in part.says
    )
    assert [len(table.rows) for table in part.tables] == [2, 4]
    for pixels, said in (
        ("!", "expected base64"),
        (base64.b64encode(bytes(13)).decode(), "expected the bytes of a square"),
    ):
        harmed = {**reported.influence(3, [0], ["a", "b", "c"])["seeds"]["0"]["harmed"][1], "pixels": pixels}
        edit(run / "analysis/influence.json", partial(replace_harmed, harmed))
        with pytest.raises(StoreError, match=said):
            read_run(run)


def replace_harmed(harmed: dict[str, Any], made: dict[str, Any]) -> None:
    made["seeds"]["0"]["harmed"][1] = harmed


@pytest.mark.usefixtures("undrawn")
def test_a_part_that_is_not_there_names_its_command(run: Path) -> None:
    for name in ("summary", "gaps", "forecast", "what_if", "influence"):
        (run / "analysis" / f"{name}.json").unlink()
    (run / "results.json").unlink()
    page = Page(write_report([run]))
    assert not page.pictures
    waits = page.text.count("Not there yet; this command makes it:")
    assert waits == len(SECTIONS) == 12
    for command in ("kernels", "gaps", "forecast", "whatif", "influence"):
        assert f"ntk-analysis {command} {run}" in page.text
    assert "ntkcl train digits --resume" in page.text
    assert page.text.count("What it shows.") == 0
    assert len(verdict(read_run(run))) >= 3


def test_a_single_task_and_a_single_checkpoint_have_their_words(tmp_path: Path) -> None:
    files = read_run(reported.made_run(tmp_path / "one", tasks=1, checkpoints=(1,)))
    assert len(verdict(files)) == 5
    parts = {key: make(files) for key, (_, make) in SECTIONS.items()}
    assert [panel.name for panel in parts["drift"].panels] == ["target_alignment_seed0"]
    assert not parts["forecast"].panels and parts["forecast"].tables
    assert "unknown" not in parts["accuracy"].says


def test_the_what_if_draws_every_rate_beside_what_was_measured_and_tells_only_gains_beyond_noise(run: Path) -> None:
    part = SECTIONS["what_if"][1](read_run(run))
    (axes,) = part.panels[0].figure.axes
    lines = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 4]
    crosses = [y for line in axes.lines if line.get_marker() == "x" for y in line.get_ydata()]
    # Full and dashed lines of the new task, old ones and all; the made-up run measures what is expected of it
    assert len(lines) == 7 and crosses == [lines[i][2] for i in (0, 2, 4)]
    assert lines[4][0] == pytest.approx(100 * (2 * 0.95 + 0.8) / 3)
    assert lines[6][:3].tolist() == pytest.approx([95, 94, 92]) and np.isnan(lines[6][3])
    rows = part.tables[0].rows
    assert len(rows) == 12 and rows[-1][3:] == [None] * 11 and [row[2] for row in rows].index("yours") == 7
    assert "0.1 is expected to be best: 92.5 % on all tasks seen, +0.3 ± 0.1 points." in part.says
    edit(run / "analysis/what_if.json", lambda made: made["best"].update(told=False))
    edit(run / "analysis/what_if.json", lambda made: made.update(reliable=False))
    said = SECTIONS["what_if"][1](read_run(run)).says
    assert (
        "none is better beyond noise" in said
        and "instead of 92.0 %: +3.0 ± 1.0 points." in said
        and "Mistrust the sizes: to first order" in said
    )


@pytest.mark.usefixtures("undrawn")
def test_names_that_only_a_file_can_hold_break_nothing(run: Path) -> None:
    """Names of parameter groups and kernels, which nobody chooses, and new data where a task is expected."""

    def rename(summary: Any) -> None:
        summary["outputs"] = HOSTILE[4]
        for figures in summary["seeds"]["0"]["checkpoints"].values():
            figures["groups"] = dict(zip(HOSTILE, [*figures["groups"].values()] * 2, strict=False))

    edit(run / "analysis/summary.json", rename)
    edit(run / "analysis/forecast.json", lambda f: f["seeds"]["0"]["pairs"][1].update(new=HOSTILE[4]))
    edit(run / "analysis/forecast.json", lambda f: f["seeds"]["0"]["pairs"][1].update(relative_error=9.0))
    page = Page(write_report([run]))
    assert HOSTILE[0] in page.text and "under =1+1 ? ? (relative error 9)" in page.text
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 4 and "\u202e" not in page.text
    (share,) = SECTIONS["shares"][1](read_run(run)).panels
    render(share.figure)  # a name with broken mathematics among them


def test_the_page_escapes_and_cleans_what_nobody_else_did() -> None:
    text = "a\u202eb\x1b[2J\ud800</p><script>&\"'"
    table = Table("t", text, [text], [[text]])
    part = Part(says=text, tables=[table], missing=text)
    view = RunView(text, [text], text, {"accuracy": part}, {}, [(text, text)])
    page = render_page([view, view], {"accuracy": text}, table).decode()
    assert not {"\u202e", "\x1b", "\ud800"} & set(page)
    assert len(re.findall("<script", page)) == len(re.findall("</script>", page)) == 2
    assert page.count("a?b?[2J?&lt;/p&gt;&lt;script&gt;&amp;&#34;&#39;") >= 25


def test_the_template_knows_no_empty_name() -> None:
    view = RunView("a", [], "", {}, {}, [])
    with pytest.raises(UndefinedError, match="accuracy"):
        render_page([view], {"accuracy": "a section that the run has no part of"})


def test_a_single_task_of_several_methods_has_no_forgetting(tmp_path: Path, undrawn: None) -> None:
    run = reported.made_run(tmp_path / "one", tasks=1, checkpoints=(1,))
    edit(run / "config.json", lambda config: config["config"].update(methods=["ntkcl", "adapters"]))
    edit(run / "results.json", lambda results: results["summary"].update(adapters=results["summary"]["sequential"]))
    (run / "analysis/adapters").mkdir()
    shutil.copy(run / "analysis/summary.json", run / "analysis/adapters")
    write_report([run])
    rows = list(csv.DictReader((run / "analysis/tables/methods.csv").read_text().splitlines()))
    assert [(row["final accuracy, %"], row["forgetting, points"]) for row in rows] == [("100.0", ""), ("100.0", "")]


@pytest.mark.usefixtures("undrawn")
def test_two_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = reported.made_run(tmp_path / "other", tasks=2, seeds=(3, 4), checkpoints=(0, 2))
    (other / "analysis/gaps.json").unlink()
    out = tmp_path / "deep" / "both.html"
    assert write_report([run, other], out) == out
    page = Page(out)
    assert page.text.count("Not there yet") == 3
    assert "small : The final" in page.text and "other : The final" in page.text and "Side by side" in page.text
    assert "show seed 3 of 3, 4" in page.text
    for one in (run, other):
        assert (one / "analysis/tables/ratios.csv").exists() and (one / "analysis/figures").is_dir()
    assert not (run / "analysis/report.html").exists()


def test_stacks_add_up_to_the_sum_that_is_marked(made: Path) -> None:
    budgets = read_run(made).gaps.seeds[0].by_task
    axes = budget_figure(budgets, [0, 1, 2], "theory", budget_limits(budgets)).axes[0]
    heights = np.zeros(3)
    for bar in axes.patches:
        assert bar.get_height() >= 0 or bar.get_y() <= 0  # what is negative hangs from zero
        heights[round(bar.get_x() + bar.get_width() / 2)] += bar.get_height()
    marked = next(line for line in axes.lines if line.get_label() == "sum").get_ydata()
    assert heights == pytest.approx(marked) and marked == pytest.approx([budget.direct for budget in budgets])
    low, high = axes.get_ylim()
    edges = [edge for bar in axes.patches for edge in (bar.get_y(), bar.get_y() + bar.get_height())]
    assert low <= min(edges) and max(edges) <= high


def test_the_same_numbers_give_the_same_bytes(made: Path) -> None:
    budgets = read_run(made).gaps.seeds[0].by_task
    first, second = (render(budget_figure(budgets, [0, 1, 2], "theory", (0, 1))) for _ in range(2))
    assert first == second and b"Creator" not in first["svg"]


def test_a_forecast_is_drawn_above_the_line_where_it_says_too_much(made: Path) -> None:
    pair = read_run(made).forecast.seeds[0].pairs[0]
    pair = replace(pair, predicted_loss_change=0.3, measured_loss_change=0.1)
    axes = forecast_figure([pair]).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.1, 0.3]]
    assert "measured" in axes.get_xlabel() and "predicted" in axes.get_ylabel()


def test_many_tasks_keep_their_keys_and_their_numbers_apart(tmp_path: Path) -> None:
    files = read_run(reported.made_run(tmp_path / "many", tasks=12, checkpoints=(0, 12)))
    gaps, pairs = files.gaps.seeds[0], files.forecast.seeds[0].pairs
    plain = json.loads((tmp_path / "many/analysis/summary.json").read_text())["seeds"]["0"]
    for figure, keys in (
        (forecast_figure(pairs), {"by task 2", "by task 7", "by task 12"}),
        (budget_figure(gaps.by_task, gaps.tasks, "", (0, 1)), {"from task 2", "from task 7", "from task 12"}),
        (task_lines(plain["checkpoints"], plain["tasks"]), {"task 1", "task 7", "task 12"}),
    ):
        assert keys <= {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    ticks = [text.get_text() for text in ratio_heatmaps(plain["checkpoints"], plain["tasks"]).axes[0].get_xticklabels()]
    assert ticks == ["1", "3", "5", "7", "9", "11"]
    names = [f"class{t} other third … ({t} classes)" for t in range(12)]
    results = json.loads((tmp_path / "many/results.json").read_text()) | {"task_names": names}
    axes = accuracy_matrix_figure(results, "ntkcl").axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(t + 1) for t in range(12)]
    assert [text.get_text() for text in axes.get_yticklabels()][11] == "12: class11 other … (11 classes)"


def test_nothing_of_a_learning_curve_lies_outside(made: Path) -> None:
    gap = read_run(made).gaps.seeds[0].by_task[0]
    curve = gap.learning_curve
    high = replace(gap, learning_curve=replace(curve, network=replace(curve.network, loss=3.0)))
    axes = curve_figure(high).axes[0]
    assert axes.get_ylim()[1] > 3.0 and axes.get_xticks().tolist() == [5, 10, 20, 40, 200]
    assert [line.get_label() for line in axes.lines if len(line.get_xdata()) == 1] == ["trained network"]


def test_kernels_are_ordered_by_task_and_class(made: Path) -> None:
    first, last = read_run(made).kernels
    assert (first.checkpoint, last.checkpoint) == (0, 3)
    assert first.tasks.tolist() == sorted(first.tasks) and first.labels.tolist() == sorted(first.labels)
    assert np.diag(first.cosines) == pytest.approx(1) and abs(first.cosines).max() <= 1 + 1e-12
    same = first.labels[:, None] == first.labels
    assert first.cosines[same].mean() > first.cosines[~same].mean() + 0.2


def test_tables_hold_the_unrounded_numbers(made: Path) -> None:
    files = read_run(made)
    rows = {table.name: table for table in all_tables(files)}
    lines = list(csv.DictReader(rows["forecast"].csv().decode().splitlines()))
    pair = files.forecast.seeds[0].pairs[1]
    assert float(lines[1]["relative error of the drift"]) == pair.relative_error
    assert (lines[1]["old task"], lines[1]["new task"]) == (str(pair.old + 1), str(pair.new + 1))
    matrix = list(csv.DictReader(rows["accuracy_matrix"].csv().decode().splitlines()))
    assert float(matrix[1]["accuracy"]) == 0.95 and len(matrix) == 2 * 6
