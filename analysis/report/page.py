"""The report's HTML: `page.html` filled by Jinja, which escapes every value, with `page.css` and `page.js` in it.

A policy in the page names both by their hashes: a browser runs this script and no other, and loads nothing at all.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.advised import Advised
from analysis.report.pixels import colours
from analysis.report.sections import Panel, Part
from analysis.report.svg import address
from analysis.report.tables import SHOWN_ROWS, Table, cell
from analysis.report.words import CAPTIONS

TEMPLATE = "page.html"
NARROW, WIDE = 60, 110
"""Pixels of the page to an inch of a figure: at least, where it scrolls in its frame, and at most."""
LARGEST = 900
"""Pixels that a figure takes at least, at most."""
BROAD = 380
"""A figure that takes more than so many pixels at least stands in a row of its own."""

NOTHING = Advised()
"""A box without anything in it."""


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run.

    Attributes:
        name: of the run.
        verdict: sentences.
        note: which seeds figures and sentences are about.
        parts: what it contributes to each section, by the section's key.
        svgs: its figures as SVG, by name.
        provenance: terms and what they are.
        made: when and on what it was made, in a line.
        advice: what to do next.
    """

    name: str
    verdict: Sequence[str]
    note: str
    parts: Mapping[str, Part]
    svgs: Mapping[str, bytes]
    provenance: Sequence[tuple[str, str]]
    made: str = ""
    advice: Advised = NOTHING


def render_page(runs: Sequence[RunView], sections: Mapping[str, str], comparison: Table | None = None) -> bytes:
    """Write the page.

    Args:
        runs: side by side.
        sections: headings by key, in order.
        comparison: the runs' main numbers, where there are several.

    Returns:
        HTML in UTF-8 that loads nothing.

    Example:
        >>> page = render_page([RunView("<b>", ["It's so."], "", {}, {}, [("folder", "runs/a")])], {}).decode()
        >>> "<h1>Report of <bdi>&lt;b&gt;</bdi></h1>" in page, "<dd><bdi>runs/a</bdi></dd>" in page
        (True, True)
    """
    panels = [panel for run in runs for part in run.parts.values() for panel in part.panels]
    style, script = _file("page.css") + _widths(panels), _file("page.js")
    filled = _environment().get_template(TEMPLATE).render(
        runs=runs, sections=sections, comparison=comparison, captions=CAPTIONS, shown_rows=SHOWN_ROWS,
        broad=BROAD, style=Markup(style), script=Markup(script), policy=policy(style, script),
        scales={"value": colours("cividis"), "change": colours("RdBu_r")},
    )  # fmt: skip
    return filled.encode()


def policy(style: str, script: str) -> str:
    """What a browser may do with the page: show figures that lie in it, use this style, run this script.

    Example:
        >>> policy("", "")[:73]
        "default-src 'none'; img-src data:; style-src 'sha256-47DEQpj8HBSa+/TImW+5"
    """
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    parts = ["default-src 'none'", "img-src data:"]
    parts += [f"{kind}-src 'sha256-{made}'" for kind, made in zip(("style", "script"), hashes, strict=True)]
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _file(name: str) -> str:
    return (resources.files("analysis.report") / name).read_text(encoding="utf-8")


def at_least(panel: Panel) -> int:
    """Pixels that a figure takes at least, so that its text stays legible on a phone."""
    return min(round(panel.figure.get_figwidth() * NARROW), LARGEST)


def _widths(panels: Sequence[Panel]) -> str:
    # As rules, not as `style="…"`: the policy allows only what was here when the page was written
    return "".join(f".w{width} {{ min-width: {width}px; }}\n" for width in sorted({at_least(p) for p in panels}))


def size(panel: Panel) -> tuple[int, int]:
    """Width and height of a figure in the page at most, pixels."""
    width, height = panel.figure.get_size_inches()
    return round(width * WIDE), round(height * WIDE)


def joined(table: Table) -> Table:
    r"""A table as the page shows it: a number and its error, columns of their own in a file, in one cell.

    Example:
        >>> joined(Table("", "", ["task", "lost", "± "], [[1, 2.5, 0.25], [2, None, None]])).rows
        [[1, '2.5\xa0±\xa00.25'], [2, None]]
    """
    errors = {j for j, text in enumerate(table.header) if j and text.strip() == "±"}

    def one(row: Sequence[Any], j: int) -> Any:
        known = j + 1 in errors and row[j] is not None and row[j + 1] is not None
        return f"{cell(row[j])}\xa0±\xa0{cell(row[j + 1])}" if known else row[j]

    kept = [j for j in range(len(table.header)) if j not in errors]
    rows = [[one(row, j) for j in kept] for row in table.rows]
    return Table(table.name, table.title, [table.header[j] for j in kept], rows)


def _environment() -> Environment:
    made = Environment(
        # An unknown name in the template is an error rather than an empty place in the page
        loader=PackageLoader("analysis.report", ""), autoescape=True, undefined=StrictUndefined, finalize=shown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"cell": cell, "address": address, "at_least": at_least, "size": size, "joined": joined,
                     "harmless": harmless}  # fmt: skip
    return made


def printable(value: Any) -> Any:
    r"""Replace what no line of text has: control signs, signs that turn the direction of writing, half characters.

    Every value on the page passes through here, whatever was or wasn't done to it before.

    Example:
        >>> printable("a\x1b[2J" + chr(0x202E)), printable("94\xa0%"), printable(3)
        ('a?[2J?', '94\xa0%', 3)
    """
    if not isinstance(value, str) or isinstance(value, Markup):  # markup comes from the template alone
        return value
    return value if value.isprintable() else "".join(c if c.isprintable() or c == "\xa0" else "?" for c in value)


def shown(value: Any) -> Any:
    r"""A printable value whose error stands on the line of its number.

    Example:
        >>> shown("3.2 ± 0.6 points")
        '3.2\xa0±\xa00.6 points'
    """
    text = printable(value)
    return text.replace(" ± ", "\xa0±\xa0") if isinstance(text, str) and not isinstance(text, Markup) else text


def harmless(value: Any) -> Any:
    """The same for every text within data for the script, which Jinja's `tojson` then keeps from ending its element.

    Example:
        >>> harmless({"rows": ["a" + chr(0x202E)], "low": 0.5})
        {'rows': ['a?'], 'low': 0.5}
    """
    if isinstance(value, dict):
        return {printable(key): harmless(one) for key, one in value.items()}
    return [harmless(one) for one in value] if isinstance(value, list) else printable(value)
