"""The ways in which `experiments.faults` disturbs a run; what each leaves, `--resume` must be able to finish."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from experiments.faults.disturbed import Campaign, Lost, ended, one_line, partials, passes, whole
from ntkcl_jax.terminal.console import TERMINATED, USER_ERROR

KILLS = 3
"""Times that one run is killed at most."""
DISK_BYTES = 32 * 2**20
UNPRIVILEGED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1); os.execv(sys.executable, sys.argv[1:])"
"""Drops CAP_DAC_OVERRIDE, by which root writes where nobody may."""
TAKEN = re.compile(r"is in use by another process|already exists")

Fault = Callable[[Campaign, Path, random.Random], None]


def anywhere(campaign: Campaign, process: subprocess.Popen, _run: Path, draw: random.Random, _kills: int) -> None:
    """Wait for a random moment of a run."""
    passes(process, draw.uniform(0, campaign.duration))


def in_a_write(campaign: Campaign, process: subprocess.Popen, run: Path, draw: random.Random, kills: int) -> None:
    """Wait until a run writes a checkpoint: any of those among which `kills` kills are spread."""
    wanted, seen = draw.randint(1, max(1, campaign.writes // kills)), set()
    while process.poll() is None and len(seen) < wanted:
        seen |= partials(run)
        time.sleep(0.001)
    # Anywhere in the write, not always at its beginning
    passes(process, draw.uniform(0, 0.03))


def kill(wait: Callable[..., None], campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Kill a run, and up to twice more where it is taken up again."""
    kills = left = draw.randint(1, KILLS)
    while left:
        process = campaign.start(run)
        wait(campaign, process, run, draw, kills)
        if campaign.kill(process, run):
            left -= 1
        elif left < kills:
            # Killed at least once, and then it came through
            return
        else:
            shutil.rmtree(run)  # it was quicker than the first kill: another moment


def terminate(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Ask a run to end, up to three times: it says how to go on."""
    for _ in range(draw.randint(1, KILLS)):
        process = campaign.start(run)
        passes(process, draw.uniform(0.1, 1) * campaign.duration)
        process.terminate()
        code, error = ended(process)
        if code == 0:
            return
        if (code, error) == (-signal.SIGTERM, ""):
            continue  # before its first line, or after its last
        if code != TERMINATED or "--resume" not in one_line(error):
            raise Lost(f"asked to end, it ended with code {code}: {error[-500:]}")


def damage(change: Callable[[bytes, random.Random], bytes], campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Change one file of one checkpoint of a run that was broken off."""
    campaign.break_off(run, draw)
    # An empty file has nothing to cut and no bit to flip
    files = sorted(p for folder in whole(run) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    file = draw.choice(files)
    file.write_bytes(change(file.read_bytes(), draw))


def cut(content: bytes, draw: random.Random) -> bytes:
    """Cut a file anywhere."""
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    """Flip one bit.

    Example:
        >>> [bin(a ^ b).count("1") for a, b in zip(b"abc", flip(b"abc", random.Random(0)))]
        [0, 1, 0]
    """
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def refused(process: subprocess.Popen, what: str) -> bool:
    """Wait for a child that may say in one line why it can't go on; False if it didn't need to.

    Raises:
        Lost: it failed in another way.
    """
    code, error = ended(process)
    if code and (code != USER_ERROR or not one_line(error)):
        raise Lost(f"{what}: it ended with code {code}: {error[-500:]}")
    return code == USER_ERROR


def begun(campaign: Campaign, run: Path, draw: random.Random, *launch: str) -> subprocess.Popen:
    """Start a run and let it go on to a random moment after its folder is there."""
    process = campaign.start(run, *launch)
    while process.poll() is None and not (run / "config.json").exists():
        time.sleep(0.01)
    passes(process, draw.uniform(0, campaign.duration / 2))
    return process


def read_only(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Take the right to write away while a run goes on, and before it is taken up again."""
    launch = ("-c", UNPRIVILEGED, sys.executable)
    process = begun(campaign, run, draw, *launch)
    for here, _, files in os.walk(run):
        os.chmod(here, 0o555)
        for name in files:
            if not name.endswith(".partial"):
                os.chmod(Path(here, name), 0o444)
    try:
        refused(process, "in a read-only folder")
        if not refused(campaign.start(run, *launch), "in a read-only folder"):
            raise Lost("it went on in a folder that may not be written")
    finally:
        # Opened again, or nothing could take the run up
        for here, _, files in os.walk(run):
            os.chmod(here, 0o755)
            for name in files:
                os.chmod(Path(here, name), 0o644)


def file_limit(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Let no file grow beyond some bytes from a random moment on: the system's error comes inside the writing."""
    process = begun(campaign, run, draw)
    # Nothing at all, or so much that the error comes in the middle of a file
    limit = draw.choice((0, 200, 2000))
    with suppress(ProcessLookupError):  # it has just ended
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    refused(process, f"with files of {limit} bytes at most")


@contextmanager
def small_disk(folder: Path) -> Generator[None]:
    """A disk in memory, mounted over a folder; its content stays when it is gone."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", folder], check=True, capture_output=True
    )
    kept = folder.with_name(folder.name + "-kept")
    try:
        yield
    finally:
        # The content goes with the disk, so it is copied first and put in the disk's place
        shutil.copytree(folder, kept)
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
        folder.rmdir()
        kept.rename(folder)


def can_mount(root: Path) -> bool:
    """Whether a small disk can be mounted here."""
    try:
        with small_disk(root / "mount"):
            pass
        (root / "mount").rmdir()
        return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_disk(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Fill a small disk at a random moment, and make room when the run has ended."""
    with small_disk(run):
        process = begun(campaign, run, draw)
        ballast = run / "ballast"
        # Unbuffered, so that the disk is really full when the loop ends
        with open(ballast, "wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        refused(process, "on a full disk")
        refused(campaign.start(run), "on a full disk")
        ballast.unlink()


def two_processes(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Start two processes on one folder, new or broken off: one of them does the work."""
    if draw.random() < 0.5:
        campaign.break_off(run, draw)
    # Both started before either is waited for
    both = [campaign.start(run) for _ in range(2)]
    # By exit code: one that did the work comes first
    results = sorted(ended(process) for process in both)
    for code, error in results:
        if code not in (0, USER_ERROR) or (code and not TAKEN.search(one_line(error))):
            raise Lost(f"beside another process, it ended with code {code}: {error[-500:]}")
    if results[0][0]:
        raise Lost("of two processes none did the work")


def clock_back(campaign: Campaign, run: Path, draw: random.Random) -> None:
    """Break a run off and date its files a day ahead: for the next process the clock has gone back."""
    campaign.break_off(run, draw)
    for path in [run, *run.rglob("*")]:
        os.utime(path, (path.stat().st_atime + 86400, path.stat().st_mtime + 86400))


FAULTS: dict[str, Fault] = {
    "SIGKILL at random moments": partial(kill, anywhere),
    "SIGKILL while a checkpoint is written": partial(kill, in_a_write),
    "SIGTERM at random moments": terminate,
    "a checkpoint cut off": partial(damage, cut),
    "a bit of a checkpoint flipped": partial(damage, flip),
    "a folder made read-only": read_only,
    "files may not grow": file_limit,
    "a full disk": full_disk,
    "two processes on one folder": two_processes,
    "a clock that goes back": clock_back,
}
