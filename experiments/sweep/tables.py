"""A sweep's results as Markdown, CSV and a figure, from entries alone."""

import csv
import io
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.sweep.published import Range
from experiments.sweep.results import METRICS, MUST_AGREE, Entry
from experiments.sweep.rows import Sweep
from ntkcl_jax.plots.style import COLOURS, GREY, style
from ntkcl_jax.terminal.tables import percent

RESULTS = "results"
"""Folder beside the page for what is too wide or too long for it."""
HEADS = ("Ā", "A_T", "F")
SHORT = 8
"""Digits of a hash in a table; the list below it has the whole ones."""
COMMANDS = 3
"""A section names at most so many commands; the CSV has that of every line."""
FAR_BELOW = 0.3
"""A point so far below the panel's median is written at the edge instead of squeezing the others together."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def by_stream(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries of each stream, in order."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.line.stream, []).append(entry)
    return found


def number(entry: Entry, metric: str) -> str:
    """Mean ± standard deviation in percent; a dash without a number."""
    found = entry.metric(metric)
    return percent(found[0], found[1]) if found else "–"


def span(shares: Range | None) -> str:
    """Published percent, or lowest to highest."""
    return "–" if shares is None else " to ".join(percent(x) for x in dict.fromkeys(shares))


def count(entry: Entry) -> str:
    """Seeds done, and of how many where some are missing."""
    done, asked = len(entry.records), len(entry.seeds)
    return str(done) if done == asked else f"{done} of {asked}"


def overview(entries: Sequence[Entry]) -> str:
    """A_T of every line on every stream; the mean where no stream is missing."""
    streams = by_stream(entries)
    names = dict.fromkeys(e.line.name for e in entries)
    rows = []
    for name in names:
        own = {e.line.stream: e for e in entries if e.line.name == name}
        shown = [number(own[s], "final_accuracy") if s in own else "–" for s in streams]
        found = [own[s].metric("final_accuracy") if s in own else None for s in streams]
        # A mean of some seeds would stand beside means of all
        finals = [f[0] for e, f in zip(own.values(), found, strict=False) if f and len(e.records) == len(e.seeds)]
        rows.append([name, *shown, percent(statistics.fmean(finals)) if len(finals) == len(streams) else "–"])
    return markdown(["A_T", *streams, "mean"], rows)


def stream_table(entries: Sequence[Entry]) -> str:
    """Every line of a stream: metrics, n, what is published, where it comes from, what to know."""
    published = any(e.reported for e in entries)
    head = ["line", "origin", *HEADS, "n", *(["reported Ā", "reported A_T"] if published else [])]
    rows = []
    for e in entries:
        known = [span(e.reported.average), span(e.reported.final)] if e.reported else ["–", "–"]
        hashes = [_short(e.fact(name)) for name in ("commit", "weights", "images")]
        notes = "; ".join([*([f"refused: {e.refused}"] if e.refused else []), *e.notes])
        metrics = [number(e, metric) for metric in METRICS]
        rows.append([e.line.name, e.line.origin, *metrics, count(e), *(known if published else []), *hashes, notes])
    return markdown([*head, "commit", "weights", "images", "notes"], rows)


def _short(fact: str) -> str:
    words = [part.split() for part in fact.split(" / ")]
    # A commit's second word says that there were changes
    return " / ".join(word[0][:SHORT] + "+" * (len(word) > 1) for word in words if word)


def provenance(entries: Sequence[Entry]) -> str:
    """Whole hashes, packages, commands and sources of a section, and lines that shouldn't stand beside each other."""
    out = []
    for stream, own in by_stream(entries).items():
        for name in MUST_AGREE:
            values = dict.fromkeys(e.fact(name) for e in own if e.fact(name))
            if len(values) > 1:
                which = "; ".join(", ".join(e.line.name for e in own if e.fact(name) == v) for v in values)
                out.append(f"- **{stream}: lines with different {name} stand in one table: {which}**")
            elif name == "images" and values:
                out.append(f"- images of {stream} (SHA-256 over names, labels and content): {next(iter(values))}")
    for name, title in (("weights", "weights (SHA-256)"), ("commit", "commits"), ("packages", "packages")):
        values = sorted({r.facts[name] for e in entries for r in e.records if r.facts[name]})
        if values:
            out.append(f"- {title}: {'; '.join(values)}")
    sources = sorted({f"{e.line.method}: {e.reported.source}" for e in entries if e.reported})
    if sources:
        out.append(f"- reported: {'; '.join(sources)}")
    commands = sorted({r.facts["command"] for e in entries for r in e.records if r.facts["command"]})
    shown = [f"`{command}`" for command in commands[:COMMANDS]]
    more = f", and {len(commands) - COMMANDS} more in the CSV" if len(commands) > COMMANDS else ""
    return "\n".join(out + ([f"- run by {', '.join(shown)}{more}"] if shown else [])) + "\n"


