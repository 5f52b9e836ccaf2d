"""The benchmarks' made-up task (the sixth of ten tasks of ten classes), their backbones by name, their options."""

import argparse
from dataclasses import replace
from pathlib import Path

from experiments.bench.results import FOLDER
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
    # The usual adapters and prompts would outweigh a toy backbone
    small = {"adapter_rank": 2, "prompts": 2, "fusion_heads": 2} if size == "toy" else {}
    return ModelConfig(backbone=backbone, **{**small, **({"adapter_rank": rank} if rank else {})})


def options_parser(
    command: str, about: str | None, *, repeats: int, repeated: str, size: str = "nano", batch: int = 32
) -> argparse.ArgumentParser:
    """Make the parser of a benchmark, with the options that all of them have.

    Args:
        command: words after `python -m`.
        about: what its help says first.
        repeats: default of `--repeats`.
        repeated: what is repeated.
        size: default of `--size`.
        batch: default of `--batch`.
    """
    parser = argparse.ArgumentParser(
        prog=command, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default=size, help="backbone")
    parser.add_argument("--image-size", type=int, help="side of the image, pixels (default: the backbone's own)")
    parser.add_argument("--batch", type=int, default=batch, help="images per step")
    parser.add_argument("--repeats", type=int, default=repeats, help=repeated)
    parser.add_argument("--out", type=Path, default=FOLDER)
    return parser
