"""Images of a Hugging Face dataset: a folder made by `save_to_disk`, parquet files, an image folder, or a hub name.

The package `datasets` is optional and imported when such a source is opened. Images stay encoded until they are asked
for, and are decoded here like files; scripts that come with a dataset are never run (`datasets` 4 and later has none).
"""

import functools
import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.decode import decode
from ntkcl_jax.data.images import ImageSet
from ntkcl_jax.data.sources.base import Sides, SourceKind
from ntkcl_jax.errors import DataError, user_path

OLDEST = 4
"""First major version of `datasets` that runs no scripts."""
TRAIN, TEST = ("train",), ("test", "validation", "valid", "val")
"""Names of the sides; the first that is there counts."""
LABEL_NAMES = ("label", "labels", "fine_label", "target", "class")
"""Label columns, in the order of preference where there are several candidates."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?")


class HubImages(ImageSet):
    """Rows of a Hugging Face dataset.

    Args:
        rows: the dataset, its images not decoded.
        column: the column of images.
        labels: label of each image.
        places: row of each image.
        name: what messages call the dataset.
        invert: give 255 minus each pixel.
    """

    def __init__(
        self,
        rows: Any,
        column: str,
        labels: Int64[np.ndarray, " n"],
        places: Int64[np.ndarray, " n"],
        name: str,
        invert: bool = False,
    ) -> None:
        """Keep the dataset; nothing is read yet."""
        self.rows, self.column, self.labels, self.places = rows, column, labels, places
        self.name, self.invert = name, invert

    def _encoded(self, index: int) -> bytes:
        # Rows are read from mapped files when they are asked for; the dataset is shared by all subsets
        cell = self.rows[int(self.places[index])][self.column]
        try:
            # Parquet holds the bytes themselves, an image folder only paths
            content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        except (OSError, TypeError, KeyError) as error:
            raise DataError(f"can't read {self.names(index)} ({error}); download the dataset again") from error
        return content

    def load(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode one image (see `decode`)."""
        image = decode(Path(self.names(index)), self._encoded(index))
        return 255 - image if self.invert else image

    def names(self, index: int) -> str:
        """`name[row]`."""
        return f"{self.name}[{self.places[index]}]"

    def subset(self, indices: Integer[np.ndarray, " m"]) -> "HubImages":
        """The rows at `indices`."""
        return HubImages(self.rows, self.column, self.labels[indices], self.places[indices], self.name, self.invert)

    @functools.cached_property
    def contents(self) -> list[bytes]:
        """SHA-256 of each encoded image; the first use reads every one once."""
        return [hashlib.sha256(self._encoded(index)).digest() for index in range(len(self))]

    def digest(self) -> str:
        """SHA-256 (hex) over encoded images and labels, in order."""
        whole = hashlib.sha256(f"huggingface {len(self)} {self.invert}".encode())
        for content in self.contents:
            whole.update(content)
        whole.update(self.labels.astype("<i8").tobytes())
        return whole.hexdigest()


def read_hub(
    path: str, image_column: str = "", label_column: str = "", invert: bool = False
) -> tuple[HubImages, HubImages | None, tuple[str, ...]]:
    """Open a Hugging Face dataset; no image is decoded.

    Args:
        path: a folder, or `owner/name`, `owner/name:config`, `owner/name@revision` on the hub.
        image_column: empty: the only image column.
        label_column: empty: the only class-label column, or one of `LABEL_NAMES`.
        invert: give 255 minus each pixel.

    Returns:
        Training images, test images (None if the dataset has no such side), class names in label order.

    Raises:
        DataError: `datasets` isn't installed or too old, the dataset can't be had, or its columns aren't an image and
            a label.
    """
    library = _library()
    sides = _open(library, path)
    train = next((sides[name] for name in TRAIN if name in sides), None)
    if train is None:
        raise DataError(
            f"{path} has the sides {', '.join(sides)}, but needs train (and test); save it with these names"
        )
    test_name = next((name for name in TEST if name in sides), None)
    column = _column(train.features, image_column, library.Image, "image", ())
    label = _column(train.features, label_column, library.ClassLabel, "label", LABEL_NAMES)
    opened = [(f"{path} train", train)] + ([(f"{path} {test_name}", sides[test_name])] if test_name else [])
    for where, rows in opened:
        if lacking := sorted({column, label} - set(rows.features)):
            raise DataError(
                f"{where} has no column {lacking[0]}, which train has; name the columns alike on both sides"
            )
    # A ClassLabel's names; None where the column holds plain numbers or words
    known = getattr(train.features[label], "names", None)
    labels, names = _numbered([(where, list(rows[label])) for where, rows in opened], known)
    made = [
        # Left encoded: the library would turn images by their EXIF orientation, and hashes need the bytes
        HubImages(rows.cast_column(column, library.Image(decode=False)), column, y, np.arange(len(y)), where, invert)
        for (where, rows), y in zip(opened, labels, strict=True)
    ]
    return made[0], made[1] if len(made) > 1 else None, names


