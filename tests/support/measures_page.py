"""The table of docs/measures.md, made from the measures' declarations.

As a script, it renews the page: python -m tests.support.measures_page
"""

import re
from collections.abc import Iterable
from pathlib import Path

from analysis.measures import Measure
from analysis.measures.catalogue import MEASURES

PAGE = Path(__file__).parents[2] / "docs" / "measures.md"
MARKED = re.compile(r"(?<=<!-- begin: python -m tests\.support\.measures_page -->\n).*?(?=<!-- end -->)", re.DOTALL)
KINDS = {"task": "alone", "pair": "pair", "change": "change"}


def table(measures: Iterable[Measure] = MEASURES) -> str:
    """Markdown: one row for each measure."""
    head = ["| name | of | formula | range | compare with | what to do with it |", "|---|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            f"| `{m.name}`: {m.title} | {KINDS[m.kind]} | {m.formula} | {m.range} "
            f"| {', '.join(f'`{r}`' if isinstance(r, str) else f'{r:g}' for r in m.references) or '–'} | {m.sentence} |"
            for m in measures
        ]
        + [""]
    )


def renewed(page: str) -> str:
    """The page with the table as it should be."""
    return MARKED.sub(lambda _: table(), page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
