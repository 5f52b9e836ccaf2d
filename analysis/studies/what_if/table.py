"""What-ifs for people: the table of learning rates, and what it says in plain words."""

from collections.abc import Mapping
from typing import Any


def told(made: Mapping[str, Any]) -> str:
    """The table and the sentences below it."""
    return f"{table(made)}\n\n{verdict(made)}"


def table(made: Mapping[str, Any]) -> str:
    """One line for each rate at the run's own epochs, means over later tasks; then the best point, if it has others.

    Example:
        >>> names = ("accuracy", "old_accuracy", "new_accuracy", "old_loss_change", "new_loss_change")
        >>> points = {name: [[0.5], [None]] for name in names}
        >>> made = {"rates": [0.0, 0.1], "epochs": [2], "own": {"rate": 0.1, "epochs": 2}, "directions": 20,
        ...         "best": {"rate": 0.0, "epochs": 2}, "best_course": {"rate": 0.0},
        ...         "mean": {"points": points, "spared": points, "measured": {name: 0.25 for name in names}},
        ...         "end": {"accuracy": [0.75, None]}}
        >>> print(table(made))
        rate     epochs  run's end | one task: all   old   new  old loss | 20 less: all   new  old loss
        0             2       75.0            50.0  50.0  50.0   +0.5000           50.0  50.0   +0.5000  best end, best
        0.1           2          –               –     –     –         –              –     –         –  yours
        measured                              25.0  25.0  25.0   +0.2500
    """
    head = "rate     epochs  run's end | one task: all   old   new  old loss | "
    lines = [f"{head}{made['directions']} less: all   new  old loss"]
    own, best = made["own"], made["best"]
    at = [(i, made["epochs"].index(own["epochs"])) for i in range(len(made["rates"]))]
    top = made["rates"].index(best["rate"]), made["epochs"].index(best["epochs"])
    for i, j in at if top in at else [*at, top]:
        rate, epochs = made["rates"][i], made["epochs"][j]
        usual = epochs == own["epochs"]
        marks = {
            "yours": usual and rate == own["rate"],
            "best end": usual and rate == made["best_course"]["rate"],
            "best": (i, j) == top,
        }
        plain, spared = (
            {name: values[i][j] for name, values in made["mean"][part].items()} for part in ("points", "spared")
        )
        end = _percent(made["end"]["accuracy"][i]) if usual else ""
        lines.append(
            f"{rate:<8.3g} {epochs:>6} {end:>10} {_outcome(plain)} {_percent(spared['accuracy']):>14} "
            f"{_percent(spared['new_accuracy']):>5} {_change(spared['old_loss_change']):>9}  "
            f"{', '.join(mark for mark, holds in marks.items() if holds)}".rstrip()
        )
    lines.append(f"{'measured':<26} {_outcome(made['mean']['measured'])}")
    return "\n".join(lines)


def verdict(made: Mapping[str, Any]) -> str:
    """Whether another later rate would have been better, and whether to believe the sizes."""
    return "\n".join(filter(None, (course(made), better(made), price(made), doubt(made))))


def course(made: Mapping[str, Any]) -> str:
    """At which rate the whole run would have ended best, and its gain where it is more than noise.

    Example:
        >>> best = {"rate": 0.02, "accuracy": 0.95, "own_accuracy": 0.92, "gain": 0.03, "error": 0.01, "told": True}
        >>> print(course({"best_course": best, "own": {"rate": 0.4}}))
        Had all later tasks been trained at 0.02, the run is expected to end with 95.0 % of all tasks' images right
        instead of 92.0 %: +3.0 ± 1.0 points.
        >>> course({"best_course": best | {"told": False}, "own": {"rate": 0.4}})
        'No later rate is better than yours beyond noise for the whole run (best is 0.02: +3.0 ± 1.0 points).'
    """
    best, own = made["best_course"], made["own"]
    if best["rate"] == own["rate"]:
        return "No later rate is better than yours for the whole run."
    gain = f"{100 * best['gain']:+.1f} ± {100 * best['error']:.1f} points"
    if not best["told"]:
        return (
            f"No later rate is better than yours beyond noise for the whole run (best is {best['rate']:.4g}: {gain})."
        )
    return (
        f"Had all later tasks been trained at {best['rate']:.4g}, the run is expected to end with "
        f"{100 * best['accuracy']:.1f} % of all tasks' images right\ninstead of {100 * best['own_accuracy']:.1f} %: "
        f"{gain}."
    )


