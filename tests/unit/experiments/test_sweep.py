"""Sweeps and tables: rows change what they name, lines hold what the folders hold, and unlike runs aren't averaged."""

import copy
import csv
import io
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep import streams
from experiments.sweep.cells import cells_of
from experiments.sweep.collect import page_with, write_report
from experiments.sweep.definitions import NANO_RATES, OFFLINE, SWEEPS
from experiments.sweep.published import reported
from experiments.sweep.results import Entry, Record, entries_of, read_records
from experiments.sweep.rows import Line, lines, method_rows
from experiments.sweep.settings import changed, leaves
from experiments.sweep.streams import one_stream, stream_config
from experiments.sweep.tables import as_csv, draw, section, stream_table
from ntkcl_jax import preset
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.config.presets import PRESETS, VARIANT_PARTS
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.runs.folder import FORMAT
from ntkcl_jax.training.metrics import TaskEvaluation, summarise

PAPER = next(line for line in lines(SWEEPS["variants"], ["digits"], ["paper"], {}))


def metrics(right: int) -> dict[str, Any]:
    """Two tasks of 10 images; all right at first, at the end `right` of each."""
    return summarise([TaskEvaluation(0, (10,), (10,), 10), TaskEvaluation(1, (10, 10), (right, right), 20)])


def write_run(folder: Path, config: RunConfig, right: dict[int, int], **changes: Any) -> Path:
    """A run folder with these final accuracies (in tenths) by seed.

    Args:
        folder: where.
        config: its settings and methods.
        right: seed to `metrics`' argument.
        **changes: `commit`, `modified`, `weights`, `images`, `preprocessing`.
    """
    facts = {"commit": "c1", "modified": False, "weights": "w1", "images": "i1"} | changes
    header = {
        "format": FORMAT,
        "config": to_json(replace(config, seeds=tuple(right))),
        "weights": {"name": "nano", "sha256": facts["weights"]},
        "data": {"fingerprint": facts["images"]},
        "scenarios": {},
        "git": {"commit": facts["commit"], "modified": facts["modified"]},
        "versions": {"jax": "1"},
        "command": ["/x/experiments/sweep.py", "variants"],
    }
    if "preprocessing" in facts:
        header["preprocessing"] = facts["preprocessing"]
    results = {"seeds": {str(s): dict.fromkeys(config.methods, metrics(n)) for s, n in right.items()}}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(header))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def found(root: Path, line: Line = PAPER, seeds: tuple[int, ...] = (0, 1, 2)) -> Entry:
    """What the folders below `root` hold for one line."""
    records, unreadable = read_records([root])
    assert unreadable == []
    return entries_of([line], records, seeds)[0]


def test_each_variant_changes_only_the_named_part_of_the_presets() -> None:
    rows = {line.name: line.config for line in lines(SWEEPS["variants"], ["digits"], [], {})}
    for part in VARIANT_PARTS:
        one = rows[f"reference + paper {part}"]
        forms = {p: getattr(one.model, p, None) or getattr(one.objective, p) for p in VARIANT_PARTS}
        assert forms == {p: "paper" if p == part else "reference" for p in VARIANT_PARTS}
        assert (one.optimizer, one.data) == (rows["reference"].optimizer, rows["reference"].data)
    assert rows["paper"] == preset("digits")


@pytest.mark.parametrize("stream", ["digits", "scripts", "uci-digits", "cifar100", "pets-in1k"])
def test_each_ablation_differs_from_the_preset_in_exactly_one_field(stream: str) -> None:
    first, *others = lines(SWEEPS["ablations"], [stream], [], {})
    assert first.config == preset(stream, seeds=first.config.seeds)
    base = dict(leaves(to_json(first.config)))
    fields = []
    for line in others:
        differing = [name for name, value in leaves(to_json(line.config)) if value != base[name]]
        assert len(differing) == 1
        fields += differing
        assert line.name.startswith(differing[0].split(".")[1])
    assert all(fields.count(f"objective.lambda_{name}") == 3 for name in ("dis", "orth", "reg"))
    assert {f"model.{name}" for name in ("fusion", "streams", "mean_weight", "adapter_rank", "prompts")} <= set(fields)
    assert len({line.name for line in others}) == len(others)


