"""What arrays can't tell (heads, activation, pixels) and the files beside them do; files that hold half a network."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.errors import WeightsError
from ntkcl_jax.weights import from_timm, read_backbone
from ntkcl_jax.weights.beside import told
from ntkcl_jax.weights.convert import read_whole, show
from ntkcl_jax.weights.reading import open_tensors
from ntkcl_jax.weights.timm import TIMM
from tests.support import vits

SIZE = vits.SIZES["tiny"]
STATE = vits.case("timm", "tiny").state
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
OURS = {"architecture": "vit_custom", "num_features": SIZE.dim, "model_args": {"num_heads": 3}}
THEIRS = {"hidden_size": SIZE.dim, "num_hidden_layers": 3, "num_attention_heads": 3, "hidden_act": "gelu"}


def write(folder: Path, state: vits.Arrays = STATE, name: str = "model.safetensors", **beside: Any) -> str:
    save_file({key: np.ascontiguousarray(x) for key, x in state.items()}, folder / name)
    for file, content in beside.items():
        (folder / f"{file}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def refused(path: str, said: str, config: BackboneConfig = SIZE) -> None:
    with pytest.raises(WeightsError) as caught:
        read_backbone(path, config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [OURS, THEIRS], ids=["timm", "huggingface"])
def test_another_number_of_heads_than_the_file_beside_tells_is_refused(tmp_path: Path, config: dict) -> None:
    path = write(tmp_path, config=config)
    assert read_backbone(path, SIZE).tree
    said = "expected heads=4, got heads=3 (the file looks like dim=12, depth=3, patch_size=16, channels=3); its heads "
    refused(path, said + "are told by the config.json beside it; set", dataclasses.replace(SIZE, heads=4))
    assert "--model.backbone.heads 3" in show(path)["options"]
    with pytest.raises(WeightsError, match="has 3 attention heads, got --heads 6; leave it out"):
        read_whole(open_tensors(Path(path)), heads=6)


def test_timms_names_of_models_tell_their_heads() -> None:
    def heads(model: str) -> int | None:
        return told({"config.json": {"architecture": model, "num_features": 384}}, 384, 12).heads

    found = [heads(f"vit_{size}_patch16_224") for size in ("tiny", "small", "base", "large", "huge")]
    assert found == [3, 6, 12, 16, 16]
    assert heads("deit_small_patch16_224") == 6
    assert [heads(m) for m in ("vit_base_patch16_clip_224", "vit_giant_patch14_224", "resnet50")] == [None] * 3


def test_how_pixels_were_normalised_is_said(tmp_path: Path) -> None:
    def notes(**beside: Any) -> str:
        for file in tmp_path.iterdir():
            file.unlink()
        return "; ".join(read_backbone(write(tmp_path, **beside), SIZE).notes)

    said = "by the files beside it, it was trained with data.normalize="
    assert f"{said}imagenet" in notes(config=OURS | {"pretrained_cfg": PIXELS})
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert f"{said}half" in notes(config=THEIRS, preprocessor_config=half)
    odd = {"mean": [0.4] * 3, "std": [0.2] * 3}
    assert f"{said}mean [0.4, 0.4, 0.4] and deviation [0.2, 0.2, 0.2], which none of" in notes(
        config=OURS | {"pretrained_cfg": odd}
    )
    assert said not in notes(config=OURS | {"pretrained_cfg": {"mean": "black", "std": [1, 2]}})
    assert said not in notes(preprocessor_config=half)


def test_another_activation_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, config=THEIRS | {"hidden_act": "quick_gelu"})
    refused(path, "says hidden_act=quick_gelu, expected gelu; give another file")
    with pytest.raises(WeightsError, match="hidden_act=quick_gelu"):
        show(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[1]",
        "7",
        '{"format": 2, "config": {}, "weights": {}}',
        THEIRS | {"hidden_size": 24, "hidden_act": "relu"},
        THEIRS | {"num_hidden_layers": 12},
        OURS | {"num_features": 768},
        OURS | {"architecture": 3},
        OURS | {"model_args": [], "pretrained_cfg": 5},
        THEIRS | {"num_attention_heads": "3", "hidden_act": 7},
        THEIRS | {"num_attention_heads": True, "hidden_act": None},
        json.dumps(OURS) + " " * 2**21 + "x",
    ],
    ids=lambda content: str(content)[:40],
)
def test_a_file_beside_that_is_about_something_else_says_nothing(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path, config=content)
    assert show(path)["architecture"]["heads"] is None
    assert read_backbone(path, dataclasses.replace(SIZE, heads=2)).notes == read_backbone(path, SIZE).notes


def test_heads_that_are_unusual_for_a_width_are_said_where_nothing_tells_them(tmp_path: Path) -> None:
    config = BackboneConfig(image_size=8, patch_size=4, dim=192, depth=1, heads=3, mlp_ratio=0.5)
    path = write(tmp_path, vits.draw(TIMM.shapes(config)))
    assert read_backbone(path, config).notes == ()
    (note,) = read_backbone(path, dataclasses.replace(config, heads=12)).notes
    assert note.startswith("the file doesn't tell its attention heads: 12 as set, though 3 are usual for dim=192;")
    assert show(path)["notes"] == ["the file doesn't tell its attention heads: where they matter, 3 are assumed"]
    said = "the file doesn't tell its heads, 3 are usual for that width; set --model"
    refused(path, said, dataclasses.replace(config, dim=384, heads=6))
    assert read_whole(open_tensors(Path(path)), heads=4).notes  # unusual, so it is said


def test_options_of_an_odd_mlp_give_its_width_back(tmp_path: Path) -> None:
    """176 * (480 / 176) is 479.99999999999994."""
    config = BackboneConfig(image_size=8, patch_size=4, dim=176, depth=1, heads=1, mlp_ratio=2.7272727272727275)
    path = write(tmp_path, vits.draw(TIMM.shapes(config)))
    found = read_whole(open_tensors(Path(path))).config
    assert int(found.dim * found.mlp_ratio) == 480
    assert float(show(path)["options"].rpartition(" ")[2]) == found.mlp_ratio
    assert read_backbone(path, found).tree


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_grey_or_four_channels_are_refused_without_an_option_that_would_not_help(
    tmp_path: Path, channels: int
) -> None:
    kernel = np.repeat(STATE["patch_embed.proj.weight"][:, :1], channels, axis=1)
    path = write(tmp_path, STATE | {"patch_embed.proj.weight": kernel})
    refused(path, f"expected channels=3, got channels={channels}")
    refused(path, "; give weights for images of 3 channels")


@pytest.mark.parametrize("side", [8, 32])
def test_another_patch_size_is_never_resampled(tmp_path: Path, side: int) -> None:
    kernel = np.resize(STATE["patch_embed.proj.weight"], (SIZE.dim, 3, side, side))
    path = write(tmp_path, STATE | {"patch_embed.proj.weight": kernel})
    refused(path, f"expected patch_size=16, got patch_size={side}")
    refused(path, f"; patch embeddings are not resampled; set --model.backbone.image-size {3 * side} ")


def test_a_distilled_network_is_named_wherever_it_is_read(tmp_path: Path) -> None:
    token = {"dist_token": STATE["cls_token"], "head_dist.weight": STATE["head.weight"]}
    positions = np.concatenate([STATE["pos_embed"], STATE["cls_token"]], axis=1)
    path = write(tmp_path, STATE | token | {"pos_embed": positions})
    said = "2 more (dist_token, head_dist.weight, ...), which looks like a distillation token (a distilled DeiT)"
    refused(path, said)
    with pytest.raises(WeightsError) as caught:
        show(path)
    assert said in str(caught.value)


def test_an_unfinished_download_or_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with open(path, "r+b") as f:  # as long as the whole file, its end never written
        f.seek(-len(f.read()) // 3, 2)
        f.write(bytes(Path(path).stat().st_size - f.tell()))
    refused(path, "1 of its arrays hold nothing but zeros, the first is backbone/positions; is it an unfinished down")
    with pytest.raises(WeightsError, match="here: 21 of its arrays hold nothing but zeros"):
        from_timm({name: 0 * x for name, x in STATE.items()}, SIZE, "here")
    refused(write(tmp_path, name="model-00001-of-00002.safetensors"), "is one part of several")
    assert read_backbone(write(tmp_path, name="model-00001-of-00001.safetensors"), SIZE).tree
