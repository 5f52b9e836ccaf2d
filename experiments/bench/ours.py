"""This project's programs on made-up images, as calls without arguments: what the benchmarks time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.sizes import OFFSET, RATE, SEEN, TASK_CLASSES
from ntkcl_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.nn.model import Network
from ntkcl_jax.objective import orthogonality_basis
from ntkcl_jax.prototypes import class_means
from ntkcl_jax.steps import TaskArrays, eval_step, make_optimizer, pixels_of, train_step

Programs = dict[str, Callable[[], Any]]


def programs(config: ModelConfig, batch_size: int, dtype: Any) -> Programs:
    """The compiled programs in the middle of a stream, on a batch that is on the device already.

    Args:
        config: the architecture.
        batch_size: images.
        dtype: arithmetic, `float32` or `bfloat16`.

    Returns:
        By name: the untouched backbone's forward pass, a batch of evaluation, of prototypes, and a training step.
    """
    network = Network(config, task_classes=TASK_CLASSES, classes=SEEN, dtype=dtype)
    adaptation, frozen = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(SEEN, config.feature_dim)).astype(np.float32)
    rows[OFFSET:] = 0
    frozen = frozen._replace(prototypes={**frozen.prototypes, "prototypes/kernel": jnp.asarray(rows)})
    optimizer, objective = OptimizerConfig(batch_size=batch_size), ObjectiveConfig()
    basis = orthogonality_basis(rows, OFFSET, SEEN, objective.orthogonality_rank, "reference")
    arrays = TaskArrays(
        jax.tree.map(jnp.copy, adaptation),
        jnp.asarray(basis),
        jnp.ones(TASK_CLASSES, bool),
        jnp.int32(OFFSET),
        jnp.int32(OFFSET),
    )
    size = config.backbone.image_size
    images = rng.integers(0, 256, (batch_size, size, size, config.backbone.channels), np.uint8)
    labels = (OFFSET + np.arange(batch_size) % TASK_CLASSES).astype(np.int32)
    batch = jax.device_put(Batch(images, labels, np.ones(batch_size, bool)))
    task_of_class = jnp.arange(SEEN) // TASK_CLASSES
    state = [jax.tree.map(jnp.copy, adaptation), make_optimizer(optimizer).init(adaptation)]
    key, rate, step = jax.random.key(1), jnp.float32(RATE), jnp.int32(0)

    def training_step() -> Any:
        state[0], state[1], result = train_step(
            network, objective, optimizer, *state, frozen, arrays, batch, rate, key, step
        )
        return result

    present = min(batch_size, TASK_CLASSES)  # every class counted must have an image
    backbone = jax.jit(lambda tree, batch: network.backbone_fn(tree, pixels_of(batch, size)))
    return {
        "backbone_forward": lambda: backbone(frozen.backbone, batch),
        "evaluation_step": lambda: eval_step(network, adaptation, frozen, batch, task_of_class),
        "prototype_step": lambda: class_means(network, adaptation, frozen, [batch], OFFSET, present),
        "training_step": training_step,
    }
