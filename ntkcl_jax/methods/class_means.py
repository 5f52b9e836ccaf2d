"""Prototypes: the class means of features that classify at test time, and the running mean of the streams."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.errors import DataError
from ntkcl_jax.models.ntkcl import Classifier, Tree
from ntkcl_jax.training.step import pixels_of


@functools.partial(jax.jit, static_argnums=(0,))
def _class_sums(
    network: Classifier, trainable: Tree, frozen: Any, batch: Batch, offset: Int[Array, ""]
) -> tuple[Float[Array, "n e"], Int[Array, "n"]]:
    """Sum of features and number of images of each of the task's classes in a batch."""
    n = network.task_classes
    local = jnp.where(batch.valid, batch.labels - offset, n)  # padding falls off the end
    features = network.apply_fn(trainable, frozen, pixels_of(batch, network.image_size), "features")
    # The padded rows of an image batch may hold anything: they must not reach the sum, not even times zero.
    features = jnp.where(batch.valid[:, None], features, 0.0)
    sums = jax.ops.segment_sum(features, local, num_segments=n + 1)[:n]
    return sums, jax.ops.segment_sum(batch.valid.astype(jnp.int32), local, num_segments=n + 1)[:n]


def class_means(
    network: Classifier, trainable: Tree, frozen: Any, batches: Iterable[Batch], offset: int, classes: int
) -> np.ndarray:
    """Mean feature (NTK-CL: hybrid), not normalised, of each class of a task.

    Args:
        network: NTK-CL's network or that of another method.
        trainable: trainable tree at the task's end.
        frozen: its other arrays; NTK-CL: with the *updated* running mean.
        batches: the task's training images under the test transform.
        offset: the task's first class.
        classes: number of classes of the task.

    Returns:
        (classes, e) float32, summed in float64 over batches.

    Raises:
        DataError: a class has no image.
    """
    parts = fetch([_class_sums(network, trainable, frozen, batch, jnp.int32(offset)) for batch in batches])
    total = np.sum([s.astype(np.float64) for s, _ in parts], axis=0)[:classes]
    count = np.sum([c for _, c in parts], axis=0)[:classes]
    if (count == 0).any():
        raise DataError(f"class {offset + int(np.argmin(count))} has no training image, so it has no prototype")
    return (total / count[:, None]).astype(np.float32)


def write_prototypes(prototypes: Tree, means: np.ndarray, offset: int) -> Tree:
    """Put a task's class means into the prototype head and mark the classes as seen; old rows stay as they are."""
    rows = slice(offset, offset + len(means))
    return {
        **prototypes,
        "prototypes/kernel": prototypes["prototypes/kernel"].at[rows].set(means),
        "prototypes/seen": prototypes["prototypes/seen"].at[rows].set(True),
    }


def updated_mean(mean: Tree, adaptation: Tree, task: int) -> Tree:
    """Mean of the current streams of tasks 0..`task`: `mean <- t/(t+1) * mean + 1/(t+1) * current`.

    After task 0 it is the current set itself, whatever the mean started from.

    Example:
        >>> one = {"current/x": jnp.array(4.0)}
        >>> float(updated_mean({"mean/x": jnp.array(1.0)}, one, task=2)["mean/x"])
        2.0
    """
    old = task / (task + 1)
    return {
        path: old * value + (1 - old) * adaptation[path.replace("mean/", "current/", 1)] for path, value in mean.items()
    }
