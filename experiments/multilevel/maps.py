"""Variants of the library's feature maps: other blocks, other windows, other normalisation of tokens.

With norm(x) in the place of the library's u (`ntkcl_jax.readouts.feature_maps`), blocks B whose patch tokens are read
and blocks C whose class token is read (both counted from 0), the formulas are the same: M is max(0, Rᵀ m), m the class
tokens of C and the patch means of B; G is max(0, Rᵀ g), g the means over windows of B; S is the mean over patches of B
of (aᵀ norm(x)) (bᵀ norm(x)). Random matrices are drawn as the library draws them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.models.vit import Levels
from ntkcl_jax.readouts.feature_maps import (
    FeatureMap,
    Final,
    SecondOrder,
    at_least_float32,
    middle_blocks,
    pooling,
    standardised,
)
from ntkcl_jax.readouts.multilevel import MAPS

Norm = Literal["layer", "none", "own"]
Where = Literal["early", "middle", "late", "all", "last"]
SHARES = {1: 1.0, 2: 4 / 7, 3: 3 / 7}
"""Windows along a side of the grid to the share of it that each takes; 0 windows: every patch is one."""
Groups = tuple[FeatureMap, ...]


@dataclass(frozen=True)
class Reading:
    """What is read of a network's tokens.

    Attributes:
        classes: blocks whose class token is read, from 0.
        patches: blocks whose patch tokens are read; never the last one, which has none.
        windows: along a side of the grid; 0: every patch.
        norm: of tokens: a LayerNorm without parameters, none, or the network's own final norm.
    """

    classes: tuple[int, ...]
    patches: tuple[int, ...]
    windows: int = 3
    norm: Norm = "layer"

    @classmethod
    def of(cls, depth: int, where: Where = "middle", windows: int = 3, norm: Norm = "layer") -> "Reading":
        """A part of the depth; `middle` is what the library reads, `last` the last block and the one before it.

        Example:
            >>> early, late = Reading.of(12, "early"), Reading.of(12, "late")
            >>> early.patches, late.classes, late.patches
            ((0, 1, 2, 3), (8, 9, 10, 11), (8, 9, 10))
        """
        third = max(1, depth // 3)
        blocks = {
            "early": range(third),
            "late": range(depth - third, depth),
            "all": range(depth),
            "last": range(depth - 1, depth),
        }
        if where == "middle":
            return cls(tuple(range(depth // 2, depth)), middle_blocks(depth), windows, norm)
        classes = tuple(blocks[where])
        # A third of a shallow network may be its last block alone
        return cls(classes, tuple(i for i in classes if i < depth - 1) or (depth - 2,), windows, norm)


@dataclass(frozen=True)
class Read(FeatureMap):
    """A map that reads as `reading` says."""

    reading: Reading

    def normed(self, drawn: Mapping[str, Any], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Tokens under the norm."""
        if self.reading.norm == "none":
            return at_least_float32(x)
        if self.reading.norm == "own":
            return standardised(x) * drawn["scale"] + drawn["bias"]
        return standardised(x)

    def patches(self, drawn: Mapping[str, Any], levels: Levels) -> list[Float[Array, "b s s d"]]:
        """Normed patch tokens block by block, on the library's coarser grid."""
        side = self.backbone.image_size // self.backbone.patch_size
        average, found = pooling(side), []
        for i in self.reading.patches:
            tokens = at_least_float32(levels.tokens[i][:, 1:])  # without the class token
            grid = tokens.reshape(len(tokens), side, side, -1)
            found.append(self.normed(drawn, jnp.einsum("rp,cq,bpqd->brcd", average, average, grid)))
        return found


