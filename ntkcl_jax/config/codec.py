"""Configs as plain data, for `config.json`; and JSON that somebody else may have written or damaged, read with care."""

import dataclasses
import json
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ntkcl_jax.errors import ConfigError

JSON_BYTES = 2**28
"""Longest file of JSON that is read, bytes."""
JSON_DEPTH = 100
"""Deepest nesting that is read; what is written here nests ten deep."""


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
    if not isinstance(values, dict):
        raise ConfigError(f"{cls.__name__} must be an object of fields, got {_short(values)}; restore it from a copy")
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
        if not fits(hint, value):
            kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise ConfigError(f"{cls.__name__}.{name} must be {kind}, got {_short(value)}; restore it from a copy")
        out[name] = value
    return cls(**out)


def fits(hint: Any, value: Any) -> bool:
    """Tell whether a value has the type that a field's annotation says; an integer will do for a float.

    Args:
        hint: a plain type, a dataclass, or a Literal, union or tuple of such.
        value: any value.

    Example:
        >>> fits(float | None, 1), fits(int, True), fits(tuple[int, ...], (1, "2")), fits(Literal["a", "b"], "c")
        (True, False, False, False)
    """
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if isinstance(hint, types.UnionType):
        return any(fits(part, value) for part in parts)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(wanted) == len(value) and all(fits(*pair) for pair in zip(wanted, value, strict=True))
    return type(value) in ((int, float) if hint is float else (type(None),) if hint is None else (hint,))


def parse_json(content: str | bytes) -> Any:
    """Read JSON that may be damaged or hostile.

    Args:
        content: the text, or its bytes in UTF-8.

    Returns:
        The value. Its numbers are finite, its integers have 64 bits or fewer, and it nests at most `JSON_DEPTH` deep.

    Raises:
        ValueError: it is none, or goes beyond these bounds.

    Example:
        >>> parse_json('{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
        >>> parse_json("[1e400]")
        Traceback (most recent call last):
            ...
        ValueError: 1e400 is no finite number
    """
    if len(content) > JSON_BYTES:
        raise ValueError(f"it is longer than {JSON_BYTES} bytes")
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise ValueError(f"it nests more than {JSON_DEPTH} deep") from None
    level = _containers([value])
    for _ in range(JSON_DEPTH):
        level = _containers(inner for outer in level for inner in (outer.values() if type(outer) is dict else outer))
        if not level:
            return value
    raise ValueError(f"it nests more than {JSON_DEPTH} deep")


def read_json(path: Path) -> Any:
    """Read a file of JSON; see `parse_json`.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds no such JSON.
    """
    with open(path, "rb") as f:
        return parse_json(f.read(JSON_BYTES + 1))


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{digits[:20]}... is an integer of more than 64 bits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
