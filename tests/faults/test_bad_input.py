"""Images, settings and weights that can't be used stop a run before it starts, with one line and exit code 2."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.data import batches, prepared
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.weights import save_backbone
from tests.faults.conftest import Fail
from tests.support import streams as tiny

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
    monkeypatch.setattr(batches, "host_memory", lambda: 1024)
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
        (["--methods", "ntkcl", "magic"], "unknown method 'magic'; choose from ntkcl, ntkcl-ridge, prototypes, "),
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
    network = Network(ModelConfig(config, adapter_rank=2, prompts=2, fusion_heads=1), task_classes=2, classes=4)
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
