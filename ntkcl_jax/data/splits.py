"""The split of data that come without one, and the hash that tells one split from another.

Of each class, the images are put in the order of SHA-256(seed, name); the first `share` of them test, the rest train.
So the split doesn't change with the order in which files are listed, with the machine, or with the run's seed, and it
is the same for everybody who has the same files below the same names.
"""

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import numpy as np
from jaxtyping import Bool, Int64, Integer

from ntkcl_jax.errors import DataError


def key_of(path: PurePath) -> str:
    """Name of an image that is the same on every machine: parts joined by `/`, accents composed (NFC).

    Example:
        >>> key_of(PurePath("cat/1.png"))
        'cat/1.png'
    """
    return unicodedata.normalize("NFC", path.as_posix())


def places_by_label(labels: Integer[np.ndarray, " n"]) -> dict[int, Int64[np.ndarray, " m"]]:
    """Places of each label's images, ascending; one sort, however many classes there are.

    Example:
        >>> {label: places.tolist() for label, places in places_by_label(np.array([7, 2, 7])).items()}
        {2: [1], 7: [0, 2]}
    """
    # Stable, so that places within a label stay ascending
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))  # no image: a part, but no label


def hashed_split(
    keys: Sequence[str], labels: Integer[np.ndarray, " n"], *, share: float, seed: int, class_names: Sequence[str]
) -> Bool[np.ndarray, " n"]:
    """Choose the test images of data without a split.

    Of a class of m images, `share * m` (rounded half up, at least 1, at most m - 1) are test images.

    Args:
        keys: name of each image (see `key_of`), or a hash of its content.
        labels: label of each.
        share: test images over all images, in (0, 1).
        seed: `data.split_seed`.
        class_names: name of each label, for messages.

    Returns:
        True for test images.

    Raises:
        DataError: a class has a single image; names it.

    Example:
        >>> keys, labels = [f"cat/{i}.png" for i in range(5)], np.zeros(5, int)
        >>> hashed_split(keys, labels, share=0.2, seed=0, class_names=["cat"]).tolist()
        [False, False, False, True, False]
    """
    # `surrogateescape`: names that aren't UTF-8 get their own bytes back
    order = [hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogateescape")).digest() for key in keys]
    test = np.zeros(len(keys), bool)
    for label, places in places_by_label(labels).items():
        members = places.tolist()
        if len(members) == 1:
            raise DataError(
                f"class {class_names[label]!r} has a single image ({keys[members[0]]}), which can't train "
                "and test; add images or remove the class"
            )
        # Not `round`, which would take halves to the even number
        count = min(max(math.floor(share * len(members) + 0.5), 1), len(members) - 1)
        test[sorted(members, key=lambda i: (order[i], keys[i]))[:count]] = True
    return test


def split_sha256(sides: Iterable[tuple[str, Sequence[str], Iterable[str]]]) -> str:
    """SHA-256 (hex) over which image is in which class on which side; the order of files doesn't matter.

    Args:
        sides: name of the side, key of each image, class name of each image.

    Example:
        >>> one = split_sha256([("train", ["a/1.png", "a/2.png"], ["a", "a"])])
        >>> one == split_sha256([("train", ["a/2.png", "a/1.png"], ["a", "a"])])
        True
    """
    lines = [
        f"{side}\t{name}\t{key}"
        for side, keys, class_names in sides
        for key, name in zip(keys, class_names, strict=True)
    ]
    # Sorted, so that only what is where counts
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
