"""LayUP: ridge regression on class tokens of the last blocks.

Ahrens et al., "Read Between the Layers: Leveraging Multi-Layer Representations for Rehearsal-Free Continual Learning
with Pre-Trained Models", arXiv:2312.08888. With x the class tokens of the last k = 6 blocks, one after the other,

    G = Σ x xᵀ,   S = Σ x yᵀ   (over all images of all tasks),   W = (G + λ I)⁻¹ S,

after a first session of training on task 0 (here adapters, as for RanPAC: `first-session/layup`).

Where we depart: λ is chosen as RanPAC's is, and tokens come as they leave the blocks, not normed.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import BackboneConfig, RunConfig
from ntkcl_jax.readouts.feature_maps import ClassTokens, FeatureMap
from ntkcl_jax.readouts.ranpac import RanPAC

BLOCKS = 6
"""Blocks whose class tokens are read, k."""


@dataclass(frozen=True)
class LayUP(RanPAC):
    """Ridge regression on class tokens of the last blocks, λ by a held-out fifth of the task.

    Attributes:
        backbone: shape of the network whose tokens are read.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    name: ClassVar = "layup"

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, backbone=config.model.backbone)

    @property
    def maps(self) -> tuple[FeatureMap, ...]:
        """What is read of each image."""
        return (ClassTokens.of(self.backbone, BLOCKS),)

    @property
    def inputs(self) -> int:
        """Entries of x."""
        return self.maps[0].width

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """The tokens as they are."""
        return features

    @property
    def projection(self) -> None:
        """Nothing is projected."""
        return None
