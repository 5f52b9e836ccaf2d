"""RanPAC: ridge regression on random features of a backbone that was adapted to the first task only.

McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023,
arXiv:2307.02251. Adapters are trained on task 0 (its first session) and then frozen. With the class feature h of an
image and a fixed normal R (d, w),

    x = max(0, Rᵀ h),   W = (Σ x xᵀ + λ I)⁻¹ Σ x yᵀ   (over all images of all tasks),

with λ by a held-out fifth of each task (`held_out_ridge`). Images come under the test transform, no view twice.

Where we depart: 2,000 random features by default (`readout.random_features`; published: 10,000), and as many epochs on
task 0 as NTK-CL has.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.held_out_ridge import HeldOutRidge
from ntkcl_jax.readouts.ridge import random_projection, random_relu
from ntkcl_jax.seeds import stream_seed

PUBLISHED: dict[str, tuple[float | None, float]] = {"cifar100": (None, 0.922)}
"""Mean over tasks (not given) and final accuracy, ImageNet-21K weights."""
SOURCE = "arXiv:2307.02251"
"""Where they are published."""


@dataclass(frozen=True)
class RanPAC(HeldOutRidge):
    """Ridge regression on random features, λ by a held-out fifth of the task.

    Attributes:
        random_features: width of the random projection, w.
    """

    random_features: int = 2000

    name: ClassVar = "ranpac"

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        return cls(width, classes, seed, config.readout.random_features)

    @property
    def inputs(self) -> int:
        """Entries of x."""
        return self.random_features

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """Random features x."""
        return random_relu(features, self.random_features, stream_seed(self.seed, self.name))

    @property
    def projection(self) -> Float[np.ndarray, "e w"] | None:
        """R of the random features."""
        return random_projection(self.width, self.random_features, stream_seed(self.seed, self.name))
