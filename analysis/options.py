"""Options of each `ntk-analysis` command, as typed dataclasses that tyro turns into flags and help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from analysis.studies.request import ForecastRequest, GapsRequest, InfluenceRequest, Request, WhatIfRequest
from ntkcl_jax.errors import require


@dataclass(frozen=True)
class Kernels:
    """Compute the intra-task and inter-task kernels of a run's checkpoints into RUN/analysis.

    Those of another method than ntkcl go into RUN/analysis/METHOD.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    request: Annotated[Request, tyro.conf.arg(name="")] = field(default_factory=Request)
    resume: bool = False
    """Go on with unfinished kernels."""
    dry_run: bool = False
    """Print what would be done, with predicted memory and operations, and stop."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the summary as JSON instead of a table."""


@dataclass(frozen=True)
class Gaps:
    """Split each task's error into what learning it left and what later tasks did, into RUN/analysis/gaps.json."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    request: Annotated[GapsRequest, tyro.conf.arg(name="")] = field(default_factory=GapsRequest)
    dry_run: bool = False
    """Print how many passes through the network it takes, and how much memory, and stop."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what gaps.json holds instead of a table."""


@dataclass(frozen=True)
class Forecast:
    """Forecast what each task made the network forget, from the checkpoint before it, and compare with what happened.

    Writes RUN/analysis/forecast.json; with --new-data, what training on these images next would make it forget, into
    RUN/analysis/forecast-NAME.json.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    request: Annotated[ForecastRequest, tyro.conf.arg(name="")] = field(default_factory=ForecastRequest)
    dry_run: bool = False
    """Print how many passes through the network it takes, and how much memory, and stop."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what the file holds instead of a table."""


@dataclass(frozen=True)
class WhatIf:
    """Ask at the checkpoint before each later task what other learning rates and epochs would have done.

    Accuracy and loss on old tasks and on the new one, from kernels and the run's own step, into
    RUN/analysis/what_if.json.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    request: Annotated[WhatIfRequest, tyro.conf.arg(name="")] = field(default_factory=WhatIfRequest)
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what what_if.json holds instead of a table."""


@dataclass(frozen=True)
class Influence:
    """Tell which training images of each later task made which old test images worse.

    From the kernel between old and new images at the checkpoint before the task, into RUN/analysis/influence.json; the
    strongest pairs into influence.csv.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished or still running."""
    request: Annotated[InfluenceRequest, tyro.conf.arg(name="")] = field(default_factory=InfluenceRequest)
    dry_run: bool = False
    """Print how many passes through the network it takes, and how much memory, and stop."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what influence.json holds instead of a table."""


@dataclass(frozen=True)
class Advise:
    """Say what to do next about a finished run, in two or three sentences for each method, and the command for it.

    From results.json, what_if.json if it is there, and left-out images under other readouts; into
    RUN/analysis/advice.json.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, finished."""
    follow: bool = False
    """Run the first method's command right away."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print what advice.json holds instead of sentences."""

    def __post_init__(self) -> None:
        """Refuse what can't both be printed."""
        require(not (self.follow and self.json), "--follow prints a run's progress and --json nothing else: take one")


@dataclass(frozen=True)
class Report:
    """Write the report of a run, or of several side by side: one HTML file, with figures and tables in RUN/analysis."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders; what isn't analysed yet is named in the report."""
    out: Path | None = None
    """The HTML file; RUN/analysis/report.html of the first run when left away."""
