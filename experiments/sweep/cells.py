"""Cells of a sweep: one setting on one stream with one seed, in a run folder of its own.

A cell is a run folder and nothing else: what is done, running, unfinished, failed or free is read from the folder. Its
lock (`ntkcl_jax.runs.folder`) keeps other processes out, on other machines too where their file system passes locks on.
"""

import contextlib
import fcntl
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.sweep.results import settings_key
from experiments.sweep.rows import Line
from experiments.sweep.streams import one_stream
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import read_json, to_json
from ntkcl_jax.errors import NtkclError, RunFolderError
from ntkcl_jax.terminal.progress import plain_text

DONE, FAILED, ELSEWHERE = 0, 1, 75
"""Exit codes of a cell's process: it ran; it said why it can't; another process holds its folder (EX_TEMPFAIL)."""
ONE_PASS = ("prototypes", "sequential", "joint", "ridge")
"""Methods that look at each image once and train no module inside the backbone."""
WHY = "failed.json"
"""File of a run folder that says why the cell failed; it is gone once the cell is tried again."""

LONGEST = 500
"""Characters of such a reason."""


@dataclass(frozen=True)
class Cell:
    """What one process runs.

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

    @property
    def cost(self) -> float:
        """Roughly, beside other cells: multiply-adds of the backbone for one image, times passes over the images."""
        net = self.config.model.backbone
        # For each token and block 12 d² for its linear maps and 2 n d for attention
        forward = net.depth * net.tokens * net.dim * (12 * net.dim + 2 * net.tokens)
        # An epoch goes forward and backward, about three forward passes
        passes = [1 if m in ONE_PASS else 1 + 3 * self.config.optimizer.epochs for m in self.config.methods]
        return forward * sum(passes)


@dataclass(frozen=True)
class Status:
    """How far a cell is: `done`, `running`, `unfinished`, `failed` or `free`, and what more there is to say."""

    kind: str
    detail: str = ""


def cells_of(lines: Sequence[Line], seeds: Sequence[int]) -> list[Cell]:
    """The cells that fill the lines, in their order."""
    # Lines of one row share its cell, which runs all its methods
    rows = dict.fromkeys((line.stream, line.row.name, line.config) for line in lines)
    return [Cell(s, row, replace(config, seeds=(seed,))) for s, row, config in rows for seed in seeds]


def shard(cells: Sequence[Cell], number: int, count: int) -> list[Cell]:
    """One of `count` parts of the cells, the same on every machine.

    The costliest cells come first and are dealt round like cards, so that parts cost about the same and a machine that
    runs several at a time ends with short ones.

    Args:
        cells: all of them.
        number: which part, from 1.
        count: how many parts.
    """
    # Sorting is stable, so that every machine deals the same cells
    return sorted(cells, key=lambda cell: -cell.cost)[number - 1 :: count]


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


def in_use(folder: Path) -> bool:
    """Tell whether a process holds a run folder's lock."""
    try:
        with (folder / ".lock").open() as lock:
            # Shared, and gone with the file: whoever asks keeps nobody out
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file: nobody has begun; a file system without locks: the run itself says so
        return False
    return False


def status(root: Path, cell: Cell) -> Status:
    """Read how far a cell is from its folder.

    Args:
        root: folder of the run folders.
        cell: which one.
    """
    folder = root / cell.name
    if is_other_run(folder, cell.config):
        return Status("failed", "the folder holds a run with other settings: choose another --out")
    if finished(folder, cell.config):
        return Status("done")
    if in_use(folder):
        return Status("running")
    if (folder / WHY).exists():
        why = str(_read(folder / WHY).get("error", "no message"))[:LONGEST]
        return Status("failed", " ".join(plain_text(why).split()))
    return Status("unfinished" if (folder / "config.json").exists() else "free")


def listing(root: Path, cells: Sequence[Cell]) -> str:
    """A line for each cell, and how many there are of each kind."""
    found = [(cell, status(root, cell)) for cell in cells]
    width = max((len(cell.name) for cell in cells), default=0)
    out = [f"{now.kind:<10}  {cell.name:<{width}}  {now.detail}".rstrip() for cell, now in found]
    kinds = [now.kind for _, now in found]
    counts = [f"{kinds.count(k)} {k}" for k in ("done", "running", "unfinished", "failed", "free") if k in kinds]
    return "\n".join([*out, f"{len(cells)} cells in {root}: {', '.join(counts)}"])


def note_failure(folder: Path, why: str) -> None:
    """Leave word in a run folder of why its cell failed, as far as the disk allows."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WHY).write_text(json.dumps({"error": why}) + "\n", encoding="utf-8")


def run_cell(root: Path, cell: Cell) -> int:
    """Run a cell, or what is left of it, in this process.

    Args:
        root: folder of the run folders.
        cell: which one.

    Returns:
        `DONE`, `FAILED` (standard error and the folder say why), or `ELSEWHERE`.
    """
    from ntkcl_jax import train

    folder, make = root / cell.name, one_stream(cell.stream).arrays
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WHY).unlink(missing_ok=True)
        train(cell.config, folder, arrays=make() if make else None, resume=True, quiet=True)
    except Exception as error:  # a cell that can't run says so and lets the others go on
        # Another process took the folder between the look and the start, which is no failure
        if isinstance(error, RunFolderError) and in_use(folder):
            return ELSEWHERE
        if not isinstance(error, NtkclError):
            traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        print(f"failed {cell.name}: {why}", file=sys.stderr, flush=True)
        note_failure(folder, why)
        return FAILED
    return DONE
