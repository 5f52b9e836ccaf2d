"""What will be forgotten if the run goes on with images that it hasn't seen: a forecast without any training of it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from analysis.errors import RecordError
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Evaluate, Records
from analysis.records.outputs import centred_scores, mean_step, right, targets
from analysis.records.probes import Probes
from analysis.studies.forecast.pairs import Drifts, pair
from analysis.studies.twin import LinearNTKCL, fit_twin, step_of
from ntkcl_jax.data import ImageSet, Scenario, read_classes, steps_per_epoch
from ntkcl_jax.data.images import first_of_each_class
from ntkcl_jax.data.prepared import PreparedImages
from ntkcl_jax.errors import NtkclError, user_path
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import NTKCL, write_prototypes
from ntkcl_jax.runs.context import epoch_batches
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.budget import paired


def name_of(folder: Path) -> str:
    """What to call new data, and its file: the folder's name, with nothing in it that a file name can't have.

    Example:
        >>> name_of(Path("/data/birds of 2020/"))
        'birds-of-2020'
    """
    return re.sub(r"[^\w.]+", "-", user_path(folder).resolve().name).strip("-.") or "new"


def read_new(records: Records, folder: Path) -> tuple[ImageSet, tuple[str, ...]]:
    """List the new images, under the run's settings.

    Raises:
        RecordError: no folder, no class or no image.
    """
    data = records.run.config.data
    try:
        images, names = read_classes(user_path(folder), data.invert)
    except NtkclError as error:
        raise RecordError(str(error)) from error
    if data.limit_per_class:
        return images.subset(first_of_each_class(images.labels, data.limit_per_class)), names
    return images, names


def next_task(records: Records, seed: int, classes: int) -> tuple[LearnerState, Scenario]:
    """The state that a further task of so many classes would start from, with empty prototype rows for them."""
    done = len(records.tasks(seed))
    last = records.task(seed, done - 1)
    offset = records.run.context.scenarios[seed].offsets[done]
    sizes = (*records.run.context.scenarios[seed].task_sizes[:done], classes)
    # Only what the run has learnt: rows of its own tasks to come would be taken for the new classes'
    rows = {name: last.frozen.buffers[f"prototypes/{name}"][:offset] for name in ("kernel", "seen")}
    padded = {f"prototypes/{name}": _padded(values, classes) for name, values in rows.items()}
    state = LearnerState(last.after, last.frozen).updated(buffers=padded)
    # The identity as class order: labels are in the run's numbering already, new ones follow
    return state, Scenario(tuple(range(offset + classes)), sizes)


def _padded(rows: Any, more: int) -> Any:
    return jnp.concatenate([rows, jnp.zeros((more, *rows.shape[1:]), rows.dtype)])


def forecast_new(
    records: Records, seed: int, probes: Probes, images: ImageSet, classes: int, name: str, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Forecast what training on new classes would do to every task learnt so far.

    They are taken for the run's next and last task: the running mean stays.

    Args:
        records: the run.
        seed: one of its seeds.
        probes: test images of all finished tasks.
        images: the new images.
        classes: how many classes they have.
        name: what to call them.
        progress: shows steps and time left.

    Yields:
        One entry for each old task; see `pair`. Besides: `accuracy` on its probes now, `predicted_accuracy_change`
        by drift alone (among the old classes), and `predicted_accuracy_change_with_new` when the new classes, with
        the prototypes that the twin gives them, compete as well; `..._error` is the standard error of either.

    Raises:
        AnalysisError: a damaged checkpoint.
        NtkclError: images that can't be read, or training that diverges.
    """
    context, task = records.run.context, len(records.tasks(seed))
    state, scenario = next_task(records, seed, classes)
    learner = replace(records.run.learner, tasks=task + 1, task_classes=classes, classes=scenario.num_classes)
    assert isinstance(learner, NTKCL)  # what this forecast is about
    # As the run itself would draw the next task's proxy head
    key = jax.random.key(stream_seed(seed, *learner.stream("task", task)))
    begun = learner.begin(state, Task.of(scenario, task), key, lambda: [])
    # New classes are numbered behind the old ones
    members, labels = np.arange(len(images)), images.labels + scenario.offsets[task]
    optimizer = context.config.optimizer
    steps = steps_per_epoch(len(images), optimizer.batch_size)
    with progress.stage(f"seed {seed} · forecast of {name}", total=steps * optimizer.epochs_of(task)) as stage:
        trained = fit_twin(
            learner,
            context.config,
            scenario,
            begun,
            partial(epoch_batches, context, images, members, labels, seed, task),
            task=task,
            seed=seed,
            steps_in_epoch=steps,
            on_steps=stage.advance,
        )
    # Checkpoint `task` is the state after the last finished task
    fn, before = centred_scores(records, seed, task, with_mean=True)
    model = Linearized(fn, before, probes.images[:2])
    values = model.values(probes.images)
    drift = model.change(probes.images, mean_step(before, step_of(trained), task, last=True))
    wanted = targets(probes.labels, model.outputs)
    views = PreparedImages(images, context.config.data, context.size)
    batches = views.batches(members, labels, context.config.compute.eval_batch_size)
    twin = LinearNTKCL.of_learner(learner)
    # The new classes' prototypes as the twin sees them at the end; old ones stay as they were written
    means = class_means(twin, *trained, batches, scenario.offsets[task], classes)
    competing = all_scores(twin, trained, means, scenario.offsets[task], probes)
    for old in probes.tasks:
        rows = probes.rows(old)
        known = probes.labels[rows]
        now = right(values[rows], known)
        changed = {
            "predicted_accuracy_change": right(values[rows] + drift[rows], known),
            "predicted_accuracy_change_with_new": right(competing[rows], known),
        }
        yield pair(old, name, Drifts(values[rows], wanted[rows], drift[rows])) | {
            "accuracy": float(now.mean()),
            **{of: float(then.mean() - now.mean()) for of, then in changed.items()},
            **{f"{of}_error": paired(now.astype(int) - then)[1] for of, then in changed.items()},
        }


def all_scores(
    twin: LinearNTKCL, trained: LearnerState, means: Float[np.ndarray, "c e"], offset: int, probes: Probes
) -> Float[np.ndarray, "n k"]:
    """Scores of the probes by the trained twin, over old classes and new ones."""
    trained = trained.updated(buffers=write_prototypes(trained.frozen.buffers, means, offset))
    fn = Partial(Evaluate(twin, "scores", twin.classes), frozen=trained.frozen, rest={})
    return Linearized(fn, trained.trainable, probes.images[:2]).values(probes.images)
