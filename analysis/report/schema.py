"""The forms of the files that the report reads: results.json, summary.json, gaps.json, forecast.json, config.json."""

from collections.abc import Sequence
from typing import Any

from analysis.report.forms import Either, FormError, Keyed, Maybe, Number, Real, check, check_size

DIGITS = r"[0-9]{1,9}"
_OVER_SEEDS = {"mean": Number, "std": Number, "n": int}
_PER_TASK = {"mean": [Number], "std": [Number]}

CONFIG = {
    "format": int,
    "config": {"preset": str, "methods": [str]},
    "weights": Maybe({"name": Maybe(str), "sha256": Maybe(str)}),
    "data": {"class_names": [str], "train_images": Maybe(int), "test_images": Maybe(int), "fingerprint": Maybe(str)},
    "scenarios": Keyed({"class_order": [int], "task_sizes": [int]}, DIGITS),
    "versions": Maybe(Keyed(str)),
    "git": Maybe({"commit": Maybe(str), "modified": Maybe(bool)}),
    "machine": Maybe(str),
    "command": Maybe([str]),
}
METHOD = {
    "accuracy_matrix": {"mean": [[Number]]},
    "accuracy_after_task": _PER_TASK,
    "average_incremental_accuracy": _OVER_SEEDS,
    "final_accuracy": _OVER_SEEDS,
    "forgetting": _OVER_SEEDS,
    "backward_transfer": _OVER_SEEDS,
}
RESULTS = {
    "format": int,
    "preset": Maybe(str),
    "task_names": [str],
    "summary": Keyed(METHOD),
    "seeds": Keyed(Keyed({"forgetting": Number}), DIGITS),
}
MATRICES = ("inter_intra_ratio", "unrelated_ratio", "same_task_ratio")
VECTORS = ("effective_dimension", "target_alignment", "drift")
CHECKPOINT = {
    **{name: [[Number]] for name in MATRICES},
    **{name: [Number] for name in VECTORS},
    "spectrum": [[Real]],
    "groups": Keyed({"share": [Real]}),
}
SUMMARY = {
    "outputs": str,
    "head": str,
    "per_task": int,
    "side": str,
    "versions": Maybe(Keyed(str)),
    "commit": Maybe(str),
    "seeds": Keyed({"tasks": [int], "checkpoints": Keyed(CHECKPOINT, DIGITS)}, DIGITS),
}
_BUDGET = {
    "task_specific": Number,
    "interplay": Keyed(Number, DIGITS),
    "cross": {"own": Keyed(Number, DIGITS), "between": Keyed(Number, rf"{DIGITS},{DIGITS}")},
    "total": Number,
    "direct": Number,
    "forgetting": Number,
    "train_loss": Number,
    "test_loss": Number,
    "learned_test_loss": Number,
}
CURVES = ("finite_population", "eigenlearning", "leave_one_out", "measured", "measured_std")
GAP = {
    **_BUDGET,
    "task": int,
    "images": int,
    "outputs": int,
    "ridge": Number,
    "ridge_fraction": Number,
    "trace": Number,
    "complexity": Number,
    "radius": {"exact": Number},
    "bound": {"value": Number, "theorem": bool, "note": str},
    "loo": Number,
    "gcv": Number,
    "learning_curve": {
        "sizes": [int],
        **{name: [Number] for name in CURVES},
        "network": {"images": int, "loss": Number},
    },
    "network": _BUDGET,
    "laziness": {"relative_error": Number, "cosine": Number, "drift_norm": Number},
}
GAPS = {
    "format": int,
    "per_task": int,
    "clip": Maybe(Real),
    "versions": Maybe(Keyed(str)),
    "commit": Maybe(str),
    "seeds": Keyed({"tasks": [int], "names": [str], "by_task": [GAP]}, DIGITS),
}
PAIR = {
    "old": int,
    "new": Either(int, str),
    "images": int,
    **{name: Number for name in ("cosine", "relative_error", "predicted_norm", "measured_norm")},
    **{name: Number for name in ("predicted_loss_change", "measured_loss_change", "ntk_drift")},
    **{name: Maybe({"relative_error": Number}) for name in ("true_step", "trapezoid")},
    "concentration": Maybe({"modes": {"95": Number}}),
}
FORECAST = {
    "format": int,
    "method": str,
    "procedure": str,
    "per_task": int,
    "versions": Maybe(Keyed(str)),
    "commit": Maybe(str),
    "seeds": Keyed({"tasks": [int], "names": [str], "pairs": [PAIR]}, DIGITS),
    "loss_change_correlation": Maybe(Number),
}
FORMAT = 1


def check_format(value: Any, where: str) -> None:
    """Refuse another version of a file.

    Raises:
        FormError: the file says another format than this code reads.
    """
    if value["format"] != FORMAT:
        raise FormError(f"{where}: format is {value['format']}, expected {FORMAT}")


