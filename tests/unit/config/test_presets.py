"""Every preset can be built, stored and read back, and says what the documents say."""

import json
from dataclasses import replace

import pytest

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.codec import from_json, to_json
from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.config.presets import PRESETS, VARIANT_PARTS, preset, with_variants
from ntkcl_jax.devices.flops import Stream, run_flops, task_sizes, training_flops
from ntkcl_jax.devices.memory import training_bytes
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.runs.context import check_settings
from ntkcl_jax.terminal.preset_card import estimates, header
from ntkcl_jax.terminal.progress import seconds


def parts(config: RunConfig) -> dict[str, str]:
    return {p: getattr(config.model, p, None) or getattr(config.objective, p) for p in VARIANT_PARTS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_json_and_names_itself(name: str) -> None:
    config = preset(name)
    assert config.preset == name
    assert from_json(RunConfig, json.loads(json.dumps(to_json(config)))) == config
    check_settings(config)
    assert set(config.methods) <= set(METHODS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_described_on_one_short_line(name: str) -> None:
    assert 20 < len(PRESETS[name].about) <= 120
    assert "\n" not in PRESETS[name].about


@pytest.mark.parametrize("name", [name for name, cell in PRESETS.items() if cell.benchmark])
def test_the_published_presets_use_the_reference_form_of_every_part(name: str) -> None:
    assert set(parts(preset(name)).values()) == {"reference"}
    backbone = preset(name).model.backbone
    assert (backbone.image_size, backbone.patch_size, backbone.dim, backbone.depth, backbone.heads) == (
        (224, 16, 768, 12, 12)
    )


def test_variants_are_set_one_by_one_or_all_at_once() -> None:
    config = preset("digits")
    assert set(parts(with_variants(config, all="paper")).values()) == {"paper"}
    mixed = parts(with_variants(config, all="paper", orthogonality="reference"))
    assert [p for p, form in mixed.items() if form == "reference"] == ["orthogonality"]
    for part in VARIANT_PARTS:
        changed = with_variants(with_variants(config, all="reference"), **{part: "paper"})
        assert [p for p, form in parts(changed).items() if form == "paper"] == [part]


def test_an_unknown_variant_or_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no part called fusoin has variants; choose from .*fusion"):
        with_variants(preset("digits"), fusoin="paper")
    with pytest.raises(ConfigError, match=r"unknown preset 'digit'; did you mean digits\? choose from digits, "):
        preset("digit")
    with pytest.raises(ConfigError, match=r"unknown preset 'zzz'; choose from digits, "):
        preset("zzz")


def test_fields_can_be_replaced_and_are_checked() -> None:
    assert preset("digits", seeds=(4,)).seeds == (4,)
    with pytest.raises(ConfigError, match="seeds must differ"):
        preset("digits", seeds=(4, 4))


@pytest.mark.parametrize("name", [name for name, cell in PRESETS.items() if cell.benchmark])
def test_a_header_estimates_memory_disk_and_time_from_the_configuration(name: str) -> None:
    config, benchmark = preset(name), BENCHMARKS[PRESETS[name].benchmark or ""]
    text = header(name)
    run = Stream(task_sizes(config), *benchmark.images)
    assert f"{run.steps(config):,} steps of {training_flops(config) / 1e12:.1f} TFLOP a seed" in text
    assert f"memory    {training_bytes(config) / 2**30:.1f} GiB to train" in text
    hours = run_flops(config, run) / 1e12
    assert f"0.1 TFLOP/s   {seconds(10 * hours)}" in text
    assert f"150 TFLOP/s   {seconds(hours / 150)}" in text
    assert f"ntkcl train {name} --rehearse" in text
    assert all(len(line) <= 150 for line in text.splitlines())


def test_estimates_follow_changes_of_the_configuration() -> None:
    config = preset("cifar100")
    small = replace(config, optimizer=replace(config.optimizer, batch_size=8, epochs=5))
    assert "62,600 steps of 3.0 TFLOP" in estimates(config, 50_000, 10_000)[0]
    assert "31,250 steps of 1.5 TFLOP" in estimates(small, 50_000, 10_000)[0]
