"""Predicted against measured test error of kernel ridge regression on real digits: the table of docs/theory.md.

    python -m experiments.theory_curves --docs docs/theory.md        # two minutes on two cores

Half of the images are the reference that predictions are made from, the other half the pool that P training images are
drawn from; the measured error is that on the rest of the pool. Ridges are fractions of the reference's mean diagonal,
targets one-hot, errors mean squared errors summed over ten outputs. Writes theory_curves.json (every point, versions,
commit) and theory_curves.csv (the table) to --out, and with --docs the table into that page and the figure beside it.
"""

import argparse
import csv
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.spatial.distance import cdist, pdist

from analysis.measures import absolute_ridge
from analysis.theory.learning_curves import population_modes
from analysis.theory.modes import modes
from analysis.theory.subsets import SubsetErrors, subset_gcv, subset_leave_one_out, subset_rest_errors
from analysis.theory.sweeps import sample_size_sweep
from experiments.commands import command_line, write_into
from experiments.sweep.tables import markdown
from ntkcl_jax.plots.style import COLOURS, GREY, save, style

FRACTIONS = (1e-4, 1e-2, 1.0)
SEED = 0
WIDTH, NTK_OUTPUTS = 256, 2
"""Hidden units and outputs of the small network."""
NAME = "experiments.theory_curves"
PREDICTORS = {
    "eigenlearning": "eigen-learning, spectrum of the reference",
    "finite_population": "finite population, spectrum of the reference",
    "leave_one_out": "leave-one-out on P-subsets of the reference",
    "gcv": "GCV on P-subsets of the reference",
    "rest": "learn P of the reference, test on its rest",
    "own_leave_one_out": "leave-one-out on the training set itself",
    "own_gcv": "GCV on the training set itself",
}


@dataclass(frozen=True)
class Data:
    """Images with labels, which kernels of them are looked at, and at which training-set sizes."""

    images: np.ndarray
    labels: Int[np.ndarray, "n"]
    kernels: dict[str, Callable[[np.ndarray], Float[np.ndarray, "n n"]]]
    sizes: tuple[int, ...]
    draws: int


def rbf(images: np.ndarray) -> Float[np.ndarray, "n n"]:
    """exp(-d² / median d²) of pixels."""
    x = images.reshape(len(images), -1) / images.max()
    # Of the first thousand images only: pairs grow with the square
    return np.exp(-cdist(x, x, "sqeuclidean") / np.median(pdist(x[:1000], "sqeuclidean")))


def linear(images: np.ndarray) -> Float[np.ndarray, "n n"]:
    """Inner products of pixels."""
    x = images.reshape(len(images), -1) / images.max()
    return x @ x.T


def network(images: np.ndarray) -> Float[np.ndarray, "n n"]:
    """Empirical NTK of a two-layer tanh network before training, mean over its outputs."""
    import jax.numpy as jnp

    from analysis.kernels.empirical import empirical_ntk

    x = (images.reshape(len(images), -1) / images.max()).astype(np.float32)
    rng = np.random.default_rng(SEED)
    params = [
        rng.normal(0, scale, shape).astype(np.float32)
        for scale, shape in ((2 / x.shape[1] ** 0.5, (x.shape[1], WIDTH)), (WIDTH**-0.5, (WIDTH, NTK_OUTPUTS)))
    ]
    return empirical_ntk(lambda w, x: jnp.tanh(x @ w[0]) @ w[1], params, x, outputs="trace")


def shipped_head(images: np.ndarray) -> Float[np.ndarray, "n n"]:
    """NTK of a linear head with bias on the shipped, frozen vision transformer: 1 + inner products of class tokens."""
    import jax

    from experiments.pretrain.train import as_pixels, backbone
    from ntkcl_jax.config import BackboneConfig
    from ntkcl_jax.weights import load_backbone

    config = BackboneConfig()
    _, features = backbone(config, SEED)
    params = {n.removeprefix("backbone/"): v for n, v in load_backbone("nano", config)[0].items()}
    run = jax.jit(lambda x: features(params, x, None))
    # In batches of one size, which compile once
    tokens = np.concatenate([np.asarray(run(as_pixels(images[i : i + 250]))) for i in range(0, len(images), 250)])
    tokens = tokens.astype(np.float64)
    # The bias is one more feature, always 1
    return 1 + tokens @ tokens.T


def datasets() -> dict[str, Data]:
    """scikit-learn's 1,797 digits (8 x 8), and the 5,000 MNIST digits (28 x 28) of the `digits` stream."""
    from sklearn.datasets import load_digits

    from ntkcl_jax.data.sources.digits import digits

    small = load_digits()
    train, train_labels, test, test_labels, _ = digits()
    kernels = {"RBF of pixels": rbf, "linear in pixels": linear, "NTK of a small network": network}
    large = {"RBF of pixels": rbf, "NTK of a head on the shipped ViT": shipped_head}
    return {
        "digits": Data(small.images, small.target, kernels, (10, 20, 50, 100, 200, 400, 600), 16),
        "mnist5k": Data(
            np.concatenate([train, test]), np.concatenate([train_labels, test_labels]), large,
            (10, 30, 100, 300, 1000, 2000), 5,
        ),
    }  # fmt: skip


