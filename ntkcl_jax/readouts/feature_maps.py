"""Fixed maps from what a network makes of an image, at several depths, to one row of numbers for a ridge classifier.

One forward pass gives all that they read (`ntkcl_jax.models.vit.Levels`); a map has no trainable parameter and sees no
label, so its rows never change once the network stays as it is. With u = (x - mean(x)) / std(x) over the channels (a
LayerNorm without parameters), tokens x_{l,p} after block l at patch p (grids finer than 7 x 7 averaged down to about
that), and fixed normal matrices R:

    F  `Final`        max(0, Rᵀ h), h the feature that the network's own classifier reads (RanPAC, arXiv:2307.02251)
    M  `Tokens`       max(0, Rᵀ m), m the class tokens u of the upper half of the blocks, and mean_p u(x_{l,p})
    G  `Grid`         max(0, Rᵀ g), g the means of u(x_{l,p}) over nine overlapping windows, of four middle blocks
    S  `SecondOrder`  mean_p (aᵀ u(x_{l,p})) (bᵀ u(x_{l,p})), a, b normal: sketches of mean_p u uᵀ

Class tokens of several blocks under a ridge classifier are those of LayUP (Ahrens et al., arXiv:2312.08888). What each
map is the tangent feature of is in docs/theory.md, section 9.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.models.vit import LAYER_NORM_EPS, Levels

SIDE = 7
"""Side of the grid that finer ones are averaged down to, about."""
WINDOWS = 3
"""Windows along a side of the grid; each takes three sevenths of it."""
DEPTHS = (2, 3, 4, 5)
"""Sixths of the depth at which patch tokens are read: blocks 4, 6, 8 and 10 of 12."""


@dataclass(frozen=True)
class FeatureMap(ABC):
    """A fixed map of `Levels` to rows.

    Attributes:
        width: numbers in a row.
        backbone: shape of the network.
    """

    width: int
    backbone: BackboneConfig

    name: ClassVar[str]
    """One letter, for tables and settings."""

    @abstractmethod
    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """Its random matrices."""

    @abstractmethod
    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """Map a batch; a row depends on no other."""


@dataclass(frozen=True)
class RandomReLU(FeatureMap):
    """max(0, Rᵀ v) of a vector v that a subclass reads off the levels."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Entries of v."""

    @abstractmethod
    def read(self, levels: Levels) -> Float[Array, "b m"]:
        """The vectors v of a batch."""

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """R, of independent standard normals."""
        return {"projection": _normal(seed, self.inputs, self.width)}

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """max(0, Rᵀ v)."""
        return jax.nn.relu(at_least_float32(self.read(levels)) @ drawn["projection"])


@dataclass(frozen=True)
class Final(RandomReLU):
    """F: random features of what the network's own classifier reads.

    Attributes:
        entries: of that feature.
    """

    entries: int = 0

    name: ClassVar = "F"

    @property
    def inputs(self) -> int:
        """As many as the feature has."""
        return self.entries

    def read(self, levels: Levels) -> Float[Array, "b m"]:
        """The feature itself."""
        return levels.final


