"""What all seeds and methods of a run share: images, weights, tasks, devices."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.config.data import View
from ntkcl_jax.data import Arrays, Batch, ImageSet, Scenario, Source, load_source, make_scenario, train_batches
from ntkcl_jax.data.prepared import PreparedImages
from ntkcl_jax.data.transforms import preprocessing
from ntkcl_jax.devices.mesh import describe, local_rows, one_device, replicated, shard_batch, shard_parameters
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.methods.base import Learner, make_learner
from ntkcl_jax.models.functional import Tree, drawn_backbone
from ntkcl_jax.runs.folder import FORMAT, provenance
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.weights import read_backbone, refuse_pickle

Side = Literal["train", "test"]
RGB = 3
"""Channels of every image, grey ones included."""


@dataclass(frozen=True)
class RunContext:
    """What all seeds of a run share."""

    config: RunConfig
    source: Source
    backbone: Tree | None
    """Pre-trained weights; None for random ones, drawn by each seed."""
    weights_sha256: str
    scenarios: dict[int, Scenario]
    mesh: Mesh
    """Devices that compute."""
    notes: tuple[str, ...] = ()
    """What was done to the weights when they were read, one line each."""

    def header(self) -> dict[str, Any]:
        """`config.json`: everything needed to repeat the run."""
        scenarios = {
            str(seed): {"class_order": list(map(int, s.class_order)), "task_sizes": list(map(int, s.task_sizes))}
            for seed, s in self.scenarios.items()
        }
        data = {
            "fingerprint": self.source.fingerprint,
            "class_names": list(self.source.class_names),
            "train_images": len(self.source.train),
            "test_images": len(self.source.test),
        }
        return {
            "format": FORMAT,
            "config": to_json(self.config),
            "weights": {"name": self.config.weights, "sha256": self.weights_sha256},
            "data": data,
            "split": {
                "made": self.source.split,
                "sha256": self.source.split_sha256,
                "duplicates": len(self.source.duplicates),
            },
            "preprocessing": preprocessing(self.config.data, self.size),
            "scenarios": scenarios,
            "devices": describe(self.mesh),
            **provenance(),
        }

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.config.model.backbone.image_size

    @functools.cached_property
    def train_views(self) -> PreparedImages:
        """Training images under the test transform (for prototypes and baselines)."""
        return PreparedImages(self.source.train, self.config.data, self.size)

    @functools.cached_property
    def test_views(self) -> PreparedImages:
        """Test images."""
        return PreparedImages(self.source.test, self.config.data, self.size)

    def decode_all(self) -> None:
        """Decode every image now, so that a damaged one stops the run before it starts; too many are left for later."""
        _ = self.train_views, self.test_views  # decoded when first asked for

    @property
    def sharding(self) -> NamedSharding:
        """Where everything lies that a step learns: on every device."""
        return replicated(self.mesh)

    def learner(self, name: str) -> Learner:
        """A learner, shaped for the run's backbone and stream."""
        # Seeds differ in the order of classes, not in the sizes of tasks: any scenario gives the shapes
        return make_learner(name, self.config, self.scenarios[self.config.seeds[0]])

    def backbone_of(self, seed: int) -> Tree:
        """The frozen backbone of a seed: the run's own, or where its weights are random that which the seed draws."""
        if self.backbone is not None:
            return self.backbone
        key = jax.random.key(stream_seed(seed, "initialisation"))
        return shard_parameters(self.mesh, drawn_backbone(key, self.config.model.backbone))

    def prepared(self, side: Side) -> PreparedImages:
        """Images of a side under the test transform, on the host."""
        return self.train_views if side == "train" else self.test_views

    def views(self, side: Side, indices: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]) -> Iterator[Batch]:
        """Images of a side under the test transform, in batches on the devices.

        Args:
            side: training or test images.
            indices: which of them, in which order.
            labels: label of each of `indices`.
        """
        size = self.config.compute.eval_batch_size
        # Each process prepares the rows of its own devices
        batches = self.prepared(side).batches(indices, labels, size, local_rows(self.mesh, size))
        return (shard_batch(self.mesh, batch) for batch in batches)

    @property
    def on_device(self) -> bool:
        """Whether training views are made by the accelerator."""
        where = self.config.data.transform_on
        if where == "auto":
            return jax.default_backend() != "cpu" and self.source.train.uniform_size is not None
        return where == "device"


