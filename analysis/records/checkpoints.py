"""Checkpoints of a run's method as functions to take kernels of: apply_fn and parameters, parameter groups, probes.

Checkpoint 0 is the state before task 0, checkpoint t + 1 the state after task t. A running run has the checkpoints of
its finished tasks (and 0, once task 0 is finished).
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from analysis.errors import RecordError
from analysis.kernels.tracing import leaves_used
from analysis.records.readouts import ReadoutRecords
from analysis.records.tasks import MethodRecords, double
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.methods.base import Learner
from ntkcl_jax.methods.ntkcl import NTKCL, PARTS
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.runs.recorded import RecordedRun, RecordedTask, load_run


@dataclass(frozen=True)
class Evaluate:
    """The network's outputs as a function whose arrays are all arguments; equal for all checkpoints of a run.

    Attributes:
        learner: what computes them.
        output: which outputs.
        classes: scores: how many of the stream's classes the run has learned; the others are left out.
    """

    learner: Learner
    output: str
    classes: int

    def __call__(
        self, params: Tree, images: Float[Array, "n h w c"], *, frozen: Frozen, rest: Tree
    ) -> Float[Array, "n k"]:
        """Evaluate the network; `rest` are trainable parameters that the outputs don't depend on."""
        out = self.learner.apply_fn({**params, **rest}, frozen, images, self.output)
        # Classes learned come first in a run's numbering; those to come have no prototypes or untrained rows
        return out[:, : self.classes] if self.output == "scores" else out


class Records(MethodRecords):
    """A method whose learner classifies by its own head; `open_run` is the way here."""

    def __init__(self, run: RecordedRun) -> None:
        """Wrap the run; checkpoints are read when asked for."""
        super().__init__(run)
        # A random backbone is drawn for each task again: keep the last few.
        self._task = functools.lru_cache(maxsize=4)(self._read_task)
        # The number of finished tasks is part of the key: a running run's last task changes
        self._last = functools.lru_cache(maxsize=1)(lambda seed, done: self.task(seed, done - 1).frozen)
        self._used: dict[str, frozenset[str]] = {}  # by output

    def checkpoints(self, seed: int) -> tuple[int, ...]:
        """All of the finished tasks, and 0 once there is one; RecordError without such a seed."""
        return tuple(range(self.done(seed) + 1)) if self.done(seed) else ()

    def tasks_done(self, seed: int) -> int:
        """How many tasks of a seed the learner has finished."""
        return self.run.tasks_done(seed)

    def groups(self, paths: Sequence[str], by: Literal["part", "layer"]) -> dict[str, tuple[str, ...]]:
        """The learner's parts, or layers: see `default_groups`."""
        return default_groups(paths, by, self.run.learner.parts)

    def task(self, seed: int, task: int) -> RecordedTask:
        """Open a finished task.

        Raises:
            RecordError: no such seed or task, one that isn't finished, or a damaged checkpoint.
        """
        self.check(seed, "task", task, self.tasks(seed))
        return self._task(seed, task)

    def _read_task(self, seed: int, task: int) -> RecordedTask:
        try:
            return self.run.task(task, seed)
        except NtkclError as error:
            raise RecordError(str(error)) from error

    def function(
        self,
        seed: int,
        checkpoint: int,
        output: str = "scores",
        dtype: Literal["float32", "float64"] = "float32",
        *,
        every: bool = False,
    ) -> tuple[Partial, Tree | dict[str, np.ndarray]]:
        """Make the function of a checkpoint, and the parameters to differentiate it by.

        `scores` of NTK-CL are those of the prototype head with **the prototypes of the run's last finished task, at
        every checkpoint**. A class's prototype is written when its task ends and never changes, so for the classes that
        the checkpoint has seen these are its own scores, and their part of the kernel is the kernel of its own
        classifier. For the others, the checkpoint's own head gives a constant, whose kernel is zero. With one readout
        for all, what changes from checkpoint to checkpoint is the adaptation and nothing else. While the run goes on, k
        is the number of classes learnt so far, so it grows with the run.

        `scores` of a baseline are the checkpoint's own, over the classes **seen by the run's last finished task, at
        every checkpoint**: k is equal at all. A linear head's rows of classes not yet seen, at their start, count too.
        EASE's class means are those after that task, as NTK-CL's prototypes are (before task 0 it has none).

        `proxy` (NTK-CL only) are the logits of the head that trains with a task: that of task 0 at checkpoint 0, of
        task t at checkpoint t + 1. It is as wide as the largest task; rows beyond the task's own classes were never
        trained. `features` are what the classifier reads, NTK-CL's hybrid features.

        Parameters by which the outputs have no derivative, as NTK-CL's scores by the proxy head, aren't returned unless
        `every` asks for them, as a kernel between scores and proxy logits does.

        Args:
            seed: one of the run's seeds.
            checkpoint: 0 before task 0, t + 1 after task t.
            output: `scores`, `proxy` or `features`.
            dtype: arithmetic of the network, whatever the run was trained with. `float64` gives NumPy arrays of that
                type; call the function under `jax.enable_x64`.
            every: take all trainable parameters; the same for every output.

        Returns:
            apply_fn(params, images) -> (n, k), a pytree whose leaves are the frozen arrays and whose static part is
            equal for all checkpoints and seeds of an opened run; and params, flat, by path.

        Raises:
            RecordError: no such seed, checkpoint or output, or a damaged checkpoint.
        """
        learner = self.run.learner
        if output not in learner.outputs:
            raise RecordError(
                f"expected outputs {', '.join(learner.outputs)}; got {output!r}: name one that method "
                f"{self.run.method} has"
            )
        self.check(seed, "checkpoint", checkpoint, self.checkpoints(seed))
        done = self.done(seed)
        # Checkpoint 0 has no task of its own: it is stored as what task 0 began with
        task = self.task(seed, max(checkpoint - 1, 0))
        trainable, frozen = (task.after, task.frozen) if checkpoint else (task.before, task.frozen_before)
        last = self._last(seed, done)
        # One classifier for all checkpoints; adaptation and running mean stay the checkpoint's own
        known = {name: last.buffers[name] for name in learner.class_buffers}
        frozen = frozen._replace(buffers=frozen.buffers | known)
        moved = trainable if every else self._depends(output, trainable, frozen)
        # Only real numbers have a derivative; all else goes along as a constant of the function
        params = {path: x for path, x in trainable.items() if path in moved and jnp.issubdtype(x.dtype, jnp.floating)}
        rest = {path: x for path, x in trainable.items() if path not in params}
        classes = self.run.context.scenarios[seed].offsets[done]
        # Arrays are leaves, settings are static and equal: one compiled program serves all checkpoints and seeds
        apply_fn = Partial(Evaluate(replace(learner, dtype=dtype), output, classes), frozen=frozen, rest=rest)
        return jax.tree.map(double, (apply_fn, params)) if dtype == "float64" else (apply_fn, params)

    def _depends(self, output: str, trainable: Tree, frozen: Frozen) -> Iterable[str]:
        """Paths of the parameters by which the outputs have a derivative: a matter of the network, so found once."""
        learner = self.run.learner
        if isinstance(learner, NTKCL):
            return [path for path in trainable if output == "proxy" or not path.startswith(PARTS["head"])]
        if output not in self._used:
            # Traced only, with a single image's shape: nothing is computed
            x = jax.ShapeDtypeStruct((1, learner.image_size, learner.image_size, 3), jnp.float32)
            reals = {path: value for path, value in trainable.items() if jnp.issubdtype(value.dtype, jnp.floating)}

            def derivative(step: Tree, *rest: Any) -> Array:
                fn = lambda moved: learner.apply_fn({**trainable, **moved}, *rest, output)  # noqa: E731
                return jax.jvp(fn, (reals,), (step,))[1]

            # `jax.tree.leaves` takes a dictionary's values in the order of its sorted keys
            self._used[output] = frozenset(sorted(reals)[at] for at in leaves_used(derivative, reals, frozen, x))
        return self._used[output]


