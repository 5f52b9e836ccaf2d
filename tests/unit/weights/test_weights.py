"""Backbone weights go to timm's names and back; every file that doesn't fit is refused with a line that says why."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ntkcl_jax import weights
from ntkcl_jax.config import BACKBONES, BackboneConfig
from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights import backbone, from_timm, load_backbone, save_backbone, timm_names, to_timm

SMALL = BackboneConfig(image_size=6, patch_size=3, channels=2, dim=4, depth=2, heads=2, mlp_ratio=1.5)
State = dict[str, np.ndarray]


def timm_state(config: BackboneConfig = SMALL) -> State:
    """Different numbers in the shapes that timm writes."""
    d, hidden, p = config.dim, int(config.dim * config.mlp_ratio), config.patch_size
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, config.tokens, d),
        "patch_embed.proj.weight": (d, config.channels, p, p),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    for i in range(config.depth):
        for part, out, size in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", hidden, d),
            ("mlp.fc2", d, hidden),
        ):
            shapes |= {f"blocks.{i}.{part}.weight": (out, size), f"blocks.{i}.{part}.bias": (out,)}
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.weight": (d,), f"blocks.{i}.{part}.bias": (d,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def refused(state: State, line: str, config: BackboneConfig = SMALL) -> None:
    with pytest.raises(WeightsError, match=re.escape(line)) as caught:
        from_timm(state, config, "w.safetensors")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("w.safetensors")


def test_a_state_dict_survives_the_way_here_and_back() -> None:
    state = timm_state()
    tree = from_timm(state, SMALL)
    assert {path: x.shape for path, x in tree.items()} == weights.shapes(SMALL)
    back = to_timm(tree, SMALL)
    assert set(back) == set(state) == set(timm_names(SMALL))
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_linear_maps_are_transposed_and_patches_are_flattened_row_by_row() -> None:
    state = timm_state()
    tree = from_timm(state, SMALL)
    np.testing.assert_array_equal(tree["backbone/blocks/1/proj/kernel"], state["blocks.1.attn.proj.weight"].T)
    kernel = tree["backbone/patch_embed/kernel"].reshape(3, 3, 2, 4)  # height, width, channel, out
    for row, column, channel in np.ndindex(3, 3, 2):
        np.testing.assert_array_equal(
            kernel[row, column, channel], state["patch_embed.proj.weight"][:, channel, row, column]
        )


def test_half_precision_is_read_as_float32_and_a_classification_head_is_ignored() -> None:
    state = {name: value.astype(np.float16) for name, value in timm_state().items()}
    tree = from_timm(
        state | {"head.weight": np.ones((5, 4)), "head.bias": np.ones(5), "fc_norm.weight": np.ones(4)}, SMALL
    )
    assert {x.dtype for x in tree.values()} == {np.dtype(np.float32)}
    assert not any("head" in path for path in tree)


def test_a_missing_tensor_is_named() -> None:
    state = timm_state()
    del state["blocks.1.mlp.fc2.bias"]
    refused(state, "lacks 1 tensors (blocks.1.mlp.fc2.bias, ...); expected timm's names of a ViT with 2 blocks")
    refused({name: state[name] for name in state if name != "cls_token"}, "lacks 2 tensors (cls_token, blocks.1.mlp.")


def test_an_unknown_tensor_is_named() -> None:
    refused(
        timm_state() | {"blocks.0.ls1.gamma": np.ones(4)},
        "has 1 more (blocks.0.ls1.gamma, ...), which looks like layer scale",
    )


def test_a_deeper_file_says_how_deep_it_is_and_how_to_use_it() -> None:
    deep = timm_state(replace(SMALL, depth=3))
    refused(deep, "expected depth=2, got depth=3 (the file looks like dim=4, depth=3, patch_size=3, channels=2); set ")
    refused(
        deep, "--model.backbone.dim 4 --model.backbone.depth 3 --model.backbone.mlp-ratio 1.5, or give another file"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dim": 6}, "expected dim=4, hidden=6, got dim=6, hidden=9 (the file looks like dim=6, depth=2"),
        ({"channels": 3}, "expected channels=2, got channels=3"),
        ({"patch_size": 2, "image_size": 4}, "expected patch_size=3, got patch_size=2"),
        ({"patch_size": 2, "image_size": 4}, "; patch embeddings are not resampled; set --model.backbone.image-size 4"),
        ({"mlp_ratio": 2.0}, "expected hidden=6, got hidden=8"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_another_architecture_is_named_with_the_shape_that_the_file_has(change: dict, said: str) -> None:
    refused(timm_state(replace(SMALL, **change)), said)


def test_an_array_of_another_shape_is_named_with_both_shapes() -> None:
    state = timm_state()
    refused(state | {"norm.bias": np.ones(5)}, "norm.bias has shape (5,), expected (4,)")
    refused(state | {"pos_embed": np.ones((1, 7, 4))}, "pos_embed has shape (1, 7, 4), expected (1, 5, 4)")
    refused(state | {"blocks.1.attn.qkv.weight": np.ones((4, 12))}, "has shape (4, 12), expected (12, 4)")


def test_two_names_for_one_array_are_refused() -> None:
    refused(timm_state() | {"module.norm.bias": np.ones(4)}, "has both norm.bias and module.norm.bias")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(bad: float) -> None:
    state = timm_state()
    state["blocks.0.attn.qkv.bias"][3] = bad
    refused(state, "blocks.0.attn.qkv.bias holds a number that isn't finite; the file is damaged")


def test_a_saved_backbone_loads_again_with_its_checksum(tmp_path: Path) -> None:
    tree = from_timm(timm_state(), SMALL)
    path = tmp_path / "small.safetensors"
    save_backbone(tree, SMALL, path)
    loaded, sha256 = load_backbone(str(path), SMALL)
    assert sha256 == weights.file_sha256(path)
    assert len(sha256) == 64
    for name, value in tree.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_the_shipped_backbone_loads_and_fits_the_nano_shape() -> None:
    tree, sha256 = load_backbone("nano", BACKBONES["nano"])
    assert {path: x.shape for path, x in tree.items()} == weights.shapes(BACKBONES["nano"])
    described = Path(weights.__file__).parents[1] / "assets" / "nano_glyphs.json"
    assert json.loads(described.read_text())["sha256"] == sha256


def test_the_shipped_backbone_in_another_shape_is_refused() -> None:
    with pytest.raises(WeightsError, match="the file looks like dim=64, depth=4, patch_size=4, channels=3"):
        load_backbone("nano", replace(BACKBONES["nano"], depth=5))


def test_a_damaged_shipped_backbone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").mkdir()
    save_file(timm_state(), tmp_path / "assets" / "nano_glyphs.safetensors")
    (tmp_path / "assets" / "nano_glyphs.json").write_text(json.dumps({"sha256": "0" * 64}))
    monkeypatch.setattr(backbone.resources, "files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"is damaged \(SHA-256 .*, not 000000000000…\); reinstall ntkcl-jax"):
        load_backbone("nano", SMALL)


def test_a_file_that_is_not_there_is_named_with_what_would_do(tmp_path: Path) -> None:
    path = str(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=re.escape(f"no weights at {path}; expected 'nano', 'random', or a")):
        load_backbone(path, SMALL)
    with pytest.raises(WeightsError, match="no weights at"):
        load_backbone(str(tmp_path), SMALL)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_called_not_whole(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_backbone(from_timm(timm_state(), SMALL), SMALL, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"is not a whole safetensors file .*; download it again") as caught:
        load_backbone(str(path), SMALL)
    assert "\n" not in str(caught.value)