def make_context(
    config: RunConfig,
    arrays: Arrays | None = None,
    stored: tuple[dict[str, Any] | None, str] | None = None,
    mesh: Mesh | None = None,
) -> RunContext:
    """Open images and weights and lay out the tasks; writes nothing.

    Args:
        config: the whole configuration.
        arrays: images for `data.source="arrays"`.
        stored: backbone (None: random) and hash that a run folder holds, instead of reading `config.weights`.
        mesh: devices that compute; None: one.

    Raises:
        NtkclError: images, weights or settings that don't fit together.
    """
    check_settings(config)
    mesh = mesh or one_device()
    source = load_source(config.data, arrays)
    if config.data.transform_on == "device" and source.train.uniform_size is None:
        raise ConfigError(
            f"data.transform_on=device needs images of one size in memory, but data.source={config.data.source} reads "
            "files; set data.transform_on=host"
        )
    scenarios = {seed: make_scenario(len(source.class_names), config.data, seed) for seed in config.seeds}
    backbone, sha256 = stored or (None, "random")
    notes: tuple[str, ...] = ()
    if stored is None and config.weights != "random":
        backbone, sha256, notes = read_backbone(config.weights, config.model.backbone, config.weights_sha256)
    # Placed once: every learner and seed reads the same arrays
    placed: Tree | None = None if backbone is None else shard_parameters(mesh, dict[str, Any](backbone))
    return RunContext(config, source, placed, sha256, scenarios, mesh, notes)


def check_settings(config: RunConfig) -> None:
    """Refuse what each part of a config allows, but not their combination.

    Raises:
        ConfigError: names the settings.
        WeightsError: the weights are a pickle.
    """
    backbone = config.model.backbone
    if config.data.resize < backbone.image_size:
        raise ConfigError(
            f"data.resize={config.data.resize} is smaller than model.backbone.image_size={backbone.image_size}; use at "
            f"least {backbone.image_size}"
        )
    if backbone.channels != RGB:
        raise ConfigError(
            f"model.backbone.channels must be {RGB}, as all images are read as RGB; got {backbone.channels}"
        )
    refuse_pickle(config.weights)
    # The checks of single settings are bounds, mostly lower ones, which infinity passes
    wrong = [name for name, value in _numbers(to_json(config), "") if not math.isfinite(value)]
    if wrong:
        raise ConfigError(f"{wrong[0]} must be a finite number")


def _numbers(value: Any, name: str) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in _numbers(part, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [found for part in value for found in _numbers(part, name)]
    return [(name, value)] if isinstance(value, float) else []


def epoch_batches(
    context: RunContext,
    images: ImageSet,
    members: Int[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    seed: int,
    task: int,
    epoch: int,
    first: int,
    batch_size: int | None = None,
    view: View | None = None,
) -> Iterator[Batch]:
    """The training batches of one epoch of a task, from batch `first` on, on the devices; see `train_batches`.

    Args:
        context: views, batch size and where views are made.
        images: where the images are.
        members: the task's images among them.
        labels: label of each member.
        seed: the run's seed.
        task: its number, from 0.
        epoch: from 0, within the task.
        first: batch to begin with.
        batch_size: images of a batch, if not those of a training step.
        view: crops or affine views, if not those of a training step.
    """
    size, data = batch_size or context.config.optimizer.batch_size, context.config.data
    batches = train_batches(
        images,
        members,
        labels,
        data=data if view is None else replace(data, train_view=view),
        size=context.size,
        batch_size=size,
        seed=seed,
        task=task,
        epoch=epoch,
        start_step=first,
        on_device=context.on_device and images.uniform_size is not None,
        rows=local_rows(context.mesh, size),
    )
    yield from (shard_batch(context.mesh, batch) for batch in batches)


def task_name(source: Source, scenario: Scenario, task: int, limit: int = 6) -> str:
    """Names of a task's classes, cut after a few."""
    names = [source.class_names[scenario.class_order[c]] for c in scenario.classes(task)]
    return " ".join(names[:limit]) + (f" … ({len(names)} classes)" if len(names) > limit else "")
