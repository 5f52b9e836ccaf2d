"""What is measured: later tasks trained again without some images, and the run's step kept off some old losses."""

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float, Int

from analysis.kernels.batches import tiles
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, centred_scores, difference, mean_step, right, targets
from analysis.records.probes import Probes
from analysis.studies.influence.coreset import chosen_by
from analysis.studies.influence.engine import correlated, looks
from analysis.studies.influence.look import TaskInfluence
from analysis.studies.influence.network import sides_of
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import InfluenceRequest
from analysis.theory.influence import SMALLEST
from experiments.commands import Say
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import steps_per_epoch
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.runs.context import epoch_batches
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.run import train
from ntkcl_jax.training.task_loop import fit_task

TILE = 50
"""Images that are evaluated at once."""
PROBES = 60
"""Test images of each old task that influences are computed on."""


@dataclass(frozen=True)
class Judge:
    """The network before a later task, evaluated after any step, on test images that influence hasn't seen.

    Attributes:
        fn: centred scores.
        before: their parameters and running mean.
        task: the later task.
        last: whether it is the run's last one.
        old: old tasks' images and labels.
        new: the later task's.
    """

    fn: Partial
    before: Params
    task: int
    last: bool
    old: tuple[np.ndarray, np.ndarray]
    new: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, records: Records, seed: int, task: int, tests: Probes) -> "Judge":
        """Before a later task of a seed."""
        fn, before = centred_scores(records, seed, task, with_mean=True)
        parts = []
        for t in range(task):
            recorded = records.task(seed, t)
            labels = recorded.labels_of("test")
            unseen = np.setdiff1d(np.arange(len(labels)), tests.positions[tests.rows(t)])
            parts.append((recorded.images("test", unseen), labels[unseen]))
        recorded = records.task(seed, task)
        old = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        new = (recorded.images("test"), recorded.labels_of("test"))
        return cls(fn, before, task, task == records.run.num_tasks - 1, (old[0], old[1]), new)

    def after(self, step: Params) -> dict[str, float]:
        """Losses and accuracies after a step of the trained parameters, the running mean following."""
        moved = mean_step(self.before, step, self.task, last=self.last)
        at = {path: np.asarray(value + moved[path], np.float32) for path, value in self.before.items()}
        found = {}
        for side, (images, labels) in (("old", self.old), ("new", self.new)):
            scores = scored(self.fn, at, images)
            wanted = targets(labels, scores.shape[1])
            found[f"{side}_loss"] = float(0.5 * np.square(wanted - scores).sum(axis=1).mean())
            found[f"{side}_accuracy"] = float(right(scores, labels).mean())
        return found


@jax.jit
def _scores(fn: Partial, params: Params, images: jax.Array) -> jax.Array:
    return fn(params, images)


