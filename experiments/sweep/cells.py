"""Cells of a sweep: one setting on one stream with one seed, in a run folder of its own.

A cell is a run folder and nothing else: what is done, running, interrupted or free is read from the folders, so cells
may be run in any order, by many processes on many machines that share a file system (`experiments.sweep.claims`).
"""

import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.sweep.claims import BEAT_S, DEATHS, STALE_S, ClaimLost, State, deaths, state, take
from experiments.sweep.entries import settings_key
from experiments.sweep.rows import Line, one_stream
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import read_json, to_json
from ntkcl_jax.errors import NtkclError

POLL_S = 15.0


@dataclass(frozen=True)
class Cell:
    """What one process runs at a time.

    Attributes:
        stream: name of the stream.
        row: name of the row.
        config: the whole configuration, with one seed.
    """

    stream: str
    row: str
    config: RunConfig

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.stream}--{self.row}--seed{self.config.seeds[0]}".replace(" ", "_")


@dataclass(frozen=True)
class Status:
    """How far a cell is: `done`, `running`, `interrupted`, `failed` or `free`, and what more there is to say."""

    kind: str
    detail: str
    claim: State


def cells_of(lines: Sequence[Line], seeds: Sequence[int]) -> list[Cell]:
    """The cells that fill the lines, those of one compiled program one after the other."""
    rows = dict.fromkeys((line.stream, line.row.name, line.config) for line in lines)
    return [Cell(s, row, replace(config, seeds=(seed,))) for s, row, config in rows for seed in seeds]


def finished(folder: Path, config: RunConfig) -> bool:
    """Tell whether a run folder holds every seed and method."""
    seeds = _object(_read(folder / "results.json").get("seeds"))
    return all(set(config.methods) <= set(_object(seeds.get(str(seed)))) for seed in config.seeds)


def is_other_run(folder: Path, config: RunConfig) -> bool:
    """Tell whether a folder holds a run with settings that give other numbers."""
    stored = _object(_read(folder / "config.json").get("config"))
    return bool(stored) and settings_key(stored) != settings_key(to_json(config))


def _read(path: Path) -> dict[str, Any]:
    """A run folder's JSON file; empty where there is none or it is damaged, which resuming the run mends or says."""
    try:
        return _object(read_json(path))
    except (OSError, ValueError):
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def status(root: Path, cell: Cell, stale_s: float = STALE_S) -> Status:
    """Read how far a cell is from its folder.

    Args:
        root: folder of the run folders.
        cell: which one.
        stale_s: see `experiments.sweep.claims.state`.
    """
    folder = root / cell.name
    claim = state(folder, stale_s)
    owner = claim.owner or {}
    if is_other_run(folder, cell.config):
        return Status("failed", "the folder holds a run with other settings: choose another --out", claim)
    if finished(folder, cell.config):
        took = f" in {owner['seconds']:.0f} s on {owner['host']}" if claim.kind == "done" else ""
        return Status("done", took.strip(), claim)
    match claim.kind:
        case "running":
            detail = f"by {claim.who} since {owner.get('since', '?')}, last seen {claim.silent_s:.0f} s ago"
            return Status("running", detail, claim)
        case "failed":
            return Status("failed", owner.get("error", "no message"), claim)
        case "dead" if deaths(folder) >= DEATHS:
            return Status("failed", f"its last {DEATHS} processes died, the last was {claim.who}", claim)
        case "dead":
            return Status("interrupted", f"{claim.who} died, last seen {claim.silent_s:.0f} s ago", claim)
        case "released":
            return Status("interrupted", f"{claim.who} was stopped", claim)
    return Status("interrupted" if (folder / "config.json").exists() else "free", "", claim)


def run_cell(folder: Path, cell: Cell) -> None:
    """Run a cell, or what is left of it; the folder may hold claims already."""
    from ntkcl_jax import train

    make = one_stream(cell.stream).arrays
    train(cell.config, folder, arrays=make() if make else None, resume=True, quiet=True)


def work(
    root: Path,
    cells: Sequence[Cell],
    *,
    retry: bool = False,
    wait: bool = False,
    stale_s: float = STALE_S,
    beat_s: float = BEAT_S,
) -> list[str]:
    """Run every cell that nobody else runs or has run, until a whole look around finds none.

    Args:
        root: folder of the run folders.
        cells: in this order.
        retry: run failed cells again too, each once.
        wait: go on until no cell is running anywhere, so that those whose owners die are taken over.
        stale_s: see `experiments.sweep.claims.state`.
        beat_s: seconds between two signs of life.

    Returns:
        A line for each cell that failed here.
    """
    import jax

    failed: dict[str, str] = {}
    compiled = None
    while True:
        took = running = False
        for cell in cells:
            now = status(root, cell, stale_s)
            running = running or now.kind == "running"
            wanted = ("free", "interrupted", "failed") if retry else ("free", "interrupted")
            if now.kind not in wanted or cell.name in failed:
                continue
            claim = take(root / cell.name, now.claim.number)
            if claim is None:
                running = True
                continue
            took = True
            if compiled != (compiled := (cell.stream, cell.row)):
                jax.clear_caches()  # programs of the last row would only fill the memory
            begin = time.perf_counter()
            try:
                with claim.held(beat_s):
                    run_cell(root / cell.name, cell)
            except ClaimLost as error:
                print(f"lost   {cell.name}: {error}", flush=True)
                continue
            except Exception as error:  # one cell that can't run mustn't stop the others
                if not isinstance(error, NtkclError):
                    traceback.print_exc()
                failed[cell.name] = f"{cell.name}: {' '.join(str(error).split())}"
                print(f"failed {failed[cell.name]}", file=sys.stderr, flush=True)
                continue
            print(f"done   {cell.name} in {time.perf_counter() - begin:.0f} s", flush=True)
        if not took and not (wait and running):
            return list(failed.values())
        if not took:
            time.sleep(min(POLL_S, stale_s / 4))


def listing(root: Path, cells: Sequence[Cell], stale_s: float = STALE_S) -> str:
    """A line for each cell, and how many there are of each kind."""
    found = [(cell, status(root, cell, stale_s)) for cell in cells]
    width = max(len(cell.name) for cell in cells)
    out = [f"{now.kind:<11}  {cell.name:<{width}}  {now.detail}".rstrip() for cell, now in found]
    kinds = [now.kind for _, now in found]
    counts = [f"{kinds.count(k)} {k}" for k in ("done", "running", "interrupted", "failed", "free") if k in kinds]
    return "\n".join([*out, f"{len(cells)} cells in {root}: {', '.join(counts)}"])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
