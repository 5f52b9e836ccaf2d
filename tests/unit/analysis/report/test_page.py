"""What the page may do, what its script reads, and which images were forgotten."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from analysis.errors import StoreError
from analysis.report import write_report
from analysis.report.forgotten import forgotten
from analysis.report.page import RunView, joined, render_page
from analysis.report.pixels import ROWS, kept, of_images, packed, thinned
from analysis.report.provenance import made_says, provenance_of
from analysis.report.reading import read_run
from analysis.report.sections import SECTIONS, Part, all_tables
from analysis.report.svg import for_page
from analysis.report.tables import Table, forgotten_images
from ntkcl_jax.training import budget
from ntkcl_jax.training.metrics import TaskEvaluation
from tests.support import reported
from tests.support.reported import Page, edit

ENDING = "</script><!--<script>\u202e"


def evaluations(rng: np.random.Generator, tasks: int = 4, images: int = 60) -> list[TaskEvaluation]:
    """Answers at random, right among fewer classes wherever they are right among all."""
    made = []
    for t in range(tasks):
        right = [rng.random(images) < 0.6 for _ in range(t + 1)]
        among_old = [flags | (rng.random(images) < 0.3) for flags in right[:-1]]
        texts = [[budget.packed(flags) for flags in kind] for kind in (right, among_old)]
        counts = tuple(int(flags.sum()) for flags in right)
        made.append(
            TaskEvaluation(t, (images,) * (t + 1), counts, sum(counts), right=texts[0], right_among_old=texts[1])
        )
    return made


def keep(run: Path, every: list[TaskEvaluation], method: str = "ntkcl") -> None:
    for t, evaluation in enumerate(every):
        record = json.loads(msgspec.json.encode(evaluation.to_record()))
        reported.write(run / f"checkpoints/{method}/seed0/task{t}/after/meta.json", {"evaluation": record})


@pytest.mark.usefixtures("undrawn")
def test_the_policy_names_the_only_script_and_style_and_nothing_else_runs_or_loads(run: Path) -> None:
    out = write_report([run])
    page, text = Page(out), out.read_text()
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for kind, content in (("style", style), ("script", page.program)):
        made = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{made}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert not re.search(r"\bhttps?:|javascript:|\bsrcset|\bimport\b", re.sub(r"data:image[^\"]*", "", text))
    # Names reach the page's model as text only
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|</", page.program)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert {attrs["href"] for tag, attrs in page.tags if tag == "link"} == {"data:,"}


def test_data_for_the_script_cannot_end_its_element(made: Path, tmp_path: Path) -> None:
    kernel = read_run(made).kernels[0]
    data = of_images([kernel], [ENDING] * 6, "test", {}, 12)
    page = render_page([RunView("a", [], "", {"kernels": Part(pixels=data)}, {}, [])], {"kernels": "k"})
    (tmp_path / "page.html").write_bytes(page)
    shown, _ = Page(tmp_path / "page.html").data
    assert "</script><!--<script>" in shown["rows"][0] and "\u202e" not in shown["rows"][0]
    assert page.count(b"<script") == page.count(b"</script>") == 3 and b"<!--" not in page


def test_packed_matrices_are_unpacked_to_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.uniform(-0.4, 1, (7, 7))
    matrix = (matrix + matrix.T) / 2
    matrix[2, 3] = matrix[3, 2] = np.nan
    steps = np.frombuffer(base64.b64decode(packed(matrix, -0.4, 1)), "<u2").tolist()
    for i in range(7):
        for j in range(i, 7):
            step = steps.pop(0)
            if {i, j} == {2, 3}:
                assert step == 65535
            else:
                assert -0.4 + step / 65534 * 1.4 == pytest.approx(matrix[i, j], abs=0.51 * 1.4 / 65534)
    assert not steps


def test_pixels_are_of_the_kernel_that_is_drawn_and_bounded(made: Path) -> None:
    files = read_run(made)
    part = SECTIONS["kernels"][1](files)
    assert part.pixels.stops == ["before training", "after task 3"] and len(part.panels) == 2
    for matrix, kernel in zip(part.pixels.matrices, files.kernels, strict=True):
        assert np.array_equal(matrix, kernel.cosines)
    first = files.kernels[0]
    # Probes of the made-up run are numbered backwards, and go round the two classes of a task
    assert first.images[:4].tolist() == [3, 1, 2, 0]
    assert part.pixels.rows[:2] == ["task 1, class 5, test image 3", "task 1, class 5, test image 1"]
    rows = {name: np.tile(getattr(first, name), 20) for name in ("tasks", "labels", "images")}
    many = thinned(replace(first, cosines=np.tile(first.cosines, (20, 20)), **rows))
    assert many.cosines.shape == (ROWS, ROWS) and len(many.images) == ROWS
    for i, j in ((0, 0), (1, 159), (77, 30)):
        a, b = (round(k * 239 / 159) % 12 for k in (i, j))
        assert many.cosines[i, j] == first.cosines[a, b] and many.images[i] == first.images[a]
    assert of_images([many], [], "test", {}, 240).note == "160 of the 240 probe images, at even distances."
    assert kept(1000)[[0, -1]].tolist() == [0, 999] and len(set(kept(1000).tolist())) == ROWS
    size = len(packed(np.eye(ROWS), 0, 1))
    assert size == 4 * -(-(ROWS * (ROWS + 1)) // 3) < 35_000


@pytest.mark.usefixtures("undrawn")
def test_kernels_of_other_images_share_no_pixels(run: Path) -> None:
    files = read_run(run)
    first, last = files.kernels
    other = replace(files, kernels=(first, replace(last, images=last.images + 1)))
    assert SECTIONS["kernels"][1](files).pixels is not None
    assert SECTIONS["kernels"][1](other).pixels is None


def test_more_than_three_figures_of_a_kind_get_stops(made: Path, tmp_path: Path) -> None:
    few = SECTIONS["curves"][1](read_run(made))
    many = SECTIONS["curves"][1](read_run(reported.made_run(tmp_path / "many", tasks=4, checkpoints=(0,))))
    assert [panel.stop for panel in few.panels] == [""] * 3
    assert [panel.stop for panel in many.panels] == [f"task {t}" for t in (1, 2, 3, 4)]
    view = RunView("a", [], "", {"curves": many}, {panel.name: b"<svg/>" for panel in many.panels}, [])
    (tmp_path / "page.html").write_bytes(render_page([view], {"curves": "Curves"}))
    stops = [attrs["data-stop"] for _, attrs in Page(tmp_path / "page.html").tags if "data-stop" in attrs]
    assert stops == [panel.stop for panel in many.panels]


def test_advice_stands_before_the_summary_and_all_else_after_it() -> None:
    view = RunView("a", ["In a sentence."], "", {"budget": Part()}, {}, [], "made")
    page = render_page([view], {"budget": "Budget"}).decode()
    assert re.findall(r'<section id="(\w+)"', page) == ["advice", "verdict", "budget", "provenance"]


def test_a_number_and_its_error_share_a_cell_of_the_page_but_not_of_the_file() -> None:
    table = Table("t", "", ["method", "lost", "±", "won", "± "], [["a", 1.25, 0.5, None, None]])
    assert joined(table).header == ["method", "lost", "won"]
    assert joined(table).rows == [["a", "1.25\xa0±\xa00.5", None]]
    assert table.csv().decode().splitlines()[1] == "a,1.25,0.5,,"


def test_figures_in_the_page_keep_what_is_seen() -> None:
    from analysis.report.figures import new_figure
    from analysis.report.output import render

    figure, axes = new_figure()
    axes.plot([0.123456, 1], [0, 1], color="black")
    svg = render(figure)["svg"]
    text = for_page(svg)
    assert len(text) < 0.95 * len(svg) and "<metadata>" not in text and "prefers-color-scheme" in text

    def places(drawn: str) -> np.ndarray:
        return np.array([float(n) for d in re.findall(r'\sd="([^"]*)"', drawn) for n in re.findall(r"-?[\d.]+", d)])

    assert places(text) == pytest.approx(places(svg.decode()), abs=0.01)
    assert re.findall("scale\\([^)]*\\)", text) == re.findall("scale\\([^)]*\\)", svg.decode())


def test_forgotten_images_are_those_of_a_loop_over_images_and_add_up_to_the_budget() -> None:
    every = evaluations(np.random.default_rng(0))
    made = forgotten(every)
    assert [one.task for one in made] == [0, 1, 2]
    for one in made:
        expected, won = [], 0
        for image in range(60):
            right = [bool(e.answers[0][one.task][image]) for e in every[one.task :]]
            won += right[-1] and not right[0]
            if right[0] and not right[-1]:
                by = len(right) - 1
                while not right[by - 1]:
                    by -= 1
                by += one.task
                expected.append((image, by, bool(every[by].answers[1][one.task][image])))
        assert list(zip(one.images, one.by, one.competed, strict=True)) == expected and won == one.won
        lost = every[one.task].correct[one.task] - every[-1].correct[one.task]
        assert len(one.images) - one.won == lost and one.count == 60


def test_a_run_that_kept_its_answers_names_the_images_it_forgot(run: Path) -> None:
    assert forgotten_images(read_run(run)).rows == []
    every = evaluations(np.random.default_rng(2), tasks=3)
    keep(run, every)
    files = read_run(run)
    table, part = SECTIONS["budget"][1](files).tables[1], SECTIONS["kernels"][1](files)
    first = forgotten(every)[0]
    assert table.rows[0][:4] == [1, 60, len(first.images), int(first.competed.sum())]
    assert table.rows[0][-1].startswith(", ".join(map(str, first.images[:8])))
    (written,) = [made for made in all_tables(files) if made.name == "forgotten_images"]
    assert len(written.rows) == sum(len(one.images) for one in forgotten(every))
    # A probe that was forgotten says so
    lost = {f"task {one.task + 1} {image}" for one in forgotten(every) for image in one.images if image < 4}
    found = [re.fullmatch(r"(task \d), class \d, test image (\d)(, forgotten)?", row) for row in part.pixels.rows]
    assert {f"{row[1]} {row[2]}" for row in found if row[3]} == lost and 0 < len(lost) < len(found)
    # One that isn't finished, or of a version that kept none, has none; a broken one is refused
    path = run / "checkpoints/ntkcl/seed0/task1/after/meta.json"
    edit(path, lambda meta: meta["evaluation"].update(right=None, right_among_old=None))
    assert not read_run(run).answers
    edit(path, lambda meta: meta["evaluation"].update(right=["x"], right_among_old=[]))
    with pytest.raises(StoreError, match="task1"):
        read_run(run)
    keep(run, every)
    keep(run, evaluations(np.random.default_rng(0), tasks=1, images=50))
    with pytest.raises(StoreError, match="other test images"):
        read_run(run)


def test_a_report_says_when_and_on_what_run_and_report_were_made(run: Path) -> None:
    def devices(config: Any) -> None:
        config.update(devices={"data": 4, "model": 2, "kind": "TPU v4", "processes": 2})

    assert " UTC on 1 x cpu, a machine. Report of 20" in made_says(read_run(run))
    edit(run / "config.json", devices)
    files = read_run(run)
    assert re.fullmatch(
        r"Run of \d{4}-\d\d-\d\d \d\d:\d\d UTC on 8 x TPU v4 of 2 processes, a machine\. Report of .* UTC\.",
        made_says(files),
    )
    terms = dict(provenance_of(files))
    assert terms["devices"] == "8 x TPU v4 of 2 processes" and "UTC" in terms["results written"]
