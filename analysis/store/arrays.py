"""A kernel's arrays on disk: one chunk for each pair of tiles, tiles below the diagonal read as mirror images.

zarr's own checksum lies behind the numbers of each chunk, so that a flipped bit or a cut file is found whenever it is
read. It can't know whose numbers they are: see `stored_checksum`.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Float64

from analysis.errors import StoreError
from analysis.store.spec import OUTPUT_AXES, WHOLE, KernelSpec
from ntkcl_jax.errors import reason

ZARR = "zarr.json"
CHECKSUM_BYTES = 4
"""Of the CRC-32C that the `crc32c` codec of zarr v3 puts at the end of a chunk."""


def folder_of(name: str) -> str:
    """Folder of an array within its kernel's."""
    return WHOLE if name == WHOLE else f"group-{name}"


def chunk_files(spec: KernelSpec, i: int, j: int) -> dict[str, str]:
    """File of each array's chunk of a tile pair, within the kernel's folder."""
    chunk = ".".join(["c", str(i), str(j), *["0"] * OUTPUT_AXES[spec.outputs]])
    return {name: f"{folder_of(name)}/{chunk}" for name in spec.arrays}


def stored_checksum(path: Path) -> str | None:
    """The checksum that ends a chunk, hexadecimal; None where there is no file that is long enough.

    Whoever remembers it knows a chunk again in its place: one that was swapped with another one, or left over from
    another computation, has a right checksum of its own and is read without complaint.
    """
    try:
        with open(path, "rb") as f:
            # Read from the file's end: chunks are large, and `intact` holds the checksum against the numbers
            if f.seek(0, os.SEEK_END) < CHECKSUM_BYTES:
                return None
            f.seek(-CHECKSUM_BYTES, os.SEEK_END)
            return f.read().hex()
    except FileNotFoundError:
        return None


class KernelArrays:
    """The arrays of one kernel, opened.

    Args:
        folder: the kernel's folder.
        spec: what it holds.
        create: make the arrays where there are none yet.

    Raises:
        ValueError: what tensorstore says of files that it can't read or write.
    """

    def __init__(self, folder: Path, spec: KernelSpec, *, create: bool) -> None:
        self.folder, self.spec = folder, spec
        # A chunk for each pair of tiles, all outputs in it: what is computed at once is written at once
        shape = [*[min(spec.tile, spec.n)] * 2, *spec.shape[2:]]
        metadata = {
            "shape": list(spec.shape),
            "data_type": "float64",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            # Of a fixed order and not compressed, so that equal numbers are equal files on every machine
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "fill_value": "NaN",  # never stored, so a tile of zeros (a group without gradient) isn't an absent one
        }
        place = folder.resolve()  # TensorStore refuses a path with `..` in it
        waiting = {
            name: ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "file", "path": f"{place}/{folder_of(name)}/"},
                    "metadata": metadata,
                    # A tile counts when its checksums are there, so there is no need to wait for the disk each time.
                    "context": {"file_io_sync": False},
                },
                open=True,
                create=create,
            )
            for name in spec.arrays
        }
        # All opened, or written, at once; a future's error shows when it is asked
        self.arrays = {name: future.result() for name, future in waiting.items()}

    def write(self, i: int, j: int, blocks: Mapping[str, Float64[np.ndarray, "..."]]) -> None:
        """Write the chunks of a tile pair; each is replaced as one."""
        rows, columns = self.spec.rows(i), self.spec.rows(j)
        waiting = [self.arrays[name][rows, columns].write(blocks[name]) for name in self.spec.arrays]
        for future in waiting:
            future.result()

    def intact(self, i: int, j: int, name: str) -> bool:
        """Tell whether an array's chunk of a tile pair is there and agrees with its checksum."""
        try:
            block = np.asarray(self.arrays[name][self.spec.rows(i), self.spec.rows(j)].read().result())
        except (ValueError, OSError):
            return False
        return bool(np.isfinite(block).all())  # what is absent is NaN, and NaN is never stored

    def read(self, rows: slice, columns: slice, group: str | None = None) -> Float64[np.ndarray, "n1 n2 ..."]:
        """Read a part of the kernel; absent tiles are NaN.

        Args:
            rows: first images.
            columns: second images.
            group: a parameter group's part, or the whole.

        Raises:
            StoreError: no such group, or a file that can't be read.
        """
        name = WHOLE if group is None else group
        if name not in self.arrays:
            stored = ", ".join(self.spec.groups) or "none"
            raise StoreError(
                f"kernel {self.spec.place} has the parameter groups {stored}, got {group!r}; name one of them, or "
                "compute the kernel with that group"
            )
        # [n1, n2, *outputs]; every entry is written below, by one tile or another
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.spec.shape[2:]))
        try:
            for i, wanted in self._tiles(rows):
                self._read_row(self.arrays[name], i, wanted, columns, out[wanted.start - rows.start :])
        except (ValueError, OSError) as error:
            raise StoreError(
                f"{self.folder / folder_of(name)} can't be read ({reason(error)}); check the disk"
            ) from error
        return out

    def _tiles(self, side: slice) -> Iterator[tuple[int, slice]]:
        """Tiles that a range of images touches, each with the images in both."""
        for tile in range(side.start // self.spec.tile, -(-side.stop // self.spec.tile)):
            images = self.spec.rows(tile)
            yield tile, slice(max(images.start, side.start), min(images.stop, side.stop))

    def _read_row(self, array: Any, i: int, rows: slice, columns: slice, out: Float64[np.ndarray, "n1 n2 ..."]) -> None:
        """Read the images `rows` of tile i into the beginning of `out`."""
        # Below the diagonal the transposed part of tile (j, i) is read, and turned over afterwards
        parts = [
            (part, i <= j, array[(rows, part) if i <= j else (part, rows)].read()) for j, part in self._tiles(columns)
        ]
        for part, above, future in parts:
            block = np.asarray(future.result())
            if not above:  # Theta[i, j, c, d] = Theta[j, i, d, c]
                block = block.swapaxes(0, 1)
                block = block.swapaxes(2, 3) if OUTPUT_AXES[self.spec.outputs] == 2 else block
            out[: rows.stop - rows.start, part.start - columns.start : part.stop - columns.start] = block


class Readable:
    """What can be read of a kernel, finished or under work."""

    spec: KernelSpec
    kernel_arrays: KernelArrays

    def matrix(self, group: str | None = None) -> Float64[np.ndarray, "n n ..."]:
        """Read the kernel over all images; of one under work, absent tiles are NaN.

        Args:
            group: a parameter group's part; None: the whole.

        Raises:
            StoreError: no such group, or a file that can't be read.
        """
        everything = slice(0, self.spec.n)
        return self.kernel_arrays.read(everything, everything, group)

    def block(self, t: int, k: int, group: str | None = None) -> Float64[np.ndarray, "n1 n2 ..."]:
        """Read Theta(X_t, X_k), the kernel between the images of two tasks.

        Args:
            t: task of the rows.
            k: task of the columns.
            group: a parameter group's part; None: the whole.

        Raises:
            StoreError: no such task or group, or a file that can't be read.
        """
        return self.kernel_arrays.read(self.spec.images(t), self.spec.images(k), group)
