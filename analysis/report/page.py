"""The report's HTML: `page.html` filled by Jinja, which escapes every value, with `page.css` in it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.advised import Advised
from analysis.report.sections import Part
from analysis.report.tables import SHOWN_ROWS, Table, cell
from analysis.report.words import CAPTIONS

TEMPLATE = "page.html"

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
        advice: what to do next.
    """

    name: str
    verdict: Sequence[str]
    note: str
    parts: Mapping[str, Part]
    svgs: Mapping[str, bytes]
    provenance: Sequence[tuple[str, str]]
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
    filled = _environment().get_template(TEMPLATE).render(
        runs=runs, sections=sections, comparison=comparison, captions=CAPTIONS, shown_rows=SHOWN_ROWS
    )  # fmt: skip
    return filled.encode()


def _environment() -> Environment:
    made = Environment(
        # An unknown name in the template is an error rather than an empty place in the page
        loader=PackageLoader("analysis.report", ""), autoescape=True, undefined=StrictUndefined, finalize=printable,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"cell": cell, "data_uri": data_uri}
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


def data_uri(svg: bytes) -> str:
    """A figure as an address that holds it.

    Example:
        >>> data_uri(b"<svg/>")
        'data:image/svg+xml;base64,PHN2Zy8+'
    """
    # As an image, not inline: nothing in it can run, and ids of two figures can't meet
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
