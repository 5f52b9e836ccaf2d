"""Pictures of a finished run, from its folder alone."""

from pathlib import Path

import numpy as np

from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.plots.accuracy import SampleRow, save_figures
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import RecordedRun, load_run
from ntkcl_jax.training.evaluate import evaluate_head

SAMPLES = 8
"""Test images shown for each task."""
ROWS = 10
"""Tasks shown at most."""


def draw_run(run: str | Path) -> list[Path]:
    """Draw accuracy curves, matrices, forgetting and a sheet of test images into `RUN/figures`.

    Args:
        run: the run folder; its images must still be where they were.

    Returns:
        The PNG files.

    Raises:
        RunFolderError: no finished run there, or the folder can't be written.
    """
    opened = load_run(run)
    samples = sample_rows(opened) if "ntkcl" in opened.config.methods else []
    return save_figures(opened.results, RunFolder(run).figures, samples=samples)


def sample_rows(run: RecordedRun) -> list[SampleRow]:
    """Some test images of each task with the final predictions of the first seed; the first images of each class."""
    seed, last = run.seeds[0], run.num_tasks - 1
    task, context = run.task(last, seed), run.context
    scenario = context.scenarios[seed]
    state = LearnerState(task.after, task.frozen)
    _, predicted = evaluate_head(context, run.learner, scenario, last, state)
    labels = scenario.relabel(context.source.test.labels)
    names = [context.source.class_names[c] for c in scenario.class_order]
    rows = []
    for t in range(min(run.num_tasks, ROWS)):
        classes = list(scenario.classes(t))[:SAMPLES]
        # As many of each class as fill the row, the rest is cut off
        each = -(-SAMPLES // len(classes))
        chosen = np.concatenate([np.flatnonzero(labels == c)[:each] for c in classes])[:SAMPLES]
        rows.append(
            SampleRow(
                f"task {t + 1}",
                context.test_views.images(chosen),
                [names[c] for c in labels[chosen]],
                [names[c] for c in predicted[chosen]],
            )
        )
    return rows
