"""`train/<class>/*` and `test/<class>/*`: the folder layout of most image benchmarks, or one side of it alone."""

import os
from pathlib import Path

import numpy as np

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.decode import SUFFIXES
from ntkcl_jax.data.images import FileImages
from ntkcl_jax.data.sources.base import Sides, SourceKind
from ntkcl_jax.errors import DataError, user_path

LAYOUT = "expected <path>/train/<class>/* and <path>/test/<class>/*"
ONE_SIDE = "expected <path>/<class>/* or <path>/train/<class>/*"


def read_folder(path: Path, invert: bool = False) -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """List the images of a folder; no image is opened.

    Classes and files are sorted by name. Hidden entries, files of other types, and links to folders inside a class's
    folder are passed over, so a circle of links can't be followed.

    Args:
        path: folder with `train` and `test`.
        invert: give 255 minus each pixel.

    Returns:
        Training images, test images, class names in label order.

    Raises:
        DataError: a folder is missing, the two sides' classes differ, a class has no image or has a folder of images
            inside, or a link is broken.
    """
    if not path.is_dir():
        what = "a file" if path.exists() else "missing"
        raise DataError(f"data.path={path} is {what}, but must be a folder; {LAYOUT}")
    train = _list_split(path / "train")
    test = _list_split(path / "test")
    if set(train) != set(test):
        only_train, only_test = sorted(set(train) - set(test)), sorted(set(test) - set(train))
        raise DataError(
            f"{path}/train and {path}/test must have the same classes; only in train: {_some(only_train)}; only in "
            f"test: {_some(only_test)}; add or remove these folders"
        )
    # Sorted names number the classes: folders are listed in another order on every file system
    names = tuple(sorted(train))
    return _image_set(path, train, names, invert), _image_set(path, test, names, invert), names


def read_classes(path: Path, invert: bool = False) -> tuple[FileImages, tuple[str, ...]]:
    """List the images of one side only: `<path>/<class>/*`, or `<path>/train/<class>/*` where there is such a folder.

    Args:
        path: the folder.
        invert: give 255 minus each pixel.

    Returns:
        Images, class names in label order; as `read_folder` has them.

    Raises:
        DataError: the folder is missing, a class has no image, or a link is broken.
    """
    # A folder `train` without folders in it is a class of that name
    inner = path / "train"
    split = inner if inner.is_dir() and any(entry.is_dir() for entry in _visible(inner)) else path
    classes = _list_split(split, ONE_SIDE)
    names = tuple(sorted(classes))
    return _image_set(path, classes, names, invert), names


def _list_split(split: Path, layout: str = LAYOUT) -> dict[str, list[Path]]:
    if not split.is_dir():
        raise DataError(f"{split} is {'a file' if split.exists() else 'missing'}; {layout}")
    entries = _visible(split)
    for entry in entries:
        # a link to nowhere without an image's ending was meant to be a class
        if entry.is_symlink() and not os.path.exists(entry) and not _is_image(entry):
            raise DataError(f"{entry} is a broken link where a class folder is expected; replace or remove it")
    classes = {entry.name: _list_class(entry) for entry in entries if entry.is_dir()}
    if not classes:
        raise DataError(f"{split} has no class folders; {layout}")
    return classes


def _list_class(folder: Path) -> list[Path]:
    entries = _visible(folder)
    files = [entry for entry in entries if _is_image(entry) and not entry.is_dir()]
    # Folders without images do no harm; links are left alone, since they may form a circle
    for entry in set(entries) - set(files):
        if entry.is_dir() and not entry.is_symlink() and any(map(_is_image, _visible(entry))):
            raise DataError(
                f"{entry} is a folder of images inside {folder}, which was taken for a class; classes can't be nested: "
                f"move or remove it, or give another data.path ({ONE_SIDE})"
            )
    for file in files:
        # os.path, because its answer to a circle of links is False in every Python version
        if not os.path.isfile(file):
            raise DataError(f"{file} is a broken link or no regular file; replace or remove it")
    if not files:
        raise DataError(
            f"class folder {folder} has no images directly inside (looked for {', '.join(SUFFIXES)}); add some or "
            "remove the class from train and test"
        )
    return files


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in SUFFIXES


def _visible(folder: Path) -> list[Path]:
    try:
        # Hidden entries are what systems leave behind (.DS_Store, .ipynb_checkpoints), the latter with copies of images
        return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"can't list {folder}: {error.strerror}; check its permissions") from error


def _image_set(root: Path, classes: dict[str, list[Path]], names: tuple[str, ...], invert: bool) -> FileImages:
    files = [file for name in names for file in classes[name]]
    labels = np.repeat(np.arange(len(names)), [len(classes[name]) for name in names])
    return FileImages(root, files, labels, invert)


def _some(names: list[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest if names else "none"


def _read(data: DataConfig) -> Sides:
    path = user_path(data.path)
    # A path that is no folder goes there too, to be refused in the words for it
    if (path / "train").is_dir() or (path / "test").is_dir() or not path.is_dir():
        return Sides(*read_folder(path, data.invert))
    images, names = read_classes(path, data.invert)  # not split yet: its folders are classes
    return Sides(images, None, names)


SOURCE = SourceKind(
    "a folder with `train/<class>/*` and `test/<class>/*`, or with `<class>/*` alone, which we split",
    _read,
    reads_path=True,
)
