"""What `compute_forecast` would take: passes through the network and memory. Nothing is computed or written."""

from pathlib import Path

from analysis.kernels.planner import readable_bytes
from analysis.records.checkpoints import Records
from analysis.records.outputs import centred_scores
from analysis.records.probes import Probes
from analysis.studies.fitting import passes, planned_for
from analysis.studies.forecast.engine import choose, forecast_file
from analysis.studies.forecast.network import kernel_images, training_steps
from analysis.studies.forecast.new_data import read_new
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import ForecastRequest
from ntkcl_jax.data import Arrays, steps_per_epoch
from ntkcl_jax.devices.memory import training_bytes

TWIN = 1.25
"""Memory of a step of the linearised twin over that of the network's own (ViT-B/16, XLA's account: 7.0 and 5.7 GiB)."""


def forecast_cost(run: str | Path, request: ForecastRequest | None = None, arrays: Arrays | None = None) -> list[str]:
    """Say what `compute_forecast` would do, in lines for people; it compiles the program of the kernels' rows.

    Raises:
        AnalysisError: as `compute_forecast`, as far as that can be known before.
    """
    request = request or ForecastRequest()
    records = open_ntkcl(run, "forecasts", arrays)
    seeds = request.seeds or records.seeds
    probes = [choose(records, seed, request, record=False) for seed in seeds]
    first = probes[0]
    per_task = len(first.images) // len(first.tasks)
    file = f"file: {forecast_file(run, request)}"
    if request.method == "sequential":
        tasks = sum(len(one.tasks) for one in probes)
        return [
            f"forecast of method sequential, {tasks} tasks ({len(seeds)} seeds), {per_task} test images of each",
            "Jacobian passes: none, a linear classifier's kernel is that of its features; all images pass the frozen "
            "network once, and the classifier is trained again",
            file,
        ]
    config = records.run.config
    batch = config.optimizer.batch_size
    if request.new_data is not None:
        images, names = read_new(records, request.new_data)
        steps = sum(steps_per_epoch(len(images), batch) * config.optimizer.epochs_of(len(one.tasks)) for one in probes)
        # Values, the forecast J δ, and the scores with the new classes' prototypes: J δ once more
        forward = sum(2 * len(one.images) for one in probes)
        return [
            f"forecast of {len(images)} new images of {len(names)} classes, for {per_task} test images of each task",
            *_twin(records, steps, forward),
            file,
        ]
    # An old task's probes at each later task: J δ of the forecast, of the true step, and at the other end
    forward = sum(3 * one.rows(new).start for one in probes for new in one.tasks[1:])
    lines = [
        f"forecast of {sum(len(one.tasks) - 1 for one in probes)} tasks ({len(seeds)} seeds) by procedure "
        f"{request.procedure}, for {per_task} test images of each earlier one",
    ]
    if request.procedure == "run":
        steps = sum(training_steps(records, seed, new) for seed, one in zip(seeds, probes, strict=True)
                    for new in one.tasks[1:])  # fmt: skip
        lines += _twin(records, steps, forward)
    else:
        lines += [f"products with Jacobians: {forward:,} forward passes of one image"]
    return [*lines, *_kernels(records, seeds[0], probes, per_task, request.procedure != "run"), file]


def _twin(records: Records, steps: int, forward: int) -> list[str]:
    config = records.run.config
    classes = records.run.context.scenarios[records.seeds[0]].num_classes
    need = TWIN * training_bytes(config, classes)
    return [
        f"the linearised twin: {steps:,} steps of {config.optimizer.batch_size} images, each a product with the "
        f"Jacobian and its transpose; about {readable_bytes(need)}",
        f"products with Jacobians besides: {forward:,} forward passes of one image",
    ]


def _kernels(records: Records, seed: int, probes: list[Probes], per_task: int, closed: bool) -> list[str]:
    """Kernels of old tasks before and after each later one, and for a closed form those of the new tasks."""
    fn, params = centred_scores(records, seed, 0)
    classes = records.run.context.scenarios[seed].offsets[len(probes[0].tasks)]
    old = min(per_task, kernel_images(classes))
    count = per_task if closed else old
    found = planned_for(fn, params, probes[0].images, count)
    # Of the t-th of T tasks at every checkpoint from the one before the next task on
    kernels = sum(len(one.tasks) - t for one in probes for t in range(len(one.tasks) - 1))
    new = sum(len(one.tasks) - 1 for one in probes) if closed else 0
    rows = (kernels * old + new * per_task) * classes
    return [
        f"Jacobian passes: {passes(rows, found.passes)} backward ones of one image and output, for {kernels} kernels "
        f"over {old} images" + (f" and {new} over {per_task}" if new else ""),
        f"memory: {readable_bytes(found.peak_bytes)} for a kernel while it is computed; "
        f"{readable_bytes(found.memory_bytes)} may be used",
    ]
