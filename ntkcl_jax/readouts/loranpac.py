"""LoRanPAC: least squares without a ridge on very many random features, of which the weakest directions are left out.

Peng et al., "LoRanPAC: Low-rank Random Features and Pre-trained Models for Bridging Theory and Practice in Continual
Learning", ICLR 2025, arXiv:2410.00645. With a feature h and a fixed normal R (d, E), E more than there are images,

    x = max(0, Rᵀ h),   H = (x_1 … x_n),   S = Σ x yᵀ,   H ≈ U diag(s) Vᵀ (the k largest singular values),

    W = U diag(s)⁻² Uᵀ S,

the solution of least norm, were nothing left out; but H is ill-conditioned, and the reciprocals of its least singular
values would be noise. Three quarters are kept: k = min(round(0.75 n), cap) of n images so far. The basis goes from one
block of rows B to the next without V: with QR = (I - U Uᵀ) B, the singular values and left vectors of

    ( diag(s)  Uᵀ B )
    (   0        R  )

are the new s and, times (U Q), the new U; then all but k are left out. These are exact as long as nothing is left out:
then neither the order of tasks nor blocks matter (a test). With truncation they do, since what was left out is gone.

Where we depart:
- E = 10,000 by default (`readout.wide_features`; published: 100,000), and the cap is a tenth of E, as published
  (10,000). U has E x E/10 numbers: 80 MB here, 8 GB as published, and time goes with E³. On DeiT-Ti's features of 192
  handwritten characters and of 100 classes of Tiny-ImageNet 10,000 end within a point of 20,000, in a quarter of the
  time.
- Blocks have at most 1,000 rows, where the authors' release (github.com/liangzu/loranpac) takes 10,000: the memory of
  Q. More is truncated within a large task.
- Directions whose singular value is zero but for rounding are left out as well (equal images give such).
- No first session of adapters, as in the paper's own tables; `first-session/loranpac` has one.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, LinearModel, Readout, State
from ntkcl_jax.readouts.ridge import random_projection, random_relu
from ntkcl_jax.seeds import stream_seed

KEPT = 0.75
"""Singular directions that are kept, over images."""
CAP = 0.1
"""And at most, over random features."""
ROWS = 1000
"""Images whose features are expanded at a time."""
BLOCK = 7 * ROWS
"""Rows that are in memory while a block is learnt: the block itself, what is left of it, Q, and copies."""


@dataclass(frozen=True)
class LoRanPAC(Readout):
    """Truncated least squares on very many random features.

    Attributes:
        wide_features: width of the random projection, E.
        cap: singular directions that are kept, at most.
        kept: singular directions that are kept, over images.
    """

    wide_features: int
    cap: int
    kept: float = KEPT

    name: ClassVar = "loranpac"
    additive: ClassVar = True

    @classmethod
    def of(cls, config: RunConfig, *, width: int, classes: int, seed: int) -> Self:
        """Make the readout for a run."""
        wide = config.readout.wide_features
        return cls(width, classes, seed, wide, max(1, round(CAP * wide)))

    @property
    def memory(self) -> int:
        """Bytes that learning a task takes: U before and after, (U Q), and blocks of rows, as measured."""
        return 8 * self.wide_features * (3 * self.cap + BLOCK)

    def fitting(self, memory: int) -> str:
        """What to set so that it takes no more than some bytes, for people.

        Example:
            >>> LoRanPAC(1, 1, 0, 100_000, 10_000).fitting(2_000_000_000)
            'set --readout.wide_features 19469'
        """
        # E (3 CAP E + BLOCK) = memory / 8
        wide = ((BLOCK**2 + 12 * CAP * memory / 8) ** 0.5 - BLOCK) / (6 * CAP)
        return f"set --readout.wide_features {max(1, int(wide))}"

    def expand(self, features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n w"]:
        """Random features x."""
        return random_relu(features, self.wide_features, stream_seed(self.seed, self.name)).astype(np.float64)

    def init(self) -> State:
        """Nothing seen; columns of U and entries of s that aren't used are zero."""
        width = self.wide_features
        basis = {"basis": np.zeros((width, self.cap)), "values": np.zeros(self.cap)}
        return basis | {"sums": np.zeros((width, self.classes)), "images": np.array(0)}

    def learn(self, state: State, lesson: Lesson) -> State:
        """Add the task, block by block."""
        known = np.flatnonzero(state["values"])
        basis, values = state["basis"][:, known], state["values"][known]
        sums, images = state["sums"].copy(), int(state["images"])
        for at in range(0, len(lesson.labels), ROWS):
            rows = self.expand(lesson.plain[at : at + ROWS])
            sums += rows.T @ np.eye(self.classes)[lesson.labels[at : at + ROWS]]
            images += len(rows)
            basis, values = extended(basis, values, rows, min(round(self.kept * images), self.cap))
        new = self.init() | {"sums": sums, "images": np.array(images)}
        new["basis"][:, : len(values)], new["values"][: len(values)] = basis, values
        return new

    def scores(self, state: State, features: Float[np.ndarray, "n e"], seen: int) -> Float[np.ndarray, "n s"]:
        """xᵀ W."""
        known = np.flatnonzero(state["values"])
        basis, values = state["basis"][:, known], state["values"][known]
        weights = basis @ (basis.T @ state["sums"][:, :seen] / np.square(values)[:, None])
        parts = [self.expand(features[at : at + ROWS]) @ weights for at in range(0, len(features), ROWS)]
        return np.concatenate(parts)

    def linear(self, state: State) -> LinearModel:
        """The random features."""
        wide = self.wide_features
        return LinearModel.of(wide, None, random_projection(self.width, wide, stream_seed(self.seed, self.name)))


def extended(
    basis: Float[np.ndarray, "w k"], values: Float[np.ndarray, "k"], rows: Float[np.ndarray, "b w"], most: int
) -> tuple[Float[np.ndarray, "w l"], Float[np.ndarray, "l"]]:
    """Left singular vectors and singular values of more columns.

    Args:
        basis: U of the columns before.
        values: their singular values, largest first.
        rows: more columns, as rows.
        most: directions that are kept.

    Returns:
        The new ones, of which zero singular values are left out.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 9))
        >>> first = extended(np.zeros((9, 0)), np.zeros(0), x[:2], 4)
        >>> np.allclose(extended(*first, x[2:], 4)[1], np.linalg.svd(x)[1])
        True
    """
    inside = rows @ basis
    outside = rows - inside @ basis.T
    # Again: what rounding has left of it inside would make (U Q) less than orthogonal where little is outside
    rest = outside @ basis
    inside, outside = inside + rest, outside - rest @ basis.T
    beyond, triangle = np.linalg.qr(outside.T)
    below = np.zeros((len(triangle), len(values)))
    core = np.block([[np.diag(values), inside.T], [below, triangle]])
    left, found, _ = np.linalg.svd(core, full_matrices=False)
    real = np.count_nonzero(found > found[0] * max(core.shape) * np.finfo(np.float64).eps)
    kept = min(most, real)
    return np.concatenate([basis, beyond], axis=1) @ left[:, :kept], found[:kept]
