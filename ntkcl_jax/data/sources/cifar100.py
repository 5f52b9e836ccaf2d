"""CIFAR-100 as published: pickled dictionaries, read without unpickling.

A pickle is a program that can call anything. `read_pickled_dict` runs it on a small machine of its own that knows
dictionaries, lists, tuples, text, bytes, integers and NumPy arrays of bytes, and refuses the rest.
"""

import bz2
import gzip
import lzma
import pickletools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import SourceKind
from ntkcl_jax.errors import DataError, user_path

FOLDER = "cifar-100-python"
PARTS = ("train", "test", "meta")
MAX_PART_BYTES = 1 << 28
"""Largest file that is read; the published `train` has 155 MB."""
MAX_INSTRUCTIONS = 2_000_000
"""Instructions of a pickle that are followed; the published `train` has 400,000."""
MAX_MEMBERS = 100
"""Entries of an archive that are looked at; the published one has 5."""
MAX_HEADER_BYTES = 1 << 20
"""Longest header of an archive's entry; those published have 512 bytes."""
CHANNELS, SIDE = 3, 32


class _Name:
    """A global name in a pickle: never imported, only compared."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Array:
    """A NumPy array under construction; `value` comes with its BUILD."""

    value: UInt8[np.ndarray, "..."] | None = None


class _Bytes:
    """NumPy's type of single bytes, the only one allowed."""


# NumPy 2 moved `numpy.core` to `numpy._core`; a pickle has the name that its writer had
_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_ALLOWED = (*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode")


def read_pickled_dict(content: bytes, name: str) -> dict[str, Any]:
    """Read a pickled dictionary (protocols 2 to 4) of plain values and arrays of bytes; nothing is imported or called.

    Args:
        content: the pickle.
        name: what messages call it.

    Returns:
        The dictionary, its keys as text.

    Raises:
        DataError: the pickle is damaged, isn't a dictionary, or asks for anything beyond plain values.

    Example:
        >>> import pickle
        >>> read_pickled_dict(pickle.dumps({b"labels": [3, 1]}, protocol=2), "example")
        {'labels': [3, 1]}
    """
    try:
        result = _expect(_run(content, name), dict)
        return {_text(key): value.value if isinstance(value, _Array) else value for key, value in result.items()}
    except DataError:
        raise
    except Exception as error:  # any damage: a short read, an empty stack, an unhashable key
        raise DataError(f"{name} is damaged ({_reason(error)}); download it again") from error


def _run(content: bytes, name: str) -> Any:
    # What the pickle machine has: a stack, places in it that MARK remembers, and values by number for later use
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def refuse(what: str) -> DataError:
        return DataError(f"{name} asks for {what}, which plain data doesn't need: not read; download it again")

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    made = 0
    # `genops` takes the text apart and runs nothing
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        op = opcode.name
        if count == MAX_INSTRUCTIONS:
            raise refuse(f"more than {MAX_INSTRUCTIONS} instructions")
        if op in ("PROTO", "FRAME"):
            pass
        elif op == "STOP":
            return stack.pop()
        elif op in _PUSH:
            stack.append(_PUSH[op](argument))
        elif op == "MARK":
            marks.append(len(stack))
        elif op in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            # MEMOIZE numbers by itself, in order
            memo[len(memo) if op == "MEMOIZE" else argument] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(op[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif op == "TUPLE":
            stack.append(tuple(since_mark()))
        elif op in ("APPEND", "APPENDS"):
            items = [stack.pop()] if op == "APPEND" else since_mark()
            _expect(stack[-1], list).extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            # A key lies below its value
            items = [stack.pop(), stack.pop()][::-1] if op == "SETITEM" else since_mark()
            if not all(isinstance(key, str | bytes | int) for key in items[::2]):
                raise refuse("keys other than words and numbers")  # hashing a deep tuple would end the process
            _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif op in ("GLOBAL", "STACK_GLOBAL"):
            wanted = argument if op == "GLOBAL" else " ".join([stack.pop(), stack.pop()][::-1])
            # A name is compared and kept as a word; nothing is imported, whatever it says
            if wanted not in _ALLOWED:
                raise refuse(f"'{wanted}'")
            stack.append(_Name(wanted))
        elif op == "REDUCE":
            arguments, function = stack.pop(), _expect(stack.pop(), _Name).name
            stack.append(_construct(function, arguments, refuse))
            # Few bytes can ask again and again for a copy of one long text from the memo
            made += len(stack[-1]) if isinstance(stack[-1], bytes) else 0
            if made > MAX_PART_BYTES:
                raise refuse(f"more than {MAX_PART_BYTES} bytes")
        elif op == "BUILD":
            state = stack.pop()
            _build(stack[-1], state, refuse)
        else:
            raise refuse(f"the instruction {op}")
    raise ValueError("the end is missing")


_PUSH: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"), lambda x: x
    ),
    # Python 2's byte strings, which pickletools shows as latin-1 text
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda x: x.encode("latin-1")),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
}


def _construct(function: str, arguments: Any, refuse: Callable[[str], DataError]) -> Any:
    if function in _RECONSTRUCT and _expect(arguments[0], _Name).name == "numpy ndarray":
        return _Array()
    if function == "numpy dtype" and _text(arguments[0]) in ("u1", "|u1"):
        return _Bytes()
    # How protocol 2 under Python 3 writes bytes: as latin-1 text with a call that encodes it
    if function == "_codecs encode" and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin-1")
    raise refuse(f"'{function}' of something else than bytes")


