"""How much memory is free, for kernels to be planned with."""

import os
from pathlib import Path

import jax

SHARE = 0.8
"""Part of the free memory that is planned with: compilers, other processes and fragments take the rest."""
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, versions 2 and 1."""


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None


def host_memory() -> int:
    """Bytes free in this machine's main memory, or in this process's container if that is less.

    Example:
        >>> host_memory() > 0
        True
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, used in CGROUPS:
        most, now = _number(limit), _number(used)
        if most is not None and now is not None:
            free = min(free, most - now)
    return max(free, 0)


def planning_memory(devices: int = 1) -> int:
    """Bytes to plan with on each of the first local devices: a fixed share of what is free.

    Simulated devices share the host's memory.

    Example:
        >>> planning_memory() <= host_memory() or jax.default_backend() != "cpu"
        True
    """
    used = jax.local_devices()[: max(1, devices)]
    free = []
    for device in used:
        stats = device.memory_stats() if device.platform != "cpu" else None
        free.append(host_memory() // len(used) if not stats else stats["bytes_limit"] - stats["bytes_in_use"])
    return int(SHARE * min(free))
