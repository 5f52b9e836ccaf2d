"""What `compute_influence` would take: passes through the network and memory. Nothing is computed or written."""

from pathlib import Path

from analysis.kernels.planner import readable_bytes
from analysis.studies.forecast.cost import TWIN
from analysis.studies.forecast.engine import choose
from analysis.studies.forecast.network import training_steps
from analysis.studies.influence.engine import REMEMBERED
from analysis.studies.influence.look import refuse_still
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import ForecastRequest, InfluenceRequest
from ntkcl_jax.data import Arrays
from ntkcl_jax.devices.memory import training_bytes
from ntkcl_jax.errors import user_path


def influence_cost(run: str | Path, request: InfluenceRequest | None = None, arrays: Arrays | None = None) -> list[str]:
    """Say what `compute_influence` would do, in lines for people.

    Raises:
        AnalysisError: as `compute_influence`, as far as that can be known before.
    """
    request = request or InfluenceRequest()
    records = open_ntkcl(run, "influences", arrays)
    config, seeds = records.run.config, request.seeds or records.seeds
    steps = rows = products = later = 0
    for seed in seeds:
        probes = choose(records, seed, ForecastRequest(per_task=request.per_task), record=False)
        sizes = {task: len(records.task(seed, task).labels_of("train")) for task in probes.tasks}
        for task in probes.tasks[1:]:
            refuse_still(records, task)
            old, count = probes.rows(task).start, probes.tasks.index(task)
            held = old + count * min(REMEMBERED, *(sizes[t] for t in probes.tasks[:count]))
            steps += training_steps(records, seed, task)
            # Old images for the kernel with themselves and with the new ones, which are pulled back by class once more
            rows += 2 * held + 2 * sizes[task]
            # By new class, by parameter group and for the mean; then scores before and after
            products += old * len(records.task(seed, task).labels) + 5 * held + old
            later += 1
    classes = records.run.context.scenarios[seeds[0]].num_classes
    per_task = len(probes.images) // len(probes.tasks)
    return [
        f"influence of the training images of {later} tasks ({len(seeds)} seeds) on {per_task} test images of each "
        "earlier one",
        f"the linearised twin: {steps:,} steps of {config.optimizer.batch_size} images, each a product with the "
        f"Jacobian and its transpose; about {readable_bytes(round(TWIN * training_bytes(config, classes)))}",
        f"backward passes of one image: {rows:,}; forward ones besides: {products:,}",
        f"files: {user_path(run) / 'analysis' / 'influence.json'} and influence.csv",
    ]
