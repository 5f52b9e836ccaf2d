"""Who works on a folder: claims that many processes on many machines agree on through a shared file system.

The claims of a folder are its files `claims/1.json`, `claims/2.json`, ...; the last one counts. To claim is to create
the next file exclusively: of any number of processes that try, one succeeds, on a local disk as on NFS (version 3 and
later), Lustre or GPFS (an object store has no such thing). No file is ever removed, so nobody can take an older state
of the folder, as a network file system may show it for a minute, for the present one: its next number is taken.

Its owner touches the claim every `BEAT_S` seconds and says in it how it ended. An owner that says nothing is dead
- on this machine: when its process is gone (by number and start time, since numbers are used again);
- elsewhere: when its claim hasn't been touched for `STALE_S` seconds by the file system's own clock, so that machines
  needn't agree on the time. That is far above the beat and the minute for which NFS may show an old time of a file.
A `flock` alone, which each run folder also has, is released when its owner dies, but needs a lock service on network
file systems and doesn't say who, where and since when.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ntkcl_jax.config.codec import read_json

BEAT_S = 20.0
STALE_S = 300.0
DEATHS = 5
"""A folder whose last so many owners died is left alone: its work probably kills them (memory)."""


class ClaimLost(Exception):
    """This process was silent for so long that another one has taken its work over."""


@dataclass(frozen=True)
class State:
    """What the last claim of a folder says.

    Attributes:
        kind: `free` (no claim), `running`, `dead` (its owner is), or how it ended: `done`, `failed`, `released`.
        number: of the last claim; 0 without one.
        owner: the claim's content; empty without one.
        silent_s: seconds since the owner's last sign of life.
    """

    kind: str
    number: int = 0
    owner: dict[str, Any] | None = None
    silent_s: float = 0.0

    @property
    def who(self) -> str:
        """Machine and process of the owner."""
        owner = self.owner or {}
        return f"{owner.get('host', 'unknown host')}:{owner.get('pid', '?')}"


@functools.cache
def machine() -> str:
    """This machine, since its start, as its processes see each other (containers may share a name and a machine)."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def started(pid: int) -> str | None:
    """When a process of this machine was started (in the kernel's ticks); None if there is none such."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:  # a system without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def file_clock(folder: Path) -> float:
    """The time by the clock of a folder's file system; this machine's where the folder can't be written."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _numbers(folder: Path) -> list[int]:
    names = (p.name.removesuffix(".json") for p in (folder / "claims").glob("*.json"))
    return sorted(int(name) for name in names if name.isdecimal())


def _read(path: Path) -> dict[str, Any]:
    """A claim; empty where its owner died between making the file and writing into it."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def state(folder: Path, stale_s: float = STALE_S) -> State:
    """Say who, if anybody, has claimed a folder, and whether they live.

    Args:
        folder: what is claimed; need not exist.
        stale_s: seconds of silence after which an owner on another machine counts as dead.
    """
    numbers = _numbers(folder)
    if not numbers:
        return State("free")
    path = folder / "claims" / f"{numbers[-1]}.json"
    owner = _read(path)
    ended = owner.get("ended")
    if ended:
        return State(str(ended), numbers[-1], owner)
    silent = max(0.0, file_clock(folder) - path.stat().st_mtime)
    pid = owner.get("pid")
    if owner.get("machine") == machine() and type(pid) is int:
        lives = started(pid) == owner.get("started")
    else:
        lives = silent <= stale_s
    return State("running" if lives else "dead", numbers[-1], owner, silent)


def deaths(folder: Path) -> int:
    """How many claims in a row, up to the last one, have an owner that ended without a word."""
    count = 0
    for number in reversed(_numbers(folder)):
        if _read(folder / "claims" / f"{number}.json").get("ended"):
            break
        count += 1
    return count


def _write_new(path: Path, value: dict[str, Any]) -> bool:
    """Create a file, unless there is one."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(file, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=1) + "\n")
        f.flush()
        os.fsync(f.fileno())
    return True


class Claim:
    """One claim that this process holds; made by `take`."""

    def __init__(self, folder: Path, number: int, owner: dict[str, Any]) -> None:
        """Remember what was created."""
        self.folder, self.number, self.owner = folder, number, owner
        self.path = folder / "claims" / f"{number}.json"
        self.lost = False
        self._end = threading.Event()

    def beat(self) -> None:
        """Give a sign of life, or notice that the claim was taken over."""
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            os.utime(self.path)
            self.lost = self.lost or (self.path.with_name(f"{self.number + 1}.json")).exists()

    def _beat_on(self, every_s: float) -> None:
        while not self._end.wait(every_s):
            self.beat()
            if self.lost:
                os.kill(os.getpid(), signal.SIGINT)  # the work must stop: another process does it now
                return

    @contextlib.contextmanager
    def held(self, every_s: float = BEAT_S) -> Generator[None]:
        """Keep the claim alive while a block runs, and say how it ended.

        Args:
            every_s: seconds between two signs of life.

        Raises:
            ClaimLost: another process took the claim over meanwhile.
        """
        thread, begin = threading.Thread(target=self._beat_on, args=(every_s,), daemon=True), time.monotonic()
        # A shell's background job ignores SIGINT, by which the thread stops the work.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        thread.start()
        note: dict[str, Any] = {"ended": "released"}
        try:
            yield
            note = {"ended": "done"}
        except Exception as error:
            note = {"ended": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
            raise
        except KeyboardInterrupt:
            if self.lost:
                raise ClaimLost(f"{self.folder.name} was taken over by {state(self.folder).who}") from None
            raise
        finally:
            self._end.set()
            thread.join()
            signal.signal(signal.SIGINT, before)
            self.beat()
            if not self.lost:
                whole = self.owner | note | {"seconds": round(time.monotonic() - begin, 1)}
                partial = self.path.with_suffix(".partial")
                partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
                partial.replace(self.path)


def take(folder: Path, after: int) -> Claim | None:
    """Claim a folder, which is made if it doesn't exist.

    Args:
        folder: what to claim.
        after: number of the last claim, as `state` gave it when it was found takeable.

    Returns:
        The claim, or None if another process was faster.
    """
    (folder / "claims").mkdir(parents=True, exist_ok=True)
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "machine": machine(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    claim = Claim(folder, after + 1, owner)
    return claim if _write_new(claim.path, owner) else None
