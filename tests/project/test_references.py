"""What documents and code point to exists: numbered sections, files, tests, functions and links."""

import ast
import functools
import pkgutil
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.project.test_hygiene import files

ROOT = Path(__file__).parents[2]
NUMBERS = r"\d+(?:\.\d+)*(?:(?:, | and | to )\d+(?:\.\d+)*)*"
CITATION = re.compile(rf"docs/(\w+)\.md, sections? ({NUMBERS})")
BARE = re.compile(rf"(?<!\.md, )\bsections? ({NUMBERS})")
OTHER_FORM = re.compile(
    r"(?<!docs/)\b\w+\.md,? sections?\b"  # a page without its folder
    r"|\b\w+\.md,? (?=\d+\.\d)|docs/\w+\.md,? sections? (?!\d)|docs/\w+\.md sections?\b"  # not these two words
    r"|docs/(?:theory|method)\.md, (?!sections? \d)\w+\)"  # a heading's words in place of its number
)
NAMED_FILE = re.compile(r"\b(?:tests|analysis|ntkcl_jax|experiments|docs)/[\w./-]+\.\w+")
MADE_BY_A_RUN = {
    "analysis/figures/tasks_seedS.png",
    "analysis/measures.csv",
    "analysis/report.html",
    "analysis/summary.json",
}
"""Written into a run folder; these look like paths of the repository."""
THEORY = (ROOT / "docs" / "theory.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def joined(text: str) -> str:
    """Text on one line, without the signs that begin a line of a comment or a list."""
    return re.sub(r"\s*\n\s*(?:#:?\s+|>\s+)?", " ", text)


@functools.cache
def sections(page: str) -> frozenset[str]:
    """Numbers of a page's headings."""
    path = ROOT / "docs" / f"{page}.md"
    return frozenset(re.findall(r"^##+ (\d+(?:\.\d+)*)\.? ", path.read_text(), re.MULTILINE) if path.is_file() else ())


def unresolved(text: str, page: str | None = None) -> list[str]:
    """Citations of sections that don't exist, or that aren't in the one form; `page` is the page that the text is."""
    line = joined(text)
    wrong = [match[0] for match in OTHER_FORM.finditer(line)]
    for match in CITATION.finditer(line):
        wrong += [match[0] for number in re.findall(r"[\d.]+", match[2]) if number not in sections(match[1])]
    for match in BARE.finditer(line):
        known = sections(page) if page else frozenset()
        wrong += [match[0] for number in re.findall(r"[\d.]+", match[1]) if number not in known]
    return wrong


def parts(text: str) -> dict[str, str]:
    """Number of each numbered heading to its text, up to the next heading of any level."""
    found = re.split(r"^##+ (?:(\d+(?:\.\d+)*)\.? )?.*$", text, flags=re.MULTILINE)
    return {number: body for number, body in zip(found[1::2], found[2::2], strict=True) if number}


@functools.cache
def functions(file: str) -> frozenset[str]:
    """Names of a file's top-level functions, without running it; none of a file that isn't there."""
    tree = ast.parse((ROOT / file).read_text() if (ROOT / file).is_file() else "")
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def named_tests(text: str) -> Iterator[tuple[str, str]]:
    """File and name of every test: the file is the one named last in the same paragraph or list item."""
    for paragraph in re.split(r"\n\s*\n|\n(?=- )|\n(?=\|)", text):
        file = ""
        for match in re.finditer(r"`(tests/[\w/]+\.py)`|`(test_\w+)`", paragraph):
            file = match[1] or file
            if match[2]:
                yield file, match[2]


def named_code(text: str) -> list[str]:
    """Dotted names in `analysis`, and names in columns whose heading says in which module they are."""
    names = re.findall(r"`(analysis(?:\.\w+)+)`", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
        for column, title in enumerate(head):
            for module in re.findall(r"in `(analysis(?:\.\w+)+)`", title):
                names += [f"{module}.{name}" for row in rows for name in re.findall(r"`(\w+)`", row[column])]
    return names


def missing_code(names: list[str]) -> list[str]:
    """Those that can't be imported."""
    missing = []
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    return missing


def missing_links(page: Path, text: str) -> list[str]:
    """Relative links of a page to nowhere."""
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)[^)]*\)", text)
    return [link for link in links if not (page.parent / link).exists()]


