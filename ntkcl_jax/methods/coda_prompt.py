"""CODA-Prompt (Smith et al., CVPR 2023, arXiv:2211.13218).

Each of the first five blocks has M components P_m with keys K_m and attention vectors A_m. An image with query q gets
the prefix (see `prompting`) whose rows are, half of them before the keys and half before the values (eqs. 3-6),

    P = Σ_m α_m P_m,   α_m = cos(q ⊙ A_m, K_m).

M / T components belong to each of T tasks: task t's images, and those of a test after it, use the components of tasks
0..t, and only those of task t are trained. The classifier reads the class token; the loss of a batch is (eq. 8)

    mean_x CE(softmax over the task's own classes) + λ Σ_blocks [ R(K) + R(A) + R(P) ],   R(B) = mean (B Bᵀ - I)²

over the components in use, P_m as one long vector. M = 100, 8 rows, λ = 0.1, that R (the paper has a norm), new
components by Gram-Schmidt against all in use at each task's start, a plain linear classifier, and Adam at 0.001 are the
authors' release. Gram-Schmidt is done by a QR decomposition, whose new columns are orthogonal to all components in use
even though training has taken these off orthogonality; the release's sums of projections aren't.

Where this departs: their batch is 128 and their rate falls along a quarter of a cosine; here both are as in the rest of
the project (half a cosine per task). M is at most the backbone's width, since no more vectors of that width can be
orthogonal. LAMDA-PILOT, behind the numbers in NTK-CL's table, sets λ = 0. The linear classifier starts as all those of
this project.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Learner, LearnerState, Recipe, Task, Views, linear_head
from ntkcl_jax.methods.prompting import encoded, layers_of, query_of
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.heads import unit

SQUARE_FLOOR = 1e-12
"""Smallest squared length of q ⊙ A: components that are still zero have weight 0 and a finite gradient."""
PUBLISHED = {"cifar100": (0.9136, 0.8670), "imagenet-r": (0.7716, 0.7159), "imagenet-a": (0.5613, 0.4534)}
"""(A̅, A_T) on ImageNet-21K weights by benchmark, as NTK-CL's table reports them (arXiv:2407.17120)."""
IN_USE = "in_use"
"""Buffer: which components are in use; those to come are zero."""
OWN = "own"
"""Buffer: which components are trained, those of the last task that began."""
COMPONENTS = ("components/prompts", "components/keys", "components/attention")
"""Paths of P, K and A."""


def orthogonal_to(old: Float[Array, "m d"], drawn: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Gram-Schmidt: unit vectors orthogonal to all old rows and to each other.

    Args:
        old: rows that stay as they are; they need not be orthogonal.
        drawn: random rows that are made so.

    Returns:
        New rows; just the drawn ones at length 1 where the space has no room for as many.

    Example:
        >>> new = orthogonal_to(jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0]]))[0]
        >>> new = new * jnp.sign(new[0])
        >>> [round(float(x), 4) + 0.0 for x in new]
        [0.7071, -0.7071, 0.0]
    """
    if len(old) + len(drawn) > old.shape[1]:
        return unit(drawn)
    # Columns of Q: the first ones span the old rows, the next are orthogonal to them and to each other
    return jnp.linalg.qr(jnp.concatenate([old, drawn]).T)[0][:, len(old) :].T


def weights_of(
    query: Float[Array, "b d"], attention: Float[Array, "m d"], keys: Float[Array, "m d"]
) -> Float[Array, "b m"]:
    """Weights α = cos(q ⊙ A, K) of a block's components."""
    # The norm of q ⊙ A_m without the (b, m, d) array of the products.
    squares = (query * query) @ (attention * attention).T
    lengths = jnp.sqrt(jnp.maximum(squares, SQUARE_FLOOR))
    return query @ (attention * unit(keys)).T / lengths


def penalty(rows: Float[Array, "m e"], used: Bool[Array, "m"]) -> Float[Array, ""]:
    """Mean of (B Bᵀ - I)² over pairs of rows in use.

    Example:
        >>> float(penalty(jnp.array([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]]), jnp.array([True, True, False])))
        0.5
    """
    off = jnp.where(used[:, None] & used, rows @ rows.T - jnp.eye(len(rows), dtype=rows.dtype), 0)
    return jnp.sum(off * off) / jnp.maximum(used.sum(), 1) ** 2


