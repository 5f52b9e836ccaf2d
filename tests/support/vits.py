"""Backbones of made-up numbers that `golden/make_vits.py` gave to other libraries, and what these computed."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntkcl_jax.config import BackboneConfig

FIXTURE = Path(__file__).parents[1] / "golden" / "vits.npz"
# Ti, S, B and L with their heads, a quarter of their depth and four channels a head; a patch, an image, another image.
SIZES = {
    "tiny": BackboneConfig(image_size=48, patch_size=16, dim=12, depth=3, heads=3),
    "small": BackboneConfig(image_size=56, patch_size=14, dim=24, depth=3, heads=6),
    "base": BackboneConfig(image_size=32, patch_size=8, dim=48, depth=3, heads=12),
    "large": BackboneConfig(image_size=64, patch_size=16, dim=64, depth=6, heads=16),
}
OTHER_SIDES = {"tiny": 64, "small": 28, "base": 56, "large": 48}
Arrays = dict[str, np.ndarray]


def draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    """The same numbers on every machine: NumPy's legacy generator never changes."""
    random = np.random.RandomState(seed)
    out = {}
    for name in sorted(shapes):
        value = random.standard_normal(shapes[name]) * (0.2 if len(shapes[name]) > 1 else 0.1)
        scale = "norm" in name.lower() and name.endswith(("weight", "scale"))
        out[name] = (value + scale).astype(np.float32)
    return out


def pixels(side: int, count: int = 3, seed: int = 1) -> np.ndarray:
    """Images (count, side, side, 3) with pixels in [0, 1)."""
    return np.random.RandomState(seed).random_sample((count, side, side, 3)).astype(np.float32)


def google_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Google's files, written out from their published form, head included."""
    d, h, p = config.dim, config.heads, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, d),
        "embedding/kernel": (p, p, 3, d),
        "embedding/bias": (d,),
        "Transformer/posembed_input/pos_embedding": (1, config.tokens, d),
        "Transformer/encoder_norm/scale": (d,),
        "Transformer/encoder_norm/bias": (d,),
        "head/kernel": (d, 5),
        "head/bias": (5,),
    }
    for i in range(config.depth):
        block = f"Transformer/encoderblock_{i}"
        for part in ("query", "key", "value"):
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (d, h, d // h)
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (h, d // h)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (h, d // h, d)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (d,)
        for part in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{part}/scale": (d,), f"{block}/{part}/bias": (d,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (d, 4 * d), f"{block}/MlpBlock_3/Dense_0/bias": (4 * d,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (4 * d, d), f"{block}/MlpBlock_3/Dense_1/bias": (d,)}
    return shapes


class Case(NamedTuple):
    """A backbone that another library has run."""

    state: Arrays
    features: np.ndarray
    """Final-norm class tokens of `pixels(image_size)`."""
    other: np.ndarray
    """Those of `pixels(OTHER_SIDES[size])`, with resampled positions (timm only)."""
    positions: np.ndarray
    """The resampled positions (timm only)."""


def case(library: str, size: str) -> Case:
    """Read a case of the fixture; the weights are drawn again under the names that the library has."""
    with np.load(FIXTURE, allow_pickle=False) as z:
        key = f"{library}/{size}"
        shapes = {name: tuple(shape) for name, shape in json.loads(bytes(z[f"{key}/names"])).items()}
        rest = [z[f"{key}/{part}"] if f"{key}/{part}" in z.files else np.zeros(0) for part in ("other", "positions")]
        return Case(draw(shapes), z[f"{key}/features"], *rest)


def cases(library: str) -> list[str]:
    """Sizes that a library has run."""
    with np.load(FIXTURE, allow_pickle=False) as z:
        return [size for size in SIZES if f"{library}/{size}/features" in z.files]
