"""The variants table: `reference`, `paper`, each `paper` part alone, the default, and the baselines, on real streams.

    python -m experiments.variants --out runs/variants                       # both offline streams
    python -m experiments.variants --out runs/variants --omniglot FOLDER     # and Omniglot's 192 characters, 12 x 16

Every row has the presets' hyper-parameters, chosen on other streams and seeds (`experiments.choose`); only the forms of
the named parts differ; `paper` is what the presets use. Writes variants.md, .csv and .png beside the cells.
"""

import argparse
import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.cells import markdown, percent, read_cells, run_all, run_cell
from ntkcl_jax import RunConfig, preset, with_variants
from ntkcl_jax.presets import VARIANT_PARTS

SEEDS = (0, 1, 2, 3, 4)
REPORT = """# Variants and baselines on three streams

Percent, mean ± sample standard deviation over seeds 0 to 4 (n says how many are done): Ā = mean of the accuracies
after each task, A_T = accuracy on all classes at the end, F = forgetting. digits: 5,000 MNIST images, 5 tasks x 2;
scripts: 120 rendered characters, 10 x 12; omniglot: 192 handwritten characters, 12 x 16. Shipped nano backbone
everywhere. `paper` is what the presets use; all NTK-CL rows share the presets' hyper-parameters, chosen on other
streams and seeds (`experiments.choose`). `prototypes`, `sequential` and `joint` use the frozen backbone; the first
doesn't depend on the class order at the end, hence its zero spread.
`paper regularization` alone equals `reference` bit for bit: it only frees the prompts' norm scales, which the
reference initialisation gives no gradient.

{table}
![A_T of every row](variants.png)

Made by `python -m experiments.variants --omniglot FOLDER --report experiments/RESULTS.md`; the Omniglot folder is made
of brendenlake/omniglot (192 characters of six alphabets, 15 training and 5 test images each).

Code: {commits}. Weights (SHA-256): {weights}. Images (SHA-256 over names, labels and content):

{images}
"""
METRICS = ("average_incremental_accuracy", "final_accuracy", "forgetting")
BASELINES = ("prototypes", "sequential", "joint")
VARIANTS: dict[str, dict[str, str]] = {
    "reference": {"all": "reference"},
    "paper": {"all": "paper"},
    **{f"reference + paper {part}": {"all": "reference", part: "paper"} for part in VARIANT_PARTS},
}
"""Row to the forms of its parts."""


def cell_config(name: str, omniglot: str | None) -> RunConfig:
    """Configuration of the cell `STREAM--ROW`."""
    stream, row = name.split("--")
    row = row.replace("_", " ")
    config = preset("characters" if stream == "omniglot" else stream, seeds=SEEDS)
    if stream == "omniglot":
        config = replace(config, data=replace(config.data, path=omniglot or ""))
    if row == "baselines":
        return replace(config, methods=BASELINES)
    return with_variants(config, **VARIANTS[row])


def table(root: Path, streams: list[str]) -> list[list[str]]:
    """Rows: name, Ā, A_T, forgetting and seeds for each stream, mean A_T over streams; dashes where nothing has run."""
    cells = read_cells(root)
    rows = []
    for row in [*VARIANTS, *BASELINES]:
        found = [summary_of(cells, stream, row) for stream in streams]
        line = [row]
        for summary in found:
            line += [percent(summary[metric]) for metric in METRICS] if summary else ["–"] * len(METRICS)
            line.append(str(summary["final_accuracy"]["n"]) if summary else "0")
        finals = [summary["final_accuracy"]["mean"] for summary in found if summary]
        rows.append([*line, f"{100 * statistics.fmean(finals):.2f}" if len(finals) == len(streams) else "–"])
    return rows


def summary_of(cells: dict[str, Any], stream: str, row: str) -> dict[str, Any] | None:
    """Aggregated metrics of a row on a stream, as far as its seeds are done."""
    method, cell = (row, "baselines") if row in BASELINES else ("ntkcl", row)
    results = cells.get(f"{stream}--{cell}".replace(" ", "_"))
    return results["summary"].get(method) if results else None


def draw(root: Path, streams: list[str]) -> None:
    """Dots with error bars: A_T of every row on every stream."""
    from matplotlib.figure import Figure

    cells = read_cells(root)
    names = [*VARIANTS, *BASELINES]
    figure = Figure(figsize=(3.4 * len(streams) + 2.2, 0.34 * len(names) + 1.1), layout="constrained")
    for axes, stream in zip(figure.subplots(1, len(streams), sharey=True, squeeze=False)[0], streams, strict=True):
        for y, row in enumerate(names):
            summary = summary_of(cells, stream, row)
            if summary is None or row == "sequential":  # the latter is far below: it would squeeze the rest together
                continue
            final = summary["final_accuracy"]
            color = "#0072B2" if row == "paper" else "#D55E00" if row in BASELINES else "#555555"
            axes.errorbar(100 * final["mean"], y, xerr=100 * (final["std"] or 0), fmt="o", ms=4, color=color, capsize=2)
        axes.set_title(stream, loc="left", fontsize=10)
        axes.set_xlabel("A_T, % (mean ± std, 5 seeds)", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    figure.savefig(root / "variants.png", dpi=150, metadata={"Software": None})


def report(root: Path, text: str) -> str:
    """The table as a page: what it shows, how it was made, with which code, weights and images."""
    headers = {p.parent.name: json.loads(p.read_text()) for p in sorted(root.glob("*/config.json"))}
    commits = sorted({(h["git"] or {}).get("commit", "unknown") for h in headers.values()})
    weights = sorted({h["weights"]["sha256"] for h in headers.values()})
    images = sorted({f"{name.split('--')[0]} {h['data']['fingerprint']}" for name, h in headers.items()})
    return REPORT.format(
        table=text,
        commits=", ".join(commits),
        weights=", ".join(weights),
        images="\n".join(f"- {line}" for line in images),
    )


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/variants"), help="folder of the cells")
    parser.add_argument("--omniglot", help="folder with train/<class> and test/<class> of Omniglot's 192 characters")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time")
    parser.add_argument("--report", type=Path, help="write the table as a page with its provenance to this file")
    parser.add_argument("--table-only", action="store_true", help="only write the table from finished cells")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(options.out / options.cell, cell_config(options.cell, options.omniglot))
        return
    streams = ["digits", "scripts"] + (["omniglot"] if options.omniglot else [])
    names = [f"{s}--{row}".replace(" ", "_") for row in ["baselines", *VARIANTS] for s in streams]
    if not options.table_only:
        common = ["--out", str(options.out)] + (["--omniglot", options.omniglot] if options.omniglot else [])
        run_all("experiments.variants", names, common, options.processes)
    rows = table(options.out, streams)
    head = ["method", *(f"{s} {m}" for s in streams for m in ("Ā", "A_T", "F", "n")), "mean A_T"]
    (options.out / "variants.md").write_text(markdown(head, rows))
    with open(options.out / "variants.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    draw(options.out, streams)
    if options.report:
        options.report.write_text(report(options.out, markdown(head, rows)))
        shutil.copy(options.out / "variants.png", options.report.with_name("variants.png"))
        shutil.copy(options.out / "variants.csv", options.report.with_name("variants.csv"))
    print(markdown(head, rows), end="")


if __name__ == "__main__":
    main()
