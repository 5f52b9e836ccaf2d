"""EASE: a new set of adapters for every task, and class means in the subspaces of all of them.

Zhou et al., "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR 2024,
arXiv:2403.12030. A parallel adapter stands in every block (`adapters.py`); task t draws new ones and trains them with a
cosine head, W and σ drawn anew, over its own classes: the cross-entropy of `σ cos(φ_t(x), w_c)`, φ_t the class feature
of the backbone with the adapters of task t. Then, with t_c the task that brought class c:

- class means: `p_{c,s}` = mean of φ_s over the training images of c for all s <= t_c;
- means that can't be computed any more, s > t_c, are put together of later classes by their likeness in a subspace
  that both have: `p_{c,s} = Σ_j softmax_j(cos(p_{c,t_c}, p_{j,t_c})) p_{j,s}`, j over the classes of the tasks >= s;
- score of class c after task t: `cos(φ_{t_c}(x), p_{c,t_c}) + α/t Σ_{s ≠ t_c} cos(φ_s(x), p_{c,s})`.

As in the authors' release (sun-hailong/CVPR24-Ease, `recalc_sim`, `use_reweight`), where it says more than the paper:
the sum over j takes in all later classes and is made anew after every task, α is divided by the number of other
subspaces, adapters drop a tenth of their inner entries while they train, and the frozen backbone is no subspace of its
own (`use_init_ptm` is false in its configurations of CIFAR-100, ImageNet-R and ImageNet-A). Published rates: 0.025 with
weight decay 5e-4 on CIFAR-100 (the defaults here), 0.05 with 5e-3 on ImageNet-R and ImageNet-A. We depart in what all
methods share: images, crops, batch size and epochs are those of the run (published: 20 epochs, batches of 16 to 48).

An image costs as many passes as tasks have come, and stored adapters grow with them; their arrays have the shape of the
whole stream from the start, so that nothing is compiled twice.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.adapters import adapted_feature, init_adapters
from ntkcl_jax.methods.base import SEEN, Learner, LearnerState, Recipe, Task, Views, cross_entropy, linear_head
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.heads import unit

PUBLISHED = {"cifar100": (0.9258, 0.8811), "imagenet-r": (0.8192, 0.7604), "imagenet-a": (0.6435, 0.5464)}
"""Average and final accuracy with ImageNet-21K weights, tasks of 10, 20 and 20 classes (table of NTK-CL)."""
NONE = -1
"""Task of a class that hasn't come."""


def completed(means: Float[np.ndarray, "c t d"], task_of: Int[np.ndarray, "c"]) -> Float[np.ndarray, "c t d"]:
    """Fill in the means of classes in the subspaces of later tasks.

    Args:
        means: means of class c in subspace s; those with s > task_of[c] are not read.
        task_of: the task that brought each class, `NONE` for those to come.

    Returns:
        Means with s <= task_of[c] as they are, the others put together of later classes' means.

    Example:
        >>> means = np.array([[[1.0], [0.0]], [[2.0], [5.0]], [[3.0], [7.0]]])
        >>> completed(means, np.array([0, 1, 1]))[0].tolist()
        [[1.0], [6.0]]
    """
    filled = means.copy()
    for c in np.flatnonzero(task_of != NONE):
        own = task_of[c]
        # Cosines of all classes to c in c's own subspace; by `tiny` a zero mean has cosine 0
        lengths = np.linalg.norm(means[:, own], axis=1) * np.linalg.norm(means[c, own])
        likeness = means[:, own] @ means[c, own] / np.maximum(lengths, np.finfo(lengths.dtype).tiny)
        for s in range(own + 1, task_of.max() + 1):
            later = task_of >= s
            # A softmax; cosines are at most 1, so nothing overflows
            weights = np.exp(likeness[later])
            filled[c, s] = weights / weights.sum() @ means[later, s]
    return filled


