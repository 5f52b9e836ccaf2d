"""This project's programs on made-up images, as calls without arguments: what the benchmarks time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.sizes import OFFSET, RATE, SEEN, TASK_CLASSES
from ntkcl_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl_objective import orthogonality_basis
from ntkcl_jax.models.ntkcl import Frozen, Network, Tree
from ntkcl_jax.training.step import TaskArrays, eval_step, make_optimizer, pixels_of, train_step

Programs = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Middle:
    """The middle of a stream: networks and arrays of its last task, in which all classes have been seen or are new.

    Attributes:
        network: the architecture.
        optimizer: with the batch size.
        objective: loss terms.
        adaptation: trainable tree.
        frozen: its other arrays.
        arrays: what the task changes.
        batch: images, on the device.
    """

    network: Network
    optimizer: OptimizerConfig
    objective: ObjectiveConfig
    adaptation: Tree
    frozen: Frozen
    arrays: TaskArrays
    batch: Batch

    @property
    def step_arguments(self) -> tuple[Any, ...]:
        """Arguments of `train_step`; the two that it uses up are fresh copies."""
        state = jax.tree.map(jnp.copy, self.adaptation), make_optimizer(self.optimizer).init(self.adaptation)
        rest = jnp.float32(RATE), jax.random.key(1), jnp.int32(0)
        settings = self.network, self.objective, self.optimizer
        return (*settings, *state, self.frozen, self.arrays, self.batch, *rest)

    @property
    def task_of_class(self) -> jax.Array:
        """Task of every class."""
        return jnp.arange(self.network.classes) // self.network.task_classes


def middle(
    config: ModelConfig,
    batch_size: int,
    dtype: Literal["float32", "bfloat16"],
    *,
    classes: int = SEEN,
    offset: int = OFFSET,
    remat: bool = False,
) -> Middle:
    """Make up a task that follows others.

    Args:
        config: the architecture.
        batch_size: images.
        dtype: arithmetic.
        classes: classes of the stream, those of the task last.
        offset: classes of the tasks before, all with a prototype.
        remat: recompute activations in the backward pass.
    """
    network = Network(config, task_classes=classes - offset, classes=classes, dtype=dtype, remat=remat)
    adaptation, frozen = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(classes, config.feature_dim)).astype(np.float32)
    rows[offset:] = 0
    frozen = frozen._replace(prototypes={**frozen.prototypes, "prototypes/kernel": jnp.asarray(rows)})
    objective = ObjectiveConfig()
    seen = slice(max(0, classes - SEEN), None)  # enough rows for any basis
    basis = orthogonality_basis(rows[seen], len(rows[seen]) - (classes - offset), len(rows[seen]),
                                objective.orthogonality_rank, "reference")  # fmt: skip
    arrays = TaskArrays(
        jax.tree.map(jnp.copy, adaptation),
        jnp.asarray(basis),
        jnp.ones(classes - offset, bool),
        jnp.int32(offset),
        jnp.int32(offset),
    )
    size = config.backbone.image_size
    images = rng.integers(0, 256, (batch_size, size, size, config.backbone.channels), np.uint8)
    labels = (offset + np.arange(batch_size) % (classes - offset)).astype(np.int32)
    batch = jax.device_put(Batch(images, labels, np.ones(batch_size, bool)))
    return Middle(network, OptimizerConfig(batch_size=batch_size), objective, adaptation, frozen, arrays, batch)


def programs(config: ModelConfig, batch_size: int, dtype: Any) -> Programs:
    """The compiled programs in the middle of a stream, on a batch that is on the device already.

    Args:
        config: the architecture.
        batch_size: images.
        dtype: arithmetic, `float32` or `bfloat16`.

    Returns:
        By name: the untouched backbone's forward pass, a batch of evaluation, of prototypes, and a training step.
    """
    made = middle(config, batch_size, dtype)
    network, adaptation, frozen, batch = made.network, made.adaptation, made.frozen, made.batch
    settings, state, rest = made.step_arguments[:3], list(made.step_arguments[3:5]), made.step_arguments[5:]

    def training_step() -> Any:
        state[0], state[1], result = train_step(*settings, *state, *rest)
        return result

    present = min(batch_size, TASK_CLASSES)  # every class counted must have an image
    size = config.backbone.image_size
    backbone = jax.jit(lambda tree, batch: network.backbone_fn(tree, pixels_of(batch, size)))
    return {
        "backbone_forward": lambda: backbone(frozen.backbone, batch),
        "evaluation_step": lambda: eval_step(network, adaptation, frozen, batch, made.task_of_class),
        "prototype_step": lambda: class_means(network, adaptation, frozen, [batch], OFFSET, present),
        "training_step": training_step,
    }
