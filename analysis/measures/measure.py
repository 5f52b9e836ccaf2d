"""What a measure of kernels is: one declaration that files, figures, captions, tables and pages are made from."""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from analysis.errors import MeasureError
from analysis.measures.checkpoint import Checkpoint

Kind = Literal["task", "pair", "change"]
Row = list[float | None] | tuple[float | None, ...]
Values = Row | list[Row] | tuple[Row, ...]
"""T values, or T rows of T; None where the measure has no meaning. Lists as computed, tuples as read from a file."""
TAKEN = ("spectrum", "groups", "health", "kernel_health", "stream_alignment")
"""What a checkpoint of `summary.json` holds beside measures."""
LONGEST_COLUMN = 24
RANGE_TOLERANCE = 1e-3
"""How far rounding may take a value out of its range; a kernel is refused when it is off by more."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of each task, of each pair of tasks, or of each task's change since the checkpoint before.

    Attributes:
        name: key in `summary.json` and name in `measures.csv`.
        title: for people, short: a figure's title.
        kind: `task`: `function(now)` gives T values. `pair`: `function(now)` gives T x T values. `change`:
            `function(now, before)` gives T values; it isn't called for the first checkpoint.
        function: takes a `Checkpoint`, or two; gives finite numbers, and None where the measure has no meaning.
        sentence: what a reader does differently after seeing the values.
        formula: in the notation of docs/measures.md.
        unit: what the numbers count: a figure's axis.
        lowest: no value is lower, None: open.
        highest: no value is higher, None: open.
        references: what to compare with: a number, or the name of a measure.
        column: heading in the table that `ntk-analysis kernels` prints; without one it isn't there.
        digits: after the point, in that table.
        package: which installed package it is from, "" for our own; `registry` sets it.

    Raises:
        MeasureError: a name, kind, range or text that can't be used.
    """

    name: str
    title: str
    kind: Kind
    function: Callable[..., Any]
    sentence: str
    formula: str = ""
    unit: str = ""
    lowest: float | None = None
    highest: float | None = None
    references: tuple[float | str, ...] = ()
    column: str = ""
    digits: int = 3
    package: str = ""

    def __post_init__(self) -> None:
        """Refuse what no file or table could hold."""
        texts = {field: getattr(self, field) for field in ("title", "sentence", "formula", "unit", "column")}
        broken = [field for field, text in texts.items() if not (isinstance(text, str) and text.isprintable())]
        lowest, highest = (math.nan if end is None else end for end in (self.lowest, self.highest))
        if not (isinstance(self.name, str) and re.fullmatch("[a-z][a-z0-9_]*", self.name)) or self.name in TAKEN:
            wrong = f"a name of small letters, digits and _, other than {', '.join(TAKEN)}"
        elif self.kind not in get_args(Kind):
            wrong = f"kind {', '.join(get_args(Kind))}, got {self.kind!r}"
        elif broken or not self.title or not self.sentence:
            wrong = f"{broken[0] if broken else 'title' if not self.title else 'sentence'} to be one line of text"
        elif len(self.column) > LONGEST_COLUMN:
            wrong = f"a column heading of at most {LONGEST_COLUMN} signs, got {len(self.column)}"
        elif lowest >= highest:  # false where an end is open
            wrong = f"lowest below highest, got {self.lowest} and {self.highest}"
        else:
            return
        raise MeasureError(f"the measure {str(self.name)[:60]!r} can't be used: expected {wrong}; mend its declaration")

    @property
    def caption(self) -> str:
        """What a figure of it says below.

        Example:
            >>> of = lambda now: [1.0] * now.tasks
            >>> Measure(name="one", title="always one", kind="task", function=of, sentence="Do nothing.").caption
            'Always one. Do nothing.'
        """
        return f"{self.title[0].upper()}{self.title[1:]}. {self.sentence}"

    @property
    def range(self) -> str:
        """Its range for people.

        Example:
            >>> of = lambda now: [1.0] * now.tasks
            >>> Measure(name="one", title="one", kind="task", function=of, sentence="Nothing.", lowest=0.0).range
            '0 or more'
        """
        if self.lowest is None:
            return "any number" if self.highest is None else f"{self.highest:.4g} or less"
        return f"{self.lowest:.4g} or more" if self.highest is None else f"{self.lowest:.4g} to {self.highest:.4g}"

    def values(self, now: Checkpoint, before: Checkpoint | None = None) -> Values:
        """Values of a checkpoint, checked.

        Args:
            now: the checkpoint.
            before: the one before it, of the same images; None for the first.

        Returns:
            T values, or T rows of T for a pair; all None where a change has no checkpoint before it.

        Raises:
            FunctionError: a kernel that one of our own measures is undefined for.
            MeasureError: a measure of another package fails, or a measure gives other than finite numbers in its range,
                one for each task (pair).
        """
        count = now.tasks
        if self.kind == "change" and before is None:
            return [None] * count
        try:
            found = self.function(now, before) if self.kind == "change" else self.function(now)
            # As objects None stays None and whole numbers stay whole
            table = np.array(found, dtype=object)
        except Exception as error:
            if not self.package or isinstance(error, MemoryError):  # a bug of ours keeps its traceback
                raise
            raise self._fails(f"it stopped with {type(error).__name__}: {error}") from error
        shape = (count, count) if self.kind == "pair" else (count,)
        if table.shape != shape:
            what = "a row for each task with a value for each task" if self.kind == "pair" else "a value for each task"
            raise self._fails(f"expected {what}, shape {shape}, got shape {table.shape}")
        if self.kind == "pair":
            return [[self._number(value, (t, k)) for k, value in enumerate(row)] for t, row in enumerate(table)]
        return [self._number(value, (t,)) for t, value in enumerate(table)]

    def _number(self, value: Any, at: tuple[int, ...]) -> float | None:
        """A value as JSON holds it; whole numbers stay whole."""
        # NumPy's and JAX's scalars as Python's numbers, which JSON takes
        value = value.item() if isinstance(value, np.generic) or getattr(value, "shape", None) == () else value
        if value is None:
            return None
        # Relative to bounds beyond 1, as rounding is
        low = -math.inf if self.lowest is None else self.lowest - RANGE_TOLERANCE * max(1.0, abs(self.lowest))
        high = math.inf if self.highest is None else self.highest + RANGE_TOLERANCE * max(1.0, abs(self.highest))
        # Truth values are integers to Python, and no measure's numbers
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not (real and abs(value) <= sys.float_info.max and low <= value <= high):  # false for NaN
            where = f"{'tasks' if len(at) > 1 else 'task'} {' and '.join(str(t + 1) for t in at)}"
            allowed = "a finite number" + (f" ({self.range})" if self.range != "any number" else "")
            raise self._fails(f"expected {allowed} or None for {where} in order, got {str(value)[:40]}")
        return value

    def _fails(self, why: str) -> MeasureError:
        whose = f" of the package {self.package}" if self.package else ""
        remedy = f"mend or uninstall {self.package}, then repeat the command" if self.package else "mend its function"
        return MeasureError(f"the measure {self.name!r}{whose} can't be used: {' '.join(why.split())[:300]}; {remedy}")


def of_task(values: Values, t: int) -> float | None:
    """The t-th task's value; of pairs of tasks, the mean over its pairs with other tasks. None where there is none.

    Example:
        >>> of_task([0.5, None], 0), of_task([[1.0, 0.25, 0.75], [0.25, 1.0, 0.5], [0.75, 0.5, 1.0]], 0)
        (0.5, 0.5)
    """
    value = values[t]
    if not isinstance(value, list | tuple):
        return value
    return _mean([other for k, other in enumerate(value) if k != t])


def over_tasks(values: Values) -> float | None:
    """Mean over tasks, or over pairs of different tasks. None where there is no value.

    Example:
        >>> over_tasks([1.0, None, 2.0]), over_tasks([[1.0, 0.25], [0.25, 1.0]]), over_tasks([[1.0]])
        (1.5, 0.25, None)
    """
    found: list[float | None] = []
    for t, value in enumerate(values):
        found += [other for k, other in enumerate(value) if k != t] if isinstance(value, list | tuple) else [value]
    return _mean(found)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
