"""Checkpoints: exact, whole or absent, and verified when read."""

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.weights import file_sha256

TREES = {
    "a": {"x/kernel": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "seen": np.array([True, False])},
    "b": {"count": np.array(3, np.int32), "special": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)},
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "one", TREES, {"task": 1})
    return tmp_path / "one"


def test_arrays_come_back_with_their_bits_types_and_shapes(saved: Path) -> None:
    trees, meta = checkpoint.load(saved)
    assert meta == {"task": 1}
    assert {name: set(tree) for name, tree in trees.items()} == {name: set(tree) for name, tree in TREES.items()}
    for name, tree in TREES.items():
        for key, value in tree.items():
            assert (trees[name][key].dtype, trees[name][key].shape) == (value.dtype, value.shape)
            assert trees[name][key].tobytes() == value.tobytes()


def test_a_checkpoint_of_the_same_name_is_replaced(saved: Path) -> None:
    checkpoint.save(saved, {"a": {"other": np.zeros(2)}}, {})
    assert set(checkpoint.load(saved)[0]["a"]) == {"other"}


def test_a_flipped_bit_in_any_file_is_found_and_named(saved: Path) -> None:
    files = [p for p in saved.rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 3
    for file in files:
        content = file.read_bytes()
        at = len(content) // 2
        file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(RunFolderError, match="delete the folder and resume") as error:
            checkpoint.load(saved)
        assert str(saved) in str(error.value)
        if file.name != checkpoint.MANIFEST:
            assert str(file.relative_to(saved)) in str(error.value)
        file.write_bytes(content)
    checkpoint.load(saved)


def test_a_truncated_or_missing_file_is_found_and_named(saved: Path) -> None:
    for file in [p for p in saved.rglob("*") if p.is_file() and p.stat().st_size]:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(RunFolderError, match="checkpoint"):
            checkpoint.load(saved)
        file.unlink()
        with pytest.raises(RunFolderError, match="checkpoint") as error:
            checkpoint.load(saved)
        assert file.name == checkpoint.MANIFEST or str(file.relative_to(saved)) in str(error.value)
        file.write_bytes(content)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"meta.json": 5}', ""])
def test_a_manifest_that_is_none_is_refused(saved: Path, text: str) -> None:
    (saved / checkpoint.MANIFEST).write_text(text)
    with pytest.raises(RunFolderError, match="delete the folder and resume"):
        checkpoint.load(saved)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_forged_facts_that_are_no_object_are_refused(saved: Path, text: str) -> None:
    (saved / "meta.json").write_text(text)
    manifest = json.loads((saved / checkpoint.MANIFEST).read_text())
    manifest["meta.json"] = file_sha256(saved / "meta.json")  # whole by its hash
    (saved / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=r"facts that no run wrote: expected an object in meta\.json"):
        checkpoint.load(saved)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no whole checkpoint at .*nowhere"):
        checkpoint.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device; free some space"):
        checkpoint.save(saved, {"a": {"other": np.zeros(2)}}, {})
    with pytest.raises(RunFolderError, match="No space left on device; free some space"):
        checkpoint.write_json(saved.parent / "x.json", {})
    assert set(checkpoint.load(saved)[0]) == {"a", "b"}
    assert [p.name for p in saved.parent.iterdir()] == ["one"]


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = checkpoint.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=checkpoint.SPARE_BYTES + 10))
    with pytest.raises(RunFolderError, match=r"can't write .*one: No space left on device; free some space"):
        checkpoint.save(tmp_path / "one", TREES, {})
    assert list(tmp_path.iterdir()) == []
    checkpoint.save(tmp_path / "two", {"a": {"x": np.zeros(10, np.uint8)}}, {})


def test_an_error_inside_the_library_becomes_the_systems_own_words(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(RunFolderError, match=r"can't write [^ ]*one: File too large; free some space") as error:
            checkpoint.save(tmp_path / "one", {"a": {"x": np.random.default_rng(0).normal(size=(40, 40))}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(error.value)) < 100 + len(str(tmp_path))
    assert "_SignalingThread" not in capfd.readouterr().err


def test_of_many_arrays_that_cannot_be_written_none_leaves_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    many = {"a": {f"x{i}": rng.normal(size=(40, 40)) for i in range(60)}}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        for _ in range(2):  # most tasks of the library complain only when others have ended it
            with pytest.raises(RunFolderError, match=r"can't write [^ ]*one: File too large; free some space"):
                checkpoint.save(tmp_path / "one", many, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"can't write .*file/one: Not a directory"):
        checkpoint.save(tmp_path / "file" / "one", TREES, {})


def test_a_removed_checkpoint_stops_looking_whole_first(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # killed in between
    checkpoint.remove(saved)
    assert not checkpoint.exists(saved)


def test_what_is_half_written_is_cleaned_away_and_nothing_else(saved: Path) -> None:
    run = saved.parent
    nested = run / "seed0" / "step3.partial" / "arrays" / "deep.partial"
    nested.mkdir(parents=True)
    (run / "results.json.partial").write_text("{")
    (run / "results.json").write_text("{}")
    checkpoint.clean(run)
    assert sorted(str(p.relative_to(run)) for p in run.glob("*")) == ["one", "results.json", "seed0"]
    assert list((run / "seed0").iterdir()) == []
    checkpoint.load(saved)


def test_json_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    checkpoint.write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
