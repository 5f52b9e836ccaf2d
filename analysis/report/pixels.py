"""Matrices that the page's script draws: one for each checkpoint, with what each row is.

A figure shows a checkpoint or two; with the numbers in the page a reader can go through all of them, ask each pixel
what it compares and see what changed since the first. Without the script the figures stay.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps

from analysis.plots.kernels import checkpoint_name
from analysis.report.reading import TaskKernel, clean, spread
from analysis.store.study_forms import KernelFigures

ROWS = 160
"""Rows of a matrix that are kept; of more, some at even distances. 160 rows take 34 kB in the page."""
STOPS = 40
"""Matrices that are kept: of more, some at even distances."""
UNKNOWN = 65535
"""What stands for a value that isn't known; known ones are steps from 0 to 65534 between the ends."""


@dataclass(frozen=True)
class Pixels:
    """Symmetric matrices of the same rows.

    Attributes:
        title: what they are.
        value: what a pixel is.
        stops: name of each matrix.
        rows: what each row (and column) is.
        axis: what groups of rows are, such as tasks.
        groups: name of the group of each row: lines part them.
        matrices: NaN where a value isn't known.
        low: end of the colour scale.
        high: the other end.
        note: which rows are left out; "" where none is.
    """

    title: str
    value: str
    stops: Sequence[str]
    rows: Sequence[str]
    axis: str
    groups: Sequence[str]
    matrices: Sequence[Float[np.ndarray, "n n"]]
    low: float
    high: float
    note: str = ""

    def data(self) -> dict[str, Any]:
        """What the script needs, as JSON."""
        return {
            "title": self.title, "value": self.value, "note": self.note, "axis": self.axis, "stops": list(self.stops),
            "rows": list(self.rows), "groups": list(self.groups), "low": self.low, "high": self.high,
            "matrices": [packed(matrix, self.low, self.high) for matrix in self.matrices],
        }  # fmt: skip


def packed(matrix: Float[np.ndarray, "n n"], low: float, high: float) -> str:
    """The upper triangle of a symmetric matrix, row by row, in 65,535 steps of two bytes (little end first), in base64.

    Args:
        matrix: NaN where a value isn't known.
        low: the value that becomes 0; smaller ones do, too.
        high: the value that becomes 65534.

    Example:
        >>> packed(np.array([[1.0, 0.0], [0.0, np.nan]]), 0, 1)
        '/v8AAP//'
    """
    values = matrix[np.triu_indices(len(matrix))]
    steps = np.round((values - low) / ((high - low) or 1.0) * (UNKNOWN - 1))
    whole = np.where(np.isnan(steps), UNKNOWN, np.clip(steps, 0, UNKNOWN - 1))
    return base64.b64encode(whole.astype("<u2").tobytes()).decode()


def colours(name: str, steps: int = 16) -> list[str]:
    """A colour scale of figures, from its low to its high end.

    Example:
        >>> colours("cividis", 2)
        ['#00224e', '#fee838']
    """
    scale = colormaps[name]
    parts = [scale(i / (steps - 1))[:3] for i in range(steps)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in parts]


def kept(count: int) -> Int[np.ndarray, "m"]:
    """Places of the rows that are shown of so many.

    Example:
        >>> kept(3).tolist(), len(kept(1000))
        ([0, 1, 2], 160)
    """
    return np.array(spread(range(count), ROWS), dtype=int)


def thinned(kernel: TaskKernel) -> TaskKernel:
    """A kernel of at most `ROWS` of its images."""
    rows = kept(len(kernel.tasks))
    of_rows = {name: getattr(kernel, name)[rows] for name in ("tasks", "labels", "images")}
    return replace(kernel, cosines=kernel.cosines[np.ix_(rows, rows)], **of_rows)


def of_images(
    kernels: Sequence[TaskKernel], names: Sequence[str], side: str, lost: Mapping[int, Collection[int]], count: int
) -> Pixels:
    """The cosines between probe images.

    Args:
        kernels: of the same probes, at least one, thinned.
        names: names of the classes, in the run's numbering.
        side: of whose images, "train" or "test".
        lost: numbers of the test images that were forgotten, by task.
        count: probe images there are.
    """
    first = kernels[0]
    low = min(0.0, *(float(kernel.cosines.min()) for kernel in kernels))
    what = []
    for task, label, image in zip(first.tasks.tolist(), first.labels.tolist(), first.images.tolist(), strict=True):
        end = ", forgotten" if side == "test" and image in lost.get(task, ()) else ""
        what.append(f"task {task + 1}, class {_class(names, label)}, {side} image {image}{end}")
    shown = len(first.tasks)
    note = "" if shown == count else f"{shown} of the {count} probe images, at even distances."
    return Pixels(
        "Every pair of probe images", "cosine", [checkpoint_name(kernel.checkpoint) for kernel in kernels], what,
        "probe images of task", [str(task + 1) for task in first.tasks], [kernel.cosines for kernel in kernels], low,
        1.0, note,
    )  # fmt: skip


def _class(names: Sequence[str], label: int) -> str:
    return clean(names[label], 24) if label < len(names) else str(label)


def of_tasks(checkpoints: Mapping[int, KernelFigures], tasks: Sequence[int]) -> Pixels:
    """The inter/intra ratios between tasks, at every checkpoint."""
    numbers = spread(list(checkpoints), STOPS)
    matrices = [np.array(checkpoints[number].inter_intra_ratio, dtype=float) for number in numbers]
    rows = kept(len(tasks))
    return Pixels(
        "Every pair of tasks", "inter-task / intra-task kernel", [checkpoint_name(number) for number in numbers],
        [f"task {tasks[i] + 1}" for i in rows], "task", [str(tasks[i] + 1) for i in rows],
        [matrix[np.ix_(rows, rows)] for matrix in matrices], 0.0, 1.0,
    )  # fmt: skip
