"""What can be read of any method of a run: its checkpoints, its finished tasks, their images, functions and groups."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from analysis.errors import RecordError
from analysis.records.probes import Probes, choose_probes
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.runs.context import Side
from ntkcl_jax.runs.recorded import RecordedRun, TaskImages

Params = Mapping[str, Any]
"""Parameters by path: arrays of JAX or NumPy."""


class MethodRecords(ABC):
    """One method of a finished or running `run`."""

    def __init__(self, run: RecordedRun) -> None:
        """Wrap the run; checkpoints are read when asked for."""
        self.run = run

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the run."""
        return self.run.seeds

    @abstractmethod
    def checkpoints(self, seed: int) -> tuple[int, ...]:
        """Checkpoints that can be read: 0 before task 0, t + 1 after task t; RecordError without such a seed."""

    @abstractmethod
    def function(
        self, seed: int, checkpoint: int, output: str = "scores", dtype: Literal["float32", "float64"] = "float32"
    ) -> tuple[Partial, Params]:
        """Make the function of a checkpoint, and the parameters to differentiate it by.

        Args:
            seed: one of the run's seeds.
            checkpoint: 0 before task 0, t + 1 after task t.
            output: which outputs.
            dtype: arithmetic of the network. `float64` gives NumPy arrays of that type; call the function under
                `jax.enable_x64`.

        Returns:
            apply_fn(params, images) -> (n, k), a pytree whose leaves are the frozen arrays and whose static part is
            equal for all checkpoints and seeds; and params, flat, by path.

        Raises:
            RecordError: no such seed, checkpoint or output, or a damaged checkpoint.
        """

    @abstractmethod
    def groups(self, paths: Sequence[str], by: Literal["part", "layer"]) -> dict[str, tuple[str, ...]]:
        """Parameter groups of these paths: name to prefixes.

        Raises:
            RecordError: it has no groups of that kind.
        """

    def facts(self, seed: int) -> dict[str, Any]:
        """What a summary says of a seed beside its kernels."""
        return {}

    def copies(self, seed: int) -> int:
        """Outputs that have the kernel each, where they are alike and it is that of one of them."""
        return 1

    def parameters(self, seed: int, checkpoint: int, output: str) -> int:
        """Numbers among a checkpoint's parameters."""
        return sum(int(np.size(value)) for value in self.function(seed, checkpoint, output)[1].values())

    def tasks(self, seed: int) -> tuple[int, ...]:
        """Finished tasks; RecordError without such a seed."""
        return tuple(range(self.done(seed)))

    def done(self, seed: int) -> int:
        """How many tasks are finished.

        Raises:
            RecordError: no such seed.
        """
        if seed not in self.seeds:
            known = ", ".join(map(str, self.seeds))
            raise RecordError(f"expected one of the seeds {known} of {self.run.path}, got {seed}; name one of them")
        return self.tasks_done(seed)

    @abstractmethod
    def tasks_done(self, seed: int) -> int:
        """How many tasks of one of the run's seeds are finished."""

    def check(self, seed: int, what: str, number: int, there: Sequence[int]) -> None:
        """Refuse a task or checkpoint that isn't there.

        Raises:
            RecordError: says which are.
        """
        if number not in there:
            some, todo = (f"{what}s {span(there)}", "name one of those") if there else (f"a {what}", "train first")
            raise RecordError(
                f"expected {some} of seed {seed}, as {self.done(seed)} of {self.run.num_tasks} tasks are finished in "
                f"{self.run.path}; got {what} {number}: {todo}"
            )

    def images(self, seed: int, task: int) -> TaskImages:
        """A finished task's images.

        Raises:
            RecordError: no such seed or task, or one that isn't finished.
        """
        self.check(seed, "task", task, self.tasks(seed))
        return TaskImages(self.run, task, seed)

    def probes(
        self, seed: int, per_task: int, *, side: Side = "test", tasks: Sequence[int] | None = None, record: bool = True
    ) -> Probes:
        """Choose the images to compute kernels on; see `analysis.records.probes.choose_probes`.

        Args:
            seed: one of the run's seeds.
            per_task: images of each task.
            side: `train` or `test`.
            tasks: which finished tasks; all when None.
            record: write the choice into RUN/analysis/probes, or check that it is the one recorded there.

        Raises:
            RecordError: no such seed, task or side, too few images, or ones that can't be read or aren't the recorded.
            StoreError: the record can't be written or read.
        """
        chosen = self.tasks(seed) if tasks is None else tuple(tasks)
        if not chosen:
            raise RecordError(f"expected a finished task of seed {seed} in {self.run.path}, there is none; train first")
        opened = {task: self.images(seed, task) for task in chosen}
        try:
            labels = {task: images.labels_of(side) for task, images in opened.items()}
            probes = choose_probes(labels, per_task, seed, side, lambda task, at: opened[task].images(side, at))
        except NtkclError as error:
            raise RecordError(str(error)) from error
        if record:
            probes.record(self.run.path / "analysis" / "probes")
        return probes


def span(numbers: Sequence[int]) -> str:
    """Numbers for people: those from 0 on by their ends.

    Example:
        >>> span((0, 1, 2)), span((3,))
        ('0 to 2', '3')
    """
    from_zero = tuple(numbers) == tuple(range(len(numbers)))
    return f"0 to {numbers[-1]}" if from_zero else ", ".join(map(str, numbers))


def double(leaf: Any) -> np.ndarray:
    """A leaf in NumPy, in float64 if it has floating-point numbers."""
    array = np.asarray(leaf)
    # NumPy, since JAX would cut to float32 outside of `enable_x64`; `jnp.issubdtype` knows bfloat16
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
