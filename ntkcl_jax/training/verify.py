"""`ntkcl verify`: are these the right weights, images, split and transforms? Answered without training.

A frozen backbone with nearest class means (cosine to the mean feature of each class's training images; Janson et al.,
arXiv:2210.04428) is deterministic and cheap, and its accuracy is published for several benchmarks. Another weights
file, other pixels or another split give another number.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.data import Normalize
from ntkcl_jax.data import ImageSet, eval_batches, prepare
from ntkcl_jax.data.images import copies, first_of_each_class
from ntkcl_jax.data.transforms import preprocessing
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.methods.base import Learner
from ntkcl_jax.runs.context import RunContext, make_context
from ntkcl_jax.runs.log import Progress
from ntkcl_jax.training.first_task import FirstTask, first_task
from ntkcl_jax.training.readout_run import features_of
from ntkcl_jax.weights.layout import NumpyTree

TOLERANCE = 0.005
"""Largest accepted distance from the expected accuracy, beside chance."""
DEVIATIONS = 2
"""Where the split isn't the one of the published number: standard deviations of an accuracy on as many test images."""
TRIAL_IMAGES = 20
"""Images of each class and side on which normalisations are compared."""
SWAPPED = 0.05
"""A normalisation that beats the chosen one by this much, on those images, counts as the right one."""
# 128 bits: a chance collision among a billion pictures is less likely than 1e-20
PICTURE_DIGEST_BYTES = 16
# Test features that are scored at a time: those of all images times all classes might not fit
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Verification:
    """What was found; accuracies and tolerances are shares in [0, 1].

    Attributes:
        weights: name, SHA-256, architecture, and what was done to the file's tensors.
        data: source, path, number of classes, SHA-256 over the content.
        counts: by side: images, and least, median and most images of a class.
        split: how it was made, its SHA-256.
        preprocessing: facts and their id (`ntkcl_jax.data.transforms.preprocessing`).
        duplicates: test images whose picture, after the test transform, is a training image's too: names of each pair.
        conflicts: training images whose picture has another label elsewhere among the training images.
        accuracy: of nearest class means.
        expected: lowest and highest accepted value without tolerance; None where none is known.
        tolerance: accepted distance from it.
        normalisations: accuracy on a few images of each class by normalisation; empty where it wasn't tried.
        first_task: readouts compared on the images of a first task; None where none was asked for.
        failures: one line for each thing that is wrong; empty means passed.
    """

    weights: dict[str, Any]
    data: dict[str, Any]
    counts: dict[str, dict[str, float]]
    split: dict[str, str]
    preprocessing: dict[str, str]
    duplicates: list[tuple[str, str]]
    conflicts: int
    accuracy: float
    expected: tuple[float, float] | None
    tolerance: float
    normalisations: dict[str, float]
    first_task: FirstTask | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


@dataclass(frozen=True)
class Pass:
    """One pass over a side: features, and a hash of each picture after the test transform."""

    features: Float[np.ndarray, "n d"]
    pictures: list[bytes]


