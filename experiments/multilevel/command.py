r"""Measure what the parts of the readout `multilevel` are worth, and how far it reaches beside its rivals.

    python -m experiments.multilevel dev-scripts                                   # shipped backbone, no file needed
    python -m experiments.multilevel dev-scripts deit-dev-scripts deit-dev-icons deit-omniglot \
        --data deit-dev-icons=FOLDER deit-omniglot=FOLDER --weights deit-dev-scripts=FILE deit-dev-icons=FILE \
        deit-omniglot=FILE --report experiments/RESULTS.md

Nothing trains, and there is no run folder: the frozen backbone sees every image once, and once for each view (drawn
once for all seeds); every feature setting is read off that pass, with random matrices of each seed; then each row's
classifier learns the tasks. A row changes one thing of the default (`rows.py`). Writes multilevel.json (every number,
command, versions, commit) and multilevel.csv to --out, and the table into --report; a stream that is measured again
takes the place of the older one. Streams for choosing settings (`experiments.sweep.streams.CHOOSING`) are said to be.
All rows of three seeds take 0.3 MB of memory an image and view.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.commands import Say, ended, measure_each, read, shown
from experiments.multilevel.measure import measured
from experiments.multilevel.rows import DEFAULT, WIDTHS, Row, rows
from experiments.multilevel.tables import in_order, lines, page
from experiments.sweep.cells import Cell
from experiments.sweep.command import with_files
from experiments.sweep.settings import parse_changes
from experiments.sweep.streams import stream_config
from ntkcl_jax.errors import ConfigError

NAME = "experiments.multilevel"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("streams", nargs="+", help="as those of experiments.sweep")
    made.add_argument("--data", nargs="+", default=[], metavar="STREAM=PATH", help="where a stream's images are")
    made.add_argument("--weights", nargs="+", default=[], metavar="[STREAM=]FILE", help="weights files")
    made.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change every stream's settings")
    made.add_argument("--rows", nargs="+", default=[], help="titles or axes of rows (default: all)")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of random matrices and class orders")
    made.add_argument("--widths", nargs=4, type=int, default=WIDTHS, help="of F, M, G and S in the default row")
    made.add_argument("--out", type=Path, default=Path("experiments/results"), help="where JSON and CSV go")
    made.add_argument("--report", type=Path, help="page to write the table into")
    made.add_argument("--tables-only", action="store_true", help="tables again from multilevel.json")
    return made


def asked(names: Sequence[str]) -> list[Row]:
    """The rows of some titles or axes, and the default.

    Raises:
        ConfigError: no such row.

    Example:
        >>> [row.title for row in asked(["groups: F alone"])]
        ['default', 'groups: F alone']
    """
    every = list(rows())
    known = {name for row in every for name in (row.title, row.axis) if name}
    for name in names:
        if name not in known:
            raise ConfigError(f"no row {name!r}; choose from {', '.join(sorted(known))}")
    return [row for row in every if not names or row == DEFAULT or row.title in names or row.axis in names]


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure the streams that were asked for; each is written as soon as it is there, in the place of an older one.

    Raises:
        NtkclError: a stream, path or setting that can't be.
    """
    if min(options.widths) < 1:
        raise ConfigError(f"expected --widths of at least 1, got {' '.join(map(str, options.widths))}")
    table, changes, seeds = asked(options.rows), parse_changes(options.set), tuple(dict.fromkeys(options.seeds))
    cells = [Cell(name, "", stream_config(name, changes)) for name in options.streams]

    def of(cell: Cell, say: Say) -> dict[str, Any]:
        return measured(cell.stream, replace(cell.config, seeds=seeds), table, seeds, say, tuple(options.widths))

    measure_each(file, ((cell.stream, cell) for cell in with_files(cells, options.data, options.weights)), of)


def run(words: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        NtkclError: a mistake that the user can mend.
    """
    options = parser().parse_args(words)
    file = options.out / "multilevel.json"
    if not options.tables_only:
        measure_all(options, file)
    known = read(file)
    records = in_order(known)
    with open(options.out / "multilevel.csv", "w", newline="") as f:
        csv.writer(f).writerows(lines(records))
    text = page(records)
    shown(text, options.report, NAME)


def main() -> None:
    """Run this process's command line."""
    ended(NAME, run)
