"""How much memory this machine can still give."""

import contextlib
import os
import sys
from pathlib import Path

CONTAINERS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", ""),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Control groups version 2 and 1: folder, limit, use, and how the names in `memory.stat` begin."""


def host_memory(root: Path = Path("/")) -> int:
    """Bytes free in this machine's main memory, or in this process's container if that is less.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        On a system without them all of its memory; `sys.maxsize` where even that can't be asked.

    Example:
        >>> 0 < host_memory() < host_memory(Path("nowhere"))
        True
    """
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
