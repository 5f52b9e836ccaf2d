"""NTK-CL as a learner (Liu et al., arXiv:2407.17120): two adaptation streams, three cross-entropies, three terms more.

A task in order (docs/method.md, section 6): a new proxy head, the directions of the old prototypes (`begin`); training
epochs (`loss`); the running mean takes the task in, class means of hybrid features become prototypes, the anchor moves
(`end`). The network is `models/ntkcl.py`, the terms of the loss are `ntkcl_objective.py`.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ntkcl_jax.config import ModelConfig, ObjectiveConfig, RunConfig, Variant
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.devices.flops import training_flops
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.errors import ConfigError, NonFiniteError
from ntkcl_jax.methods.base import Learner, LearnerState, Recipe, Task, Views, shape_of
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl_objective import (
    TERMS,
    OldRows,
    cross_entropy,
    dissimilarity,
    is_regularized,
    orthogonality,
    orthogonality_basis,
    regularization,
)
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.heads import ProxyHead
from ntkcl_jax.models.ntkcl import OUTPUTS, Features, Network
from ntkcl_jax.models.variables import Adaptation

ANCHOR = "anchor/"
"""Buffers that hold the parameters at the previous task's end (in task 0: the initial ones), which L_reg pulls to."""
BASIS = "basis"
"""Buffer with directions of the old prototypes, (e, k), for L_orth."""
MEAN = "mean/"
"""Buffers that hold the running mean of the streams."""
PARTS: dict[str, tuple[str, ...]] = {
    "channel": ("current/adapters/",),
    "patch": ("current/prompts/",),
    "fusion": ("fusion/",),
    "head": ("proxy/",),
}
"""Parameter groups by what they adapt, as prefixes of their paths."""


