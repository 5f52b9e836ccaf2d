"""Settings refuse what can't work, say which field it is, and survive JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ntkcl_jax.config import (
    BACKBONES,
    BackboneConfig,
    ComputeConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from ntkcl_jax.config.codec import from_json, parse_json, to_json
from ntkcl_jax.config.methods import ReadoutConfig
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.runs.context import check_settings
from tests.support import streams as tiny


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        *((BackboneConfig, name, 0) for name in ("image_size", "patch_size", "channels", "dim", "depth", "heads")),
        (BackboneConfig, "image_size", 30),
        (BackboneConfig, "heads", 3),
        (ModelConfig, "adapter_rank", 0),
        (ModelConfig, "prompts", 0),
        (ModelConfig, "adapter_dropout", 1.0),
        (ModelConfig, "fusion_dropout", -0.1),
        (ModelConfig, "fusion_heads", 7),
        (ObjectiveConfig, "lambda_dis", -1.0),
        (ObjectiveConfig, "lambda_orth", -1.0),
        (ObjectiveConfig, "lambda_reg", -1.0),
        (ObjectiveConfig, "temperature", 0.0),
        (ObjectiveConfig, "orthogonality_rank", 0),
        (OptimizerConfig, "learning_rate", 0.0),
        (OptimizerConfig, "learning_rate", float("nan")),
        (OptimizerConfig, "momentum", 1.0),
        (OptimizerConfig, "weight_decay", -1.0),
        (OptimizerConfig, "batch_size", 0),
        (OptimizerConfig, "epochs", -1),
        (DataConfig, "first_task_classes", -1),
        (DataConfig, "classes_per_task", 0),
        (DataConfig, "limit_per_class", -1),
        (DataConfig, "resize", 0),
        (DataConfig, "workers", 0),
        (DataConfig, "crop_scale", (0.0, 1.0)),
        (DataConfig, "crop_scale", (0.5, 1.5)),
        (DataConfig, "crop_ratio", (2.0, 1.0)),
        (DataConfig, "affine_degrees", -1.0),
        (DataConfig, "affine_degrees", 181.0),
        (DataConfig, "affine_translate", (0.1, 1.1)),
        (DataConfig, "affine_translate", (-0.1, 0.1)),
        (DataConfig, "affine_scale", (0.1, 1.0)),
        (DataConfig, "affine_scale", (1.2, 1.1)),
        (DataConfig, "affine_shear", 61.0),
        (DataConfig, "source", "web"),
        (ComputeConfig, "eval_batch_size", 0),
        (ComputeConfig, "checkpoint_every_steps", 0),
        (ReadoutConfig, "gamma", 0.0),
        (ReadoutConfig, "compensation", -1.0),
        (ReadoutConfig, "bandwidth", 0.0),
        (ReadoutConfig, "tukey", 0.0),
        (ReadoutConfig, "shrinkage", 0.0),
        (ReadoutConfig, "wide_features", 0),
        (RunConfig, "methods", ("ntkcl", "magic")),
        (RunConfig, "methods", ()),
        (RunConfig, "seeds", ()),
        (RunConfig, "seeds", (1, 1)),
        (RunConfig, "seeds", (-1,)),
        (RunConfig, "seeds", (2**32,)),
    ],
)
def test_a_value_that_cannot_work_is_refused_and_its_field_is_named(part: Any, field: str, value: Any) -> None:
    word = "method" if field == "methods" else field
    with pytest.raises(ConfigError, match=word) as error:
        part(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__resize": 7}, "data.resize=7 is smaller than model.backbone.image_size=8; use at least 8"),
        ({"model__backbone": replace(tiny.BACKBONE, channels=1)}, "model.backbone.channels must be 3"),
        ({"optimizer__learning_rate": float("inf")}, "optimizer.learning_rate must be a finite number"),
        ({"model__mean_weight": float("nan")}, "model.mean_weight must be a finite number"),
        ({"data__crop_ratio": (0.5, float("inf"))}, "data.crop_ratio must be a finite number"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(tiny.config(**changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 2**40, "depth must be from 1 to 1024, got 1099511627776"),
        ("depth", 0, "depth must be from 1 to 1024, got 0"),
        ("image_size", 2**40, "image_size must be from 1 to 16384"),
        ("dim", 2**31, "dim must be from 1 to 32768"),
        ("mlp_ratio", 0.0, "mlp_ratio must make an MLP of 1 to 131072 units, got 0.0"),
        ("mlp_ratio", 1e300, "mlp_ratio must make an MLP of 1 to 131072 units, got 1e\\+300"),
    ],
)
def test_a_backbone_beyond_all_bounds_is_refused_before_it_takes_memory(field: str, value: Any, message: str) -> None:
    """As when `config.json` is forged: making 2**40 blocks would fill the memory first."""
    values = to_json(RunConfig())
    values["model"]["backbone"][field] = value
    with pytest.raises(ConfigError, match=f"backbone.{message}"):
        from_json(RunConfig, values)


def test_a_config_survives_its_json() -> None:
    config = tiny.config(seeds=(4, 2), methods=("joint", "ntkcl"), data__crop_scale=(0.2, 0.9))
    assert from_json(RunConfig, json.loads(json.dumps(to_json(config)))) == config


def test_a_config_of_another_version_is_refused() -> None:
    values = to_json(RunConfig())
    values["data"]["colour"] = 1
    with pytest.raises(ConfigError, match=r"RunConfig has no field data\.colour; was it written by another version"):
        from_json(RunConfig, values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.batch_size", True, "expected `int`, got `bool`"),
        ("optimizer.batch_size", 4.0, "expected `int`, got `float`"),
        ("optimizer.learning_rate", "0.1", "expected `float`, got `str`"),
        ("optimizer.later_learning_rate", False, "expected `float | null`, got `bool`"),
        ("data.flip", 1, "expected `bool`, got `int`"),
        ("data.crop_scale", [0.5], "expected `array` of length 2, got 1"),
        ("data.transform_on", "moon", "expected one of 'auto', 'host', 'device', got 'moon'"),
        ("data.transform_on", "a - at `$.b`", "expected one of 'auto', 'host', 'device', got 'a - at `$.b`'"),
        ("model.backbone", None, "expected `object`, got `null`"),
        ("weights", None, "expected `str`, got `null`"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_path(field: str, value: Any, message: str) -> None:
    values: dict[str, Any] = to_json(RunConfig())
    *above, name = field.split(".")
    part = values
    for step in above:
        part = part[step]
    part[name] = value
    with pytest.raises(ConfigError) as error:
        from_json(RunConfig, values)
    assert str(error.value) == f"RunConfig.{field}: {message}; restore it from a copy"


def test_of_a_list_the_element_is_named_and_of_words_that_are_no_text_the_line_is_one() -> None:
    with pytest.raises(ConfigError, match=r"RunConfig\.seeds\[1\]: expected `int`, got `null`"):
        from_json(RunConfig, {"seeds": [0, None]})
    with pytest.raises(ConfigError, match=r"surrogates not allowed; restore it from a copy"):
        from_json(DataConfig, {"transform_on": "\udcff"})
    with pytest.raises(ConfigError, match="RunConfig: expected `object`, got `array`; mend it"):
        from_json(RunConfig, [], remedy="mend it")


def test_fields_that_are_left_out_have_their_defaults_and_integers_become_floats() -> None:
    config = from_json(RunConfig, {"optimizer": {"learning_rate": 1}})
    assert config == RunConfig(optimizer=OptimizerConfig(learning_rate=1.0))
    assert type(config.optimizer.learning_rate) is float


def test_a_path_that_is_no_utf8_survives_json() -> None:
    config = RunConfig(data=DataConfig(path="\udcff/images"))
    assert from_json(RunConfig, parse_json(json.dumps(to_json(config)))) == config


def test_configs_are_frozen_and_hashable() -> None:
    with pytest.raises(AttributeError):
        RunConfig().seeds = (1,)  # type: ignore[misc]
    assert len({RunConfig(), RunConfig(), RunConfig(seeds=(1,))}) == 2


def test_backbones_have_the_known_shapes() -> None:
    assert BACKBONES["base"].tokens == 197
    assert BACKBONES["nano"].tokens == 50


def test_a_feature_has_a_section_for_each_view() -> None:
    two, three = ModelConfig(), ModelConfig(pretrained_view=True, fusion_heads=1)
    assert (two.sections, two.feature_dim, two.section_weights) == (2, 128, (0.3, 0.1))
    assert (three.sections, three.feature_dim, three.section_weights) == (3, 192, (1.0, 0.3, 0.1))
