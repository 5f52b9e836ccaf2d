"""Options of each `ntk-analysis` command, as typed dataclasses that tyro turns into flags and help."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.errors import PlanError
from analysis.kernels.kinds import Outputs, Precision, Way
from analysis.request import GroupBy, Head, Request, Side


@dataclass(frozen=True)
class Kernels:
    """Compute the intra-task and inter-task kernels of a run's checkpoints into RUN/analysis."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when left out."""
    checkpoints: tuple[int, ...] = ()
    """0 is the state before task 0, t + 1 the state after task t; all when left out."""
    tasks: tuple[int, ...] = ()
    """Tasks whose images are probed, from 0; all finished ones when left out."""
    per_task: int = 20
    """Probe images of each task: fixed by the seed, class-balanced, recorded."""
    side: Side = "test"
    """Which images of a task."""
    outputs: Outputs = "full"
    """full (n, n, k, k), trace (its mean over outputs), diagonal, or pseudo (one backward pass an image)."""
    head: Head = "scores"
    """Outputs of the network: prototype scores, the proxy head that trains, or the hybrid features."""
    groups: GroupBy = "part"
    """Parameter groups whose share is stored beside the whole: by part, by layer, or none."""
    way: Way = "auto"
    """How kernels are computed."""
    precision: Precision | None = None
    """Arithmetic of the sums over parameters; float64 unless the device has none."""
    tile: int | None = None
    """Images in a tile, any number; the planner chooses when left out."""
    memory_gb: float | None = None
    """Memory to stay within, 10^9 bytes; most of what is free when left out."""
    part: str = "0/1"
    """I/N: do the I-th of N equal shares (from 0); a last call with --resume and without --part finishes."""
    resume: bool = False
    """Go on with unfinished kernels."""
    dry_run: bool = False
    """Print what would be done, with predicted memory and operations, and stop."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the summary as JSON instead of a table."""

    def request(self) -> Request:
        """What is asked for.

        Raises:
            PlanError: an unreadable or impossible --part, or no memory.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", self.part)
        if not match:
            raise PlanError(f"expected --part I/N such as 0/4, got {self.part!r}")
        if self.memory_gb is not None and self.memory_gb <= 0:
            raise PlanError(f"expected --memory-gb above 0, got {self.memory_gb}")
        return Request(
            seeds=self.seeds, checkpoints=self.checkpoints, tasks=self.tasks, per_task=self.per_task, side=self.side,
            outputs=self.outputs, head=self.head, groups=self.groups, way=self.way, precision=self.precision,
            tile=self.tile, memory_bytes=None if self.memory_gb is None else int(self.memory_gb * 1e9),
            part=(int(match[1]), int(match[2])),
        )  # fmt: skip
