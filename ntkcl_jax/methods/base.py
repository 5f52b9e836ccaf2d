"""What the baselines that train modules inside the frozen ViT share: their form, their training step, their recipes.

A method is a frozen dataclass: hashable, so a static argument of compiled functions. All that a task changes is arrays
whose shapes are those of the whole stream, so every step is compiled once. Two flat trees hold them: `trainable`, which
the optimizer updates and kernels are taken of, and `kept`, which a task's training reads and doesn't change.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.config.data import Normalize
from ntkcl_jax.data import Batch
from ntkcl_jax.devices.mesh import pinned
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.models.vit import ViT, rebuilt
from ntkcl_jax.training.step import StepResult, pixels_of

TunedOutput = Literal["scores", "features"]
UNSEEN = -1e9
"""Score of a class that hasn't come yet."""
SEEN = "seen"
"""Entry of `kept` that tells which classes have come."""


@dataclass(frozen=True)
class Recipe:
    """How a method trains, as published.

    Attributes:
        optimizer: `adam` (β = 0.9, 0.999) or `sgd` (momentum 0.9); its state is new for every task.
        learning_rate: initial rate.
        schedule: `constant`; `cosine` to 0 over the epochs of each task; or `quarter-cosine`, CODA-Prompt's and
            InfLoRA's: cos(0.495 π e / (epochs - 1)), which stays high for longer and ends at 1.6 %.
        weight_decay: coupled L2 decay of every trainable parameter.
        clip: largest norm of the whole gradient; None doesn't clip.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    schedule: Literal["constant", "cosine", "quarter-cosine"]
    weight_decay: float = 0.0
    clip: float | None = None

    def transformation(self) -> optax.GradientTransformation:
        """The update before it is multiplied by the rate."""
        parts = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay))
        parts.append(optax.scale_by_adam() if self.optimizer == "adam" else optax.trace(decay=0.9))
        return optax.chain(*parts)

    def rate(self, epoch: int, epochs: int) -> float:
        """Learning rate of an epoch of a task.

        Example:
            >>> [Recipe("sgd", 2.0, "cosine").rate(e, 2) for e in (0, 1)]
            [2.0, 1.0]
        """
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "quarter-cosine":
            return self.learning_rate * math.cos(0.495 * math.pi * epoch / max(epochs - 1, 1))
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * epoch / epochs))


class Held(NamedTuple):
    """What a training step reads and doesn't change."""

    backbone: Tree
    """Pre-trained ViT."""
    kept: Tree
    """The method's own: old modules, class means, bases; and `seen` (classes,), which classes have come."""


class Task(NamedTuple):
    """A task as arrays: nothing here changes a shape."""

    number: Int[Array, ""]
    """From 0."""
    new: Bool[Array, "c"]
    """Classes that it brings, in the stream's numbering."""


