"""A stream of three tasks for baselines: 8 x 8 images, two blocks, five classes; and the same computed slowly."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import SEEN, Held, Task, Tuned, tuned_step
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.training.run import train
from ntkcl_jax.training.step import eval_step
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


def method(kind: type[Tuned], **settings: Any) -> Tuned:
    """A method for the stream."""
    return kind(BACKBONE, tasks=3, classes=5, task_classes=2, **settings)


def widened(state: tuple[Tree, Held]) -> tuple[Tree, Held]:
    """The same in float64; under `jax.enable_x64`."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)


def start(net: Tuned) -> tuple[Tree, Held]:
    """The method's own start on a random backbone of ordinary size."""
    trainable, kept = net.init(jax.random.key(1))
    return trainable, Held(backbone(), kept | {SEEN: jnp.zeros(5, bool)})


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


def learnt(net: Tuned, trainable: Tree, held: Held, numbers: range) -> tuple[Tree, Held]:
    """Go through tasks; instead of training, the parameters are moved at random."""
    for number in numbers:
        see = functools.partial(views, number)
        trainable, kept = net.begin(trainable, held, task(number), jax.random.key(number), see)
        trainable, held = moved(trainable, number), held._replace(kept=kept)
        trainable, kept = net.end(trainable, held, task(number), see)
        held = held._replace(kept=kept | {SEEN: kept[SEEN] | task(number).new})
    return trainable, held


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=tiny.QUICKLY)
def apply(net: Tuned, trainable: Tree, held: Held, images: Any, output: str = "scores") -> jax.Array:
    """`Tuned.apply_fn`, compiled."""
    return net.apply_fn(trainable, held, images, output)


@functools.partial(jax.jit, static_argnums=(0,), compiler_options=tiny.QUICKLY)
def loss_and_gradient(
    net: Tuned, trainable: Tree, held: Held, number: Task, images: Any, labels: Any, valid: Any, key: Any
) -> tuple[tuple[jax.Array, jax.Array], Tree]:
    """Sum of the loss terms, logits, and the gradient of the first."""

    def total(trainable: Tree) -> tuple[jax.Array, jax.Array]:
        terms, logits = net.loss(trainable, held, number, Batch(images, labels, valid), key)
        return sum(terms[name] for name in net.terms), logits

    return jax.value_and_grad(total, has_aux=True)(trainable)


def plain(tree: Tree) -> dict[str, np.ndarray]:
    """A tree in NumPy's float64."""
    return {path: np.asarray(value, np.float64) for path, value in tree.items()}


def adapter_twin(held: Held, adapters: Tree | None, images: np.ndarray) -> np.ndarray:
    """Class features with adapters of scale 0.1, or of the untouched backbone, number by number in NumPy."""
    numbers = plain(held.backbone)
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
    """Every array of every `before` and `after` checkpoint of a method."""
    for path in sorted((run / "checkpoints" / name).glob("seed*/task*/*")):
        for tree, values in checkpoint.load(path)[0].items():
            yield from ((f"{path.relative_to(run)}:{tree}/{at}", value.tobytes()) for at, value in values.items())


def check_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the tiny stream twice, once broken off in the middle of task 1; the bits and the compilations must agree.

    Returns:
        The undisturbed run.
    """
    weights = tmp_path / "weights.safetensors"  # drawing them anew in every run takes longer than all else
    save_backbone(jax.device_get(backbone()), BACKBONE, weights)
    config = stream.config(methods=(name,), model__backbone=BACKBONE, weights=str(weights))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tuned_step.clear_cache()
    eval_step.clear_cache()
    results = train(config, whole, arrays=stream.arrays(), quiet=True)
    assert (tuned_step._cache_size(), eval_step._cache_size()) == (1, 1)
    assert results["seeds"]["0"][name]["accuracy_matrix"]
    save: Callable = checkpoint.save

    def failing(path: Path, *rest: Any) -> None:
        save(path, *rest)
        if "task1/step" in str(path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            train(config, broken, arrays=stream.arrays(), quiet=True)
    assert not (broken / "results.json").exists()
    train(config, broken, arrays=stream.arrays(), resume=True, quiet=True)
    assert (broken / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    one, other = ([*stored(run, name)] for run in (whole, broken))
    assert one
    assert one == other
    return whole
