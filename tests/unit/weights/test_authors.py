"""A state dict of the authors' release becomes our trees and computes their features; every name is accounted for."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.errors import WeightsError
from ntkcl_jax.models.functional import Frozen
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.weights import read_authors, read_backbone
from ntkcl_jax.weights.reading import from_arrays, open_tensors

GOLDEN = Path(__file__).parents[2] / "golden"
CLASSES, TASK_CLASSES = 12, 7


@pytest.fixture(scope="module", params=["A", "C"])
def recorded(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{request.param}.npz", allow_pickle=False) as z:
        return dict(z)


def state_dict(z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the release would save at the start of task 1."""
    state = {name.removeprefix("init/"): x for name, x in z.items() if name.startswith("init/")}
    heads = {name.removeprefix("task1/start/"): x for name, x in z.items() if name.startswith("task1/start/")}
    return state | heads


def model(z: dict[str, np.ndarray]) -> ModelConfig:
    m = json.loads(bytes(z["meta_json_utf8"]))
    backbone = BackboneConfig(m["img"], m["patch"], 3, m["dim"], m["depth"], m["heads"], m["mlp_ratio"])
    return ModelConfig(backbone, adapter_rank=m["ffn_num"], prompts=m["P"], pretrained_view=m["use_init_ptm"])


def test_the_trees_compute_the_features_of_the_release(recorded: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_file({f"module.{name}": np.ascontiguousarray(x) for name, x in state_dict(recorded).items()}, path)
    config = model(recorded)
    got = read_authors(open_tensors(path), config, classes=CLASSES, task_classes=TASK_CLASSES)
    network = Network(config, task_classes=TASK_CLASSES, classes=CLASSES)
    images = recorded["data/task0/train_images_nhwc"][recorded["fwd/batch_idx"]]
    adaptation = {name: jnp.asarray(x) for name, x in got.adaptation.items()}
    frozen = Frozen(got.backbone, got.mean | got.prototypes)
    run = jax.jit(network.features, compiler_options={"xla_backend_optimization_level": 0})
    features = run(adaptation, frozen, images)
    for name, ours in (("channel_x", features.channel), ("patch_x", features.patch), ("mixed_x", features.hybrid)):
        np.testing.assert_allclose(ours, recorded[f"fwd/{name}"], rtol=0, atol=1e-5)
    rows = recorded["task1/start/fc.weight"]
    np.testing.assert_array_equal(got.prototypes["prototypes/kernel"][: len(rows)], rows)
    np.testing.assert_array_equal(got.prototypes["prototypes/seen"], np.arange(CLASSES) < len(rows))
    assert set(got.anchor) == {name for name in got.adaptation if not name.startswith("proxy/")}
    value = recorded["init/reg_fusion_model.value.weight"]
    np.testing.assert_array_equal(got.anchor["fusion/value/kernel"], value.T)


def test_its_backbone_can_be_used_alone(recorded: dict[str, np.ndarray], tmp_path: Path) -> None:
    theirs = {name: np.ascontiguousarray(x) for name, x in state_dict(recorded).items()}
    timm = {name.removeprefix("timm_ckpt/"): x for name, x in recorded.items() if name.startswith("timm_ckpt/")}
    save_file(theirs, tmp_path / "state.safetensors")
    save_file({name: np.ascontiguousarray(x) for name, x in timm.items()}, tmp_path / "timm.safetensors")
    config = model(recorded).backbone
    got = read_backbone(str(tmp_path / "state.safetensors"), config)
    wanted = read_backbone(str(tmp_path / "timm.safetensors"), config)
    for path, value in wanted.tree.items():
        np.testing.assert_array_equal(got.tree[path], value)
    assert any("left out" in note and "backbone.channel_prompt_list" in note for note in got.notes)


def test_a_name_too_few_or_too_many_or_another_shape_is_named(recorded: dict[str, np.ndarray]) -> None:
    state, config = state_dict(recorded), model(recorded)

    def refused(state: dict[str, np.ndarray], said: str, config: ModelConfig = config) -> None:
        with pytest.raises(WeightsError) as caught:
            read_authors(from_arrays(state, "x.pth"), config, classes=CLASSES, task_classes=TASK_CLASSES)
        assert said in str(caught.value)

    for name in ("fusion_model.key.bias", "backbone.pre_patch_prompt_list.1.prompt_norm.weight", "fc.sigma"):
        refused({n: x for n, x in state.items() if n != name}, f"x.pth lacks {name.removeprefix('backbone.')}")
    refused(state | {"fusion_model.out.bias": np.ones(3)}, "has fusion_model.out.bias, which is unknown")
    refused(state | {"backbone.gate.bias": np.ones(3)}, "has 1 more (backbone.gate.bias, ...)")
    wrong = dataclasses.replace(config, adapter_rank=config.adapter_rank + 1)
    refused(state, f"has shape (4, {config.backbone.dim}), expected (5, {config.backbone.dim})", wrong)
    wide = np.ones((CLASSES + 1, config.feature_dim))
    refused(state | {"fc.weight": wide}, f"expected at most ({CLASSES}, {config.feature_dim})")
