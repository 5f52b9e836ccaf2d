"""InfLoRA: low-rank changes of keys and values that old tasks don't feel.

Liang & Li, "InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning", CVPR 2024, arXiv:2404.00228. In
every block keys and values gain `h B A`, h = norm1(x) the block's tokens, B (d, r) fixed for the task and the same for
both, A (r, d) trained from zero, beside a linear classifier of the task's own classes (cross-entropy over these; at
test time the logits of all classes compete). Training A alone moves the weights W only within the span of B's columns,
whose choice is the method. Per block, with C = mean of h hᵀ over all tokens of the task's training images, M an
orthonormal basis of what old tasks' tokens span, N one of the rest:

- begin: `B = N U_r / √3`, U_r the first r left singular vectors of `Nᵀ C` (those of (I - M Mᵀ) C are N U): directions
  of the new task's input in which old tasks have nearly none;
- end: with C of the trained network, M gains the fewest columns of N U, in order, for which
  `||M Mᵀ C||² >= ε ||C||²` (Frobenius), `ε_t = ε_first + (ε_last - ε_first) t / T`;
- `W <- W + B A` when the next task begins.

As in the authors' release (liangyanshuo/InfLoRA): C stands for the matrix of all inputs (same left singular vectors,
squared singular values), the factor 1/√3, Adam. DualGPM, its memory, stores M or N, whichever has fewer columns; both
of its updates are the one above (I - M Mᵀ = N Nᵀ), so we store M alone, padded with zero columns. Where we depart: the
release stops one column short of ε after task 0 (its own rule for later tasks and the paper's reach it; we follow
these); where N has fewer than r columns it would fill B up with directions of old tasks, we with zeros; C is of the
training images under the test transform, once each, not of random crops. ε_first = 0.95 on CIFAR-100 (default), 0.98 on
ImageNet-R, published batches are of 128 images for 20 and 50 epochs; images, crops, batches and epochs here are those
of the run.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl_jax.data import Batch
from ntkcl_jax.devices.hosts import fetch
from ntkcl_jax.methods.base import Learner, LearnerState, Recipe, Task, Views, linear_head, pixels_of
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.vit import Block, KeysValues

PUBLISHED = {"cifar100": (0.9196, 0.8693), "imagenet-r": (0.8163, 0.7553), "imagenet-a": (0.5550, 0.4421)}
"""Average and final accuracy with ImageNet-21K weights, tasks of 10, 20 and 20 classes (table of NTK-CL)."""


@functools.partial(jax.jit, static_argnums=(0,))
def gram(method: "InfLora", trainable: Tree, frozen: Frozen, batch: Batch) -> Float[Array, "depth d d"]:
    """Sum of h hᵀ over the tokens h that each block's attention reads; padded rows don't count."""
    sums = []
    for inputs in method.walk(trainable, frozen, pixels_of(batch, method.image_size))[0]:
        h = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
        h = jnp.where(batch.valid[:, None, None], h, 0)  # a padded row may hold anything, even NaN
        # HIGHEST: TF32 or bfloat16 products would add directions that the tokens don't have
        sums.append(jnp.einsum("bld,ble->de", h, h, precision=jax.lax.Precision.HIGHEST))
    return jnp.stack(sums)


def covariance(
    method: "InfLora", trainable: Tree, frozen: Frozen, batches: Iterable[Batch]
) -> Float[np.ndarray, "depth d d"]:
    """Mean of h hᵀ over all tokens of all images, float64, in one pass."""
    total, images = np.zeros((method.backbone.depth, method.backbone.dim, method.backbone.dim)), 0
    for batch in batches:
        part, valid = fetch((gram(method, trainable, frozen, batch), batch.valid))
        total += part
        images += int(valid.sum())
    return total / (images * method.backbone.tokens)


def split_basis(
    basis: Float[np.ndarray, "d d"],
) -> tuple[Float[np.ndarray, "d m"], Float[np.ndarray, "d n"]]:
    """Orthonormal bases, float64, of the span of the columns that aren't zero and of the rest."""
    columns = int(np.any(basis != 0, axis=0).sum())
    # Orthonormal again, as the stored basis is rounded to float32; then a basis of all the rest
    q = np.linalg.qr(basis[:, :columns].astype(np.float64), mode="complete")[0]
    return q[:, :columns], q[:, columns:]


def new_directions(
    basis: Float[np.ndarray, "d d"], covariance: Float[np.ndarray, "d d"]
) -> tuple[Float[np.ndarray, "d n"], Float[np.ndarray, "n"]]:
    """Directions orthogonal to a basis by how much of the covariance they carry, and its squared norm along each.

    Example:
        >>> basis, covariance = np.diag([1.0, 0.0, 0.0]), np.diag([4.0, 1.0, 2.0])
        >>> directions, energy = new_directions(basis, covariance)
        >>> np.abs(directions).tolist(), energy.tolist()
        ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [4.0, 1.0])
    """
    _, rest = split_basis(basis)
    # rest = N, so u = U of Nᵀ C [n, n], and N U are the directions themselves [d, n]
    u, s, _ = np.linalg.svd(rest.T @ covariance, full_matrices=False)
    return rest @ u, s**2


def design(basis: Float[np.ndarray, "d d"], covariance: Float[np.ndarray, "d d"], rank: int) -> np.ndarray:
    """B of one block: the strongest new directions over √3, (d, rank); zero columns where there are fewer."""
    chosen = new_directions(basis, covariance)[0][:, :rank]
    return np.pad(chosen, ((0, 0), (0, rank - chosen.shape[1]))) / np.sqrt(3)


