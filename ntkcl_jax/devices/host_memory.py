"""Memory of this machine: how much it can still give, and what a process keeps of it."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

CONTAINERS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", ""),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Control groups version 2 and 1: folder, limit, use, and how the names in `memory.stat` begin."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of two settings of glibc's `mallopt`."""
DISPATCH = "JAX_CPU_ENABLE_ASYNC_DISPATCH"
"""Environment variable by which JAX on a CPU computes in the thread that asks or in another."""


def keep_freed_memory() -> bool:
    """Let this process use memory again that it has freed, where its C library is glibc; the commands begin with this.

    On a CPU, XLA takes memory for a program's intermediate results at each call and frees it after. glibc gets every
    block above 32 MiB from the system and gives it back at once, and the system has to clear all its pages at each
    training step: over a third of its time for 32 small images, a fifth at ViT-B/16 (docs/performance.md).
    After this, blocks come from the heap, which isn't given back before the process ends or `host_memory` is asked.
    Only one thread's heap may grow that far, so programs run in the thread that calls them.

    Call it before JAX is used. It changes speed and memory only, no number.

    Returns:
        Whether the C library took it.

    Example:
        >>> keep_freed_memory() or platform.libc_ver()[0] != "glibc"
        True
    """
    if not _on_glibc():
        return False
    # JAX reads it when it is imported; where that is past, its settings count. What the user has set stays
    os.environ.setdefault(DISPATCH, "false")
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(DISPATCH.lower(), os.environ[DISPATCH].lower() in ("1", "true"))
    mallopt = ctypes.CDLL(None).mallopt
    # No block straight from the system, and nothing at the heap's end back to it
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Give the system all memory that this process has freed and kept."""
    if _on_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _on_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def host_memory(root: Path = Path("/")) -> int:
    """Bytes free in this machine's main memory, or in this process's container if that is less.

    What this process has freed and kept is given back first.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        On a system without them all of its memory; `sys.maxsize` where even that can't be asked.

    Example:
        >>> 0 < host_memory() < host_memory(Path("nowhere"))
        True
    """
    give_back_freed_memory()
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else sys.maxsize
    for folder, limit, used, prefix in CONTAINERS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
            most, now = (int((root / folder / name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in (root / folder / "memory.stat").read_text().splitlines())
            files = sum(int(stat.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))
            free = min(free, most - now + files)  # pages of files are given back when somebody asks
    return max(free, 0)
