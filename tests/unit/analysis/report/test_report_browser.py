"""The report in headless Chromium: nothing is missing, complains or is wider than a phone, and its script works."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report
from analysis.report.reading import read_run
from tests.support import reported
from tests.support.browser import Browser, chromium

pytestmark = pytest.mark.browser
LOOK = """(() => {
  const root = document.documentElement, box = one => one.getBoundingClientRect();
  const shown = one => one.checkVisibility();
  return {
    width: root.scrollWidth,
    images: [...document.images].filter(shown).map(
      i => [i.complete, i.naturalWidth, i.naturalHeight, box(i).width, box(i).height]),
    hidden: [...document.images].filter(i => !shown(i)).length,
    viewers: [...document.querySelectorAll(".viewer")].filter(shown).length,
    sections: [...document.querySelectorAll("section")].map(s => s.innerText.length),
    beyond: [...document.querySelectorAll("section *")].filter(
      e => box(e).right > root.clientWidth + 1 && !e.closest(".frame, .table")).map(e => e.outerHTML.slice(0, 80)),
    columns: new Set([...document.querySelectorAll("#accuracy > .runs > div")].map(d => box(d).left)).size,
    small: [...document.querySelectorAll("button")].filter(b => shown(b) && box(b).height < 12).length,
  };
})()"""
FOREIGN = """<section id="broken"><div style="width:900px">x</div><img src="missing.png" alt=""></section>
<img src="data:," alt="" onerror="document.title = 'ran'"><script>document.title = "ran"</script></body>"""
CANVAS = "document.querySelector('#kernels canvas').toDataURL()"
PIXEL = "document.querySelector('#kernels .pixel').textContent"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of them with names that try to break the report, one without a forecast."""
    home = tmp_path_factory.mktemp("browser")
    names = ["<script>document.title='broken'</script>", "<img src=http://127.0.0.1/x>" + "long" * 20]
    one = reported.made_run(home / "run one", tasks=2, names=names, class_names=names * 2, checkpoints=(0, 1, 2))
    two = reported.made_run(home / "two", tasks=10, checkpoints=(0,))
    (two / "analysis/forecast.json").unlink()
    write_report([one, two], home / "report.html")
    return home


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(browser: Browser, home: Path) -> Browser:
    browser.open(home / "report.html")
    return browser


def minus(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def check_pictures(found: dict[str, Any]) -> None:
    for complete, natural_width, natural_height, width, height in found["images"]:
        assert complete and min(natural_width, natural_height) > 100
        assert min(width, height) > 150
        assert width / height == pytest.approx(natural_width / natural_height, rel=0.02)


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1280, 2)])
def test_the_report_opens_without_a_complaint_and_fits(browser: Browser, home: Path, width: int, columns: int) -> None:
    browser.open(home / "report.html", width)
    found = browser.look(LOOK)
    assert not browser.complaints
    # Nothing but the page itself and what lies in it
    asked = [address for address in browser.asked if not address.startswith("data:")]
    assert asked == [(home / "report.html").as_uri()]
    assert found["width"] == width and not found["beyond"] and not found["small"]
    assert found["columns"] == columns and found["viewers"] == 4
    every = len(found["images"]) + found["hidden"]
    assert every == len(list(home.glob("*/analysis/figures/*.svg"))) and len(found["images"]) > 15
    check_pictures(found)
    assert len(found["sections"]) == 15 and min(found["sections"]) > 60
    assert browser.look("document.title") == "Report of run one and two"


@pytest.mark.parametrize("print_", [False, True])
def test_without_script_and_in_print_every_figure_stands_in_its_row(browser: Browser, home: Path, print_: bool) -> None:
    browser.open(home / "report.html", 760, script=print_, print_=print_)
    found = browser.look(LOOK)
    assert not found["hidden"] and not found["viewers"] and found["width"] == 760
    check_pictures(found)


def test_a_foreign_script_or_file_is_refused_and_what_is_too_wide_is_seen(browser: Browser, home: Path) -> None:
    broken = home / "broken.html"
    broken.write_text((home / "report.html").read_text().replace("</body>", FOREIGN))
    browser.open(broken, 390)
    for refused in ("missing.png", "inline event handler", "inline script", "inline style"):
        assert any(refused in line and "Security Policy" in line for line in browser.complaints), browser.complaints
    assert browser.look("document.title") == "Report of run one and two"
    # Its style is refused, too; what the document's own model sets isn't
    browser.look("document.querySelector('#broken div').style.width = '900px'")
    found = browser.look(LOOK)
    assert found["width"] > 390 and found["beyond"]
    assert [natural for _, natural, *_ in found["images"]].count(0) == 2


