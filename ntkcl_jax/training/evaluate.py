"""A run's test images classified again with its stored states, to compare with what it recorded."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.readouts.head import METHOD as READOUT
from ntkcl_jax.readouts.head import RidgeHead
from ntkcl_jax.runs.context import evaluate
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import RecordedRun, load_run
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.metrics import TaskEvaluation, summarise
from ntkcl_jax.training.run import assemble


def evaluate_run(run: str | Path, *, arrays: Arrays | None = None, quiet: bool = False) -> tuple[dict[str, Any], bool]:
    """Classify the test images again with every stored state of every method.

    Of `ntkcl-ridge` a run keeps the last state only: that is classified again, its earlier rows are as recorded.

    Args:
        run: the run folder.
        arrays: the images again, when the run had `data.source="arrays"`.
        quiet: no progress.

    Returns:
        Results of the finished tasks in the form of `results.json` (methods with stored states only), and whether
        they equal the stored ones.

    Raises:
        RunFolderError: no run there, or no finished task.
    """
    opened = load_run(run, arrays=arrays)
    stored = opened.results.get("seeds", {})
    seeds: dict[str, dict[str, Any]] = {}
    same = True
    with Progress(quiet) as progress:
        for seed, method in itertools.product(opened.seeds, opened.config.methods):
            found = _evaluations(opened, seed, method, progress)
            if found:
                made = seeds.setdefault(str(seed), {})[method] = summarise(found)
                same &= stored.get(str(seed), {}).get(method, made) == made
    if not seeds:
        raise RunFolderError(f"{opened.path} has no finished task of a method with checkpoints yet; train first")
    return assemble(opened.setup, seeds), same


def _evaluations(opened: RecordedRun, seed: int, method: str, progress: Progress) -> list[TaskEvaluation]:
    """What a method's stored states score; nothing where it stores none."""
    setup, scenario, name = opened.setup, opened.setup.scenarios[seed], f"seed {seed} · {method} again"
    found = []
    if method in opened.methods:
        one = replace(opened, method=method)
        tasks = one.tasks_done(seed)
        with progress.stage(name, total=tasks) as stage:
            for state in (one.task(task, seed) for task in range(tasks)):
                found.append(evaluate(setup, one.network, scenario, state.task, state.after, state.frozen)[0])
                stage.advance()
    head = RidgeHead.stored(RunFolder(opened.path), seed, opened.num_tasks) if method == READOUT else None
    if head is not None:
        with progress.stage(name, total=1) as stage:
            last = opened.task(len(head.evaluations) - 1, seed)
            found = [*head.evaluations[:-1], head.evaluate(setup, scenario, last.task, last.after, last.frozen)]
            stage.advance()
    return found