def check_config(value: Any) -> None:
    """Check `config.json`.

    Raises:
        FormError: what differs.
    """
    check(value, CONFIG, "config.json")
    check_format(value, "config.json")
    classes = len(value["data"]["class_names"])
    for seed, scenario in value["scenarios"].items():
        order, sizes = scenario["class_order"], scenario["task_sizes"]
        if not all(0 <= label < classes for label in order) or min(sizes, default=0) < 0 or sum(sizes) > len(order):
            raise FormError(f"config.json.scenarios.{seed}: classes and task sizes don't fit together")


def check_results(value: Any) -> None:
    """Check `results.json`.

    Raises:
        FormError: what differs.
    """
    check(value, RESULTS, "results.json")
    check_format(value, "results.json")
    if not value["summary"]:
        raise FormError("results.json.summary: expected at least one method")
    for method, part in value["summary"].items():
        where = f"results.json.summary.{method[:40]}"
        tasks = len(part["accuracy_matrix"]["mean"])
        if tasks == 0 or tasks > len(value["task_names"]) or part["final_accuracy"]["mean"] is None:
            raise FormError(f"{where}: expected a row for each task and a final accuracy")
        check_size(part["accuracy_matrix"]["mean"], (tasks, tasks), f"{where}.accuracy_matrix.mean")
        check_rows(part["accuracy_matrix"]["mean"], f"{where}.accuracy_matrix.mean")
        for name in ("mean", "std"):
            check_size(part["accuracy_after_task"][name], (tasks,), f"{where}.accuracy_after_task.{name}")
        if None in part["accuracy_after_task"]["mean"]:
            raise FormError(f"{where}.accuracy_after_task.mean: expected a number after each task")


def check_rows(matrix: Sequence[Sequence[float | None]], where: str) -> None:
    """Check that an accuracy matrix has its numbers on and below the diagonal.

    Raises:
        FormError: a number is absent, or no fraction.
    """
    for t, row in enumerate(matrix):
        for k, value in enumerate(row[: t + 1]):
            if value is None or not 0 <= value <= 1:
                raise FormError(f"{where}[{t}][{k}]: expected a fraction from 0 to 1")


def check_summary(value: Any) -> None:
    """Check `summary.json`.

    Raises:
        FormError: what differs.
    """
    check(value, SUMMARY, "summary.json")
    if not value["seeds"]:
        raise FormError("summary.json.seeds: expected at least one seed")
    if value["side"] not in ("train", "test"):
        raise FormError("summary.json.side: expected train or test")
    for seed, part in value["seeds"].items():
        count = len(part["tasks"])
        if not count or not part["checkpoints"]:
            raise FormError(f"summary.json.seeds.{seed}: expected at least one task and one checkpoint")
        groups = set(next(iter(part["checkpoints"].values()))["groups"])
        for number, figures in part["checkpoints"].items():
            where = f"summary.json.seeds.{seed}.checkpoints.{number}"
            for name in MATRICES:
                check_size(figures[name], (count, count), f"{where}.{name}")
            for name in (*VECTORS, "spectrum"):
                check_size(figures[name], (count,), f"{where}.{name}")
            if set(figures["groups"]) != groups:
                raise FormError(f"{where}.groups: expected the same groups at every checkpoint")
            for group in figures["groups"].values():
                check_size(group["share"], (count,), f"{where}.groups")


def check_gaps(value: Any) -> None:
    """Check `gaps.json`.

    Raises:
        FormError: what differs.
    """
    check(value, GAPS, "gaps.json")
    check_format(value, "gaps.json")
    if not value["seeds"]:
        raise FormError("gaps.json.seeds: expected at least one seed")
    for seed, part in value["seeds"].items():
        where = f"gaps.json.seeds.{seed}"
        check_size(part["names"], (len(part["tasks"]),), f"{where}.names")
        if not part["tasks"] or [gap["task"] for gap in part["by_task"]] != part["tasks"]:
            raise FormError(f"{where}.by_task: expected the tasks in the order of 'tasks'")
        for t, gap in enumerate(part["by_task"]):
            curve = gap["learning_curve"]
            if min(curve["sizes"], default=1) < 1 or curve["network"]["images"] < 1:
                raise FormError(f"{where}.by_task[{t}].learning_curve: expected sizes of at least 1")
            for name in CURVES:
                check_size(curve[name], (len(curve["sizes"]),), f"{where}.by_task[{t}].learning_curve.{name}")


def check_forecast(value: Any, name: str) -> None:
    """Check `forecast.json` or one for new data.

    Raises:
        FormError: what differs.
    """
    check(value, FORECAST, name)
    check_format(value, name)
    for seed, part in value["seeds"].items():
        check_size(part["names"], (len(part["tasks"]),), f"{name}.seeds.{seed}.names")
