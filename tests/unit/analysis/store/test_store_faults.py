"""Accidents of the store: killed, damaged, full. Every one ends with the same bytes or with one line."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.store import KernelStore, load_analysis
from analysis.store import files as store_files
from tests.support import stored
from tests.support.stored import begun, contents, refused

ROOT = Path(__file__).parents[4]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored.finished(tmp_path_factory.mktemp("undisturbed") / "run")


def killed(run: Path, tiles: int) -> None:
    """Kill a process with SIGKILL after it has put some tiles."""
    command = [sys.executable, "-m", "tests.support.stored", str(run)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(tiles):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


def test_a_killed_process_leaves_whole_tiles_and_the_resumed_kernel_has_the_same_bytes(
    undisturbed: Path, run: Path
) -> None:
    killed(run, tiles=2)
    assert not KernelStore(run).exists(stored.spec())
    assert load_analysis(run).kernels == ()
    work = KernelStore(run).open(stored.spec(), resume=True)
    there = [pair for pair in work.spec.pairs if work.has(*pair)]
    assert 2 <= len(there) < 6
    again = list(stored.fill(work))
    assert sorted([*there, *again]) == sorted(work.spec.pairs)
    work.finish(stored.HEALTH, seconds=99.0)
    assert contents(work.final) == contents(undisturbed)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> list[str]:
    """Make the process die before the numbered change that the store makes to the disk by itself."""
    done: list[str] = []

    def counted(name: str, change: Callable) -> Callable:
        def step(self: Any, *rest: Any, **options: Any) -> Any:
            if len(done) == die_at:
                raise Killed
            done.append(name)
            return change(self, *rest, **options)

        return step

    from analysis.store.arrays import KernelArrays

    for owner, name in (
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "rename"),
        (Path, "rmdir"),
        (KernelArrays, "write"),
    ):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return done


def compute(run: Path, resume: bool) -> Path:
    store, spec = KernelStore(run), stored.spec(tile=4)
    if not store.exists(spec):
        work = store.open(spec, resume=resume)
        list(stored.fill(work))
        work.finish(stored.HEALTH, seconds=1.0)
    return store.path(spec)


def test_dying_before_any_step_whatever_leaves_nothing_wrong_behind(run: Path, tmp_path: Path) -> None:
    wanted = contents(compute(run, resume=False))
    for die_at in range(1000):
        other = tmp_path / f"died{die_at}"
        other.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            done = steps(patch, die_at)
            try:
                compute(other, resume=False)
            except Killed:
                pass
            else:
                break
        assert load_analysis(other).kernels == ()
        with pytest.MonkeyPatch.context() as patch:
            later = steps(patch, die_at=-1)
            assert contents(compute(other, resume=True)) == wanted
        # Three tile pairs; only one can have been written without having been noted.
        assert done.count("write") + later.count("write") <= 4
    assert die_at == len(done) > 12
    assert {"replace", "unlink", "rename", "rmdir", "write"} == set(done)


def test_several_processes_may_put_different_tiles_of_one_kernel(undisturbed: Path, run: Path) -> None:
    command = [sys.executable, "-m", "tests.support.stored", str(run)]
    hosts = [subprocess.Popen([*command, str(first)], cwd=ROOT, stdout=subprocess.DEVNULL) for first in (0, 1)]
    assert [host.wait() for host in hosts] == [0, 0]
    work = KernelStore(run).open(stored.spec(), resume=True)
    assert list(stored.fill(work)) == []
    work.finish(stored.HEALTH, seconds=1.0)
    assert contents(work.final) == contents(undisturbed)


def test_an_altered_tile_of_an_unfinished_kernel_is_computed_again(undisturbed: Path, run: Path) -> None:
    work = begun(run, tiles=4)
    flip(work.partial / "group-channel" / "c.0.1.0.0")
    (work.partial / "whole" / "c.0.2.0.0").unlink()
    (work.partial / "tiles" / "0-0.json").write_text("")
    (work.partial / "whole" / "c.1.2.0.0.__lock").write_bytes(bytes(100))  # what a killed process had in hand
    (work.partial / "tiles" / "1-2.json.5e0c.partial").write_text("{")
    work = KernelStore(run).open(stored.spec(), resume=True)
    assert [pair for pair in work.spec.pairs if work.has(*pair)] == [(1, 1)]
    list(stored.fill(work))
    work.finish(stored.HEALTH, 1.0)
    assert contents(work.final) == contents(undisturbed)


def test_an_unfinished_kernel_that_lost_its_description_is_not_trusted(run: Path) -> None:
    work = begun(run)
    (work.partial / "kernel.json").unlink()
    refused(lambda: KernelStore(run).open(stored.spec(), resume=True), "kernel.json is missing", "delete the folder")


def test_an_unfinished_kernel_with_a_damaged_array_is_named(run: Path) -> None:
    work = begun(run)
    cut(work.partial / "whole" / "zarr.json")
    refused(lambda: KernelStore(run).open(stored.spec(), resume=True), "full.partial can't be read", "delete")


def test_a_tile_altered_while_the_kernel_is_under_work_is_noticed_at_its_end(run: Path) -> None:
    work = begun(run, tiles=6)
    flip(work.partial / "whole" / "c.1.1.0.0")
    refused(lambda: work.finish({}, 1.0), "lacks 1 of 6 tiles", "(1, 1)")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["whole/c.0.1.0.0", "group-head/c.2.2.0.0", "group-channel/zarr.json", "kernel.json"])
def test_a_damaged_kernel_is_refused_with_the_file_and_what_to_do(
    undisturbed: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    folder = run / undisturbed.relative_to(undisturbed.parents[4])
    analysis = load_analysis(run)
    damage(folder / name)
    refused(lambda: analysis.stored(0, 1), str(folder / name), "delete the folder", "checkpoint1/full and compute")


def swap(first: Path, second: Path) -> None:
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


@pytest.mark.parametrize("other", ["whole/c.1.2.0.0", "group-head/c.0.1.0.0"])
def test_a_chunk_in_anothers_place_is_refused_though_its_own_checksum_is_right(
    undisturbed: Path, tmp_path: Path, other: str
) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    folder = run / undisturbed.relative_to(undisturbed.parents[4])
    swap(folder / "whole/c.0.1.0.0", folder / other)
    refused(lambda: load_analysis(run).stored(0, 1), str(folder), "/c.", "has changed", "delete the folder")


def test_a_chunk_in_anothers_place_of_an_unfinished_kernel_is_computed_again(undisturbed: Path, run: Path) -> None:
    work = begun(run, tiles=6)
    swap(work.partial / "whole" / "c.0.0.0.0", work.partial / "whole" / "c.1.1.0.0")
    work = KernelStore(run).open(stored.spec(), resume=True)
    assert [pair for pair in work.spec.pairs if not work.has(*pair)] == [(0, 0), (1, 1)]
    list(stored.fill(work))
    work.finish(stored.HEALTH, 1.0)
    assert contents(work.final) == contents(undisturbed)


@pytest.mark.parametrize("at", [0, 100, -5, -1])
def test_a_bit_that_flips_after_the_kernel_was_opened_is_found_when_it_is_read(
    undisturbed: Path, tmp_path: Path, at: int
) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    read = load_analysis(run).stored(0, 1)
    chunk = run / undisturbed.relative_to(undisturbed.parents[4]) / "whole/c.0.1.0.0"
    data = bytearray(chunk.read_bytes())
    data[at] ^= 16
    chunk.write_bytes(data)
    refused(read.matrix, "whole can't be read", "check the disk")


def test_a_kernel_of_the_layout_before_is_refused_in_one_line(undisturbed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    file = run / undisturbed.relative_to(undisturbed.parents[4]) / "kernel.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 1}))
    refused(lambda: load_analysis(run).stored(0, 1), "has layout 1, expected 2", "compute it again")


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "is missing"), ("", "can't be read"), ("[]", "holds no JSON object"), ("{}", "doesn't list")],
)
def test_a_damaged_manifest_is_refused(undisturbed: Path, tmp_path: Path, text: str | None, words: str) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    manifest = run / undisturbed.relative_to(undisturbed.parents[4]) / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    refused(lambda: load_analysis(run).stored(0, 1), str(manifest), words, "delete the folder")


@pytest.mark.parametrize("value", [{}, {"format": 1}, {"format": 1, "spec": {"n": 3}}, {"format": 9, "spec": {}}])
def test_a_description_that_is_none_is_refused(undisturbed: Path, tmp_path: Path, value: dict) -> None:
    run = shutil.copytree(undisturbed.parents[4], tmp_path / "copy")
    file = run / undisturbed.relative_to(undisturbed.parents[4]) / "kernel.json"
    file.write_text(json.dumps(value))
    refused(lambda: load_analysis(run).kernels, str(file))
    refused(lambda: KernelStore(run).exists(stored.spec()), str(file))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from analysis.errors import StoreError
from analysis.store import KernelStore
from tests.support import stored

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for run, limit in zip(sys.argv[1::2], map(int, sys.argv[2::2]), strict=True):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # no file grows beyond it
    try:
        list(stored.fill(KernelStore(Path(run)).open(stored.spec(tile=7))))
    except StoreError as error:
        print(error, file=sys.stderr)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    whole = stored.finished(tmp_path / "whole", tile=7)
    description = (whole / "kernel.json").stat().st_size
    chunk = (whole / "whole" / "c.0.0.0.0").stat().st_size
    assert description < chunk
    runs = {tmp_path / "nothing": 100, tmp_path / "description": description}
    for run in runs:
        run.mkdir()
    words = [str(word) for pair in runs.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 2, lines
    for run, line in zip(runs, lines, strict=True):
        assert line.startswith(f"can't write {run}")
        assert "File too large; free some space" in line
        assert load_analysis(run).kernels == ()
    assert [(run / "analysis/kernels/seed0/checkpoint1/full.partial").exists() for run in runs] == [False, True]
    work = KernelStore(tmp_path / "description").open(stored.spec(tile=7), resume=True)
    assert not work.has(0, 0)
    list(stored.fill(work))
    work.finish(stored.HEALTH, 1.0)
    assert contents(work.final) == contents(whole)


def test_a_folder_that_cannot_be_written_is_one_line(run: Path) -> None:
    (run / "analysis").write_text("in the way")
    refused(lambda: KernelStore(run).open(stored.spec()), "can't write", "kernel.json", "a folder that you may write")


def test_a_disk_that_fills_up_at_the_end_leaves_the_kernel_unfinished(
    undisturbed: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = begun(run, tiles=6)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_files.os, "fsync", full)
    refused(lambda: work.finish(stored.HEALTH, 1.0), "can't write", "No space left on device")
    monkeypatch.undo()
    assert load_analysis(run).kernels == ()
    work = KernelStore(run).open(stored.spec(), resume=True)
    assert list(stored.fill(work)) == []
    work.finish(stored.HEALTH, 1.0)
    assert contents(work.final) == contents(undisturbed)
