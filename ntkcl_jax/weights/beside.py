"""What stands beside a weights file: the hub's `config.json` and `preprocessor_config.json`.

The arrays' shapes don't tell the attention heads, the activation or how pixels were normalised; these files do. They
are read only where they speak of a network of the same width and depth, and what can't be understood says nothing.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ntkcl_jax.config.codec import parse_json
from ntkcl_jax.config.data import NORMALIZATIONS

NAMES = ("config.json", "preprocessor_config.json")
LIMIT = 2**20
"""Longest file that is read, bytes; the hub's have a few hundred."""
TIMM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_TIMM_MODEL = re.compile(rf"(?:vit|deit)_({'|'.join(TIMM_HEADS)})_patch\d+_\d+")


class Beside(NamedTuple):
    """What is said about a network; None where nothing is."""

    heads: int | None = None
    activation: str | None = None
    """As Hugging Face calls it; `gelu` is the exact one."""
    normalize: str | None = None
    """A value of `data.normalize`, or mean and deviation in words."""


def read_beside(path: Path) -> dict[str, dict[str, Any]]:
    """Read the files beside a weights file.

    Args:
        path: the weights file.

    Returns:
        Name to content, of those that are there and hold a JSON object.
    """
    found = {}
    for name in NAMES:
        try:
            with open(path.parent / name, "rb") as f:
                text = f.read(LIMIT + 1)  # one byte more tells that it is longer
            content = parse_json(text) if len(text) <= LIMIT else None
        except (OSError, ValueError):  # they only add to what the weights tell: a bad one is as good as none
            continue
        if isinstance(content, dict):
            found[name] = content
    return found


def told(files: dict[str, dict[str, Any]], dim: int, depth: int) -> Beside:
    """Understand those files.

    Args:
        files: from `read_beside`.
        dim: width of a token of the network in the weights file.
        depth: its number of blocks.

    Returns:
        What they say about it; nothing when they are about another network.

    Example:
        >>> told({"config.json": {"architecture": "vit_base_patch16_224", "num_features": 768}}, 768, 12).heads
        12
        >>> told({"config.json": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}}, 8, 2)
        Beside(heads=None, activation=None, normalize=None)
    """
    config = files.get("config.json", {})
    # Hugging Face's words; else timm's below
    if config.get("hidden_size") == dim and config.get("num_hidden_layers") == depth:
        act = config.get("hidden_act")
        pixels = files.get("preprocessor_config.json", {})
        return Beside(
            _count(config.get("num_attention_heads")),
            act if isinstance(act, str) else None,
            _normalize(pixels.get("image_mean"), pixels.get("image_std")),
        )
    if config.get("num_features") == dim and isinstance(config.get("architecture"), str):
        # The whole name: variants such as `vit_base_patch16_clip_224` are other networks
        model = _TIMM_MODEL.fullmatch(config["architecture"])
        given, trained = (x if isinstance(x := config.get(n), dict) else {} for n in ("model_args", "pretrained_cfg"))
        heads = _count(given.get("num_heads")) or (TIMM_HEADS[model[1]] if model else None)
        return Beside(heads, None, _normalize(trained.get("mean"), trained.get("std")))
    return Beside()


def _count(value: Any) -> int | None:
    # `type`, since True would count as 1 head
    return value if type(value) is int and value > 0 else None


def _normalize(mean: Any, std: Any) -> str | None:
    """Name of a normalisation; its numbers when it has none here."""
    if not all(isinstance(x, list) and len(x) == 3 and all(type(v) in (int, float) for v in x) for x in (mean, std)):
        return None
    for name, known in NORMALIZATIONS.items():
        # Rounded numbers count too
        if all(abs(a - b) < 1e-3 for a, b in zip([*mean, *std], [*known[0], *known[1]], strict=True)):
            return name
    return f"mean {mean} and deviation {std}, which none of {', '.join(NORMALIZATIONS)} is"
