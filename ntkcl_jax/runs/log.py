"""What a run writes while it works: a metrics file of JSON lines, and (from `progress.py`) lines for people."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ntkcl_jax.config.codec import parse_json
from ntkcl_jax.errors import NonFiniteError, RunFolderError
from ntkcl_jax.terminal.progress import Progress, Stage, plain_text, seconds

__all__ = ["MetricsLog", "Progress", "Stage", "plain_text", "read_metrics", "seconds"]


class MetricsLog:
    """Appends records to a file of JSON lines, one whole line at a time.

    A record that can't be written whole is taken back, so a reader meets at most one half-written line, the last one,
    and only after a crash. Opening a file that ends in one drops it. `time` counts seconds of work: it goes on
    from the last record when a run is resumed, and never goes back.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with MetricsLog(path, clock=lambda: 5.0) as log:
        ...     log.append(task=0, loss=0.5)
        >>> read_metrics(path)
        [{'task': 0, 'loss': 0.5, 'time': 0.0}]
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open `path` for appending, or create it.

        Args:
            path: the file; its folder must exist.
            clock: seconds from any origin.

        Raises:
            RunFolderError: if the file can't be opened, or a line before the last is damaged.
        """
        self.path = Path(path)
        self._clock = clock
        self._last_reading = clock()
        self._seconds = 0.0
        self._file = self._open()
        self._began: set[str] = set()
        try:
            # One reading drops a half-written end, notes whose records there are, and finds the last time
            self.truncate(self._note)
        except BaseException:
            self.close()
            raise

    def _note(self, record: dict[str, Any]) -> bool:
        self._began.add(_task_key(record))
        return True

    def began_with(self, *, method: str, seed: int, task: int) -> bool:
        """Tell whether the file held records of a task when it was opened; it isn't read again."""
        return _task_key({"method": method, "seed": seed, "task": task}) in self._began

    def append(self, **record: Any) -> None:
        """Write one record, with `time` (seconds) added; it is in the file when this returns.

        Args:
            **record: JSON values; NumPy and JAX scalars and arrays become numbers and lists.

        Raises:
            NonFiniteError: if a number, at any depth, is NaN or infinite; nothing is written.
            ValueError: if the record brings its own `time`.
            RunFolderError: if the file can't be written.
        """
        if "time" in record:
            raise ValueError("expected a record without 'time', which the log adds itself; rename the field")
        where = ", ".join(f"{k} {record[k]}" for k in ("method", "seed", "task", "epoch", "step") if k in record)
        # What can't be written is refused before anything has changed, the time included
        plain = {name: _json_value(value, name, where) for name, value in record.items()}
        now = self._clock()
        # A clock that goes back counts as one that stood still
        self._seconds += max(0.0, now - self._last_reading)
        self._last_reading = now
        line = json.dumps(plain | {"time": round(self._seconds, 3)}, allow_nan=False).encode() + b"\n"
        try:
            _write_whole(self._file, line)
        except OSError as error:
            raise RunFolderError(
                f"expected to append to {self.path}, got {error.strerror}; free space or repair the folder, then resume"
            ) from error

    def truncate(self, keep: Callable[[dict[str, Any]], bool]) -> int:
        """Keep only the records for which `keep` is true; the file is replaced in one step, or not at all.

        Args:
            keep: called with every whole record, `time` included.

        Returns:
            How many whole records were dropped (a half-written last line isn't counted).

        Raises:
            RunFolderError: if a line before the last is damaged, or the file can't be replaced.
        """
        records = read_metrics(self.path)
        kept = [record for record in records if keep(record)]
        text = b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in kept)
        if text != self.path.read_bytes():
            fresh = self.path.with_name(self.path.name + ".tmp")
            try:
                with open(fresh, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())  # on the disk before it takes the old file's name
                os.replace(fresh, self.path)
            except OSError as error:
                raise RunFolderError(
                    f"expected to rewrite {self.path}, got {error.strerror}; free space or repair the folder"
                ) from error
            self._file.close()  # it still is the old file
            self._file = self._open()
        # Seconds of work go on from the last record kept; those of dropped records are worked again
        times = [r["time"] for r in kept if isinstance(r.get("time"), int | float)]
        self._seconds = max(times, default=0.0)
        self._last_reading = self._clock()
        return len(records) - len(kept)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _open(self) -> Any:
        try:
            # Unbuffered: once `append` returns the system has the record, whatever becomes of this process
            return open(self.path, "ab", buffering=0)
        except OSError as error:
            raise RunFolderError(
                f"expected a writable file {self.path}, got {error.strerror}; check the run folder"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read every whole record of a metrics file, in order.

    A last line without its end that isn't a whole record (a crash in the middle of a write) is left out.

    Raises:
        RunFolderError: if the file can't be read, or any other line isn't a JSON object of finite numbers.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise RunFolderError(
            f"expected a metrics file {path}, got {error.strerror}; name a folder that `ntkcl train` wrote"
        ) from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_parse(line))
        except ValueError as error:
            if number == len(lines):  # text after the last line end: empty, or half-written
                break
            raise RunFolderError(
                f"expected a JSON object on line {number} of {path}, got {line[:40]!r}; remove that line or restore "
                "the file"
            ) from error
    return records


def _write_whole(file: Any, line: bytes) -> None:
    end = os.fstat(file.fileno()).st_size
    try:
        while line:  # an unbuffered file may take a part
            line = line[file.write(line) :]
    except OSError:
        os.ftruncate(file.fileno(), end)  # the next record must begin on a line of its own
        raise


def _task_key(record: dict[str, Any]) -> str:
    # Text: a damaged record may hold lists, which can't be looked up in a set
    return json.dumps([record.get(name) for name in ("method", "seed", "task")])


def _parse(line: bytes) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _json_value(value: Any, name: str, where: str) -> Any:
    if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(
            f"expected a finite {name}, got {value}{f' at {where}' if where else ''}; lower the learning rate or the "
            "loss weights"
        )
    if isinstance(value, Mapping):
        return {str(k): _json_value(v, f"{name}.{k}", where) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v, f"{name}[{i}]", where) for i, v in enumerate(value)]
    return value
