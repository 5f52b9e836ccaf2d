"""How much memory is free, for kernels to be planned with."""

import jax

from ntkcl_jax.devices.host_memory import host_memory

SHARE = 0.8
"""Part of the free memory that is planned with: compilers, other processes and fragments take the rest."""


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