def grown(basis: Float[np.ndarray, "d d"], covariance: Float[np.ndarray, "d d"], threshold: float) -> np.ndarray:
    """Basis with the fewest new directions for which it carries a share of the covariance's squared norm.

    Args:
        basis: orthonormal columns, then zero columns.
        covariance: of one block's tokens.
        threshold: the share, ε.

    Returns:
        (d, d) float64, likewise.

    Example:
        >>> np.abs(grown(np.zeros((3, 3)), np.diag([2.0, 1.0, 3.0]), 0.9)).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    old, _ = split_basis(basis)
    directions, energy = new_directions(basis, covariance)
    total = np.sum(covariance**2)
    left_over = np.append(np.cumsum(energy[::-1])[::-1], 0.0)  # after 0, 1, 2, ... directions
    # The first number of directions that is enough; the last one, nothing left over, always is
    fewest = int(np.argmax(left_over <= (1 - threshold) * total))
    columns = np.concatenate([old, directions[:, :fewest]], axis=1)
    return np.pad(columns, ((0, 0), (0, len(basis) - columns.shape[1])))


@dataclass(frozen=True)
class InfLora(Learner):
    """Low-rank changes of keys and values, orthogonal to old tasks' inputs.

    Attributes:
        rank: r, columns of B.
        first_threshold: ε_first, share of the inputs that the memory keeps after task 0.
        last_threshold: ε_last, what this share grows towards.
    """

    rank: int = 10
    first_threshold: float = 0.95
    last_threshold: float = 1.0

    name: ClassVar = "inflora"
    terms: ClassVar = ("ce",)
    parts: ClassVar = {"lora": ("lora/",), "head": ("head/",)}
    recipe: ClassVar = Recipe("adam", learning_rate=5e-4, schedule="quarter-cosine")

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw the classifier; no change of keys and values, an empty memory."""
        depth, d = self.backbone.depth, self.backbone.dim
        lora = {f"lora/{name}": jnp.zeros((depth, self.rank, d)) for name in ("keys", "values")}
        # The basis has room for all d columns from the start, so its shape never changes
        buffers = {name: jnp.zeros((depth, d, d)) for name in ("merged/keys", "merged/values", "basis")}
        return lora | linear_head(key, d, self.classes), buffers | {"down": jnp.zeros((depth, d, self.rank))}

    def changed(self, trainable: Tree, frozen: Frozen, i: int) -> KeysValues:
        """What happens to the keys and values of block i: they gain `h (W + B A)`, W of the tasks before."""

        def gain(h: Array, name: str) -> Array:
            down, merged = frozen.buffers["down"][i], frozen.buffers[f"merged/{name}"][i]
            # h B first: two thin products instead of a (d, d) one
            return h @ merged.astype(h.dtype) + h @ down.astype(h.dtype) @ trainable[f"lora/{name}"][i].astype(h.dtype)

        return lambda h, k, v: (k + gain(h, "keys"), v + gain(h, "values"))

    def walk(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]
    ) -> tuple[list[Float[Array, "b l d"]], Float[Array, "b d"]]:
        """What the attention of each block reads, h, and the class feature of the changed backbone."""
        vit = self.vit(frozen)
        blocks = list(vit.blocks)

        def run(x: Array, i: int) -> Array:
            block: Block = blocks[i]
            z = block.attend(x, 1 if i == len(blocks) - 1 else None, self.changed(trainable, frozen, i))
            return z + block.mlp(z)

        x, inputs = vit.embed(images), []
        for i, block in enumerate(blocks):
            # Where features alone are asked for, XLA leaves these out
            inputs.append(block.norm1(x))
            x = vit.checkpointed(functools.partial(run, i=i))(x)
        return inputs, vit.class_feature(x)

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Class feature of the changed backbone."""
        return self.walk(trainable, frozen, images)[1]

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Merge the change of the task before, choose the new B, start from A = 0."""
        merged, fresh, buffers = {}, {}, state.frozen.buffers
        for name in ("keys", "values"):
            lora = state.trainable[f"lora/{name}"]
            change = jnp.matmul(buffers["down"], lora, precision=jax.lax.Precision.HIGHEST)
            merged[f"merged/{name}"] = buffers[f"merged/{name}"] + change
            fresh[f"lora/{name}"] = jnp.zeros_like(lora)
        state = state.updated(fresh, merged)
        # With A = 0 and the old change merged: C is of the network as the old tasks left it
        seen, basis = covariance(self, *state, views()), np.asarray(buffers["basis"])
        down = np.stack([design(m, c, self.rank) for m, c in zip(basis, seen, strict=True)])
        return state.updated(buffers={"down": jnp.asarray(down, basis.dtype)})

    def end(self, state: LearnerState, task: Task, views: Views) -> LearnerState:
        """Take what the task's inputs span into the memory."""
        share = float(task.number) / self.tasks
        threshold = self.first_threshold + (self.last_threshold - self.first_threshold) * share
        basis, seen = np.asarray(state.frozen.buffers["basis"]), covariance(self, *state, views())
        larger = np.stack([grown(m, c, threshold) for m, c in zip(basis, seen, strict=True)])
        return state.updated(buffers={"basis": jnp.asarray(larger, basis.dtype)})
