"""The run folder: what lies where, who may write, and what it was made with.

RUN/config.json                             everything needed to repeat the run
RUN/metrics.jsonl                           losses and accuracies as they come
RUN/results.json                            accuracies of every seed and method, and their mean and std
RUN/figures/*.png
RUN/checkpoints/backbone                                the frozen backbone, once
RUN/checkpoints/<learner>/seed<S>/task<t>/before        full state at the task's start, with what is new in it
RUN/checkpoints/<learner>/seed<S>/task<t>/after         full state at its end, and how its own head classified
RUN/checkpoints/<learner>/seed<S>/task<t>/step<n>       in-task states for --resume; removed when the task ends
RUN/checkpoints/<learner>/seed<S>/<readout>/task<t>     what a readout has learnt up to task t, the newest only
"""

import contextlib
import fcntl
import json
import platform
import subprocess
import sys
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Any

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import read_json, to_json
from ntkcl_jax.devices.hosts import on_first
from ntkcl_jax.errors import RunFolderError, user_path
from ntkcl_jax.runs import checkpoint

FORMAT = 2
"""Version of the layout above, in `config.json`."""
RESULTS_FORMAT = 1
"""Version of the layout of `results.json`."""
REPEATED = ("config", "weights", "data", "scenarios")
"""Parts of `config.json` that a resumed run must repeat."""
ARITHMETIC = ("jax", "jaxlib", "flax", "optax")
"""Packages whose versions decide the last bits of a result."""
PACKAGES = ("ntkcl-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


class RunFolder:
    """Paths and rules of one run folder."""

    def __init__(self, path: str | Path) -> None:
        """Name a folder; nothing is read or written yet."""
        self.path = user_path(path)
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.metrics = self.path / "metrics.jsonl"

    def task(self, seed: int, task: int, when: str, learner: str = "ntkcl") -> Path:
        """Checkpoint at the start (`before`) or end (`after`) of a task, or within it (`step<n>`)."""
        return self.checkpoints / learner / f"seed{seed}" / f"task{task}" / when

    def readout(self, seed: int, task: int, learner: str, readout: str) -> Path:
        """What a readout above a learner has learnt up to a task."""
        return self.checkpoints / learner / f"seed{seed}" / readout / f"task{task}"

    def steps(self, seed: int, task: int, learner: str = "ntkcl") -> list[Path]:
        """Whole in-task checkpoints, newest first."""
        found = self.task(seed, task, "", learner).glob("step*")
        whole = [p for p in found if checkpoint.exists(p) and not p.name.endswith(checkpoint.PARTIAL)]
        # By number: as text, step9 comes after step10
        return sorted(whole, key=lambda p: int(p.name.removeprefix("step")), reverse=True)

    def drop_steps(self, seed: int, task: int, learner: str = "ntkcl") -> None:
        """Remove all in-task checkpoints of a finished task, those included whose removal was interrupted."""
        for step in self.task(seed, task, "", learner).glob("step*"):
            checkpoint.remove(step)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files.

        Raises:
            RunFolderError: the file is missing or no whole JSON object.
        """
        path = self.path / name
        try:
            value = read_json(path)
        except FileNotFoundError as error:
            raise RunFolderError(f"{self.path} is no run folder: it has no {name}; check the path") from error
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} can't be read ({error}); restore it from a copy") from error
        if not isinstance(value, dict):
            raise RunFolderError(f"{path} holds no JSON object; restore it from a copy")
        return value

    def header(self) -> dict[str, Any]:
        """`config.json`, refused when it comes from another layout."""
        header = self.read_json("config.json")
        if header.get("format") != FORMAT:
            raise RunFolderError(
                f"{self.path} has layout {header.get('format')}, expected {FORMAT}; use the version of ntkcl-jax that "
                "wrote it"
            )
        missing = [part for part in REPEATED if not isinstance(header.get(part), dict)]
        if missing:
            raise RunFolderError(f"{self.path / 'config.json'} lacks {missing[0]!r}; restore it from a copy")
        return header

    def check_new(self) -> None:
        """Refuse a folder that already holds something.

        Raises:
            RunFolderError: it exists and isn't an empty folder, or can't be looked into.
        """
        try:
            taken = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        except OSError as error:  # a folder above it that may not be entered
            raise checkpoint.write_error(self.path, error) from error
        if taken:
            raise RunFolderError(
                f"{self.path} already exists; choose another --run-dir, or add --resume to go on with that run"
            )

    def check_resumable(self) -> None:
        """Refuse to resume what isn't there.

        Raises:
            RunFolderError: no such folder, or it can't be looked into.
        """
        try:
            there = self.path.is_dir()
        except OSError as error:
            raise checkpoint.write_error(self.path, error) from error
        if not there:
            raise RunFolderError(f"nothing to resume: there is no folder {self.path}; leave --resume away")

    @contextlib.contextmanager
    def writing(self, header: dict[str, Any], *, resume: bool) -> Generator[None]:
        """Own the folder: create it or take it up again, and keep other processes out meanwhile.

        Args:
            header: `config.json` of this run.
            resume: go on with the run that the folder holds.

        Raises:
            RunFolderError: it exists (without `resume`), holds another run (with it), is in use, or can't be written.
        """
        with contextlib.ExitStack() as held:
            on_first(lambda: self._own(held, header, resume))
            self._check_shared()
            yield

    def _own(self, held: contextlib.ExitStack, header: dict[str, Any], resume: bool) -> None:
        """Lock the folder until `held` is closed, and make or tidy it."""
        # Asked once more: `train` asked before it opened images and weights
        if resume:
            self.check_resumable()
        else:
            self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((self.path / ".lock").open("w"))
        except OSError as error:
            raise checkpoint.write_error(self.path, error) from error
        try:
            # The system takes the lock back when the process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"{self.path} is in use by another process; wait for it or choose another --run-dir"
            ) from error
        # A run that was killed before it wrote its config has done nothing: resuming it is starting it.
        if resume and (self.path / "config.json").exists():
            check_same_run(self.header(), header, self.path)
            checkpoint.clean(self.path)
        else:
            self._start(header, fresh=not resume)

    def _check_shared(self) -> None:
        """Refuse a folder that this process doesn't share with the one that writes it."""
        if not (self.path / "config.json").exists():
            raise RunFolderError(
                f"{self.path} holds no config.json on host {platform.node()}, though process 0 has just written it; "
                "choose a --run-dir on storage that all hosts share"
            )

    def _start(self, header: dict[str, Any], fresh: bool) -> None:
        """Write the config; if even that fails, leave no new folder behind."""
        try:
            checkpoint.write_json(self.path / "config.json", header)
        except RunFolderError:
            if fresh:
                with contextlib.suppress(OSError):
                    (self.path / ".lock").unlink()
                    self.path.rmdir()
            raise


def check_same_run(old: dict[str, Any], new: dict[str, Any], where: Path) -> None:
    """Refuse to resume a run with other settings, weights or data: it couldn't end with the same numbers.

    Raises:
        RunFolderError: names the first difference.
    """
    # A setting that is newer than the folder counts as one at its default
    old = {**old, "config": with_defaults(old["config"], to_json(RunConfig()))}
    for part in REPEATED:
        difference = first_difference(old.get(part), new[part], part)
        if difference:
            raise RunFolderError(
                f"{where} was started with other settings: {difference}; give the same ones, or another --run-dir"
            )


def with_defaults(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Give a stored config the settings that didn't exist when it was written, at their defaults.

    Example:
        >>> with_defaults({"a": {"b": 1}}, {"a": {"b": 0, "c": 2}})
        {'a': {'b': 1, 'c': 2}}
    """
    known = {
        name: with_defaults(value, defaults[name])
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
        else value
        for name, value in config.items()
    }
    return {**defaults, **known}


def first_difference(old: Any, new: Any, name: str) -> str | None:
    """Describe the first difference between two JSON values, or None.

    Example:
        >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}}, "config")
        'config.a.b was 1, now 2'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            found = first_difference(old.get(key), new.get(key), f"{name}.{key}")
            if found:
                return found
        return None
    return None if old == new else f"{name} was {_short(old)}, now {_short(new)}"


