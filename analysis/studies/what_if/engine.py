"""What other learning rates would have done to a whole run: every seed, into `RUN/analysis/what_if.json`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.errors import RecordError
from analysis.records.probes import Probes
from analysis.store import code_version_json
from analysis.store.files import write_json
from analysis.store.forms import read_form
from analysis.store.study_forms import STUDY_FORMAT, ForecastFile
from analysis.studies.forecast.engine import choose
from analysis.studies.forecast.table import LAZY
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import ForecastRequest, WhatIfRequest
from analysis.studies.what_if.course import Course
from analysis.studies.what_if.look import Seen, TaskLook, look
from analysis.studies.what_if.steps import Grid, objective_of
from analysis.theory.what_if import Gain, best_point, paired_gain
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import NtkclError, user_path
from ntkcl_jax.terminal.progress import Progress

LOSS = "half squared error of centred scores"
"""The loss that is told of: it isn't the one that trains."""
PARTS = ("points", "spared", "measured", "course")
"""What is told of each later task: every point, the same projected, what was measured, and at each rate so far."""
FAR = 0.15
"""Mean change of old tasks' kernels under a new one from which on forecasts are known to be too large."""


@dataclass(frozen=True)
class Numbers:
    """Accuracies and loss changes at every point, or without points for what was measured.

    Attributes:
        accuracy: share of the test images of all tasks seen that are named right among all classes seen.
        old_accuracy: of those of the earlier tasks.
        new_accuracy: of those of the new one.
        old_loss_change: of the earlier tasks' images, against a rate of zero; of whole runs against the run's own.
        new_loss_change: the same of the new one's.
    """

    accuracy: Float[np.ndarray, "*points"]
    old_accuracy: Float[np.ndarray, "*points"]
    new_accuracy: Float[np.ndarray, "*points"]
    old_loss_change: Float[np.ndarray, "*points"]
    new_loss_change: Float[np.ndarray, "*points"]

    @classmethod
    def of(cls, seen: Seen, base: Float[np.ndarray, "n"], old: int) -> "Numbers":
        """Of images of which the first `old` are the earlier tasks', beside losses to compare theirs with."""
        right = np.where(np.isfinite(seen.loss), seen.right, np.nan)
        change = seen.loss - base
        return cls(
            right.mean(axis=-1),
            right[..., :old].mean(axis=-1), right[..., old:].mean(axis=-1),
            change[..., :old].mean(axis=-1), change[..., old:].mean(axis=-1),
        )  # fmt: skip

    @classmethod
    def mean(cls, every: Sequence["Numbers"]) -> "Numbers":
        """Mean over later tasks and seeds."""
        return cls(*(np.mean([getattr(one, name) for one in every], axis=0) for name in cls.__dataclass_fields__))

    def plain(self) -> dict[str, Any]:
        """For JSON: null where training diverges."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(values: Any) -> Any:
    found = np.asarray(values)
    if found.ndim:
        return [_plain(part) for part in found]
    return float(found) if np.isfinite(found) else None


def compute_what_if(
    run: str | Path, request: WhatIfRequest | None = None, *, quiet: bool = False, arrays: Arrays | None = None
) -> dict[str, Any]:
    """Ask at the checkpoint before each later task what other learning rates and epochs would have done.

    Each later task is asked about by itself, from the run's own checkpoint before it; then what the other steps of
    all later tasks add up to.

    Args:
        run: folder of a finished or running run.
        request: rates, epochs and images.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`.

    Returns:
        What `RUN/analysis/what_if.json` holds: for each seed and later task, at every point of the grid, accuracies
        and loss changes, the same for the projected step, and what was measured; their means and the best point; and
        where the whole run would have ended at each rate, and at which one best.

    Raises:
        AnalysisError: the run, the request, the images or memory don't allow it; nothing is written.
    """
    request = request or WhatIfRequest()
    records = open_ntkcl(run, "what-ifs", arrays)
    grid = Grid.of(records.run.config, request.rates, request.epochs)
    seeds, every, looks, lasts, ends_of_seeds = {}, [], [], [], []
    with Progress(quiet) as progress:
        for seed in request.seeds or records.seeds:
            probes = choose(records, seed, ForecastRequest(per_task=request.per_task))
            found, course = [], Course(records.run.num_tasks - 1, records.run.config.model.section_weights)
            for task in probes.tasks[1:]:
                name = (
                    f"seed {seed} · what if task {task + 1}/{records.run.num_tasks} · {records.task(seed, task).name}"
                )
                # Only a run that stood still needs a twin, which takes all of its own steps
                steps = 0 if grid.own[0] else len(objective_of(records, seed, task, 1, grid.epochs[grid.own[1]]).shape)
                with progress.stage(name, total=1 + steps) as stage:
                    try:
                        made = look(records, seed, task, probes, grid, request.directions, course, stage)
                    except NtkclError as error:
                        raise RecordError(str(error)) from error
                    stage.advance()
                numbers = _numbers(made, probes)
                found.append(_entry(made, numbers, probes))
                looks.append(made)
                every.append(numbers)
            lasts.append(looks[-1])
            ends_of_seeds.append(every[-1][-1])
            names = [records.task(seed, task).name for task in probes.tasks]
            seeds[str(seed)] = {"tasks": list(probes.tasks), "names": names, "by_task": found}
            # The same for every seed
            per_task = len(probes.images) // len(probes.tasks)
    means = [Numbers.mean(parts) for parts in zip(*every, strict=True)]
    ends = Numbers.mean(ends_of_seeds)
    report = {
        "format": STUDY_FORMAT,
        "method": "ntkcl",
        "procedure": "rescaled",
        "loss": LOSS,
        "per_task": per_task,
        "directions": request.directions,
        "rates": list(grid.rates),
        "epochs": list(grid.epochs),
        "own": {"rate": grid.rates[grid.own[0]], "epochs": grid.epochs[grid.own[1]]},
        "known_rate": grid.known,
        **code_version_json(),
        "seeds": seeds,
        "mean": {name: part.plain() for name, part in zip(PARTS, means, strict=True)},
        "best": best_of(means[0], looks, grid, len(request.seeds or records.seeds)),
        "end": ends.plain(),
        "best_course": best_course(ends, lasts, grid),
        "first_order_error": median_error(looks),
        "kernel_drift": kernel_drift(user_path(run) / "analysis" / "forecast.json"),
    }
    report["reliable"] = reliable(report["first_order_error"], report["kernel_drift"])
    write_json(user_path(run) / "analysis" / "what_if.json", report)
    return report


def _numbers(made: TaskLook, probes: Probes) -> tuple[Numbers, ...]:
    """Those of each of `PARTS`."""
    old, still = probes.rows(made.task).start, made.grid.loss[0, 0]
    of_task = (Numbers.of(part, still, old) for part in (made.grid, made.spared, made.measured))
    return (*of_task, Numbers.of(made.course, made.measured.loss, old))


def _entry(made: TaskLook, numbers: Sequence[Numbers], probes: Probes) -> dict[str, Any]:
    """What the file says of a later task."""
    parts = zip(PARTS, numbers, strict=True)
    earlier = []
    for task in probes.tasks[: probes.tasks.index(made.task)]:
        rows = probes.rows(task)
        change = made.grid.loss[..., rows] - made.grid.loss[0, 0, rows]
        right = np.where(np.isfinite(change), made.grid.right[..., rows], np.nan)
        earlier.append({"task": task, "accuracy": _plain(right.mean(-1)), "loss_change": _plain(change.mean(-1))})
    return {
        "task": made.task,
        "scale": made.scale,
        "matched": made.matched,
        "first_order": made.first_order,
        **{name: part.plain() for name, part in parts},
        "earlier": earlier,
    }


def best_of(means: Numbers, looks: Sequence[TaskLook], grid: Grid, seeds: int) -> dict[str, Any]:
    """The point of the highest accuracy on all tasks seen, and its gain over the run's own."""
    # Tenths of an image: equal accuracies whose sums were rounded otherwise are equal
    at = best_point(np.round(means.accuracy, 9), grid.rates)
    per_seed = len(looks) // seeds
    own, best, images, weights = [], [], [], []
    for i, made in enumerate(looks):
        n = made.grid.right.shape[-1]
        own.append(made.grid.right[grid.own])
        best.append(made.grid.right[at])
        # An image is the same in all looks of a seed: probes come task by task, the first ones first
        most = looks[(i // per_seed + 1) * per_seed - 1].grid.right.shape[-1]
        images.append(np.arange(n) + (i // per_seed) * most)
        weights.append(np.full(n, 1 / n / len(looks)))
    gain = paired_gain(*(np.concatenate(parts) for parts in (own, best, images, weights)))
    return _best(grid, at, means.accuracy[at], means.accuracy[grid.own], gain)


def best_course(ends: Numbers, lasts: Sequence[TaskLook], grid: Grid) -> dict[str, Any]:
    """The rate of the highest accuracy at the run's end, had every later task been trained at it, and its gain.

    Against what the run measured, which is the course at its own rate.
    """
    at, _ = best_point(np.round(ends.accuracy, 9)[:, None], grid.rates)
    sizes = [len(made.measured.right) for made in lasts]
    gain = paired_gain(
        np.concatenate([made.measured.right for made in lasts]),
        np.concatenate([made.course.right[at] for made in lasts]),
        np.arange(sum(sizes)),
        np.concatenate([np.full(n, 1 / n / len(lasts)) for n in sizes]),
    )
    return _best(grid, (at, grid.own[1]), ends.accuracy[at], ends.accuracy[grid.own[0]], gain)


def _best(grid: Grid, at: tuple[int, int], accuracy: float, own: float, gain: Gain) -> dict[str, Any]:
    """A point of the grid and what it gains on the run's own, for JSON."""
    return {
        "rate": grid.rates[at[0]],
        "epochs": grid.epochs[at[1]],
        "accuracy": float(accuracy),
        "own_accuracy": _plain(own),
        "gain": gain.value,
        "error": gain.error,
        "told": gain.told,
    }


def median_error(looks: Sequence[TaskLook]) -> float | None:
    """Median relative error of the run's own step to first order, over later tasks; None where it made none."""
    errors = [made.first_order["relative_error"] for made in looks if made.first_order]
    known = [error for error in errors if error is not None]
    return median(known) if known else None


def kernel_drift(path: Path) -> float | None:
    """Mean change of old tasks' kernels under a new one, where a forecast has it."""
    forecast = read_form(path, ForecastFile)
    pairs = [pair.ntk_drift for seed in forecast.seeds.values() for pair in seed.pairs] if forecast else []
    known = [drift for drift in pairs if drift is not None]
    return float(np.mean(known)) if known else None


def reliable(first_order_error: float | None, drift: float | None) -> bool:
    """Whether the forecast's size can be trusted: the run's own training was nearly linear, as far as is known.

    Example:
        >>> reliable(0.1, None), reliable(0.1, 0.2), reliable(0.5, None), reliable(None, None)
        (True, False, False, True)
    """
    return (first_order_error or 0) <= LAZY[-1][0] and (drift or 0) <= FAR
