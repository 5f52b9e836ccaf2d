"""A run read back: the states of every task, as functions and arrays."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import from_json
from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.data import Arrays, ImageSet, prepare
from ntkcl_jax.data.prepared import checked_positions
from ntkcl_jax.errors import ConfigError, RunFolderError
from ntkcl_jax.methods.base import Learner, LearnerState
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import RunContext, Side, make_context, task_name
from ntkcl_jax.runs.folder import RunFolder, check_same_run


# One program for all tasks and seeds; run operation by operation, a first call would compile hundreds of them.
@functools.partial(jax.jit, static_argnames=("learner", "output"))
def _apply(learner: Learner, trainable: Tree, frozen: Frozen, images: jax.Array, output: str) -> jax.Array:
    return learner.apply_fn(trainable, frozen, images, output)


@dataclass(frozen=True)
class TaskImages:
    """One task of one seed: the images that it brought, whatever a method has learnt of them."""

    run: "RecordedRun"
    task: int
    seed: int

    @property
    def labels(self) -> range:
        """The task's classes in the numbering of labels and score columns."""
        return self.run.context.scenarios[self.seed].classes(self.task)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their names."""
        order = self.run.context.scenarios[self.seed].class_order
        return tuple(self.run.context.source.class_names[order[label]] for label in self.labels)

    @property
    def name(self) -> str:
        """The same in one line, cut after a few."""
        return task_name(self.run.context.source, self.run.context.scenarios[self.seed], self.task)

    def _members(self, side: Side) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Places of the task's images in their side of the source, and their labels."""
        labels = self.run.context.scenarios[self.seed].relabel(self._image_set(side).labels)
        places = np.flatnonzero(np.isin(labels, self.labels))
        return places, labels[places]

    def _image_set(self, side: Side) -> ImageSet:
        if side not in get_args(Side):
            raise ConfigError(f"expected side 'train' or 'test', got {side!r}; name one of them")
        return self.run.context.source.train if side == "train" else self.run.context.source.test

    def labels_of(self, side: Side) -> Int[np.ndarray, "n"]:
        """Labels of the images of `train` or `test` in the run's numbering, int64; no image is read.

        Raises:
            ConfigError: another side.
        """
        return self._members(side)[1]

    def images(
        self, side: Side = "test", positions: Sequence[int] | Int[np.ndarray, "m"] | None = None
    ) -> Float32[np.ndarray, "m h w 3"]:
        """Pixels of the task's images under the test transform, as the network sees them.

        Args:
            side: `train` or `test`.
            positions: which of the task's images, in which order, those of `labels_of(side)[positions]`; only these are
                read. None means all; then the whole side of the run is transformed once, and kept if it fits in memory.

        Returns:
            Pixels in [0, 1], one image for each position.

        Raises:
            ConfigError: another side.
            DataError: a position that isn't a whole number from 0 to the last image, or an image that can't be read.
        """
        context, (places, _) = self.run.context, self._members(side)
        if positions is None:
            pixels = context.prepared(side).images(places)
        else:
            chosen = places[checked_positions(positions, len(places))]
            pixels = prepare(self._image_set(side), chosen, context.config.data, context.size)
        return pixels.astype(np.float32) / 255  # as compiled steps make pixels of bytes (`pixels_of`)

    @property
    def train_images(self) -> Float32[np.ndarray, "n h w 3"]:
        """The task's training images under the test transform: pixels in [0, 1]."""
        return self.images("train")

    @property
    def train_labels(self) -> Int[np.ndarray, "n"]:
        """Their labels."""
        return self.labels_of("train")

    @property
    def test_images(self) -> Float32[np.ndarray, "n h w 3"]:
        """The task's test images as the network sees them: pixels in [0, 1]."""
        return self.images("test")

    @property
    def test_labels(self) -> Int[np.ndarray, "n"]:
        """Their labels."""
        return self.labels_of("test")


@dataclass(frozen=True)
class RecordedTask(TaskImages):
    """One task of one seed: a method's parameters before and after it, and the images that it brought.

    Attributes:
        before: trainable tree at the task's start, with the task's new proxy head where the method has one.
        after: trainable tree at its end.
        frozen: the other arrays at the task's end, which test predictions use: backbone and buffers.
        frozen_before: the same at the task's start: what the training steps of the task used.
    """

    before: Tree
    after: Tree
    frozen: Frozen
    frozen_before: Frozen

    @property
    def learner(self) -> Learner:
        """What trained."""
        return self.run.learner

    def apply_fn(
        self, trainable: Tree, frozen: Frozen, images: jax.Array | np.ndarray, output: str = "scores"
    ) -> jax.Array:
        """Evaluate the learner; see `ntkcl_jax.methods.base.Learner.apply_fn`.

        Scores have one column per class of the run, in the order in which the classes arrive; classes not seen by
        `frozen` get the lowest score that there is. It is compiled once for each number of images.
        """
        with jax.enable_x64(False):  # as the run itself computed, whatever is switched on here
            return _apply(self.learner, trainable, frozen, jnp.asarray(images), output)


