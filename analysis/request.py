"""What can be asked of a run's kernels; plain data, so that `ntk-analysis --help` doesn't wait for JAX."""

from dataclasses import dataclass
from typing import Literal

from analysis.errors import PlanError
from analysis.kernels.kinds import Outputs, Precision, Way

Side = Literal["train", "test"]
Head = Literal["scores", "proxy", "features"]
GroupBy = Literal["part", "layer", "none"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which kernels of a run, and how."""

    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when empty."""
    checkpoints: tuple[int, ...] = ()
    """0 is the state before task 0, t + 1 the state after task t; all when empty."""
    tasks: tuple[int, ...] = ()
    """Tasks whose images are probed, from 0; all finished ones when empty."""
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
    """How kernels are computed; auto lets the planner choose."""
    precision: Precision | None = None
    """Arithmetic of the sums over parameters; None: float64 unless the device has none."""
    tile: int | None = None
    """Images in a tile, any number; None: the planner chooses."""
    memory_bytes: int | None = None
    """Memory to stay within, bytes; None: most of what is free."""
    part: tuple[int, int] = (0, 1)
    """I N: do the I-th of N equal shares (from 0); a last call with --resume and without --part finishes."""

    def __post_init__(self) -> None:
        """Refuse parts that don't exist, and options that don't go together."""
        index, count = self.part
        if not 0 <= index < count:
            raise PlanError(f"expected part I N with 0 <= I < N; got {index} {count}")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise PlanError(f"expected memory above 0 bytes; got {self.memory_bytes}")
        if self.way == "neural_tangents" and (self.groups != "none" or count > 1):
            raise PlanError("way neural_tangents gives whole kernels only: ask for groups none and no part")
