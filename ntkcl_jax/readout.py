"""NTK-CL's features under another classifier: method `ntkcl-ridge`.

After each task the run's own checkpoint gives the features of that task's training images, and `ntkcl_jax.ridge` adds
them to what it keeps of earlier tasks: no old image is seen again, nothing is trained. Features of earlier tasks stay
as they were when their task ended; what that costs is how far adaptation has moved since (`ntk-analysis forecast`).
"""

import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from ntkcl_jax import checkpoint
from ntkcl_jax.baselines import RANDOM_FEATURES, top_classes, with_constant
from ntkcl_jax.data import Batch
from ntkcl_jax.learner import LearnerState
from ntkcl_jax.metrics import TaskEvaluation
from ntkcl_jax.nn.model import Frozen, Network, Tree
from ntkcl_jax.ridge import RidgeClassifier, learn, random_relu
from ntkcl_jax.seedrun import SeedRun
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.steps import pixels_of

METHOD = "ntkcl-ridge"


@functools.partial(jax.jit, static_argnums=(0,))
def _hybrid(network: Network, adaptation: Tree, frozen: Frozen, batch: Batch) -> Float[Array, "b e"]:
    return network.apply_fn(adaptation, frozen, pixels_of(batch, network.config.backbone.image_size), "features")


def hybrid_features(network: Network, state: LearnerState, batches: Iterable[Batch]) -> Float[np.ndarray, "n e"]:
    """Hybrid feature of every valid row, in order."""
    parts = [(_hybrid(network, state.adaptation, state.frozen, batch), batch.valid) for batch in batches]
    return np.concatenate([np.asarray(x)[valid] for x, valid in parts])


def ridge_readout(run: SeedRun) -> Iterator[TaskEvaluation]:
    """Classify with a ridge on random ReLU features of the hybrid features, task after task.

    Args:
        run: a seed of NTK-CL, all of its tasks finished.

    Yields:
        One evaluation per task.

    Raises:
        RunFolderError: a task isn't finished, or its checkpoint is damaged.
    """
    setup, scenario, network = run.setup, run.scenario, run.setup.network
    size, seed = setup.config.compute.eval_batch_size, stream_seed(run.seed, METHOD)
    test_labels = scenario.relabel(setup.source.test.labels)
    classifier = RidgeClassifier.empty(RANDOM_FEATURES + 1, scenario.num_classes)
    for task in range(scenario.num_tasks):
        state = run.restored(checkpoint.load(run.folder.task(run.seed, task, "after"))[0])
        offsets = scenario.offsets[: task + 2]
        new = np.flatnonzero(np.isin(run.labels, scenario.classes(task)))
        seen = np.flatnonzero(test_labels < offsets[-1])
        train, test = (
            with_constant(random_relu(hybrid_features(network, state, batches), RANDOM_FEATURES, seed))
            for batches in (
                setup.train_views.batches(new, run.labels[new], size),
                setup.test_views.batches(seen, test_labels[seen], size),
            )
        )
        classifier = learn(classifier, train, run.labels[new])
        yield top_classes(test @ classifier.weights()[:, : offsets[-1]], test_labels[seen], offsets)