@dataclass(frozen=True)
class RecordedRun:
    """A run folder, opened for one of its methods.

    Attributes:
        path: the folder.
        config: the run's configuration.
        header: `config.json` whole.
        method: whose checkpoints are read: `ntkcl`, or a baseline that trains modules inside the backbone.
    """

    path: Path
    config: RunConfig
    header: dict[str, Any]
    context: RunContext
    method: str = "ntkcl"

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of the run that classify with their learner's own head, whose checkpoints say all."""
        return tuple(method for method in self.config.methods if self.config.pair(method).readout == HEAD)

    def check_method(self) -> None:
        """Raise RunFolderError if the run doesn't have the method."""
        if self.method not in self.methods:
            there = f"checkpoints of {', '.join(self.methods)}" if self.methods else "no checkpoints"
            raise RunFolderError(f"{self.path} has {there}, none of method {self.method}; name one that it has")

    @functools.cached_property
    def learner(self) -> Learner:
        """The method's learner."""
        return self.context.learner(self.config.pair(self.method).learner)

    @property
    def results(self) -> dict[str, Any]:
        """`results.json`, or an empty dict while no seed is finished."""
        return RunFolder(self.path).read_json("results.json") if (self.path / "results.json").exists() else {}

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the run."""
        return self.config.seeds

    @property
    def num_tasks(self) -> int:
        """Tasks of the stream."""
        return self.context.scenarios[self.seeds[0]].num_tasks

    def tasks_done(self, seed: int) -> int:
        """How many tasks of a seed the method has learned."""
        folder = RunFolder(self.path)
        # Tasks end in order: those before the first that hasn't
        done = [checkpoint.exists(folder.task(seed, t, "after", self.learner.name)) for t in range(self.num_tasks)]
        return done.index(False) if False in done else len(done)

    @functools.cached_property
    def like(self) -> checkpoint.Trees:
        """Names, shapes and types of the arrays of the learner's checkpoints."""
        return self.learner.shapes()

    def task(self, task: int, seed: int | None = None) -> RecordedTask:
        """Open a finished task.

        Args:
            task: its number, from 0.
            seed: one of the run's seeds; the first when None.

        Raises:
            RunFolderError: no such method, seed or task, not finished yet, or a damaged checkpoint.
        """
        self.check_method()
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds or not 0 <= task < self.num_tasks:
            raise RunFolderError(
                f"{self.path} has seeds {', '.join(map(str, self.seeds))} and tasks 0 to {self.num_tasks - 1}; "
                f"got seed {seed}, task {task}"
            )
        folder = RunFolder(self.path)
        paths = [folder.task(seed, task, when, self.learner.name) for when in ("before", "after")]
        with jax.enable_x64(False):  # in float64 a random backbone would be another one
            trees = [jax.device_put(dict(checkpoint.load(path, self.like)[0])) for path in paths]  # compiles nothing
            backbone = self.context.backbone_of(seed)
        # Buffers differ too: the task's end moves means, prototypes and anchor
        before, after = (LearnerState(x["trainable"], Frozen(backbone, x["buffers"])) for x in trees)
        return RecordedTask(self, task, seed, before.trainable, after.trainable, after.frozen, before.frozen)


def load_run(run: str | Path, method: str = "ntkcl", *, arrays: Arrays | None = None) -> RecordedRun:
    """Open a finished or running run; tasks are read when asked for.

    Args:
        run: the run folder.
        method: whose checkpoints to read. That a run hasn't any of NTK-CL is said when a task is asked for.
        arrays: the images again, when the run had `data.source="arrays"`.

    Raises:
        RunFolderError: no run folder, a damaged one, no such method, or the images aren't those of the run any more.
        NtkclError: the images can't be read.
    """
    folder = RunFolder(run)
    header = folder.header()
    config = from_json(RunConfig, header["config"])
    # The run's own copy: the weights file may be elsewhere or changed by now
    backbone = None
    if config.weights != "random":
        backbone = checkpoint.load(folder.checkpoints / "backbone")[0]["backbone"]
    context = make_context(config, arrays, stored=(backbone, header["weights"].get("sha256", "")))
    # Settings are the folder's own here; what can differ is the images
    check_same_run(header, context.header(), folder.path)
    opened = RecordedRun(folder.path, config, header, context, method)
    if method != "ntkcl":
        opened.check_method()
    return opened
