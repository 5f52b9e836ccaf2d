"""The HTML of a report, built as a tree: the serialiser escapes every text and attribute, so no name can be markup."""

import base64
from collections.abc import Sequence
from importlib import resources
from xml.etree import ElementTree

from analysis.report.tables import Table, cell

Node = ElementTree.Element
STYLE = "page.css"


def node(tag: str, *children: "Node | str | None", **attributes: str) -> Node:
    """Make an element; a trailing `_` in an attribute's name is dropped, None among the children is left out.

    Example:
        >>> ElementTree.tostring(node("p", "a < b ", node("b", "x"), " y", class_="n"), method="html").decode()
        '<p class="n">a &lt; b <b>x</b> y</p>'
    """
    made = Node(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    last: Node | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        elif child is not None:
            made.append(child)
            last = child
    return made


def name(text: str) -> Node:
    """A name of users: its direction of writing doesn't reach the text around it."""
    return node("bdi", text)


def picture(svg: bytes, alt: str, width_inches: float) -> Node:
    """An embedded figure; a wide one scrolls in its own frame on a narrow screen, so that its text stays legible.

    Args:
        svg: the figure.
        alt: what it shows, for those who don't see it.
        width_inches: as it was drawn.
    """
    source = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    image = node("img", src=source, alt=alt, style=f"min-width:{min(round(width_inches * 60), 900)}px")
    return node("div", image, class_="picture", style=f"max-width:{round(width_inches * 110)}px")


def table(made: Table) -> Node:
    """A table; a wide one scrolls in its own frame."""
    head = node("tr", *(node("th", text, scope="col") for text in made.header))
    rows = [node("tr", *(node("td", _cell(value)) for value in row)) for row in made.rows]
    inside = node("table", node("caption", made.title), node("thead", head), node("tbody", *rows))
    return node("div", inside, class_="table")


def _cell(value: str | float | None) -> Node | str:
    return name(value) if isinstance(value, str) else cell(value)


def facts(pairs: Sequence[tuple[str, str]]) -> Node:
    """A list of terms and what they are."""
    rows = [node("div", node("dt", term), node("dd", name(value))) for term, value in pairs]
    return node("dl", *rows)


def document(title: str, body: Sequence[Node]) -> bytes:
    """The whole page as UTF-8.

    Args:
        title: of the window.
        body: what stands on the page.
    """
    style = (resources.files("analysis.report") / STYLE).read_text(encoding="utf-8")
    page = node(
        "html",
        node(
            "head",
            node("meta", charset="utf-8"),
            node("meta", name="viewport", content="width=device-width, initial-scale=1"),
            node("meta", name="color-scheme", content="light dark"),
            # Nothing may be loaded and no script may run, whatever a name contains; an icon keeps browsers from asking.
            node(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
            ),
            node("link", rel="icon", href="data:,"),
            node("title", title),
            node("style", style),
        ),
        node("body", *body),
        lang="en",
    )
    return b"<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="utf-8", method="html") + b"\n"