def _build(target: Any, state: Any, refuse: Callable[[str], DataError]) -> None:
    if isinstance(target, _Bytes):
        return  # byte order and the like: single bytes have none
    if not isinstance(target, _Array):
        raise refuse("state on something else than an array")
    # NumPy's own state: version, shape, type, column order or not, bytes. `reshape` checks the size
    _, shape, kind, fortran, raw = state
    _expect(kind, _Bytes)
    target.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__.strip('_')}, found {type(value).__name__.strip('_')}")
    return value


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else _expect(value, str)


def read_cifar100(
    path: Path,
) -> tuple[
    UInt8[np.ndarray, "n 32 32 3"],
    Int64[np.ndarray, " n"],
    UInt8[np.ndarray, "m 32 32 3"],
    Int64[np.ndarray, " m"],
    tuple[str, ...],
]:
    """Read CIFAR-100's Python version with its fine labels.

    Args:
        path: `cifar-100-python.tar.gz`, the folder `cifar-100-python` from it, or the folder around that. An archive is
            read in memory, nothing is extracted.

    Returns:
        Training images and labels, test images and labels, class names.

    Raises:
        DataError: a part is missing, damaged, too large, or not laid out as published.
    """
    parts = {part: read_pickled_dict(content, f"{path}: {part}") for part, content in _read_parts(path).items()}
    names = parts["meta"].get("fine_label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{path}: meta has no list fine_label_names of words; is it CIFAR-100's Python version?")
    train_images, train_labels = _split(parts["train"], f"{path}: train")
    test_images, test_labels = _split(parts["test"], f"{path}: test")
    return (
        train_images,
        train_labels,
        test_images,
        test_labels,
        tuple(name if isinstance(name, str) else name.decode("utf-8", "replace") for name in names),
    )


def _split(part: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = part.get("data"), part.get("fine_labels")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != CHANNELS * SIDE * SIDE:
        raise DataError(f"{name} has no array 'data' of rows of 3072 bytes; is it CIFAR-100's Python version?")
    # `type`, not `isinstance`: True and False are integers too
    if not isinstance(labels, list) or len(labels) != len(rows) or not all(type(label) is int for label in labels):
        raise DataError(f"{name} has no list 'fine_labels' of {len(rows)} integers; is it CIFAR-100's Python version?")
    # A row has the red plane, then green, then blue: to [n, h, w, c]
    images = rows.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.int64)


def _read_parts(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        folder = path / FOLDER if (path / FOLDER).is_dir() else path
        return {part: _read_file(folder / part) for part in PARTS}
    if not path.is_file():
        raise DataError(f"data.path={path} is missing; expected {FOLDER}.tar.gz or the folder {FOLDER} from it")
    try:
        with open(path, "rb") as f:
            start = f.read(6)
        with next((unpack for sign, unpack in _PACKED.items() if start.startswith(sign)), open)(path, "rb") as f:
            # Unpacked here, not by tarfile (`r:*`), so that the bound holds for unpacked bytes
            source: Any = _Bounded(f)
            with tarfile.open(fileobj=source, mode="r:") as archive:
                found = _read_archive(archive, source, path)
    except DataError:
        raise
    except Exception as error:  # each kind of compression has its own errors
        raise DataError(f"can't read the archive {path} ({_reason(error)}); download it again") from error
    missing = [part for part in PARTS if part not in found]
    if missing:
        raise DataError(f"the archive {path} has no {FOLDER}/{missing[0]}; is it CIFAR-100's Python version?")
    return found


class _Bounded:
    """An unpacked archive; no read is larger than `most` bytes, whatever a header claims."""

    def __init__(self, file: Any) -> None:
        self._file, self.most = file, MAX_HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        # -1 would read to the end, however much an archive of a few kilobytes unpacks to
        if not 0 <= size <= self.most:
            raise ValueError(f"a header of more than {MAX_HEADER_BYTES} bytes")
        return self._file.read(size)


_PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""How packed files begin."""


def _read_archive(archive: tarfile.TarFile, source: _Bounded, path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for position, member in enumerate(archive):
        # While it is walked through, not after: the list of an endless archive would fill the memory
        if position >= MAX_MEMBERS or member.size > MAX_PART_BYTES:
            raise DataError(f"the archive {path} holds more than CIFAR-100's; download it again")
        folder, _, part = member.name.removeprefix("./").rpartition("/")
        # Links aren't followed: they could lead to any other member or out of the archive
        stream = archive.extractfile(member) if member.isfile() else None
        if stream is not None and folder == FOLDER and part in PARTS:
            # Only a part's content may be long, headers never
            source.most = MAX_PART_BYTES
            found[part] = stream.read()
            source.most = MAX_HEADER_BYTES
    return found


def _read_file(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(f"{file} is missing; expected the folder {FOLDER} with the files {', '.join(PARTS)}")
    if file.stat().st_size > MAX_PART_BYTES:
        raise DataError(f"{file} has {file.stat().st_size} bytes, more than CIFAR-100's; download it again")
    return file.read_bytes()


def _arrays(data: DataConfig) -> Arrays:
    return Arrays(*read_cifar100(user_path(data.path)))


SOURCE = SourceKind(
    "CIFAR-100's published archive `cifar-100-python.tar.gz` or its folder, read without unpickling",
    _arrays,
    reads_path=True,
    side=SIDE,
)
