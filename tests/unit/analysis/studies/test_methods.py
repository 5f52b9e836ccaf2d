"""Kernels of the baselines that train modules inside the backbone: the same store, probes and figures as NTK-CL's."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import analysis
from analysis.errors import PlanError, RecordError, StoreError
from analysis.kernels.functions import group_leaves
from analysis.records.checkpoints import Records, default_groups, open_run
from analysis.report import write_report
from analysis.report.facts import kernel_facts
from analysis.report.reading import read_run
from analysis.report.sections import sections_of
from analysis.studies.kernels import Session, compute_kernels
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.methods.base import SEEN
from ntkcl_jax.models.functional import Frozen
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.recorded import RecordedRun, load_run
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.run import evaluate_run, train
from tests.support import reported
from tests.support import streams as tiny
from tests.support.dense import dense_ntk, evaluated, relative_error

METHOD = "adapters"
REQUEST = analysis.Request(method=METHOD, per_task=2, tile=6)
TASK_ENDS = (3, 5, 7)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NTK-CL untrained, and a baseline whose learning rate is large enough to move the kernel."""
    run = tmp_path_factory.mktemp("methods") / "run"
    config = tiny.config(
        methods=("ntkcl", METHOD),
        optimizer__epochs=0,
        baselines__epochs=1,
        baselines__learning_rate=0.2,
        compute__checkpoint_every_steps=1000,
    )
    train(config, run, arrays=tiny.arrays(), quiet=True)
    return run


@pytest.fixture(scope="module")
def records(path: Path) -> Records:
    return open_run(path, METHOD, arrays=tiny.arrays())


