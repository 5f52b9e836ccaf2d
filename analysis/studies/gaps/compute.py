"""Gaps of a whole run: every seed, into `RUN/analysis/gaps.json`."""

from pathlib import Path
from typing import Any

from analysis.errors import RecordError
from analysis.store import code_version_json
from analysis.store.files import write_json
from analysis.store.study_forms import STUDY_FORMAT
from analysis.studies.gaps.entries import entries
from analysis.studies.gaps.learner import gather, stages
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import GapsRequest
from ntkcl_jax.data import Arrays
from ntkcl_jax.terminal.progress import Progress


def compute_gaps(
    run: str | Path,
    request: GapsRequest | None = None,
    *,
    quiet: bool = False,
    arrays: Arrays | None = None,
) -> dict[str, Any]:
    """Compute the generalization gaps of a run's tasks into `RUN/analysis/gaps.json`.

    Args:
        run: folder of a finished or running run.
        request: seeds, images, ridge; 40 images a task and a learner that moves as far as the network when None.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`.

    Returns:
        What the file holds (docs/theory.md, section 7): for each seed and task the exact split of theory's and of the
        network's squared error, radius, complexity, bound, losses, leave-one-out, GCV, and the learning curve.

    Raises:
        AnalysisError: the run, the request or memory don't allow it, or a kernel failed its checks; nothing is written.
    """
    request = request or GapsRequest()
    records = open_ntkcl(run, "gaps", arrays)
    seeds, per_task = {}, 0
    with Progress(quiet) as progress:
        for seed in request.seeds or records.seeds:
            tasks = records.tasks(seed)
            if not tasks:
                raise RecordError(f"seed {seed} of {records.run.path} has no finished task yet; train first")
            images = gather(records, seed, request)
            per_task = len(images.trained[0])
            # All that the network had, beside the few that theory's learner is given
            train_images = [len(records.task(seed, task).labels_of("train")) for task in tasks]
            learnt = []
            with progress.stage(f"seed {seed} · gaps", total=len(tasks)) as bar:
                for stage in stages(records, seed, images, request):
                    learnt.append(stage)
                    bar.advance()
            seeds[str(seed)] = {
                "tasks": list(tasks),
                "names": [records.task(seed, task).name for task in tasks],
                "by_task": entries(learnt, images, request, train_images),
            }
    made = {
        "format": STUDY_FORMAT,
        "per_task": per_task,
        "side": request.side,
        "ridge": request.ridge,
        "confidence": request.confidence,
        **code_version_json(),
        "seeds": seeds,
    }
    # Once every seed is there: the file is never of some of them
    write_json(records.run.path / "analysis" / "gaps.json", made)
    return made
