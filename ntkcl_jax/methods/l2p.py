"""L2P, learning to prompt (Wang et al., CVPR 2022, arXiv:2112.08654).

A pool of M prompts P_m (L tokens each) with keys k_m, shared by all tasks. An image x with query q = q(x) takes the N
prompts whose keys are nearest, S(x) = top-N of cos(q, k_m); they enter the first block in front of its tokens (eq. 4),
and the classifier reads the mean of their rows after the final norm. The loss of a batch is (eq. 5)

    mean_x [ CE(softmax over the task's own classes) + λ Σ_{m in S(x)} (1 - cos(q(x), k_m)) ].

M = 10, L = N = 5; λ = 0.1, U(-1, 1) prompts and keys, Adam at a constant 0.03 * batch / 256 (0.001875 for batches of
16) and the clipped gradient are those of the PyTorch port and of LAMDA-PILOT, behind the numbers in NTK-CL's table;
the authors' release has L = 10, N = 4, λ = 1 for CIFAR-100. λ hardly matters: keys enter only the pull, whose scale
Adam cancels.

Where this departs: every image takes its own prompts, as the paper's equations have it. The released codes let a batch
vote for one set that all of its images take, at test time too, so that a prediction depends on the images side by side;
to vote in training only would pair prompts and images in a test that never met, so there is no vote in training either.
The port gives prompt tokens positions of their own; the paper and the authors' release don't. The linear classifier
starts as all those of this project.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Learner, Recipe, Task, apply_head, cross_entropy, linear_head
from ntkcl_jax.methods.prompting import cosine, encoded, mean_over, query_of, uniform
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree

PUBLISHED = {"cifar100": (0.8930, 0.8416), "imagenet-r": (0.7238, 0.6557), "imagenet-a": (0.4786, 0.3808)}
"""(A̅, A_T) on ImageNet-21K weights by benchmark, as NTK-CL's table reports them (arXiv:2407.17120)."""


@dataclass(frozen=True)
class L2P(Learner):
    """A pool of prompts, chosen by each image's query.

    Attributes:
        pool: prompts in the pool, M.
        length: tokens of a prompt, L.
        top: prompts that an image takes, N.
        pull: weight λ of the distance of queries and chosen keys.
    """

    pool: int = 10
    length: int = 5
    top: int = 5
    pull: float = 0.1

    name: ClassVar = "l2p"
    terms: ClassVar = ("ce", "pull")
    parts: ClassVar = {"prompts": ("prompts/",), "keys": ("keys/",), "head": ("head/",)}
    recipe: ClassVar = Recipe("adam", learning_rate=0.03 * 16 / 256, schedule="constant", clip=1.0)

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw pool, keys and classifier; no buffers."""
        keys = jax.random.split(key, 3)
        dim = self.backbone.dim
        prompts = {
            "prompts/pool": uniform(keys[0], (self.pool, self.length, dim)),
            "keys/pool": uniform(keys[1], (self.pool, dim)),
        }
        return prompts | linear_head(keys[2], dim, self.classes), {}

    def chosen(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b n"]]:
        """Mean feature of the prompts that each image takes, and the cosines of query and chosen keys."""
        vit = self.vit(frozen)
        tokens = vit.embed(images)
        # [b, N] both; then the rows of the N prompts one after the other, [b, N L, d]
        nearest, which = jax.lax.top_k(cosine(query_of(vit, tokens), trainable["keys/pool"]), self.top)
        prompts = trainable["prompts/pool"][which].reshape(len(tokens), -1, self.backbone.dim)
        # In front, so that the last block need only compute their rows.
        tokens = jnp.concatenate([prompts.astype(tokens.dtype), tokens], axis=1)
        return encoded(vit, tokens, rows=prompts.shape[1]).mean(axis=1), nearest

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Mean over the rows of the prompts."""
        return self.chosen(trainable, frozen, images)[0]

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b k"]]:
        """Cross-entropy over the task's own classes, and the pull of chosen keys to queries."""
        features, nearest = self.chosen(trainable, frozen, batch.images)
        logits = apply_head(trainable, features)
        # It moves the keys only: no gradient goes through a query
        pull = self.pull * mean_over(jnp.sum(1 - nearest, axis=1), batch.valid)
        return {"ce": cross_entropy(logits, batch.labels, batch.valid, task.new), "pull": pull}, logits