@dataclass(frozen=True)
class ReadReLU(Read):
    """max(0, Rᵀ v)."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Entries of v."""

    @abstractmethod
    def vectors(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b m"]:
        """The vectors v of a batch."""

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """R, of independent standard normals."""
        return {"projection": np.random.default_rng(seed).standard_normal((self.inputs, self.width), np.float32)}

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """max(0, Rᵀ v)."""
        return jax.nn.relu(self.vectors(drawn, levels) @ drawn["projection"])


@dataclass(frozen=True)
class ReadTokens(ReadReLU):
    """M."""

    name: ClassVar = "M"

    @property
    def inputs(self) -> int:
        """A token's channels for each token or mean."""
        return self.backbone.dim * (len(self.reading.classes) + len(self.reading.patches))

    def vectors(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b m"]:
        """Class tokens and means, one after the other."""
        classes = [self.normed(drawn, levels.tokens[i][:, 0]) for i in self.reading.classes]
        means = [patches.mean(axis=(1, 2)) for patches in self.patches(drawn, levels)]
        return jnp.concatenate([*classes, *means], axis=1)


@dataclass(frozen=True)
class ReadGrid(ReadReLU):
    """G."""

    name: ClassVar = "G"

    @property
    def inputs(self) -> int:
        """A token's channels for each window of each block."""
        return self.backbone.dim * len(self.reading.patches) * len(self.averages) ** 2

    @property
    def averages(self) -> Float32[np.ndarray, "v s"]:
        """Rows that average over a window of a grid's side."""
        side = len(pooling(self.backbone.image_size // self.backbone.patch_size))
        return windows(side, self.reading.windows)

    def vectors(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b m"]:
        """Means over windows, block by block."""
        rows = self.averages
        means = [jnp.einsum("vr,wc,brcd->bvwd", rows, rows, grid) for grid in self.patches(drawn, levels)]
        return jnp.concatenate([mean.reshape(len(mean), -1) for mean in means], axis=1)


@dataclass(frozen=True)
class ReadSecondOrder(Read):
    """S."""

    name: ClassVar = "S"

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """The vectors a and b, as columns."""
        return SecondOrder(self.width, self.backbone).draw(seed)

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """mean_p (aᵀ norm(x_p)) (bᵀ norm(x_p)), as equal a part from each block as the width allows."""
        found, columns = [], np.array_split(np.arange(self.width), len(self.reading.patches))
        for grid, own in zip(self.patches(drawn, levels), columns, strict=True):
            a, b = (drawn[side][:, own] for side in "ab")
            found.append(jnp.mean((grid @ a) * (grid @ b), axis=(1, 2)))
        return jnp.concatenate(found, axis=1)


@dataclass(frozen=True)
class Feature(FeatureMap):
    """What the network's own classifier reads, as it is: the rivals' feature."""

    name: ClassVar = "feature"

    def draw(self, seed: int) -> dict[str, Float32[np.ndarray, "..."]]:
        """Nothing."""
        return {}

    def __call__(self, drawn: Mapping[str, Any], levels: Levels) -> Float[Array, "b w"]:
        """The feature."""
        return at_least_float32(levels.final)


def windows(side: int, count: int) -> Float32[np.ndarray, "v s"]:
    """Rows that average over `count` windows of a grid's side, the first at its beginning, the last at its end.

    Example:
        >>> (windows(7, 2) > 0).astype(int).tolist(), windows(4, 0).tolist() == np.eye(4).tolist()
        ([[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]], True)
    """
    if not count:
        return np.eye(side, dtype=np.float32)
    length = max(1, round(SHARES[count] * side))
    starts = sorted({round(i * (side - length) / max(count - 1, 1)) for i in range(count)})
    rows = np.zeros((len(starts), side), np.float32)
    for row, start in zip(rows, starts, strict=True):
        row[start : start + length] = 1 / length
    return rows


def signed_root(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """sign(x) √|x|."""
    return np.sign(x) * np.sqrt(np.abs(x))


def scaled(widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Widths of the groups times a factor.

    Example:
        >>> scaled((100, 100, 500, 300), 0.25)
        (25, 25, 125, 75)
    """
    return tuple(max(1, round(factor * width)) for width in widths)


def library_groups(widths: tuple[int, ...], backbone: BackboneConfig, entries: int) -> Groups:
    """The library's own maps."""
    final, *others = widths
    made = (kind(width, backbone) for kind, width in zip(MAPS[1:], others, strict=True))
    return (Final(final, backbone, entries), *made)


def groups(setting: str, widths: tuple[int, ...], backbone: BackboneConfig, entries: int) -> Groups:
    """The four maps of a setting of `SETTINGS`, or of `x` and a factor of the widths.

    Args:
        setting: its name.
        widths: of the groups, in the default setting.
        backbone: shape of the network.
        entries: of its feature.
    """
    if setting.startswith("x"):
        return library_groups(scaled(widths, float(setting[1:])), backbone, entries)
    final, tokens, grid, second = library_groups(widths, backbone, entries)
    if setting not in SETTINGS:
        return final, tokens, grid, second
    changes = SETTINGS[setting]
    reading = Reading.of(backbone.depth, **changes)
    varied = ReadGrid(grid.width, backbone, reading)
    if set(changes) == {"windows"}:  # only G has windows
        return final, tokens, varied, second
    return (
        final,
        ReadTokens(tokens.width, backbone, reading),
        varied,
        ReadSecondOrder(second.width, backbone, reading),
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "early blocks": {"where": "early"},
    "late blocks": {"where": "late"},
    "all blocks": {"where": "all"},
    "last block": {"where": "last"},
    "1 x 1 windows": {"windows": 1},
    "2 x 2 windows": {"windows": 2},
    "every patch": {"windows": 0},
    "no norm": {"norm": "none"},
    "own norm": {"norm": "own"},
}
"""What is read otherwise than by the library's maps."""
