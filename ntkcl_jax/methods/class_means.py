"""Class means of a learner's features: NTK-CL's prototypes, EASE's, and those of the readout `prototypes`."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.errors import DataError
from ntkcl_jax.methods.base import Learner, pixels_of
from ntkcl_jax.models.functional import Frozen, Tree


@functools.partial(jax.jit, static_argnums=(0,))
def _class_sums(
    learner: Learner, trainable: Tree, frozen: Frozen, batch: Batch, offset: Int[Array, ""]
) -> tuple[Float[Array, "n e"], Int[Array, "n"]]:
    """Sum of features and number of images of each of the task's classes in a batch."""
    n = learner.task_classes
    local = jnp.where(batch.valid, batch.labels - offset, n)  # padding falls off the end
    features = learner.features(trainable, frozen, pixels_of(batch, learner.image_size))
    # The padded rows of an image batch may hold anything: they must not reach the sum, not even times zero.
    features = jnp.where(batch.valid[:, None], features, 0.0)
    sums = jax.ops.segment_sum(features, local, num_segments=n + 1)[:n]
    return sums, jax.ops.segment_sum(batch.valid.astype(jnp.int32), local, num_segments=n + 1)[:n]


def class_means(
    learner: Learner, trainable: Tree, frozen: Frozen, batches: Iterable[Batch], offset: int, classes: int
) -> np.ndarray:
    """Mean feature (NTK-CL: hybrid), not normalised, of each class of a task.

    Args:
        learner: whose features.
        trainable: trainable tree at the task's end.
        frozen: backbone and buffers; NTK-CL: with the *updated* running mean.
        batches: the task's training images under the test transform.
        offset: the task's first class.
        classes: number of classes of the task.

    Returns:
        (classes, e) float32, summed in float64 over batches.

    Raises:
        DataError: a class has no image.
    """
    # All batches are queued before any result is waited for
    parts = fetch([_class_sums(learner, trainable, frozen, batch, jnp.int32(offset)) for batch in batches])
    # The arrays are as long as the largest task; this one may be smaller
    total = np.sum([s.astype(np.float64) for s, _ in parts], axis=0)[:classes]
    count = np.sum([c for _, c in parts], axis=0)[:classes]
    if (count == 0).any():
        raise DataError(f"class {offset + int(np.argmin(count))} has no training image, so it has no prototype")
    return (total / count[:, None]).astype(np.float32)
