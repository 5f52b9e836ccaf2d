"""Split files: text, CSV, YAML or JSON that list images and labels, as DomainNet, Oxford Pets and CODA-Prompt do.

A text file has one image a line: `path label`, `path,label`, or `path` alone, whose class is then its folder. A first
line of words without an image is a heading, and `#` starts a comment. YAML and JSON hold `data: [paths]` and
`targets: [labels]`. Labels are numbers from 0 (or from 1), or names.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.codec import parse_json
from ntkcl_jax.data.decode import SUFFIXES
from ntkcl_jax.data.images import FileImages
from ntkcl_jax.data.sources.base import Sides, SourceKind
from ntkcl_jax.errors import DataError, user_path

USUAL = {
    "train": ("*_train.txt", "train.txt", "trainval.txt", "train.csv", "*_train.csv", "*_train.yaml", "train.yaml"),
    "test": ("*_test.txt", "test.txt", "test.csv", "*_test.csv", "*_test.yaml", "test.yaml"),
}
"""Names that are looked for when the config gives none; the first that is there counts."""
PLACES = (".", "annotations", "splits")
"""Where they are looked for, below `data.path`."""
IMAGE_FOLDERS = (".", "images")
"""Where listed paths may start, below `data.path`."""
# Up to the first ending of an image, since paths may hold blanks; what follows a blank or comma is the label
_WITH_SUFFIX = re.compile(rf"^(.+?(?:{'|'.join(map(re.escape, SUFFIXES))}))(?:[\s,]+(.*))?$", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,18}")  # as many digits as surely fit into int64
_PETS_COLUMNS = 4  # image, class from 1, species, breed within the species
YAML_DEPTH = 2
"""Nesting of a list in YAML: a mapping of lists."""


@dataclass(frozen=True)
class Entry:
    """One line of a list: where it stands, the image, and its label if it has one."""

    where: str
    path: str
    label: str | None


def read_lists(
    path: Path, train_list: str = "", test_list: str = "", invert: bool = False
) -> tuple[FileImages, FileImages | None, tuple[str, ...]]:
    """Read the lists of a stream; no image is opened, but every one must be there.

    Args:
        path: folder that holds the images.
        train_list: file or pattern; relative to `path`, else to the working folder. Empty: the usual names.
        test_list: the same; where there is none, everything is in the training list.
        invert: give 255 minus each pixel.

    Returns:
        Training images, test images (None without a test list), class names in label order.

    Raises:
        DataError: a list is missing, empty or can't be understood; an image is missing, outside `path`, or listed
            twice; a label is out of range.
    """
    if not path.is_dir():
        raise DataError(f"data.path={path} is no folder, but must hold the images that the lists name; check the path")
    train_files = _list_files(path, train_list, "train")
    test_files = _list_files(path, test_list, "test")
    if not train_files:
        tried = train_list or ", ".join(USUAL["train"])
        raise DataError(f"no list of training images in {path} (looked for {tried}); set data.train_list")
    if test_list and not test_files:
        raise DataError(f"no list {test_list} in {path}; check data.test_list")
    # Several lists of a side (DomainNet's six domains) count as one
    sides = [[entry for file in files for entry in _read(file)] for files in (train_files, test_files)]
    # The first image decides for all: lists of one data set are written on one machine
    root, dropped = _locate(path, sides[0][0])
    found = [[_resolve(root, dropped, entry) for entry in side] for side in sides]
    _refuse_repeated(sides, found)
    # Both sides together, so that a name has one number on both
    labels, names = _labels([entry for side in sides for entry in side], [f for side in found for f in side])
    cut = len(sides[0])
    train = FileImages(root, found[0], labels[:cut], invert)
    return train, FileImages(root, found[1], labels[cut:], invert) if sides[1] else None, names


def _list_files(path: Path, pattern: str, side: str) -> list[Path]:
    if pattern:
        # A plain file first: its name may hold signs that a pattern would take for its own
        for base in (path, Path()):
            there = base / user_path(pattern)
            if there.is_file():
                return [there]
        # `glob` refuses absolute patterns, and `..` would leave the data folder
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            return []
        return sorted(file for file in path.glob(pattern) if file.is_file())
    found = ((path / place).glob(usual) for usual in USUAL[side] for place in PLACES)
    return next((files for some in found if (files := sorted(some))), [])


def _read(file: Path) -> list[Entry]:
    try:
        # `-sig` drops the mark with which Windows' editors begin a file; it would become part of the first path
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read the list {file} ({error}); expected a text file in UTF-8") from error
    if file.suffix.lower() in (".yaml", ".yml", ".json"):
        entries = _read_structure(file, text)
    else:
        lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1)]
        lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
        # Oxford Pets' lines name no ending but have digits, so a heading must have neither
        if lines and not _WITH_SUFFIX.match(lines[0][1]) and not re.search(r"\d", lines[0][1]):
            lines = lines[1:]  # the heading of a CSV file
        entries = [_entry(f"{file}:{i}", line) for i, line in lines]
    if not entries:
        raise DataError(f"the list {file} names no image; expected lines of `path label`")
    return entries


def _entry(where: str, line: str) -> Entry:
    """Understand one line; Oxford Pets' have a name without ending, its class from 1, and two columns of other use."""
    match = _WITH_SUFFIX.match(line)
    if match is None:
        words = line.split()
        if len(words) == _PETS_COLUMNS and all(word.isdigit() for word in words[1:]):
            return Entry(where, f"{words[0]}.jpg", words[1])
        raise DataError(
            f"{where} names no image ({_short(line)}); expected `path label` and one of {', '.join(SUFFIXES)}"
        )
    path, rest = match[1].strip("\"'"), (match[2] or "").strip()
    if len(rest.split(",")) > 1:
        raise DataError(f"{where} has more than a path and a label ({_short(line)}); remove the other columns")
    return Entry(where, path, rest or None)


