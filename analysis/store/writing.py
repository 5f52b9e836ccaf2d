"""Writing kernels, tile by tile: what is killed goes on where it was, and ends with the same bytes."""

import contextlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from analysis.errors import HealthError, StoreError
from analysis.store.arrays import KernelArrays, Readable, chunk_files
from analysis.store.files import (
    FORMAT,
    KERNEL,
    TILES,
    TIMINGS,
    cannot_write,
    damaged,
    expected_files,
    fingerprint,
    read_json,
    read_spec,
    sync_file,
    write_json,
)
from analysis.store.spec import KernelSpec, analysis_folder, place
from ntkcl_jax.errors import reason, user_path
from ntkcl_jax.runs.checkpoint import MANIFEST, PARTIAL

SYNC_THREADS = 16
"""A disk takes many requests to flush at once in hardly more time than one."""


class KernelStore:
    """The kernels of one method of a run, for writing."""

    def __init__(self, run: str | Path, method: str = "ntkcl") -> None:
        """Name the run and the method; nothing is read or written yet."""
        self.run = user_path(run)
        self.root = analysis_folder(self.run, method) / "kernels"

    def path(self, spec: KernelSpec) -> Path:
        """Folder of a finished kernel."""
        return self.root / spec.place

    def exists(self, spec: KernelSpec) -> bool:
        """Tell whether this kernel is finished; another tile size or version of the code doesn't make it another one.

        Raises:
            StoreError: another kernel lies in its place (other parameters, images, groups, ...), or a damaged one.
        """
        path = self.path(spec)
        if not path.exists():
            return False
        difference = read_spec(path).difference(spec, tiles=False)
        if difference:
            raise StoreError(
                f"{path} holds another kernel: {difference}; ask for that one, or delete the folder to replace it"
            )
        return True

    def found(self, seed: int, checkpoint: int, outputs: str) -> KernelSpec | None:
        """Spec of the kernel of this place, finished or under work, if there is one and it got as far as having a spec.

        Raises:
            StoreError: it can't be read.
        """
        for name in (outputs, outputs + PARTIAL):
            folder = self.root / place(seed, checkpoint, name)
            if (folder / KERNEL).exists():
                return read_spec(folder)
        return None

    def open(self, spec: KernelSpec, resume: bool = False) -> "OpenKernel":
        """Start a kernel, or take it up again. Hosts that share one all give `resume=True`.

        Args:
            spec: what it is the kernel of.
            resume: go on with the tiles that are there, if there are any.

        Raises:
            StoreError: no such run; finished, or under work already (without `resume`) or with another spec (with it);
                damaged; or the folder can't be written.
        """
        if not self.run.is_dir():
            raise StoreError(f"expected a run folder, and there is none at {self.run}; check the path")
        final = self.path(spec)
        partial = final.with_name(final.name + PARTIAL)
        if final.exists():
            raise StoreError(f"{final} is finished already; read it, or delete the folder to compute it again")
        if partial.exists():
            self._check_same(partial, spec, resume)
        fresh = not partial.exists()
        try:
            # The description first: tiles without one can't be told whose they are, and aren't trusted
            if not (partial / KERNEL).exists():
                write_json(partial / KERNEL, {"format": FORMAT, "spec": spec.to_json()})
            return OpenKernel(final, partial, spec)
        except (StoreError, OSError, ValueError) as error:
            # What this call has begun is removed again; what was there before stays, with all that it cost
            if not fresh:
                if isinstance(error, StoreError):
                    raise
                raise damaged(partial, f"can't be read ({reason(error)})") from error
            shutil.rmtree(partial, ignore_errors=True)
            raise error if isinstance(error, StoreError) else cannot_write(partial, error) from error

    @staticmethod
    def _check_same(partial: Path, spec: KernelSpec, resume: bool) -> None:
        """Refuse to mix the tiles of two computations."""
        if not resume:
            raise StoreError(f"an unfinished kernel lies at {partial}; add --resume to go on, or delete the folder")
        if not (partial / KERNEL).exists() and not (partial / TILES).exists():
            return  # killed before it had begun
        difference = read_spec(partial).difference(spec, tiles=True)
        if difference:
            raise StoreError(
                f"{partial} was begun as another computation: {difference}; repeat that one, or delete the folder"
            )


