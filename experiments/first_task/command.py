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
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.commands import command_line, write_into
from experiments.first_task.measure import measured
from experiments.first_task.tables import Record, Table, more_tables, tables
from experiments.sweep.cells import Cell
from experiments.sweep.command import with_files
from experiments.sweep.settings import parse_changes
from experiments.sweep.streams import stream_config
from experiments.sweep.tables import markdown
from ntkcl_jax.errors import ConfigError, DataError, NtkclError
from ntkcl_jax.runs.folder import provenance
from ntkcl_jax.terminal.console import USER_ERROR

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
    start, facts = time.perf_counter(), provenance()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {line}", flush=True)

    made = {"command": shlex.split(command_line(sys.argv)), "commit": facts["git"], "versions": facts["versions"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    for cell in with_files(cells, options.data, options.weights):
        record = measured(cell.stream, cell.config, options.orders, say) | made
        write(file, (read(file) if file.exists() else {}) | {cell.stream: record})


def write(file: Path, known: Mapping[str, Record]) -> None:
    """Store what was measured, a line for each stream, numbers with six digits."""
    lines = (f"{json.dumps(name)}: {json.dumps(rounded(record))}" for name, record in known.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rounded(value: Any) -> Any:
    """The same with six digits of each number.

    Example:
        >>> rounded({"a": [1 / 3, 2, "b"]})
        {'a': [0.333333, 2, 'b']}
    """
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read(file: Path) -> dict[str, Record]:
    """What was measured, by stream.

    Raises:
        DataError: nothing was.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"expected {file} with what was measured; {error}: measure without --tables-only") from error


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
    if options.docs:
        write_into(options.docs, text, NAME)
    print(text, end="")


def main() -> None:
    """Run this process's command line."""
    try:
        run(sys.argv[1:])
    except NtkclError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
