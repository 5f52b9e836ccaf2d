"""Reading stored kernels: verified once when opened, read when asked for."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from analysis.errors import StoreError
from analysis.store.arrays import KernelArrays, Readable, chunk_files
from analysis.store.files import (
    KERNEL,
    TIMINGS,
    damaged,
    expected_files,
    fingerprint,
    read_json,
    read_spec,
)
from analysis.store.spec import KernelSpec, analysis_folder
from ntkcl_jax.errors import reason, user_path
from ntkcl_jax.runs.checkpoint import MANIFEST, PARTIAL


class StoredKernel(Readable):
    """A finished kernel.

    Args:
        path: its folder.

    Attributes:
        path: its folder.
        spec: what it is the kernel of.
        health: what the health gate found.

    Raises:
        StoreError: a file is missing or has changed since it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = read_json(path / MANIFEST)
        # Files that are really below the folder: a forged manifest can't make others be read
        there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
        for name, recorded in manifest.items():
            if name not in there:  # one that leads elsewhere isn't either
                raise damaged(path / name, "is missing")
            if fingerprint(path / name) != recorded:
                raise damaged(path / name, "has changed since it was written")
        # Only now, when kernel.json is known to be the one that was written
        self.spec = read_spec(path)
        # Counted before `expected_files` lists them: a forged spec could ask for billions
        if len(self.spec.arrays) * self.spec.tiles * (self.spec.tiles + 1) // 2 > len(manifest):
            raise damaged(path / MANIFEST, "doesn't list every tile")
        unlisted = [name for name in expected_files(self.spec) if name not in manifest]
        if unlisted:
            raise damaged(path / MANIFEST, f"doesn't list {unlisted[0]}")
        self.health: dict[str, Any] = read_json(path / KERNEL).get("health", {})
        try:
            self.kernel_arrays = KernelArrays(path, self.spec, create=False)
        except ValueError as error:
            raise damaged(path, f"can't be read ({reason(error)})") from error
        # The manifest has what stands at the end of each chunk; the numbers before it are held against that here
        for pair in self.spec.pairs:
            for name, file in chunk_files(self.spec, *pair).items():
                if not self.kernel_arrays.intact(*pair, name):
                    raise damaged(path / file, "has changed since it was written")

    @property
    def seconds(self) -> float | None:
        """What computing it took; None if that isn't recorded.

        Raises:
            StoreError: the record is damaged.
        """
        path = self.path / TIMINGS
        seconds = read_json(path).get("seconds") if path.exists() else None
        # `type`, since True counts as an integer; the file is outside of what the manifest covers
        if seconds is not None and not (type(seconds) in (int, float) and seconds >= 0):
            raise damaged(path, f"has no seconds but {str(seconds)[:20]!r}")
        return seconds


class Analysis:
    """The analysis of a method of a run, as far as it is finished."""

    def __init__(self, run: Path, method: str = "ntkcl") -> None:
        """Name the run and the method; `load_analysis` is the way here."""
        self.run, self.folder = run, analysis_folder(run, method)
        # Verifying reads all of a kernel: once for all blocks that are asked for
        self._opened = functools.lru_cache(StoredKernel)

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        """Specs of the finished kernels, by seed, checkpoint and outputs.

        Raises:
            StoreError: a `kernel.json` that is missing or can't be read.
        """
        folders = (self.folder / "kernels").glob("seed*/checkpoint*/*")
        found = [read_spec(path) for path in folders if path.is_dir() and not path.name.endswith(PARTIAL)]
        return tuple(sorted(found, key=lambda spec: (spec.seed, spec.checkpoint, spec.outputs)))

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`, or an empty dict while there is none.

        Raises:
            StoreError: it can't be read.
        """
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else {}

    def stored(self, seed: int, checkpoint: int, outputs: str | None = None) -> StoredKernel:
        """Open a kernel; the files are verified the first time.

        Args:
            seed: seed of the run.
            checkpoint: 0 before task 0, t + 1 after task t.
            outputs: `full`, `trace`, `diagonal` or `pseudo`; None: the only one that is stored.

        Raises:
            StoreError: no such kernel, several to choose from, or a damaged one.
        """
        there = [spec for spec in self.kernels if (spec.seed, spec.checkpoint) == (seed, checkpoint)]
        # No silent choice between several: their shapes differ
        fitting = [spec for spec in there if outputs in (None, spec.outputs)]
        if len(fitting) == 1:
            return self._opened(self.folder / "kernels" / fitting[0].place)
        asked = f"seed {seed}, checkpoint {checkpoint}" + (f", outputs {outputs}" if outputs else "")
        if fitting:
            raise StoreError(
                f"{self.run} has the kernels {', '.join(spec.outputs for spec in fitting)} of {asked}; say outputs="
            )
        known = ", ".join(spec.place for spec in (there or self.kernels)[:8])
        raise StoreError(f"{self.run} has no kernel of {asked}, only {known or 'none at all'}; compute it first")

    def kernel(
        self, seed: int, checkpoint: int, t: int, k: int, outputs: str | None = None, group: str | None = None
    ) -> Float64[np.ndarray, "n1 n2 ..."]:
        """Read Theta_c(X_t, X_k), the kernel between the images of two tasks at a checkpoint.

        Args:
            seed: seed of the run.
            checkpoint: 0 before task 0, t + 1 after task t.
            t: task of the rows.
            k: task of the columns.
            outputs: `full`, `trace`, `diagonal` or `pseudo`; None: the only one that is stored.
            group: a parameter group's part; None: the whole.

        Returns:
            `(n1, n2, *outputs)`.

        Raises:
            StoreError: no such kernel, task or group, or a damaged file.
        """
        return self.stored(seed, checkpoint, outputs).block(t, k, group)


def load_analysis(run: str | Path, method: str = "ntkcl") -> Analysis:
    """Open what has been analysed of a run; kernels are read when asked for.

    Args:
        run: the run folder.
        method: whose kernels.

    Raises:
        StoreError: nothing has been analysed there.
    """
    path = user_path(run)
    if not analysis_folder(path, method).is_dir():
        whose, option = ("", "") if method == "ntkcl" else (f" of method {method}", f" --method {method}")
        raise StoreError(
            f"{path} has no analysis{whose}; check the path, or run `ntk-analysis kernels {path}{option}` first"
        )
    return Analysis(path, method)
