"""What a learner is: modules that train inside the frozen ViT, by which loss, and what happens between tasks.

A learner is a frozen dataclass: hashable, so a static argument of compiled functions. All that a task changes is arrays
whose shapes are those of the whole stream, so every step is compiled once. Two flat trees hold them: `trainable`, which
the optimizer updates and kernels are taken of, and `buffers`, which a task's training reads and doesn't change.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ntkcl_jax.config import BackboneConfig, RunConfig
from ntkcl_jax.config.data import Normalize
from ntkcl_jax.config.methods import LEARNERS
from ntkcl_jax.data import Batch, Scenario, affine_view_device, crop_resize_device
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree, rebuilt
from ntkcl_jax.models.vit import Levels, ViT

Views = Callable[[], Iterable[Batch]]
"""Gives a task's training images under the test transform, from the first, as often as it is asked."""
UNSEEN = -1e9
"""Score of a class that hasn't come yet."""
SEEN = "seen"
"""Buffer that tells which classes have come."""


@dataclass(frozen=True)
class Recipe:
    """How a learner trains, as published.

    Attributes:
        optimizer: `adam` (β = 0.9, 0.999) or `sgd`; its state is new for every task.
        learning_rate: initial rate.
        schedule: `constant`; `cosine` to 0 over the epochs of each task; or `quarter-cosine`, CODA-Prompt's and
            InfLoRA's: cos(0.495 π e / (epochs - 1)), which stays high for longer and ends at 1.6 %.
        weight_decay: coupled L2 decay of every trainable parameter.
        momentum: of `sgd`: `buffer = momentum * buffer + (gradient + decay * p)`, as PyTorch has it.
        clip: largest norm of the whole gradient; None doesn't clip.
        later_learning_rate: initial rate of tasks 1, 2, ...; None means `learning_rate`.
    """

    optimizer: Literal["adam", "sgd"]
    learning_rate: float
    schedule: Literal["constant", "cosine", "quarter-cosine"]
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip: float | None = None
    later_learning_rate: float | None = None

    @property
    def compiled(self) -> "Recipe":
        """What a compiled step depends on: the rate is an argument of the step, so another needs no compiling."""
        return replace(self, learning_rate=0.0, later_learning_rate=None, schedule="constant")

    def transformation(self) -> optax.GradientTransformation:
        """The update before it is multiplied by the rate."""
        # PyTorch's order: clip the gradient, add the decay, and only then momentum or Adam
        parts = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
        if self.weight_decay:
            parts.append(optax.add_decayed_weights(self.weight_decay))
        parts.append(optax.scale_by_adam() if self.optimizer == "adam" else optax.trace(decay=self.momentum))
        return optax.chain(*parts)

    def rate(self, epoch: int, epochs: int, task: int = 0) -> float:
        """Learning rate of an epoch of a task, constant within it.

        The cosine is `0.5 * rate_0 * (1 + cos(π e / epochs))`, e = 0 .. epochs - 1, restarted in every task.

        Example:
            >>> [Recipe("sgd", 2.0, "cosine").rate(e, 2) for e in (0, 1)]
            [2.0, 1.0]
        """
        later = self.later_learning_rate
        initial = self.learning_rate if task == 0 or later is None else later
        if self.schedule == "constant":
            return initial
        if self.schedule == "quarter-cosine":
            # A single epoch has the whole rate
            return initial * math.cos(0.495 * math.pi * epoch / max(epochs - 1, 1))
        return 0.5 * initial * (1 + math.cos(math.pi * epoch / epochs))


class Task(NamedTuple):
    """A task as arrays: nothing here changes a shape."""

    number: Int[Array, ""]
    """From 0."""
    new: Bool[Array, "c"]
    """Classes that it brings, in the stream's numbering: consecutive ones."""

    @classmethod
    def of(cls, scenario: Scenario, task: int) -> "Task":
        """A task of a stream."""
        classes = scenario.classes(task)
        numbers = jnp.arange(scenario.num_classes)
        return cls(jnp.int32(task), (numbers >= classes.start) & (numbers < classes.stop))

    @property
    def offset(self) -> Int[Array, ""]:
        """The task's first class."""
        return jnp.argmax(self.new).astype(jnp.int32)  # the first that is True

    @property
    def size(self) -> Int[Array, ""]:
        """Number of its classes."""
        return jnp.sum(self.new, dtype=jnp.int32)


