"""The report of one run, or of several side by side: one HTML file that needs nothing else, figures and tables.

`reading` (files, checked by `forms` and `schema`), `facts` (the numbers that sentences speak of), `verdict` and `words`
(sentences), `figures`, `tables`, `sections` (which of them make up a section), `page` (HTML), `output` (files).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.errors import StoreError
from analysis.report import page
from analysis.report.facts import forecast_facts, gap_facts, kernel_facts, shown_method
from analysis.report.output import check_target, render, write
from analysis.report.page import Node, node
from analysis.report.provenance import provenance_of, seeds_note
from analysis.report.reading import RunFiles, read_run
from analysis.report.sections import Part, all_tables, sections_of
from analysis.report.tables import SHOWN_ROWS, Table, Value
from analysis.report.verdict import verdict
from analysis.report.words import CAPTIONS
from ntkcl_jax.errors import user_path

__all__ = ["write_report"]

Drawings = Mapping[str, bytes]
"""Name of a figure and its SVG."""


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a run, or of several side by side.

    Every run also gets its figures as PNG and SVG in `RUN/analysis/figures` and its tables as CSV in
    `RUN/analysis/tables`. What isn't there yet is named with the command that makes it.

    Args:
        runs: run folders.
        out: the HTML file; `RUN/analysis/report.html` of the first run when None.

    Returns:
        The HTML file.

    Raises:
        StoreError: no run there, a file of it that can't be read or isn't of the expected form, or a folder that can't
            be written. The report of before stays.
    """
    if not runs:
        raise StoreError("expected at least one run folder, got none; name one")
    out = user_path(out or Path(runs[0]) / "analysis" / "report.html")
    check_target(out)
    files = [read_run(Path(run)) for run in runs]
    parts = {key: [make(one) for one in files] for key, (_, make) in sections_of(files).items()}
    drawings = [_draw(one, [of_runs[i] for of_runs in parts.values()]) for i, one in enumerate(files)]
    return write(out, _document(files, parts, drawings))


def _draw(files: RunFiles, parts: Sequence[Part]) -> dict[str, bytes]:
    """Draw a run's figures and write them and its tables; returns the SVGs by name."""
    home = files.run / "analysis"
    drawn = {panel.name: render(panel.figure) for part in parts for panel in part.panels}
    for name, kinds in drawn.items():
        for kind, content in kinds.items():
            write(home / "figures" / f"{name}.{kind}", content)
    for made in all_tables(files):
        write(home / "tables" / f"{made.name}.csv", made.csv())
    return {name: kinds["svg"] for name, kinds in drawn.items()}


def _document(files: Sequence[RunFiles], parts: Mapping[str, Sequence[Part]], drawings: Sequence[Drawings]) -> bytes:
    title = "Report of " + " and ".join(one.name for one in files)
    names = [part for one in files for part in (" and ", page.name(one.name))][1:]
    links = [node("li", node("a", heading, href=f"#{key}")) for key, (heading, _) in sections_of(files).items()]
    links.append(node("li", node("a", "Provenance", href="#provenance")))
    note = "What theory says about training, beside what training did. Tasks are counted from 1."
    header = node("header", node("h1", "Report of ", *names), node("p", note), node("nav", node("ul", *links)))
    body = [header, _verdict(files)]
    body += [_section(key, heading, files, parts[key], drawings) for key, (heading, _) in sections_of(files).items()]
    said = [page.facts(provenance_of(one)) for one in files]
    body.append(node("section", node("h2", "Provenance"), _columns(files, said), id="provenance"))
    return page.document(title, [node("main", *body)])


def _columns(files: Sequence[RunFiles], contents: Sequence[Node]) -> Node:
    """One column for each run, named where there are several."""
    several = len(files) > 1
    return node(
        "div",
        *(
            node("div", node("h3", page.name(one.name)) if several else None, content)
            for one, content in zip(files, contents, strict=True)
        ),
        class_="runs",
    )


def _verdict(files: Sequence[RunFiles]) -> Node:
    said = [node("div", *(node("p", text) for text in verdict(one)), class_="verdict") for one in files]
    notes = [node("p", seeds_note(one), class_="note") for one in files]
    columns = [node("div", text, note) for text, note in zip(said, notes, strict=True)]
    compared = page.table(_comparison(files)) if len(files) > 1 else None
    return node("section", node("h2", "In short"), _columns(files, columns), compared, id="verdict")


def _comparison(files: Sequence[RunFiles]) -> Table:
    """The runs' main numbers, a row for each."""
    rows: list[Sequence[Value]] = []
    for one in files:
        numbers: list[Value] = [one.name]
        part = one.results["summary"][shown_method(one)] if one.results else None
        numbers += [_percent(part[name]["mean"]) if part else None for name in ("final_accuracy", "forgetting")]
        kernels = kernel_facts(one.summary) if one.summary else None
        numbers += [kernels.last, kernels.drift] if kernels else [None, None]
        gaps = gap_facts(one.gaps) if one.gaps else None
        numbers += [gaps.forgetting, gaps.network_forgetting] if gaps else [None, None]
        forecast = forecast_facts(one.forecast) if one.forecast else None
        numbers += [forecast.cosine, forecast.correlation] if forecast else [None, None]
        rows.append(numbers)
    header = ["run", "final accuracy, %", "forgetting, points", "inter/intra kernel", "kernel drift",
              "added by later tasks, theory", "added by later tasks, network", "forecast: cosine",
              "forecast: correlation"]  # fmt: skip
    return Table("comparison", "Side by side", header, rows)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _section(
    key: str, heading: str, files: Sequence[RunFiles], parts: Sequence[Part], drawings: Sequence[Drawings]
) -> Node:
    caption = CAPTIONS[key]
    contents = [_part(part, drawn) for part, drawn in zip(parts, drawings, strict=True)]
    words = None
    if any(part.says for part in parts):
        shows = node("p", node("b", "What it shows. "), caption.shows)
        good = node("p", node("b", "What would be good. "), caption.good)
        words = node("div", shows, good, class_="words")
    says = [
        node("p", node("b", *((page.name(one.name), ": ") if len(files) > 1 else ("This run: ",))), part.says,
             class_="says")
        for one, part in zip(files, parts, strict=True)
        if part.says
    ]  # fmt: skip
    said = node("div", *says, class_="runs") if len(says) > 1 else says[0] if says else None
    return node("section", node("h2", heading), _columns(files, contents), words, said, id=key)


def _part(part: Part, drawn: Drawings) -> Node:
    pictures = [page.picture(drawn[panel.name], panel.alt, float(panel.figure.get_figwidth())) for panel in part.panels]
    shown: list[Node] = [node("div", *pictures, class_="panels")] if pictures else []
    if part.missing:
        wait = node("p", "Not there yet; this command makes it: ", node("code", part.missing), class_="missing")
        shown.append(wait)
    for made in part.tables:
        inside = page.table(made)
        long = len(made.rows) > SHOWN_ROWS
        shown.append(
            node("details", node("summary", f"{made.title} ({len(made.rows)} rows)"), inside) if long else inside
        )
    return node("div", *shown)
