"""Files of arrays, read without running anything: safetensors and `.npz`.

Names, shapes and types are read first; an array is read when it is asked for, so that what a header claims is checked
against an architecture before it costs memory. Pickles are told apart by their first bytes and refused.
"""

import hashlib
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights.beside import read_beside
from ntkcl_jax.weights.layout import Shape

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
"""Endings of files that can run code when they are opened; only `ntkcl weights convert` reads them, with torch."""
HEADER_LIMIT = 2**24
"""Longest header of a safetensors file, bytes; that of ViT-L is 40,000 long."""
UNPACKED_LIMIT = (64, 2**26)
"""An archive may unpack to so many times its size, and so many bytes more; weights hardly pack at all."""
_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Tensors:
    """Named arrays of a file, not yet read.

    Attributes:
        where: what messages call the file.
        kind: `safetensors`, `npz`, `pickle` (read by torch) or `arrays`.
        shapes: name to shape.
        dtypes: name to type, e.g. `float16`.
        load: name to array.
        metadata: what the file's header says besides.
        beside: the hub's files beside it, by name (`beside.py`).
    """

    where: str
    kind: str
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str]
    load: Callable[[str], np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        """Read one array as float32.

        Args:
            name: its name in the file.

        Returns:
            The array, of the shape that `shapes` says.

        Raises:
            WeightsError: it isn't of a float type, holds a number that isn't finite, or can't be read.
        """
        if self.dtypes[name] not in FLOATS.values():
            raise WeightsError(
                f"{self.where}: {name} has type {self.dtypes[name]}, expected a float type; give weights that aren't "
                "quantised"
            )
        # float64 beyond float32's range becomes infinite here, which is told below instead of warned of
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.asarray(_guarded(self.where, f"a whole {self.kind} file", self.load, name)).astype(np.float32)
        if not np.isfinite(value).all():
            raise WeightsError(
                f"{self.where}: {name} holds a number that isn't finite; the file is damaged"
                f"{_overflow(self.dtypes[name])}"
            )
        return value


def _overflow(dtype: str) -> str:
    ends = {"float16": "was written in float16, which ends at 65504", "float64": "doesn't fit into float32"}
    return f", or {ends[dtype]}" if dtype in ends else ""


def _guarded(where: str, what: str, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a reader; whatever a damaged file makes it raise becomes one line."""
    try:
        return function(*arguments)
    except WeightsError:
        raise
    except Exception as error:  # readers of damaged files raise nearly everything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(f"{where} is not {what} ({said}); download it again") from error


def from_arrays(state: Mapping[str, np.ndarray], where: str, kind: str = "arrays") -> Tensors:
    """Wrap arrays in memory as if they were a file.

    Example:
        >>> from_arrays({"norm.bias": np.zeros(3, np.float16)}, "here").shapes
        {'norm.bias': (3,)}
    """
    arrays = {name: np.asarray(value) for name, value in state.items()}
    types = {name: value.dtype.name for name, value in arrays.items()}
    return Tensors(where, kind, {name: x.shape for name, x in arrays.items()}, types, arrays.__getitem__)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def refuse_pickle(name: str) -> None:
    """Refuse a file by its name's ending.

    Raises:
        WeightsError: it looks like a pickle.
    """
    if name.lower().endswith(PICKLES):
        raise WeightsError(
            f"weights={name} looks like a pickle, which could run anything and is never opened; give a .safetensors "
            "or .npz file, or convert it: `ntkcl weights convert IN OUT.safetensors` (needs torch)"
        )


def open_tensors(path: Path) -> Tensors:
    """Open a safetensors or `.npz` file, told apart by their first bytes.

    Args:
        path: the file.

    Returns:
        Its arrays, not yet read.

    Raises:
        WeightsError: no such file, or not a whole one of these kinds.
    """
    where = str(path)
    if path.is_dir():
        raise WeightsError(f"no weights at {where}: it is a folder; give the file in it, e.g. model.safetensors")
    if not path.is_file():
        raise WeightsError(f"no weights at {where}; expected 'nano', 'random', or a .safetensors or .npz file")
    refuse_pickle(where)
    if _SHARD.search(where):
        raise WeightsError(f"{where} is one part of several; join them into one file, or give a model's whole file")
    try:
        with open(path, "rb") as f:
            start = f.read(8)
    except OSError as error:
        raise WeightsError(f"{where} can't be read ({error.strerror}); check its permissions") from error
    # By content, not by name: a pickle may be called model.safetensors
    if start[:2] == b"PK":
        return _guarded(where, "a whole .npz file", _open_npz, path)
    # A safetensors file begins with its header's length, which may look like a pickle's first bytes: 640 is 80 02
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and not _plausible_header(start):
        raise WeightsError(f"{where} is a pickle, which is never opened; `ntkcl weights convert` reads it, with torch")
    if start[:4] == b"\x89HDF":
        raise WeightsError(f"{where} is an HDF5 file (Keras, TensorFlow); give the model's .safetensors or .npz file")
    return _guarded(where, "a whole safetensors file", _open_safetensors, path, start)


def _plausible_header(start: bytes) -> bool:
    """Whether a file's first bytes are the length of a header that safetensors would write."""
    return len(start) == 8 and struct.unpack("<Q", start)[0] <= HEADER_LIMIT


def _open_safetensors(path: Path, start: bytes) -> Tensors:
    # The first 8 bytes are the header's length; checked before the reader makes room for it
    if len(start) == 8 and not _plausible_header(start):
        raise ValueError(f"its header claims more than {HEADER_LIMIT} bytes")

    def load(name: str) -> np.ndarray:
        with safe_open(path, framework="numpy") as f:
            return f.get_tensor(name)  # opened anew for each array: nothing stays open between them

    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    with safe_open(path, framework="numpy") as f:
        for name in f.keys():  # noqa: SIM118  (not a dict)
            header = f.get_slice(name)
            shapes[name] = tuple(header.get_shape())
            dtypes[name] = FLOATS.get(header.get_dtype(), header.get_dtype())
        metadata = f.metadata() or {}
    return Tensors(str(path), "safetensors", shapes, dtypes, load, metadata, read_beside(path))


def _open_npz(path: Path) -> Tensors:
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # `torch.save` writes zip archives too
        if any(member.filename.endswith("data.pkl") for member in members):
            raise WeightsError(f"{path} is PyTorch's pickle, which is never opened; `ntkcl weights convert` reads it")
        times, more = UNPACKED_LIMIT
        # By the directory's sizes, before anything is unpacked; each member's header must agree with its own below
        if sum(member.file_size for member in members) > times * path.stat().st_size + more:
            raise ValueError(f"it unpacks to more than {times} times its size, as weights never do")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in shapes:
                # Else one would be checked and the other read
                raise ValueError(f"{name} is in it twice")
            with archive.open(member) as f:
                shapes[name], dtypes[name] = _npy_header(f, member)
    return Tensors(str(path), "npz", shapes, dtypes, lambda name: _load_npy(path, name))


def _npy_header(f: Any, member: zipfile.ZipInfo) -> tuple[Shape, str]:
    """Shape and type of an array in an archive, whose size must be what they say."""
    version = npy.read_magic(f)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(f)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    # Else a small file could make the reader allocate what its header claims
    if f.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} has another size than its header says")
    return shape, dtype.name


def _load_npy(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive[name]
