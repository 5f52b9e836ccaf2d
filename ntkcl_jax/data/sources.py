"""Where images come from: a name in the config becomes training images, test images and class names."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.cifar import read_cifar100
from ntkcl_jax.data.folder import has_sides, read_classes, read_folder
from ntkcl_jax.data.hub import read_hub
from ntkcl_jax.data.images import ArrayImages, ImageSet, copies, first_of_each_class
from ntkcl_jax.data.lists import read_lists
from ntkcl_jax.data.offline import digits, scripts, uci_digits
from ntkcl_jax.data.splits import hashed_split, split_sha256
from ntkcl_jax.errors import DataError, user_path

CHANNELS_AXIS = 4
"""Dimensions of an image array that has a channel axis."""


@dataclass(frozen=True)
class Source:
    """Labelled images on two sides, the same classes on both.

    Attributes:
        name: `data.source` of the config.
        class_names: name of each source label.
        train: training images.
        test: test images.
        split: where the split comes from: `given` with the data, or how it was made.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    split: str = "given"

    @cached_property
    def split_sha256(self) -> str:
        """SHA-256 (hex) over which image is in which class on which side, whatever the order of files."""
        sides = (("train", self.train), ("test", self.test))
        return split_sha256((side, s.keys, [self.class_names[i] for i in s.labels]) for side, s in sides)

    @cached_property
    def duplicates(self) -> list[tuple[int, int]]:
        """Places (test, train) of test images that are training images too; the first use reads every file once."""
        return copies(self.test.contents, self.train.contents)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over class names, labels and content; the first use reads every file once."""
        parts = [json.dumps(self.class_names), self.train.digest(), self.test.digest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Arrays:
    """Images and labels handed over from Python, checked when made.

    Attributes:
        train_images: (n, h, w), (n, h, w, 1) or (n, h, w, 3); uint8, or float in [0, 1], which is rounded to uint8.
        train_labels: (n,) integers from 0 to C-1.
        test_images: as `train_images`; height and width may differ.
        test_labels: as `train_labels`.
        class_names: C different names; None: "0", "1", ...

    Raises:
        DataError: a shape, type, range or count is wrong, a value isn't finite, or a class lacks images on one side.

    Example:
        >>> pixels, labels = np.zeros((4, 8, 8)), np.array([0, 1, 0, 1])
        >>> Arrays(pixels, labels, pixels[:2], labels[:2]).class_names
        ('0', '1')
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check everything and store images as uint8 (n, h, w, c), labels as int64."""
        for side in ("train", "test"):
            images = _checked_images(f"{side}_images", getattr(self, f"{side}_images"))
            labels = _checked_labels(f"{side}_labels", getattr(self, f"{side}_labels"), len(images))
            object.__setattr__(self, f"{side}_images", images)
            object.__setattr__(self, f"{side}_labels", labels)
        highest = int(max(self.train_labels.max(), self.test_labels.max()))
        names = tuple(map(str, range(highest + 1) if self.class_names is None else self.class_names))
        if len(set(names)) != len(names):
            raise DataError("class_names must differ from each other; rename the repeated ones")
        if highest >= len(names):
            raise DataError(f"label {highest} has no name: class_names has {len(names)} entries; add names")
        check_classes(self.train_labels, self.test_labels, names)
        object.__setattr__(self, "class_names", names)


def check_classes(
    train_labels: Int64[np.ndarray, " n"], test_labels: Int64[np.ndarray, " m"], class_names: tuple[str, ...]
) -> None:
    """Check that every class has images on both sides.

    Raises:
        DataError: a class has none; names it.
    """
    for side, labels in (("training", train_labels), ("test", test_labels)):
        missing = np.setdiff1d(np.arange(len(class_names)), labels)
        if len(missing):
            raise DataError(
                f"{len(missing)} of {len(class_names)} classes have no {side} image, the first is "
                f"'{class_names[missing[0]]}' (label {missing[0]}); add images, or renumber the labels without gaps"
            )


def _checked_images(name: str, value: Any) -> UInt8[np.ndarray, "n h w c"]:
    images = np.asarray(value)
    if images.ndim == CHANNELS_AXIS - 1:
        images = images[..., None]
    if images.ndim != CHANNELS_AXIS or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{name} must have shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), none of them 0, got "
            f"{np.asarray(value).shape}; move the channels last, e.g. images.transpose(0, 2, 3, 1)"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{name} must be uint8, or float in [0, 1], got {images.dtype}; use images.astype(np.uint8)")
    if not np.isfinite(images).all():
        raise DataError(f"{name} must be finite, got NaN or infinity; clean the array first")
    if images.min() < 0 or images.max() > 1:
        raise DataError(
            f"{name} given as float must lie in [0, 1], got {images.min():g} to {images.max():g}; scale it first, e.g. "
            "divide by 255"
        )
    return np.rint(images * 255).astype(np.uint8)


def _checked_labels(name: str, value: Any, count: int) -> Int64[np.ndarray, " n"]:
    labels = np.asarray(value)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name} must be integers of shape (n,), got {labels.dtype} of shape {labels.shape}")
    if len(labels) != count:
        raise DataError(f"{name} has {len(labels)} entries for {count} images; give one label to each image")
    if labels.min() < 0:
        raise DataError(f"{name} must not be negative, got {labels.min()}; number the classes 0, 1, 2, ...")
    return labels.astype(np.int64)


def load_source(data: DataConfig, arrays: Arrays | None = None) -> Source:
    """Open the images that the config names.

    `data.images_per_class` cuts both sides, `data.limit_per_class` then the training side, `data.invert` turns both.

    Args:
        data: source, path, split, limits and inversion.
        arrays: the images for `data.source="arrays"`, and only for it.

    Returns:
        The source. Folders are only listed: a damaged file shows when it is loaded or the fingerprint is taken.

    Raises:
        DataError: the images are missing or can't be read as two sides with the same classes, `data.classes` of them;
            arrays are given to another source, or not given.
    """
    if (arrays is not None) != (data.source == "arrays"):
        need = "needs arrays=Arrays(...)" if arrays is None else "takes no arrays; set data.source='arrays'"
        raise DataError(f"data.source={data.source!r} {need}")
    train, test, names = _open(data, arrays)
    if data.classes and len(names) != data.classes:
        raise DataError(
            f"expected {data.classes} classes, found {len(names)} in {data.path or data.source}: is one missing, or "
            "are these other data? For your own, set data.classes to their number (0: any)"
        )
    split = "given"
    if test is None:
        train, test = _split(train, names, data)
        split = f"{data.test_share:g} of each class by hash, seed {data.split_seed}"
    check_classes(train.labels, test.labels, names)
    train, test = (side.subset(first_of_each_class(side.labels, data.images_per_class)) for side in (train, test))
    train = train.subset(first_of_each_class(train.labels, data.limit_per_class))
    return Source(data.source, names, train, test, split)


def _open(data: DataConfig, arrays: Arrays | None) -> tuple[ImageSet, ImageSet | None, tuple[str, ...]]:
    """Training images, test images where the data have a split of their own, class names."""
    path = user_path(data.path)
    if data.source == "folder":
        return read_folder(path, data.invert) if has_sides(path) else _without_test(*read_classes(path, data.invert))
    if data.source == "lists":
        return read_lists(path, data.train_list, data.test_list, data.invert)
    if data.source == "huggingface":
        return read_hub(data.path, data.image_column, data.label_column, data.invert)
    found = arrays
    if found is None:
        offline = {"digits": digits, "uci-digits": uci_digits, "scripts": scripts}
        found = Arrays(*(read_cifar100(path) if data.source == "cifar100" else offline[data.source]()))
    assert found.class_names is not None  # Arrays numbers the classes if nobody names them
    train = ArrayImages(found.train_images, found.train_labels, "train_images", data.invert)
    test = ArrayImages(found.test_images, found.test_labels, "test_images", data.invert)
    return train, test, found.class_names


def _without_test(images: ImageSet, names: tuple[str, ...]) -> tuple[ImageSet, None, tuple[str, ...]]:
    return images, None, names


def _split(images: ImageSet, names: tuple[str, ...], data: DataConfig) -> tuple[ImageSet, ImageSet]:
    test = hashed_split(images.keys, images.labels, share=data.test_share, seed=data.split_seed, class_names=names)
    return images.subset(np.flatnonzero(~test)), images.subset(np.flatnonzero(test))
