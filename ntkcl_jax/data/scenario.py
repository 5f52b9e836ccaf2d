"""Class order and split: which classes each task brings (NumPy only).

Inside a run a class is known by its *label*: its position in the class order. Task 0 owns the first labels, task 1
the next ones, so old classes are always a prefix. *Source labels* are those of the images' own numbering.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from jaxtyping import Int64, Integer

from ntkcl_jax.config import DataConfig
from ntkcl_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class Scenario:
    """A class order cut into tasks.

    Attributes:
        class_order: source label of each label; a permutation of 0..C-1.
        task_sizes: number of classes that each task brings; sums to C.

    Raises:
        ConfigError: `class_order` is no permutation, a task is empty, or the sizes don't add up.

    Example:
        >>> scenario = Scenario(class_order=(2, 0, 1), task_sizes=(2, 1))
        >>> list(scenario.classes(1)), scenario.task_of(2), scenario.relabel(np.array([2, 1])).tolist()
        ([2], 1, [0, 2])
    """

    class_order: tuple[int, ...]
    task_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse orders and splits that don't fit together."""
        if not self.class_order or sorted(self.class_order) != list(range(len(self.class_order))):
            raise ConfigError(f"the class order must be a permutation of 0..C-1, got {self.class_order}")
        if min(self.task_sizes, default=0) < 1 or sum(self.task_sizes) != len(self.class_order):
            raise ConfigError(
                f"task sizes must be positive and add up to {len(self.class_order)} classes, got {self.task_sizes}"
            )

    @property
    def num_classes(self) -> int:
        """Number C of classes over all tasks."""
        return len(self.class_order)

    @property
    def num_tasks(self) -> int:
        """Number T of tasks."""
        return len(self.task_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First label of each task, then C: T + 1 numbers; `offsets[t + 1]` classes are seen after task t."""
        return (0, *accumulate(self.task_sizes))

    @cached_property
    def task_of_class(self) -> Int64[np.ndarray, " c"]:
        """Task that brings each label; can't be written to."""
        tasks = np.repeat(np.arange(self.num_tasks), self.task_sizes)
        tasks.flags.writeable = False  # cached and shared; the class is frozen, this keeps its array so
        return tasks

    @cached_property
    def _position(self) -> Int64[np.ndarray, " c"]:
        """Label of each source label."""
        position = np.empty(self.num_classes, np.int64)  # the inverse permutation; every place gets written
        position[list(self.class_order)] = np.arange(self.num_classes)
        return position

    def classes(self, task: int) -> range:
        """Labels that `task` (0-based) brings."""
        return range(self.offsets[task], self.offsets[task + 1])

    def task_of(self, label: int) -> int:
        """Task that brings `label`.

        Raises:
            DataError: there is no such label.
        """
        if not 0 <= label < self.num_classes:
            raise DataError(f"labels run from 0 to {self.num_classes - 1}, got {label}")
        return int(self.task_of_class[label])

    def relabel(self, source_labels: Integer[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
        """Turn source labels into labels, i.e. positions in the class order.

        Raises:
            DataError: a source label isn't in the class order.
        """
        source_labels = np.asarray(source_labels)
        # A negative one would count from the end instead of failing
        if source_labels.size and not 0 <= source_labels.min() <= source_labels.max() < self.num_classes:
            raise DataError(
                f"source labels must lie in 0..{self.num_classes - 1}, got "
                f"{source_labels.min()}..{source_labels.max()}; was the scenario made for another source?"
            )
        return self._position[source_labels]


def make_scenario(num_classes: int, data: DataConfig, seed: int) -> Scenario:
    """Draw the class order and cut it into tasks.

    The order is `np.random.RandomState(seed).permutation(num_classes)`, as in the published runs, or 0, 1, 2, ...
    without `data.shuffle_classes`. Task 0 has `data.first_task_classes` classes (0: as many as the others), every
    later one `data.classes_per_task`; the last takes what is left. Joint training is one task of `num_classes`.

    Args:
        num_classes: classes of the source.
        data: split and whether to shuffle.
        seed: the run's seed, in [0, 2**32).

    Returns:
        The scenario; equal arguments give equal scenarios on every machine.

    Raises:
        ConfigError: task 0 asks for more classes than there are, or the seed is out of range.

    Example:
        >>> make_scenario(10, DataConfig(first_task_classes=4, classes_per_task=4), seed=0).task_sizes
        (4, 4, 2)
    """
    first = data.first_task_classes or data.classes_per_task
    if first > num_classes:
        field = "first_task_classes" if data.first_task_classes else "classes_per_task"
        raise ConfigError(f"data.{field} puts {first} classes into task 0, but the source has {num_classes}; lower it")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"the class order needs a seed in [0, 2**32), got {seed}")
    # Not a named stream: NumPy promises that this old generator's numbers never change
    order = np.random.RandomState(seed).permutation(num_classes) if data.shuffle_classes else np.arange(num_classes)
    # Differences of the starts are the sizes; what is left over becomes a smaller last task
    starts = [0, *range(first, num_classes, data.classes_per_task), num_classes]
    sizes = tuple(int(size) for size in np.diff(starts))
    return Scenario(class_order=tuple(order.tolist()), task_sizes=sizes)
