"""What a sweep is made of: rows that change a stream's settings, and methods.

A row is plain data: which fields of the stream's configuration have another value, and which methods run. Everything
else (the cells to run, the lines of a table, which run folder belongs to which line) follows from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.sweep.settings import changed
from experiments.sweep.streams import stream_config
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.config.presets import VARIANT_PARTS
from ntkcl_jax.errors import ConfigError

READS = {"ntkcl-ridge": "ntkcl"}
"""Methods that go on from another one's checkpoints, and therefore share its cell."""
OURS = ("ntkcl-ridge", "ridge", "multilevel", "first-session/multilevel")
"""Methods that are this project's own."""


@dataclass(frozen=True)
class Row:
    """One setting of a sweep.

    Attributes:
        name: what the tables call it.
        changes: dotted field of the configuration to its value.
        methods: what runs, in this order.
    """

    name: str
    changes: tuple[tuple[str, Any], ...] = ()
    methods: tuple[str, ...] = ("ntkcl",)


@dataclass(frozen=True)
class Line:
    """One line of a table: a method under a row's setting, on one stream, over all seeds."""

    stream: str
    row: Row
    method: str
    config: RunConfig

    @property
    def name(self) -> str:
        """What the table calls it: the row, or the method where a row named after another one has several."""
        if self.method == self.row.methods[0]:
            return self.row.name
        return self.method if self.row.name == self.row.methods[0] else f"{self.row.name}, {self.method}"

    @property
    def origin(self) -> str:
        """`reproduced`: repeats what others published, as far as it can; `ours`: it doesn't."""
        # A part is a field of the model or of the objective
        forms = {getattr(self.config.model, part, None) or getattr(self.config.objective, part)
                 for part in VARIANT_PARTS}  # fmt: skip
        return "ours" if self.method in OURS or (self.method == "ntkcl" and forms != {"reference"}) else "reproduced"


@dataclass(frozen=True)
class Sweep:
    """A named set of cells.

    Attributes:
        title: heading of its section.
        about: what it shows, for the reader of the table; no numbers that a run decides.
        streams: those that run if none are named.
        rows: the rows of a stream, from the stream's own configuration.
        seeds: those that run if none are named.
    """

    title: str
    about: str
    streams: tuple[str, ...]
    rows: Callable[[RunConfig], Sequence[Row]]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def method_rows(methods: Sequence[str] = METHODS) -> list[Row]:
    """One row for each method, with those that read its checkpoints."""
    return [Row(m, (), (m, *(r for r in methods if READS.get(r) == m))) for m in methods if m not in READS]


def lines(sweep: Sweep, streams: Sequence[str], rows: Sequence[str], changes: Mapping[str, Any]) -> list[Line]:
    """All lines of a sweep's tables, stream by stream.

    Args:
        sweep: what to run.
        streams: names; empty: the sweep's own.
        rows: names; empty: all.
        changes: fields that every stream has another value of.

    Raises:
        ConfigError: an unknown stream, row or field.
    """
    found, known = [], []
    for stream in streams or sweep.streams:
        base = stream_config(stream, changes)
        for row in sweep.rows(base):
            known.append(row.name)
            if not rows or row.name in rows:
                config = replace(changed(base, dict(row.changes)), methods=row.methods)
                found += [Line(stream, row, method, config) for method in row.methods]
    # Streams may have different rows: one of them must have the name
    for name in rows:
        if name not in known:
            raise ConfigError(f"no row {name!r}; choose from {', '.join(dict.fromkeys(known))}")
    return found
