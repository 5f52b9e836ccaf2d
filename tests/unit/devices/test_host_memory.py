"""Free memory: the machine's, or its container's if that is less."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ntkcl_jax.devices.host_memory import host_memory, keep_freed_memory


def files(root: Path, **contents: str) -> Path:
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return files(tmp_path, proc__meminfo="MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   8 kB\n")


def test_the_kernel_says_what_is_available(root: Path) -> None:
    assert host_memory(root) == 8 * 1024


@pytest.mark.parametrize(
    ("group", "limit", "used", "prefix"),
    [
        ("sys__fs__cgroup__", "memory-max", "memory-current", ""),
        ("sys__fs__cgroup__memory__", "memory-limit_in_bytes", "memory-usage_in_bytes", "total_"),
    ],
)
def test_a_containers_limit_counts_and_pages_of_files_do_not(
    root: Path, group: str, limit: str, used: str, prefix: str
) -> None:
    stat = f"anon 3000\n{prefix}inactive_file 400\n{prefix}active_file 50\n"
    files(root, **{group + limit: "5000\n", group + used: "4000\n", group + "memory-stat": stat})
    assert host_memory(root) == 1450
    files(root, **{group + limit: "max\n"})
    assert host_memory(root) == 8 * 1024
    files(root, **{group + limit: "100\n"})
    assert host_memory(root) == 0


def test_another_system_tells_all_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf")
    assert host_memory(tmp_path) > 2**60


FAULTS = """
import resource, sys, numpy
from ntkcl_jax.devices.host_memory import host_memory, keep_freed_memory
if sys.argv[1] == "keep": keep_freed_memory()
for _ in range(10): numpy.ones(6_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): numpy.ones(6_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, end=" ")
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
host_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_and_not_taken_anew_from_the_system() -> None:
    commands = ([sys.executable, "-c", FAULTS, word] for word in ("default", "keep"))
    (anew, _), (kept, given) = (map(int, subprocess.check_output(command).split()) for command in commands)
    assert anew > 200 > 50 > kept  # 48 MB ten times: 117,190 pages, or 230 huge ones
    assert given > 40e6


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    before = dict(os.environ)
    assert not keep_freed_memory()
    assert host_memory() > 0
    assert dict(os.environ) == before
