"""A small run by the real command, what it leaves, and how it is taken up again; used by `experiments.faults`."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.log import read_metrics
from ntkcl_jax.terminal.console import USER_ERROR

ROOT = Path(__file__).parents[2]
CLASSES = 6
TRAIN_EACH, TEST_EACH = 6, 3
LIMIT_S = 600
"""No child takes that long."""
BY_CLOCK = ("time", "images_per_s", "images_per_s_per_device", "tflops", "mfu")
DAMAGED = re.compile(r"checkpoint (.+?) (?:is damaged|can't be read).*delete the folder and resume")
ONE_AT_A_TIME = threading.Lock()
"""Checkpoints are read by one thread at a time."""


class Lost(Exception):
    """A run didn't come through its fault."""


def images(folder: Path) -> Path:
    """Write a few small images of each class: one random pattern with noise."""
    rng = np.random.default_rng(6)
    for label in range(CLASSES):
        pattern = rng.integers(0, 256, (12, 12, 3))
        for side, count in (("train", TRAIN_EACH), ("test", TEST_EACH)):
            (folder / side / f"class{label}").mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / side / f"class{label}" / f"{i}.png")
    return folder


def words(data: Path) -> list[str]:
    """`train digits ...`: two seeds, three methods, three tasks of two classes, two epochs of three steps each."""
    said = (
        "--weights random --data.source folder --data.first-task-classes 2 --data.classes-per-task 2 --data.resize 8 "
        "--data.workers 1 --model.backbone.image-size 8 --model.backbone.dim 16 --model.backbone.depth 2 "
        "--model.adapter-rank 2 --model.prompts 2 --model.fusion-heads 2 --optimizer.batch-size 4 "
        "--optimizer.epochs 2 --optimizer.learning-rate 0.05 --compute.eval-batch-size 18 "
        "--compute.checkpoint-every-steps 4 --seeds 0 1 --methods ntkcl adapters sequential --quiet"
    )
    return ["train", "digits", *said.split(), "--data.path", str(data)]


@dataclass(frozen=True)
class Left:
    """What a run leaves, without what a clock puts into it.

    Attributes:
        arrays: type, shape and bytes of each checkpoint's arrays, by name.
        files: bytes of results and figures, by name.
        records: lines of `metrics.jsonl`, in order.
    """

    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]
    files: dict[str, bytes]
    records: list[str]


def left(run: Path) -> Left:
    """Read a finished run.

    Raises:
        RunFolderError: something is damaged.
        Lost: something half-written lies about, or the log's clock went back.
    """
    partial = [p for p in run.rglob("*") if p.name.endswith((checkpoint.PARTIAL, ".tmp"))]
    if partial:
        raise Lost(f"{partial[0]} was left half-written")
    arrays = {}
    # Whole checkpoints have a manifest; half-written ones were refused above
    for path in sorted(p.parent for p in (run / "checkpoints").rglob(checkpoint.MANIFEST)):
        with ONE_AT_A_TIME:
            trees = checkpoint.load(path)[0]
        for tree, values in trees.items():
            for name, value in values.items():
                arrays[f"{path.relative_to(run)} {tree}/{name}"] = (str(value.dtype), value.shape, value.tobytes())
    records = read_metrics(run / "metrics.jsonl")
    times = [record["time"] for record in records]
    if times != sorted(times):
        raise Lost("time goes back in metrics.jsonl")
    lines = [json.dumps({k: v for k, v in record.items() if k not in BY_CLOCK}) for record in records]
    files = [p for p in (run / "results.json", *run.glob("figures/*")) if p.exists()]
    return Left(arrays, {str(p.relative_to(run)): p.read_bytes() for p in files}, lines)


def difference(found: Left, wanted: Left, *, ordered: bool = True) -> str:
    """Name the first thing in which two runs differ; empty if they don't.

    Args:
        found: what a disturbed run left.
        wanted: what the undisturbed one left.
        ordered: the log's lines must stand in the same order too.

    Example:
        >>> one = Left({"x": ("int8", (1,), b"1")}, {}, ["a", "b"])
        >>> difference(one, Left(one.arrays, {}, ["b", "a"]), ordered=False)
        ''
        >>> difference(one, Left({}, {}, ["a", "b"]))
        'x is not in the undisturbed run'
    """
    mine, other = found.arrays | found.files, wanted.arrays | wanted.files
    for name in sorted({*mine, *other}):
        if name not in mine:
            return f"{name} is missing"
        if name not in other:
            return f"{name} is not in the undisturbed run"
        if mine[name] != other[name]:
            return f"{name} has other bits"
    same = found.records == wanted.records if ordered else sorted(found.records) == sorted(wanted.records)
    return "" if same else "metrics.jsonl has other lines"


