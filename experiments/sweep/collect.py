"""Write a sweep's tables from run folders alone: a section of a page, a CSV and a figure in results/ beside it.

    python -m experiments.sweep.collect methods --runs runs/methods --report experiments/RESULTS.md
    python -m experiments.sweep.collect variants --streams digits scripts omniglot --runs HERE THERE --report FILE

Any run folder below --runs counts whose settings are those of one of the sweep's lines, whatever made it: seeds that
were run apart meet in one line. A line whose weights, images or transforms differ has no number; missing seeds,
several commits and uncommitted changes are said. Other sections of the page stay as they are.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.sweep.command import asked, planned
from experiments.sweep.definitions import SWEEPS
from experiments.sweep.results import entries_of, read_records
from experiments.sweep.rows import Line
from experiments.sweep.tables import RESULTS, as_csv, draw, section
from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.plots.style import save
from ntkcl_jax.terminal.console import USER_ERROR

TITLE = "# Results\n"
HEAD = f"""{TITLE}
Made by `python -m experiments.sweep` and `python -m experiments.sweep.collect` from run folders; no number is typed
by hand. Percent, mean ± sample standard deviation over n seeds: Ā = mean of the accuracies after each task, A_T =
accuracy on all classes at the end, F = forgetting. `reproduced` lines repeat published methods as far as they can be
repeated, `ours` don't; `reported` is what others published. A `+` after a commit: with uncommitted changes.
"""
SECTION = re.compile(r"<!-- sweep (\S+): begin -->\n(.*?)<!-- sweep \1: end -->\n", re.DOTALL)
OTHERS = re.compile(r"<!-- (experiments\.\S+): begin -->\n.*?<!-- \1: end -->\n", re.DOTALL)
"""Sections that other commands fill; they stay as they are, below."""


def page_with(page: str, name: str, text: str) -> str:
    """Put a section into a page, in place of the old one or in the order of `SWEEPS`.

    Args:
        page: the old page; empty for a new one.
        name: of the sweep.
        text: its section.

    Raises:
        ConfigError: the page is another document.
    """
    if page and not page.startswith(TITLE):
        raise ConfigError(f"the page to write into doesn't begin with {TITLE.strip()!r}: choose another file")
    sections = dict(SECTION.findall(page)) | {name: text}
    parts = [f"<!-- sweep {n}: begin -->\n{sections[n]}<!-- sweep {n}: end -->\n" for n in SWEEPS if n in sections]
    return "\n".join([HEAD, *parts, *(found[0] for found in OTHERS.finditer(page))])


def write_report(
    name: str, lines: Sequence[Line], seeds: tuple[int, ...], runs: Sequence[Path], page: Path, changes: Sequence[str]
) -> str:
    """Write a sweep's section, CSV and figure.

    Args:
        name: of the sweep.
        lines: of its tables.
        seeds: that are expected.
        runs: folders in or below which run folders lie.
        page: the Markdown file; CSV and figure go into the folder `results` beside it, named after the sweep.
        changes: `field=value` words that the lines were made with, to be said.

    Returns:
        The section.

    Raises:
        ConfigError: nothing was found, or the page is another document.
    """
    records, unreadable = read_records(runs)
    entries = entries_of(lines, records, seeds)
    if not any(e.records for e in entries):
        raise ConfigError(f"no result of {name} with these settings below {', '.join(map(str, runs))}")
    text = section(name, SWEEPS[name], entries, changes, unreadable)
    whole = page_with(page.read_text(encoding="utf-8") if page.exists() else "", name, text)
    beside = page.parent / RESULTS
    beside.mkdir(parents=True, exist_ok=True)
    for path, content in ((beside / f"{name}.csv", as_csv(name, entries)), (page, whole)):
        # Written beside and moved: nobody reads half a page
        fresh = path.with_name(path.name + ".tmp")
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(path)
    save(draw(entries), beside / f"{name}.png")
    return text


def main() -> None:
    """Run this process's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep.collect",
        description=__doc__,
        parents=[asked()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", nargs="+", type=Path, help="folders in or below which run folders lie (runs/SWEEP)")
    parser.add_argument("--report", type=Path, required=True, help="page (.md) to write into")
    options = parser.parse_args()
    try:
        lines, seeds = planned(SWEEPS[options.sweep], options)
        runs = options.runs or [Path("runs") / options.sweep]
        print(write_report(options.sweep, lines, seeds, runs, options.report, options.set), end="")
    except NtkclError as error:
        print(f"experiments.sweep.collect: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
