"""Configs as plain data, for `config.json`."""

import dataclasses
import json
from typing import Any

from ntkcl_jax.errors import ConfigError


def to_json(config: Any) -> dict[str, Any]:
    """Turn a config into JSON-able plain data (tuples become lists).

    Example:
        >>> from ntkcl_jax.config import OptimizerConfig
        >>> to_json(OptimizerConfig())["epochs"]
        20
    """
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(cls: Any, values: dict[str, Any]) -> Any:
    """Rebuild a config from `to_json`'s output.

    Args:
        cls: the config class, e.g. `RunConfig`.
        values: its fields as plain data.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: a field is unknown (a config of another version), or its value is refused.

    Example:
        >>> from ntkcl_jax.config import RunConfig
        >>> from_json(RunConfig, to_json(RunConfig())) == RunConfig()
        True
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {', '.join(unknown)}; was it written by another version?")
    out = {}
    for name, value in values.items():
        hint = fields[name].type
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            value = from_json(hint, value)
        elif isinstance(value, list):
            value = tuple(value)
        out[name] = value
    return cls(**out)