def section(
    name: str, sweep: Sweep, entries: Sequence[Entry], changes: Sequence[str], unreadable: Sequence[str]
) -> str:
    """A sweep's part of the page."""
    streams = by_stream(entries)
    parts = [f"## {sweep.title}\n", sweep.about + "\n"]
    if changes:
        parts.append(f"**Not the real settings: {', '.join(changes)}.**\n")
    if len(streams) > 1:
        parts.append(overview(entries))
    parts += [f"### {stream}\n\n{stream_table(own)}" for stream, own in streams.items()]
    parts.append(f"![A_T of every line]({RESULTS}/{name}.png)\n")
    parts.append(f"Every number with all its digits: [{name}.csv]({RESULTS}/{name}.csv).\n\n{provenance(entries)}")
    if unreadable:
        parts.append("Run folders that can't be read:\n\n" + "\n".join(f"- {line}" for line in unreadable) + "\n")
    return "\n".join(parts)


def as_csv(name: str, entries: Sequence[Entry]) -> str:
    """One line for each entry, shares in [0, 1] with all digits."""
    spread = [f"{metric}_{part}" for metric in METRICS for part in ("mean", "std")]
    known = [f"reported_{what}_{end}" for what in ("average", "final") for end in ("low", "high")]
    head = ["sweep", "stream", "row", "method", "line", "origin", *spread, "n", "seeds", "seeds_asked", *known]
    head += ["reported_source", "commit", "weights", "images", "transforms", "packages", "command", "refused", "notes"]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(head)
    for e in entries:
        numbers = [value for metric in METRICS for value in (e.metric(metric) or (None, None))[:2]]
        ranges = [e.reported.average, e.reported.final] if e.reported else [None, None]
        seeds = [" ".join(map(str, s)) for s in ([r.seed for r in e.records], e.seeds)]
        facts = [e.fact(f) for f in ("commit", "weights", "images", "transforms", "packages", "command")]
        line = [name, e.line.stream, e.line.row.name, e.line.method, e.line.name, e.line.origin, *numbers]
        line += [len(e.records), *seeds, *(end for r in ranges for end in r or (None, None))]
        out.writerow([*line, e.reported.source if e.reported else "", *facts, e.refused, "; ".join(e.notes)])
    return text.getvalue()


@style()
def draw(entries: Sequence[Entry]) -> Figure:
    """A_T of every line: dots with error bars, a panel for each stream; published values as open diamonds."""
    streams = by_stream(entries)
    names = list(dict.fromkeys(e.line.name for e in entries))
    figure = Figure(figsize=(3.4 * len(streams) + 2.4, 0.3 * len(names) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for axes, (stream, own) in zip(panels, streams.items(), strict=True):
        found = [(e, m) for e in own if (m := e.metric("final_accuracy"))]
        floor = statistics.median([m[0] for _, m in found]) - FAR_BELOW if found else 0
        for e, (mean, std, _) in found:
            y, colour = names.index(e.line.name), COLOURS[0] if e.line.origin == "ours" else GREY
            if mean < floor:
                axes.annotate(f"◂ {percent(mean, digits=1)}", (0.01, y), xycoords=("axes fraction", "data"),
                              va="center", fontsize=8, color=colour)  # fmt: skip
                continue
            whole = len(e.records) == len(e.seeds)
            axes.errorbar(100 * mean, y, xerr=100 * (std or 0), fmt="o", ms=4, color=colour, capsize=2,
                          mfc=colour if whole else "white")  # fmt: skip
        for e in own:
            for share in dict.fromkeys(e.reported.final or () if e.reported else ()):
                axes.plot(100 * share, names.index(e.line.name), "D", ms=5, mfc="none", color=COLOURS[1])
        axes.set(title=stream, xlabel="A_T, % (mean ± std)")
        axes.set_yticks(range(len(names)), names, fontsize=9)
        # Upside down, so that the first line is on top
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    return figure