def open_run(run: str | Path, method: str = "ntkcl", *, arrays: Arrays | None = None) -> Records | ReadoutRecords:
    """Open a run folder for analysis.

    Args:
        run: the folder of a finished or running run.
        method: which of its methods: `ntkcl`, a baseline that trains modules inside the backbone, or a readout.
        arrays: the images again, when the run had `data.source="arrays"`.

    Raises:
        RecordError: no run there, a damaged one, one without that method, its images are gone or others, or the method
            has no kernel.
    """
    try:
        opened = load_run(run, arrays=arrays)
        methods = opened.config.methods
        if method not in methods:
            raise RecordError(
                f"{opened.path} has checkpoints of {', '.join(methods)}, none of method {method}; name one that it has"
            )
        opened = replace(opened, method=method)
        return Records(opened) if method in opened.methods else ReadoutRecords(opened)
    except NtkclError as error:
        raise RecordError(str(error)) from error


def default_groups(
    paths: Sequence[str], by: Literal["part", "layer"] = "part", parts: Mapping[str, tuple[str, ...]] = PARTS
) -> dict[str, tuple[str, ...]]:
    """Parameter groups of the network, those without any of `paths` left out.

    Args:
        paths: paths of the parameters.
        by: `part`: `parts`; `layer`: adapter and prompts of each block together, fusion, head.
        parts: the method's groups; those of NTK-CL are channel (adapters), patch (prompts), fusion, head (proxy).

    Returns:
        Group to prefixes of paths, as `analysis.kernels` takes them; each of the network's paths has one group.

    Raises:
        RecordError: layers of a baseline, which keeps them in one array.

    Example:
        >>> paths = ["current/adapters/0/up/bias", "current/prompts/0/norm_bias", "proxy/scale"]
        >>> default_groups(paths)
        {'channel': ('current/adapters/',), 'patch': ('current/prompts/',), 'head': ('proxy/',)}
        >>> default_groups(paths, by="layer")
        {'layer0': ('current/adapters/0/', 'current/prompts/0/'), 'head': ('proxy/',)}
    """
    groups = dict(parts)
    if by == "layer":
        if parts != PARTS:
            raise RecordError("expected groups part or none, as a baseline's layers share arrays; got layer")
        streams = (*groups.pop("channel"), *groups.pop("patch"))
        layers = {int(path.split("/")[2]) for path in paths if path.startswith(streams)}  # `current/adapters/3/up/bias`
        groups = {f"layer{i}": tuple(f"{stream}{i}/" for stream in streams) for i in sorted(layers)} | groups
    return {name: prefixes for name, prefixes in groups.items() if any(path.startswith(prefixes) for path in paths)}


def tree_sha256(tree: Any) -> str:
    """SHA-256 of every leaf of a pytree with its path, dtype and shape: the fingerprint of parameters and functions.

    Example:
        >>> one, same = {"a": jnp.zeros(2)}, {"a": np.zeros(2, np.float32)}
        >>> tree_sha256(one) == tree_sha256(same), tree_sha256(one) == tree_sha256({"b": jnp.zeros(2)})
        (True, False)
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        # Path, type and shape too: bytes alone don't tell where one array ends and whose they are
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
