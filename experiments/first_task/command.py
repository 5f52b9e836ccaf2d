r"""Measure whether kernels of the first task rank feature maps as the whole stream does: docs/theory.md, section 9.1.

    python -m experiments.first_task --docs docs/theory.md \
        --data omniglot=FOLDER deit-omniglot=FOLDER deit-tiny-imagenet=FOLDER \
        --weights deit-omniglot=FILE deit-tiny-imagenet=FILE
    python -m experiments.first_task --streams scripts --orders 3 --out runs      # one stream, in minutes

Every map's rows of all images are computed once, by a frozen backbone. A_T is the accuracy on all test images of ridge
regression on all training images, λ by leave-one-out among them; in whatever order classes come, the classifier is the
same. For each class order (those of seeds 0, 1, 2, ...) all statistics come from the first task's training images
alone. The kernel of all training images is decomposed once a map: 4,000 images take a minute each on one core. Writes
first_task.json (every number, command, versions, commit) and first_task.csv (the tables) to --out; a stream that is
measured again takes the place of the older one.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from experiments.commands import ended, measure_each, read, shown
from experiments.first_task.measure import measured
from experiments.first_task.tables import Table, more_tables, tables
from experiments.sweep.cells import Cell
from experiments.sweep.command import with_files
from experiments.sweep.settings import parse_changes
from experiments.sweep.streams import stream_config
from experiments.sweep.tables import markdown
from ntkcl_jax.errors import ConfigError

STREAMS = (
    "digits", "uci-digits", "scripts", "dev-scripts", "omniglot", "deit-omniglot", "deit-tiny-imagenet",
)  # fmt: skip
NAME = "experiments.first_task"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--streams", nargs="+", default=STREAMS, help="as those of experiments.sweep")
    made.add_argument("--data", nargs="+", default=[], metavar="STREAM=PATH", help="where a stream's images are")
    made.add_argument("--weights", nargs="+", default=[], metavar="[STREAM=]FILE", help="weights files")
    made.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change every stream's settings")
    made.add_argument("--orders", type=int, default=10, help="class orders, those of seeds 0, 1, 2, ...")
    made.add_argument("--out", type=Path, default=Path("experiments/results"), help="where JSON and CSV go")
    made.add_argument("--docs", type=Path, help="page to write the tables into")
    made.add_argument("--tables-only", action="store_true", help="tables again from first_task.json")
    return made


def page(found: Sequence[Table]) -> str:
    """The tables one below the other, each under its title."""
    return "\n".join(f"{title[0].upper()}{title[1:]}:\n\n{markdown(head, rows)}" for title, head, rows in found)


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure the streams that were asked for; each is written as soon as it is there, in the place of an older one.

    Raises:
        NtkclError: a stream, path or setting that can't be.
    """
    if options.orders < 1:
        raise ConfigError(f"expected --orders of at least 1, got {options.orders}")
    changes = parse_changes(options.set)
    cells = [Cell(name, "", stream_config(name, changes)) for name in options.streams]
    found = ((cell.stream, cell) for cell in with_files(cells, options.data, options.weights))
    measure_each(file, found, lambda cell, say: measured(cell.stream, cell.config, options.orders, say))


def run(words: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        NtkclError: a mistake that the user can mend.
    """
    options = parser().parse_args(words)
    file = options.out / "first_task.json"
    if not options.tables_only:
        measure_all(options, file)
    known = read(file)
    # In the order of the command, then what else the file holds
    records = [known[name] for name in dict.fromkeys((*options.streams, *known)) if name in known]
    found = list(tables(records))
    with open(options.out / "first_task.csv", "w", newline="") as f:
        whole = [*found, *more_tables(records)]
        csv.writer(f).writerows(row for title, head, rows in whole for row in ([title], head, *rows, []))
    text = page(found)
    shown(text, options.docs, NAME)


def main() -> None:
    """Run this process's command line."""
    ended(NAME, run)
