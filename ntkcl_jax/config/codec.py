"""Configs as plain data, for `config.json`; and JSON that somebody else may have written or damaged, read with care."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from ntkcl_jax.errors import ConfigError, reason

T = TypeVar("T")

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
    # Not msgspec: its `to_builtins` leaves tuples, and its JSON can't hold a path that isn't UTF-8.
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(cls: type[T], values: Any, remedy: str = "restore it from a copy") -> T:
    """Rebuild a config from `to_json`'s output; fields that are left out have their defaults.

    Args:
        cls: the config class, e.g. `RunConfig`.
        values: its fields as plain data.
        remedy: how messages about a value end.

    Returns:
        An instance of `cls`. An integer in the place of a float becomes one; no other type is converted.

    Raises:
        ConfigError: a field is unknown (a config of another version), is missing, or its value is refused; names it.

    Example:
        >>> from ntkcl_jax.config import RunConfig
        >>> from_json(RunConfig, to_json(RunConfig())) == RunConfig()
        True
        >>> from_json(RunConfig, {"optimizer": {"epochs": True}})
        Traceback (most recent call last):
            ...
        ntkcl_jax.errors.ConfigError: RunConfig.optimizer.epochs: expected `int`, got `bool`; restore it from a copy
    """
    unknown = list(_unknown(cls, values, ""))  # msgspec passes over them
    if unknown:
        raise ConfigError(f"{cls.__name__} has no field {', '.join(unknown)}; was it written by another version?")
    try:
        return msgspec.convert(values, cls)
    except ValueError as error:  # msgspec's own, or text that isn't UTF-8 where words are to choose from
        # msgspec writes "Expected `int`, got `str` - at `$.optimizer.epochs`", without a place at the top level
        what, at, place = str(error).rpartition(" - at `$")
        what, place = (what, place.rstrip("`")) if at else (place, "")
        # msgspec doesn't say which words there are; inside a list `_words` can't follow the place
        if what.startswith("Invalid enum value") and "[" not in place:
            what = f"expected one of {_words(cls, place)}, got{what.removeprefix('Invalid enum value')}"
        what = reason(ValueError(what[:1].lower() + what[1:]))
        raise ConfigError(f"{cls.__name__}{place}: {what}; {remedy}") from error


def _types(cls: Any) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(cls)}


def _words(cls: Any, place: str) -> str:
    """What a field can be that is a choice between words."""
    for name in place.split(".")[1:]:
        cls = _types(cls)[name]
    return ", ".join(map(repr, get_args(cls)))


def _unknown(cls: Any, values: Any, above: str) -> Iterator[str]:
    """Dotted names of values that have no field."""
    types = _types(cls)
    for name, value in values.items() if isinstance(values, dict) else ():
        if name not in types:
            yield f"{above}{name}"
        elif dataclasses.is_dataclass(types[name]):
            yield from _unknown(types[name], value, f"{above}{name}.")


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
    # Not msgspec.json.decode: it takes integers of any length, nests as deep as Python's stack, and refuses "\udcff",
    # by which paths that aren't UTF-8 are written.
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise ValueError(f"it nests more than {JSON_DEPTH} deep") from None
    # Level by level, without recursion, which a deep value would exhaust
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
        return parse_json(f.read(JSON_BYTES + 1))  # one more than allowed: longer files are refused, not cut


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]


def _integer(digits: str) -> int:
    # By length first: turning very many digits into an integer takes quadratic time
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{digits[:20]}... is an integer of more than 64 bits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value
