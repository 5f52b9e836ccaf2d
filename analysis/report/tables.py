"""The numbers behind the report's figures, as rows: shown where they are few, and written as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.report.facts import by_method, kernel_facts
from analysis.report.reading import RunFiles, clean
from analysis.report.schema import CURVES

Value = str | float | None
Rows = Sequence[Sequence[Value]]
SHOWN_ROWS = 12
"""Rows up to which a table is shown open."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers with names.

    Attributes:
        name: of the CSV file, without ending.
        title: for people.
        header: names of the columns.
        rows: texts, numbers, or None where there is none.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Rows

    def csv(self) -> bytes:
        r"""The table as a CSV file: numbers unrounded, nothing where there is none.

        A text that a spreadsheet would take for a formula gets an apostrophe.

        Example:
            >>> Table("t", "", ["task", "loss"], [["=1+1", 0.5], ["a", None]]).csv()
            b"task,loss\r\n'=1+1,0.5\r\na,\r\n"
        """
        memory = io.StringIO(newline="")
        writer = csv.writer(memory)
        writer.writerow(self.header)
        writer.writerows([[_safe(value) for value in row] for row in self.rows])
        return memory.getvalue().encode()


def _safe(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def cell(value: float | None) -> str:
    """A number in a table that is shown.

    Example:
        >>> cell(3), cell(0.123456), cell(None)
        ('3', '0.123', '–')
    """
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def headline(files: RunFiles) -> Table:
    """The methods' main accuracies, mean over seeds."""
    rows: list[Sequence[Value]] = []
    for method, part in (files.results or {})["summary"].items():
        names = ("final_accuracy", "average_incremental_accuracy", "forgetting", "backward_transfer")
        values = [part[name]["mean"] for name in names]
        rows.append([clean(method), *(None if value is None else round(100 * value, 2) for value in values)])
    header = ["method", "final accuracy", "average over tasks learned", "forgetting", "backward transfer"]
    return Table("accuracy_summary", "In percent of test images, mean over seeds", header, rows)


def accuracy(files: RunFiles) -> Table:
    """The accuracy matrices, mean over seeds, one number a row."""
    rows: list[Sequence[Value]] = [
        [clean(method), t + 1, k + 1, value]
        for method, part in (files.results or {})["summary"].items()
        for t, line in enumerate(part["accuracy_matrix"]["mean"])
        for k, value in enumerate(line[: t + 1])
    ]
    return Table("accuracy_matrix", "", ["method", "after_task", "test_images_of_task", "accuracy"], rows)


def methods(files: RunFiles) -> Table:
    """What the kernels of every method say, means over seeds, tasks and pairs of tasks; see `facts.KernelFacts`."""
    rows: list[Sequence[Value]] = []
    for method, summary in by_method(files).items():
        facts = kernel_facts(summary)
        part = (files.results or {"summary": {}})["summary"].get(method)
        right = [round(100 * part[name]["mean"], 2) if part else None for name in ("final_accuracy", "forgetting")]
        rows.append([method, *right, facts.first, facts.last, facts.unrelated, facts.drift, facts.dimension,
                     facts.alignment, summary["outputs"], summary["per_task"]])  # fmt: skip
    header = ["method", "final accuracy, %", "forgetting, points", "inter/intra kernel, first", "last", "if unrelated",
              "drift", "effective dimension", "target alignment", "outputs", "probe images of a task"]  # fmt: skip
    return Table("methods", "Kernels of each method's own trainable parameters", header, rows)


def of_summary(summary: Mapping[str, Any]) -> list[Table]:
    """Ratios, spectra, per-task figures and shares of every seed and checkpoint; tasks count from 1."""
    ratios, spectra, lines, shares = [], [], [], []
    for seed, part in summary["seeds"].items():
        tasks = [t + 1 for t in part["tasks"]]
        for number, figures in part["checkpoints"].items():
            at = [int(seed), int(number)]
            for i, t in enumerate(tasks):
                lines.append([*at, t, *(figures[name][i] for name in LINE_COLUMNS)])
                spectra += [[*at, t, j + 1, value] for j, value in enumerate(figures["spectrum"][i])]
                shares += [[*at, name, t, group["share"][i]] for name, group in figures["groups"].items()]
                for j, k in enumerate(tasks):
                    ratios.append([*at, t, k, *(figures[name][i][j] for name in RATIO_COLUMNS)])
    at = ["seed", "checkpoint"]
    return [
        Table("ratios", "", [*at, "task", "other_task", *RATIO_COLUMNS], ratios),
        Table("spectra", "", [*at, "task", "index", "eigenvalue"], spectra),
        Table("per_task", "", [*at, "task", *LINE_COLUMNS], lines),
        Table("shares", "", [*at, "parameters", "task", "share_of_trace"], shares),
    ]


RATIO_COLUMNS = ("inter_intra_ratio", "unrelated_ratio", "same_task_ratio")
LINE_COLUMNS = ("effective_dimension", "target_alignment", "drift")
BUDGET_COLUMNS = ("task_specific", "total", "direct", "forgetting", "train_loss", "test_loss", "learned_test_loss")


def of_gaps(gaps: Mapping[str, Any]) -> list[Table]:
    """Budgets, their parts by later task, and learning curves of every seed; tasks count from 1."""
    budgets, parts, curves = [], [], []
    for seed, part in gaps["seeds"].items():
        for title, gap in zip(part["names"], part["by_task"], strict=True):
            task = gap["task"] + 1
            for learner, budget in (("theory", gap), ("network", gap["network"])):
                at = [int(seed), learner, task]
                budgets.append([*at, clean(title), *(budget[name] for name in BUDGET_COLUMNS)])
                parts += [[*at, "interplay", str(int(k) + 1), v] for k, v in budget["interplay"].items()]
                parts += [[*at, "cross own", str(int(k) + 1), v] for k, v in budget["cross"]["own"].items()]
                for pair, value in budget["cross"]["between"].items():
                    parts.append([*at, "cross between", " and ".join(str(int(k) + 1) for k in pair.split(",")), value])
            curve = gap["learning_curve"]
            for i, size in enumerate(curve["sizes"]):
                curves.append([int(seed), task, size, *(curve[name][i] for name in CURVES)])
    at = ["seed", "learner", "task"]
    return [
        Table("gaps", "", [*at, "name", *BUDGET_COLUMNS], budgets),
        Table("gap_parts", "", [*at, "part", "later_tasks", "squared_error"], parts),
        Table("learning_curves", "", ["seed", "task", "training_images", *CURVES], curves),
        bounds(gaps),
    ]


def bounds(gaps: Mapping[str, Any]) -> Table:
    """Losses of theory's learner beside their estimates."""
    several = len(gaps["seeds"]) > 1
    header = ["task", "name", "loss after learning", "leave-one-out", "GCV", "loss at the end", "bound", "complexity",
              "is the bound a theorem?"]  # fmt: skip
    rows: list[Sequence[Value]] = [
        [*([int(seed)] if several else []), gap["task"] + 1, clean(title), gap["learned_test_loss"], gap["loo"],
         gap["gcv"], gap["test_loss"], gap["bound"]["value"], gap["complexity"],
         "yes" if gap["bound"]["theorem"] else "no"]
        for seed, part in gaps["seeds"].items()
        for title, gap in zip(part["names"], part["by_task"], strict=True)
    ]  # fmt: skip
    title = "Half squared losses on unseen images, measured and estimated"
    return Table("bounds", title, [*(["seed"] if several else []), *header], rows)


PAIR_COLUMNS = {
    "cosine": "cosine of the drift",
    "relative_error": "relative error of the drift",
    "true_step.relative_error": "with the true step",
    "trapezoid.relative_error": "and both ends' Jacobians",
    "predicted_loss_change": "predicted loss change",
    "measured_loss_change": "measured loss change",
    "ntk_drift": "kernel drift",
    "concentration.modes.95": "modes for 95 % of the drift",
}
"""Figures of a pair, by their paths in `forecast.json`."""


def at(pair: Mapping[str, Any], path: str) -> Any:
    """The value at a path, parts joined by dots; None where a part is missing or null.

    Example:
        >>> at({"a": {"b": 1}, "c": None}, "a.b"), at({"c": None}, "c.b")
        (1, None)
    """
    value: Any = pair
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def of_forecast(forecast: Mapping[str, Any], name: str, title: str) -> Table:
    """Every pair of a forecast; tasks count from 1.

    Args:
        forecast: what its file holds.
        name: of the CSV file.
        title: for people.
    """
    several = len(forecast["seeds"]) > 1
    rows: list[Sequence[Value]] = []
    for seed, part in forecast["seeds"].items():
        for pair in part["pairs"]:
            new = pair["new"] + 1 if isinstance(pair["new"], int) else clean(pair["new"])
            rows.append(
                [*([int(seed)] if several else []), pair["old"] + 1, new, *(at(pair, path) for path in PAIR_COLUMNS)]
            )
    header = [*(["seed"] if several else []), "old task", "new task", *PAIR_COLUMNS.values()]
    return Table(name, title, header, rows)
