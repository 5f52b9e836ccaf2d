"""What goes wrong ends with one line that says what to do, exit code 2, and nothing half-done."""

import errno
import fcntl
import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from ntkcl_jax import checkpoint, cli
from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.data import batches, prepared
from ntkcl_jax.errors import NonFiniteError, RunFolderError
from ntkcl_jax.nn.model import Network
from ntkcl_jax.nn.weights import save_backbone
from ntkcl_jax.run import train
from ntkcl_jax.runfolder import RunFolder
from tests import tiny

Fail = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "data")


@pytest.fixture
def fail(capsys: pytest.CaptureFixture) -> Fail:
    """Run a command line that must fail: returns its one line on standard error."""

    def fail(*words: object) -> str:
        code = cli.run([str(word) for word in words])
        out, error = capsys.readouterr()
        assert (code, out) == (2, ""), error
        assert error.startswith("ntkcl: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        return error

    return fail


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny config; tests work on copies."""
    path = tmp_path_factory.mktemp("faults") / "run"
    train(tiny.config(), path, arrays=tiny.arrays(), quiet=True)
    return path


def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def resume(run: Path, **changes: object) -> dict:
    return train(tiny.config(**changes), run, arrays=tiny.arrays(), resume=True, quiet=True)


# Images


def no_folder(data: Path) -> None:
    shutil.rmtree(data)


def no_test_side(data: Path) -> None:
    shutil.rmtree(data / "test")


def empty_class(data: Path) -> None:
    for file in (data / "train" / "class3").iterdir():
        file.unlink()


def other_classes(data: Path) -> None:
    (data / "test" / "class6").rename(data / "test" / "class9")


def truncated(data: Path) -> None:
    file = next(iter(sorted((data / "train" / "class4").iterdir())))
    file.write_bytes(file.read_bytes()[:-60])


def no_image(data: Path) -> None:
    next(iter(sorted((data / "test" / "class2").iterdir()))).write_text("hello")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (no_folder, "data is missing, but must be a folder; expected <path>/train/<class>/*"),
        (no_test_side, "data/test is missing; expected <path>/train/<class>/*"),
        (empty_class, "train/class3 has no images"),
        (other_classes, "only in train: class6; only in test: class9; add or remove"),
        (truncated, "data/train/class4/036.png as an image"),
        (no_image, "data/test/class2/008.png as an image"),
    ],
)
def test_images_that_cannot_be_read_stop_a_run_before_it_starts(
    data: Path, tmp_path: Path, fail: Fail, damage: Callable[[Path], None], named: str
) -> None:
    damage(data)
    assert named in fail(*tiny.words(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_of_a_set_too_large_to_keep_still_ends_with_one_line(
    data: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "CACHE_BYTES", 0)
    for file in (data / "train").glob("*/*"):
        file.write_bytes(file.read_bytes()[:-60])
    assert "as an image" in fail(*tiny.words(data, tmp_path / "run", "--quiet"))


def test_a_class_name_cannot_steer_the_terminal(data: Path, tmp_path: Path, fail: Fail) -> None:
    for side in ("train", "test"):
        (data / side / "class1").rename(data / side / "\x1b[2Jclass1\nmore\u202e")
    (data / "train" / "class2" / "018.png").write_text("")
    next((data / "train").glob("*class1*")).joinpath("new.png").write_text("")
    error = fail(*tiny.words(data, tmp_path / "run"))
    assert "?[2Jclass1 more?/new.png" in error
    assert error.rstrip("\n").isprintable()


def test_too_little_memory_is_told_before_a_run_starts(
    data: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 999 kB\nMemAvailable: 1 kB\n")
    monkeypatch.setattr(batches.check_memory, "__defaults__", (tmp_path / "meminfo",))
    assert "of memory is free; use fewer images" in fail(*tiny.words(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# Settings


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data.resize", 7], "data.resize=7 is smaller than model.backbone.image_size=8; use at least 8"),
        (["--model.backbone.image-size", 10], "must be a multiple of backbone.patch_size, got 10 and 4; use e.g."),
        (["--data.first-task-classes", 8], "data.first_task_classes puts 8 classes into task 0, but the source has 7"),
        (["--data.first-task-classes", 0, "--data.classes-per-task", 9], "data.classes_per_task puts 9 classes into"),
        (["--data.transform-on", "device"], "data.transform_on=device needs images of one size in memory"),
        (["--data.source", "arrays"], "data.source='arrays' needs arrays=Arrays(...)"),
        (["--optimizer.learning-rate", "inf"], "optimizer.learning_rate must be a finite number"),
        (["--methods", "ntkcl", "magic"], "unknown method magic; choose from ntkcl, prototypes, sequential, joint"),
    ],
)
def test_settings_that_do_not_fit_stop_a_run_before_it_starts(
    data: Path, tmp_path: Path, fail: Fail, words: list, named: str
) -> None:
    assert named in fail(*tiny.words(data, tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_an_unknown_preset_is_refused_with_a_suggestion(tmp_path: Path, fail: Fail) -> None:
    assert "unknown preset 'digit'; did you mean digits?" in fail("train", "digit", "--run-dir", tmp_path / "run")
    assert "expected a preset first" in fail("train", "--run-dir", tmp_path / "run")
    assert "unknown command 'trian'; choose from demo, train" in fail("trian")


# Weights


def backbone(path: Path, config: BackboneConfig = tiny.BACKBONE) -> Path:
    network = Network(ModelConfig(config, 2, prompts=2, fusion_heads=1), task_classes=2, classes=4)
    save_backbone({k: np.asarray(v) for k, v in network.init(jax.random.key(0))[1].backbone.items()}, config, path)
    return path


def missing_weights(path: Path) -> None:
    assert not path.exists()


def text_weights(path: Path) -> None:
    path.write_text("no weights")


def cut_weights(path: Path) -> None:
    whole = backbone(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def deeper_weights(path: Path) -> None:
    backbone(path, BackboneConfig(image_size=8, patch_size=4, dim=16, depth=3, heads=2))


def wider_weights(path: Path) -> None:
    backbone(path, BackboneConfig(image_size=8, patch_size=4, dim=24, depth=2, heads=2))


def pickled_weights(path: Path) -> None:
    path.write_bytes(pickle.dumps({"cls_token": [0.0]}))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (missing_weights, "no weights at"),
        (text_weights, "is not a whole safetensors file"),
        (cut_weights, "is not a whole safetensors file"),
        (deeper_weights, "(the file looks like dim=16, depth=3, patch_size=4, channels=3)"),
        (wider_weights, "(the file looks like dim=24, depth=2, patch_size=4, channels=3)"),
        (pickled_weights, "looks like a pickle, which could run anything and is never opened; give a .safetensors"),
    ],
)
def test_weights_that_do_not_fit_stop_a_run_before_it_starts(
    data: Path, tmp_path: Path, fail: Fail, make: Callable[[Path], None], named: str
) -> None:
    path = tmp_path / ("weights.pth" if make is pickled_weights else "weights.safetensors")
    make(path)
    error = fail(*tiny.words(data, tmp_path / "run"), "--weights", path)
    assert str(path) in error
    assert named in error
    assert not (tmp_path / "run").exists()


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
    assert {p.name for p in (run / "checkpoints/seed0/task1").iterdir()} == {"before", "step3"}
    monkeypatch.undo()
    resume(run)
    assert (run / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert tiny.same_states(run, finished)
    assert tiny.records(run) == tiny.records(finished)


def test_a_damaged_checkpoint_is_named_and_learned_again(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path)
    after = run / "checkpoints/seed0/task1/after"
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


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_was_good(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"loss term \w+ is (nan|inf|-inf) at step \d+ of task 0; lower") as error:
        train(tiny.config(optimizer__learning_rate=1e30), run, arrays=tiny.arrays(), quiet=True)
    assert "\n" not in str(error.value)
    assert {p.name for p in (run / "checkpoints/seed0/task0").iterdir()} == {"before"}
    assert all(np.isfinite(value).all() for value in tiny.states(run).values())
    json.loads((run / "config.json").read_text())