def test_a_slider_goes_through_figures_and_through_checkpoints(page: Browser) -> None:
    shown = "[...document.querySelectorAll('#curves .sliding .picture')].filter(f => f.checkVisibility())"
    assert page.look(f"{shown}.map(f => f.dataset.stop)") == ["task 1"]
    page.look("document.querySelector('#curves .slider input').focus()")
    page.press("ArrowRight")
    assert page.look(f"{shown}.map(f => f.dataset.stop)") == ["task 3"]  # six of ten tasks are drawn
    assert page.look("document.querySelector('#curves output').textContent") == "task 3"

    last = page.look(CANVAS)
    page.look("document.querySelector('#kernels input[type=range]').focus()")
    page.press("Home")
    first = page.look(CANVAS)
    assert page.look("document.querySelector('#kernels output').textContent") == "before training" and first != last
    page.press("End")
    assert page.look(CANVAS) == last
    page.point("#kernels input[type=checkbox]", click=True)
    assert page.look(CANVAS) not in (first, last)
    assert not page.complaints


def test_a_pixel_says_which_images_it_compares(page: Browser, home: Path) -> None:
    kernel = read_run(home / "run one").kernels[-1]
    width, height = (page.look(f"document.querySelector('#kernels canvas').client{of}") for of in ("Width", "Height"))
    n = len(kernel.tasks)
    row, column, cells = 1, n - 1, width - 38  # room beside the pixels for the tasks' numbers
    page.point("#kernels canvas", (34 + (column + 0.5) * cells / n) / width, (row + 0.5) * cells / n / height)
    said = page.look(PIXEL)
    assert f"cosine {minus(kernel.cosines[row, column])} (" in said and "since before training" in said
    assert said.startswith("task 1, class <img src=") and f"× task {kernel.tasks[column] + 1}, class <script>" in said
    assert f"test image {kernel.images[column]}" in said
    # The same by keys: one to the left
    page.look("document.querySelector('#kernels canvas').focus()")
    page.press("ArrowLeft")
    assert f"cosine {minus(kernel.cosines[row, column - 1])}" in page.look(PIXEL)
    assert page.look("document.querySelectorAll('#kernels .pixel *').length") == 0


def test_figures_are_enlarged_and_escape_goes_back(page: Browser) -> None:
    opened = "document.querySelector('dialog').open"
    for section, inside in (("budget .picture", "img"), ("kernels .viewer", "canvas")):
        before = page.look(f"document.querySelector('#{section} {inside}').clientWidth")
        page.look(f"document.querySelector('#{section} .enlarge').focus()")
        page.press("Enter")
        assert page.until(opened)
        assert page.look(f"document.querySelector('dialog .inside {inside}').clientWidth") > 1.15 * before
        page.press("Escape")
        # The dialog's own event, after which the figure and the focus are back, comes a little later than the key
        assert page.until(f"!{opened}")
        assert page.until(f"document.activeElement === document.querySelector('#{section} .enlarge')")
        assert page.look(f"document.querySelector('#{section} {inside}').clientWidth") == before
    page.point("#budget img", click=True)
    assert page.until(opened)
    page.point("dialog .close", click=True)
    assert page.until(f"!{opened}") and not page.complaints


def test_a_heading_sorts_its_table_by_numbers(page: Browser) -> None:
    column = (
        "[...document.querySelectorAll('#accuracy table')[0].tBodies[0].rows].map(r => r.cells[COLUMN].textContent)"
    )
    assert page.look(column.replace("COLUMN", "0")) == ["ntkcl", "sequential"]
    heading = "#accuracy th:nth-child(2)"
    state = f"document.querySelector('{heading}').getAttribute('aria-sort')"
    assert page.look(state) is None
    page.point(f"{heading} button", click=True)
    assert page.look(state) == "ascending" and page.look(column.replace("COLUMN", "0")) == ["sequential", "ntkcl"]
    page.press("Enter")  # the button has the focus
    assert page.look(state) == "descending" and page.look(column.replace("COLUMN", "0")) == ["ntkcl", "sequential"]
    # As numbers, not as texts, with errors passed over and what is missing at the end
    page.look(
        "(() => { const body = document.querySelector('#accuracy table').tBodies[0], row = body.rows[0];"
        "body.replaceChildren(...['9.5 ± 30', '–', '10 ± 1', '-2 ± 0'].map(text => {"
        "const made = row.cloneNode(true); made.cells[1].textContent = text; return made; })); })()"
    )
    page.point(f"{heading} button", click=True)
    assert page.look(column.replace("COLUMN", "1")) == ["-2 ± 0", "9.5 ± 30", "10 ± 1", "–"]