def verify(
    config: RunConfig,
    backbone: tuple[NumpyTree, str],
    *,
    notes: tuple[str, ...] = (),
    expected: tuple[float, float] | None = None,
    tolerance: float | None = None,
    max_duplicates: int = 0,
    compare: bool = False,
    first_classes: int = 0,
    progress: Progress | None = None,
) -> Verification:
    """Check weights, images, split and transforms; trains nothing and writes nothing.

    Args:
        config: images, transforms and the backbone's shape; tasks and method don't matter.
        backbone: weights that fit `config.model.backbone`, and their file's SHA-256.
        notes: what was done to the file's tensors, one line each.
        expected: lowest and highest value that the accuracy may have; None compares nothing.
        tolerance: accepted distance from `expected`; None: `TOLERANCE`, and for a split that we made `DEVIATIONS`
            binomial standard deviations more.
        max_duplicates: test images that may be training images too.
        compare: compare normalisations even if nothing looks wrong.
        first_classes: classes of a first task on whose images readouts are compared, or all where there are fewer; 0:
            none are.
        progress: where to show how far it is.

    Returns:
        What was found. Normalisations are compared where the accuracy is below what is expected, or nothing is.

    Raises:
        ConfigError: a tolerance or number that can't be.
        DataError: images that can't be read as a stream; names the first.
    """
    if not all(0 <= value <= 1 for value in (*(expected or ()), tolerance or 0)) or max_duplicates < 0:
        raise ConfigError("expected accuracy and tolerance must be in [0, 1], max-duplicates must be at least 0")
    # Tasks don't matter: of one class each they fit any source, where the preset's own might ask for too many
    one_task = dataclasses.replace(config.data, first_task_classes=0, classes_per_task=1)
    if first_classes < 0 or first_classes == 1:
        raise ConfigError(f"expected a first task of at least 2 classes, or 0 for none, got {first_classes}")
    arrays = (jax.tree.map(jnp.asarray, backbone[0]), backbone[1])
    context = make_context(dataclasses.replace(config, data=one_task, seeds=(0,)), stored=arrays)
    progress = progress or Progress(quiet=True)
    source = context.source
    sides = {"train": source.train, "test": source.test}
    walked = {name: _walk(context, context.learner("frozen"), side, name, progress) for name, side in sides.items()}
    accuracy = nearest_mean_accuracy(walked["train"], source.train.labels, walked["test"], source.test.labels)
    made = source.split != "given"
    # Another split tests on other images: the published accuracy is then known up to sampling noise only
    if tolerance is None:
        chance = math.sqrt(accuracy * (1 - accuracy) / len(source.test)) if made else 0.0
        tolerance = TOLERANCE + DEVIATIONS * chance
    low = expected is not None and accuracy < expected[0] - tolerance
    normalisations = _compare(context, progress) if compare or low or expected is None else {}
    task_classes = min(first_classes, len(source.class_names))
    pairs = copies(walked["test"].pictures, walked["train"].pictures)
    duplicates = [(source.test.names(at), source.train.names(same)) for at, same in pairs]
    failures = (
        *_accuracy_failure(accuracy, expected, tolerance),
        *_normalisation_failure(normalisations, config.data.normalize),
        *_duplicates_failure(duplicates, max_duplicates),
    )
    shape = config.model.backbone
    return Verification(
        weights={
            "name": config.weights,
            "sha256": backbone[1],
            "architecture": f"dim {shape.dim}, depth {shape.depth}, heads {shape.heads}, patches {shape.patch_size}",
            "notes": list(notes),
        },
        data={
            "source": source.name,
            "path": config.data.path,
            "classes": len(source.class_names),
            "sha256": source.fingerprint,
        },
        counts={name: _counts(side.labels) for name, side in sides.items()},
        split={"made": source.split, "sha256": source.split_sha256},
        preprocessing=preprocessing(config.data, context.size),
        duplicates=duplicates,
        conflicts=_conflicts(walked["train"].pictures, source.train.labels),
        accuracy=accuracy,
        expected=expected,
        tolerance=tolerance,
        normalisations=normalisations,
        first_task=first_task(context, task_classes, progress) if task_classes > 1 else None,
        failures=failures,
    )


