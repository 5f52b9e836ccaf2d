"""Influences of a whole run: every seed and later task, into `RUN/analysis/influence.json` and `influence.csv`."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import RecordError
from analysis.records.checkpoints import Records
from analysis.records.probes import Probes
from analysis.store import code_version_json
from analysis.store.files import write_json, write_text
from analysis.store.study_forms import STUDY_FORMAT
from analysis.studies.forecast.engine import choose
from analysis.studies.forecast.network import training_steps
from analysis.studies.forecast.pairs import correlated
from analysis.studies.influence.coreset import coreset_json
from analysis.studies.influence.look import TaskInfluence, look
from analysis.studies.influence.pictures import encoded
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import ForecastRequest, InfluenceRequest
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import NtkclError, user_path
from ntkcl_jax.terminal.progress import Progress

REMEMBERED = 40
"""Training images of each old task among which a coreset is chosen, where so many are there."""
HARMED = 12
"""Old images of a seed whose pairs are told of, the most harmed first."""
MOST_HARMFUL, MOST_HELPFUL = 5, 3
"""New images that are told of for each."""
COLUMNS = (
    "seed", "later_task", "old_task", "old_position", "old_class", "named_after", "forgotten", "loss_change",
    "forecast", "by_images", "rank", "new_position", "new_class", "influence",
)  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """A later task of a seed, and the images that it was looked at with."""

    made: TaskInfluence
    tests: Probes
    remembered: Probes

    @property
    def old(self) -> np.ndarray:
        """Task of each old test image."""
        m = len(self.made.forecast)
        return np.repeat(self.tests.tasks, np.diff(self.tests.offsets))[:m]


def compute_influence(
    run: str | Path, request: InfluenceRequest | None = None, *, quiet: bool = False, arrays: Arrays | None = None
) -> dict[str, Any]:
    """Tell which training images of each later task made which old test images worse, to first order.

    Args:
        run: folder of a finished or running run.
        request: seeds and images.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`.

    Returns:
        What `RUN/analysis/influence.json` holds: for each seed and later task the mean loss change of old test images,
        forecast and measured, its parts by new images, running mean and parameter groups, old classes by new ones,
        what each training image does to all of them, and a coreset; and the most harmed images with the new ones that
        pushed them most.

    Raises:
        AnalysisError: the run, the request, the images or memory don't allow it; nothing is written.
    """
    request = request or InfluenceRequest()
    records = open_ntkcl(run, "influences", arrays)
    seeds, rows = {}, []
    with Progress(quiet) as progress:
        for seed in request.seeds or records.seeds:
            try:
                every = list(looks(records, seed, request, progress))
                names = [records.task(seed, task).name for task in every[0].tests.tasks]
                harmed = [_harmed(records, seed, *at) for at in most_harmed(every)]
            except NtkclError as error:
                raise RecordError(str(error)) from error
            seeds[str(seed)] = {
                "tasks": list(every[0].tests.tasks),
                "names": names,
                "by_task": [_entry(one, request.coreset, seed) for one in every],
                "harmed": harmed,
            }
            rows += [row for one in harmed for row in _rows(seed, one)]
            per_task = len(every[0].tests.images) // len(every[0].tests.tasks)
    report = {
        "format": STUDY_FORMAT,
        "method": "ntkcl",
        "procedure": "run",
        "per_task": per_task,
        "coreset_size": request.coreset,
        **code_version_json(),
        "seeds": seeds,
    }
    home = user_path(run) / "analysis"
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(home / "influence.csv", table.getvalue())
    write_json(home / "influence.json", report)
    return report


def looks(records: Records, seed: int, request: InfluenceRequest, progress: Progress) -> Iterator[Looked]:
    """Look at every later task of a seed; see `look` for what is raised."""
    tests = choose(records, seed, ForecastRequest(per_task=request.per_task))
    for task in tests.tasks[1:]:
        earlier = tuple(t for t in tests.tasks if t < task)
        name = f"seed {seed} · influence of task {task + 1}/{records.run.num_tasks} · {records.task(seed, task).name}"
        with progress.stage(name, total=1 + training_steps(records, seed, task)) as stage:
            smallest = min(len(records.task(seed, t).labels_of("train")) for t in earlier)
            remembered = records.probes(seed, min(REMEMBERED, smallest), side="train", tasks=earlier)
            yield Looked(look(records, seed, task, tests, remembered, stage), tests, remembered)
            stage.advance()


def most_harmed(every: Sequence[Looked]) -> list[tuple[Looked, int]]:
    """The old test images that later tasks made worst: forgotten ones first, then by the measured loss change."""
    found = [
        (one, i)
        for one in every
        for i in range(len(one.made.forecast))
        if one.made.measured.loss_change[i] > 0
    ]  # fmt: skip

    def order(at: tuple[Looked, int]) -> tuple[bool, float]:
        measured = at[0].made.measured
        return bool(measured.forgotten[at[1]]), float(measured.loss_change[at[1]])

    return sorted(found, key=order, reverse=True)[:HARMED]


def _harmed(records: Records, seed: int, one: Looked, i: int) -> dict[str, Any]:
    made, measured = one.made, one.made.measured
    row, recorded = made.tests[i], records.task(seed, made.task)
    up = [j for j in np.argsort(-row, kind="stable")[:MOST_HARMFUL] if row[j] > 0]
    down = [j for j in np.argsort(row, kind="stable")[:MOST_HELPFUL] if row[j] < 0]
    pixels = dict(zip([*up, *down], recorded.images("train", np.array([*up, *down], np.int64)), strict=True))

    def pushing(j: int) -> dict[str, Any]:
        return {"position": int(j), "label": int(made.labels[j]), "influence": float(row[j]),
                "pixels": encoded(pixels[j])}  # fmt: skip

    return {
        "task": made.task,
        "old": int(one.old[i]),
        "position": int(one.tests.positions[i]),
        "label": int(one.tests.labels[i]),
        "named": int(measured.named[i]),
        "forgotten": bool(measured.forgotten[i]),
        "loss_change": float(measured.loss_change[i]),
        "forecast": float(made.forecast[i]),
        "by_images": float(row.sum()),
        "harmful": [pushing(j) for j in up],
        "helpful": [pushing(j) for j in down],
        "pixels": encoded(one.tests.images[i]),
    }


def _entry(one: Looked, coreset: int, seed: int) -> dict[str, Any]:
    """What the file says of a later task."""
    made, measured = one.made, one.made.measured
    m = len(made.forecast)
    total = made.tests.mean(axis=0)
    return {
        "task": made.task,
        "images": len(made.labels),
        "old_images": m,
        "forgotten": int(measured.forgotten.sum()),
        "learned": int((~measured.was_right & measured.is_right).sum()),
        "loss_change": float(measured.loss_change.mean()),
        "error": float(measured.loss_change.std() / m**0.5),
        "forecast": float(made.forecast.mean()),
        "by_images": float(total.sum()),
        "by_mean": float(made.mean_move.mean()),
        "rest": float(made.rest.mean()),
        "groups": {name: float(values.mean()) for name, values in made.groups.items()},
        "correlation": correlated(made.forecast, measured.loss_change),
        "by_class": {
            "old": list(made.old_classes),
            "new": list(made.new_classes),
            "interplay": made.interplay.tolist(),
            "loss_change": made.loss_change.tolist(),
        },
        # Mean over old test images, of each training image in the order of the task's
        "by_image": total.tolist(),
        "coreset": coreset_json(made, one.remembered, coreset, seed),
    }


def _rows(seed: int, one: dict[str, Any]) -> list[list[Any]]:
    """Lines of the CSV for an old image."""
    start = [
        seed, one["task"], one["old"], one["position"], one["label"], one["named"], int(one["forgotten"]),
        one["loss_change"], one["forecast"], one["by_images"],
    ]  # fmt: skip
    parts = (("harmful", 1), ("helpful", -1))
    return [
        [*start, sign * (rank + 1), pair["position"], pair["label"], pair["influence"]]
        for part, sign in parts
        for rank, pair in enumerate(one[part])
    ]
