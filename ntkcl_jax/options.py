"""Options of each `ntkcl` command, as typed dataclasses that tyro turns into flags and help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ntkcl_jax.config import RunConfig
from ntkcl_jax.parsing import parse


@dataclass(frozen=True)
class Demo:
    """Learn ten handwritten digits in five tasks of two, without keeping a single old image."""

    run_dir: Path = Path("runs/demo")
    """Folder of the run; must not exist yet, unless --resume is given."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to run, one after the other."""
    resume: bool = False
    """Go on with the interrupted demo in --run-dir."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Train:
    """Train on a stream of tasks."""

    run_dir: Path
    """Folder of the run; must not exist yet, unless --resume is given."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on with the interrupted run in --run-dir; repeat its other options."""
    quiet: bool = False
    """No progress on the terminal."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Evaluate:
    """Classify the test images again with every stored checkpoint, and compare with the stored results."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    json: bool = False
    """Print the results as JSON instead of a table."""


@dataclass(frozen=True)
class Presets:
    """List the named configurations."""

    json: bool = False
    """Print every field of every preset as JSON."""


def parse_train(name: str, config: RunConfig, args: list[str]) -> Train:
    """Read `ntkcl train`'s options over a preset."""
    return parse(Train, f"ntkcl train {name}", args, Train(run_dir=tyro.MISSING, config=config))