def test_every_cited_section_exists_and_is_cited_in_one_form() -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in files()
        if path.suffix in (".py", ".md") and path != Path(__file__)
        if (found := unresolved(path.read_text(), path.stem if path.parent == ROOT / "docs" else None))
    }
    assert wrong == {}


def test_many_sections_are_cited() -> None:
    cited = [match for path in files() if path.suffix == ".py" for match in CITATION.findall(joined(path.read_text()))]
    assert len(cited) >= 80


@pytest.mark.parametrize("page", ["theory", "method"])
def test_sections_are_numbered_in_order_without_a_gap(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    numbers = [re.match(r"(\d+(?:\.\d+)*)\.? ", heading) for heading in found]
    assert all(numbers), found
    order = [tuple(map(int, match[1].split("."))) for match in numbers if match]
    for before, after in pairwise(order):
        assert after in {(*before, 1), (*before[:-1], before[-1] + 1), (before[0] + 1,)}, (before, after)


def test_every_test_named_in_the_theory_exists() -> None:
    named = list(named_tests(THEORY))
    assert len(named) >= 80
    assert [(file, name) for file, name in named if not file or name not in functions(file)] == []


def test_every_function_named_in_the_theory_exists() -> None:
    named = named_code(THEORY)
    assert len(named) >= 80
    assert missing_code(named) == []


def test_every_section_of_formulas_names_its_code_and_its_tests() -> None:
    formulas = {number: body for number, body in parts(THEORY).items() if number in ("0", "4", "5") or "." in number}
    assert len(formulas) >= 18
    assert [number for number, body in formulas.items() if not named_code(body)] == []
    assert [number for number, body in formulas.items() if not list(named_tests(body))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_and_links_to_exists(page: Path) -> None:
    text = page.read_text()
    assert missing_links(page, text) == []
    named = {name.rstrip(".") for name in NAMED_FILE.findall(text)} - MADE_BY_A_RUN
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("docs/theory.md, section 1.1", []),
        ("docs/theory.md, sections 1.2 and 5; docs/method.md, section 7", []),
        ("(docs/theory.md,\n# sections 3.1, 3.2)", []),
        ("docs/theory.md, section 1.99", ["docs/theory.md, section 1.99"]),
        ("docs/theory.md, sections 1.1 and\n    9.9", ["docs/theory.md, sections 1.1 and 9.9"]),
        ("docs/nowhere.md, section 1", ["docs/nowhere.md, section 1"]),
        ("theory.md section 1.1", ["theory.md section", "section 1.1"]),
        ("docs/theory.md section 1.1", ["docs/theory.md section", "section 1.1"]),
        ("(docs/method.md, objective)", ["docs/method.md, objective)"]),
        ("(docs/theory.md 2.1)", ["theory.md "]),
        ("as section 3.3 says", ["section 3.3"]),
    ],
)
def test_a_wrong_citation_is_found(text: str, wrong: list[str]) -> None:
    assert unresolved(text) == wrong


def test_a_page_may_cite_its_own_sections_without_its_name() -> None:
    assert unresolved("see section 3.3", "theory") == []
    assert unresolved("see section 3.33", "theory") == ["section 3.33"]


def test_names_that_do_not_exist_are_found(tmp_path: Path) -> None:
    assert missing_code(["analysis.theory.modes.modes", "analysis.theory.modes.mode", "analysis.nothing.at_all"]) == [
        "analysis.theory.modes.mode",
        "analysis.nothing.at_all",
    ]
    table = (
        "| way | function in `analysis.theory.filters` |\n|---|---|\n| flow | `flow_filter` |\n| none | `no_filter` |\n"
    )
    assert missing_code(named_code(table)) == ["analysis.theory.filters.no_filter"]
    assert list(named_tests("In `tests/a.py`: `test_b`,\n`test_c`.\n\nAlone: `test_d`.")) == [
        ("tests/a.py", "test_b"),
        ("tests/a.py", "test_c"),
        ("", "test_d"),
    ]
    (tmp_path / "here.md").touch()
    links = "[a](here.md#b) [c](gone.md) ![d](https://x.org/e.png) [f](#g)"
    assert missing_links(tmp_path / "page.md", links) == ["gone.md"]