@dataclass(frozen=True)
class NTKCL(Learner):
    """NTK-CL.

    Attributes:
        model: streams, fusion and heads.
        objective: forms and weights of the loss terms.
        batch_size: most old prototypes that one step draws for L_dis.
        classes_per_task: classes of every task but the first; the `reference` form of L_dis counts by it.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batch_size: int = 16
    classes_per_task: int = 1

    name: ClassVar = "ntkcl"
    terms: ClassVar = TERMS
    parts: ClassVar = PARTS
    recipe: ClassVar = Recipe("sgd", learning_rate=0.025, schedule="cosine", weight_decay=5e-4)
    outputs: ClassVar = OUTPUTS
    seen: ClassVar = "prototypes/seen"
    class_buffers: ClassVar = ("prototypes/kernel", "prototypes/scale", "prototypes/seen")

    def __post_init__(self) -> None:
        """Refuse a model for another backbone."""
        if self.model.backbone != self.backbone:
            raise ConfigError(
                f"expected a model for {self.backbone}, got one for {self.model.backbone}; use one of them for both"
            )

    @classmethod
    def of(cls, config: RunConfig, scenario: Scenario) -> Self:
        """Shape NTK-CL for a run."""
        return cls(
            **shape_of(config, scenario),
            model=config.model,
            objective=config.objective,
            batch_size=config.optimizer.batch_size,
            classes_per_task=config.data.classes_per_task,
        )

    def recipe_of(self, config: RunConfig) -> Recipe:
        """SGD with the run's own settings, which are NTK-CL's."""
        optimizer = config.optimizer
        return Recipe(
            "sgd",
            optimizer.learning_rate,
            "cosine",
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            later_learning_rate=optimizer.later_learning_rate,
        )

    def epochs_of(self, config: RunConfig, task: int) -> int:
        """Passes over a task's images; none where the later rate is 0."""
        return config.optimizer.epochs_of(task)

    def step_flops(self, config: RunConfig) -> int:
        """FLOPs of the matrix products of one step."""
        return training_flops(config, self.classes)

    def stream(self, purpose: str, *numbers: int) -> tuple[str | int, ...]:
        """Random streams without the learner's name, which came first; what a task draws is its proxy head."""
        return ("proxy" if purpose == "task" else purpose, *numbers)

    @property
    def network(self) -> Network:
        """The architecture as pure functions."""
        return Network(
            self.model,
            task_classes=self.task_classes,
            classes=self.classes,
            dtype=self.dtype,
            remat=self.remat,
            normalize=self.normalize,
        )

    @property
    def weights(self) -> dict[str, float]:
        """η, υ and λ of the three terms beside the cross-entropies."""
        objective = self.objective
        return {
            "dissimilarity": objective.lambda_dis,
            "orthogonality": objective.lambda_orth,
            "regularization": objective.lambda_reg,
        }

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw the streams, fusion and proxy head; the mean is a copy of the streams, no class has a prototype."""
        trainable, frozen = self.network.init(key, {})
        width = self.model.feature_dim
        basis = jnp.zeros((width, min(self.objective.orthogonality_rank, width)))
        return trainable, frozen.buffers | self.anchored(trainable) | {BASIS: basis}

    def anchored(self, trainable: Tree) -> Tree:
        """Buffers of an anchor at `trainable`: what L_reg covers."""
        variant = self.objective.regularization
        return {ANCHOR + path: value for path, value in trainable.items() if is_regularized(path, variant)}

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Give the task a new proxy head, and find the directions of the old prototypes."""
        head = ProxyHead(self.task_classes, self.model.feature_dim, Adaptation, nnx.Rngs(params=key))
        old = int(task.offset)
        # In NumPy: once a task, of arrays whose sizes differ from task to task
        basis = orthogonality_basis(
            fetch(state.frozen.buffers["prototypes/kernel"]),
            old=old,
            allocated=old + int(task.size),
            rank=self.objective.orthogonality_rank,
            variant=self.objective.orthogonality,
        )
        proxy = {"proxy/kernel": head.kernel[...], "proxy/scale": head.scale[...]}
        return state.updated(proxy, {BASIS: jnp.asarray(basis)})

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b c"]]:
        """All terms of a batch; old prototypes and dropout are drawn from the key."""
        row_key, dropout_key = jax.random.split(key)
        old = old_prototype_rows(self.objective.dissimilarity, task, self.classes_per_task)
        rows = draw_old_rows(row_key, frozen.buffers["prototypes/kernel"], old, self.batch_size)
        terms, _, logits = self.terms_of(trainable, frozen, task, batch, rows, dropout_key)
        return terms, logits

    def terms_of(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, old_rows: OldRows, key: Key | None
    ) -> tuple[dict[str, Array], Features, Float[Array, "b c"]]:
        """Compute every unweighted loss term of a batch.

        Args:
            trainable: the trainable tree.
            frozen: backbone and buffers.
            task: the current task.
            batch: pixels in [0, 1], labels in the stream's numbering.
            old_rows: old prototypes drawn for this step.
            key: dropout key; None switches dropout off.

        Returns:
            The terms by name, the three views, and the proxy head's logits of the hybrid one in the columns of the
            task's classes.
        """
        objective, size = self.objective, task.size
        features = self.network.features(trainable, frozen, batch.images, key)
        proxy = self.network.module(trainable, frozen).proxy
        # In the task's own numbering; of a padded row it may be negative
        targets, allowed = batch.labels - task.offset, jnp.arange(self.task_classes) < size
        # [b, task_classes] of the channel, patch and hybrid view: one head for all
        logits = [proxy(view) for view in features]
        ce = [cross_entropy(x, targets, batch.valid, allowed) for x in logits]
        alone = self.model.streams != "both"  # the three views are then one, which counts once
        terms = dict(zip(TERMS[:3], [jnp.zeros_like(x) for x in ce[:2]] + ce[2:] if alone else ce, strict=True))
        terms["dissimilarity"] = dissimilarity(
            features.hybrid, batch.labels, batch.valid, old_rows, objective.temperature, objective.dissimilarity
        )
        basis = frozen.buffers[BASIS]
        # Of one stream alone, both summands are the same
        terms["orthogonality"] = orthogonality(features, batch.valid, basis, objective.orthogonality) / (1 + alone)
        anchor = {path.removeprefix(ANCHOR): value for path, value in frozen.buffers.items() if path.startswith(ANCHOR)}
        terms["regularization"] = regularization(trainable, anchor, objective.regularization)
        # The proxy head is as wide as the largest task: columns beyond the stream's last class fall off.
        wide = jnp.full((len(batch.labels), self.classes + self.task_classes), -jnp.inf, logits[2].dtype)
        return (
            terms,
            features,
            jax.lax.dynamic_update_slice_in_dim(wide, logits[2], task.offset, axis=1)[:, : self.classes],
        )

    def end(self, state: LearnerState, task: Task, views: Views) -> LearnerState:
        """Update the running mean (not after the last task, as in the release), write the prototypes, move the anchor.

        Raises:
            NonFiniteError: a prototype isn't finite.
        """
        number, offset = int(task.number), int(task.offset)
        if number < self.tasks - 1:
            state = state.updated(buffers=updated_mean(state.frozen.buffers, state.trainable, number))
        # After the mean: test images will be seen with the new one (docs/method.md, section 6)
        means = class_means(self, *state, views(), offset, int(task.size))
        if not np.isfinite(means).all():
            raise NonFiniteError(f"a prototype of task {number} isn't finite: the features have overflowed")
        prototypes = write_prototypes(state.frozen.buffers, means, offset)
        return state.updated(buffers=prototypes | self.anchored(state.trainable))

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        """The hybrid feature."""
        return self.network.features(trainable, frozen, images).hybrid

    def logits(self, trainable: Tree, frozen: Frozen, features: Float[Array, "b e"]) -> Float[Array, "b c"]:
        """Scores of the prototype head; classes not seen get the lowest score that a cosine can give."""
        return self.network.module(trainable, frozen).prototypes(features)

    def apply_fn(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], output: str = "scores"
    ) -> Float[Array, "b k"]:
        """Evaluate the network without dropout; see `ntkcl_jax.models.ntkcl.Network.apply_fn`."""
        return self.network.apply_fn(trainable, frozen, images, output)


