"""What was measured, as a table: each row's accuracy, and what it gains on the default."""

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.commands import Record, commit_of
from experiments.multilevel.rows import COMPARED
from experiments.sweep.streams import CHOOSING
from experiments.sweep.tables import markdown

ABOUT = """\
`python -m experiments.multilevel`: one change each from the default of the readout `multilevel`, on a frozen backbone.
A_T, %: mean ± sample standard deviation over seeds (random matrices and class order; in "class order alone" the order
only); after the semicolon what a row gains on the default, and a rival on `multilevel` under the same change, ±
standard error over the test images. The default has {widths} columns for F, M, G, S (the library's ten times as many),
one affine view an image, weights and ridge by the accuracy on left-out images, compared on about {compared} columns
after every task. Rivals: `ridge` on the final feature, `ranpac` with as many random features of it as the default has
columns, `prototypes`; all without views.

{streams}
"""


def in_order(known: Mapping[str, Record]) -> list[Record]:
    """Streams for choosing, then the others, each in the order in which they were first measured.

    Example:
        >>> [one["stream"] for one in in_order({name: {"stream": name} for name in ("digits", "dev-scripts")})]
        ['dev-scripts', 'digits']
    """
    return sorted(known.values(), key=lambda record: record["stream"] not in CHOOSING)


def kinds(records: Sequence[Record]) -> str:
    """Which streams are for choosing, and which are reported.

    Example:
        >>> kinds([{"stream": "dev-scripts", "seeds": [0]}])
        'For choosing: dev-scripts (1 seed). Reported, not chosen on: none.'
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for record in records:
        count = len(record["seeds"])
        found[record["stream"] in CHOOSING].append(f"{record['stream']} ({count} seed{'s' * (count != 1)})")
    choosing, reported = (", ".join(found[kind]) or "none" for kind in (True, False))
    return f"For choosing: {choosing}. Reported, not chosen on: {reported}."


def table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, every row that any stream has."""
    titles = dict.fromkeys(title for record in records for title in record["rows"])
    heads = ["row", *(record["stream"] for record in records)]
    return heads, [[title, *(cell(record, title) for record in records)] for title in titles]


def cell(record: Record, title: str) -> str:
    """A_T, and the gain.

    Example:
        >>> one = {"accuracies": [0.5, 0.6], "difference": -0.012, "error_of_difference": 0.004}
        >>> cell({"rows": {"default": one, "other": one}}, "other")
        '55.0 ± 7.1; -1.2 ± 0.4'
    """
    row = record["rows"].get(title)
    if row is None:
        return "–"
    shares = [100 * share for share in row["accuracies"]]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    gain = f"; {100 * row['difference']:+.1f} ± {100 * row['error_of_difference']:.1f}" if title != "default" else ""
    return f"{statistics.fmean(shares):.1f}{spread}{gain}"


def page(records: Sequence[Record]) -> str:
    """The section of a page."""
    widths = dict.fromkeys(" ".join(map(str, record["widths"])) for record in records)
    about = ABOUT.format(widths=" / ".join(widths), compared=COMPARED, streams=kinds(records))
    made = "\n".join(f"- {record['stream']}: `{shlex.join(record['command'])}`" for record in records)
    facts = "\n".join(
        f"- {r['stream']}: {r['classes']} classes, {r['images']} training and {r['test_images']} test images "
        f"(SHA-256 {r['data'][:8]}), weights {r['weights'][:8]}, commit {commit_of(r)}"
        for r in records
    )
    title = "## What the parts of `multilevel` are worth"
    return f"{title}\n\n{about}\n{markdown(*table(records))}\n{facts}\n\nRun by\n\n{made}\n"


def lines(records: Sequence[Record]) -> Iterator[list[Any]]:
    """Every number with all its digits, a line for each row of each stream."""
    yield ["stream", "for_choosing", "row", "accuracies", "difference", "error_of_difference", "chosen"]
    for record in records:
        for title, row in record["rows"].items():
            accuracies, chosen = (row[name] for name in ("accuracies", "chosen"))
            known = [row["difference"], row["error_of_difference"]]
            choosing = record["stream"] in CHOOSING
            yield [record["stream"], choosing, title, " ".join(map(str, accuracies)), *known, "; ".join(chosen)]
