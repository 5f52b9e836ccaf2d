"""Programs that XLA has compiled, kept on this machine's disk from one command to the next: JAX's persistent cache.

A kept program gives the same bits as one compiled anew. It is machine code that runs when it is read, so the folder is
used only where nobody but its owner can write; and since XLA runs programs of another machine's CPU after no more than
a warning, its name says which machine and which version of XLA it belongs to.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import stat
from pathlib import Path

FOLDER, SWITCH = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
"""JAX's own environment variables: where programs are kept, and whether."""
MOST_BYTES = 2**30
"""Kept at most; beyond it the oldest go."""
SECONDS = "0.2"
"""Programs that compile faster aren't worth a file."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def keep_programs(cache: Path | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Path | None:
    """Let JAX keep compiled programs; the commands begin with this. Call it before JAX is imported.

    What the user has set about it stays: `JAX_COMPILATION_CACHE_DIR` names another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.

    Args:
        cache: the user's folder for caches; None: `$XDG_CACHE_HOME`, else `~/.cache`.
        cpuinfo: the system's file on its CPU.

    Returns:
        The folder; None where the user has decided, or others could write there.
    """
    if FOLDER in os.environ or SWITCH in os.environ:
        return None
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = folder.expanduser()
        own = [folder, *(folder := folder / name for name in ("ntkcl-jax", "programs", machine_key(cpuinfo)))]
        for part in own:
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(map(owners_alone, own)):
            return None
        drop_oldest(folder.parent)
    except (OSError, RuntimeError):  # no home, a full or read-only disk: programs are compiled each time
        return None
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", SECONDS)
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # It writes lines about CPU features for each program that it reads on the machine that made it
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return folder


def machine_key(cpuinfo: Path) -> str:
    """A name for this kind of machine and this version of XLA, 16 hexadecimal digits.

    Example:
        >>> len(machine_key(Path("/proc/cpuinfo"))), machine_key(Path("nowhere")) == machine_key(Path("nowhere"))
        (16, True)
    """
    about = [platform.system(), platform.machine(), platform.processor(), importlib.metadata.version("jaxlib")]
    with contextlib.suppress(OSError):
        # All cores have the same; `flags` (x86) and `Features` (ARM) are what programs are compiled for
        lines = cpuinfo.read_text().splitlines()
        about += sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]


def owners_alone(folder: Path) -> bool:
    """Whether it is a folder of this user, no link, in which nobody else may write.

    Example:
        >>> owners_alone(Path("/tmp"))  # everybody may
        False
    """
    found = folder.lstat()
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and mine and not found.st_mode & OTHERS_WRITE


def drop_oldest(folder: Path, most: int = MOST_BYTES) -> None:
    """Delete the oldest files below a folder until they take no more than some bytes."""
    files = [(file.lstat(), file) for file in folder.rglob("*") if not file.is_dir()]
    total = sum(found.st_size for found, _ in files)
    for found, file in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= most:
            return
        with contextlib.suppress(OSError):  # another process was first
            file.unlink()
        total -= found.st_size