@dataclass(frozen=True)
class Ease(Learner):
    """Adapters of its own for every task.

    Attributes:
        rank: width of the adapters' bottleneck.
        dropout: share of a training adapter's inner entries that is dropped.
        others: α, weight of the subspaces of other tasks.
    """

    rank: int = 64
    dropout: float = 0.1
    others: float = 0.1

    name: ClassVar = "ease"
    terms: ClassVar = ("ce",)
    parts: ClassVar = {"adapters": ("adapters/",), "head": ("head/",)}
    recipe: ClassVar = Recipe("sgd", learning_rate=0.025, schedule="cosine", weight_decay=5e-4)
    class_buffers: ClassVar = (SEEN, "prototypes", "task_of_class")

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw adapters and training head; make room for the adapters of all tasks and for all class means."""
        trainable = self._drawn(key)
        old = {
            f"old/{path}": jnp.zeros((self.tasks, *value.shape), value.dtype)
            for path, value in trainable.items()
            if path.startswith("adapters/")
        }
        means = jnp.zeros((self.classes, self.tasks, self.backbone.dim))
        return trainable, old | {
            "means": means,
            "prototypes": means,
            "task": jnp.int32(0),
            "task_of_class": jnp.full(self.classes, NONE, jnp.int32),
        }

    def _drawn(self, key: Key) -> Tree:
        """New adapters, new cosine head."""
        keys = jax.random.split(key)
        adapters = init_adapters(keys[0], self.backbone.depth, self.backbone.dim, self.rank)
        head = linear_head(keys[1], self.backbone.dim, self.classes, bias=False)
        return adapters | head | {"head/scale": jnp.ones(())}

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Put the adapters of the task before away and draw new ones."""
        changed, number = {"task": task.number}, int(task.number)
        # Slot t has task t's adapters from the moment the next task begins; until then they are the trainable ones
        if number > 0:
            for path, values in state.frozen.buffers.items():
                if path.startswith("old/"):
                    changed[path] = values.at[number - 1].set(state.trainable[path.removeprefix("old/")])
        return state.updated(self._drawn(key), changed)

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        """Class feature in each task's subspace, one after the other; zeros in those of tasks to come."""
        vit, number = self.vit(frozen), frozen.buffers["task"]
        buffers = frozen.buffers
        old = {path: jax.lax.stop_gradient(buffers[f"old/{path}"]) for path in trainable if f"old/{path}" in buffers}

        def add(s: Array, made: Array) -> Array:
            adapters = {path: values[s] for path, values in old.items()}
            return made.at[:, s].set(adapted_feature(vit, adapters, images))

        current = adapted_feature(vit, trainable, images)
        # [b, tasks, d]
        made = jnp.zeros((len(images), self.tasks, self.backbone.dim), current.dtype)
        # Nothing in it is differentiated: reverse mode can't go through a loop of unknown length
        made = jax.lax.fori_loop(0, number, add, made)  # as many rounds as there are old tasks
        return made.at[:, number].set(current).reshape(len(images), -1)

    def logits(self, trainable: Tree, frozen: Frozen, features: Float[Array, "b e"]) -> Float[Array, "b k"]:
        """Weighted sum of the cosines to class means in all subspaces."""
        task_of = frozen.buffers["task_of_class"]
        own = task_of[:, None] == jnp.arange(self.tasks)
        # [c, tasks]; tasks count from 0, so the largest number is how many other subspaces there are
        weights = jnp.where(own, 1.0, self.others / jnp.maximum(task_of.max(), 1))
        directions = unit(features.reshape(-1, self.tasks, self.backbone.dim))
        # Both a feature and a mean are zero in the subspaces of tasks to come, and so is their cosine.
        return jnp.einsum("bsd,csd->bc", directions, unit(frozen.buffers["prototypes"]) * weights[:, :, None])

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b k"]]:
        """Cross-entropy of the cosine head over the task's own classes."""
        feature = adapted_feature(self.vit(frozen), trainable, batch.images, key, self.dropout)
        # unit works on rows, classes are the kernel's columns
        logits = trainable["head/scale"] * unit(feature) @ unit(trainable["head/kernel"].T).T
        return {"ce": cross_entropy(logits, batch.labels, batch.valid, task.new)}, logits

    def end(self, state: LearnerState, task: Task, views: Views) -> LearnerState:
        """Compute the new classes' means and put together what older classes lack."""
        new, buffers = np.asarray(task.new), state.frozen.buffers
        means, task_of = np.array(buffers["means"]), np.array(buffers["task_of_class"])  # copies to write into
        found = class_means(self, *state, views(), int(task.offset), int(task.size))
        # Features are all subspaces side by side: [n, tasks d] -> [n, tasks, d]
        means[new] = found.reshape(-1, *means.shape[1:])
        task_of[new] = task.number
        return state.updated(
            buffers={
                # Computed means stay beside the completed ones, which each task puts together anew
                "means": jnp.asarray(means),
                "prototypes": jnp.asarray(completed(means, task_of)),
                "task_of_class": jnp.asarray(task_of),
            }
        )
