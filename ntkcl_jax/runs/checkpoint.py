"""Checkpoints: whole or absent, and verified when read.

A checkpoint is a folder with orbax arrays, `meta.json`, and `manifest.json` with the SHA-256 of every other file. It
is written under another name and renamed when complete, so a killed process leaves no folder that looks whole; orbax
alone doesn't notice a flipped bit, the manifest does.
"""

import contextlib
import errno
import gc
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkcl_jax.config.codec import read_json
from ntkcl_jax.devices.hosts import first, on_first, several
from ntkcl_jax.devices.memory import exhausted
from ntkcl_jax.errors import RunFolderError, reason
from ntkcl_jax.weights import file_sha256

MANIFEST = "manifest.json"
PARTIAL = ".partial"
SPARE_BYTES = 2**20
"""Room beside the arrays themselves that a checkpoint's small files may take."""
Trees = dict[str, dict[str, Any]]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, never a part.

    Raises:
        RunFolderError: the folder can't be written (full or read-only disk).
    """
    partial = path.with_name(path.name + PARTIAL)
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    try:
        with open(partial, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_error(path: Path, error: Exception) -> RunFolderError:
    """Say that something can't be written, and what to do."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # how orbax's storage hands the system's error on
    said = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or reason(error)
    return RunFolderError(f"can't write {path}: {said}; free some space or choose a folder that you may write")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _check_room(folder: Path, trees: Trees) -> None:
    """Raise the disk's error before orbax meets it: its threads would fill the terminal with traces of their own."""
    need = sum(x.nbytes for x in jax.tree.leaves(trees)) + SPARE_BYTES
    if shutil.disk_usage(folder).free < need:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _no_traces() -> Generator[None]:
    """Keep orbax's threads from logging or printing the traces of an error that is raised here as well."""
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook
    was = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True

    def note(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):  # a request to stop, which mustn't be lost
            hook(unraisable)

    sys.unraisablehook = note  # its storage tells it that orbax, failing, has closed the event loop
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, disabled in zip(loggers, was, strict=True):
            logger.disabled = disabled


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Hold Ctrl-C and SIGTERM back until a checkpoint is whole: an exception inside orbax's threads helps nobody."""
    if threading.current_thread() is not threading.main_thread():  # signals only ever reach the main thread
        yield
        return
    held: list[int] = []
    usual = {n: signal.signal(n, lambda number, _: held.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        for number in held[:1]:  # however often Ctrl-C was pressed, the run is asked once
            signal.raise_signal(number)


def save(path: Path, trees: Trees, meta: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; one of the same name is replaced.

    Args:
        path: the checkpoint's folder.
        trees: name to flat tree of arrays.
        meta: JSON-able facts beside the arrays.

    Raises:
        RunFolderError: the disk is full or read-only.
    """
    from orbax.checkpoint import v1 as ocp  # half a second of imports that `evaluate --help` needn't pay

    partial = path.with_name(path.name + PARTIAL)
    with _no_traces():
        try:
            on_first(lambda: _open(partial, trees))
            if not several():  # otherwise each process writes the parts that its devices hold
                trees = jax.tree.map(np.asarray, trees)
            with _uninterrupted():
                ocp.save(str(partial.absolute() / "arrays"), trees)  # orbax refuses relative paths
            on_first(lambda: _close(partial, path, meta))
            return
        except jax.errors.JaxRuntimeError:  # another process is lost
            raise
        except (OSError, ValueError, RuntimeError) as error:
            said = write_error(path, error)  # not `from` it: it would keep orbax's tasks alive
        _discard(partial)
        gc.collect()  # those that failed too complain when they are collected: here, where nothing is printed
    raise said


def _open(partial: Path, trees: Trees) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process left under this name
    partial.mkdir(parents=True)
    _check_room(partial, trees)


def _close(partial: Path, path: Path, meta: dict[str, Any]) -> None:
    (partial / "meta.json").write_text(json.dumps(meta, allow_nan=False))
    # Last of all files, since a folder counts as whole by its manifest
    manifest = {str(p.relative_to(partial)): file_sha256(p) for p in _files(partial)}
    (partial / MANIFEST).write_text(json.dumps(manifest))
    # Contents reach the disk before the name does: a power cut mustn't leave a name over nothing
    for file in [*_files(partial), partial / MANIFEST]:
        with open(file, "rb") as f:
            os.fsync(f.fileno())
    # No folder can be renamed over a full one; killed in between, the checkpoint is absent and made again
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _discard(partial: Path) -> None:
    """Delete a half-written checkpoint; orbax's threads may still be putting files into it for a moment."""
    for _ in range(20):
        shutil.rmtree(partial, ignore_errors=True)
        time.sleep(0.05)
        if not partial.exists():
            return


def exists(path: Path) -> bool:
    """Tell whether a checkpoint of this name was completed.

    Raises:
        RunFolderError: the folder can't be looked into.
    """
    try:
        return (path / MANIFEST).is_file()
    except OSError as error:  # it may not be entered, or its name is too long
        raise RunFolderError(f"can't read {path}: {error.strerror}; check its permissions") from error


def load(path: Path, like: Trees | None = None) -> tuple[Trees, dict[str, Any]]:
    """Read a checkpoint and verify every byte.

    Args:
        path: the checkpoint's folder.
        like: arrays, or shapes of arrays, whose names, shapes and types it must have; None takes what there is.

    Returns:
        The trees as NumPy arrays, and the facts.

    Raises:
        RunFolderError: missing, incomplete, altered, or of another network.
    """
    if not exists(path):
        raise RunFolderError(f"no whole checkpoint at {path}; the run hasn't come that far, or the folder was cut")
    try:
        manifest = read_json(path / MANIFEST)
        there = {str(file.relative_to(path)) for file in _files(path)}
        listed = set(manifest)
        # Hidden files beside ours (a file manager's, a network drive's) are no damage
        strange = sorted((listed - there) | {name for name in there - listed if not Path(name).name.startswith(".")})
        if strange:  # a name that leads elsewhere is none of them either
            raise RunFolderError(
                f"checkpoint {path} is damaged: {strange[0]!r} is in it or in its manifest, not in both; delete the "
                "folder and resume, or restore it from a copy"
            )
        altered = [name for name, sha in manifest.items() if file_sha256(path / name) != sha]
        if altered:
            raise RunFolderError(
                f"checkpoint {path} is damaged: {altered[0]} has changed since it was written; delete the folder and "
                "resume, or restore it from a copy"
            )
        with _no_traces():
            trees, meta = _arrays(path.absolute() / "arrays"), read_json(path / "meta.json")
        if not isinstance(meta, dict):  # whole by its hash, so somebody wrote it
            raise RunFolderError(
                f"checkpoint {path} holds facts that no run wrote: expected an object in meta.json, got "
                f"{type(meta).__name__}; delete the folder and resume, or restore it from a copy"
            )
        if like is not None:
            _check_like(path, trees, like)
        return trees, meta
    except RunFolderError:
        raise
    except Exception as error:  # readers of damaged files raise nearly everything
        if exhausted(error):
            raise
        raise RunFolderError(
            f"checkpoint {path} can't be read ({reason(error)}); delete the folder and resume"
        ) from error


def _check_like(path: Path, trees: Trees, like: Trees) -> None:
    """Refuse arrays of another network, which would fail deep inside this one."""

    # Names with types and shapes: two trees differ where one of these does
    def shapes(side: Trees) -> dict[str, str]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(side)
        return {jax.tree_util.keystr(key, simple=True, separator="/"): f"{x.dtype} {x.shape}" for key, x in leaves}

    there, wanted = shapes(trees), shapes(like)
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            raise RunFolderError(
                f"checkpoint {path} doesn't belong to this run: expected {wanted.get(name, 'no array')} as {name}, "
                f"got {there.get(name, 'none')}; delete the folder and resume, or restore the run's own from a copy"
            )


def _arrays(folder: Path) -> Trees:
    """Read arrays as NumPy: orbax would put them back onto the devices that wrote them, which may not be here."""
    from orbax.checkpoint import v1 as ocp

    options = ocp.options.MultiprocessingOptions()
    if several():  # each process reads for itself; orbax would let it wait for the others
        me = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
        )
    with ocp.Context(multiprocessing_options=options):
        stored = ocp.metadata(str(folder)).metadata
        like = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), stored)  # takes no memory
        return ocp.load(str(folder), like)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written below a folder."""
    for partial in list(folder.rglob("*" + PARTIAL)):  # a list: deleting while searching trips the search
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a checkpoint; it stops looking whole before its arrays go. Of several processes the first one does it."""
    if not first():
        return
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
