"""The untouched backbone: nothing trains, its class token is the feature.

Janson et al., "A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning" (arXiv:2210.04428):
a readout of frozen features is what every method that trains inside the backbone has to beat.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from ntkcl_jax.methods.base import Learner, Recipe
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.vit import Levels


@dataclass(frozen=True)
class FrozenBackbone(Learner):
    """No learner at all; it has no head of its own, so it needs a readout."""

    name: ClassVar = "frozen"
    terms: ClassVar = ()
    parts: ClassVar = {}
    recipe: ClassVar = Recipe("sgd", learning_rate=0.0, schedule="constant")
    sessions: ClassVar = 0
    outputs: ClassVar = ("features",)

    def init(self, key: Key) -> tuple[Tree, Tree]:
        """Nothing to draw."""
        return {}, {}

    def features(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Class token of the untouched backbone, float32."""
        return self.vit(frozen)(images)

    def levels(self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"]) -> Levels:
        """All from one pass."""
        return self.vit(frozen).levels(images)
