"""This project's programs on made-up images, as calls without arguments: what the benchmarks time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.sizes import OFFSET, RATE, SEEN, TASK_CLASSES
from ntkcl_jax.config import ModelConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import LearnerState, Recipe, Task, pixels_of
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import BASIS, NTKCL
from ntkcl_jax.methods.ntkcl_objective import orthogonality_basis
from ntkcl_jax.training.step import eval_step, train_step
from ntkcl_jax.training.task_loop import begun

Programs = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Middle:
    """The middle of a stream: NTK-CL in its last task, in which all classes have been seen or are new.

    Attributes:
        learner: with the architecture.
        state: what it trains, and its other arrays.
        task: the last one.
        batch: images, on the device.
    """

    learner: NTKCL
    state: LearnerState
    task: Task
    batch: Batch

    @property
    def recipe(self) -> Recipe:
        """How it trains."""
        return self.learner.recipe.compiled

    @property
    def step_arguments(self) -> tuple[Any, ...]:
        """Arguments of `train_step`: two settings, the state that it uses up (a fresh copy), and the rest."""
        _, fresh = begun(self.recipe, self.state.trainable, None)
        rest = self.task, self.batch, jnp.float32(RATE), jax.random.key(1)
        return (self.learner, self.recipe, fresh, self.state.frozen, *rest)

    @property
    def task_of_class(self) -> jax.Array:
        """Task of every class."""
        return jnp.arange(self.learner.classes) // self.learner.task_classes


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
    new = classes - offset
    tasks = -(-classes // new)
    learner = NTKCL(
        config.backbone, tasks=tasks, classes=classes, task_classes=new, dtype=dtype, remat=remat, model=config,
        batch_size=batch_size, classes_per_task=new,
    )  # fmt: skip
    trainable, frozen = learner.network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(classes, config.feature_dim)).astype(np.float32)
    # The task's own classes have no prototype yet
    rows[offset:] = 0
    objective = learner.objective
    seen = slice(max(0, classes - SEEN), None)  # enough rows for any basis
    basis = orthogonality_basis(rows[seen], len(rows[seen]) - new, len(rows[seen]),
                                objective.orthogonality_rank, "reference")  # fmt: skip
    buffers = {"prototypes/kernel": jnp.asarray(rows), BASIS: jnp.asarray(basis)} | learner.anchored(trainable)
    size = config.backbone.image_size
    images = rng.integers(0, 256, (batch_size, size, size, config.backbone.channels), np.uint8)
    labels = (offset + np.arange(batch_size) % new).astype(np.int32)
    batch = jax.device_put(Batch(images, labels, np.ones(batch_size, bool)))
    task = Task(jnp.int32(tasks - 1), jnp.arange(classes) >= offset)
    return Middle(learner, LearnerState(trainable, frozen).updated(buffers=buffers), task, batch)


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
    learner, batch = made.learner, made.batch
    # The step uses its state up: each call goes on from what the last one gave
    settings, held, rest = made.step_arguments[:2], [made.step_arguments[2]], made.step_arguments[3:]

    def training_step() -> Any:
        held[0], result = train_step(*settings, held[0], *rest)
        return result

    present = min(batch_size, TASK_CLASSES)  # every class counted must have an image
    backbone = jax.jit(lambda tree, batch: learner.network.backbone_fn(tree, pixels_of(batch, learner.image_size)))
    return {
        "backbone_forward": lambda: backbone(made.state.frozen.backbone, batch),
        "evaluation_step": lambda: eval_step(learner, *made.state, batch, made.task_of_class, ~made.task.new),
        "prototype_step": lambda: class_means(learner, *made.state, [batch], OFFSET, present),
        "training_step": training_step,
    }
