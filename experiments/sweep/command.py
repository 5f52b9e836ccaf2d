"""Run the cells of a sweep: the same command on any number of machines that share a folder runs each cell once.

    python -m experiments.sweep methods --report experiments/RESULTS.md      # every method, five seeds, three streams
    python -m experiments.sweep variants --streams digits scripts omniglot --data omniglot=FOLDER
    python -m experiments.sweep ablations --streams scripts --rows unchanged "lambda_reg 0" --seeds 0 1
    python -m experiments.sweep benchmarks --streams cifar100 --data cifar100=FILE --weights FILE
    python -m experiments.sweep methods --list                               # done, running (by whom), free, ...

A cell is one row on one stream with one seed, in the run folder OUT/STREAM--ROW--seedN. A finished cell is left alone,
an interrupted one resumed, one whose owner died taken over; a failed one waits for --retry. On an accelerator one
process fills a device: leave --processes at 1 and start one command per device (`experiments/cluster`).
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.sweep.cells import Cell, cells_of, listing, work
from experiments.sweep.claims import STALE_S
from experiments.sweep.rows import Line, Sweep, lines, one_stream, parse_changes
from experiments.sweep.sweeps import SWEEPS
from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.terminal.console import USER_ERROR, Terminated

WORKER = "NTKCL_SWEEP_WORKER"
"""Set in the environment of the processes that --processes starts."""


def asked() -> argparse.ArgumentParser:
    """Options that say which cells are meant; `experiments.sweep.collect` has them too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("sweep", choices=list(SWEEPS), help="its rows, streams and seeds: see sweeps.py")
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
    made.add_argument("--list", action="store_true", help="only say how far each cell is")
    made.add_argument("--retry", action="store_true", help="run failed cells again")
    made.add_argument("--wait", action="store_true", help="stay until no cell is running on any machine")
    made.add_argument("--stale", type=float, default=STALE_S, help="seconds of silence before a cell is taken over")
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
    files = {stream: file for stream, _, file in (w.partition("=") if "=" in w else ("", "", w) for w in weights)}
    out = []
    for cell in cells:
        config, stream = cell.config, cell.stream
        if stream in paths:
            config = replace(config, data=replace(config.data, path=paths[stream]))
        elif one_stream(stream).needs_path:
            raise ConfigError(f"the stream {stream} needs --data {stream}=FOLDER")
        file = files.get(stream, files.get(""))
        out.append(replace(cell, config=replace(config, weights=file) if file else config))
    return out


def in_processes(count: int, words: Sequence[str]) -> int:
    """Run this command in several processes, which share the cells among themselves; returns the worst exit code."""
    command = [sys.executable, "-m", "experiments.sweep", *words]  # so that each run's config.json has these words
    children = [subprocess.Popen(command, env=os.environ | {WORKER: "1"}) for _ in range(count)]
    try:
        codes = [child.wait() for child in children]
    except KeyboardInterrupt:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        raise
    for child in children:
        if child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            print(f"process {child.pid} was killed ({name}); the same command takes its cell up again", file=sys.stderr)
    return max(abs(code) for code in codes)


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
    if options.list:
        print(listing(root, cells, options.stale))
        return 0
    worker = WORKER in os.environ
    if options.processes > 1 and not worker:
        code = in_processes(options.processes, list(words))
    else:
        failed = work(root, cells, retry=options.retry, wait=options.wait, stale_s=options.stale)
        code = 1 if failed else 0
    if options.report and not worker:
        from experiments.sweep.collect import write_report

        write_report(options.sweep, found, seeds, [root], options.report, options.set)
    return code


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> None:
    """Run this process's command line; a claim is given back on Ctrl-C and SIGTERM."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run(sys.argv[1:])
    except NtkclError as error:
        print(f"experiments.sweep: {error}", file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt as error:
        print("stopped; the same command goes on", file=sys.stderr)
        code = 143 if isinstance(error, Terminated) else 130
    sys.exit(code)
