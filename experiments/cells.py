"""Cells of a sweep: one configuration on one stream, several seeds, one run folder each.

A cell is a run folder and nothing else: finished cells are skipped, interrupted ones resumed, and tables are made from
the folders alone, so cells may be run in any order, by several processes, on several machines.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ntkcl_jax import Arrays, RunConfig, train
from ntkcl_jax.errors import RunFolderError


def finished(folder: Path, config: RunConfig) -> bool:
    """Tell whether a cell's folder holds every seed and method."""
    path = folder / "results.json"
    if not path.exists():
        return False
    seeds = json.loads(path.read_text())["seeds"]
    return all(set(config.methods) <= set(seeds.get(str(seed), {})) for seed in config.seeds)


def run_cell(folder: Path, config: RunConfig, arrays: Arrays | None = None) -> None:
    """Run a cell, or what is left of it."""
    if not finished(folder, config):
        train(config, folder, arrays=arrays, resume=(folder / "config.json").exists(), quiet=True)


def run_all(module: str, names: Sequence[str], common: Sequence[str], processes: int) -> None:
    """Run cells in processes of their own, `processes` at a time (one core each keeps small networks fastest).

    Args:
        module: the experiment's module, called as `python -m module --cell NAME ...`.
        names: the cells.
        common: further arguments of each call.
        processes: how many at a time.

    Raises:
        RunFolderError: a cell failed; the others were still run.
    """

    def call(name: str) -> str | None:
        command = [sys.executable, "-m", module, "--cell", name, *common]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        message = f"{name}: {last}" if done.returncode else None
        print(f"failed {message}" if message else f"done   {name}", flush=True)
        return message

    with ThreadPoolExecutor(processes) as pool:
        failed = [message for message in pool.map(call, names) if message]
    if failed:
        raise RunFolderError(f"{len(failed)} of {len(names)} cells failed; the first: {failed[0]}")


def read_cells(root: Path) -> dict[str, dict[str, Any]]:
    """Results of every cell below a folder, by name."""
    return {p.parent.name: json.loads(p.read_text()) for p in sorted(root.glob("*/results.json"))}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def percent(entry: Mapping[str, Any]) -> str:
    """`mean ± std` of an aggregated metric, in percent."""
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.2f}"
    return f"{100 * entry['mean']:.2f}{spread}"


Stream = Callable[[], tuple[RunConfig, Arrays | None]]
"""Makes a stream's configuration, and its images where they aren't read from files."""
