"""The same weights give the same class tokens as in timm and transformers (`tests/golden/make_vits.py`), to 1e-5."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.weights import NumpyTree, read_backbone
from ntkcl_jax.weights.convert import convert
from ntkcl_jax.weights.resize import resize_positions
from tests.support import vits

CASES = [(library, size) for library in ("timm", "huggingface", "huggingface_classifier", "google")
         for size in vits.cases(library)]  # fmt: skip


def class_tokens(tree: NumpyTree, config: BackboneConfig) -> np.ndarray:
    network = Network(ModelConfig(config, adapter_rank=2, prompts=2, fusion_heads=1), task_classes=2, classes=4)
    return np.asarray(jax.jit(network.backbone_fn)(tree, vits.pixels(config.image_size)))


def write(path: Path, library: str, state: vits.Arrays) -> Path:
    if library == "google":
        np.savez(path.with_suffix(".npz"), **state)
        return path.with_suffix(".npz")
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def test_every_size_is_there() -> None:
    assert vits.cases("timm") == list(vits.SIZES)
    assert set(vits.cases("huggingface")) | set(vits.cases("huggingface_classifier")) == set(vits.SIZES)
    assert len(CASES) == 10


@pytest.mark.parametrize(("library", "size"), CASES)
def test_class_tokens_are_those_of_the_other_library(library: str, size: str, tmp_path: Path) -> None:
    case, config = vits.case(library, size), vits.SIZES[size]
    path = write(tmp_path / "w", library, case.state)
    tree, _, notes = read_backbone(str(path), config)
    ours = class_tokens(tree, config)
    np.testing.assert_allclose(ours, case.features, rtol=0, atol=1e-5)
    assert np.abs(case.features).max() > 1
    head = any("head" in name or "classifier" in name or "pooler" in name for name in case.state)
    assert any("left out, as no part of the backbone" in note for note in notes) == head


@pytest.mark.parametrize("size", vits.SIZES)
def test_class_tokens_at_another_image_size_are_those_of_timm(size: str, tmp_path: Path) -> None:
    case = vits.case("timm", size)
    config = dataclasses.replace(vits.SIZES[size], image_size=vits.OTHER_SIDES[size])
    tree, _, notes = read_backbone(str(write(tmp_path / "w", "timm", case.state)), config)
    np.testing.assert_allclose(tree["backbone/positions"], case.positions, rtol=0, atol=2e-6)
    np.testing.assert_allclose(class_tokens(tree, config), case.other, rtol=0, atol=1e-5)
    assert any("position embeddings resampled" in note for note in notes)


def test_the_position_of_the_class_token_is_never_resampled_and_a_constant_grid_stays_constant() -> None:
    positions = np.concatenate([np.full((1, 1, 2), 7.0), np.full((1, 9, 2), 3.0)], axis=1).astype(np.float32)
    for side in (1, 2, 5):
        new = resize_positions(positions, side)
        assert new.shape == (1, 1 + side * side, 2)
        np.testing.assert_array_equal(new[:, 0], positions[:, 0])
        np.testing.assert_allclose(new[:, 1:], 3.0, rtol=1e-6)
    assert resize_positions(positions, 3) is positions


@pytest.mark.parametrize("size", ["tiny", "large"])
@pytest.mark.parametrize("to", ["timm", "huggingface", "ntkcl"])
def test_every_kind_of_file_can_be_written_as_another_and_holds_the_same_backbone(
    to: str, size: str, tmp_path: Path
) -> None:
    case, config = vits.case("timm", size), vits.SIZES[size]
    source = write(tmp_path / "in", "timm", case.state)
    wanted = read_backbone(str(source), config).tree
    done = convert(str(source), tmp_path / "out.safetensors", to=to, heads=config.heads)
    tree, sha256, notes = read_backbone(done["written"], config, done["sha256"])
    assert sha256 == done["sha256"]
    assert not notes
    assert set(tree) == set(wanted)
    for path, value in wanted.items():
        np.testing.assert_array_equal(tree[path], value, err_msg=path)
    if to == "huggingface":
        theirs = set(vits.case("huggingface_classifier", size).state) - {"classifier.weight", "classifier.bias"}
        assert {f"vit.{name}" for name in load_file(done["written"])} == theirs


def test_googles_heads_are_kept_in_this_projects_own_files(tmp_path: Path) -> None:
    config = vits.SIZES["base"]
    source = write(tmp_path / "in", "google", vits.case("google", "base").state)
    convert(str(source), tmp_path / "out.safetensors", to="ntkcl", image_size=vits.OTHER_SIDES["base"])
    other = dataclasses.replace(config, image_size=vits.OTHER_SIDES["base"])
    wanted = read_backbone(str(source), other).tree
    tree = read_backbone(str(tmp_path / "out.safetensors"), other).tree
    for path, value in wanted.items():
        np.testing.assert_array_equal(tree[path], value, err_msg=path)
    with pytest.raises(Exception, match="expected heads=6, got heads=12"):
        read_backbone(str(tmp_path / "out.safetensors"), dataclasses.replace(other, heads=6))