class OpenKernel(Readable):
    """A kernel under work. Several processes may put different tiles of the same one; one of them finishes it."""

    def __init__(self, final: Path, partial: Path, spec: KernelSpec) -> None:
        """Open or make the arrays; `KernelStore.open` is the way here."""
        self.final, self.partial, self.spec = final, partial, spec
        self.kernel_arrays = KernelArrays(partial, spec, create=True)
        self._verified: set[tuple[int, int]] = set()
        manifest = partial / MANIFEST  # there if the process died while it finished
        self._listed = read_json(manifest) if manifest.exists() else {}

    def has(self, i: int, j: int) -> bool:
        """Tell whether a tile pair is there, whole and unaltered; if not, compute it (again)."""
        # Read and checked once in a process; `finish` looks at everything again
        if (i, j) not in self._verified:
            files, recorded = chunk_files(self.spec, i, j), self._recorded(i, j)
            for name, file in files.items():
                # Both: the chunk is the one that was recorded, and its numbers agree with its checksum
                known = fingerprint(self.partial / file) == recorded.get(file, "")
                if not (known and self.kernel_arrays.intact(i, j, name)):
                    return False
            self._verified.add((i, j))
        return True

    def _recorded(self, i: int, j: int) -> Mapping[str, Any]:
        """Checksums of a tile's chunks by file, as far as they are known."""
        marker = self._marker(i, j)
        # The markers go when the manifest is written; it has the same checksums
        if not marker.exists():
            return self._listed
        try:
            return read_json(marker)
        except StoreError:  # cut short by a power failure
            return {}

    def _marker(self, i: int, j: int) -> Path:
        return self.partial / TILES / f"{i}-{j}.json"

    def put(self, i: int, j: int, blocks: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Store a tile pair: all of it or nothing.

        Args:
            i: tile of the rows.
            j: tile of the columns, i <= j.
            blocks: `whole` and each group's part, `(rows, columns, *outputs)` without padding.

        Raises:
            ValueError: no such tile pair, missing or unknown names, or a wrong shape.
            HealthError: a number that isn't finite.
            StoreError: the folder can't be written.
        """
        # All blocks are checked before the first is written
        values = self._checked(i, j, blocks)
        files = chunk_files(self.spec, i, j)
        try:
            self.kernel_arrays.write(i, j, values)
            checksums = {file: fingerprint(self.partial / file) for file in files.values()}
        except (OSError, ValueError) as error:
            raise cannot_write(self.partial, error) from error
        # After the chunks, as it makes the tile count; `has` notices what a power cut may leave of either
        write_json(self._marker(i, j), checksums, sync=False)
        self._verified.add((i, j))

    def _checked(self, i: int, j: int, blocks: Mapping[str, Any]) -> dict[str, np.ndarray]:
        shape, names = self.spec.block_shape(i, j), self.spec.arrays
        if not 0 <= i <= j < self.spec.tiles:
            raise ValueError(f"expected tiles 0 <= i <= j < {self.spec.tiles}, got ({i}, {j})")
        if set(blocks) != set(names):
            raise ValueError(f"expected blocks {', '.join(names)}; got {', '.join(blocks)}")
        values = {name: np.asarray(blocks[name], np.float64) for name in names}
        for name, value in values.items():
            if value.shape != shape:
                raise ValueError(f"expected block {name!r} of tile ({i}, {j}) as {shape}, got {value.shape}")
            if not np.isfinite(value).all():
                bad = int(value.size - np.isfinite(value).sum())
                raise HealthError(
                    f"kernel {self.spec.place} has {bad} of {value.size} NaN or infinite numbers in {name!r} of tile "
                    f"({i}, {j}); check the parameters, or raise the precision"
                )
        return values

    def finish(self, health: dict[str, Any], seconds: float) -> None:
        """Check that every tile is there, and give the kernel its final name.

        Args:
            health: JSON-able results of the health gate.
            seconds: what the computation took; kept outside of everything that is verified.

        Raises:
            StoreError: tiles are missing or altered, or the folder can't be written; the kernel stays unfinished.
        """
        self._verified.clear()  # look at the disk again
        missing = [pair for pair in self.spec.pairs if not self.has(*pair)]
        if missing:
            raise StoreError(
                f"{self.partial} lacks {len(missing)} of {len(self.spec.pairs)} tiles, the first at {missing[0]}; "
                "resume to compute them"
            )
        # Any step from here on may be the last: the manifest stands before the markers go, the name comes at the end
        write_json(self.partial / KERNEL, {"format": FORMAT, "spec": self.spec.to_json(), "health": health})
        write_json(self.partial / TIMINGS, {"seconds": seconds})
        files = expected_files(self.spec)
        try:
            write_json(self.partial / MANIFEST, {name: fingerprint(self.partial / name) for name in files})
            kept = [self.partial / name for name in (*files, TIMINGS, MANIFEST)]
            with ThreadPoolExecutor(SYNC_THREADS) as pool:
                # Chunks were written without waiting for the disk; after the rename they have to be there for good
                list(pool.map(sync_file, kept))
            for file in {p for p in self.partial.rglob("*") if p.is_file()}.difference(kept):
                file.unlink(missing_ok=True)  # checksums of single tiles, and what killed processes had in hand
            with contextlib.suppress(FileNotFoundError):
                (self.partial / TILES).rmdir()
            # One step: readers see a whole kernel or none
            self.partial.rename(self.final)
        except OSError as error:
            raise cannot_write(self.final, error) from error

    def discard(self) -> None:
        """Delete the kernel, as one that failed its checks."""
        shutil.rmtree(self.partial, ignore_errors=True)
