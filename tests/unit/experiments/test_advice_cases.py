"""Runs of known illness: what counts as helped, and a table that says so."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.store.advice_forms import Finding, MethodAdvice, Points
from experiments.advice import command
from experiments.advice.cases import CASES
from experiments.commands import read
from ntkcl_jax.config.presets import preset
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.terminal.options import parse_train

ROOT = Path(__file__).parents[3]


def test_every_case_is_a_command_that_is_understood() -> None:
    assert {case.illness for case in CASES} == {*command.HEADINGS, ""} and len(CASES) >= 10
    for case in CASES:
        words = case.words("r", 3)
        assert words[:2] == ["train", case.preset]
        read_back = parse_train(case.preset, preset(case.preset), words[2:]).config
        assert (read_back.methods, read_back.seeds) == ((case.method,), (3,))
    with pytest.raises(ConfigError, match="no case 'none'"):
        command.asked(["none"])


def test_an_advice_helped_where_its_method_is_better_beyond_noise_or_nothing_was_to_be_done() -> None:
    ill = next(case for case in CASES if case.illness == "readout")
    well = next(case for case in CASES if not case.illness)
    point = Points(value=90.0, error=1.0)
    quiet = MethodAdvice(method="ntkcl", final=point, says=("Well.",))
    loud = MethodAdvice(method="ntkcl", final=point, says=("Do.",), command=("ntkcl",), follow="frozen/ranpac")
    assert command.helped(well, quiet, {}) and not command.helped(well, loud, {})
    assert not command.helped(ill, quiet, {})
    after = {"frozen/ranpac": {"gain": 2.0, "error": 1.0}, "ntkcl": {"gain": 9.0, "error": 1.0}}
    assert not command.helped(ill, loud, after)
    assert command.helped(ill, loud, after | {"frozen/ranpac": {"gain": 2.01, "error": 1.0}})
    assert not command.helped(ill, loud, after | {"frozen/ranpac": {"gain": -9.0, "error": 1.0}})
    few = next(case for case in CASES if case.illness == "few")
    said = MethodAdvice(
        method="ntkcl", final=point, says=("Do.",), command=("ntkcl",), follow="ntkcl",
        findings=(Finding(kind="few", says="More."),),
    )  # fmt: skip
    told = {"gain": 1.0, "error": 4.0, "accuracy_error": 2.5}
    assert command.helped(few, said, {"ntkcl": told})
    assert not command.helped(few, said, {"ntkcl": told | {"accuracy_error": 2.51}})
    assert not command.helped(few, said, {"ntkcl": told | {"gain": -9.0}})


def test_accuracies_on_the_same_images_are_paired_and_others_are_not() -> None:
    before, after = np.array([True, False, False, False]), np.array([True, True, False, False])
    same = command.compared(after, before)
    assert (same["accuracy"], same["gain"]) == (50.0, 25.0)
    assert same["error"] == pytest.approx(100 * (3 / 16) ** 0.5 / 2)
    other = command.compared(np.tile(after, 2), before)
    assert other["gain"] == 25.0 and other["error"] == pytest.approx(100 * ((1 / 4) / 8 + (3 / 16) / 4) ** 0.5)


def test_the_page_is_what_was_measured_with_the_poor_cases_first() -> None:
    records = read(ROOT / "experiments" / "results" / "advice.json")
    text = command.page(dict(records))
    assert text in (ROOT / "experiments" / "RESULTS.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(records) >= 10
    answers = [row.rstrip("| ").endswith("yes") for row in rows]
    assert answers == sorted(answers) and f"{sum(answers)} of {len(answers)} helped" in text
    assert "/work" not in json.dumps(records)
