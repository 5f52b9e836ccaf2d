"""Named configurations. `ntkcl presets` lists them; every field can be overridden on the command line."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from ntkcl_jax.config import (
    BACKBONES,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from ntkcl_jax.errors import ConfigError

VARIANT_PARTS = ("dissimilarity", "orthogonality", "regularization", "fusion", "initialisation")
"""The parts of the method that have a `reference` and a `paper` form."""


@dataclass(frozen=True)
class Preset:
    """A configuration and what to expect of it."""

    make: Callable[[], RunConfig]
    about: str
    """One line: the stream, its tasks, what it needs."""


def with_variants(config: RunConfig, **variants: str) -> RunConfig:
    """Set the form (`reference` or `paper`) of parts of the method.

    Args:
        config: where to start from.
        **variants: part, one of `VARIANT_PARTS`, or `all`, to form.

    Raises:
        ConfigError: an unknown part.

    Example:
        >>> with_variants(preset("digits"), all="paper", fusion="reference").model.fusion
        'reference'
    """
    unknown = sorted(set(variants) - {*VARIANT_PARTS, "all"})
    if unknown:
        raise ConfigError(f"no part called {unknown[0]} has variants; choose from {', '.join(VARIANT_PARTS)}")
    if "all" in variants:
        variants = dict.fromkeys(VARIANT_PARTS, variants["all"]) | variants
        del variants["all"]
    model = {part: form for part, form in variants.items() if part in ("fusion", "initialisation")}
    objective = {part: form for part, form in variants.items() if part not in model}
    return replace(
        config,
        model=replace(config.model, **model),
        objective=replace(config.objective, **objective),
    )


def _nano(name: str, data: DataConfig) -> RunConfig:
    """The shipped backbone on small greyscale characters: no mirroring, mild crops, two epochs.

    The `paper` forms, a high rate in the first task, a low one later and a strong pull to the anchor were chosen by
    `experiments.choose`.
    """
    config = RunConfig(
        preset=name,
        data=replace(data, resize=28, crop_scale=(0.6, 1.0), flip=False),
        model=ModelConfig(backbone=BACKBONES["nano"]),
        objective=ObjectiveConfig(lambda_dis=0.03, lambda_orth=1e-4, lambda_reg=0.1),
        optimizer=OptimizerConfig(
            learning_rate=0.2, later_learning_rate=0.02, weight_decay=5e-4, batch_size=16, epochs=2
        ),
    )
    return with_variants(config, all="paper")


def _digits() -> RunConfig:
    return _nano("digits", DataConfig(source="digits", classes_per_task=2))


def _scripts() -> RunConfig:
    return _nano("scripts", DataConfig(source="scripts", classes_per_task=12))


def _characters() -> RunConfig:
    data = DataConfig(source="folder", path="data", classes_per_task=16, invert=True)
    return _nano("characters", data)


def _published(
    name: str, data: DataConfig, optimizer: OptimizerConfig, eta: float = 0.2, view: bool = False
) -> RunConfig:
    """The authors' settings on ViT-B/16 (docs/method.md, section 4); `reference` in every part."""
    return RunConfig(
        preset=name,
        weights="vit_base_patch16_224.safetensors",
        seeds=(0, 1, 2, 3, 4),
        data=data,
        model=ModelConfig(backbone=BACKBONES["base"], pretrained_view=view),
        objective=ObjectiveConfig(lambda_dis=eta),
        optimizer=optimizer,
    )


def _cifar100() -> RunConfig:
    data = DataConfig(source="cifar100", path="cifar-100-python.tar.gz", classes_per_task=10)
    return _published(
        "cifar100", data, OptimizerConfig(learning_rate=0.025, weight_decay=5e-4, batch_size=16, epochs=20), eta=0.03
    )


def _imagenet_r() -> RunConfig:
    data = DataConfig(source="folder", path="imagenet-r", classes_per_task=20)
    return _published(
        "imagenet-r", data, OptimizerConfig(learning_rate=0.02, weight_decay=5e-3, batch_size=16, epochs=20)
    )


PRESETS: dict[str, Preset] = {
    "digits": Preset(_digits, "5,000 real handwritten digits, 5 tasks x 2; shipped backbone, no files needed"),
    "scripts": Preset(_scripts, "120 characters of unseen writing systems, 10 tasks x 12; shipped backbone, no files"),
    "characters": Preset(_characters, "dark-on-light characters in a folder, 16 classes a task; shipped backbone"),
    "cifar100": Preset(_cifar100, "CIFAR-100, 10 tasks x 10; needs ViT-B/16 weights and the published archive"),
    "imagenet-r": Preset(_imagenet_r, "ImageNet-R in a folder, 10 tasks x 20; needs ViT-B/16 weights"),
}


def preset(name: str, **changes: object) -> RunConfig:
    """Look a preset up.

    Args:
        name: one of `PRESETS`.
        **changes: top-level fields to replace, e.g. `seeds=(0, 1, 2)`.

    Returns:
        The configuration.

    Raises:
        ConfigError: no such preset, or a value that is refused.

    Example:
        >>> preset("digits", seeds=(0, 1)).seeds
        (0, 1)
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"unknown preset {name!r}; {hint}choose from {', '.join(PRESETS)}")
    return replace(PRESETS[name].make(), **changes)
