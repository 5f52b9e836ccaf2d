"""Settings by their dotted names: `field=value` words, changed configurations, and every field there is."""

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import from_json, parse_json, to_json
from ntkcl_jax.errors import ConfigError


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Read `field=value` words; a value that isn't JSON is text.

    Raises:
        ConfigError: a word without an equals sign.

    Example:
        >>> parse_changes(["optimizer.epochs=1", "model.fusion=paper"])
        {'optimizer.epochs': 1, 'model.fusion': 'paper'}
    """
    changes = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"expected field=value, e.g. optimizer.epochs=1, got {word!r}")
        try:
            changes[name] = parse_json(text)
        except ValueError:
            changes[name] = text
    return changes


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Give fields other values.

    Args:
        config: where to start from.
        changes: dotted field to value.

    Raises:
        ConfigError: no such field, or a value that the field can't have.

    Example:
        >>> from ntkcl_jax import preset
        >>> changed(preset("digits"), {"objective.lambda_reg": 0.5, "seeds": [1]}).objective.lambda_reg
        0.5
    """
    for name in changes:
        if name not in dict(leaves(to_json(config))):
            close = difflib.get_close_matches(name, [known for known, _ in leaves(to_json(config))], n=1)
            raise ConfigError(f"no setting {name!r}" + (f"; did you mean {close[0]}?" if close else ""))
    values = to_json(config)  # all are changed at once, as some only fit together
    for name, value in changes.items():
        *above, field = name.split(".")
        # Down to the dictionary that holds the field
        functools.reduce(dict.__getitem__, above, values)[field] = value
    return from_json(RunConfig, values, remedy="correct the setting")


def leaves(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Dotted field and value of every setting, in order."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += leaves(value, f"{above}{name}.")
        else:
            found.append((above + name, value))
    return found
