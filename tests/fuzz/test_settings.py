"""Whatever is asked for on a command line or stands in a config: a result, or one line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from analysis.cli import NTK_ANALYSIS
from experiments.sweep.settings import changed, leaves, parse_changes
from ntkcl_jax import cli
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import from_json, parse_json, to_json
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.training import run, verify
from ntkcl_jax.training.rehearsal import play
from tests.fuzz.harness import HOSTILE, JUNK, TEXTS, answer, answered, damaged_json, fuzz

CONFIG = to_json(RunConfig())
FIELDS = [name for name, _ in leaves(CONFIG)]
LITERALS = [name for name, value in leaves(CONFIG) if isinstance(value, str)]


def not_here(*_: Any, **__: Any) -> Any:
    raise NtkclError("nothing is trained in this test")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder; what would take long isn't begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "train", not_here)
    monkeypatch.setattr(play, "rehearse", not_here)
    monkeypatch.setattr(verify, "verify", not_here)
    yield
    assert list(tmp_path.iterdir()) == []


WORDS = [
    "--run-dir", "r", "--json", "--seeds", "0", "1", "-1", "1e9", "--optimizer.epochs", "--methods", "ntkcl",
    "--data.crop-scale", "--model.backbone.depth", "--help", "-h", "-", "=", "--run-dir=", "--data.path=/dev/null",
    "nano", "/", "/dev/null", "..", "--per-task", "--tile", "--part", "--outputs", "--memory-bytes", "digits",
    "--resume", "cifar100", "True", "None", "{}", "[1", "\x00", "\ud800", "--\x1b[2J", "--x\ny", "9" * 400, "--weights",
]  # fmt: skip
COMMANDS = [
    ["train"], ["train", "digits"], ["train", "digits", "--rehearse"], ["train", "digits", "--run-dir", "r"], ["demo"],
    ["evaluate"], ["verify"], ["presets"], ["weights"], ["weights", "show"], ["weights", "convert"], [],
]  # fmt: skip
ANALYSES = [
    ["kernels"],
    ["kernels", "r"],
    ["gaps", "r"],
    ["forecast", "r"],
    ["whatif", "r"],
    ["influence", "r"],
    ["advise", "r"],
    ["report"],
    ["report", "r"],
    [],
]
MORE = st.lists(st.one_of(st.sampled_from(WORDS), TEXTS), max_size=4)


@fuzz(18, command=st.sampled_from(COMMANDS), more=MORE)
def test_any_words_after_ntkcl_give_a_result_or_one_line(nowhere: None, command: list[str], more: list[str]) -> None:
    answered(cli.NTKCL, command + more)


@fuzz(12, command=st.sampled_from(ANALYSES), more=MORE)
def test_any_words_after_ntk_analysis_give_a_result_or_one_line(
    nowhere: None, command: list[str], more: list[str]
) -> None:
    answered(NTK_ANALYSIS, command + more)


@fuzz(60, name=st.sampled_from(FIELDS), value=JUNK, text=st.one_of(HOSTILE, TEXTS, st.just("1")), equals=st.booleans())
def test_any_word_after_set_changes_a_setting_or_gives_one_line(name: str, value: Any, text: str, equals: bool) -> None:
    answer(lambda: changed(RunConfig(), parse_changes([f"{name}={text}" if equals else name + text])))
    answer(lambda: changed(RunConfig(), {name: value}))


@fuzz(60, content=damaged_json(json.dumps(CONFIG)))
def test_any_config_file_gives_a_config_of_the_right_types_or_one_line(content: bytes) -> None:
    def read() -> None:
        try:
            value = parse_json(content)
        except ValueError as error:
            raise NtkclError(str(error)) from error
        config = from_json(RunConfig, value)
        assert type(config.optimizer.batch_size) is int
        assert all(type(seed) is int for seed in config.seeds)
        assert from_json(RunConfig, to_json(config)) == config

    answer(read)


@pytest.mark.parametrize("field", ["seeds", "model.backbone", "optimizer.batch_size", "data.crop_scale", "methods"])
def test_a_setting_of_another_type_in_a_config_file_is_named(field: str) -> None:
    *above, name = field.split(".")
    for junk in (None, "1", [None], {"a": 1}, [[1]]):
        values = to_json(RunConfig())
        part = values
        for step in above:
            part = part[step]
        part[name] = junk
        code, line = answer(lambda values=values: from_json(RunConfig, values))
        assert code == 2
        assert name in line or "BackboneConfig" in line
