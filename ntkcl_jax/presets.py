"""Named configurations. `ntkcl presets` lists them; every field can be overridden on the command line."""

from collections.abc import Callable
from dataclasses import replace

from ntkcl_jax.config import DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.errors import ConfigError

PRESETS: dict[str, Callable[[], RunConfig]] = {}
ABOUT: dict[str, str] = {}


def _nano(preset: str, data: DataConfig) -> RunConfig:
    return RunConfig(preset=preset, data=data, optimizer=OptimizerConfig(batch_size=32, epochs=3))


def digits() -> RunConfig:
    """Digits."""
    return _nano("digits", DataConfig(source="digits", classes_per_task=2, resize=28, crop_scale=(0.6, 1.0), flip=False))
def preset(name: str) -> RunConfig:
    """x."""
    return {"digits": digits}[name]()
