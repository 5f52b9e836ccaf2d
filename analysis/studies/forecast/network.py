"""Forecasts of NTK-CL's own tasks: what learning each task will do to the scores of the old ones.

Before task k, from checkpoint k alone: a step δ of the parameters is found by training the linearised twin (or by a
closed form), and J(X_t) δ is the drift of old task t. The running mean moves with the task's end, and counts.

One thing is known afterwards only: scores are read out with the prototypes of the run's last finished task, at every
checkpoint, so that what changes is the adaptation and nothing else (`Records.function`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from analysis import measures
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, centred_scores, difference, mean_step, targets
from analysis.records.probes import Probes
from analysis.studies.fitting import kernel_of
from analysis.studies.forecast.closed_forms import closed_form_step
from analysis.studies.forecast.pairs import Drifts, pair
from analysis.studies.request import ForecastRequest
from analysis.studies.twin import DUAL, DualNTKCL, LinearNTKCL, fit_twin, numbered, step_of
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import steps_per_epoch
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.runs.context import epoch_batches
from ntkcl_jax.terminal.progress import Progress, Stage

KERNEL_IMAGES = 20
"""Most images of a task that a kernel is computed on."""
KERNEL_ROWS = 2000
"""Most rows of such a kernel, images times outputs."""


@dataclass
class Kernels:
    """Full kernels Φ_c(X_t, X_t) of the trainable parameters, on a task's first probes; two checkpoints are kept."""

    records: Records
    seed: int
    probes: Probes
    _known: dict[tuple[int, int], Float[np.ndarray, "m m"]] = field(default_factory=dict)

    def of(self, checkpoint: int, task: int) -> Float[np.ndarray, "m m"]:
        """The kernel, sample-major."""
        if (checkpoint, task) not in self._known:
            fn, params = centred_scores(self.records, self.seed, checkpoint)
            # Outputs of the scores: the classes learnt so far
            classes = self.records.run.context.scenarios[self.seed].offsets[len(self.records.tasks(self.seed))]
            images = self.probes.images[self.probes.rows(task)][: kernel_images(classes)]
            theta = kernel_of(fn, params, images, len(images))
            # New tasks come in order, each asking for the checkpoints before and after it: older ones aren't met again
            self._known = {at: kernel for at, kernel in self._known.items() if at[0] >= checkpoint - 1}
            self._known[checkpoint, task] = measures.sample_major(theta)
        return self._known[checkpoint, task]


def kernel_images(classes: int) -> int:
    """Most images of a task whose kernel is computed, for scores of so many classes."""
    return max(1, min(KERNEL_IMAGES, KERNEL_ROWS // classes))


def run_step(records: Records, seed: int, task: int, stage: Stage, config: RunConfig | None = None) -> Params:
    """The step of the parameters that the linearised twin makes on a task; see `run_twin`."""
    return step_of(run_twin(records, seed, task, stage, config))


def run_twin(
    records: Records, seed: int, task: int, stage: Stage, config: RunConfig | None = None, *, duals: bool = False
) -> LearnerState:
    """Train the linearised twin of checkpoint `task` on that task.

    As the run trained, or by the optimizer of another `config`; with `duals`, the trained tree has each training
    image's dual coefficients too, `DUAL` of shape (n, 3, e), images in the order of the task's.
    """
    context, recorded = records.run.context, records.task(seed, task)
    scenario, learner = context.scenarios[seed], records.run.learner
    assert isinstance(learner, NTKCL)  # what this forecast is about
    labels = scenario.relabel(context.source.train.labels)
    # Places in the whole training set, as the run's batches have them
    members = np.flatnonzero(np.isin(labels, scenario.classes(task)))
    own, start, twin = labels[members], dict(recorded.before), LinearNTKCL
    if duals:
        own, twin = numbered(own, learner.classes), DualNTKCL
        start[DUAL] = jnp.zeros((len(members), 3, learner.model.feature_dim), jnp.float32)
    return fit_twin(
        learner,
        config or context.config,
        scenario,
        LearnerState(start, recorded.frozen_before),
        partial(epoch_batches, context, context.source.train, members, own, seed, task),
        task=task,
        seed=seed,
        steps_in_epoch=steps_per_epoch(len(members), context.config.optimizer.batch_size),
        on_steps=stage.advance,
        twin=twin,
    )


def training_steps(records: Records, seed: int, task: int) -> int:
    """Updates that the run made on a task."""
    optimizer = records.run.config.optimizer
    images = len(records.task(seed, task).labels_of("train"))
    return steps_per_epoch(images, optimizer.batch_size) * optimizer.epochs_of(task)


def forecast_tasks(
    records: Records, seed: int, probes: Probes, request: ForecastRequest, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Forecast what each finished task did to those before it.

    Args:
        records: the run.
        seed: one of its seeds.
        probes: test images of all finished tasks.
        request: the procedure.
        progress: shows steps and time left.

    Yields:
        One entry for each pair of tasks; see `pair`.

    Raises:
        AnalysisError: a damaged checkpoint, or memory that doesn't suffice.
        NtkclError: images that can't be read, or training that diverges.
    """
    kernels = Kernels(records, seed, probes)
    for new in probes.tasks[1:]:
        # A closed form counts as one step
        steps = training_steps(records, seed, new) if request.procedure == "run" else 1
        name = f"seed {seed} · forecast of task {new + 1}/{records.run.num_tasks} · {records.task(seed, new).name}"
        with progress.stage(name, total=steps + new) as stage:
            if request.procedure == "run":
                step = run_step(records, seed, new, stage)
            else:
                step = closed_form_step(records, seed, new, len(probes.images) // len(probes.tasks), request)
                stage.advance()
            drifts = task_drifts(records, seed, new, step, probes)
            for old in probes.tasks[: probes.tasks.index(new)]:
                rows = probes.rows(old)
                parts = {name: values[rows] for name, values in drifts.items()}
                yield pair(
                    old, new, Drifts(**parts, kernel=kernels.of(new, old), kernel_after=kernels.of(new + 1, old))
                )
                stage.advance()


def task_drifts(
    records: Records, seed: int, new: int, step: Params, probes: Probes
) -> dict[str, Float[np.ndarray, "n k"]]:
    """Forecast and measured changes of the scores of all probes before task `new`, by their names in `Drifts`."""
    # Probes come task by task, so that the old tasks' are the first
    images: Float32[np.ndarray, "n h w c"] = probes.images[: probes.rows(new).start]
    (fn, before), (fn_after, after) = (centred_scores(records, seed, c, with_mean=True) for c in (new, new + 1))
    start, end = (Linearized(f, params, images[:2]) for f, params in ((fn, before), (fn_after, after)))
    # With the running mean's move: it doesn't train, but the scores follow it
    moved = difference(after, before)
    values = start.values(images)
    true_step = start.change(images, moved)
    return {
        "before": values,
        "wanted": targets(probes.labels[: len(images)], start.outputs),
        "predicted": start.change(images, mean_step(before, step, new, last=new == records.run.num_tasks - 1)),
        "measured": end.values(images) - values,
        "true_step": true_step,
        # The mean of J at both ends, times Δp (docs/theory.md, section 2.2)
        "trapezoid": (true_step + end.change(images, moved)) / 2,
    }
