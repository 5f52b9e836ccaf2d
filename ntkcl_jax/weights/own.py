"""This project's own files: our paths as names, with the backbone's shape (heads too) in the file's header."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.config.codec import from_json, parse_json
from ntkcl_jax.errors import ConfigError, WeightsError
from ntkcl_jax.weights.layout import BLOCK_PARTS, FIXED, KINDS, Layout, Shape, Table, block_path


def _block(i: int) -> Table:
    return {path: (path,) for part in BLOCK_PARTS for kind in KINDS for path in [block_path(i, part, kind)]}


def _patch(shape: Shape) -> Shape:
    """A flattened patch: the side follows when the channels are three or one."""
    rows, dim = shape
    # Never both: three squares side by side don't make a square
    for channels in (3, 1):
        side = round((rows / channels) ** 0.5)
        if side * side * channels == rows:
            return side, side, channels, dim
    raise ValueError("the patch embedding is no square patch of one or three channels")


OWN = Layout(
    name="ntkcl",
    title="this project's names",
    fixed={path: path for path in FIXED},
    block=_block,
    to_ours=lambda path, parts: parts[0],
    to_theirs=lambda path, value, config, count: (value,),
    patch=_patch,
    prefixes=(),
    ignored=r"(current|mean|fusion|proxy|prototypes|anchor)/.*",
)


def header(config: BackboneConfig, heads: int | None) -> dict[str, str]:
    """Header of a file: the backbone as JSON, without `heads` when they aren't known."""
    fields = {name: value for name, value in asdict(config).items() if name != "heads" or heads is not None}
    return {"format": "ntkcl", "backbone": json.dumps(fields)}


def read_header(metadata: Mapping[str, str], where: str) -> tuple[BackboneConfig | None, int | None]:
    """Read the backbone and its heads from a file's header.

    Args:
        metadata: the header.
        where: what to call the file.

    Returns:
        The backbone (None: the header says nothing) and the number of heads (None: not known).

    Raises:
        WeightsError: the header's backbone can't be read.
    """
    if "backbone" not in metadata:
        return None, None
    try:
        fields = parse_json(metadata["backbone"])
        # 1 divides every width: a stand-in where the header leaves the heads out, which is told apart below
        config = from_json(BackboneConfig, {"heads": 1, **fields})
        return config, fields.get("heads")
    except (ConfigError, ValueError, TypeError) as error:
        raise WeightsError(f"{where}: the header's backbone can't be read ({error}); convert the file again") from error
