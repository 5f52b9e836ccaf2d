"""Run folders of made-up but consistent numbers for tests of the report.

As a script, it writes one: python -m tests.support.reported RUN

Kernels come from random Jacobians, the parts of every squared error from random residuals, so that sums are right.
"""

import base64
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from analysis.store import KernelSpec, KernelStore
from analysis.store.forms import RESULTS_FORMAT, RUN_FORMAT
from analysis.store.study_forms import STUDY_FORMAT
from analysis.studies import summary
from ntkcl_jax.training.budget import packed
from ntkcl_jax.training.metrics import TaskEvaluation, aggregate, summarise
from tests.support.stored import HEALTH

K, P = 3, 40
TEST_IMAGES = 2000
"""Of a task: enough for a difference of a few points to be told from chance."""
VERSIONS = {"jax": "0.12", "python": "3.12"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def config(tasks: int, seeds: Sequence[int], class_names: Sequence[str], preset: str) -> dict[str, Any]:
    scenario = {"class_order": list(range(2 * tasks))[::-1], "task_sizes": [2] * tasks}
    return {
        "format": RUN_FORMAT, "config": {"preset": preset, "seeds": list(seeds), "methods": ["ntkcl", "sequential"]},
        "weights": {"name": "nano", "sha256": "9a43dfbb"}, "versions": VERSIONS, "machine": "a machine",
        "data": {"fingerprint": "eb6c", "class_names": list(class_names), "train_images": 80,
                 "test_images": TEST_IMAGES * tasks},
        "scenarios": {str(seed): scenario for seed in seeds}, "git": {"commit": "c6e5204e", "modified": True},
        "command": ["ntkcl", "train", preset],
        "devices": {"data": 1, "model": 1, "kind": "cpu", "processes": 1},
    }  # fmt: skip


def flags(right: int) -> str:
    """Answers to a task's test images, the first ones right."""
    return packed(np.arange(TEST_IMAGES) < right)


def results(tasks: int, seeds: Sequence[int], names: Sequence[str], preset: str) -> dict[str, Any]:
    def of_seed(seed: int, loss: int) -> dict[str, Any]:
        part = TEST_IMAGES // 20
        right = [tuple(part * max(20 - loss * (t - k) - seed, 0) for k in range(t + 1)) for t in range(tasks)]
        evaluations = [
            TaskEvaluation(
                task=t, images=(TEST_IMAGES,) * (t + 1), correct=correct, correct_task=TEST_IMAGES * (t + 1),
                right=[flags(n) for n in correct],
                # Of what a later task took, a twentieth of the images was lost among the old classes already
                right_among_old=[flags(max(n, right[t - 1][k] - part)) for k, n in enumerate(correct[:-1])],
            )
            for t, correct in enumerate(right)
        ]  # fmt: skip
        return summarise(evaluations)

    every = {str(seed): {"ntkcl": of_seed(seed, 1), "sequential": of_seed(seed, 4)} for seed in seeds}
    methods = {name: aggregate([part[name] for part in every.values()]) for name in ("ntkcl", "sequential")}
    return {"format": RESULTS_FORMAT, "preset": preset, "task_names": list(names), "seeds": every, "summary": methods}


def kernels(run: Path, tasks: int, seed: int, images: int, checkpoints: Sequence[int]) -> dict[str, Any]:
    """Store a seed's kernels and the record of their probes; returns its part of the summary."""
    rng = np.random.default_rng(seed)
    n, offsets = tasks * images, tuple(range(0, tasks * images + 1, images))
    labels = np.array([2 * t + i % 2 for t in range(tasks) for i in range(images)])
    base = rng.standard_normal((2 * tasks, K, P))[labels] + 0.7 * rng.standard_normal((n, K, P))
    made = {}
    for t in range(tasks):
        rows = labels[offsets[t] : offsets[t + 1]].tolist()
        write(
            run / f"analysis/probes/seed{seed}/test-task{t}-{images}.json",
            {"labels": rows, "positions": list(range(images))[::-1]},
        )
    for c in checkpoints:
        j = base + 0.1 * c * rng.standard_normal(base.shape)
        parts = {"channel": j * (np.arange(P) < 30), "fusion": j * (np.arange(P) >= 30)}
        full = {name: np.einsum("iap,jbp->ijab", part, part) for name, part in {"whole": j, **parts}.items()}
        spec = KernelSpec(
            seed=seed, checkpoint=c, outputs="full", head="scores", n=n, k=K, tile=n, groups=tuple(parts),
            tasks=tuple(range(tasks)), offsets=offsets, parameters="5e0c", probes="9a1f", way="tiled", precision="f",
        )  # fmt: skip
        work = KernelStore(run).open(spec)
        work.put(0, 0, full)
        work.finish(HEALTH, seconds=1.0)
        made[c] = summary.Checkpoint(full["whole"], offsets, labels, P, False, {name: full[name] for name in parts})
    pairs = itertools.pairwise([None, *made.values()])
    return {
        "tasks": list(range(tasks)),
        "checkpoints": {str(c): summary.summarise(now, old) for c, (old, now) in zip(made, pairs, strict=True)},
    }


def budget(rng: np.random.Generator, t: int, tasks: int, n: int) -> dict[str, Any]:
    """A residual and the drifts that later tasks add to it, and the exact parts of its square."""
    own = 0.3 * rng.standard_normal(n * K)
    drifts = {k: 0.25 * rng.standard_normal(n * K) + 0.1 * own for k in range(t + 1, tasks)}
    parts = {
        "task_specific": float(own @ own) / n,
        "interplay": {str(k): float(d @ d) / n for k, d in drifts.items()},
        "cross": {
            "own": {str(k): float(-2 * own @ d) / n for k, d in drifts.items()},
            "between": {f"{k},{m}": float(2 * drifts[k] @ drifts[m]) / n for k, m in itertools.combinations(drifts, 2)},
        },
    }
    end = own - sum(drifts.values())
    total = float(end @ end) / n
    losses = {"train_loss": total / 2, "test_loss": total / 1.6, "learned_test_loss": parts["task_specific"] / 1.5}
    return {**parts, "total": total, "direct": total, "forgetting": total - parts["task_specific"], **losses}


def gaps(tasks: int, seeds: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    def gap(seed: int, t: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, t])
        own = budget(rng, t, tasks, 20)
        sizes = [5, 10, 20, 40]
        truth = 0.5 * np.array(sizes) ** -0.6 + 0.05
        curve = {
            name: (truth * (1 + 0.08 * rng.standard_normal(4))).tolist()
            for name in ("finite_population", "eigenlearning", "leave_one_out", "measured")
        }
        return {
            "task": t, "images": 20, "outputs": K, "ridge": 0.3, "ridge_fraction": 0.1, **own, "trace": 12.0,
            "radius": {"exact": 0.5, "quadratic": 0.7, "a_priori": 1.2, "to_end": 0.9}, "complexity": 0.09 * (t + 1),
            "bound": {"value": 2.5 + t, "empirical": 0.1, "complexity": 0.4, "confidence": 0.9, "radius": 0.5,
                      "theorem": t == 0, "note": "made up"},
            "test_images": 20, "loo": own["learned_test_loss"] * 1.1, "gcv": own["learned_test_loss"] * 0.8,
            "learning_curve": {"sizes": sizes, **curve, "measured_std": [0.05, 0.03, 0.02, 0.01],
                               "network": {"images": 200, "loss": 0.05}},
            "network": budget(rng, t, tasks, 20),
            "laziness": {"relative_error": 0.2, "cosine": 0.97, "drift_norm": 0.1},
        }  # fmt: skip

    return {
        "format": STUDY_FORMAT, "per_task": 20, "ridge_fraction": None, "confidence": 0.05, "clip": 1.0,
        "versions": VERSIONS, "commit": "c6e5204e",
        "seeds": {str(seed): {"tasks": list(range(tasks)), "names": list(names),
                              "by_task": [gap(seed, t) for t in range(tasks)]} for seed in seeds},
    }  # fmt: skip


def forecast(tasks: int, seeds: Sequence[int], names: Sequence[str], new: str | None = None) -> dict[str, Any]:
    def pair(rng: np.random.Generator, old: int, k: int | str) -> dict[str, Any]:
        measured = float(rng.gamma(1.5, 0.01))
        return {
            "old": old, "new": k, "images": 20, "predicted_norm": 0.1,
            "predicted_loss_change": measured * float(rng.normal(0.9, 0.15)), "ntk_drift": 0.05,
            "cosine": None if new else 0.97, "relative_error": None if new else float(rng.uniform(0.1, 0.4)),
            "measured_norm": None if new else 0.1, "measured_loss_change": None if new else measured,
            "true_step": {"cosine": 0.98, "relative_error": 0.1},
            "trapezoid": {"cosine": 0.99, "relative_error": 0.05},
            "concentration": {"modes": {"90": 3, "95": 5, "99": 9},
                              "top": {"modes": 5, "energy": 0.9, "baseline": 0.4}},
        }  # fmt: skip

    def of_seed(seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        pairs = [(t, new) for t in range(tasks)] if new else itertools.combinations(range(tasks), 2)
        return {"tasks": list(range(tasks)), "names": list(names), "pairs": [pair(rng, old, k) for old, k in pairs]}

    return {
        "format": STUDY_FORMAT, "method": "ntkcl", "procedure": "run", "per_task": 20,
        "versions": VERSIONS, "commit": "c6e5204e",
        "seeds": {str(seed): of_seed(seed) for seed in seeds}, "loss_change_correlation": None if new else 0.9,
    }  # fmt: skip


def what_if() -> dict[str, Any]:
    """Rates from 0 to twice the run's own, for half, all and twice its epochs."""
    rates, epochs = [0.0, 0.1, 0.2, 0.4], [1, 2, 4]
    far = np.outer(rates, epochs)
    # Old tasks lose, the new one gains until it has learned all; the last point diverges
    points = {"old_accuracy": 0.95 - 0.1 * far, "new_accuracy": 0.8 + 0.15 * np.tanh(5 * far),
              "old_loss_change": 0.02 * far, "new_loss_change": -0.1 * np.tanh(5 * far)}  # fmt: skip
    points["accuracy"] = (2 * points["old_accuracy"] + points["new_accuracy"]) / 3
    own = {name: float(values[2, 1]) for name, values in points.items()}
    spared = {name: 0.9 * values + 0.1 * values[0, 0] for name, values in points.items()}
    plain = [{name: values.tolist() for name, values in part.items()} for part in (points, spared)]
    for part in plain:
        for values in part.values():
            values[-1][-1] = None
    best = float(points["accuracy"].max())
    at = np.unravel_index(points["accuracy"].argmax(), far.shape)
    return {
        "format": STUDY_FORMAT, "method": "ntkcl", "procedure": "rescaled", "per_task": 20, "directions": 20,
        "rates": rates, "epochs": epochs, "own": {"rate": 0.2, "epochs": 2}, "seeds": {},
        "mean": {"points": plain[0], "spared": plain[1], "measured": own}, "reliable": True,
        "best": {"rate": rates[at[0]], "epochs": epochs[at[1]], "accuracy": best, "own_accuracy": own["accuracy"],
                 "gain": best - own["accuracy"], "error": 0.001, "told": True},
        "end": {name: [0.95, 0.94, 0.92, None] for name in ("accuracy", "old_accuracy", "new_accuracy")},
        "best_course": {"rate": 0.0, "epochs": 2, "accuracy": 0.95, "own_accuracy": 0.92, "gain": 0.03, "error": 0.01,
                        "told": True},
        "first_order_error": 0.2, "kernel_drift": 0.05, "versions": VERSIONS, "commit": "c6e5204e",
    }  # fmt: skip


def influence(tasks: int, seeds: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Two images of each later task that were made worse; parts that add up."""
    rng = np.random.default_rng(11)

    def pixels(side: int = 4) -> str:
        return base64.b64encode(rng.integers(0, 256, 3 * side * side, np.uint8).tobytes()).decode()

    def pushing(sign: int, k: int, label: int) -> dict[str, Any]:
        return {"position": k, "label": label, "influence": sign * 0.03 / (k + 1), "pixels": pixels()}

    def of_task(t: int) -> dict[str, Any]:
        by_image = [0.004] * 5 + [0.0] * 35
        left = {"left": 0.004, "images": [{"task": 0, "position": 3, "label": 1}]}
        return {
            "task": t, "images": 40, "old_images": 20 * t, "forgotten": 2, "learned": 1, "loss_change": 0.02 + 0.01 * t,
            "error": 0.003, "forecast": 0.03, "by_images": 0.02, "by_mean": -0.002, "rest": 0.012,
            "groups": {"channel": 0.03, "patch": 0.002}, "correlation": 0.9, "by_image": by_image,
            "by_class": {"old": list(range(2 * t)), "new": [2 * t, 2 * t + 1],
                         "interplay": rng.uniform(0, 0.1, (2 * t, 2)).tolist(),
                         "loss_change": rng.normal(0, 0.01, (2 * t, 2)).tolist()},
            "coreset": {"candidates": 40, "forecast": 0.03, "influence": left, "cholesky": left,
                        "random": {"mean": 0.01, "deviation": 0.002}},
        }  # fmt: skip

    def harmed(t: int, k: int) -> dict[str, Any]:
        return {
            "task": t, "old": t - 1, "position": k, "label": 2 * t - 1, "named": 2 * t, "forgotten": k == 0,
            "loss_change": 0.3 - 0.1 * k, "forecast": 0.25, "by_images": 0.2, "pixels": pixels(),
            "harmful": [pushing(1, j, 2 * t) for j in range(5)],
            "helpful": [pushing(-1, j, 2 * t + 1) for j in range(2)],
        }  # fmt: skip

    later = range(1, tasks)
    seed = {
        "tasks": list(range(tasks)), "names": list(names), "by_task": [of_task(t) for t in later],
        "harmed": [harmed(t, k) for t in later for k in range(2)],
    }  # fmt: skip
    return {
        "format": STUDY_FORMAT, "method": "ntkcl", "procedure": "run", "per_task": 20, "coreset_size": 20,
        "seeds": {str(number): seed for number in seeds}, "versions": VERSIONS, "commit": "c6e5204e",
    }  # fmt: skip


def made_run(
    run: Path, *, tasks: int = 3, seeds: Sequence[int] = (0,), names: Sequence[str] = (), preset: str = "digits",
    class_names: Sequence[str] = (), images: int = 4, checkpoints: Sequence[int] | None = None,
) -> Path:  # fmt: skip
    """Write a run folder with everything that the report reads."""
    names = names or [f"{2 * t} {2 * t + 1}" for t in range(tasks)]
    run.mkdir(parents=True)
    write(run / "config.json", config(tasks, seeds, class_names or [str(c) for c in range(2 * tasks)], preset))
    write(run / "results.json", results(tasks, seeds, names, preset))
    shown = range(tasks + 1) if checkpoints is None else checkpoints
    kind = {
        "outputs": "full",
        "head": "scores",
        "per_task": images,
        "side": "test",
        "versions": VERSIONS,
        "commit": None,
    }
    stored = {str(seed): kernels(run, tasks, seed, images, shown) for seed in seeds}
    write(run / "analysis/summary.json", {**kind, "seeds": stored})
    write(run / "analysis/gaps.json", gaps(tasks, seeds, names))
    write(run / "analysis/forecast.json", forecast(tasks, seeds, names))
    write(run / "analysis/what_if.json", what_if())
    if tasks > 1:
        write(run / "analysis/influence.json", influence(tasks, seeds, names))
    return run


def evaluation(rows: list[list[int]], t: int, images: int) -> TaskEvaluation:
    """After task t; of what it took, the greater half was lost among the old classes already."""
    now = rows[t]
    between = [max(n, n + (rows[t - 1][k] - n) // 2) for k, n in enumerate(now[:-1])]
    right, among_old = ([packed(np.arange(images) < n) for n in counts] for counts in (now, between))
    return TaskEvaluation(t, (images,) * (t + 1), tuple(now), sum(now), right=right, right_among_old=among_old)


def of_counts(right: list[list[int]], seeds: int = 1, images: int = 20) -> dict[str, Any]:
    """A method's summary of equal seeds, from right answers: the greater half of each loss is drift."""
    made = summarise([evaluation(right, t, images) for t in range(len(right))])
    return aggregate([made] * seeds)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change what a JSON file holds."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


class Page(HTMLParser):
    """Tags, texts, scripts and images of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attrs = self.tags[-1] if self.tags else ("", {})
        if self.cdata_elem == "script":
            self.scripts.append((attrs.get("type"), data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def program(self) -> str:
        """The page's own script, the only one that may run."""
        (text,) = [text for kind, text in self.scripts if kind is None]
        return text

    @property
    def data(self) -> list[Any]:
        """What the script reads."""
        return [json.loads(text) for kind, text in self.scripts if kind == "application/json"]

    @property
    def sources(self) -> list[str]:
        return [str(attrs["src"]) for tag, attrs in self.tags if tag == "img"]

    @property
    def pictures(self) -> list[bytes]:
        return [unquote_to_bytes(source.removeprefix("data:image/svg+xml,")) for source in self.sources]


if __name__ == "__main__":
    made_run(Path(sys.argv[1]))
