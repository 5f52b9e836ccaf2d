"""What can be asked of a run's kernels; plain data, so that `ntk-analysis --help` doesn't wait for JAX."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.errors import PlanError
from analysis.kernels import Outputs, Precision, Way
from analysis.studies.refusals import refusal

Side = Literal["train", "test"]
Head = Literal["scores", "proxy", "features"]
GroupBy = Literal["part", "layer", "none"]
Training = Literal["run", "ridge", "flow", "descent", "momentum", "nesterov"]
MIN_PER_TASK = 4
"""Images of a task below which leave-one-out and learning curves mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which kernels of a run, and how."""

    method: str = "ntkcl"
    """Whose checkpoints: ntkcl, a baseline of the run that trains modules inside the backbone (such as adapters), or a
    readout (such as multilevel), of which the newest state is stored; its results go to RUN/analysis/METHOD."""
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
    """Outputs of the network: scores, the features that they are made of, or NTK-CL's proxy head that trains."""
    groups: GroupBy = "part"
    """Parameter groups whose share is stored beside the whole: by part (a readout's: feature maps), by layer (ntkcl
    only), or none."""
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


@dataclass(frozen=True, kw_only=True)
class GapsRequest:
    """Of which tasks the generalization gaps are computed, and how."""

    method: str = "ntkcl"
    """Whose: ntkcl, whose training has the interplay of tasks that is split here."""
    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when empty."""
    per_task: int | None = None
    """Images of each task that theory's learner is trained on, and as many unseen ones that it is tested on; None: as
    many as every task has, 40 at most."""
    side: Side = "train"
    """Which images it is trained on. Of `train` images the network's readout has seen the labels (they are in the
    prototypes); with `test` it is trained on one half of the probes and tested on the other, and the bound is a
    theorem."""
    ridge: float | Literal["matched", "loo"] = "matched"
    """Ridge of theory's learner: with `matched` it moves the parameters just as far as the network moved them, so that
    the two can be compared, or says that it can't go so far; `loo` has the least leave-one-out error; or a fraction of
    the kernel's mean diagonal."""
    confidence: float = 0.05
    """Chance δ with which a bound may fail, for all tasks together."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, and other methods."""
        if self.method != "ntkcl":
            raise PlanError(refusal("gaps", self.method))
        if self.per_task is not None and self.per_task < MIN_PER_TASK:
            raise PlanError(
                f"expected at least {MIN_PER_TASK} images a task, as every one is left out once; got {self.per_task}"
            )
        if not isinstance(self.ridge, str) and not (math.isfinite(self.ridge) and self.ridge > 0):
            raise PlanError(
                f"expected ridge matched, loo, or a fraction of the mean diagonal above 0; got {self.ridge}"
            )
        if not 0 < self.confidence < 1:
            raise PlanError(f"expected confidence between 0 and 1; got {self.confidence}: 0.05 is usual")


@dataclass(frozen=True, kw_only=True)
class ForecastRequest:
    """Which forgetting is forecast, and how."""

    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when empty."""
    per_task: int | None = None
    """Test images of each old task whose drift is forecast; None: as many as every task has, 60 at most."""
    method: str = "ntkcl"
    """ntkcl, or sequential: the run's linear baseline, for which the forecast is exact."""
    procedure: Training = "run"
    """How the new task is thought to be trained. run: the linearised network takes the run's own steps. The others:
    closed forms for squared error on the centred scores of as many training images of the new task; what is measured
    is then still the run's own change, so the two differ by the procedure too."""
    ridge: float = 0.1
    """Closed forms: ridge, as a fraction of the mean diagonal of the new task's kernel."""
    rate: float = 1.0
    """descent, momentum, nesterov: learning rate times the largest eigenvalue of kernel plus ridge (descent is stable
    below 2)."""
    steps: int = 100
    """descent, momentum, nesterov: number of steps; their momentum is the run's."""
    time: float = 100.0
    """flow: time times the largest eigenvalue of kernel plus ridge."""
    new_data: Path | None = None
    """Folder of images to come, FOLDER/<class>/* or FOLDER/train/<class>/*: what would training on it next forget?"""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing, and options that don't go together."""
        if self.method not in ("ntkcl", "sequential"):
            raise PlanError(refusal("forecasts", self.method))
        if self.per_task is not None and self.per_task < 1:
            raise PlanError(f"expected at least 1 image a task; got {self.per_task}")
        for name, value in (("rate", self.rate), ("time", self.time), ("steps", self.steps)):
            if not (math.isfinite(value) and value > 0):
                raise PlanError(f"expected {name} above 0; got {value}")
        if not (math.isfinite(self.ridge) and self.ridge >= 0) or (self.procedure == "ridge" and self.ridge == 0):
            raise PlanError(
                f"expected a ridge above 0 (0 is for the others than ridge), got {self.ridge}: 0.1 is usual"
            )
        if self.procedure != "run" and self.method != "ntkcl":
            raise PlanError(f"procedure {self.procedure} is for method ntkcl; method sequential knows its own training")
        if self.new_data is not None and (self.procedure, self.method) != ("run", "ntkcl"):
            raise PlanError("new data go with method ntkcl and procedure run: its classes have no scores yet")


@dataclass(frozen=True, kw_only=True)
class WhatIfRequest:
    """Which other ways to train later tasks are looked at."""

    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when empty."""
    rates: tuple[float, ...] = ()
    """Initial learning rates of later tasks, beside 0 and the run's own; by default from an eighth of its own to four
    times (of the first task's rate, where its own is 0)."""
    epochs: tuple[int, ...] = ()
    """Passes over a later task's images, beside the run's own; by default half as many and twice. What a run is told,
    `optimizer.epochs`, counts for its first task too."""
    per_task: int | None = None
    """Test images of each task; None: as many as every task has, 60 at most."""
    directions: int = 20
    """Directions of the parameters that a projected step leaves out: those that move the old tasks' images most."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for rate in self.rates:
            if not (math.isfinite(rate) and rate >= 0):
                raise PlanError(f"expected learning rates of at least 0; got {rate}")
        for name, value in (("epochs", min(self.epochs, default=1)), ("directions", self.directions)):
            if value < 1:
                raise PlanError(f"expected {name} of at least 1; got {value}")
        if self.per_task is not None and self.per_task < 1:
            raise PlanError(f"expected at least 1 image a task; got {self.per_task}")


@dataclass(frozen=True, kw_only=True)
class InfluenceRequest:
    """Of which images influences are computed."""

    seeds: tuple[int, ...] = ()
    """Seeds of the run; all when empty."""
    per_task: int | None = None
    """Test images of each old task; None: as many as every task has, 60 at most."""
    coreset: int = 20
    """Old training images that are chosen as worth remembering, by each of two rules."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, value in (("images a task", self.per_task), ("images to remember", self.coreset)):
            if value is not None and value < 1:
                raise PlanError(f"expected at least 1 of {name}; got {value}")