@pytest.fixture(scope="module")
def analysed(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = shutil.copytree(path, tmp_path_factory.mktemp("analysed") / "run")
    compute_kernels(copy, REQUEST, quiet=True, arrays=tiny.arrays())
    return copy


@pytest.fixture(scope="module")
def images(records: Records) -> np.ndarray:
    return records.probes(0, 2, record=False).images


def refused(call: Callable[[], object], *words: str, error: type[Exception] = RecordError) -> None:
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_scores_are_the_checkpoints_own_over_the_classes_of_all_finished_tasks(
    records: Records, images: np.ndarray
) -> None:
    for c in records.checkpoints(0):
        task = records.task(0, max(c - 1, 0))
        trainable, held = (task.after, task.frozen) if c else (task.before, task.frozen_before)
        fn, params = records.function(0, c)
        scores = np.asarray(evaluated(fn, params, jnp.asarray(images)))
        assert scores.shape == (6, 7)
        features = np.asarray(task.apply_fn(trainable, held, jnp.asarray(images), "features"))
        by_hand = features @ np.asarray(trainable["head/kernel"]) + np.asarray(trainable["head/bias"])
        np.testing.assert_allclose(scores, by_hand, rtol=1e-4, atol=1e-5)
        seen = TASK_ENDS[c - 1] if c else 0
        own = np.asarray(task.apply_fn(trainable, held, jnp.asarray(images)))
        np.testing.assert_allclose(scores[:, :seen], own[:, :seen], rtol=1e-5, atol=1e-6)
        assert (own[:, seen:] == -1e9).all()


def test_every_checkpoint_has_the_kernel_of_the_definition_in_parts_that_add_up(
    analysed: Path, records: Records, images: np.ndarray
) -> None:
    found = analysis.load_analysis(analysed, METHOD)
    assert [(spec.checkpoint, spec.method) for spec in found.kernels] == [(c, METHOD) for c in range(4)]
    for c in range(4):
        stored = found.stored(0, c)
        assert relative_error(stored.matrix(), dense_ntk(*records.function(0, c, dtype="float64"), images)) < 1e-5
        parts = sum(stored.matrix(name) for name in ("adapters", "head"))
        assert relative_error(parts, stored.matrix()) < 1e-12
        assert stored.matrix("head").any() and stored.matrix("adapters").any()


def test_training_moves_the_kernel_and_the_summary_says_so(analysed: Path) -> None:
    home = analysed / "analysis" / METHOD
    made = json.loads((home / "summary.json").read_text())
    assert made == analysis.load_analysis(analysed, METHOD).summary
    assert (made["method"], list(made["seeds"]["0"]["checkpoints"])) == (METHOD, ["0", "1", "2", "3"])
    assert all(value > 1e-5 for c in "123" for value in made["seeds"]["0"]["checkpoints"][c]["drift"])
    assert sorted(p.name for p in home.iterdir()) == ["figures", "kernels", "measures.csv", "summary.json"]
    assert sorted(p.name for p in (analysed / "analysis").iterdir()) == [METHOD, "probes"]


def test_a_second_call_finds_the_methods_kernels_and_computes_nothing(
    analysed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.kernels.tiled.fill", None)
    with Progress(quiet=True) as progress:
        done = Session(analysed, replace(REQUEST, checkpoints=(3,)), tiny.arrays()).compute(
            resume=False, progress=progress
        )
    assert [(spec.checkpoint, spec.method) for spec in done] == [(3, METHOD)]


def test_features_have_no_derivative_by_the_classifier(records: Records, images: np.ndarray) -> None:
    fn, params = records.function(0, 2, "features")
    assert all(name.startswith("adapters/") for name in params)
    assert set(fn.keywords["rest"]) == {"head/kernel", "head/bias"}
    assert jax.eval_shape(fn, params, images).shape == (6, tiny.BACKBONE.dim)
    assert set(records.function(0, 2, "features", every=True)[1]) == {*params, "head/kernel", "head/bias"}


def test_probes_are_those_of_every_other_method(records: Records, path: Path) -> None:
    other = open_run(path, arrays=tiny.arrays())
    assert (other.run.method, other.run.methods) == ("ntkcl", ("ntkcl", METHOD))
    assert records.probes(0, 3).sha256 == other.probes(0, 3).sha256
    assert sorted(p.name for p in (path / "analysis/probes/seed0").iterdir()) == [
        f"test-task{t}-3.json" for t in range(3)
    ]


def test_evaluating_again_gives_the_results_of_every_method(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path, tmp_path / "run")
    text = (run / "results.json").read_text()
    stored = json.loads(text)
    assert set(stored["seeds"]["0"]) == {"ntkcl", METHOD}
    stored["seeds"]["0"][METHOD]["forgetting"] = 0.125  # of one method only, and not the first
    (run / "results.json").write_text(json.dumps(stored))
    assert evaluate_run(run, arrays=tiny.arrays()) == (json.loads(text), False)


def test_whole_numbers_in_the_trees_are_neither_raised_nor_differentiated(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedRun, "like", None)  # as if the method had them
    run = shutil.copytree(path, tmp_path / "run")
    for t in range(3):
        for when in ("before", "after"):
            place = run / f"checkpoints/{METHOD}/seed0/task{t}/{when}"
            trees, meta = checkpoint.load(place)
            trees["trainable"] |= {"head/steps": np.int32(t)}
            trees["buffers"] |= {"counts": np.arange(3, dtype=np.int32)}
            checkpoint.save(place, trees, meta)
    records = open_run(run, METHOD, arrays=tiny.arrays())
    fn, params = records.function(0, 1, dtype="float64", every=True)
    assert "head/steps" not in params and fn.keywords["rest"]["head/steps"].dtype == np.int32
    buffers = fn.keywords["frozen"].buffers
    assert (buffers["counts"].dtype, buffers[SEEN].dtype) == (np.int32, np.bool_)
    assert {value.dtype for value in params.values()} == {np.dtype(np.float64)}
    assert set(records.function(0, 1)[1]) == set(params)


def test_what_a_run_or_a_method_does_not_have_is_refused_in_one_line(
    records: Records, path: Path, tmp_path: Path
) -> None:
    refused(lambda: records.function(0, 0, "proxy"), "outputs scores, features; got 'proxy'", f"method {METHOD} has")
    refused(lambda: open_run(path, "l2p", arrays=tiny.arrays()), f"checkpoints of ntkcl, {METHOD}, none of method l2p")
    alone = shutil.copytree(path, tmp_path / "run")
    header = json.loads((alone / "config.json").read_text())
    header["config"]["methods"] = [METHOD]
    (alone / "config.json").write_text(json.dumps(header))
    refused(lambda: open_run(alone, arrays=tiny.arrays()), f"has checkpoints of {METHOD}, none of method ntkcl")
    opened = load_run(alone, arrays=tiny.arrays())  # its settings and results can be read all the same
    refused(lambda: opened.task(0), "none of method ntkcl; name one that it has", error=RunFolderError)
    params, parts = records.function(0, 0)[1], records.run.learner.parts
    refused(lambda: default_groups(list(params), "layer", parts), "groups part or none", "got layer")
    assert [name for name, _ in group_leaves(params, default_groups(list(params), "part", parts))] == [METHOD, "head"]
    refused(
        lambda: analysis.load_analysis(path, "l2p"),
        "no analysis of method l2p",
        "--method l2p` first",
        error=StoreError,
    )
    said = "forecasts are of methods ntkcl and sequential; got l2p"
    with pytest.raises((PlanError, TypeCheckError), match=f"^{said}$|Type-check error"):  # the latter by --shape-checks
        analysis.ForecastRequest(method="l2p")  # type: ignore[arg-type]


def test_a_running_run_has_its_finished_tasks(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path, tmp_path / "running")
    checkpoint.remove(run / f"checkpoints/{METHOD}/seed0/task2/after")
    records = open_run(run, METHOD, arrays=tiny.arrays())
    assert records.checkpoints(0) == (0, 1, 2)
    fn, params = records.function(0, 0)
    assert jax.eval_shape(fn, params, np.zeros((2, 8, 8, 3), np.float32)).shape == (2, 5)
    assert (
        isinstance(fn.keywords["frozen"], Frozen)
        and fn.keywords["frozen"].buffers[SEEN].tolist() == [True] * 5 + [False] * 2
    )


def reported_run(path: Path, *methods: str) -> Path:
    """A made-up run of these methods; kernels of NTK-CL become those of a method instead of it, or a copy beside it."""
    run = reported.made_run(path, names=["a", "b", "c"])
    config = json.loads((run / "config.json").read_text())
    config["config"]["methods"] = list(methods)
    (run / "config.json").write_text(json.dumps(config))
    home = run / "analysis" / METHOD
    home.mkdir()
    for name in ("summary.json", "kernels"):
        if "ntkcl" not in methods:
            (run / "analysis" / name).rename(home / name)
        elif name == "summary.json":
            shutil.copy(run / "analysis" / name, home / name)
    return run


def test_the_report_puts_methods_side_by_side(tmp_path: Path, undrawn: None) -> None:
    run = reported_run(tmp_path / "both", "ntkcl", METHOD)
    path = run / "analysis" / METHOD / "summary.json"
    summary = json.loads(path.read_text())
    last = summary["seeds"]["0"]["checkpoints"]["3"]
    last["inter_intra_ratio"] = [[1.0, 0.875, 0.875], [0.875, 1.0, 0.875], [0.875, 0.875, 1.0]]
    path.write_text(json.dumps(summary))
    page = write_report([run]).read_text()
    files = read_run(run)
    facts = kernel_facts(files.summary)
    rows = list(csv.DictReader((run / "analysis/tables/methods.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["ntkcl", METHOD]
    assert [float(row["last"]) for row in rows] == [pytest.approx(facts.last), 0.875]
    assert [float(row["drift"]) for row in rows] == [pytest.approx(facts.drift)] * 2
    assert rows[0]["final accuracy, %"] and not rows[1]["final accuracy, %"]  # the made-up results lack the other one
    assert "Kernels of all methods" in page and "0.875" in page
    (panel,) = sections_of([files])["methods"][1](files).panels
    lines = [line for axes in panel.figure.axes for line in axes.get_lines()]
    assert len(panel.figure.axes) == 4 and len(lines) == 8
    assert lines[1].get_ydata()[-1] == 0.875


def test_a_report_without_ntkcl_is_about_the_method_that_there_is(tmp_path: Path, undrawn: None) -> None:
    run = reported_run(tmp_path / "alone", METHOD)
    files = read_run(run)
    assert (files.method, files.others, len(files.kernels)) == (METHOD, {}, 4)
    assert set(sections_of([files])) == {"budget", "accuracy", "kernels", "ratios", "drift", "shares"}
    assert "Kernels of all methods" not in write_report([run]).read_text()
    shutil.rmtree(run / "analysis" / METHOD / "kernels")
    assert sections_of([files])["kernels"][1](read_run(run)).missing.endswith(f"alone --method {METHOD}")
