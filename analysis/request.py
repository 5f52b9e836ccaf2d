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
    """Which kernels of a run, and how.

    Attributes:
        seeds: seeds of the run; empty for all.
        checkpoints: 0 before task 0, t + 1 after task t; empty for all that there are.
        tasks: tasks whose images are probed; empty for all finished ones.
        per_task: probe images of each task.
        side: which images.
        outputs: kind of kernel.
        head: which outputs of the network.
        groups: parameter groups to store apart.
        way: how kernels are computed.
        precision: of the sums over parameters; None for the best that the device has.
        tile: images in a tile; None for the planner's choice.
        memory_bytes: memory to stay within; None for most of what is free.
        part: (i, n) for the i-th of n processes or hosts that share the work, from 0.
    """

    seeds: tuple[int, ...] = ()
    checkpoints: tuple[int, ...] = ()
    tasks: tuple[int, ...] = ()
    per_task: int = 20
    side: Side = "test"
    outputs: Outputs = "full"
    head: Head = "scores"
    groups: GroupBy = "part"
    way: Way = "auto"
    precision: Precision | None = None
    tile: int | None = None
    memory_bytes: int | None = None
    part: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        """Refuse parts that don't exist, and options that don't go together."""
        index, count = self.part
        if not 0 <= index < count:
            raise PlanError(f"expected part I/N with 0 <= I < N; got {index}/{count}")
        if self.way == "neural_tangents" and (self.groups != "none" or count > 1):
            raise PlanError("way neural_tangents gives whole kernels only: ask for --groups none and no --part")
