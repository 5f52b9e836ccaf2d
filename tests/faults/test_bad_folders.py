"""Run folders, disks and checkpoints that go wrong end with one line; nothing half-done is left looking whole."""

import errno
import fcntl
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax.errors import NonFiniteError, RunFolderError
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.training.run import train
from tests.faults.conftest import Fail, copy, resume
from tests.support import streams as tiny

# Run folders


def test_a_folder_that_holds_something_is_never_written_into(data: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    assert "already exists; choose another --run-dir, or add --resume" in fail(*tiny.words(data, tmp_path / "run"))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]
    assert "already exists" in fail(*tiny.words(data, tmp_path / "run" / "mine.txt"))


def test_there_is_nothing_to_resume_in_a_missing_folder(data: Path, tmp_path: Path, fail: Fail) -> None:
    assert "nothing to resume: there is no folder" in fail(*tiny.words(data, tmp_path / "run", "--resume"))
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_settings_names_the_first_difference(finished: Path) -> None:
    results = (finished / "results.json").read_bytes()
    with pytest.raises(RunFolderError, match=r"config.optimizer.learning_rate was 0.05, now 0.06; give the same ones"):
        resume(finished, optimizer__learning_rate=0.06)
    pixels = tiny.arrays().train_images.copy()
    pixels[0, 0, 0, 0] ^= 1
    other = tiny.arrays()
    object.__setattr__(other, "train_images", pixels)
    with pytest.raises(RunFolderError, match=r"data.fingerprint was .*, now "):
        train(tiny.config(), finished, arrays=other, resume=True, quiet=True)
    assert (finished / "results.json").read_bytes() == results


@pytest.mark.parametrize("inside", ["", "below/that"])
def test_a_folder_that_may_not_be_written_is_named(
    data: Path, tmp_path: Path, fail: Fail, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test run by root could write anywhere: here the system call answers as it would to a user."""
    run = tmp_path / inside / "run"

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert f"can't write {run}: Permission denied; " in fail(*tiny.words(data, run))


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(Path, "is_dir", refuse)
    for check in (RunFolder(tmp_path / "run").check_new, RunFolder(tmp_path / "run").check_resumable):
        with pytest.raises(RunFolderError, match=r"can't write .*run: Permission denied"):
            check()


def test_a_folder_below_a_file_is_refused(data: Path, tmp_path: Path, fail: Fail) -> None:
    (tmp_path / "file").write_text("")
    assert "file/run: Not a directory" in fail(*tiny.words(data, tmp_path / "file" / "run"))


def test_a_run_whose_config_cannot_be_written_leaves_no_folder(
    data: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "config.json: No space left on device; free some space" in fail(*tiny.words(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_two_processes_cannot_share_a_run_folder(finished: Path) -> None:
    with open(finished / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="is in use by another process; wait for it"):
            resume(finished)
    resume(finished)


@pytest.mark.parametrize("text", ['{"format": 1, "config": {"see', "", "[]", '{"format": 1}', '{"format": 99}', "\xff"])
def test_a_damaged_config_file_is_refused(finished: Path, tmp_path: Path, fail: Fail, text: str) -> None:
    run = copy(finished, tmp_path)
    (run / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunFolderError, match=r"restore it from a copy|use the version of ntkcl-jax that wrote it"):
        resume(run)
    assert str(run) in fail("evaluate", run)


# Disks and checkpoints


def test_a_full_disk_ends_a_run_and_it_goes_on_when_there_is_room(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit makes the checkpoint library itself fail, in the middle of its writing."""
    save, unlimited = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)
    run = tmp_path / "run"

    def limited(path: Path, *rest: object) -> None:
        if "task1/step6" in str(path):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, unlimited[1]))
        save(path, *rest)

    monkeypatch.setattr(checkpoint, "save", limited)
    try:
        with pytest.raises(RunFolderError, match=r"can't write .*task1/step6: .*; free some space or choose") as error:
            train(tiny.config(), run, arrays=tiny.arrays(), quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(error.value)
    assert {p.name for p in (run / "checkpoints/ntkcl/seed0/task1").iterdir()} == {"before", "step3"}
    monkeypatch.undo()
    resume(run)
    assert (run / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert tiny.same_states(run, finished)
    assert tiny.records(run) == tiny.records(finished)


def test_a_damaged_checkpoint_is_named_and_learned_again(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    after = run / "checkpoints/ntkcl/seed0/task1/after"
    largest = max((p for p in after.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
        largest.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"task1/after is damaged: .* delete the folder and resume"):
            resume(run)
    shutil.rmtree(after)
    resume(run)
    assert tiny.same_states(run, finished)
    assert (run / "results.json").read_bytes() == (finished / "results.json").read_bytes()


@pytest.mark.parametrize("when", ["before", "after", "step"])
def test_a_checkpoint_of_another_network_is_named(finished: Path, tmp_path: Path, when: str) -> None:
    """Whole in itself, as when folders of two runs were mixed up; the first array that differs is named."""
    run = copy(finished, tmp_path)
    folder = RunFolder(run)
    last = folder.task(0, 1, "after")
    trees, meta = checkpoint.load(last)
    path = folder.task(0, 1, "step1" if when == "step" else when)
    if when != "after":
        checkpoint.remove(last)
    if when == "step":
        leaves = {str(i): value for i, value in enumerate(trees["trainable"].values())}
        trees = {"trainable": trees["trainable"], "opt_state": leaves}
        meta = {"position": {"epoch": 0, "step": 1}}
    name = "proxy/scale"
    checkpoint.save(path, trees | {"trainable": trees["trainable"] | {name: np.zeros(2, np.float32)}}, meta)
    said = rf"{path} doesn't belong to this run: expected float32 \(1,\) as trainable/{name}, got float32 \(2,\); "
    with pytest.raises(RunFolderError, match=said):
        resume(run)
    if when != "step":
        with pytest.raises(RunFolderError, match=said):
            load_run(run, arrays=tiny.arrays()).task(1)
    checkpoint.save(path, {k: v for k, v in trees.items() if k != "trainable"}, meta)
    with pytest.raises(RunFolderError, match=r"as trainable/current/adapters/0/down/bias, got none; "):
        resume(run)


def test_the_state_before_a_finished_task_is_made_again_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    for task in (0, 2):
        shutil.rmtree(run / f"checkpoints/ntkcl/seed0/task{task}/before")  # as a damaged one's message says
    resume(run)
    assert tiny.same_states(run, finished)
    assert tiny.records(run) == tiny.records(finished)


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_was_good(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"loss term \w+ is (nan|inf|-inf) at step \d+ of task 0; lower") as error:
        train(tiny.config(optimizer__learning_rate=1e30), run, arrays=tiny.arrays(), quiet=True)
    assert "\n" not in str(error.value)
    assert {p.name for p in (run / "checkpoints/ntkcl/seed0/task0").iterdir()} == {"before"}
    assert all(np.isfinite(value).all() for value in tiny.states(run).values())
    json.loads((run / "config.json").read_text())
