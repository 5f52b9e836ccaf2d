"""Free memory: the machine's, or its container's if that is less."""

import os
from pathlib import Path

import pytest

from ntkcl_jax.machine import host_memory


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
