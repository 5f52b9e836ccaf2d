r"""Measure whether influence is real: train later tasks again without the images that it names.

    python -m experiments.influence --report experiments/RESULTS.md
    python -m experiments.influence --seeds 0 --draws 2 --out runs                  # one seed, in a minute

A run is trained (the preset `digits` with a hot later rate), and influences are computed at the checkpoint before each
later task on 60 test images of each old task. Then each later task is trained again from that checkpoint, by the run's
own optimizer: with all images, without the 5 % whose total influence on these test images is largest, without the 5 %
that help them most, and without as many drawn at random. Measured are the old tasks' *other* test images, which
influence hasn't seen, and the new task's, all with the prototypes that the run ended with.

The trainer replays nothing, so a coreset's worth is measured otherwise: the run's own step is projected onto what
leaves the losses of k remembered old training images alone to first order, and the network evaluated there.

Writes influence.json (every number, command, versions, commit) to --out, and the tables into --report; a stream and
seed that is measured again takes the place of the older one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.commands import Say, ended, measure_each, read, shown
from experiments.influence.measure import measured
from experiments.influence.tables import page
from experiments.sweep.settings import parse_changes
from experiments.sweep.streams import stream_config
from ntkcl_jax.errors import ConfigError

NAME = "experiments.influence"
HOT = {"optimizer.later_learning_rate": 0.2, "objective.lambda_reg": 0.001, "data.limit_per_class": 100}
"""The preset's own later rate hardly forgets anything."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--streams", nargs="+", default=["digits"], help="as those of experiments.sweep without files")
    made.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change every stream's settings")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the runs")
    made.add_argument("--share", type=float, default=0.05, help="part of a task's training images that is left out")
    made.add_argument("--draws", type=int, default=3, help="random choices of each kind")
    made.add_argument("--remember", type=int, default=20, help="old training images in a coreset")
    made.add_argument("--out", type=Path, default=Path("experiments/results"), help="where JSON goes")
    made.add_argument("--report", type=Path, help="page to write the tables into")
    made.add_argument("--tables-only", action="store_true", help="tables again from influence.json")
    return made


def run(words: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        NtkclError: a mistake that the user can mend.
    """
    options = parser().parse_args(words)
    if not 0 < options.share < 1 or options.draws < 2 or options.remember < 1:
        raise ConfigError("expected --share between 0 and 1, --draws of at least 2 and --remember of at least 1")
    file, seeds = options.out / "influence.json", tuple(dict.fromkeys(options.seeds))
    if not options.tables_only:
        changes = HOT | parse_changes(options.set)
        # Each seed is written as soon as it is there
        cells = {f"{name} {seed}": (name, seed) for name in options.streams for seed in seeds}

        def of(cell: tuple[str, int], say: Say) -> dict[str, Any]:
            name, seed = cell
            config = stream_config(name, changes)
            made = measured(config, seed, options.share, options.draws, options.remember, say)
            return {"stream": name, **made}

        measure_each(file, cells.items(), of)
    text = page(read(file))
    shown(text, options.report, NAME)


def main() -> None:
    """Run this process's command line."""
    ended(NAME, run)
