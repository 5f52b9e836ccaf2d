"""What the report's input files must look like, checked before anything is drawn from them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class FormError(ValueError):
    """A value that isn't what its file promises; the message says where and what was expected."""


class Number:
    """A finite JSON number or null."""


class Real:
    """A finite JSON number."""


@dataclass(frozen=True)
class Maybe:
    """A form, or null, or absent."""

    form: Any


@dataclass(frozen=True)
class Keyed:
    """An object whose keys are all of one kind.

    Attributes:
        form: of each value.
        key: a regular expression that each key matches whole.
    """

    form: Any
    key: str = r"(?s).*"


@dataclass(frozen=True)
class Either:
    """One of two types, or of two forms."""

    first: Any
    second: Any


def check(value: Any, form: Any, where: str) -> None:
    """Compare a JSON value with its form.

    Args:
        value: what was read.
        form: `Real`, `Number`, a type, `[form]` for a list, a dict of required keys (others may be there), `Maybe`,
            `Keyed` or `Either`.
        where: path to the value, for the message.

    Raises:
        FormError: the first difference.

    Example:
        >>> check({"n": 3, "rows": [[1.5, None]]}, {"n": int, "rows": [[Number]]}, "file")
        >>> check({"n": "3"}, {"n": int}, "file")
        Traceback (most recent call last):
        analysis.report.forms.FormError: file.n: expected int, got str
    """
    if isinstance(form, Either):
        try:
            check(value, form.first, where)
        except FormError:
            check(value, form.second, where)
    elif isinstance(form, Maybe):
        if value is not None:
            check(value, form.form, where)
    elif isinstance(form, Keyed):
        _of_type(value, dict, where)
        for key, part in value.items():
            if not re.fullmatch(form.key, key):
                raise FormError(f"{where}: unexpected key {key[:40]!r}")
            check(part, form.form, f"{where}.{key[:40]}")
    elif isinstance(form, Mapping):
        _of_type(value, dict, where)
        for key, part in form.items():
            if key not in value and not isinstance(part, Maybe):
                raise FormError(f"{where}: expected {key!r}")
            check(value.get(key), part, f"{where}.{key}")
    elif isinstance(form, list):
        _of_type(value, list, where)
        for i, part in enumerate(value):
            check(part, form[0], f"{where}[{i}]")
    elif form is Number:
        check(value, Maybe(Real), where)
    elif form is Real:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise FormError(f"{where}: expected a finite number, got {str(value)[:40]!r}")
    else:
        _of_type(value, form, where)


def check_size(values: list[Any], sizes: tuple[int, ...], where: str) -> None:
    """Compare the lengths of nested lists with those expected.

    Raises:
        FormError: the first list of another length.

    Example:
        >>> check_size([[1, 2], [3]], (2, 2), "rows")
        Traceback (most recent call last):
        analysis.report.forms.FormError: rows[1]: expected 2 values, got 1
    """
    if len(values) != sizes[0]:
        raise FormError(f"{where}: expected {sizes[0]} values, got {len(values)}")
    for i, part in enumerate(values if len(sizes) > 1 else ()):
        check_size(part, sizes[1:], f"{where}[{i}]")


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _of_type(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FormError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
