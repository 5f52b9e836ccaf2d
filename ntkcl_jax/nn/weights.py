"""Backbone weights: safetensors files with timm's names, in and out.

timm stores a linear map as (out, in) and a patch convolution as (out, in, height, width); here kernels are (in, out)
and the patch embedding is a linear map of the flattened patch (height, width, channel). No pickle is ever read.
"""

import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.errors import WeightsError

SHIPPED = {"nano": "nano_glyphs"}
"""Backbones that come with the package: name to asset."""
_BLOCK_PARTS = {"norm1": "norm1", "attn.qkv": "qkv", "attn.proj": "proj", "norm2": "norm2"} | {
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
NumpyTree = dict[str, np.ndarray]


def timm_names(config: BackboneConfig) -> dict[str, str]:
    """Map every timm name of a backbone to this project's path.

    Example:
        >>> timm_names(BackboneConfig())["blocks.3.attn.qkv.weight"]
        'backbone/blocks/3/qkv/kernel'
    """
    names = {
        "cls_token": "backbone/class_token",
        "pos_embed": "backbone/positions",
        "patch_embed.proj.weight": "backbone/patch_embed/kernel",
        "patch_embed.proj.bias": "backbone/patch_embed/bias",
        "norm.weight": "backbone/norm/scale",
        "norm.bias": "backbone/norm/bias",
    }
    for i in range(config.depth):
        for theirs, ours in _BLOCK_PARTS.items():
            weight = "scale" if ours.startswith("norm") else "kernel"
            names[f"blocks.{i}.{theirs}.weight"] = f"backbone/blocks/{i}/{ours}/{weight}"
            names[f"blocks.{i}.{theirs}.bias"] = f"backbone/blocks/{i}/{ours}/bias"
    return names


def shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each variable of a backbone, by path."""
    d, hidden = config.dim, int(config.dim * config.mlp_ratio)
    widths = {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, hidden), "fc2": (hidden, d)}
    out: dict[str, tuple[int, ...]] = {
        "backbone/class_token": (1, 1, d),
        "backbone/positions": (1, config.tokens, d),
        "backbone/patch_embed/kernel": (config.patch_size**2 * config.channels, d),
        "backbone/patch_embed/bias": (d,),
    }
    for path in timm_names(config).values():
        part, kind = path.split("/")[-2:]
        if path not in out:
            out[path] = widths[part] if kind == "kernel" else (widths[part][1] if part in widths else d,)
    return out


def from_timm(state: NumpyTree, config: BackboneConfig, where: str = "the state dict") -> NumpyTree:
    """Convert arrays with timm's names into a backbone tree (float32).

    Args:
        state: timm name to array; a classification head (`head.*`, `fc_norm.*`) is ignored.
        config: the backbone that the arrays must fit.
        where: what to call the source in messages.

    Returns:
        Path to float32 array, the paths of `shapes(config)`.

    Raises:
        WeightsError: a tensor is missing, unknown, not finite, or of another shape.
    """
    names, expected = timm_names(config), shapes(config)
    extra = sorted(k for k in state if k not in names and not re.match(r"(head|fc_norm)\.", k))
    missing = sorted(set(names) - set(state))
    if extra or missing:
        some = ", ".join((missing or extra)[:3])
        problem = f"lacks {len(missing)} tensors ({some}, ...)" if missing else f"has {len(extra)} more ({some}, ...)"
        raise WeightsError(
            f"{where} {problem}; expected timm's names of a ViT with {config.depth} blocks"
            f"{_describe(state)}; set --model.backbone.* to the file's shape or give another file"
        )
    tree = {}
    for name, path in names.items():
        value = np.asarray(state[name], np.float32)
        if name == "patch_embed.proj.weight":
            # A flattened kernel of the right size is refused below: its pixels may lie in another order.
            value = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]) if value.ndim == 4 else value[..., None]
        elif path.endswith("/kernel"):
            value = value.T
        if value.shape != expected[path]:
            raise WeightsError(
                f"{where}: {name} has shape {tuple(np.shape(state[name]))}, which doesn't fit {path} "
                f"{expected[path]}{_describe(state)}; set --model.backbone.* to the file's shape or give another file"
            )
        if not np.isfinite(value).all():
            raise WeightsError(f"{where}: {name} holds a number that isn't finite; the file is damaged")
        tree[path] = np.ascontiguousarray(value)
    return tree


def _describe(state: NumpyTree) -> str:
    """Say what backbone a state dict looks like, for messages."""
    patch = np.shape(state.get("patch_embed.proj.weight", ()))
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    if len(patch) != 4:
        return ""
    return f" (the file looks like dim={patch[0]}, depth={len(blocks)}, patch_size={patch[2]}, channels={patch[1]})"


def to_timm(tree: NumpyTree, config: BackboneConfig) -> NumpyTree:
    """Convert a backbone tree into arrays with timm's names; the inverse of `from_timm`."""
    state = {}
    for name, path in timm_names(config).items():
        value = np.asarray(tree[path])
        if name == "patch_embed.proj.weight":
            p, c = config.patch_size, config.channels
            value = value.reshape(p, p, c, -1).transpose(3, 2, 0, 1)
        elif path.endswith("/kernel"):
            value = value.T
        state[name] = np.ascontiguousarray(value)
    return state


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def load_backbone(weights: str, config: BackboneConfig) -> tuple[NumpyTree, str]:
    """Read a pre-trained backbone.

    Args:
        weights: `nano` for the shipped one, or the path of a safetensors file with timm's names.
        config: the backbone that it must fit.

    Returns:
        The tree (float32), and the SHA-256 of the file.

    Raises:
        WeightsError: no such file, not a whole safetensors file, damaged, or of another architecture.
    """
    path = Path(str(resources.files("ntkcl_jax"))) / "assets" / f"{SHIPPED.get(weights)}.safetensors"
    if weights not in SHIPPED:
        path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"no weights at {path}; expected {' or '.join(map(repr, SHIPPED))}, 'random', or a .safetensors file"
        )
    sha256 = file_sha256(path)
    if weights in SHIPPED:
        expected = json.loads(path.with_suffix(".json").read_text())["sha256"]
        if sha256 != expected:
            raise WeightsError(f"{path} is damaged (SHA-256 {sha256[:12]}…, not {expected[:12]}…); reinstall ntkcl-jax")
    try:
        with safe_open(path, framework="numpy") as f:
            state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file of float types ({error}); download it again"
        ) from error
    return from_timm(state, config, str(path)), sha256


def save_backbone(tree: NumpyTree, config: BackboneConfig, path: Path) -> None:
    """Write a backbone as a safetensors file with timm's names."""
    save_file(to_timm(tree, config), path)
