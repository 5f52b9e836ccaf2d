"""scikit-learn's handwritten digits: no download, no path."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import SourceKind
from ntkcl_jax.data.sources.digits import CLASSES, SIDE, Parts, package_file, read_table
from ntkcl_jax.errors import DataError

COUNT, SMALL_SIDE, INK, TEST_EVERY = 1797, 8, 16, 5
DRAWN_SIDE = 20
"""Side of the box that a digit fills inside its 28 x 28 pixels, as in MNIST."""


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
    images, labels = _read(package_file("uci-digits", "scikit-learn", "sklearn", "datasets/data/digits.csv.gz"))
    test = np.arange(len(labels)) % TEST_EVERY == 0
    return images[~test], labels[~test], images[test], labels[test], tuple(map(str, range(CLASSES)))


def _read(file: Path) -> tuple[UInt8[np.ndarray, "1797 28 28"], Int64[np.ndarray, "1797"]]:
    from PIL import Image

    table = read_table(file, "scikit-learn")
    if (
        table.shape != (COUNT, SMALL_SIDE**2 + 1)
        or table.min() < 0
        or table[:, :-1].max() > INK
        or not np.array_equal(np.unique(table[:, -1]), np.arange(CLASSES))
    ):
        raise DataError(f"{file} doesn't hold {COUNT} digits of 8 x 8 and 17 shades; reinstall scikit-learn")
    # 17 shades, 0 to 16, spread over 0 to 255
    small = np.rint(table[:, :-1] * (255 / INK)).astype(np.uint8).reshape(-1, SMALL_SIDE, SMALL_SIDE)
    images, edge = np.zeros((len(small), SIDE, SIDE), np.uint8), (SIDE - DRAWN_SIDE) // 2
    for whole, digit in zip(images, small, strict=True):
        drawn = Image.fromarray(digit).resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.BICUBIC)
        whole[edge : edge + DRAWN_SIDE, edge : edge + DRAWN_SIDE] = np.asarray(drawn)
    return images, table[:, -1]


SOURCE = SourceKind(
    "1,797 digits of scikit-learn, enlarged from 8 x 8 and framed as MNIST's",
    lambda data: Arrays(*uci_digits()),
    side=SIDE,
)