def test_the_table_of_methods_has_every_method_on_every_offline_stream() -> None:
    own = lines(SWEEPS["methods"], [], [], {})
    for stream in OFFLINE:
        plain = [line for line in own if line.stream == stream and not line.name.startswith("ntkcl reference")]
        assert sorted(line.method for line in plain) == sorted(METHODS)
        for line in plain:  # a baseline's rate at most
            rate = NANO_RATES.get(line.method)
            assert line.row.changes == ((("baselines.learning_rate", rate),) if rate else ())
    assert {(line.name, line.origin) for line in own} >= {
        ("ntkcl", "ours"), ("ntkcl-ridge", "ours"), ("ntkcl reference", "reproduced"),
        ("ntkcl reference, ntkcl-ridge", "ours"), ("ranpac", "reproduced"),
    }  # fmt: skip


def test_the_benchmarks_are_the_published_presets_with_their_numbers() -> None:
    own = lines(SWEEPS["benchmarks"], [], ["ntkcl", "l2p", "prototypes"], {})
    assert {line.stream for line in own} == {name for name, p in PRESETS.items() if p.published}
    by_name = {(line.stream, line.method): reported(line.config.preset, line.method) for line in own}
    ours, other = by_name["cifar100", "ntkcl"], by_name["cifar100", "l2p"]
    assert ours and (ours.average, ours.final) == (pytest.approx((0.9376, 0.9376)), pytest.approx((0.9027, 0.9027)))
    assert other and other.final == (0.8416, 0.8416)
    assert by_name["cifar100-in1k", "l2p"] is None  # its numbers are of other weights
    frozen = by_name["cifar100", "prototypes"]
    assert frozen and frozen.final == pytest.approx((0.813, 0.837))
    assert reported("digits", "ntkcl") is None
    ranpac = reported("cifar100", "ranpac")
    assert ranpac is not None and (ranpac.average, ranpac.final) == (None, (0.922, 0.922))
    assert reported("cifar100", "frozen/ranpac") is None  # its features weren't adapted, as published
    tuned = ("l2p", "dualprompt", "coda-prompt", "ease", "inflora")
    assert all(reported("cifar100", method) for method in tuned)


def test_hyper_parameters_are_chosen_on_other_seeds_and_streams() -> None:
    choice = SWEEPS["choose"]
    for line in lines(choice, [], [], {}):
        assert line.config.data.source == "arrays"
        assert one_stream(line.stream).arrays
    rates = SWEEPS["choose-baselines"]
    assert (rates.streams, rates.seeds) == (choice.streams, choice.seeds)
    tried = {(line.method, line.config.baselines.learning_rate) for line in lines(rates, [], [], {})}
    assert set(NANO_RATES.items()) <= tried
    for other in SWEEPS.values():
        assert other in (choice, rates) or not set(other.seeds) & set(choice.seeds)
    assert set(SWEEPS["choose-later"].streams) <= set(streams.CHOOSING)
    assert stream_config("icons", {}).data.classes_per_task == 10
    assert one_stream("dev-digits").arrays is streams.dev_digits
    assert "hyper-parameters on these very images" in SWEEPS["methods"].about


def test_rows_streams_and_fields_that_do_not_exist_are_refused() -> None:
    sweep = SWEEPS["variants"]
    with pytest.raises(ConfigError, match="no row 'nonsense'; choose from reference, paper"):
        lines(sweep, ["digits"], ["nonsense"], {})
    with pytest.raises(ConfigError, match=r"unknown stream 'nonsense'; choose from deit-omniglot, .*, omniglot, icons"):
        lines(sweep, ["nonsense"], [], {})
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.epochs"):
        lines(sweep, [], [], {"optimizer.epoch": 1})
    for field, value in (("model", 1), ("data.flip", 1), ("optimizer.epochs", 0.5), ("model.fusion", 1)):
        with pytest.raises(ConfigError):
            changed(preset("digits"), {field: value})
    both = {"model.backbone.image_size": 30, "model.backbone.patch_size": 5}  # neither fits without the other
    assert changed(preset("digits"), both).model.backbone.tokens == 37
    assert changed(preset("digits"), {"optimizer.later_learning_rate": None}).optimizer.later_learning_rate is None


