"""Run the cells of a sweep, each in a process of its own: on one machine, or a share of them on each of many.

    python -m experiments.sweep methods --report experiments/RESULTS.md      # every method, five seeds, three streams
    python -m experiments.sweep variants --streams digits scripts omniglot --data omniglot=FOLDER
    python -m experiments.sweep ablations --streams scripts --rows unchanged "lambda_reg 0" --seeds 0 1
    python -m experiments.sweep benchmarks --streams cifar100 --data cifar100=FILE --weights FILE --shard 1/8
    python -m experiments.sweep methods --list                               # done, running, unfinished, failed, free

A cell is one row on one stream with one seed, in the run folder OUT/STREAM--ROW--seedN. A finished cell is left alone,
an unfinished one taken up; a failed one waits for --retry, and one whose process dies is tried once more. A SLURM array
shares the cells out by itself (`experiments/cluster`); elsewhere --shard I/N does. On an accelerator one process fills
a device: leave --processes at 1 and start one command for each device. Cells of one command share compiled programs.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.sweep.cells import Cell, cells_of, listing, run_cell, shard, status
from experiments.sweep.definitions import SWEEPS
from experiments.sweep.processes import work
from experiments.sweep.rows import Line, Sweep, lines
from experiments.sweep.settings import parse_changes
from experiments.sweep.streams import one_stream
from ntkcl_jax.config.registry import PLAIN
from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.terminal.console import INTERRUPTED, TERMINATED, USER_ERROR
from ntkcl_jax.terminal.stopping import Terminated, stop_when_told

CELL = "NTKCL_SWEEP_CELL"
"""Variable that names a process's cell; its words stay those that were typed, since its run folder notes them."""


def asked() -> argparse.ArgumentParser:
    """Options that say which cells are meant; `experiments.sweep.collect` has them too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("sweep", choices=list(SWEEPS), help="its rows, streams and seeds: see definitions.py")
    parser.add_argument("--streams", nargs="+", default=[], help="presets, omniglot or icons (default: the sweep's)")
    parser.add_argument("--rows", nargs="+", default=[], help="rows by name (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="default: the sweep's")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change every stream's settings")
    return parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        parents=[asked()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--out", type=Path, help="folder of the run folders, shared by all machines (runs/SWEEP)")
    made.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="STREAM=PATH",
        help="where a stream's images are, the same on all machines",
    )
    made.add_argument(
        "--weights", nargs="+", default=[], metavar="[STREAM=]FILE", help="weights files, the same on all machines"
    )
    made.add_argument("--processes", type=int, default=1, help="cells at a time on this machine")
    made.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the cells (a SLURM array's own)")
    made.add_argument("--list", action="store_true", help="only say how far each cell is")
    made.add_argument("--retry", action="store_true", help="run failed cells again")
    made.add_argument("--wait", action="store_true", help="stay until no cell is running in another process")
    made.add_argument("--report", type=Path, help="write the tables into this page (.md) when no cell is left")
    return made


def planned(sweep: Sweep, options: argparse.Namespace) -> tuple[list[Line], tuple[int, ...]]:
    """Lines and seeds that were asked for.

    Raises:
        ConfigError: an unknown stream, row or field.
    """
    found = lines(sweep, options.streams, options.rows, parse_changes(options.set))
    return found, tuple(options.seeds) or sweep.seeds


def with_files(cells: Sequence[Cell], data: Sequence[str], weights: Sequence[str]) -> list[Cell]:
    """Tell each cell where its images and weights are.

    Args:
        cells: as planned.
        data: `STREAM=PATH` words.
        weights: `STREAM=FILE` words, or one `FILE` for all streams.

    Raises:
        ConfigError: a word without an equals sign, or a stream that needs a path and has none.
    """
    for word in data:
        if "=" not in word:
            raise ConfigError(f"expected --data STREAM=PATH, got {word!r}")
    paths = {stream: path for stream, _, path in (word.partition("=") for word in data)}
    # Only a name before the sign makes it STREAM=FILE: the path of a file for all may have one too
    named = (w.partition("=") if PLAIN.fullmatch(w.partition("=")[0]) else ("", "", w) for w in weights)
    files = {stream: file for stream, _, file in named}
    out = []
    for cell in cells:
        config, stream = cell.config, cell.stream
        if stream in paths:
            config = replace(config, data=replace(config.data, path=paths[stream]))
        elif one_stream(stream).needs_path:
            raise ConfigError(f"the stream {stream} needs --data {stream}=FOLDER")
        # A word without a stream is for all
        file = files.get(stream, files.get(""))
        out.append(replace(cell, config=replace(config, weights=file) if file else config))
    return out


def which_shard(option: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which part of the cells this command runs: as `--shard` says, as the SLURM array's task is numbered, or all.

    Args:
        option: `I/N`, from 1; None: see the environment.
        environment: of the process.

    Raises:
        ConfigError: no such part.

    Example:
        >>> slurm = {"ID": "5", "MIN": "1", "MAX": "8", "STEP": "1", "COUNT": "8"}
        >>> slurm = {f"SLURM_ARRAY_TASK_{name}": value for name, value in slurm.items()}
        >>> which_shard(None, slurm), which_shard("2/3", slurm), which_shard(None, {})
        ((5, 8), (2, 3), (1, 1))
    """
    if option is None and "SLURM_ARRAY_TASK_ID" in environment:
        parts = ("ID", "MIN", "MAX", "STEP", "COUNT")
        task, first, last, step, count = (int(environment[f"SLURM_ARRAY_TASK_{part}"]) for part in parts)
        # With a gap in the numbers a part would be nobody's
        if first + (count - 1) * step != last:
            raise ConfigError(f"expected a SLURM array without gaps, got {count} of {first}-{last}; give --shard I/N")
        return 1 + (task - first) // step, count
    if option is None:
        return 1, 1
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", option)
    if not found or int(found[1]) > int(found[2]):
        raise ConfigError(f"expected --shard I/N with I from 1 to N, got {option!r}")
    return int(found[1]), int(found[2])


