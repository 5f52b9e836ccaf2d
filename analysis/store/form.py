"""What every form of a JSON file is made of."""

from typing import Annotated, Any

from msgspec import Meta, Struct

Number = float | None
"""A number, or null where there is none, such as the drift of a single checkpoint; NaN and infinity aren't read."""
Numbers = tuple[Number, ...]
Matrix = tuple[Numbers, ...]
Index = Annotated[int, Meta(ge=0, lt=10**9)]
"""A seed, task or checkpoint; as a key its digits."""
Count = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Form(Struct, frozen=True, kw_only=True):
    """Base of all forms: an object of JSON whose other keys are ignored."""


def check_shape(name: str, values: Any, *sizes: int) -> None:
    """Compare the lengths of nested lists with those expected.

    Args:
        name: of the values, for the message.
        values: nested tuples.
        *sizes: length of the outermost, of each within it, and so on.

    Raises:
        ValueError: one of another length.

    Example:
        >>> check_shape("rows", ((1, 2), (3,)), 2, 2)
        Traceback (most recent call last):
        ValueError: rows[1]: expected 2 values, got 1
    """
    if len(values) != sizes[0]:
        raise ValueError(f"{name}: expected {sizes[0]} values, got {len(values)}")
    for i, part in enumerate(values if len(sizes) > 1 else ()):
        check_shape(f"{name}[{i}]", part, *sizes[1:])
