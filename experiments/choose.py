"""Choose the nano presets' hyper-parameters on streams and seeds that no result is reported on.

    python -m experiments.choose --out runs/choose

The streams are those of `experiments.dev_streams`, the seeds 100 and 101. The learning rate of task 0 (0.2), two epochs
of batches of 16, and λ = 0.1 came from a coarser search on the same streams: rates from 0.01 to 1, λ from 0.001 to 1,
η and υ up to 0.3. Prints A_T (%) of every setting on both streams beside frozen prototypes, best mean first, and writes
choose.csv beside the cells.
"""

import argparse
import csv
import statistics
from dataclasses import replace
from pathlib import Path

from experiments.cells import markdown, percent, read_cells, run_all, run_cell
from experiments.dev_streams import dev_digits, dev_scripts
from ntkcl_jax import RunConfig, preset, with_variants

SEEDS = (100, 101)
STREAMS = {"dev-digits": (dev_digits, "digits"), "dev-scripts": (dev_scripts, "scripts")}
SETTINGS = {  # name: (forms, pretrained view, learning rate of later tasks)
    "paper-late0.02": ("paper", False, 0.02),
    "paper-late0.2": ("paper", False, 0.2),
    "paper-late0": ("paper", False, 0.0),
    "paper-late0.02-view": ("paper", True, 0.02),
    "paper-late0.2-view": ("paper", True, 0.2),
    "reference-late0.02": ("reference", False, 0.02),
    "reference-late0.2-view": ("reference", True, 0.2),
}


def cell_config(name: str) -> RunConfig:
    """Configuration of the cell `STREAM--SETTING`."""
    stream, setting = name.split("--")
    config = preset(STREAMS[stream][1], seeds=SEEDS)
    config = replace(config, data=replace(config.data, source="arrays"))
    if setting == "baselines":
        return replace(config, methods=("prototypes", "joint"))
    form, view, later = SETTINGS[setting]
    config = replace(
        config,
        model=replace(config.model, pretrained_view=view),
        optimizer=replace(config.optimizer, later_learning_rate=later),
    )
    return with_variants(config, all=form)


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
    names = [f"{stream}--{setting}" for setting in ["baselines", *SETTINGS] for stream in STREAMS]
    run_all("experiments.choose", names, ["--out", str(options.out)], options.processes)
    cells = read_cells(options.out)
    rows = []
    for setting, method in [("baselines", "prototypes"), ("baselines", "joint"), *((s, "ntkcl") for s in SETTINGS)]:
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
