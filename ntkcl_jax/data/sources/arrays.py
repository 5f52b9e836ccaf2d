"""Images in memory: handed over from Python, or read whole by a source whose images are small."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.sources.base import SourceKind, check_classes, checked_labels
from ntkcl_jax.errors import DataError

CHANNELS_AXIS = 4
"""Dimensions of an image array that has a channel axis."""


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
            labels = checked_labels(f"{side}_labels", getattr(self, f"{side}_labels"), len(images))
            # The class is frozen; only here, while it is made, are the checked arrays put in place
            object.__setattr__(self, f"{side}_images", images)
            object.__setattr__(self, f"{side}_labels", labels)
        # A class that only the test side has must count too, so that `check_classes` can name it
        highest = int(max(self.train_labels.max(), self.test_labels.max()))
        names = tuple(map(str, range(highest + 1) if self.class_names is None else self.class_names))
        check_classes(self.train_labels, self.test_labels, names)
        object.__setattr__(self, "class_names", names)


def _checked_images(name: str, value: Any) -> UInt8[np.ndarray, "n h w c"]:
    images = np.asarray(value)
    if images.ndim == CHANNELS_AXIS - 1:
        images = images[..., None]
    if images.ndim != CHANNELS_AXIS or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{name} must have shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), none of them 0, got "
            f"{np.asarray(value).shape}; move the channels last, e.g. images.transpose(0, 2, 3, 1)"
        )
    if images.dtype == np.uint8:  # not copied
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
    # `astype` alone would cut: 254 / 255 times 255 may come out just below 254
    return np.rint(images * 255).astype(np.uint8)


def _not_given(data: DataConfig) -> Arrays:
    raise DataError(f"data.source={data.source!r} needs arrays=Arrays(...)")


SOURCE = SourceKind("arrays handed to `train` or `load_run` from Python", _not_given)