def better(made: Mapping[str, Any]) -> str:
    """The best point of one task at a time, from the run's own checkpoints, where its gain is more than noise.

    Example:
        >>> best = {"rate": 0.02, "epochs": 2, "accuracy": 0.95, "gain": 0.03, "error": 0.01, "told": True}
        >>> print(better({"best": best, "own": {"rate": 0.4, "epochs": 2}}))
        For one task at a time, from your checkpoints, 0.02 is expected to be best: 95.0 % on all tasks seen,
        +3.0 ± 1.0 points.
        >>> better({"best": best | {"told": False}, "own": {"rate": 0.4, "epochs": 2}})
        'For one task at a time, from your checkpoints, none is better beyond noise (best is 0.02: +3.0 ± 1.0 points).'
    """
    best, own = made["best"], made["own"]
    if (best["rate"], best["epochs"]) == (own["rate"], own["epochs"]):
        return "For one task at a time, from your checkpoints, none is better than yours."
    longer = f" and {best['epochs']} epochs" if best["epochs"] != own["epochs"] and best["rate"] else ""
    gain = f"{100 * best['gain']:+.1f} ± {100 * best['error']:.1f} points"
    start = "For one task at a time, from your checkpoints,"
    if not best["told"]:
        return f"{start} none is better beyond noise (best is {best['rate']:.4g}{longer}: {gain})."
    return (
        f"{start} {best['rate']:.4g}{longer} is expected to be best: {100 * best['accuracy']:.1f} % on all tasks "
        f"seen,\n{gain}."
    )


def price(made: Mapping[str, Any]) -> str:
    """What leaving out the old tasks' strongest directions would have done at the run's own point; "" without a step.

    Example:
        >>> plain = {"old_loss_change": [[0.02]], "new_accuracy": [[0.9]]}
        >>> spared = {"old_loss_change": [[0.005]], "new_accuracy": [[0.88]]}
        >>> print(price({"mean": {"points": plain, "spared": spared}, "rates": [0.4], "epochs": [2],
        ...              "own": {"rate": 0.4, "epochs": 2}, "directions": 20}))
        Without the 20 directions that old tasks feel most, your step would change their loss by +0.0050 instead of
        +0.0200, and the new task's accuracy by -2.0 points.
    """
    own, mean = made["own"], made["mean"]
    i, j = made["rates"].index(own["rate"]), made["epochs"].index(own["epochs"])
    loss = [mean[name]["old_loss_change"][i][j] for name in ("points", "spared")]
    new = [mean[name]["new_accuracy"][i][j] for name in ("points", "spared")]
    if own["rate"] == 0 or None in (*loss, *new):
        return ""
    return (
        f"Without the {made['directions']} directions that old tasks feel most, your step would change their loss by "
        f"{loss[1]:+.4f} instead of\n{loss[0]:+.4f}, and the new task's accuracy by {100 * (new[1] - new[0]):+.1f} "
        "points."
    )


def doubt(made: Mapping[str, Any]) -> str:
    """Why sizes aren't to be believed; "" where nothing speaks against them."""
    if made["reliable"]:
        return ""
    error, drift = made["first_order_error"], made["kernel_drift"]
    whys = [
        "" if error is None else f"to first order your own step misses {error:.0%} of what it did to old tasks",
        "" if drift is None else f"old tasks' kernels moved by {drift:.0%} under a new one",
    ]
    return (
        f"Mistrust the sizes: {' and '.join(filter(None, whys))}, so that this run isn't linear in its parameters. "
        "Forecast losses are then\nusually too large; the order of the rates is worth more."
    )


def _outcome(point: Mapping[str, float | None]) -> str:
    return (
        f"{_percent(point['accuracy']):>15} {_percent(point['old_accuracy']):>5} {_percent(point['new_accuracy']):>5} "
        f"{_change(point['old_loss_change']):>9}"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _change(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
