"""From a name in the config to opened images: finding the source, checking what it gives, splitting and cutting it."""

from typing import Any

import numpy as np

from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.sources import SOURCES
from ntkcl_jax.data.images import ArrayImages, ImageSet, first_of_each_class
from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import Sides, Source, SourceKind, check_classes, checked_labels
from ntkcl_jax.data.splits import hashed_split
from ntkcl_jax.errors import DataError, require


def source_kind(name: str) -> SourceKind:
    """Import what a name in `data.source` stands for.

    Raises:
        ConfigError: there is no such source, or it can't be imported.
        DataError: the package that adds it declares something else.

    Example:
        >>> source_kind("folder").reads_path, source_kind("digits").side
        (True, 28)
    """
    kind = SOURCES.load(name)
    if not isinstance(kind, SourceKind):
        raise DataError(f"data.source={name} must be a SourceKind, got {type(kind).__name__}; mend its package")
    return kind


def load_source(data: DataConfig, arrays: Arrays | None = None) -> Source:
    """Open the images that the config names.

    `data.images_per_class` cuts both sides, `data.limit_per_class` then the training side, `data.invert` turns both.

    Args:
        data: source, path, split, limits and inversion.
        arrays: the images for `data.source="arrays"`, and only for it.

    Returns:
        The source. Folders are only listed: a damaged file shows when it is loaded or the fingerprint is taken.

    Raises:
        ConfigError: there is no such source, or it needs `data.path`.
        DataError: the images are missing or can't be read as two sides with the same classes, `data.classes` of them;
            arrays are given to another source, or not given.
    """
    if arrays is not None and data.source != "arrays":
        raise DataError(f"data.source={data.source!r} takes no arrays; set data.source='arrays'")
    kind = source_kind(data.source)
    require(bool(data.path) or not kind.reads_path, f"data.source={data.source} needs data.path: {kind.about}")
    train, test, names = _sides(kind.read(data) if arrays is None else arrays, data)
    if data.classes and len(names) != data.classes:
        raise DataError(
            f"expected {data.classes} classes, found {len(names)} in {data.path or data.source}: is one missing, or "
            "are these other data? For your own, set data.classes to their number (0: any)"
        )
    split = "given"
    if test is None:
        train, test = _split(train, names, data)
        split = f"{data.test_share:g} of each class by hash, seed {data.split_seed}"
    # Cut only after the split and its check: which images test doesn't depend on the limits
    check_classes(train.labels, test.labels, names)
    train, test = (side.subset(first_of_each_class(side.labels, data.images_per_class)) for side in (train, test))
    train = train.subset(first_of_each_class(train.labels, data.limit_per_class))
    return Source(data.source, names, train, test, split)


def _sides(found: Any, data: DataConfig) -> Sides:
    """Give `Arrays` the form of the others; refuse what another package made wrong."""
    if isinstance(found, Arrays):
        assert found.class_names is not None  # Arrays numbers the classes if nobody names them
        # Inverted here for every source that gives arrays; sources of files do it as they decode
        train = ArrayImages(found.train_images, found.train_labels, "train_images", data.invert)
        test = ArrayImages(found.test_images, found.test_labels, "test_images", data.invert)
        return Sides(train, test, found.class_names)
    # What another package wrote is checked here, so that its slips don't surface deep in training
    if data.source not in SOURCES.own:
        _check_sides(found, f"data.source={data.source}")
    return Sides(*found)


def _check_sides(found: Any, where: str) -> None:
    if not isinstance(found, Sides):
        raise DataError(f"{where} must read Arrays or Sides, got {type(found).__name__}; mend its package")
    names = found.class_names
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: class_names must be a tuple of words, got {str(names)[:60]}; mend its package")
    for side, images in (("train", found.train), ("test", found.test)):
        if images is None and side == "test":
            continue
        if not isinstance(images, ImageSet):
            raise DataError(f"{where}: {side} must be an ImageSet, got {type(images).__name__}; mend its package")
        labels = checked_labels(f"{where}: labels of {side}", images.labels, len(images))
        if np.max(labels, initial=-1) >= len(names):
            raise DataError(f"{where}: label {np.max(labels)} of {side} has no name among {len(names)} class_names")
        # One image stands for all: opening each would read the whole data set
        first = np.asarray(images.load(0)) if len(images) else np.zeros((1, 1, 3), np.uint8)
        if first.dtype != np.uint8 or first.ndim != 3 or first.shape[-1] != 3 or 0 in first.shape:
            raise DataError(
                f"{where}: images must be uint8 of shape (h, w, 3), got {first.dtype} of shape {first.shape} for "
                f"{images.names(0)}; mend its package"
            )


def _split(images: ImageSet, names: tuple[str, ...], data: DataConfig) -> tuple[ImageSet, ImageSet]:
    test = hashed_split(images.keys, images.labels, share=data.test_share, seed=data.split_seed, class_names=names)
    return images.subset(np.flatnonzero(~test)), images.subset(np.flatnonzero(test))
