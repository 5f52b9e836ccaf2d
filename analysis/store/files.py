"""Files of the store: JSON that is whole or absent, and what tells whether a file is still what was written."""

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from analysis.errors import StoreError
from analysis.store.arrays import ZARR, chunk_files, folder_of, stored_checksum
from analysis.store.spec import KernelSpec
from ntkcl_jax.config import codec as config_json
from ntkcl_jax.runs.checkpoint import PARTIAL, write_error
from ntkcl_jax.weights import file_sha256

KERNEL = "kernel.json"
TIMINGS = "timings.json"
TILES = "tiles"
FORMAT = 2
"""Version of the layout: 2 has zarr's checksum behind every chunk."""


def cannot_write(path: Path, error: Exception) -> StoreError:
    """Say that something can't be written, and what to do."""
    return StoreError(str(write_error(path, error)))


def damaged(path: Path, why: str) -> StoreError:
    """Say that a file of the analysis isn't what was written, and what to do."""
    # The kernel's own folder, which lies right below checkpoint<C>: as a whole it can be made again
    homes = [p for p in (path, *path.parents) if p.parent.name.startswith("checkpoint")]
    what = f"the folder {homes[0]}" if homes and homes[0] != path else "it"
    return StoreError(f"{path} {why}; delete {what} and compute it again")


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write JSON as `write_text` writes a text.

    Args:
        path: the file; its folder is made.
        value: what to write.
        sync: wait for the disk; without it a power cut, but no killed process, can leave an empty file.

    Raises:
        StoreError: the folder can't be written (full or read-only disk).
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", sync=sync)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a file so that it is either the old one or the new one, never a part, whoever else writes it too.

    Args:
        path: the file; its folder is made.
        text: what to write.
        sync: wait for the disk; without it a power cut, but no killed process, can leave an empty file.

    Raises:
        StoreError: the folder can't be written (full or read-only disk).
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")  # another host may be writing the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
            f.flush()  # out of Python's buffer, which fsync doesn't see
            if sync:
                os.fsync(f.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what couldn't be written may not be deletable either
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of the store.

    Raises:
        StoreError: the file is missing or holds no whole JSON object.
    """
    try:
        value = config_json.read_json(path)
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except (OSError, ValueError) as error:
        raise damaged(path, f"can't be read ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path, "holds no JSON object")
    return value


def fingerprint(path: Path) -> str | None:
    """What a file is known again by; None where there is no such file.

    Of JSON the SHA-256 of its bytes, of a chunk its checksum in the file: reading the chunk holds it against the rest.
    """
    if path.suffix != ".json":
        return stored_checksum(path)
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return None


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def read_spec(folder: Path) -> KernelSpec:
    """Read what a folder is the kernel of.

    Raises:
        StoreError: `kernel.json` is missing, can't be read, or is of another layout.
    """
    path = folder / KERNEL
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise StoreError(
            f"{path} has layout {value.get('format')}, expected {FORMAT}; use the version that wrote it, or delete the "
            "folder and compute it again"
        )
    try:
        return KernelSpec.from_json(value["spec"])
    except (KeyError, TypeError, AttributeError, StoreError) as error:
        raise damaged(path, f"holds no kernel's spec ({error})") from error


def expected_files(spec: KernelSpec) -> list[str]:
    """Every file of a finished kernel that its manifest lists."""
    chunks = [file for pair in spec.pairs for file in chunk_files(spec, *pair).values()]
    return sorted([KERNEL, *[f"{folder_of(name)}/{ZARR}" for name in spec.arrays], *chunks])