def old_prototype_rows(variant: Variant, task: Task, classes_per_task: int) -> Int[Array, ""]:
    """Number of prototype rows that L_dis draws from.

    `paper`: the classes of earlier tasks. `reference`: all but the last `classes_per_task` rows, which in a task 0
    larger than the others takes still-empty rows of its own classes for old ones, as the release does.

    Args:
        variant: which rule.
        task: the current task.
        classes_per_task: classes of every task but the first.

    Example:
        >>> first = Task(jnp.int32(0), jnp.arange(9) < 7)
        >>> [int(old_prototype_rows(variant, first, classes_per_task=5)) for variant in ("paper", "reference")]
        [0, 2]
    """
    if variant == "paper":
        return task.offset
    return jnp.maximum(task.offset + task.size - classes_per_task, 0)


def draw_old_rows(key: Key, prototypes: Float[Array, "c e"], old: Int[Array, ""], most: int) -> OldRows:
    """Draw up to `most` different rows among the first `old` ones, uniformly."""
    classes = prototypes.shape[0]
    # Draws lie in [0, 1), the others at 2: the smallest are a uniform choice without repeats
    order = jnp.where(jnp.arange(classes) < old, jax.random.uniform(key, (classes,)), 2.0)
    # `most` rows in every task, so that nothing changes its shape; some may not be valid
    value, index = jax.lax.top_k(-order, min(most, classes))
    return OldRows(prototypes[index], index, value > -1.5)


def write_prototypes(buffers: Tree, means: Float[np.ndarray, "n e"], offset: int) -> Tree:
    """Buffers of the prototype head with a task's class means; the classes count as seen, old rows stay as they are."""
    rows = slice(offset, offset + len(means))
    return {
        "prototypes/kernel": buffers["prototypes/kernel"].at[rows].set(means),
        "prototypes/seen": buffers["prototypes/seen"].at[rows].set(True),
    }


def updated_mean(buffers: Tree, trainable: Tree, task: int) -> Tree:
    """Mean of the current streams of tasks 0..`task`: `mean <- t/(t+1) * mean + 1/(t+1) * current`.

    After task 0 it is the current set itself, whatever the mean started from.

    Example:
        >>> one = {"current/x": jnp.array(4.0)}
        >>> float(updated_mean({"mean/x": jnp.array(1.0)}, one, task=2)["mean/x"])
        2.0
    """
    old = task / (task + 1)
    return {
        path: old * value + (1 - old) * trainable[path.replace(MEAN, "current/", 1)]
        for path, value in buffers.items()
        if path.startswith(MEAN)
    }