def nearest_mean_accuracy(
    train: Pass, train_labels: Int64[np.ndarray, " n"], test: Pass, test_labels: Int64[np.ndarray, " m"]
) -> float:
    """Share of test features whose cosine is highest to the mean training feature of their own class.

    Example:
        >>> one = Pass(np.eye(2, dtype=np.float32), [])
        >>> nearest_mean_accuracy(one, np.array([0, 1]), one, np.array([0, 0]))
        0.5
    """
    classes = int(train_labels.max()) + 1
    sums: Float64[np.ndarray, "c d"] = np.zeros((classes, train.features.shape[1]))
    # Not `sums[labels] += ...`, which would count one image of each class; float64 as the sums are long
    np.add.at(sums, train_labels, train.features)
    directions = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    parts = np.array_split(test.features, len(test.features) // ROWS_AT_ONCE + 1)
    # A test feature's own length doesn't change which cosine is largest
    best = [np.argmax(rows @ directions.T, axis=1) for rows in parts]
    return float(np.mean(np.concatenate(best) == test_labels))


def _walk(context: RunContext, learner: Learner, side: ImageSet, title: str, progress: Progress) -> Pass:
    """Read a side once: features of the untouched backbone, and what each picture is."""
    assert context.backbone is not None  # `verify` gives it
    # The key draws nothing: a frozen backbone has no parameters of its own
    state = learner.start(jax.random.key(0), context.backbone)
    rows, features, pictures = context.config.compute.eval_batch_size, [], []
    with progress.stage(f"{title} images", total=len(side)) as stage:
        for at in range(0, len(side), rows):
            chosen = np.arange(at, min(at + rows, len(side)))
            images = prepare(side, chosen, context.config.data, context.size)
            # Of the pixels that the network sees: a copy is found under another name or in another lossless format
            pictures += [hashlib.blake2b(image, digest_size=PICTURE_DIGEST_BYTES).digest() for image in images]
            batches = eval_batches(images, side.labels[chosen], rows)
            features.append(features_of(learner, state, batches)[0])
            stage.advance(len(chosen))
    return Pass(np.concatenate(features), pictures)


def _compare(context: RunContext, progress: Progress) -> dict[str, float]:
    """Accuracy on the first images of each class under every normalisation."""
    accuracies = {}
    whole = {"train": context.source.train, "test": context.source.test}
    sides = {name: s.subset(first_of_each_class(s.labels, TRIAL_IMAGES)) for name, s in whole.items()}
    for normalize in get_args(Normalize):
        # The network normalises, not the transform: tries differ in the learner alone
        learner = dataclasses.replace(context.learner("frozen"), normalize=normalize)
        walked = [_walk(context, learner, s, f"normalize {normalize}, {name}", progress) for name, s in sides.items()]
        accuracies[normalize] = nearest_mean_accuracy(walked[0], sides["train"].labels, walked[1], sides["test"].labels)
    return accuracies


def _conflicts(pictures: list[bytes], labels: Integer[np.ndarray, " n"]) -> int:
    """Number of images whose picture also comes with another label."""
    said: dict[bytes, set[int]] = {}
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        said.setdefault(picture, set()).add(label)
    return sum(len(said[picture]) > 1 for picture in pictures)


def _counts(labels: Int64[np.ndarray, " n"]) -> dict[str, float]:
    each = np.unique(labels, return_counts=True)[1]
    return {
        "images": len(labels),
        "least": int(np.min(each)),
        "median": float(np.median(each)),
        "most": int(np.max(each)),
    }


def _accuracy_failure(accuracy: float, expected: tuple[float, float] | None, tolerance: float) -> Iterator[str]:
    if expected is None or expected[0] - tolerance <= accuracy <= expected[1] + tolerance:
        return
    below = accuracy < expected[0]
    guess = "another weights file, split or transform?"
    if not below:
        guess = "an easier split, other weights, or test images among the training ones?"
    yield (
        f"nearest class mean {percent(accuracy)} is {'below' if below else 'above'} the expected {span(expected)} "
        f"± {100 * tolerance:.1f}: {guess}"
    )


def _normalisation_failure(accuracies: dict[str, float], chosen: str) -> Iterator[str]:
    best = max(accuracies, key=accuracies.__getitem__, default=chosen)
    if accuracies and accuracies[best] - accuracies[chosen] >= SWAPPED:
        gain = f"{percent(accuracies[best])} instead of {percent(accuracies[chosen])}"
        yield f"these weights were trained with normalize {best} ({gain} on a few images); set data.normalize {best}"


def _duplicates_failure(duplicates: list[tuple[str, str]], most: int) -> Iterator[str]:
    if len(duplicates) > most:
        test, train = duplicates[0]
        yield (
            f"{len(duplicates)} test images are training images too, the first is {test} = {train}; repair the split, "
            f"or accept them with --max-duplicates {len(duplicates)}"
        )


def percent(share: float) -> str:
    """Write a share for people.

    Example:
        >>> percent(0.4594)
        '45.9 %'
    """
    return f"{100 * share:.1f} %"


def span(expected: tuple[float, float]) -> str:
    """Write an expected value or range for people."""
    low, high = expected
    return percent(low) if low == high else f"{100 * low:.1f} to {percent(high)}"