@dataclass(frozen=True)
class Tokens(RandomReLU):
    """M: random features of class tokens of the upper half of the blocks, and of patch means of middle blocks."""

    name: ClassVar = "M"

    @property
    def class_blocks(self) -> range:
        """Blocks, counted from 0, whose class token is read."""
        return range(self.backbone.depth // 2, self.backbone.depth)

    @property
    def inputs(self) -> int:
        """A token's channels for each token or mean."""
        return self.backbone.dim * (len(self.class_blocks) + len(middle_blocks(self.backbone.depth)))

    def read(self, levels: Levels) -> Float[Array, "b m"]:
        """Class tokens and means, one after the other."""
        classes = [standardised(levels.tokens[i][:, 0]) for i in self.class_blocks]
        means = [patches.mean(axis=(1, 2)) for patches in middle_patches(self.backbone, levels)]
        return jnp.concatenate([*classes, *means], axis=1)


@dataclass(frozen=True)
class ClassTokens(FeatureMap):
    """Class tokens of the last blocks, as they leave them; nothing is drawn."""

    name: ClassVar = "C"

    @classmethod
    def of(cls, backbone: BackboneConfig, blocks: int) -> Self:
        """Those of the last `blocks` blocks, or of all where there are fewer."""
        return cls(backbone.dim * min(blocks, backbone.depth), backbone)

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """Nothing."""
        return {}

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """One after the other, the last block's at the end."""
        blocks = self.width // self.backbone.dim
        return at_least_float32(jnp.concatenate([tokens[:, 0] for tokens in levels.tokens[-blocks:]], axis=1))


@dataclass(frozen=True)
class Grid(RandomReLU):
    """G: random features of the means of patch tokens over overlapping windows."""

    name: ClassVar = "G"

    @property
    def inputs(self) -> int:
        """A token's channels for each window of each block."""
        return self.backbone.dim * len(middle_blocks(self.backbone.depth)) * len(self.windows) ** 2

    @cached_property
    def windows(self) -> Float32[np.ndarray, "v s"]:
        """Rows that average over a window of a grid's side."""
        return windows(len(pooling(self.backbone.image_size // self.backbone.patch_size)))

    def read(self, levels: Levels) -> Float[Array, "b m"]:
        """Means over windows, block by block."""
        means = [
            jnp.einsum("vr,wc,brcd->bvwd", self.windows, self.windows, patches)
            for patches in middle_patches(self.backbone, levels)
        ]
        return jnp.concatenate([mean.reshape(len(mean), -1) for mean in means], axis=1)


@dataclass(frozen=True)
class SecondOrder(FeatureMap):
    """S: random bilinear forms of patch tokens, averaged over patches."""

    name: ClassVar = "S"

    @cached_property
    def parts(self) -> tuple[int, ...]:
        """Numbers from each block, as equal as `width` allows."""
        blocks = len(middle_blocks(self.backbone.depth))
        return tuple(self.width // blocks + (i < self.width % blocks) for i in range(blocks))

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """The vectors a and b, as columns."""
        return {side: _normal(seed + i, self.backbone.dim, self.width) for i, side in enumerate("ab")}

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """mean_p (aᵀ u_p) (bᵀ u_p)."""
        ends = np.cumsum(self.parts)
        found = []
        for patches, end, count in zip(middle_patches(self.backbone, levels), ends, self.parts, strict=True):
            a, b = (drawn[side][:, end - count : end] for side in "ab")
            found.append(jnp.mean((patches @ a) * (patches @ b), axis=(1, 2)))
        return jnp.concatenate(found, axis=1)


def middle_blocks(depth: int) -> tuple[int, ...]:
    """Blocks whose patch tokens are read, counted from 0; never the last one.

    Example:
        >>> middle_blocks(12), middle_blocks(6), middle_blocks(2)
        ((3, 5, 7, 9), (1, 2, 3, 4), (0,))
    """
    # round() would round halves to even; blocks are counted from 1 where depths are told
    places = (min(max(math.floor(depth * sixths / 6 + 0.5), 1), max(depth - 1, 1)) for sixths in DEPTHS)
    return tuple(dict.fromkeys(place - 1 for place in places))


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Narrower numbers in float32; float64, which is there to check it, stays."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def standardised(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """LayerNorm without parameters, in float32 at least."""
    x = at_least_float32(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + LAYER_NORM_EPS)


def middle_patches(backbone: BackboneConfig, levels: Levels) -> list[Float[Array, "b s s d"]]:
    """Standardised patch tokens of the middle blocks, on a grid of about `SIDE` x `SIDE`."""
    side = backbone.image_size // backbone.patch_size
    average = pooling(side)
    found = []
    for i in middle_blocks(backbone.depth):
        tokens = at_least_float32(levels.tokens[i][:, 1:])  # without the class token
        grid = tokens.reshape(len(tokens), side, side, -1)
        if len(average) < side:
            grid = jnp.einsum("rp,cq,bpqd->brcd", average, average, grid)
        found.append(standardised(grid))
    return found


def pooling(side: int) -> Float32[np.ndarray, "s g"]:
    """Rows that average a grid's side down to about `SIDE`; the identity where it isn't twice as fine.

    Example:
        >>> pooling(14).shape, pooling(14)[0, :3].tolist(), pooling(8).shape
        ((7, 14), [0.5, 0.5, 0.0], (8, 8))
    """
    small = side // max(1, side // SIDE)
    rows = np.zeros((small, side), np.float32)
    for i, row in enumerate(rows):
        start, end = i * side // small, -(-(i + 1) * side // small)  # parts may overlap where they don't fit
        row[start:end] = 1 / (end - start)
    return rows


def windows(side: int) -> Float32[np.ndarray, "v s"]:
    """Rows that average over overlapping windows of a grid's side, the first at its beginning, the last at its end.

    Example:
        >>> (windows(7) > 0).astype(int).tolist()
        [[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1]]
    """
    length = max(1, round(3 / 7 * side))
    starts = sorted({round(i * (side - length) / (WINDOWS - 1)) for i in range(WINDOWS)})
    rows = np.zeros((len(starts), side), np.float32)
    for row, start in zip(rows, starts, strict=True):
        row[start : start + length] = 1 / length
    return rows


def _normal(seed: int, rows: int, columns: int) -> Float32[np.ndarray, "r c"]:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
