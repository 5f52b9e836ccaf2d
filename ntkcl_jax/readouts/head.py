"""NTK-CL's features under another classifier: method `ntkcl-ridge`.

After each task the run's own checkpoint gives the features of that task's training images, as they are and in a few
random crops (`readout.views`), and `readouts.ridge` adds them to what it keeps of earlier tasks: no old image is seen
again, nothing is trained. With the hybrid feature h of a view and a fixed random normal R the classifier's input is

    x = (max(0, R h), 1),   scores = xᵀ W,   W = (Σ x xᵀ + λ I)⁻¹ Σ x yᵀ.

Features of earlier tasks stay as they were when their task ended; what that costs is how far adaptation has moved since
(`ntk-analysis forecast`). The sums are stored in the run folder after each task, so the head can go on learning.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.models.ntkcl import Classifier, Frozen, Network, Tree
from ntkcl_jax.readouts.linear import top_classes, with_constant
from ntkcl_jax.readouts.ridge import RidgeClassifier, learn, random_relu
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import Setup, epoch_batches
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.seedrun import SeedRun
from ntkcl_jax.training.step import pixels_of

METHOD = "ntkcl-ridge"
MOVING = (
    f"{METHOD} adds up features as each task left them, and training on later tasks moves them; with "
    "--optimizer.later-learning-rate 0 they stay, which was worth more on a real backbone (README, Results)"
)
"""What to say of a run whose features move after the first task."""


@functools.partial(jax.jit, static_argnums=(0,))
def _features(network: Classifier, trainable: Tree, frozen: Any, batch: Batch) -> Float[Array, "b e"]:
    return network.apply_fn(trainable, frozen, pixels_of(batch, network.image_size), "features")


def network_features(
    network: Classifier, trainable: Tree, frozen: Any, batches: Iterable[Batch]
) -> tuple[Float[np.ndarray, "n e"], Int[np.ndarray, "n"]]:
    """What a network's classifier reads (NTK-CL: the hybrid feature), and label, of every valid row, in order."""
    parts = [(_features(network, trainable, frozen, batch), batch.labels, batch.valid) for batch in batches]
    features, labels = zip(*((x[valid], y[valid]) for x, y, valid in map(fetch, parts)), strict=True)
    return np.concatenate(features), np.concatenate(labels)


def view_features(
    setup: Setup, adaptation: Tree, frozen: Frozen, members: Int[np.ndarray, "n"], seed: int, task: int, views: int
) -> Float[np.ndarray, "n v e"]:
    """Hybrid features of training images: under the test transform, then in `views` random crops.

    The crops are those of the epochs that would have followed the task's training, so none was trained on.

    Args:
        setup: images and network.
        adaptation: the trained tree.
        frozen: the network's other arrays.
        members: places of the images in the training side.
        seed: the run's seed.
        task: their task, from 0.
        views: crops of each image.
    """
    places = np.arange(len(members))  # in the labels' stead: they say where each row of a shuffled batch belongs
    plain, _ = network_features(setup.network, adaptation, frozen, setup.views("train", members, places))
    out = [plain]
    size, later = setup.config.compute.eval_batch_size, setup.config.optimizer.epochs
    for view in range(views):
        batches = epoch_batches(setup, setup.source.train, members, places, seed, task, later + view, 0, size)
        features, order = network_features(setup.network, adaptation, frozen, batches)
        out.append(features[np.argsort(order)])
    return np.stack(out, axis=1)


