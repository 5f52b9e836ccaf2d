"""Kernels of made-up numbers for tests of the store; run as a script, it writes one slowly until it is killed.

    python tests/support/stored.py RUN [SKIP]

prints a line after every tile; with SKIP, the process takes every second tile only, from that one on.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.errors import StoreError
from analysis.store import KernelSpec, KernelStore, OpenKernel

N, K = 7, 2
GROUPS = ("channel", "head")


def spec(**changes: Any) -> KernelSpec:
    """Seven images of the tasks 0 (4 images) and 2 (3) in tiles of 3, two parameter groups."""
    fields = {
        "seed": 0, "checkpoint": 1, "outputs": "full", "head": "scores", "n": N, "k": K, "tile": 3, "groups": GROUPS,
        "tasks": (0, 2), "offsets": (0, 4, N), "parameters": "5e0c", "probes": "9a1f", "way": "tiled",
        "precision": "float32", "versions": (("jax", "0.12"),), "commit": "f0d4",
    }  # fmt: skip
    return KernelSpec(**fields | changes)


def kernel(outputs: str = "full", group: str | None = None) -> np.ndarray:
    """A symmetric kernel of random numbers; the part of `head` is zero."""
    factor = np.random.default_rng([3, *map(ord, group or "channel")]).standard_normal((N * K, 20))
    theta = (factor @ factor.T).reshape(N, K, N, K).transpose(0, 2, 1, 3) * (group != "head")
    theta = (theta + theta.transpose(1, 0, 3, 2)) / 2
    made = {
        "full": theta,
        "trace": np.einsum("ijcc->ij", theta) / K,
        "diagonal": np.einsum("ijcc->ijc", theta),
        "pseudo": theta.sum(axis=(2, 3)) / K,
    }[outputs]
    return made if outputs != "pseudo" else (made + made.T) / 2  # the order of a sum is felt in the last bit


def blocks(made: KernelSpec, i: int, j: int) -> dict[str, np.ndarray]:
    """What is put for a tile pair."""
    names = {name: None if name == "whole" else name for name in made.arrays}
    return {name: kernel(made.outputs, group)[made.rows(i), made.rows(j)] for name, group in names.items()}


def fill(work: OpenKernel, every: int = 1, first: int = 0) -> Iterator[tuple[int, int]]:
    """Put what is absent; yields the tiles that were."""
    for i, j in work.spec.pairs[first::every]:
        if not work.has(i, j):
            work.put(i, j, blocks(work.spec, i, j))
            yield i, j


def finished(run: Path, **changes: Any) -> Path:
    """Write a whole kernel without any disturbance."""
    run.mkdir(exist_ok=True)
    work = KernelStore(run).open(spec(**changes))
    assert len(list(fill(work))) == len(work.spec.pairs)
    work.finish(HEALTH, seconds=1.5)
    return work.final


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the timings, by its place."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "timings.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(call: Callable[[], Any], *words: str, error: type[Exception] = StoreError) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
    return line


def begun(run: Path, tiles: int = 2) -> OpenKernel:
    """A kernel under work with some of its tiles."""
    work = KernelStore(run).open(spec())
    for _ in zip(range(tiles), fill(work), strict=False):
        pass
    return work


HEALTH = {"symmetry_error": 0.0, "passed": True}

if __name__ == "__main__":
    taken = KernelStore(Path(sys.argv[1])).open(spec(), resume=True)
    for tile in fill(taken, *((2, int(sys.argv[2])) if len(sys.argv) > 2 else ())):
        print(*tile, flush=True)
        time.sleep(0.02)
