"""The forecast of a whole run: every seed, into `RUN/analysis/forecast.json`."""

from pathlib import Path
from typing import Any

from analysis.errors import RecordError
from analysis.records.checkpoints import Records
from analysis.records.probes import Probes
from analysis.store import code_version_json
from analysis.store.files import write_json
from analysis.store.study_forms import STUDY_FORMAT
from analysis.studies.forecast.network import KERNEL_IMAGES, forecast_tasks
from analysis.studies.forecast.new_data import forecast_new, name_of, read_new
from analysis.studies.forecast.pairs import correlation
from analysis.studies.forecast.sequential import forecast_sequential
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import ForecastRequest
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import NtkclError, user_path
from ntkcl_jax.terminal.progress import Progress

MOST_IMAGES = 60
"""Test images of a task where no number is asked for."""
MEASURED = {
    "run": "the run's own change from the checkpoint before the new task to the one after it",
    "other": "the run's own change, by another training than the forecast's: how far the procedures differ counts too",
    "new": "nothing: the new images haven't been trained on",
}


def compute_forecast(
    run: str | Path,
    request: ForecastRequest | None = None,
    *,
    quiet: bool = False,
    arrays: Arrays | None = None,
) -> dict[str, Any]:
    """Forecast what learning each task of a run did to the tasks before it, and compare with what happened.

    Args:
        run: folder of a finished or running run.
        request: method, procedure and images, or new data; NTK-CL by the run's own steps when None.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`.

    Returns:
        What `RUN/analysis/forecast.json` (or the file of `forecast_file`) holds: for each seed the pairs of old
        and new task with cosine, relative error, forecast and measured loss change, NTK drift, the diagnostic split
        and the concentration of the measured drift; over all of them the correlation of the loss changes.

    Raises:
        AnalysisError: the run, the request, the images or memory don't allow it; nothing is written.
    """
    request = request or ForecastRequest()
    records = open_ntkcl(run, "forecasts", arrays)
    new = None if request.new_data is None else read_new(records, request.new_data)
    seeds: dict[str, Any] = {}
    with Progress(quiet) as progress:
        for seed in request.seeds or records.seeds:
            probes = choose(records, seed, request)
            try:
                if new is not None and request.new_data is not None:
                    name = name_of(request.new_data)
                    made = forecast_new(records, seed, probes, new[0], len(new[1]), name, progress)
                elif request.method == "sequential":
                    made = forecast_sequential(records, seed, probes, progress)
                else:
                    made = forecast_tasks(records, seed, probes, request, progress)
                # Read to its end here: a generator's errors come when it is read
                pairs = list(made)
            except NtkclError as error:
                raise RecordError(str(error)) from error
            names = [records.task(seed, task).name for task in probes.tasks]
            seeds[str(seed)] = {"tasks": list(probes.tasks), "names": names, "pairs": pairs}
            # The same for every seed
            per_task = len(probes.images) // len(probes.tasks)
    report = {
        "format": STUDY_FORMAT,
        "method": request.method,
        "procedure": request.procedure,
        "per_task": per_task,
        "measured": MEASURED["new" if new else "run" if request.procedure == "run" else "other"],
        "kernel": {"outputs": "full", "parameters": "trainable", "images": min(per_task, KERNEL_IMAGES)},
        **code_version_json(),
        "seeds": seeds,
        "loss_change_correlation": correlation([p for seed in seeds.values() for p in seed["pairs"]]),
    }
    if request.procedure != "run":
        report["training"] = {name: getattr(request, name) for name in ("ridge", "rate", "steps", "time")}
    if new is not None:
        report["new_data"] = {"classes": list(new[1]), "images": len(new[0])}
    write_json(forecast_file(run, request), report)
    return report


def forecast_file(run: str | Path, request: ForecastRequest) -> Path:
    """Where the forecast is written: a file for each method, procedure and new data, `forecast.json` for a run's own.

    Example:
        >>> forecast_file("runs/a", ForecastRequest(new_data=Path("birds"))).as_posix()
        'runs/a/analysis/forecast-birds.json'
    """
    if request.new_data is not None:
        name = f"forecast-{name_of(request.new_data)}"
    elif request.method != "ntkcl":
        name = f"{request.method}-forecast"
    else:
        name = "forecast" if request.procedure == "run" else f"{request.procedure}-forecast"
    return user_path(run) / "analysis" / f"{name}.json"


def choose(records: Records, seed: int, request: ForecastRequest, record: bool = True) -> Probes:
    """Test images of all finished tasks of a seed; the choice is written down unless that isn't wanted.

    Raises:
        RecordError: too few tasks or images.
    """
    tasks, needed = records.tasks(seed), 1 if request.new_data else 2
    if len(tasks) < needed:
        raise RecordError(
            f"expected at least {needed} finished task{'s' * (needed > 1)} of seed {seed} in {records.run.path}, got "
            f"{len(tasks)}; train first"
        )
    smallest = min(len(records.task(seed, task).labels_of("test")) for task in tasks)
    return records.probes(seed, request.per_task or min(smallest, MOST_IMAGES), record=record)
