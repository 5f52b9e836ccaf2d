"""What a source is: how one is declared, what it gives, and what every one must fulfil."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.images import ImageSet, copies
from ntkcl_jax.data.splits import split_sha256
from ntkcl_jax.errors import DataError

if TYPE_CHECKING:
    from ntkcl_jax.data.sources.arrays import Arrays


class Sides(NamedTuple):
    """Images as a source finds them, all of them.

    Attributes:
        train: training images.
        test: test images; None where the data have no split of their own, which is then made (docs/data.md).
        class_names: name of each label.
    """

    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class SourceKind:
    """What stands behind a name in `data.source`; a package adds its own by an entry point (docs/data.md).

    Splits, limits and checks are the same for all and made by `load_source`.

    Attributes:
        about: what the images are, and what `data.path` must hold; one sentence.
        read: finds the images. It honours `data.invert` where it returns `Sides`; `Arrays` are inverted for it.
        reads_path: whether `data.path` must be given.
        side: height and width of every image, pixels, where that is known before any is read. A rehearsal without
            images takes it; otherwise `data.resize`.

    Example:
        >>> from ntkcl_jax.data.sources import Arrays
        >>> pixels, labels = np.zeros((2, 8, 8)), np.arange(2)
        >>> kind = SourceKind("black squares", lambda data: Arrays(pixels, labels, pixels, labels), side=8)
        >>> kind.read(DataConfig()).class_names, kind.reads_path
        (('0', '1'), False)
    """

    about: str
    read: "Callable[[DataConfig], Sides | Arrays]"
    reads_path: bool = False
    side: int | None = None


@dataclass(frozen=True)
class Source:
    """Opened images on two sides, the same classes on both.

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
        # Sides in this order; class names by JSON, which shows where one ends
        parts = [json.dumps(self.class_names), self.train.digest(), self.test.digest()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def checked_labels(name: str, value: Any, count: int) -> Int64[np.ndarray, " n"]:
    """Check labels and return them as int64.

    Args:
        name: what messages call them.
        value: labels.
        count: number of images.

    Raises:
        DataError: they aren't `count` integers from 0 on.
    """
    # Before any conversion: `astype` would make 1 of 1.7 and of True
    labels = np.asarray(value)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{name} must be integers of shape (n,), got {labels.dtype} of shape {labels.shape}")
    if len(labels) != count:
        raise DataError(f"{name} has {len(labels)} entries for {count} images; give one label to each image")
    if np.min(labels, initial=0) < 0:
        raise DataError(f"{name} must not be negative, got {labels.min()}; number the classes 0, 1, 2, ...")
    return labels.astype(np.int64)


def check_classes(
    train_labels: Int64[np.ndarray, " n"], test_labels: Int64[np.ndarray, " m"], class_names: tuple[str, ...]
) -> None:
    """Check that classes have different names, and that every class has images on both sides.

    Raises:
        DataError: a name is there twice, a label has none, or a class has no image; names it.
    """
    if len(set(class_names)) != len(class_names):
        raise DataError("class_names must differ from each other; rename the repeated ones")
    for side, labels in (("training", train_labels), ("test", test_labels)):
        highest = max(labels.tolist(), default=-1)
        if highest >= len(class_names):
            raise DataError(f"label {highest} has no name: class_names has {len(class_names)} entries; add names")
        # On both sides: a class without test images has no accuracy, one without training images can't be learnt
        missing = np.setdiff1d(np.arange(len(class_names)), labels)
        if len(missing):
            raise DataError(
                f"{len(missing)} of {len(class_names)} classes have no {side} image, the first is "
                f"'{class_names[missing[0]]}' (label {missing[0]}); add images, or renumber the labels without gaps"
            )
