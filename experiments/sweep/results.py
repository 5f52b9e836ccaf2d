"""What run folders hold, and which line of a table it belongs to.

A run belongs to a line if it has the line's settings, whatever its folder is called and however many seeds and methods
it holds: seeds that were run in separate folders, on several machines, meet in one line. Settings that don't change
the numbers don't count; what isn't a setting (weights, images, commit, versions) is compared within the line.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.commands import command_line
from experiments.sweep.published import Reported, reported
from experiments.sweep.rows import Line
from experiments.sweep.settings import leaves
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.runs.folder import ARITHMETIC, RunFolder, with_defaults
from ntkcl_jax.training.metrics import mean_std

WITHOUT_EFFECT = frozenset(
    "seeds methods weights weights_sha256 data.path data.workers compute.remat compute.eval_batch_size "
    "compute.checkpoint_every_steps".split()
)
"""Settings that may differ within a line; weights and images are compared by their hashes instead."""
METRICS = ("average_incremental_accuracy", "final_accuracy", "forgetting")
MUST_AGREE = ("weights", "images", "transforms")
SHOULD_AGREE = ("commit", "packages")


@dataclass(frozen=True)
class Record:
    """One method on one seed, as a run folder holds it.

    Attributes:
        folder: the run folder.
        settings: canonical settings, see `settings_key`.
        seed: the seed.
        method: the method.
        metrics: as `ntkcl_jax.training.metrics.summarise` gives them.
        facts: what isn't a setting: `weights`, `images`, `transforms`, `commit`, `packages`, `command`.
    """

    folder: Path
    settings: str
    seed: int
    method: str
    metrics: dict[str, Any]
    facts: dict[str, str]


def settings_key(config: dict[str, Any]) -> str:
    """Canonical text of the settings that decide a run's numbers, but for seeds and methods.

    Args:
        config: `config` of a `config.json`; settings that didn't exist when it was written have their defaults.
    """
    whole = with_defaults(config, to_json(RunConfig()))
    return json.dumps([(name, value) for name, value in leaves(whole) if name not in WITHOUT_EFFECT], sort_keys=True)


def facts_of(header: dict[str, Any]) -> dict[str, str]:
    """What a `config.json` says about a run beside its settings; empty where it is too old to say it."""
    # None where the code that ran was no repository
    git = header.get("git") or {}
    commit = git.get("commit", "unknown") + (" modified" if git.get("modified") else "")
    versions = header.get("versions") or {}
    packages = ", ".join(f"{name} {versions[name]}" for name in ARITHMETIC if name in versions)
    transforms = header.get("preprocessing") or ""
    return {
        "weights": header["weights"]["sha256"],
        "images": header["data"]["fingerprint"],
        "transforms": transforms if isinstance(transforms, str) else json.dumps(transforms, sort_keys=True),
        "commit": commit,
        "packages": packages,
        "command": command_line(header.get("command") or []),
    }


def run_folders(roots: Iterable[Path]) -> list[Path]:
    """Every run folder at or below some folders, each once, in order."""
    found: dict[Path, None] = {}
    for root in roots:
        for here, inside, files in os.walk(root):
            # In place: `os.walk` goes on by this very list
            inside.sort()
            if "config.json" in files:
                inside.clear()
                found[Path(here).resolve()] = None
    return list(found)


def read_records(roots: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """Read every result below some folders.

    Returns:
        The records, and a line for each run folder that can't be read.
    """
    records, unreadable = [], []
    for path in run_folders(roots):
        folder = RunFolder(path)
        try:
            header = folder.header()
            # Begun, and nothing finished yet
            if not (path / "results.json").exists():
                continue
            seeds = folder.read_json("results.json")["seeds"]
            settings, facts = settings_key(header["config"]), facts_of(header)
            for seed, methods in seeds.items():
                for method, metrics in methods.items():
                    records.append(Record(path, settings, int(seed), method, metrics, facts))
        except (RunFolderError, KeyError, TypeError, ValueError) as error:
            unreadable.append(f"{path}: {type(error).__name__} {error}")
    return records, unreadable


@dataclass(frozen=True)
class Entry:
    """A line of a table and what the folders hold for it.

    Attributes:
        line: which one.
        records: one for each seed that is done, by seed.
        seeds: those that were asked for.
        refused: why there is no number although there are results; empty otherwise.
        notes: what a reader must know.
    """

    line: Line
    records: tuple[Record, ...]
    seeds: tuple[int, ...]
    refused: str
    notes: tuple[str, ...]

    def metric(self, name: str) -> tuple[float, float | None, int] | None:
        """Mean, sample standard deviation and n of one of `METRICS`, in [0, 1]; None without a number."""
        values = [r.metrics[name] for r in self.records]
        if self.refused or not values or None in values:
            return None
        return mean_std(values)

    def fact(self, name: str) -> str:
        """A fact of the runs; several of them joined."""
        return " / ".join(dict.fromkeys(r.facts[name] for r in self.records if r.facts[name]))

    @property
    def reported(self) -> Reported | None:
        """What is published for it."""
        return reported(self.line.config.preset, self.line.method)


def entry_of(line: Line, records: Sequence[Record], seeds: tuple[int, ...]) -> Entry:
    """Find a line's results, and refuse to average what isn't alike.

    Weights, images or transforms that differ within the line, or two results of one seed, leave it without a number;
    several commits, uncommitted changes or package versions are noted.

    Args:
        line: which one.
        records: all that the folders hold.
        seeds: those that were asked for.
    """
    key = settings_key(to_json(line.config))
    own = [r for r in records if (r.settings, r.method) == (key, line.method) and r.seed in seeds]
    chosen: dict[int, Record] = {}
    refused, notes = "", []
    for record in own:
        # The same result found twice is one; results that differ aren't averaged
        first = chosen.setdefault(record.seed, record)
        if first.metrics != record.metrics:
            refused = f"seed {record.seed} has two results, in {first.folder.name} and {record.folder.name}"
    for name in MUST_AGREE:
        # Runs that are too old to say a fact have it empty, and don't disagree
        if len({r.facts[name] for r in own if r.facts[name]}) > 1:
            refused = f"its seeds have different {name}"
    for name in SHOULD_AGREE:
        if len({r.facts[name] for r in chosen.values()}) > 1:
            notes.append(f"more than one {name}")
    if any(r.facts["commit"].endswith("modified") for r in chosen.values()):
        notes.append("uncommitted changes")
    missing = [seed for seed in seeds if seed not in chosen]
    if chosen and missing:
        notes.append(f"incomplete: seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} missing")
    if not chosen:
        notes.append("not run")
    by_seed = tuple(chosen[seed] for seed in seeds if seed in chosen)
    return Entry(line, by_seed, seeds, refused, tuple(notes))


def entries_of(lines: Sequence[Line], records: Sequence[Record], seeds: tuple[int, ...]) -> list[Entry]:
    """All lines with their results; a line whose seeds equal an earlier one's to the last bit says so."""
    entries: list[Entry] = []
    for line in lines:
        entry = entry_of(line, records, seeds)
        same = [
            e.line.name for e in entries
            if e.line.stream == line.stream and entry.records
            and [(r.seed, r.metrics) for r in e.records] == [(r.seed, r.metrics) for r in entry.records]
        ]  # fmt: skip
        if same:
            entry = Entry(line, entry.records, seeds, entry.refused, (*entry.notes, f"equals {same[0]} on every seed"))
        entries.append(entry)
    return entries