@dataclass(frozen=True)
class RidgeHead:
    """The ridge classifier of a seed, and what it scored after each of the tasks that it has learnt.

    Attributes:
        classifier: sums over all images seen, in the random features.
        seed: the run's seed, which fixes R.
        evaluations: one for each task learnt.
    """

    classifier: RidgeClassifier
    seed: int
    evaluations: tuple[TaskEvaluation, ...] = ()

    @classmethod
    def stored(cls, folder: RunFolder, seed: int, tasks: int, empty: RidgeClassifier | None = None) -> Self | None:
        """The newest head that a run folder holds.

        Args:
            folder: of the run.
            seed: one of the run's seeds.
            tasks: how many the stream has.
            empty: a classifier of the run's shape, if the head must have it.

        Returns:
            None where none was stored yet.

        Raises:
            RunFolderError: it is damaged or of another shape.
        """
        for task in reversed(range(tasks)):
            path = folder.task(seed, task, "after", METHOD)
            if checkpoint.exists(path):
                trees, meta = checkpoint.load(path, None if empty is None else {"ridge": empty.arrays})
                evaluations = tuple(TaskEvaluation(**record) for record in meta["evaluations"])
                return cls(RidgeClassifier(**trees["ridge"], images=meta["images"]), seed, evaluations)
        return None

    def store(self, folder: RunFolder) -> None:
        """Write the head as the state after its last task, then drop the one before: it holds nothing that this lacks.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        task, kept = len(self.evaluations) - 1, self.classifier
        meta = {"images": kept.images, "evaluations": [e.to_record() for e in self.evaluations], "seed": self.seed}
        checkpoint.save(folder.task(self.seed, task, "after", METHOD), {"ridge": kept.arrays}, meta)
        for earlier in range(task):
            checkpoint.remove(folder.task(self.seed, earlier, "after", METHOD))

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """The classifier's input x = (max(0, R h), 1) of hybrid features h."""
        width = len(self.classifier.gram) - 1
        return with_constant(random_relu(features, width, stream_seed(self.seed, METHOD)))

    def scores(
        self, network: Network, adaptation: Tree, frozen: Frozen, batches: Iterable[Batch]
    ) -> Float[np.ndarray, "n c"]:
        """Score of every class of the stream for each image; classes not learnt yet score zero.

        Args:
            network: the architecture.
            adaptation: the trainable tree at the end of the last task learnt.
            frozen: the network's other arrays then.
            batches: images under the test transform.
        """
        features, _ = network_features(network, adaptation, frozen, batches)
        return self.expand(features) @ self.classifier.weights()

    def evaluate(self, setup: Setup, scenario: Scenario, task: int, adaptation: Tree, frozen: Frozen) -> TaskEvaluation:
        """Classify the test images of all classes seen by the end of a task, the last one learnt."""
        labels, offsets = scenario.relabel(setup.source.test.labels), scenario.offsets[: task + 2]
        seen = np.flatnonzero(labels < offsets[-1])
        scores = self.scores(setup.network, adaptation, frozen, setup.views("test", seen, labels[seen]))
        return top_classes(scores[:, : offsets[-1]], labels[seen], offsets)


def ridge_readout(run: SeedRun) -> Iterator[TaskEvaluation]:
    """Classify with a ridge on random ReLU features of the hybrid features, task after task.

    Every task's state is stored; a readout that was interrupted goes on after the last one.

    Args:
        run: a seed of NTK-CL, all of its tasks finished.

    Yields:
        One evaluation per task.

    Raises:
        RunFolderError: a task isn't finished, or a checkpoint is damaged.
    """
    setup, scenario, folder = run.setup, run.scenario, run.folder
    width, views = setup.config.readout.random_features, setup.config.readout.views
    empty = RidgeClassifier.empty(width + 1, scenario.num_classes)
    head = RidgeHead.stored(folder, run.seed, scenario.num_tasks, empty) or RidgeHead(empty, run.seed)
    yield from head.evaluations
    for task in range(len(head.evaluations), scenario.num_tasks):
        state = run.restored(checkpoint.load(folder.task(run.seed, task, "after"), run.like)[0])
        members = run.members(task)
        features = view_features(setup, state.adaptation, state.frozen, members, run.seed, task, views)
        head = replace(head, classifier=learn(head.classifier, features, run.labels[members], head.expand))
        evaluation = head.evaluate(setup, scenario, task, state.adaptation, state.frozen)
        head = replace(head, evaluations=(*head.evaluations, evaluation))
        head.store(folder)
        yield evaluation