def arithmetic_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Describe what decides a result's last bits and is another now: packages, number of devices.

    Args:
        old: `config.json` of a run.
        new: that of the run that goes on with it.

    Example:
        >>> arithmetic_changes({"versions": {"jax": "0.10.1", "flax": "0.12.8"}}, {"versions": {"jax": "0.12.0"}})
        ['jax was 0.10.1, now 0.12.0', 'flax was 0.12.8, now unknown']
    """
    stored = old.get("versions")
    was, now = stored if isinstance(stored, dict) else {}, new["versions"]
    changes = [
        f"{name} was {was.get(name, 'unknown')}, now {now.get(name, 'unknown')}"
        for name in ARITHMETIC
        if was.get(name) != now.get(name)
    ]
    devices = [old.get("devices"), new.get("devices")]
    if all(devices) and devices[0] != devices[1]:
        changes.append(f"devices were {_short(devices[0])}, now {_short(devices[1])}")
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def provenance() -> dict[str, Any]:
    """Versions, git state and machine, as far as they can be known."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "git": _git_state(), "machine": platform.platform(), "command": sys.argv}


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that this code runs from; None outside one."""
    here = Path(__file__).resolve().parents[2]
    try:
        # The first one fails where the package is installed inside somebody else's checkout.
        run = [
            subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout
            for args in (
                ["ls-files", "--error-unmatch", str(Path(__file__).resolve().relative_to(here))],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": run[1].strip(), "modified": bool(run[2].strip())}
