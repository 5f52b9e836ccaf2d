"""What a sweep is made of: streams, rows that change a stream's settings, and methods.

A row is plain data: which fields of the stream's configuration have another value, and which methods run. Everything
else (the cells to run, the lines of a table, which run folder belongs to which line) follows from it.
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import from_json, parse_json, to_json
from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.config.presets import PRESETS, VARIANT_PARTS, preset
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import ConfigError

READS = {"ntkcl-ridge": "ntkcl"}
"""Methods that go on from another one's checkpoints, and therefore share its cell."""
DEIT_112 = {"image_size": 112, "patch_size": 16, "dim": 192, "depth": 12, "heads": 3}
"""DeiT-Ti, at a size that a CPU bears."""
OURS = ("ntkcl-ridge", "ridge")
"""Methods that are this project's own."""


@dataclass(frozen=True)
class Stream:
    """Images and tasks.

    Attributes:
        preset: the configuration.
        arrays: makes the images where the preset doesn't read them.
        needs_path: whether `data.path` has to be given.
        changes: dotted field of the preset to its value here.
    """

    preset: str
    arrays: Callable[[], Arrays] | None = None
    needs_path: bool = False
    changes: tuple[tuple[str, Any], ...] = ()


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


def one_stream(name: str) -> Stream:
    """Look a stream up: a preset, or one that only experiments use.

    Raises:
        ConfigError: no such stream.
    """
    from experiments.sweep.dev_streams import dev_digits, dev_scripts

    deit = (
        *((f"model.backbone.{name}", value) for name, value in DEIT_112.items()),
        ("data.normalize", "imagenet"),
        ("data.resize", 112),
        ("data.invert", False),
        ("optimizer.learning_rate", 0.02),
        ("optimizer.later_learning_rate", None),
        ("optimizer.weight_decay", 5e-3),
        ("objective.lambda_dis", 0.2),
        ("objective.lambda_reg", 1e-3),
        ("readout.views", 1),
    )
    photos = (
        ("data.classes_per_task", 10),
        ("data.crop_scale", (0.2, 1.0)),
        ("data.flip", True),
        ("optimizer.epochs", 1),
    )
    own = {
        "deit-omniglot": Stream("characters", needs_path=True, changes=deit),
        "deit-tiny-imagenet": Stream("characters", needs_path=True, changes=(*deit, *photos)),
        "omniglot": Stream("characters", needs_path=True),
        "icons": Stream("characters", needs_path=True, changes=(("data.classes_per_task", 10),)),
        "dev-digits": Stream("digits", dev_digits, changes=(("data.source", "arrays"),)),
        "dev-scripts": Stream("scripts", dev_scripts, changes=(("data.source", "arrays"),)),
    }
    if name in own:
        return own[name]
    if name not in PRESETS:
        raise ConfigError(f"unknown stream {name!r}; choose from {', '.join([*own, *PRESETS])}")
    return Stream(name)


def stream_config(name: str, changes: Mapping[str, Any]) -> RunConfig:
    """Configuration of a stream before any row changes it."""
    stream = one_stream(name)
    return changed(preset(stream.preset), dict(stream.changes) | dict(changes))


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Give fields other values.

    Args:
        config: where to start from.
        changes: dotted field to value.

    Raises:
        ConfigError: no such field, or a value that the field can't have.

    Example:
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
    for name in rows:
        if name not in known:
            raise ConfigError(f"no row {name!r}; choose from {', '.join(dict.fromkeys(known))}")
    return found
