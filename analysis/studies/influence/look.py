"""One later task: what each of its training images did to the old test images' losses, to first order.

The step is the linearised twin's, as in the forecast (docs/theory.md, section 2.4), and so are scores and losses. It is
the sum of what each training image brings, seen as the network sees test images, and of a rest: the pull to the start
and the decay of the parameters, and what random crops and dropout have made different.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.errors import PlanError
from analysis.records.checkpoints import Records, default_groups
from analysis.records.outputs import Params, centred_scores, right, targets
from analysis.records.probes import Probes
from analysis.studies.forecast.network import run_twin
from analysis.studies.influence.network import linearized, sides_of
from analysis.studies.twin import DUAL, step_of
from analysis.theory.influence import by_class, interplay
from ntkcl_jax.terminal.progress import Stage

CHUNK = 2**30
"""Most bytes of new images that are held at once."""


@dataclass(frozen=True)
class Outcome:
    """Old images before and after a later task.

    Attributes:
        loss_change: by which the half squared error of each one's centred scores grew.
        was_right: whether it was named right before, among all classes of the run.
        is_right: the same after.
        named: as what it is named after.
    """

    loss_change: Float[np.ndarray, "m"]
    was_right: Bool[np.ndarray, "m"]
    is_right: Bool[np.ndarray, "m"]
    named: Int[np.ndarray, "m"]

    @property
    def forgotten(self) -> Bool[np.ndarray, "m"]:
        """Named right before, and wrongly after."""
        return self.was_right & ~self.is_right


@dataclass(frozen=True)
class TaskInfluence:
    """What a later task's images did to m old test images and o old training images.

    Attributes:
        task: the later task.
        labels: classes of its n training images.
        old_classes: the classes before it.
        new_classes: its own.
        influence: I(x, j) of old test images, then old training images.
        forecast: first-order loss change of each old test image, all that the twin's step and the mean do.
        mean_move: the part of it that the running mean does by itself, taking the streams in as they were before.
        groups: what each parameter group's part of the step does, by group; with `mean_move` they add up to `forecast`.
        interplay: I_{c<-c'}, old classes by new ones.
        loss_change: mean first-order loss change of each old class by each new one's images.
        measured: what the run's own training did to the old test images.
        kernel: K(x, x') = ⟨∇ℓ(x), ∇ℓ(x')⟩ over parameters, of old test images, then old training images.
        train_forecast: first-order loss change of each old training image.
    """

    task: int
    labels: Int[np.ndarray, "n"]
    old_classes: tuple[int, ...]
    new_classes: tuple[int, ...]
    influence: Float[np.ndarray, "held n"]
    forecast: Float[np.ndarray, "m"]
    mean_move: Float[np.ndarray, "m"]
    groups: dict[str, Float[np.ndarray, "m"]]
    interplay: Float[np.ndarray, "old new"]
    loss_change: Float[np.ndarray, "old new"]
    measured: Outcome
    kernel: Float[np.ndarray, "held held"]
    train_forecast: Float[np.ndarray, "o"]

    @property
    def tests(self) -> Float[np.ndarray, "m n"]:
        """I(x, j) of the old test images."""
        return self.influence[: len(self.forecast)]

    @property
    def rest(self) -> Float[np.ndarray, "m"]:
        """What of the forecast neither the images nor the running mean bring."""
        return self.forecast - self.mean_move - self.tests.sum(axis=1)


def look(records: Records, seed: int, task: int, tests: Probes, remembered: Probes, stage: Stage) -> TaskInfluence:
    """Look at a later task from the checkpoint before it.

    Args:
        records: the run.
        seed: one of its seeds.
        task: the later task.
        tests: test images of all finished tasks; those of the tasks before it count.
        remembered: training images of the tasks before it.
        stage: shows the twin's steps.

    Raises:
        AnalysisError: a run that doesn't train later tasks, a damaged checkpoint, or memory that doesn't suffice.
        NtkclError: images that can't be read, or a twin that diverges.
    """
    refuse_still(records, task)
    trained = run_twin(records, seed, task, stage, duals=True)
    step, sides = step_of(trained), sides_of(records, seed, task)
    duals = np.asarray(trained.trainable[DUAL], np.float64)
    duals = duals.reshape(len(duals), -1)
    m = tests.rows(task).start
    images = np.concatenate([tests.images[:m], remembered.images])
    labels = np.concatenate([tests.labels[:m], remembered.labels])
    old = linearized(sides.old, sides.params, images)
    values = old.values(images)
    gradients = values - targets(labels, old.outputs)
    recorded = records.task(seed, task)
    own = recorded.labels_of("train")
    new_classes, old_classes = tuple(recorded.labels), tuple(np.unique(labels[:m]).tolist())
    influence = np.zeros((len(images), len(own)))
    steps = {c: {path: np.zeros(value.shape) for path, value in step.items()} for c in new_classes}
    new = linearized(sides.new, sides.params, images)
    for at in chunks(np.arange(len(own)), images[0].nbytes):
        pixels = recorded.images("train", at)
        influence[:, at] = sides.kernel((images, gradients), (pixels, duals[at]))
        for c in np.unique(own[at]).tolist():
            mine = own[at] == c
            part = new.step(pixels[mine], duals[at[mine]])
            steps[c] = {path: value + part[path] for path, value in steps[c].items()}
    changes = np.stack([old.change(images[:m], steps[c]) for c in new_classes])
    along = (gradients[:m] * changes).sum(axis=2).T
    groups = {name: old.change(images, part) for name, part in parts_of(step).items()}
    mean = linearized(*sides.with_mean, images).change(images, sides.pull_in)
    told = {name: (gradients * change).sum(axis=1) for name, change in {**groups, "": mean}.items()}
    every = sum(told.values(), np.zeros(len(images)))
    classes = np.array(old_classes)
    return TaskInfluence(
        task, own, old_classes, new_classes, influence, every[:m], told.pop("")[:m],
        {name: values[:m] for name, values in told.items()},
        interplay(changes, labels[:m], classes), by_class(along, labels[:m], classes),
        outcome(records, seed, task, images[:m], labels[:m], values[:m]),
        sides.kernel((images, gradients)), every[m:],
    )  # fmt: skip


def refuse_still(records: Records, task: int) -> None:
    """Refuse a task that doesn't train.

    Raises:
        PlanError: its learning rate is 0.
    """
    if not records.run.config.optimizer.epochs_of(task):
        raise PlanError(
            "the run doesn't train later tasks (optimizer.later_learning_rate 0), so that none of their images moves "
            "anything: what old tasks lost, new classes took (results.json, `ntk-analysis report`)"
        )


def chunks(positions: Int[np.ndarray, "n"], each: int) -> Sequence[Int[np.ndarray, "_"]]:
    """Images in turns that fit into `CHUNK`, `each` bytes an image.

    Example:
        >>> [part.tolist() for part in chunks(np.arange(3), CHUNK // 2)]
        [[0, 1], [2]]
    """
    size = max(1, CHUNK // each)
    return [positions[at : at + size] for at in range(0, len(positions), size)]


def parts_of(step: Params) -> dict[str, Params]:
    """A step's parts by parameter group, each with zeros elsewhere.

    Example:
        >>> parts = parts_of({"current/adapters/0/up/bias": np.ones(1), "fusion/query": np.ones(1)})
        >>> {name: [float(value[0]) for value in part.values()] for name, part in parts.items()}
        {'channel': [1.0, 0.0], 'fusion': [0.0, 1.0]}
    """
    return {
        name: {path: value if path.startswith(prefixes) else np.zeros_like(value) for path, value in step.items()}
        for name, prefixes in default_groups(list(step)).items()
    }


def outcome(
    records: Records, seed: int, task: int, images: Float[np.ndarray, "m h w c"], labels: Int[np.ndarray, "m"],
    before: Float[np.ndarray, "m k"],
) -> Outcome:  # fmt: skip
    """What the run's own training of a task did to old images, from their centred scores before it."""
    fn, params = centred_scores(records, seed, task + 1)
    after = linearized(fn, params, images).values(images)
    wanted = targets(labels, after.shape[1])
    losses = [0.5 * np.square(wanted - scores).sum(axis=1) for scores in (before, after)]
    return Outcome(losses[1] - losses[0], right(before, labels), right(after, labels), after.argmax(axis=1))
