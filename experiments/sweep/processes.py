"""Cells at work: each in a process of its own, so many at a time; one that dies takes no other with it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

from experiments.sweep.cells import DONE, ELSEWHERE, FAILED, Cell, note_failure, status
from ntkcl_jax.terminal.console import TERMINATED
from ntkcl_jax.terminal.stopping import Terminated

TICK_S = 0.1
LOOK_AGAIN_S = 15.0
"""How often cells that run elsewhere are looked at while nothing else is left."""


@contextlib.contextmanager
def _told_to_stop() -> Generator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of being interrupted by them, so that no child is lost on the way."""
    told: list[int] = []
    usual = {n: signal.signal(n, lambda number, _: told.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ended_with_us(children: Iterable[subprocess.Popen]) -> Generator[None]:
    """Stop the children that a block leaves, however it ends, and stay until they have ended."""
    try:
        yield
    finally:
        # All are told before any is waited for
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def _started(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    """Start a child that a terminal's Ctrl-C doesn't reach: it gets SIGTERM once, from this process."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _signal(code: int) -> str:
    return f"signal {-code}, {signal.strsignal(-code)}"


def work(
    root: Path,
    cells: Sequence[Cell],
    command: Callable[[Cell], tuple[Sequence[str], dict[str, str]]],
    *,
    processes: int = 1,
    retry: bool = False,
    wait: bool = False,
) -> list[str]:
    """Run every cell that is neither done nor running elsewhere.

    Args:
        root: folder of the run folders.
        cells: in this order.
        command: the words and the environment that start a cell; its process ends with one of the codes of
            `experiments.sweep.cells`.
        processes: cells at a time.
        retry: run cells again that failed before.
        wait: stay until no cell runs elsewhere, and take up those that were left unfinished there.

    Returns:
        A line for each cell that failed, now or before.

    Raises:
        KeyboardInterrupt: Ctrl-C or (`Terminated`) SIGTERM came; all children have ended.
    """
    left, elsewhere, again = deque(cells), [], set()
    running: dict[subprocess.Popen, tuple[Cell, float]] = {}
    failed: dict[str, str] = {}
    look_again = 0.0
    with _told_to_stop() as told, _ended_with_us(running):
        while not told and (left or running or (wait and elsewhere)):
            while left and len(running) < processes and not told:
                cell = left.popleft()
                # Read just before the start: another machine may have taken or finished it
                now = status(root, cell)
                if now.kind == "running":
                    elsewhere.append(cell)
                    look_again = time.monotonic() + LOOK_AGAIN_S
                elif now.kind == "failed" and not retry:
                    failed[cell.name] = now.detail
                elif now.kind != "done":
                    running[_started(*command(cell))] = cell, time.monotonic()
            for child in [child for child in running if child.poll() is not None]:
                cell, begin = running.pop(child)
                code = child.returncode
                if code == DONE:
                    print(f"done   {cell.name} in {time.monotonic() - begin:.0f} s", flush=True)
                elif code == FAILED:
                    failed[cell.name] = status(root, cell).detail
                elif code == ELSEWHERE:
                    elsewhere.append(cell)
                elif code == TERMINATED:
                    print(f"left   {cell.name}: somebody stopped its process", flush=True)
                # Killed from outside, as by a system that is out of memory: later there may be enough
                elif code < 0 and cell.name not in again:
                    again.add(cell.name)
                    left.append(cell)
                    print(f"died   {cell.name} ({_signal(code)}): tried again after the others", flush=True)
                else:
                    how = f"was killed twice ({_signal(code)}); is there enough memory?" if code < 0 else f"gave {code}"
                    failed[cell.name] = f"its process {how}"
                    print(f"failed {cell.name}: {failed[cell.name]}", file=sys.stderr, flush=True)
                    note_failure(root / cell.name, failed[cell.name])
            # Whatever ran elsewhere is looked at again from the beginning: it may be done, or left unfinished
            if wait and elsewhere and not left and not running and time.monotonic() >= look_again:
                left, elsewhere = deque(elsewhere), []
            elif running or elsewhere:
                time.sleep(TICK_S)
    if told:
        raise Terminated if signal.SIGTERM in told else KeyboardInterrupt
    if elsewhere:
        print(f"{len(elsewhere)} of {len(cells)} cells run in other processes", flush=True)
    return [f"{name}: {why}" for name, why in failed.items()]
