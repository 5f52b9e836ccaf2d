"""A stream of three tasks for learners: 8 x 8 images, two blocks, five classes; and the same computed slowly."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Learner, LearnerState, Task
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.training.run import train
from ntkcl_jax.training.step import eval_step, total, train_step
from ntkcl_jax.weights import save_backbone
from tests.support import network_twins as twins
from tests.support import networks as tiny
from tests.support import streams as stream

CLASSES_OF = ((0, 1), (2, 3), (4,))
BACKBONE = tiny.SHALLOW.backbone


@functools.cache
def backbone() -> Tree:
    """Random weights of ordinary size."""
    shapes = jax.eval_shape(tiny.network(tiny.SHALLOW).init, jax.random.key(0))[1].backbone
    return jax.tree.map(jnp.asarray, tiny.random_tree(shapes))


def learner(kind: type[Learner], **settings: Any) -> Learner:
    """A learner for the stream."""
    return kind(BACKBONE, tasks=3, classes=5, task_classes=2, **settings)


def widened(state: LearnerState) -> LearnerState:
    """The same in float64; under `jax.enable_x64`."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)


def start(learner: Learner) -> LearnerState:
    """The learner's own start on a random backbone of ordinary size."""
    return learner.start(jax.random.key(1), backbone())


def moved(trainable: Tree, seed: int = 0, size: float = 0.3) -> Tree:
    """Parameters away from where they started."""
    random = np.random.default_rng(seed)
    return {path: x + size * jnp.asarray(random.normal(size=x.shape), x.dtype) for path, x in trainable.items()}


def task(number: int) -> Task:
    """A task of the stream."""
    return Task(jnp.int32(number), jnp.isin(jnp.arange(5), jnp.array(CLASSES_OF[number])))


def batch(labels: list[int], valid: list[bool] | None = None, seed: int = 0) -> Batch:
    """Noise with labels."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return Batch(images, np.array(labels, np.int32), np.array(valid or [True] * len(labels)))


def views(number: int) -> Iterator[Batch]:
    """Two batches of a task's images, the last with two rows of padding that hold anything but black."""
    first, last = CLASSES_OF[number][0], CLASSES_OF[number][-1]
    yield batch([first, last, first, first], seed=10 * number)
    yield batch([last, first, 0, 0], [True, True, False, False], seed=10 * number + 1)


def pixels(batches: Iterator[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Valid images with pixels in [0, 1], and their labels."""
    found = [(b.images[b.valid], b.labels[b.valid]) for b in batches]
    images, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    return images.astype(np.float32) / 255, labels


def learnt(learner: Learner, state: LearnerState, numbers: range) -> LearnerState:
    """Go through tasks; instead of training, the parameters are moved at random."""
    for number in numbers:
        see = functools.partial(views, number)
        state = learner.begin(state, task(number), jax.random.key(number), see)
        state = learner.finish(state.updated(moved(state.trainable, number)), task(number), see)
    return state


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=tiny.QUICKLY)
def apply(learner: Learner, trainable: Tree, frozen: Frozen, images: Any, output: str = "scores") -> jax.Array:
    """`Learner.apply_fn`, compiled."""
    return learner.apply_fn(trainable, frozen, images, output)


@functools.partial(jax.jit, static_argnums=(0,), compiler_options=tiny.QUICKLY)
def loss_and_gradient(
    learner: Learner, trainable: Tree, frozen: Frozen, number: Task, images: Any, labels: Any, valid: Any, key: Any
) -> tuple[tuple[jax.Array, jax.Array], Tree]:
    """Weighted sum of the loss terms, logits, and the gradient of the first."""

    def loss(trainable: Tree) -> tuple[jax.Array, jax.Array]:
        terms, logits = learner.loss(trainable, frozen, number, Batch(images, labels, valid), key)
        return total(learner, terms), logits

    return jax.value_and_grad(loss, has_aux=True)(trainable)


def plain(tree: Tree) -> dict[str, np.ndarray]:
    """A tree in NumPy's float64."""
    return {path: np.asarray(value, np.float64) for path, value in tree.items()}


def adapter_twin(frozen: Frozen, adapters: Tree | None, images: np.ndarray) -> np.ndarray:
    """Class features with adapters of scale 0.1, or of the untouched backbone, number by number in NumPy."""
    numbers = plain(frozen.backbone)
    for path, value in plain(adapters or {}).items():
        if path.startswith("adapters/"):
            half, _, bias = path.removeprefix("adapters/").partition("_")
            for i, part in enumerate(value):
                numbers[f"task/adapters/{i}/{half}/{bias or 'kernel'}"] = part
    shape = replace(tiny.SHALLOW, adapter_scale=0.1)
    return np.stack([twins.channel(numbers, shape, "task" if adapters else None, image) for image in images])


def log_loss(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> float:
    """Mean cross-entropy, softmax over some classes."""
    losses = [np.log(np.exp(row[list(classes)]).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    return float(np.mean(losses))


def stored(run: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Every array that a learner and the readouts above it have stored."""
    for path in sorted((run / "checkpoints" / name).glob("seed*/*/*")):
        for tree, values in checkpoint.load(path)[0].items():
            yield from ((f"{path.relative_to(run)}:{tree}/{at}", value.tobytes()) for at, value in values.items())


def weights_file(folder: Path) -> Path:
    """The backbone as a file; drawing it anew in every run takes longer than all else."""
    save_backbone(jax.device_get(backbone()), BACKBONE, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def break_off(config: RunConfig, run: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Train until the first checkpoint whose path holds `at` is stored; then the process is as good as killed."""
    save: Callable = checkpoint.save

    def failing(path: Path, *rest: Any) -> None:
        save(path, *rest)
        if at in str(path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            train(config, run, arrays=stream.arrays(), quiet=True)


def check_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the tiny stream twice, once broken off in the middle of task 1; the bits and the compilations must agree.

    Returns:
        The undisturbed run.
    """
    config = stream.config(methods=(name,), model__backbone=BACKBONE, weights=str(weights_file(tmp_path)))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_step.clear_cache()
    eval_step.clear_cache()
    results = train(config, whole, arrays=stream.arrays(), quiet=True)
    assert (train_step._cache_size(), eval_step._cache_size()) == (1, 1)
    assert results["seeds"]["0"][name]["accuracy_matrix"]
    break_off(config, broken, monkeypatch, "task1/step")
    assert not (broken / "results.json").exists()
    train(config, broken, arrays=stream.arrays(), resume=True, quiet=True)
    assert (broken / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    one, other = ([*stored(run, name)] for run in (whole, broken))
    assert one
    assert one == other
    return whole
