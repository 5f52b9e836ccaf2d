"""How a family of files names and lays out the arrays of a ViT, and what this project calls them.

Here a backbone is a flat dictionary of the paths of `shapes(config)`. Kernels are (in, out), query, key and value are
one map, and the patch embedding is a linear map of the flattened patch (height, width, channel).
"""

import itertools
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import numpy as np

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.errors import WeightsError

NumpyTree = dict[str, np.ndarray]
Shape = tuple[int, ...]
Parts = tuple[np.ndarray, ...]

CLASS_TOKEN = "backbone/class_token"
POSITIONS = "backbone/positions"
PATCHES = "backbone/patch_embed/kernel"
FIXED = (CLASS_TOKEN, POSITIONS, PATCHES, "backbone/patch_embed/bias", "backbone/norm/scale", "backbone/norm/bias")
KINDS = ("kernel", "bias")
BLOCK_PARTS = ("norm1", "qkv", "proj", "norm2", "fc1", "fc2")


def block_path(i: int, part: str, kind: str) -> str:
    """Path of a block's variable; `kind` is `kernel` (a norm's is called `scale`) or `bias`."""
    return f"backbone/blocks/{i}/{part}/{'scale' if part.startswith('norm') and kind == 'kernel' else kind}"


def paths(depth: int) -> list[str]:
    """Path of each variable of a backbone with `depth` blocks.

    Example:
        >>> len(paths(12))
        150
    """
    return [*FIXED] + [block_path(i, part, kind) for i in range(depth) for part in BLOCK_PARTS for kind in KINDS]


def shapes(config: BackboneConfig) -> dict[str, Shape]:
    """Shape of each variable of a backbone, by path.

    Example:
        >>> shapes(BackboneConfig(dim=8, depth=1))["backbone/blocks/0/qkv/kernel"]
        (8, 24)
    """
    d, hidden = config.dim, int(config.dim * config.mlp_ratio)
    widths = {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, hidden), "fc2": (hidden, d)}
    special: dict[str, Shape] = {
        CLASS_TOKEN: (1, 1, d),
        POSITIONS: (1, config.tokens, d),
        PATCHES: (config.patch_size**2 * config.channels, d),
    }
    out = {}
    for path in paths(config.depth):
        part, kind = path.split("/")[-2:]
        width = widths.get(part, (d,))
        out[path] = special.get(path, width if kind == "kernel" else width[-1:])
    return out


def from_torch(path: str, parts: Parts) -> np.ndarray:
    """PyTorch's layout to ours: a linear map is (out, in), a convolution (out, in, height, width).

    Args:
        path: our path of the variable.
        parts: the file's arrays; three (query, key, value) where the file keeps them apart.

    Returns:
        The variable.
    """
    if path == PATCHES:
        # (out, in, height, width) to (height, width, in, out): a flattened patch is (height, width, channel)
        return parts[0].transpose(2, 3, 1, 0).reshape(-1, len(parts[0]))
    value = np.concatenate(parts) if len(parts) > 1 else parts[0]  # along `out`: query, key, value
    return value.T if path.endswith("/kernel") else value


def to_torch(path: str, value: np.ndarray, config: BackboneConfig, count: int) -> Parts:
    """Inverse of `from_torch`, into `count` arrays."""
    if path == PATCHES:
        side = config.patch_size
        return (value.reshape(side, side, config.channels, -1).transpose(3, 2, 0, 1),)
    value = value.T if path.endswith("/kernel") else value
    return tuple(np.split(value, count)) if count > 1 else (value,)


def torch_patch(shape: Shape) -> Shape:
    """Height, width, channels and output width of a convolution (out, in, height, width)."""
    out, channels, height, width = shape
    return height, width, channels, out


def torch_block(block: str, parts: Mapping[str, str | tuple[str, ...]]) -> "Block":
    """Make the name table of a PyTorch module's blocks.

    Args:
        block: name of block `{i}`, with its dot.
        parts: our name of a block's part to theirs (three where query, key and value are apart).
    """

    def names(i: int) -> Table:
        table: Table = {}
        for ours, theirs in parts.items():
            each = (theirs,) if isinstance(theirs, str) else theirs
            for kind, suffix in (("kernel", "weight"), ("bias", "bias")):
                table[block_path(i, ours, kind)] = tuple(f"{block.format(i=i)}{x}.{suffix}" for x in each)
        return table

    return names