def points(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], sizes: Sequence[int], draws: int) -> Any:
    """Measured and predicted errors of one kernel, one entry for each ridge and size."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    half = len(labels) // 2
    targets = np.eye(labels.max() + 1)[labels]
    reference, pool = order[:half], order[half:]
    decomposed = modes(kernel[np.ix_(reference, reference)])
    spectrum = population_modes(decomposed, targets[reference])
    cases = []
    for fraction in FRACTIONS:
        ridge = absolute_ridge(decomposed.values, fraction)

        # The default binds this round's ridge
        def over(measure: Callable[..., SubsetErrors], chosen: np.ndarray, ridge: float = ridge) -> SubsetErrors:
            return measure(kernel[np.ix_(chosen, chosen)], targets[chosen], sizes, draws, SEED, ridge)

        measured = over(subset_rest_errors, pool)
        curves = sample_size_sweep(*spectrum, sizes, ridge)
        predicted = {
            "eigenlearning": curves.eigenlearning,
            "finite_population": curves.finite_population,
            "leave_one_out": over(subset_leave_one_out, reference).mean,
            "gcv": over(subset_gcv, reference).mean,
            "rest": over(subset_rest_errors, reference).mean,
            # Subsets depend on seed, size and draw alone: these are the very training sets that are measured
            "own_leave_one_out": over(subset_leave_one_out, pool).mean,
            "own_gcv": over(subset_gcv, pool).mean,
        }
        for i, size in enumerate(sizes):
            cases.append(
                {
                    "ridge_fraction": fraction,
                    "ridge": ridge,
                    "samples": size,
                    "reference": half,
                    "measured": float(measured.mean[i]),
                    "measured_std": float(measured.std[i]),
                    "predicted": {name: float(values[i]) for name, values in predicted.items()},
                }
            )
    return cases


def table(cases: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Median / largest |relative error| in percent: predictors against data sets and ridges."""
    columns = [(data, f) for data in dict.fromkeys(case["data"] for case in cases) for f in (None, *FRACTIONS)]
    head = ["predictor", *(f"{data}, " + ("all λ" if f is None else f"λ = {f:g}") for data, f in columns)]
    rows = []
    for name, title in PREDICTORS.items():
        row = [title]
        for data, fraction in columns:
            errors = [
                100 * abs(case["predicted"][name] / case["measured"] - 1)
                for case in cases
                if case["data"] == data and fraction in (None, case["ridge_fraction"])
            ]
            row.append(f"{np.median(errors):.1f} / {max(errors):.1f}")
        rows.append(row)
    return head, rows


@style()
def draw(cases: Sequence[dict[str, Any]]) -> Figure:
    """Lines predicted from the reference, points measured; a panel for each kernel, a colour for each ridge."""
    panels = list(dict.fromkeys((case["data"], case["kernel"]) for case in cases))
    lines = {"leave_one_out": "-", "finite_population": "--", "eigenlearning": ":"}
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for panel, (data, kernel) in zip(axes, panels, strict=False):
        for colour, fraction in zip(COLOURS, FRACTIONS, strict=False):
            own = [c for c in cases if (c["data"], c["kernel"], c["ridge_fraction"]) == (data, kernel, fraction)]
            sizes = [case["samples"] for case in own]
            panel.errorbar(
                sizes, [case["measured"] for case in own], [case["measured_std"] for case in own],
                fmt="o", ms=4, capsize=2, color=colour, zorder=3,
            )  # fmt: skip
            for name, dashes in lines.items():
                panel.plot(sizes, [case["predicted"][name] for case in own], dashes, color=colour, lw=1.4)
        panel.set(xscale="log", yscale="log", xlabel="training images P", title=f"{data}: {kernel}")
        panel.title.set_fontsize(10)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    for panel in axes[::3]:
        panel.set_ylabel("test error (squared, sum of 10 outputs)")
    for panel in axes[len(panels) :]:
        # What panels are left over hold the legend
        panel.set_axis_off()
        for colour, fraction in zip(COLOURS, FRACTIONS, strict=False):
            panel.plot([], [], color=colour, lw=4, label=f"λ = {fraction:g} × mean diagonal")
        panel.plot([], [], "o", color=GREY, label="measured, ± std over training sets")
        for name, dashes in lines.items():
            panel.plot([], [], dashes, color=GREY, label="predicted: " + name.replace("_", " "))
        panel.legend(loc="center", frameon=False)
    return figure


def main() -> None:
    """Measure, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("experiments/results"), help="where JSON and CSV go")
    parser.add_argument("--docs", type=Path, help="page to write the table into; the figure goes to images/ beside it")
    parser.add_argument("--figure-only", action="store_true", help="table and figure again from theory_curves.json")
    options = parser.parse_args()
    file = options.out / "theory_curves.json"
    if options.figure_only:
        cases = json.loads(file.read_text())["cases"]
    else:
        from ntkcl_jax.runs.folder import provenance

        start, facts, cases = time.perf_counter(), provenance(), []
        for name, data in datasets().items():
            for title, kernel in data.kernels.items():
                found = points(kernel(data.images), data.labels, data.sizes, data.draws)
                cases += [{"data": name, "kernel": title, **case} for case in found]
                print(f"{time.perf_counter() - start:6.1f} s  {name}: {title}", flush=True)
        command = shlex.split(command_line(sys.argv))
        record = {"command": command, "commit": facts["git"], "versions": facts["versions"], "seed": SEED}
        file.write_text(json.dumps({**record, "cases": cases}, indent=1) + "\n")
    head, rows = table(cases)
    with open(options.out / "theory_curves.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    text = markdown(head, rows)
    if options.docs:
        write_into(options.docs, text, NAME)
        save(draw(cases), options.docs.parent / "images" / "learning_curves.png")
    print(text, end="")


if __name__ == "__main__":
    main()
