"""Probes: the few images of each task that kernels are computed on; fixed, seeded, class-balanced, recorded.

Within a task the images stand in one order that depends on seed, side, task and labels alone: first one image of each
class, then a second one of each class, and so on. Probes are the beginning of that order. So they are balanced (classes
differ by one image at most, as long as none runs out), and nested: the first 10 of a task's 20 probes are its 10.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from analysis.errors import RecordError
from analysis.store.files import read_json, write_json
from ntkcl_jax.runs.folder import first_difference
from ntkcl_jax.seeds import stream_seed

ReadImages = Callable[[int, Int[np.ndarray, "m"]], Float32[np.ndarray, "m h w c"]]
"""Task and positions among its images -> pixels in [0, 1]."""


@dataclass(frozen=True)
class Probes:
    """The probes of some tasks, one task after the other.

    Attributes:
        seed: seed of the run.
        side: `train` or `test`, where the images are from.
        tasks: task numbers.
        offsets: first probe of each task, then n.
        positions: places among the images of the probe's own task and side.
        labels: classes in the run's numbering.
        images: pixels in [0, 1].
        hashes: SHA-256 of each task's pixels.
    """

    seed: int
    side: str
    tasks: tuple[int, ...]
    offsets: tuple[int, ...]
    positions: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    images: Float32[np.ndarray, "n h w c"]
    hashes: tuple[str, ...]

    def rows(self, task: int) -> slice:
        """Where a task's probes are.

        Raises:
            RecordError: there are no probes of that task.
        """
        if task not in self.tasks:
            raise RecordError(f"expected one of the probed tasks {', '.join(map(str, self.tasks))}, got task {task}")
        at = self.tasks.index(task)
        return slice(self.offsets[at], self.offsets[at + 1])

    @property
    def sha256(self) -> str:
        """SHA-256 of everything here: equal for equal pixels, labels and tasks."""
        # Not the seed: what counts is which images these are
        facts = [self.side, *self.tasks, *self.offsets, *self.labels.tolist(), *self.hashes]
        return hashlib.sha256("/".join(map(str, facts)).encode()).hexdigest()

    def record(self, folder: Path) -> None:
        """Write down which images these are, or check that they are those of before.

        Args:
            folder: where the records are, `RUN/analysis/probes`; one file for each task and number of probes.

        Raises:
            RecordError: the record is of other images.
            StoreError: the folder can't be written, or a record can't be read.
        """
        for task, sha256 in zip(self.tasks, self.hashes, strict=True):
            rows = self.rows(task)
            facts = {
                "seed": self.seed,
                "side": self.side,
                "task": task,
                "positions": self.positions[rows].tolist(),
                "labels": self.labels[rows].tolist(),
                "pixels_sha256": sha256,
            }
            path = folder / f"seed{self.seed}" / f"{self.side}-task{task}-{rows.stop - rows.start}.json"
            # Never replaced: kernels that are stored already are of the images recorded here
            if not path.exists():
                write_json(path, facts)
                continue
            difference = first_difference(read_json(path), facts, "probes")
            if difference:
                raise RecordError(
                    f"expected the images recorded in {path}: {difference}; restore the run's images, or delete "
                    "RUN/analysis to start anew"
                )


def probe_order(labels: Int[np.ndarray, "n"], seed: int, side: str, task: int) -> Int[np.ndarray, "n"]:
    """Put all images of a task into the order from whose beginning probes are taken.

    The order comes from hashes, so it is the same on every machine and with every version of NumPy.

    Args:
        labels: classes of the task's images.
        seed: seed of the run.
        side: `train` or `test`.
        task: its number.

    Returns:
        Positions of the images: rounds of one image of each class that has any left.

    Example:
        >>> labels = np.array([4, 4, 4, 4, 7, 7, 7, 7])
        >>> labels[probe_order(labels, seed=0, side="test", task=1)].reshape(4, 2).sum(axis=1).tolist()
        [11, 11, 11, 11]
    """

    def draw(*what: Any) -> int:
        return stream_seed(seed, "probes", side, task, *what)

    place = {}
    for label in np.unique(labels).tolist():
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda position: draw(label, position))
        # By turn first, which makes rounds of one image a class; within a round classes stand by a hash, not by number
        place |= {position: (turn, draw("class", label)) for turn, position in enumerate(members)}
    return np.array(sorted(place, key=place.__getitem__), np.int64)


def choose_probes(
    labels_by_task: Mapping[int, Int[np.ndarray, "_"]],
    per_task: int,
    seed: int,
    side: str,
    read_images: ReadImages,
) -> Probes:
    """Choose `per_task` images of each task, as many of each class as divisibility and supply allow.

    The choice of one task doesn't depend on which other tasks are there. Nested: with the same seed and side, a task's
    probes for a smaller `per_task` are the first of those for a larger one.

    Args:
        labels_by_task: task to the labels of its images.
        per_task: probes of each task.
        seed: seed of the run.
        side: `train` or `test`, where the images are from.
        read_images: gives the pixels of the chosen ones.

    Returns:
        The probes in the order of `labels_by_task`.

    Raises:
        RecordError: no task, or fewer images than were asked for.

    Example:
        >>> pixels = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
        >>> labels = {0: np.array([0, 0, 0, 1, 1, 1])}
        >>> probes = choose_probes(labels, 4, seed=0, side="test", read_images=lambda task, at: pixels[at])
        >>> sorted(probes.labels.tolist()), probes.images.shape, probes.offsets
        ([0, 0, 1, 1], (4, 1, 1, 1), (0, 4))
    """
    if not labels_by_task:
        raise RecordError("expected at least one task to take probes from, got none; name tasks of the run")
    if per_task < 1:
        raise RecordError(f"expected at least 1 probe a task, got {per_task}; give a larger --per-task")
    for task, labels in labels_by_task.items():
        # Every task has the same number of probes; the offsets below count on it
        if len(labels) < per_task:
            raise RecordError(
                f"expected at most {len(labels)} probes a task, as many as task {task} has {side} images; got "
                f"{per_task}: give a smaller --per-task"
            )
    positions = {task: probe_order(labels, seed, side, task)[:per_task] for task, labels in labels_by_task.items()}
    images = [np.ascontiguousarray(read_images(task, at), np.float32) for task, at in positions.items()]
    return Probes(
        seed=seed,
        side=side,
        tasks=tuple(positions),
        offsets=tuple(range(0, per_task * len(positions) + 1, per_task)),
        positions=np.concatenate(list(positions.values())),
        labels=np.concatenate([labels_by_task[task][at] for task, at in positions.items()]),
        images=np.concatenate(images),
        hashes=tuple(_pixels_sha256(pixels) for pixels in images),
    )


def _pixels_sha256(pixels: Float32[np.ndarray, "m h w c"]) -> str:
    """SHA-256 of shape and little-endian pixels."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, "<f4").data)
    return digest.hexdigest()