def test_seeds_that_were_run_apart_meet_in_one_line_whatever_the_folders_are_called(tmp_path: Path) -> None:
    write_run(tmp_path / "here" / "a", PAPER.config, {0: 5})
    far = replace(PAPER.config.data, workers=8, path="/elsewhere")
    write_run(tmp_path / "there" / "deep" / "b", replace(PAPER.config, data=far, weights="/x.npz"), {1: 6, 2: 8})
    entry = found(tmp_path)
    assert (entry.refused, entry.notes) == ("", ())
    assert entry.metric("final_accuracy") == (
        pytest.approx(19 / 30),
        pytest.approx(statistics.stdev([0.5, 0.6, 0.8])),
        3,
    )
    assert entry.metric("forgetting") == (pytest.approx(11 / 30), pytest.approx(statistics.stdev([0.5, 0.4, 0.2])), 3)


def test_a_seed_that_was_not_asked_for_neither_counts_nor_spoils_the_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5})
    write_run(tmp_path / "b", PAPER.config, {7: 6}, images="i2")
    assert found(tmp_path, seeds=(0,)).metric("final_accuracy") == (0.5, None, 1)
    assert found(tmp_path, seeds=(0,)).refused == ""


def test_a_run_with_other_settings_counts_nowhere(tmp_path: Path) -> None:
    for i, field in enumerate(("objective.lambda_reg", "optimizer.epochs", "data.images_per_class", "compute.dtype")):
        value = "bfloat16" if field == "compute.dtype" else 7
        write_run(tmp_path / str(i), changed(PAPER.config, {field: value}), {0: 5})
    assert found(tmp_path).notes == ("not run",)
    assert found(tmp_path).metric("final_accuracy") is None


def test_a_run_from_before_a_setting_existed_counts_with_its_default(tmp_path: Path) -> None:
    path = write_run(tmp_path / "old", PAPER.config, {0: 5}) / "config.json"
    header = json.loads(path.read_text())
    del header["config"]["data"]["normalize"], header["config"]["baselines"]
    path.write_text(json.dumps(header))
    assert found(tmp_path, seeds=(0,)).metric("final_accuracy") == (0.5, None, 1)


@pytest.mark.parametrize("changes", [{"weights": "w2"}, {"images": "i2"}, {"preprocessing": "p2"}])
def test_seeds_of_other_weights_images_or_transforms_are_not_averaged(tmp_path: Path, changes: dict[str, str]) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5}, preprocessing="p1")
    write_run(tmp_path / "b", PAPER.config, {1: 5}, **({"preprocessing": "p1"} | changes))
    entry = found(tmp_path, seeds=(0, 1))
    name = {"preprocessing": "transforms"}.get(*changes, *changes)
    assert entry.refused == f"its seeds have different {name}"
    assert entry.metric("final_accuracy") is None
    assert f"| – | – | – | 2 | c1 | w1{' / w2' if name == 'weights' else ''} |" in stream_table([entry])
    assert f"refused: its seeds have different {name}" in stream_table([entry])


def test_two_results_of_one_seed_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5, 1: 6})
    write_run(tmp_path / "b", PAPER.config, {1: 6})
    assert found(tmp_path, seeds=(0, 1)).metric("final_accuracy") == (
        pytest.approx(0.55),
        pytest.approx(0.0707, abs=1e-4),
        2,
    )
    write_run(tmp_path / "c", PAPER.config, {1: 7})
    assert found(tmp_path, seeds=(0, 1)).refused == "seed 1 has two results, in a and c"


def test_commits_changes_and_missing_seeds_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5})
    write_run(tmp_path / "b", PAPER.config, {1: 6}, commit="c2", modified=True)
    entry = found(tmp_path, seeds=(0, 1, 2, 3))
    assert entry.refused == ""
    assert entry.notes == ("more than one commit", "uncommitted changes", "incomplete: seeds 2, 3 missing")
    row = stream_table([entry]).splitlines()[-1]
    assert "| 55.00 ± 7.07 |" in row
    assert "| 2 of 4 |" in row
    assert "| c1 / c2+ |" in row


def test_a_line_that_equals_another_on_every_seed_says_so(tmp_path: Path) -> None:
    own = lines(SWEEPS["variants"], ["digits"], ["reference", "paper", "joint"], {})
    for line, right in zip(own, (5, 5, 6), strict=True):
        write_run(tmp_path / line.name, line.config, {0: right})
    entries = entries_of(own, read_records([tmp_path])[0], (0,))
    assert [e.notes for e in entries] == [(), ("equals reference on every seed",), ()]