def _library() -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "data.source=huggingface needs the package `datasets`, which isn't installed; run "
            "`pip install 'ntkcl-jax[huggingface]'`, or use data.source=folder"
        ) from error
    if int(datasets.__version__.split(".")[0]) < OLDEST:
        raise DataError(
            f"data.source=huggingface needs datasets {OLDEST} or later, got {datasets.__version__}; update it"
        )
    return datasets


def _open(library: Any, path: str) -> dict[str, Any]:
    folder = user_path(path)
    library.disable_progress_bars()
    try:
        # `save_to_disk` leaves one file for a dict of sides, the other for a single one
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            opened = library.load_from_disk(str(folder))
        elif folder.is_dir():
            opened = library.load_dataset(str(folder))
        elif folder.exists() or not _HUB_NAME.fullmatch(path):
            raise DataError(
                f"data.path={path} is no folder and no hub name; expected a folder that save_to_disk made or that "
                "holds parquet files, or owner/name"
            )
        else:
            name, _, revision = path.partition("@")
            name, _, config = name.partition(":")
            opened = library.load_dataset(name, config or None, revision=revision or None)
    except DataError:
        raise
    except Exception as error:  # the library, its network and its file formats each have their own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "is it whole?" if folder.is_dir() else "check the name and the network, or give a local folder"
        raise DataError(f"can't open the dataset {path} ({reason}); {remedy}") from error
    # One side without a name trains, and is split here
    return dict(opened) if isinstance(opened, dict) else {"train": opened}


def _column(features: Any, wanted: str, kind: type, what: str, preferred: Sequence[str]) -> str:
    """Find the column of images or labels."""
    if wanted:
        if wanted not in features or (what == "image" and not isinstance(features[wanted], kind)):
            raise DataError(
                f"there is no {what} column {wanted!r}; data.{what}_column must be one of {', '.join(features)}"
            )
        return wanted
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        # A usual name decides among several; where no column is a ClassLabel, among all of them
        found = [name for name in preferred if name in (found or features)][:1] if preferred else found
    if len(found) != 1:
        raise DataError(f"expected one {what} column among {', '.join(features)}; set data.{what}_column")
    return found[0]


def _numbered(
    written: list[tuple[str, list[Any]]], known: Sequence[str] | None
) -> tuple[list[Int64[np.ndarray, " _n"]], tuple[str, ...]]:
    """Number the classes: as the dataset names them, else numbers as they are, else names in order."""
    values = [value for _, side in written for value in side]
    names = list(known or [])
    if not known and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        place = {name: i for i, name in enumerate(names)}
        return [np.array([place[value] for value in side], np.int64) for _, side in written], tuple(names)
    # Without names there can't be more classes than rows, which keeps an absurd label from making as many names
    classes = len(names) or len(values)
    for where, side in written:
        for row, value in enumerate(side):
            if not isinstance(value, int) or not 0 <= value < classes:
                raise DataError(
                    f"{where}[{row}] has the label {value!r}, expected a number from 0 to {classes - 1}; remove rows "
                    "without a label, or set data.label_column"
                )
    names = names or [str(label) for label in range(max(values) + 1)]
    return [np.array(side, np.int64) for _, side in written], tuple(names)


def _sides(data: DataConfig) -> Sides:
    return Sides(*read_hub(data.path, data.image_column, data.label_column, data.invert))


SOURCE = SourceKind(
    "a Hugging Face dataset: a folder that `save_to_disk` made, parquet files, an image folder, or a hub name",
    _sides,
    reads_path=True,
)
