"""Sweeps: every cell has a configuration, finished cells are left alone, tables come from the folders alone."""

import json
from pathlib import Path

import pytest

from experiments import choose, variants
from experiments.cells import finished, read_cells
from ntkcl_jax.metrics import TaskEvaluation, aggregate, summarise
from ntkcl_jax.presets import VARIANT_PARTS


def write_cell(root: Path, name: str, methods: tuple[str, ...], seeds: tuple[int, ...], right: int) -> None:
    """A finished cell whose final accuracy is `right` / 10, one point more with each seed."""
    summaries = {}
    for seed in seeds:
        tasks = [TaskEvaluation(0, (10,), (10,), 10), TaskEvaluation(1, (10, 10), (right + seed, right + seed), 20)]
        summaries[str(seed)] = dict.fromkeys(methods, summarise(tasks))
    summary = {m: aggregate([s[m] for s in summaries.values()]) for m in methods}
    (root / name).mkdir()
    (root / name / "results.json").write_text(json.dumps({"seeds": summaries, "summary": summary}))


def test_each_row_changes_only_the_named_part_of_the_presets() -> None:
    reference = variants.cell_config("digits--reference", None)
    for part in VARIANT_PARTS:
        one = variants.cell_config(f"digits--reference_+_paper_{part}", None)
        forms = {p: getattr(one.model, p, None) or getattr(one.objective, p) for p in VARIANT_PARTS}
        assert forms == {p: "paper" if p == part else "reference" for p in VARIANT_PARTS}
        assert (one.optimizer, one.data, one.seeds) == (reference.optimizer, reference.data, (0, 1, 2, 3, 4))


def test_the_presets_are_the_paper_row() -> None:
    from ntkcl_jax import preset

    assert variants.cell_config("scripts--paper", None) == preset("scripts", seeds=(0, 1, 2, 3, 4))


def test_hyper_parameters_are_chosen_on_other_seeds_and_streams() -> None:
    for stream in choose.STREAMS:
        for setting in choose.SETTINGS:
            config = choose.cell_config(f"{stream}--{setting}")
            assert config.data.source == "arrays"
            assert not set(config.seeds) & set(variants.SEEDS)


def test_a_cell_is_finished_when_every_seed_and_method_is_there(tmp_path: Path) -> None:
    config = variants.cell_config("digits--baselines", None)
    assert not finished(tmp_path / "cell", config)
    write_cell(tmp_path, "cell", variants.BASELINES, (0, 1), 5)
    assert not finished(tmp_path / "cell", config)
    write_cell(tmp_path, "whole", variants.BASELINES, variants.SEEDS, 5)
    assert finished(tmp_path / "whole", config)


def test_the_table_holds_what_the_folders_hold_and_dashes_elsewhere(tmp_path: Path) -> None:
    write_cell(tmp_path, "digits--paper", ("ntkcl",), (0, 1, 2), 5)
    write_cell(tmp_path, "digits--baselines", variants.BASELINES, (0,), 4)
    rows = {row[0]: row[1:] for row in variants.table(tmp_path, ["digits"])}
    assert rows["paper"][1:4:2] == ["60.00 ± 10.00", "3"]
    assert rows["paper"][-1] == "60.00"
    assert rows["prototypes"][1] == "40.00"
    assert rows["reference"] == ["–", "–", "–", "0", "–"]
    assert set(read_cells(tmp_path)) == {"digits--paper", "digits--baselines"}


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(KeyError):
        variants.cell_config("digits--nonsense", None)
