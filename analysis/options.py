"""Options of each `ntk-analysis` command, as typed dataclasses that tyro turns into flags and help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from analysis.request import Request


@dataclass(frozen=True)
class Kernels:
    """Compute the intra-task and inter-task kernels of a run's checkpoints into RUN/analysis."""

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