def test_a_damaged_folder_is_named_and_the_others_count(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5})
    (write_run(tmp_path / "b", PAPER.config, {1: 5}) / "results.json").write_text("{")
    records, unreadable = read_records([tmp_path])
    assert [record.seed for record in records] == [0]
    assert len(unreadable) == 1
    assert "b: RunFolderError" in unreadable[0]
    text = section("variants", SWEEPS["variants"], entries_of([PAPER], records, (0,)), [], unreadable)
    assert "Run folders that can't be read" in text


def test_lines_with_different_images_in_one_table_are_flagged(tmp_path: Path) -> None:
    own = lines(SWEEPS["variants"], ["digits"], ["paper", "joint"], {})
    write_run(tmp_path / "a", own[0].config, {0: 5})
    write_run(tmp_path / "b", own[1].config, {0: 6}, images="i2")
    text = section("variants", SWEEPS["variants"], entries_of(own, read_records([tmp_path])[0], (0,)), [], [])
    assert "**digits: lines with different images stand in one table: paper; joint**" in text


def test_the_csv_holds_every_digit_and_where_a_number_comes_from(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PAPER.config, {0: 5, 1: 6, 2: 8})
    (row,) = csv.DictReader(io.StringIO(as_csv("variants", [found(tmp_path)])))
    assert float(row["final_accuracy_mean"]) == statistics.fmean([0.5, 0.6, 0.8])
    assert float(row["final_accuracy_std"]) == statistics.stdev([0.5, 0.6, 0.8])
    facts = [row[name] for name in ("commit", "weights", "images", "packages", "command", "n", "seeds")]
    assert facts == ["c1", "w1", "i1", "jax 1", "python -m experiments.sweep variants", "3", "0 1 2"]


def test_the_figure_has_a_point_for_each_number_and_a_diamond_for_each_published_one() -> None:
    own = lines(SWEEPS["benchmarks"], ["cifar100"], ["ntkcl", "joint", "sequential"], {})
    facts = dict.fromkeys("weights images transforms commit packages command".split(), "x")
    points = [Record(Path(), "", 0, line.method, metrics(n), facts) for line, n in zip(own, (9, 8, 9, 1), strict=True)]
    entries = [Entry(line, (record,), (0,), "", ()) for line, record in zip(own, points, strict=True)]
    (axes,) = draw(entries).axes
    assert len(axes.containers) == 3
    assert [text.get_text() for text in axes.texts] == ["◂ 10.0"]  # far below the others
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [pytest.approx(90.27)]


def test_a_new_section_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    page = page_with(page_with("", "variants", "old\n"), "methods", "new\n")
    assert page.index("new\n") < page.index("old\n")  # in the order of the sweeps
    again = page_with(page, "variants", "newer\n")
    assert again == page.replace("old\n", "newer\n")
    write_run(tmp_path / "runs" / "a", PAPER.config, {0: 5})
    file = tmp_path / "page.md"
    file.write_text(page)
    write_report("variants", [PAPER], (0,), [tmp_path / "runs"], file, [])
    assert "new\n" in file.read_text()
    assert "| paper | ours | 75.00 | 50.00 | 50.00 | 1 | c1 | w1 | i1 |  |" in file.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.md", "results", "runs"]
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["variants.csv", "variants.png"]
    assert all((tmp_path / link).is_file() for link in re.findall(r"\]\((.*?)\)", file.read_text()))


def test_cells_and_lines_agree_about_settings(tmp_path: Path) -> None:
    own = lines(SWEEPS["ablations"], ["digits"], ["unchanged", "prompts 1"], {"optimizer.epochs": 1})
    for cell in cells_of(own, (0, 1)):
        write_run(tmp_path / cell.name, cell.config, dict.fromkeys(cell.config.seeds, 5 + cell.config.seeds[0]))
    entries = entries_of(own, read_records([tmp_path])[0], (0, 1))
    assert [len(entry.records) for entry in entries] == [2, 2]
    assert copy.copy(entries[0]).metric("final_accuracy") == entries[1].metric("final_accuracy")
    assert method_rows()[0].methods[:1] == ("ntkcl",)
