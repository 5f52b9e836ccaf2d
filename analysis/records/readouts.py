"""Readouts as functions to take kernels of: classifiers that are linear in their weights, on features of a network.

With the columns x_k of an image in groups k, as the readout scales them, a class's score is Σ_k x_k · v_k with weights
v_k of its own. So the kernel of all c scores is

    Θ(x, x') = K(x, x') ⊗ I_c,   K(x, x') = Σ_k <x_k, x'_k>,

and the function here has one output, whose kernel is K: the groups of columns are its groups of parameters. K doesn't
depend on the weights, which are zero here.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from analysis.errors import RecordError
from analysis.records.tasks import MethodRecords, Params, double
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.methods.base import Learner, LearnerState
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.readouts.base import LinearModel, is_linear
from ntkcl_jax.readouts.feature_maps import FeatureMap
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.runs.recorded import RecordedRun
from ntkcl_jax.training.learner_run import LearnerRun
from ntkcl_jax.training.readout_run import FeatureCache, Mapped, ReadoutRun, StoredReadout, tasks_stored

WEIGHTS = "/weights"
"""End of the path of a group's weights."""


@dataclass(frozen=True)
class Weighed:
    """One output of a readout as a function of its weights; equal for all seeds of a run, its arrays are arguments.

    Attributes:
        learner: whose features it reads.
        maps: of the network's levels; none: of the learner's own feature.
        groups: name and number of columns.
        constant: whether a 1 is the last column.
    """

    learner: Learner
    maps: tuple[FeatureMap, ...]
    groups: tuple[tuple[str, int], ...]
    constant: bool

    def __call__(
        self,
        params: Tree,
        images: Float[Array, "n h w c"],
        *,
        trainable: Tree,
        frozen: Frozen,
        drawn: tuple[Mapping[str, Any], ...],
        projection: Float[Array, "e r"] | None,
        scale: Float[Array, "k"],
    ) -> Float[Array, "n 1"]:
        """Evaluate; `drawn` are the maps' random matrices, `projection` and `scale` as in `LinearModel`."""
        if self.maps:
            levels = self.learner.levels(trainable, frozen, images)
            x = jnp.concatenate([of(part, levels) for of, part in zip(self.maps, drawn, strict=True)], axis=1)
        else:
            x = self.learner.features(trainable, frozen, images)
        if projection is not None:
            x = jax.nn.relu(x @ projection)
        if self.constant:
            x = jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)
        ends = np.cumsum([width for _, width in self.groups])
        parts = jnp.split(x * scale, ends[:-1], axis=1)
        told = [x @ params[name + WEIGHTS] for (name, _), x in zip(self.groups, parts, strict=True)]
        return functools.reduce(jnp.add, told)[:, None]


class Opened(NamedTuple):
    """The newest state of a readout, and of the learner below it."""

    learner: LearnerState
    mapped: Mapped
    linear: LinearModel
    says: str


class ReadoutRecords(MethodRecords):
    """A method that is a readout above a learner. Its newest state is all that a run stores: one checkpoint a seed."""

    def __init__(self, run: RecordedRun) -> None:
        """Wrap the run; the newest state is read when asked for, and what only learning needs is let go.

        Raises:
            RecordError: the readout isn't linear in weights.
            ConfigError: it can't be imported.
        """
        super().__init__(run)
        self.pair = run.config.pair(run.method)
        if not is_linear(self.pair.readout):
            raise without_weights(run.method)
        self._open = functools.lru_cache(maxsize=1)(self._read)

    def checkpoints(self, seed: int) -> tuple[int, ...]:
        """The newest one; RecordError without such a seed."""
        return (self.done(seed),) if self.done(seed) else ()

    def tasks_done(self, seed: int) -> int:
        """How many tasks of a seed the newest stored state has learnt."""
        return tasks_stored(RunFolder(self.run.path), seed, self.pair, self.run.num_tasks)

    def groups(self, paths: Sequence[str], by: Literal["part", "layer"]) -> dict[str, tuple[str, ...]]:
        """A group for each feature map, or one of all weights."""
        if by != "part":
            raise RecordError(f"expected groups part or none, as a readout has no layers; got {by}")
        return {path.removesuffix(WEIGHTS): (path,) for path in paths}

    def copies(self, seed: int) -> int:
        """Classes learnt so far: the scores of all of them have the same kernel."""
        return self.run.context.scenarios[seed].offsets[self.done(seed)]

    def facts(self, seed: int) -> dict[str, Any]:
        """What the readout has chosen, in words, and its ridge."""
        opened = self._open(seed, self.done(seed))
        return {"readout": {"says": opened.says, "ridge": opened.linear.ridge, "copies": self.copies(seed)}}

    def parameters(self, seed: int, checkpoint: int, output: str) -> int:
        """Columns of the classifier, the same after every task."""
        return sum(width for _, width in self._open(seed, self.done(seed)).linear.groups)

    def function(
        self, seed: int, checkpoint: int, output: str = "scores", dtype: Literal["float32", "float64"] = "float32"
    ) -> tuple[Partial, Params]:
        """One output as a function of its weights, a group for each feature map; see `MethodRecords.function`.

        Above a learner that trains on in later tasks these are the features of its newest state; what the readout has
        learnt of earlier tasks was of the features of their own time.
        """
        if output != "scores":
            raise RecordError(f"expected outputs scores; got {output!r}: a readout has no other")
        self.check(seed, "checkpoint", checkpoint, self.checkpoints(seed))
        opened = self._open(seed, checkpoint)
        linear, learner = opened.linear, replace(self.run.learner, dtype=dtype)
        fn = Weighed(learner, opened.mapped.maps, linear.groups, linear.constant)
        held = {**opened.learner._asdict(), "drawn": opened.mapped.drawn}
        own = {"projection": linear.projection, "scale": linear.scale}
        if dtype == "float64":
            held = jax.tree.map(double, held)
        else:
            own = jax.tree.map(lambda x: jnp.asarray(x, dtype), own)
        # In the order of the groups, which `jax.tree.map` wouldn't keep
        return Partial(fn, **held, **own), {name + WEIGHTS: np.zeros(width, dtype) for name, width in linear.groups}

    def _read(self, seed: int, done: int) -> Opened:
        context, folder, pair = self.run.context, RunFolder(self.run.path), self.pair
        try:
            # Nothing is learnt here, so nothing is logged
            with MetricsLog(Path(os.devnull)) as log, Progress(quiet=True) as progress:
                below = LearnerRun(context, folder, log, progress, seed, pair.learner)
                run = ReadoutRun(self.run.method, below, FeatureCache())
                readout = run.readout()
                stored = StoredReadout.newest(folder, seed, pair, self.run.num_tasks, readout.init())
                if stored is None or len(stored.evaluations) != done:
                    raise RecordError(f"{self.run.path} has learnt another task meanwhile; repeat the command")
                linear = readout.linear(stored.state)
                if linear is None:
                    raise without_weights(self.run.method)
                return Opened(run.state(done - 1), Mapped.of(readout, context.mesh), linear, readout.says(stored.state))
        except NtkclError as error:
            raise RecordError(str(error)) from error


def without_weights(method: str) -> RecordError:
    """Say that a readout has no kernel."""
    return RecordError(
        f"expected a method with trained weights, got {method}: its readout's scores aren't linear in any, so it has "
        "no kernel; name another method of the run"
    )
