"""DualPrompt (Wang et al., ECCV 2022, arXiv:2204.04799).

Prefixes (see `prompting`) of two kinds: a G-prompt in the first two blocks, trained by every task, and in the next
three blocks an E-prompt for each task t with one key k_t. In training, task t's images take E-prompt t; in a test, an
image x with query q(x) takes that of argmax_t cos(q(x), k_t) over the tasks so far. The classifier reads the class
token. The loss of a batch of task t is (eq. 6)

    mean_x [ CE(softmax over the task's own classes) + λ (1 - cos(q(x), k_t)) ].

Lengths 5 and 20 are the paper's; each is the number of rows in front of the keys and again of the values, as in the
authors' release. λ = 1 and the new E-prompt's start at the one before (keys start anew) are the release's, Adam at a
constant 0.001 with a clipped gradient LAMDA-PILOT's, behind the numbers in NTK-CL's table. λ hardly matters: keys enter
only the matching, whose scale Adam cancels.

Where this departs: the released codes let a batch vote for one E-prompt at test time on some benchmarks, so that
predictions depend on the images side by side; here every image takes its own. Keys of tasks that haven't come can't be
matched. A backbone of fewer than five blocks has E-prompts in those of blocks 2-4 that exist, or in its last one. The
linear classifier starts as all those of this project.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Learner, LearnerState, Recipe, Task, Views, apply_head, cross_entropy, linear_head
from ntkcl_jax.methods.prompting import cosine, encoded, layers_of, mean_over, query_of, uniform
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.vit import ViT

PUBLISHED = {"cifar100": (0.9068, 0.8576), "imagenet-r": (0.7245, 0.6631), "imagenet-a": (0.5216, 0.4007)}
"""(A̅, A_T) on ImageNet-21K weights by benchmark, as NTK-CL's table reports them (arXiv:2407.17120)."""
BEGUN = "begun"
"""Buffer that tells which tasks' E-prompts may be matched."""


@dataclass(frozen=True)
class DualPrompt(Learner):
    """A prefix for all tasks, and one for each.

    Attributes:
        general_length: rows of the G-prompt.
        expert_length: rows of an E-prompt.
        matching: weight λ of the distance of queries and their task's key.
    """

    general_length: int = 5
    expert_length: int = 20
    matching: float = 1.0

    name: ClassVar = "dualprompt"
    terms: ClassVar = ("ce", "matching")
    parts: ClassVar = {"general": ("general/",), "expert": ("expert/",), "keys": ("keys/",), "head": ("head/",)}
    recipe: ClassVar = Recipe("adam", learning_rate=0.001, schedule="constant", clip=1.0)

    @property
    def general_layers(self) -> tuple[int, ...]:
        """Blocks that the G-prompt enters."""
        return layers_of((0, 1), self.backbone.depth)

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Blocks that E-prompts enter."""
        return layers_of((2, 3, 4), self.backbone.depth)

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Draw all prompts, keys and the classifier; no task has begun."""
        keys = jax.random.split(key, 4)
        dim = self.backbone.dim
        prompts = {
            "general/prefix": uniform(keys[0], (len(self.general_layers), 2, self.general_length, dim)),
            "expert/prefix": uniform(keys[1], (self.tasks, len(self.expert_layers), 2, self.expert_length, dim)),
            "keys/task": uniform(keys[2], (self.tasks, dim)),
        }
        return prompts | linear_head(keys[3], dim, self.classes), {BEGUN: jnp.zeros(self.tasks, bool)}

    def begin(self, state: LearnerState, task: Task, key: Key, views: Views) -> LearnerState:
        """Start the task's E-prompt at the one before; its key may be matched from here on."""
        experts, begun = state.trainable["expert/prefix"], state.frozen.buffers[BEGUN]
        experts = experts.at[task.number].set(experts[jnp.maximum(task.number - 1, 0)])  # task 0's stays as drawn
        return state.updated({"expert/prefix": experts}, {BEGUN: begun.at[task.number].set(True)})

    def prompted(
        self, vit: ViT, trainable: Tree, tokens: Float[Array, "b l d"], experts: Float[Array, "*b e 2 r d"]
    ) -> Float[Array, "b d"]:
        """Class feature with the G-prompt and the given E-prompt, the same for all images or one for each."""
        found: dict[int, list[Array]] = {}
        for i, layer in enumerate(self.general_layers):
            found.setdefault(layer, []).append(trainable["general/prefix"][i])
        # In a shallow backbone one block may have both kinds
        for i, layer in enumerate(self.expert_layers):
            found.setdefault(layer, []).append(experts[..., i, :, :, :])
        prefixes = {layer: _joined(prompts) for layer, prompts in found.items()}
        return encoded(vit, tokens, prefixes=prefixes)[:, 0]

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Class feature under the E-prompt whose key is nearest."""
        vit = self.vit(frozen)
        tokens = vit.embed(images)
        near = cosine(query_of(vit, tokens), trainable["keys/task"])
        task = jnp.argmax(jnp.where(frozen.buffers[BEGUN], near, -jnp.inf), axis=1)
        # [b, e, 2, r, d]: each image has its own E-prompt
        return self.prompted(vit, trainable, tokens, trainable["expert/prefix"][task])

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b k"]]:
        """Cross-entropy over the task's own classes under its own E-prompt, and the pull of its key to the queries."""
        vit = self.vit(frozen)
        tokens = vit.embed(batch.images)
        # [b]: cosine to the key of the task itself, which training knows and needn't match
        near = cosine(query_of(vit, tokens), trainable["keys/task"][task.number][None])[:, 0]
        logits = apply_head(trainable, self.prompted(vit, trainable, tokens, trainable["expert/prefix"][task.number]))
        matching = self.matching * mean_over(1 - near, batch.valid)
        return {"ce": cross_entropy(logits, batch.labels, batch.valid, task.new), "matching": matching}, logits


def _joined(prompts: list[Array]) -> tuple[Float[Array, "*b l d"], Float[Array, "*b l d"]]:
    """Join the prompts of one block, each (2, r, d) or (b, 2, r, d), into rows before its keys and its values."""
    batch = jnp.broadcast_shapes(*(p.shape[:-3] for p in prompts))
    rows = jnp.concatenate([jnp.broadcast_to(p, (*batch, *p.shape[-3:])) for p in prompts], axis=-2)
    # The 2 are rows before the keys and rows before the values
    return rows[..., 0, :, :], rows[..., 1, :, :]