class LearnerState(NamedTuple):
    """All that one task hands to the next."""

    trainable: Tree
    frozen: Frozen

    def updated(self, trainable: Tree | None = None, buffers: Tree | None = None) -> "LearnerState":
        """The state with some of its arrays replaced, by path."""
        frozen = self.frozen._replace(buffers=self.frozen.buffers | (buffers or {}))
        return LearnerState(self.trainable | (trainable or {}), frozen)

    @property
    def stored(self) -> dict[str, Tree]:
        """What a checkpoint keeps: all but the backbone, which a run stores once."""
        return {"trainable": self.trainable, "buffers": self.frozen.buffers}


@dataclass(frozen=True)
class Learner(ABC):
    """What trains inside the frozen backbone.

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
    """The learner's name in `RunConfig.methods`."""
    terms: ClassVar[tuple[str, ...]]
    """Names of the terms of its loss, in the order in which they are added up."""
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    """Groups of trainable parameters, as prefixes of their paths."""
    recipe: ClassVar[Recipe]
    """How it trains, as published."""
    sessions: ClassVar[int | None] = None
    """Tasks that it trains on, from the first; None: all. After them its features stay as they are."""
    outputs: ClassVar[tuple[str, ...]] = ("scores", "features")
    """What `apply_fn` can give."""
    seen: ClassVar[str] = SEEN
    """Buffer that tells which classes have come."""
    class_buffers: ClassVar[tuple[str, ...]] = (SEEN,)
    """Buffers that hold what is known of classes; the others belong to the features."""

    @classmethod
    def of(cls, config: RunConfig, scenario: Scenario) -> Self:
        """Shape the learner for a run's backbone and stream."""
        return cls(**shape_of(config, scenario))

    def recipe_of(self, config: RunConfig) -> Recipe:
        """How it trains in a run: as published, at the run's own rate where that names one."""
        rate = config.baselines.learning_rate
        return self.recipe if rate is None else replace(self.recipe, learning_rate=rate)

    def epochs_of(self, config: RunConfig, task: int) -> int:
        """Passes over a task's images."""
        return config.optimizer.epochs if config.baselines.epochs is None else config.baselines.epochs

    def step_flops(self, config: RunConfig) -> int | None:
        """FLOPs of one training step, where they can be counted from the configuration."""
        return None

    def stream(self, purpose: str, *numbers: int) -> tuple[str | int, ...]:
        """Name of the random stream of a purpose: `initialisation`, `task` (what a task draws) or `steps`."""
        return (self.name, purpose, *numbers)

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        return self.backbone.image_size

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss, where it isn't 1."""
        return {}

    def vit(self, frozen: Frozen) -> ViT:
        """The backbone as a module."""
        return rebuilt(frozen.backbone, self.backbone, self.dtype, self.remat, self.normalize)

    @abstractmethod
    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw what is trainable, and the buffers, before task 0."""

    @abstractmethod
    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        """What the classifier reads; rows are independent of each other."""

    def levels(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Levels:
        """Features, and the tokens that leave each block: what feature maps read (`ntkcl_jax.readouts.feature_maps`).

        By default the tokens are those of the untouched backbone: a learner whose training changes what goes from
        block to block says so here, best by one pass for both.
        """
        return Levels(self.features(trainable, frozen, images), self.vit(frozen).levels(images).tokens)

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Make what is new in a task; by default nothing.

        Args:
            state: at the end of the task before.
            task: the new task.
            key: the task's own key.
            views: its training images.

        Returns:
            The state that the task trains from; the same paths and shapes.
        """
        return state

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b c"]]:
        """Loss of a batch; by default the linear classifier's cross-entropy over the task's own classes.

        Args:
            trainable: what is differentiated.
            frozen: backbone and buffers.
            task: the current task.
            batch: pixels in [0, 1], labels in the stream's numbering, and which rows are images: the others must not
                matter.
            key: for dropout and draws; a function of the task and the step's number.

        Returns:
            The terms by name, before `weights`, and logits over all classes of the stream.
        """
        logits = apply_head(trainable, self.features(trainable, frozen, batch.images))
        return {"ce": cross_entropy(logits, batch.labels, batch.valid, task.new)}, logits

    def end(self, state: LearnerState, task: Task, views: Views) -> LearnerState:
        """Do what follows a task's training (class means, bases); by default nothing. Arguments as those of `begin`."""
        return state

    def logits(self, trainable: Tree, frozen: Frozen, features: Float[Array, "b e"]) -> Float[Array, "b c"]:
        """Scores of all classes of the stream, seen or not, by its own head; by default a linear classifier."""
        return apply_head(trainable, features)

    def apply_fn(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], output: str = "scores"
    ) -> Float[Array, "b k"]:
        """Evaluate the network without dropout; rows are independent of each other.

        Args:
            trainable: the trainable tree.
            frozen: backbone and buffers.
            images: pixels in [0, 1].
            output: `scores` of all classes of the stream (`UNSEEN` for those that haven't come) or `features`.

        Raises:
            ValueError: another output.
        """
        if output not in self.outputs:
            raise ValueError(f"output must be one of {', '.join(self.outputs)}; got {output!r}")
        features = self.features(trainable, frozen, images)
        if output == "features":
            return features
        scores = self.logits(trainable, frozen, features)
        return jnp.where(frozen.buffers[self.seen], scores, UNSEEN)

    def start(self, key: Key, backbone: Tree) -> LearnerState:
        """State before task 0: no class has come."""
        trainable, buffers = self.init(key)
        # A learner that keeps `seen` among its own buffers has the last word
        return LearnerState(trainable, Frozen(backbone, {self.seen: jnp.zeros(self.classes, bool)} | buffers))

    def shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Names, shapes and types of what a checkpoint keeps, the same after every task; nothing is computed."""
        # The types of a run, whatever whoever reads it has switched on
        with jax.enable_x64(False):
            return jax.eval_shape(lambda: self.start(jax.random.key(0), {}).stored)

    def finish(self, state: LearnerState, task: Task, views: Views) -> LearnerState:
        """End a task; its classes count as seen from here on."""
        state = self.end(state, task, views)
        return state.updated(buffers={self.seen: state.frozen.buffers[self.seen] | task.new})


def shape_of(config: RunConfig, scenario: Scenario) -> dict[str, Any]:
    """The fields of `Learner` in a run."""
    return {
        "backbone": config.model.backbone,
        "tasks": scenario.num_tasks,
        "classes": scenario.num_classes,
        "task_classes": max(scenario.task_sizes),
        "dtype": config.compute.dtype,
        "remat": config.compute.remat,
        "normalize": config.data.normalize,
    }


def make_learner(name: str, config: RunConfig, scenario: Scenario) -> Learner:
    """Make a learner of a name for a run.

    Raises:
        ConfigError: no learner has that name, or what has it is none.
    """
    return LEARNERS.subclass(name, Learner, ("name", "terms", "parts", "recipe")).of(config, scenario)


def pixels_of(batch: Batch, size: int) -> Float[Array, "b h w c"]:
    """Pixels in [0, 1] of a batch: training views where it says which, divided by 255 where it holds bytes."""
    if batch.boxes is not None and batch.flips is not None:
        return crop_resize_device(batch.images, batch.boxes, batch.flips, size)
    if batch.warps is not None and batch.flips is not None:
        return affine_view_device(batch.images, batch.warps, batch.flips)
    images = jnp.asarray(batch.images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


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
    # float32 at least, as bfloat16 would round the loss; -inf: no probability and no gradient
    masked = jnp.where(allowed, logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -jnp.inf)
    safe = jnp.where(valid, labels, jnp.argmax(allowed))  # a padded row's label may be one that isn't allowed
    losses = optax.softmax_cross_entropy_with_integer_labels(masked, safe)
    return jnp.sum(jnp.where(valid, losses, 0)) / jnp.maximum(valid.sum(), 1)  # without a valid row 0, not NaN


def linear_head(key: Key, width: int, classes: int, *, bias: bool = True) -> Tree:
    """A linear classifier over all classes, drawn from U(±1/√width)."""
    bound = width**-0.5
    # Both are drawn in any case: the kernel is the same with and without a bias
    kernel, offset = (
        jax.random.uniform(k, shape, minval=-bound, maxval=bound)
        for k, shape in zip(jax.random.split(key), ((width, classes), (classes,)), strict=True)
    )
    return {"head/kernel": kernel, "head/bias": offset} if bias else {"head/kernel": kernel}


def apply_head(trainable: Mapping[str, Array], features: Float[Array, "b e"]) -> Float[Array, "b c"]:
    """Logits of the linear classifier."""
    logits = features @ trainable["head/kernel"]
    return logits + trainable["head/bias"] if "head/bias" in trainable else logits