def environment_of(cell: Cell, programs: str) -> dict[str, str]:
    """What a cell's process is told: which cell it is, and where cells of this command keep compiled programs.

    Args:
        cell: which one.
        programs: a folder of this machine alone, since XLA may take programs of another machine's CPU for its own; a
            folder that the user has named goes before it.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # JAX 0.10 would write of CPU features for each program that it reads
    return {"JAX_COMPILATION_CACHE_DIR": programs} | os.environ | quiet | {CELL: cell.name}


def run(words: Sequence[str]) -> int:
    """Run a command line and return its exit code: 0, 1 if a cell failed, 2 for a mistake in the command.

    Raises:
        NtkclError: a mistake that the user can mend.
    """
    options = parser().parse_args(words)
    sweep = SWEEPS[options.sweep]
    root = options.out or Path("runs") / options.sweep
    found, seeds = planned(sweep, options)
    cells = with_files(cells_of(found, seeds), options.data, options.weights)
    # This process was started for one cell, with the words of the command that shares them out
    if CELL in os.environ:
        return run_cell(root, next(cell for cell in cells if cell.name == os.environ[CELL]))
    number, count = which_shard(options.shard, os.environ)
    own = shard(cells, number, count)
    if options.list:
        # A shard's cells in the order of the table, not by their cost
        names = {cell.name for cell in own}
        print(listing(root, [cell for cell in cells if cell.name in names]))
        return 0
    if options.processes < 1:
        raise ConfigError(f"expected --processes of at least 1, got {options.processes}")
    command = [sys.executable, "-m", "experiments.sweep", *words]
    with tempfile.TemporaryDirectory(prefix="ntkcl-sweep-", ignore_cleanup_errors=True) as programs:
        failed = work(
            root,
            own,
            lambda cell: (command, environment_of(cell, programs)),
            processes=options.processes,
            retry=options.retry,
            wait=options.wait,
        )
    if failed:
        print(f"{len(failed)} of {len(own)} cells failed; --list says why, --retry runs them again", file=sys.stderr)
    if options.report:
        # All cells, other shards' too: whichever command ends last writes the page
        left = [cell for cell in cells if status(root, cell).kind not in ("done", "failed")]
        if left and count > 1:
            print(f"no report yet: {len(left)} of {len(cells)} cells aren't done; the last shard's command writes it")
        else:
            from experiments.sweep.collect import write_report

            write_report(options.sweep, found, seeds, [root], options.report, options.set)
    return 1 if failed else 0


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM tells every process, and the command its cells once more
    raise Terminated


def main() -> None:
    """Run this process's command line; Ctrl-C and SIGTERM end its cells, which can be taken up again."""
    stop_when_told(_terminate)
    try:
        code = run(sys.argv[1:])
    except NtkclError as error:
        print(f"experiments.sweep: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt as error:
        if CELL not in os.environ:
            print("stopped; the same command goes on", file=sys.stderr)
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    sys.exit(code)
