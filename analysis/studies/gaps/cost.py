"""What `compute_gaps` would take: passes through the network and memory. Nothing is computed or written."""

from pathlib import Path

from analysis.errors import RecordError
from analysis.kernels.planner import readable_bytes
from analysis.records.outputs import centred_scores
from analysis.studies.fitting import passes, planned_for
from analysis.studies.gaps.learner import gather
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import MIN_PER_TASK, GapsRequest
from ntkcl_jax.data import Arrays


def gaps_cost(run: str | Path, request: GapsRequest | None = None, arrays: Arrays | None = None) -> list[str]:
    """Say what `compute_gaps` would do, in lines for people; it compiles the program of the kernels' rows.

    Raises:
        AnalysisError: as `compute_gaps`, as far as that can be known before.
    """
    request = request or GapsRequest()
    records = open_ntkcl(run, "gaps", arrays)
    seeds = request.seeds or records.seeds
    finished = {seed: len(records.tasks(seed)) for seed in seeds}
    if not all(finished.values()):
        raise RecordError(f"a seed of {records.run.path} has no finished task yet; train first")
    images = gather(records, seeds[0], request, record=False)
    n, tasks, everything = len(images.trained[0]), sum(finished.values()), len(images.pixels)
    fn, params = centred_scores(records, seeds[0], 0)
    found = planned_for(fn, params, images.pixels, n, multiple=2, least=MIN_PER_TASK)
    shape = found.problem.functions.shapes[0]
    # Of each task the learner keeps Φ(X, X), Φ(Z, X) and the eigenvectors: three quarters of the kernel of both sets
    kept = max(finished.values()) * found.kernel_bytes * 3 // 4
    # Values after each task and before the first; J δ of theory's step and of the network's own; Jᵀ α of what it learns
    return [
        f"gaps of {tasks} tasks ({len(seeds)} seeds): theory's learner has {n} images of each and is tested on {n} "
        f"others; {shape.outputs} outputs, {shape.parameters:,} parameters",
        f"Jacobian passes: {passes(tasks * 2 * n * shape.outputs, found.passes)} backward ones of one image and "
        f"output, for {tasks} kernels over {2 * n} images",
        f"products with Jacobians: {2 * tasks * everything:,} forward and {tasks * n:,} backward passes of one image; "
        f"besides {(tasks + len(seeds)) * everything:,} evaluations",
        f"memory: {readable_bytes(found.peak_bytes + kept)} ({readable_bytes(found.kernel_bytes)} for a kernel while "
        f"it is computed, {readable_bytes(kept)} for what is kept of all tasks); {readable_bytes(found.memory_bytes)} "
        "may be used",
        f"file: {records.run.path / 'analysis' / 'gaps.json'}",
    ]
