"""Time and memory of this process; no JAX, so that a process with torch alone can use it."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAIN_MEMORY = "--plain-memory"
"""Option of a benchmark that leaves freed memory to the C library, as any Python process does."""


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_s(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of some calls; the first one should be over already."""
    return statistics.median(timed(call) for _ in range(repeats))


def system_s() -> float:
    """CPU seconds that the system has spent for this process: clearing new pages, above all."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def resident_mb() -> float:
    """Highest resident memory since the last `forget_peak`, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        # The kernel counts in KiB
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def forget_peak() -> bool:
    """Start a new count of the highest memory, where the system can (Linux)."""
    try:
        # 5 resets the highest resident size and nothing else
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
