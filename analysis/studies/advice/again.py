"""The command that trains a run again with changes: `ntkcl train` and every option that its preset doesn't have."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.presets import PRESETS, preset
from ntkcl_jax.errors import ConfigError

FALLBACK = "digits"
"""Preset of a command about a run that was made from Python under a name of its own."""


def again(config: RunConfig, changes: Mapping[str, Any], run_dir: Path) -> tuple[str, ...]:
    """Words of the command.

    Args:
        config: of the run.
        changes: dotted field to its new value.
        run_dir: folder of the new run.

    Raises:
        ConfigError: the run's images came from Python, where no command line can get them.

    Example:
        >>> config = preset("digits", methods=("ntkcl", "prototypes"))
        >>> " ".join(again(config, {"optimizer.later_learning_rate": 0.0, "data.flip": True}, Path("runs/b")))
        'ntkcl train digits --run-dir runs/b --methods ntkcl prototypes --data.flip --optimizer.later-learning-rate 0.0'
    """
    if config.data.source == "arrays":
        raise ConfigError("the run's images came from Python (data.source arrays): no command line can get them")
    name = config.preset if config.preset in PRESETS else FALLBACK
    usual, wanted = dict(fields(preset(name))), dict(fields(config)) | dict(changes)
    words = ["ntkcl", "train", name, "--run-dir", str(run_dir)]
    for field, value in wanted.items():
        if field != "preset" and value != usual[field]:
            words += option(field, value)
    return tuple(words)


def fields(part: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{above}{field.name}.")
        else:
            yield f"{above}{field.name}", value


def option(field: str, value: Any) -> list[str]:
    """A setting as words of a command line.

    Example:
        >>> option("data.flip", False), option("data.crop_scale", (0.5, 1.0)), option("baselines.epochs", None)
        (['--data.no-flip'], ['--data.crop-scale', '0.5', '1.0'], ['--baselines.epochs', 'None'])
    """
    name = field.replace("_", "-")
    if isinstance(value, bool):
        above, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{above}{dot}no-{last}"]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{name}", *map(str, values)]


def free_folder(run: Path) -> Path:
    """A folder beside a run that isn't there yet.

    Example:
        >>> free_folder(Path("no/such/run"))
        PosixPath('no/such/run-advised')
    """
    number = 1
    while (place := run.with_name(f"{run.name}-advised{'' if number == 1 else f'-{number}'}")).exists():
        number += 1
    return place
