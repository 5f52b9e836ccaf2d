"""What the benchmarks' made-up task looks like: the sixth of ten tasks of ten classes; and backbones by name."""

from dataclasses import replace

from ntkcl_jax.config import BACKBONES, BackboneConfig, ModelConfig

TASK_CLASSES = 10
OFFSET = 50
"""Classes of the tasks before, all with a prototype."""
SEEN = OFFSET + TASK_CLASSES
RATE = 1e-3
"""Learning rate."""
SIZES = {"toy": BackboneConfig(image_size=8, patch_size=4, dim=16, depth=2, heads=2), **BACKBONES}
"""Backbones by name; the toy one makes whatever is left of a task beside its arithmetic visible."""


def model(size: str, image_size: int | None = None, rank: int | None = None) -> ModelConfig:
    """Architecture of a size.

    Args:
        size: one of `SIZES`.
        image_size: side of the image, pixels, if not the backbone's own.
        rank: of the adapters, if not the usual.

    Example:
        >>> model("base", 32, rank=4).backbone.tokens
        5
    """
    backbone = SIZES[size]
    backbone = replace(backbone, image_size=image_size or backbone.image_size)
    small = {"adapter_rank": 2, "prompts": 2, "fusion_heads": 2} if size == "toy" else {}
    return ModelConfig(backbone=backbone, **{**small, **({"adapter_rank": rank} if rank else {})})