Table = dict[str, tuple[str, ...]]
Block = Callable[[int], Table]


@dataclass(frozen=True)
class Layout:
    """A family of files.

    Attributes:
        name: one word for it.
        title: what messages call its names.
        fixed: our path to the file's name of what stands outside the blocks.
        block: number of a block to a table from our path to the file's names (three where q, k and v are apart).
        to_ours: our path and the file's arrays to our array.
        to_theirs: our path, our array, the backbone and the number of arrays to the file's arrays.
        patch: shape of the file's patch embedding to (height, width, channels, dim).
        prefixes: what may stand before a name (a wrapper's name); taken away in this order, each once.
        ignored: names that are known and not part of a backbone, as a regular expression for the whole name.
        heads: shapes by name to the number of attention heads, or None where the shapes don't tell.
    """

    name: str
    title: str
    fixed: Mapping[str, str]
    block: Block
    to_ours: Callable[[str, Parts], np.ndarray] = from_torch
    to_theirs: Callable[[str, np.ndarray, BackboneConfig, int], Parts] = to_torch
    patch: Callable[[Shape], Shape] = torch_patch
    prefixes: tuple[str, ...] = ("module.", "_orig_mod.")
    ignored: str = r"(?!)"
    heads: Callable[[Mapping[str, Shape]], int | None] = lambda shapes: None

    def bare(self, name: str) -> str:
        """Name without the prefixes of wrappers."""
        # Wrappers nest: `module.` of data parallelism around `_orig_mod.` of a compiled model around a network
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return name

    def names(self, depth: int) -> Table:
        """Our path of each variable to the file's names."""
        table: Table = {path: (name,) for path, name in self.fixed.items()}
        for i in range(depth):
            table |= self.block(i)
        return table

    def flat_names(self, depth: int) -> set[str]:
        """Every name of a file with `depth` blocks."""
        return {name for group in self.names(depth).values() for name in group}

    def depth(self, names: Container[str]) -> int:
        """Number of blocks in a row of which a file has at least one array."""
        # At least one, so that a block which lacks arrays is called incomplete, not absent
        return next(i for i in itertools.count() if not any(n in names for g in self.block(i).values() for n in g))

    def shapes(self, config: BackboneConfig) -> dict[str, Shape]:
        """Shape of every array of a file, by name."""
        ours, out = shapes(config), {}
        for path, group in self.names(config.depth).items():
            # A view of a single zero goes through the change of layout: shapes without memory, however large the config
            empty = np.broadcast_to(np.float32(0), ours[path])
            arrays = self.to_theirs(path, empty, config, len(group))
            out.update({name: array.shape for name, array in zip(group, arrays, strict=True)})
        return out

    def gather(self, read: Callable[[str], np.ndarray], depth: int) -> NumpyTree:
        """Read a whole backbone.

        Args:
            read: bare name to array.
            depth: number of blocks.

        Returns:
            Path to array.
        """
        return {
            # Transposed views would keep the file's arrays alive, and be copied at every use
            path: np.ascontiguousarray(self.to_ours(path, tuple(read(name) for name in group)))
            for path, group in self.names(depth).items()
        }

    def scatter(self, tree: Mapping[str, np.ndarray], config: BackboneConfig) -> NumpyTree:
        """Name and lay out a backbone as files of this family do; the inverse of `gather`.

        Args:
            tree: path to array.
            config: the backbone.

        Returns:
            Name to array.

        Raises:
            WeightsError: the tree lacks a variable, or one has another shape.
        """
        expected, out = shapes(config), {}
        for path, group in self.names(config.depth).items():
            if path not in tree or np.shape(tree[path]) != expected[path]:
                came = f"shape {np.shape(tree[path])}" if path in tree else "nothing"
                raise WeightsError(
                    f"expected {path} with shape {expected[path]}, got {came}; give the backbone's config"
                )
            arrays = self.to_theirs(path, np.asarray(tree[path]), config, len(group))
            out.update({name: np.ascontiguousarray(x) for name, x in zip(group, arrays, strict=True)})
        return out
