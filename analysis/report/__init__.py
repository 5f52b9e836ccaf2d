"""The report of one run, or of several side by side: one HTML file that needs nothing else, figures and tables.

`reading` (files), `facts` (the numbers that sentences speak of), `gains` (differences of accuracies and their errors),
`advised` (what to do next), `verdict`, `lost` and `words` (sentences), `provenance`, `figures` and `theory_figures`,
`pixels` (matrices that the page's script draws), `tables`, `sections` (which of them make up a section), `page` (HTML,
by `page.html`, `page.css` and `page.js`; `svg`: figures in it), `output` (files).
"""

from collections.abc import Sequence
from pathlib import Path

from analysis.errors import StoreError
from analysis.report.advised import advised
from analysis.report.output import check_target, render, write
from analysis.report.page import RunView, render_page
from analysis.report.provenance import made_says, provenance_of, seeds_note
from analysis.report.reading import RunFiles, read_run
from analysis.report.sections import Part, all_tables, sections_of
from analysis.report.tables import comparison
from analysis.report.verdict import verdict
from ntkcl_jax.errors import user_path

__all__ = ["write_report"]


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
    # All runs are read and checked before the first file is written: a broken one leaves the old report as it was
    files = [read_run(Path(run)) for run in runs]
    sections = sections_of(files)
    headings = {key: heading for key, (heading, _) in sections.items()}
    views = [_view(one, {key: make(one) for key, (_, make) in sections.items()}) for one in files]
    return write(out, render_page(views, headings, comparison(files) if len(files) > 1 else None))


def _view(files: RunFiles, parts: dict[str, Part]) -> RunView:
    """Draw a run's figures, write them and its tables beside the run, and gather what the page shows of it."""
    home = files.run / "analysis"
    svgs = {}
    for panel in (panel for part in parts.values() for panel in part.panels):
        for kind, content in render(panel.figure).items():
            write(home / "figures" / f"{panel.name}.{kind}", content)
            if kind == "svg":
                svgs[panel.name] = content
    for made in all_tables(files):
        write(home / "tables" / f"{made.name}.csv", made.csv())
    return RunView(
        files.name, verdict(files), seeds_note(files), parts, svgs, provenance_of(files), made_says(files),
        advised(files),
    )  # fmt: skip