def _read_structure(file: Path, text: str) -> list[Entry]:
    try:
        value = parse_json(text) if file.suffix.lower() == ".json" else _read_yaml(text)
    except Exception as error:  # each reader has its own kinds
        reason = " ".join(str(error).split())
        raise DataError(f"can't understand the list {file} ({_short(reason)}); is it whole?") from error
    paths, targets = (value.get(key) for key in ("data", "targets")) if isinstance(value, dict) else (None, None)
    if not isinstance(paths, list) or not isinstance(targets, list | None):
        raise DataError(f"{file} must hold `data: [paths]` and `targets: [labels]`")
    if targets is not None and len(targets) != len(paths):
        raise DataError(f"{file} has {len(paths)} paths but {len(targets)} targets; give one to each image")
    labels: Iterable[Any] = targets if targets is not None else [None] * len(paths)
    return [
        Entry(f"{file} entry {i}", str(one), None if label is None else str(label))
        for i, (one, label) in enumerate(zip(paths, labels, strict=True), start=1)
    ]


def _read_yaml(text: str) -> Any:
    """Read YAML whose first look finds lists in a mapping: deeper text would overrun the C parser's stack."""
    import yaml  # only these lists need it

    # Events come one at a time without building anything. Aliases would let a few lines stand for billions
    safe_loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    for event in yaml.parse(text, Loader=safe_loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > YAML_DEPTH or isinstance(event, yaml.AliasEvent):
            raise ValueError("lists and aliases within its lists")
    return yaml.load(text, Loader=safe_loader)


def _parts(entry: Entry) -> tuple[str, ...]:
    parts = PurePosixPath(entry.path.replace("\\", "/")).parts
    if ".." in parts:
        raise DataError(f"{entry.where} leaves the data folder ({_short(entry.path)}); list paths inside it only")
    return tuple(part for part in parts if part != "/")


def _locate(path: Path, first: Entry) -> tuple[Path, int]:
    """Find the folder that listed paths start from, and how many leading parts another machine's list has too many."""
    parts = _parts(first)
    # As few leading parts as possible are dropped, so the longest path that exists wins
    for dropped in range(len(parts)):
        for folder in IMAGE_FOLDERS:
            if (path / folder).joinpath(*parts[dropped:]).is_file():
                return path / folder, dropped
    raise DataError(
        f"{first.where} names {_short(first.path)}, which isn't in {path}; check data.path, or unpack the data"
    )


def _resolve(root: Path, dropped: int, entry: Entry) -> Path:
    file = root.joinpath(*_parts(entry)[dropped:])
    if not os.path.isfile(file):
        raise DataError(f"{entry.where} names {file}, which is missing; add the file or remove the line")
    return file


def _refuse_repeated(sides: list[list[Entry]], found: list[list[Path]]) -> None:
    seen: dict[Path, str] = {}
    for entry, file in zip((e for side in sides for e in side), (f for side in found for f in side), strict=True):
        if file in seen:
            raise DataError(f"{entry.where} lists {file} again, after {seen[file]}; an image trains or tests, once")
        seen[file] = entry.where


def _labels(entries: list[Entry], files: list[Path]) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Number the classes: by the lists' own numbers, else by name."""
    with_label = sum(entry.label is not None for entry in entries)
    if 0 < with_label < len(entries):
        # The first of the rarer kind is the one to look at
        odd = next(e for e in entries if (e.label is None) == (with_label > len(entries) / 2))
        raise DataError(f"{odd.where} is unlike the others: either every line has a label, or none has")
    written = [
        file.parent.name if entry.label is None else entry.label for entry, file in zip(entries, files, strict=True)
    ]
    numbers = [bool(_NUMBER.fullmatch(label)) for label in written]
    if not with_label or not any(numbers):
        names = sorted(set(written))
        place = {name: i for i, name in enumerate(names)}
        return np.array([place[label] for label in written], np.int64), tuple(names)
    if not all(numbers):
        odd = entries[numbers.index(False)]
        raise DataError(
            f"{odd.where} has the label {_short(odd.label or '')}, the first lines have numbers; correct it"
        )
    values = [int(label) for label in written]
    # Numbered from 1 unless there is a 0; a negative one fails just below
    first = min([1, *values])
    for entry, value in zip(entries, values, strict=True):
        # Bounded by the number of images before `arange`: one absurd label would fill the memory
        if not 0 <= value - max(first, 0) < len(entries):
            raise DataError(
                f"{entry.where} has the label {value}, out of range: classes are numbered 0, 1, 2, ... without gaps, "
                f"and there are only {len(entries)} images; correct the list"
            )
    labels = np.array(values, np.int64) - first
    missing = np.setdiff1d(np.arange(int(np.max(labels)) + 1), labels)
    if len(missing):
        where = next(entry.where for entry, label in zip(entries, labels, strict=True) if label > missing[0])
        raise DataError(
            f"no image has the label {missing[0] + first}, but {where} has a higher one: is a class missing, or a "
            "label out of range? Number the classes without gaps"
        )
    return labels, _class_names(labels, files)


def _class_names(labels: Int64[np.ndarray, " n"], files: list[Path]) -> tuple[str, ...]:
    """Name each label by the folder of its images, else by what their names begin with, else by its number."""
    # Names count only if each class has one of its own; else two classes would merge in messages and tables
    for name_of in (lambda file: file.parent.name, lambda file: file.stem.rpartition("_")[0]):
        names: dict[int, set[str]] = defaultdict(set)
        for label, file in zip(labels.tolist(), files, strict=True):
            names[label].add(name_of(file))
        single = [next(iter(names[label])) for label in sorted(names) if len(names[label]) == 1]
        if len(set(single)) == len(names) and all(single):
            return tuple(single)
    return tuple(str(label) for label in range(int(labels.max()) + 1))


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _sides(data: DataConfig) -> Sides:
    return Sides(*read_lists(user_path(data.path), data.train_list, data.test_list, data.invert))


SOURCE = SourceKind(
    "the folder below which the images lie that lists of paths and labels name", _sides, reads_path=True
)