@dataclass(frozen=True)
class CodaPrompt(Learner):
    """Prefixes summed from components that tasks add.

    Attributes:
        components: components over the whole stream, M (at most the backbone's width; the same for each task).
        length: rows of a prefix, half of them keys and half values.
        orthogonality: weight λ of the penalty.
    """

    components: int = 100
    length: int = 8
    orthogonality: float = 0.1

    name: ClassVar = "coda-prompt"
    terms: ClassVar = ("ce", "orth")
    parts: ClassVar = {
        "prompts": ("components/prompts",),
        "keys": ("components/keys",),
        "attention": ("components/attention",),
        "head": ("head/",),
    }
    recipe: ClassVar = Recipe("adam", learning_rate=0.001, schedule="cosine")

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks that have components."""
        return layers_of((0, 1, 2, 3, 4), self.backbone.depth)

    @property
    def per_task(self) -> int:
        """Components that a task adds to each block."""
        return max(1, min(self.components, self.backbone.dim) // self.tasks)

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw the classifier; components are zero and out of use until their task begins."""
        dim, many = self.backbone.dim, self.per_task * self.tasks
        shapes = ((self.length, dim), (dim,), (dim,))
        zeros = {
            name: jnp.zeros((len(self.layers), many, *shape)) for name, shape in zip(COMPONENTS, shapes, strict=True)
        }
        return zeros | linear_head(key, dim, self.classes), {name: jnp.zeros(many, bool) for name in (IN_USE, OWN)}

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Draw the task's components, orthogonal to all before them, and put them into use."""
        start = int(task.number) * self.per_task
        stop = start + self.per_task
        trainable, changed = state.trainable, {}
        for name, own_key in zip(COMPONENTS, jax.random.split(key, len(COMPONENTS)), strict=True):
            # [layers, components, entries]: P_m as one long vector
            rows = trainable[name].reshape(*trainable[name].shape[:2], -1)
            drawn = jax.random.normal(own_key, (len(rows), self.per_task, rows.shape[2]))
            # Each layer by itself; old components as training has left them
            new = jax.vmap(orthogonal_to)(rows[:, :start], drawn)
            changed[name] = rows.at[:, start:stop].set(new).reshape(trainable[name].shape)
        numbers = jnp.arange(self.per_task * self.tasks)
        return state.updated(changed, {IN_USE: numbers < stop, OWN: (numbers >= start) & (numbers < stop)})

    def parted(self, trainable: Tree, frozen: Frozen) -> Tree:
        """The tree, old tasks' components cut off from the gradient."""

        def cut(value: Array) -> Array:
            # [components] against [layers, components, ...]
            mask = frozen.buffers[OWN].reshape(-1, *[1] * (value.ndim - 2))
            return jnp.where(mask, value, jax.lax.stop_gradient(value))

        return trainable | {name: cut(trainable[name]) for name in COMPONENTS}

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Class feature under the image's weighted sum of components."""
        vit = self.vit(frozen)
        tokens = vit.embed(images)
        query = query_of(vit, tokens)
        prompts, keys, attention = (self.parted(trainable, frozen)[name] for name in COMPONENTS)
        prefixes = {}
        for i, layer in enumerate(self.layers):
            # Components to come are zero and add nothing.
            rows = jnp.einsum("bm,mld->bld", weights_of(query, attention[i], keys[i]), prompts[i])
            prefixes[layer] = (rows[:, : self.length // 2], rows[:, self.length // 2 :])
        return encoded(vit, tokens, prefixes=prefixes)[:, 0]

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b k"]]:
        """Cross-entropy over the task's own classes, and the penalty on components that aren't orthogonal."""
        terms, logits = super().loss(trainable, frozen, task, batch, key)
        parted = self.parted(trainable, frozen)
        rows = [parted[name].reshape(*parted[name].shape[:2], -1) for name in COMPONENTS]
        penalties = [penalty(block, frozen.buffers[IN_USE]) for part in rows for block in part]
        return terms | {"orth": self.orthogonality * jnp.stack(penalties).sum()}, logits
