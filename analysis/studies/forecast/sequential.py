"""Forecasts of the linear baseline: a classifier on frozen features, whose forgetting kernels alone predict exactly.

The kernel of a linear classifier on features H is H Hᵀ ⊗ I at every checkpoint. The baseline's own training (cross-
entropy over the classes seen, momentum, cosine, its very batches) is repeated in function space, without weights, and
compared with the weights that training in float32 finds.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from analysis.errors import RecordError
from analysis.records.checkpoints import Records
from analysis.records.probes import Probes
from analysis.studies.forecast.pairs import Drifts, concentrated, pair
from analysis.theory.losses import CrossEntropy, loss_change
from analysis.theory.recursion import Sgd, Trained, descend
from ntkcl_jax.readouts.base import with_constant
from ntkcl_jax.readouts.linear import (
    LINEAR_BATCH,
    LINEAR_EPOCHS,
    LINEAR_MOMENTUM,
    linear_key,
    linear_order,
    linear_rate,
)
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.readout_run import ReadoutRun, StoredReadout
from ntkcl_jax.training.run import Runs

METHOD = "sequential"


def own_training(seed: int, task: int, n: int) -> Sgd:
    """The baseline's optimizer on a task of n images: rates of the sum objective (η'/n), and its own batches."""
    # [steps, batch] for each epoch, from the keys that training itself splits off
    orders = [
        linear_order(key, n, LINEAR_BATCH) for key in jax.random.split(linear_key(METHOD, seed, task), LINEAR_EPOCHS)
    ]
    batches = np.concatenate([np.asarray(order) for order in orders])
    # float32 as optax has them, then exact in float64
    rates = np.asarray(linear_rate(len(batches))(jnp.arange(len(batches))), np.float64)
    return Sgd(rates / n, batches, LINEAR_MOMENTUM)


def learn(
    inputs: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "d k"],
    seen: int,
    sgd: Sgd,
) -> Trained:
    """Learn a task in function space, from the kernel of its inputs and the logits before."""
    # Classes of later tasks take no part, as in training
    loss = CrossEntropy(labels, np.arange(weights.shape[1]) < seen)
    return descend(inputs @ inputs.T, inputs @ weights, loss.gradient, sgd)


def forecast_sequential(records: Records, seed: int, probes: Probes, progress: Progress) -> Iterator[dict[str, Any]]:
    """Forecast what each task did to those before it, for the baseline `sequential`.

    Losses are cross-entropies over the classes seen with the new task. The kernel doesn't change, and J Δp is the
    measured drift, so that `ntk_drift` is 0 and the diagnostic split is None.

    Args:
        records: the run.
        seed: one of its seeds.
        probes: test images of all finished tasks.
        progress: shows tasks and time left.

    Yields:
        One entry for each pair of tasks; see `pair`.

    Raises:
        RecordError: the run has no such baseline, or its training gives other predictions here than in the run.
    """
    context = records.run.context
    scenario = context.scenarios[seed]
    stored = recorded_evaluations(records, seed)
    labels, test_labels = (scenario.relabel(x.labels) for x in (context.source.train, context.source.test))
    with (
        # Training again must not add lines to the run's log
        MetricsLog(Path(os.devnull)) as log,
        progress.stage(f"seed {seed} · forecast of {METHOD}", total=1 + scenario.num_tasks) as stage,
    ):
        runs = Runs(context, RunFolder(records.run.path), log, progress)
        run = ReadoutRun(METHOD, runs.learner(seed, "frozen"), runs.cache)
        readout = run.readout()
        sides = {
            side: run.features(side, 0, np.arange(len(images)))
            for side, images in (("train", context.source.train), ("test", context.source.test))
        }
        stage.advance()
        # In float64 from here on: what differs from the weights is their training's float32
        train, test = (with_constant(x).astype(np.float64) for x in sides.values())
        state = readout.init()
        weights = [state["weights"].astype(np.float64)]
        for task in range(scenario.num_tasks):
            state = readout.learn(state, run.lesson(readout, task))
            # Before anything is said: other predictions mean other batches or another machine's arithmetic
            check_same(records, task, stored, run.evaluate(readout, state, task))
            weights.append(state["weights"].astype(np.float64))
            stage.advance()
            seen = scenario.offsets[task + 1]
            # Nothing is older than the first task
            if task == 0 or task not in probes.tasks:
                continue
            # Relabelled, a task's classes are numbers in a row
            mine = (labels >= scenario.offsets[task]) & (labels < seen)
            inputs = train[mine]
            # `weights[task]` are those before the task
            made = learn(inputs, labels[mine], weights[task], seen, own_training(seed, task, len(inputs)))
            for old in probes.tasks[:task]:
                rows = probes.rows(old)
                # Probes' positions count within their own task's images
                members = np.flatnonzero(np.isin(test_labels, scenario.classes(old)))
                yield _pair(
                    old, task, test[members[probes.positions[rows]]], inputs, made, weights, probes.labels[rows], seen
                )


def _pair(old: int, new: int, images: np.ndarray, inputs: np.ndarray, made: Trained, weights: list[np.ndarray],
          labels: np.ndarray, seen: int) -> dict[str, Any]:  # fmt: skip
    start = images @ weights[new]
    predicted, measured = made.drift(images @ inputs.T), images @ (weights[new + 1] - weights[new])
    # Squared error isn't this baseline's loss: what `pair` says of losses is replaced below
    # Logits have no largest size of their own: what rounding is a part of is theirs here
    largest = float(np.abs(images @ weights[new + 1]).max())
    entry = pair(old, new, Drifts(start, np.zeros_like(start), predicted, measured), largest)
    loss = CrossEntropy(labels, np.arange(start.shape[1]) < seen)
    changes = {
        f"{name}_loss_change": loss_change(loss, start, drift)
        for name, drift in (("predicted", predicted), ("measured", measured))
    }
    # The kernel of samples stands for H Hᵀ ⊗ I
    return (
        entry
        | changes
        | {
            "ntk_drift": 0.0,
            "concentration": concentrated(images @ images.T, measured, of_samples=True) if entry["moved"] else None,
        }
    )


def recorded_evaluations(records: Records, seed: int) -> tuple[TaskEvaluation, ...]:
    """How the baseline classified after each task in the run.

    Raises:
        RecordError: the run has no such baseline.
    """
    pair = records.run.config.pair(METHOD)
    found = StoredReadout.newest(RunFolder(records.run.path), seed, pair, records.run.num_tasks)
    if found is None:
        raise RecordError(
            f"expected the baseline {METHOD} of seed {seed} in {records.run.path}, which isn't there; train a run with "
            f"--methods ntkcl {METHOD}"
        )
    return found.evaluations


def check_same(records: Records, task: int, stored: tuple[TaskEvaluation, ...], found: TaskEvaluation) -> None:
    """Compare an evaluation with the one in the run folder.

    Raises:
        RecordError: training again gave other predictions.
    """
    if task >= len(stored) or not stored[task].agrees(found):
        raise RecordError(
            f"{records.run.path} has other predictions of {METHOD} after task {task} than training the same classifier "
            "here gives; forecast on the machine and with the packages of the run"
        )