@dataclass(frozen=True)
class Campaign:
    """What all cases share.

    Attributes:
        words: the command line, but for the run folder.
        environment: of the children.
        duration: seconds of an undisturbed run beside as many others as there are processes.
        writes: checkpoints that it writes.
        events: what happened, as it comes: `kill`, and `kill in a write` where it left a half-written checkpoint.
    """

    words: list[str]
    environment: dict[str, str]
    duration: float = 0.0
    writes: int = 0
    events: list[str] = field(default_factory=list)

    def start(self, run: Path, *launch: str) -> subprocess.Popen:
        """Start a run, or go on with it if there is a folder; `launch` are words for Python before its own."""
        command = [sys.executable, *launch, "-m", "ntkcl_jax", *self.words, "--run-dir", str(run)]
        command += ["--resume"] * run.exists()
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def kill(self, process: subprocess.Popen, run: Path) -> bool:
        """Kill a child; False if it had ended before."""
        process.kill()
        code, error = ended(process)
        if code == -signal.SIGKILL:
            self.events.append("kill in a write" if partials(run) else "kill")
            return True
        if code:
            raise Lost(f"before it was killed, it ended with code {code}: {error[-500:]}")
        return False

    def break_off(self, run: Path, draw: random.Random) -> None:
        """Kill a new run at a random moment after it has its first checkpoint."""
        while True:
            process = self.start(run)
            while process.poll() is None and not whole(run):
                time.sleep(0.01)
            # Half of the usual time, so that most runs are still going on
            passes(process, draw.uniform(0, self.duration / 2))
            if self.kill(process, run):
                return
            shutil.rmtree(run)  # it was quicker than the kill: another moment

    def finish(self, run: Path) -> Left:
        """Take a run up again until it is finished and whole; what is said to be damaged is deleted.

        Raises:
            Lost: it doesn't end, or its error isn't one that says what to delete.
        """
        deleted: set[str] = set()
        while True:
            code, error = ended(self.start(run))
            if code == 0:
                try:
                    return left(run)
                except RunFolderError as damage:  # in a checkpoint that nothing needed to go on
                    error = f"ntkcl: {damage}\n"
            elif code != USER_ERROR:
                raise Lost(f"taken up again, it ended with code {code}: {error[-500:]}")
            named = DAMAGED.search(one_line(error))
            # Deleted before, or not of this run: deleting wouldn't help, or hurt others
            if not named or named[1] in deleted or not Path(named[1]).is_relative_to(run):
                raise Lost(f"can't go on: {error.strip()}")
            deleted.add(named[1])
            shutil.rmtree(named[1])


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a child: its exit code and what it wrote.

    Raises:
        Lost: it doesn't end.
    """
    try:
        error = process.communicate(timeout=LIMIT_S)[1]
    except subprocess.TimeoutExpired as late:
        process.kill()
        # Reaps the child and empties its pipe
        process.communicate()
        raise Lost(f"still running after {LIMIT_S} s") from late
    return process.returncode, error


def passes(process: subprocess.Popen, seconds: float) -> None:
    """Let some seconds pass, or less if the child ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def one_line(error: str) -> str:
    """Refuse what isn't one line of `ntkcl`.

    Raises:
        Lost: no message, or more than one line.

    Example:
        >>> one_line("ntkcl: free some space" + chr(10))[:18]
        'ntkcl: free some s'
    """
    if not error.startswith("ntkcl: ") or error.count("\n") != 1:
        raise Lost(f"expected one line, got {error[-500:]!r}")
    return error


def folders(run: Path) -> list[Path]:
    """Every folder below the checkpoints of a run that may be going on."""
    return [Path(here) for here, _, _ in os.walk(run / "checkpoints")]  # a folder that vanishes meanwhile is no error


def partials(run: Path) -> set[Path]:
    """Checkpoints that are being written."""
    return {path for path in folders(run) if path.name.endswith(checkpoint.PARTIAL)}


def whole(run: Path) -> list[Path]:
    """Checkpoints that were completed."""
    return sorted(p for p in folders(run) if checkpoint.exists(p) and not p.name.endswith(checkpoint.PARTIAL))