@dataclass(frozen=True)
class Tuned(ABC):
    """A method that trains modules inside the frozen backbone.

    Attributes:
        backbone: shape of the ViT.
        tasks: tasks of the stream.
        classes: classes of the stream.
        task_classes: classes of the largest task.
        dtype: arithmetic of the backbone; `float64` (with `jax.enable_x64`) is there to check the others.
        remat: recompute block activations in the backward pass.
        normalize: what the backbone does to pixels in [0, 1] first.
    """

    backbone: BackboneConfig
    tasks: int
    classes: int
    task_classes: int
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: bool = False
    normalize: Normalize = "none"

    name: ClassVar[str]
    """The method's name in `RunConfig.methods`."""
    terms: ClassVar[tuple[str, ...]]
    """Names of the terms of its loss."""
    parts: ClassVar[dict[str, tuple[str, ...]]]
    """Groups of trainable parameters, as prefixes of their paths."""
    recipe: ClassVar[Recipe]
    """How it trains, as published."""

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        return self.backbone.image_size

    def vit(self, held: Held) -> ViT:
        """The backbone as a module."""
        make = functools.partial(ViT, self.backbone, remat=self.remat, normalize=self.normalize)
        return rebuilt(held.backbone, lambda: make(dtype=jnp.dtype(self.dtype), rngs=nnx.Rngs(params=0)))

    @abstractmethod
    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw what is trainable and kept before task 0 (`seen` is added to the latter)."""

    def begin(
        self, trainable: Tree, held: Held, task: Task, key: Key, views: Callable[[], Iterable[Batch]]
    ) -> tuple[Tree, Tree]:
        """Make what is new in a task; by default nothing.

        Args:
            trainable: tree at the end of the task before.
            held: what was held then.
            task: the new task.
            key: the task's own key.
            views: gives its training images under the test transform, from the first.

        Returns:
            What is trainable and kept while the task trains; the same paths and shapes.
        """
        return trainable, held.kept

    def loss(
        self, trainable: Tree, held: Held, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b k"]]:
        """Loss of a batch; by default the linear classifier's cross-entropy over the task's own classes.

        Args:
            trainable: what is differentiated.
            held: the backbone and what is kept.
            task: the current task.
            batch: pixels in [0, 1], labels in the stream's numbering, and which rows are images: the others must not
                matter.
            key: for dropout.

        Returns:
            Weighted terms by name, which add up to the loss, and logits over all classes of the stream.
        """
        logits = apply_head(trainable, self.features(trainable, held, batch.images))
        return {"ce": cross_entropy(logits, batch.labels, batch.valid, task.new)}, logits

    def end(self, trainable: Tree, held: Held, task: Task, views: Callable[[], Iterable[Batch]]) -> tuple[Tree, Tree]:
        """Do what follows a task's training (class means, bases); by default nothing. Arguments as those of `begin`."""
        return trainable, held.kept

    @abstractmethod
    def features(self, trainable: Tree, held: Held, images: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        """What the classifier reads; rows are independent of each other."""

    def logits(self, trainable: Tree, held: Held, features: Float[Array, "b e"]) -> Float[Array, "b k"]:
        """Scores of all classes of the stream, seen or not; by default those of the linear classifier."""
        return apply_head(trainable, features)

    def apply_fn(
        self, trainable: Tree, frozen: Held, images: Float[Array, "b h w c"], output: TunedOutput = "scores"
    ) -> Float[Array, "b k"]:
        """Evaluate the network without dropout; rows are independent of each other.

        Args:
            trainable: the trainable tree.
            frozen: the backbone and what is kept.
            images: pixels in [0, 1].
            output: `scores` of all classes of the stream (`UNSEEN` for those that haven't come) or `features`.

        Raises:
            ValueError: another output.
        """
        if output not in get_args(TunedOutput):
            raise ValueError(f"output must be one of {', '.join(get_args(TunedOutput))}; got {output!r}")
        features = self.features(trainable, frozen, images)
        if output == "features":
            return features
        scores = self.logits(trainable, frozen, features)
        return jnp.where(frozen.kept[SEEN], scores, UNSEEN)


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, "b"], valid: Bool[Array, "b"], allowed: Bool[Array, "c"]
) -> Float[Array, ""]:
    """Mean cross-entropy of valid rows, softmax over allowed classes only.

    Example:
        >>> logits = jnp.array([[0.0, 0.0, 9.0], [5.0, 5.0, 5.0]])
        >>> rows, allowed = jnp.array([True, False]), jnp.array([True, True, False])
        >>> round(float(cross_entropy(logits, jnp.array([0, 2]), rows, allowed)), 4)
        0.6931
    """
    masked = jnp.where(allowed, logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -jnp.inf)
    safe = jnp.where(valid, labels, jnp.argmax(allowed))  # a padded row's label may be one that isn't allowed
    losses = optax.softmax_cross_entropy_with_integer_labels(masked, safe)
    return jnp.sum(jnp.where(valid, losses, 0)) / jnp.maximum(valid.sum(), 1)


def linear_head(key: Key, width: int, classes: int, *, bias: bool = True) -> Tree:
    """A linear classifier over all classes, drawn from U(±1/√width)."""
    bound = width**-0.5
    kernel, offset = (
        jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, shape in zip(jax.random.split(key), ((width, classes), (classes,)), strict=True)
    )
    return {"head/kernel": kernel, "head/bias": offset} if bias else {"head/kernel": kernel}


def apply_head(trainable: Mapping[str, Array], features: Float[Array, "b e"]) -> Float[Array, "b c"]:
    """Logits of the linear classifier."""
    logits = features @ trainable["head/kernel"]
    return logits + trainable["head/bias"] if "head/bias" in trainable else logits


@functools.partial(jax.jit, static_argnums=(0, 1, 10), donate_argnums=(2, 3))
def tuned_step(
    method: Tuned,
    recipe: Recipe,
    trainable: Tree,
    moments: Any,
    held: Held,
    task: Task,
    batch: Batch,
    rate: Float[Array, ""],
    task_key: Key,
    step: Int[Array, ""],
    where: NamedSharding | None = None,
) -> tuple[Tree, Any, StepResult]:
    """One update; its randomness is a function of (task key, step number) alone, so a resumed task draws the same."""
    batch = Batch(pixels_of(batch, method.image_size), batch.labels, batch.valid)
    key = jax.random.fold_in(task_key, step)

    def loss(trainable: Tree) -> tuple[Array, tuple[dict[str, Array], Array]]:
        terms, logits = method.loss(trainable, held, task, batch, key)
        return functools.reduce(jnp.add, (terms[name] for name in method.terms)), (terms, logits)

    (total, (terms, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
    change, moments = recipe.transformation().update(gradient, moments, trainable)
    trainable = jax.tree.map(lambda value, update: value - rate * update, trainable, change)
    guess = jnp.argmax(jnp.where(task.new, logits, -jnp.inf), axis=1)
    correct = jnp.sum((guess == batch.labels) & batch.valid)
    result = StepResult(jnp.stack([*(terms[name] for name in method.terms), total]), correct)
    return pinned((trainable, moments, result), where)
