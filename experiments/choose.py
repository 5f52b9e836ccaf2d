"""Choose the nano presets' hyper-parameters on streams and seeds that no result is reported on.

    python -m experiments.choose --out runs/choose

The streams are those of `experiments.dev_streams`, the seeds 100 and 101. The learning rate, 0.2, came from a coarser
search on the same streams (0.01 to 1: lower rates change nothing, higher ones destroy the features). Prints A_T (%) of
every setting on both streams beside frozen prototypes, best mean first, and writes choose.csv beside the cells.
"""

import argparse
import csv
import itertools
import statistics
from dataclasses import replace
from pathlib import Path

from experiments.cells import markdown, percent, read_cells, run_all, run_cell
from experiments.dev_streams import dev_digits, dev_scripts
from ntkcl_jax import RunConfig, preset, with_variants

SEEDS = (100, 101)
STREAMS = {"dev-digits": (dev_digits, "digits"), "dev-scripts": (dev_scripts, "scripts")}
FORMS = ("paper", "reference")
VIEWS = (True, False)
LAMBDA_REG = (0.1, 0.3)
RATE = 0.2


def settings() -> dict[str, tuple]:
    """Name of each setting to (form, pretrained view, λ)."""
    grid = itertools.product(FORMS, VIEWS, LAMBDA_REG)
    return {f"{form}-view{int(view)}-reg{reg:g}": (form, view, reg) for form, view, reg in grid}


def cell_config(name: str) -> RunConfig:
    """Configuration of the cell `STREAM--SETTING`."""
    stream, setting = name.split("--")
    config = preset(STREAMS[stream][1], seeds=SEEDS)
    config = replace(config, data=replace(config.data, source="arrays"))
    if setting == "baselines":
        return replace(config, methods=("prototypes", "joint"))
    form, view, reg = settings()[setting]
    return replace(
        with_variants(replace(config, model=replace(config.model, pretrained_view=view)), all=form),
        objective=replace(with_variants(config, all=form).objective, lambda_reg=reg),
        optimizer=replace(config.optimizer, learning_rate=RATE),
    )


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/choose"), help="folder of the cells")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        arrays = STREAMS[options.cell.split("--")[0]][0]()
        run_cell(options.out / options.cell, cell_config(options.cell), arrays)
        return
    names = [f"{stream}--{setting}" for setting in ["baselines", *settings()] for stream in STREAMS]
    run_all("experiments.choose", names, ["--out", str(options.out)], options.processes)
    cells = read_cells(options.out)
    rows = []
    for setting, method in [("baselines", "prototypes"), ("baselines", "joint"), *((s, "ntkcl") for s in settings())]:
        found = [cells[f"{stream}--{setting}"]["summary"][method]["final_accuracy"] for stream in STREAMS]
        mean = statistics.fmean(entry["mean"] for entry in found)
        rows.append([method if setting == "baselines" else setting, *map(percent, found), f"{100 * mean:.2f}"])
    rows.sort(key=lambda row: -float(row[-1]))
    head = ["setting", *STREAMS, "mean"]
    with open(options.out / "choose.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    print(markdown(head, rows), end="")


if __name__ == "__main__":
    main()