def scored(fn: Partial, params: Params, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
    """Outputs of a function, by one program for all tasks and seeds."""
    parts = [
        np.asarray(_scores(fn, params, tile), np.float64)[: rows.stop - rows.start]
        for rows, tile in tiles(images, TILE)
    ]
    return np.concatenate(parts)


def trained_without(records: Records, seed: int, task: int, out: Int[np.ndarray, "k"]) -> Params:
    """The step that the run's own training of a task makes without some of its images."""
    context, recorded = records.run.context, records.task(seed, task)
    scenario, learner = context.scenarios[seed], records.run.learner
    labels = scenario.relabel(context.source.train.labels)
    members = np.delete(np.flatnonzero(np.isin(labels, scenario.classes(task))), out)
    state = LearnerState(recorded.before, recorded.frozen_before)
    batches = partial(epoch_batches, context, context.source.train, members, labels[members], seed, task)
    steps = steps_per_epoch(len(members), context.config.optimizer.batch_size)
    *_, fitted = fit_task(
        learner, context.config, scenario, state, batches, task=task, seed=seed, steps_in_epoch=steps
    )  # fmt: skip
    return difference(fitted.state.trainable, sides_of(records, seed, task).params)


@dataclass(frozen=True)
class Keeper:
    """A step of a later task, and old training images whose losses it may be kept off.

    Attributes:
        model: the centred scores' first order before the task.
        images: all old training images.
        gradients: of their losses by their scores.
        kernel: of their loss gradients.
        change: what the step does to their losses, to first order.
        step: of the trained parameters.
    """

    model: Linearized
    images: Float[np.ndarray, "o h w c"]
    gradients: Float[np.ndarray, "o k"]
    kernel: Float[np.ndarray, "o o"]
    change: Float[np.ndarray, "o"]
    step: Params

    @classmethod
    def of(cls, records: Records, seed: int, made: TaskInfluence, remembered: Probes, step: Params) -> "Keeper":
        """Of a later task that was looked at."""
        sides, m = sides_of(records, seed, made.task), len(made.forecast)
        model = Linearized(sides.old, sides.params, remembered.images[:2])
        gradients = model.values(remembered.images) - targets(remembered.labels, model.outputs)
        change = (gradients * model.change(remembered.images, step)).sum(axis=1)
        return cls(model, remembered.images, gradients, made.kernel[m:, m:], change, step)

    def off(self, chosen: Int[np.ndarray, "k"]) -> Params:
        """The step without the directions along which the chosen images' losses change."""
        inner = self.kernel[np.ix_(chosen, chosen)]
        dual = np.linalg.pinv(inner, rcond=SMALLEST, hermitian=True) @ self.change[chosen]
        return difference(self.step, self.model.step(self.images[chosen], self.gradients[chosen] * dual[:, None]))


def measured(config: RunConfig, seed: int, share: float, draws: int, remember: int, say: Say) -> dict[str, Any]:
    """Everything of a stream and seed, one entry for each later task.

    Args:
        config: of the run.
        seed: of the run.
        share: part of a task's images that is left out.
        draws: random choices.
        remember: old training images in a coreset.
        say: is told how far it is.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder, Progress(quiet=True) as progress:
        run = Path(folder) / "run"
        train(replace(config, seeds=(seed,), methods=("ntkcl",)), run, quiet=True)
        say(f"seed {seed}: trained")
        records = open_ntkcl(run, "influences")
        for one in looks(records, seed, InfluenceRequest(per_task=PROBES, coreset=remember), progress):
            say(f"seed {seed}: influences of task {one.made.task + 1}")
            found.append(one_task(records, seed, one.made, one.tests, one.remembered, share, draws, remember))
            say(f"seed {seed}: task {one.made.task + 1} trained again")
    changed = {
        "later_learning_rate": config.optimizer.later_learning_rate,
        "lambda_reg": config.objective.lambda_reg,
        "limit_per_class": config.data.limit_per_class,
    }
    asked = {"share": share, "draws": draws, "remember": remember, "probes": PROBES}
    return {"seed": seed, **asked, "settings": changed, "tasks": found}


def one_task(
    records: Records, seed: int, made: TaskInfluence, tests: Probes, remembered: Probes, share: float, draws: int,
    remember: int,
) -> dict[str, Any]:  # fmt: skip
    """A later task trained again in every way, and its step kept off what each coreset remembers."""
    judge, total = Judge.of(records, seed, made.task, tests), made.tests.sum(axis=0)
    count = max(1, round(share * len(total)))
    rng = np.random.default_rng(stream_seed(seed, "influence", made.task))
    order = np.argsort(-total, kind="stable")
    random = [rng.choice(len(total), count, replace=False) for _ in range(draws)]
    every = partial(trained_without, records, seed, made.task)
    own = every(np.array([], np.int64))
    still = {path: np.zeros_like(value) for path, value in own.items()}
    kept = {rule: [chosen] for rule, chosen in chosen_by(made, remember).items()}
    kept["random"] = [rng.choice(len(remembered.labels), remember, replace=False) for _ in range(draws)]

    keeper = Keeper.of(records, seed, made, remembered, own)
    return {
        "task": made.task,
        "images": len(total),
        "left_out": count,
        "correlation": correlated(made.forecast, made.measured.loss_change),
        "by_images": float(total.sum() / len(made.forecast)),
        "rest": float(made.rest.mean()),
        "forecast": float(made.forecast.mean()),
        "measured": float(made.measured.loss_change.mean()),
        "expected": {
            "harmful": float(total[order[:count]].sum() / len(made.forecast)),
            "helpful": float(total[order[-count:]].sum() / len(made.forecast)),
        },
        "before": judge.after(still),
        "all": judge.after(own),
        "harmful": judge.after(every(order[:count])),
        "helpful": judge.after(every(order[-count:])),
        "random": [judge.after(every(chosen)) for chosen in random],
        "kept": {rule: [judge.after(keeper.off(one)) for one in choices] for rule, choices in kept.items()},
    }
