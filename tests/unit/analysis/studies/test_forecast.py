"""Forecasts on a run that is nearly linear: what is said beforehand is what happened; and what can be asked wrongly."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from analysis import measures
from analysis.cli import NTK_ANALYSIS
from analysis.errors import AnalysisError, PlanError, RecordError
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records, open_run
from analysis.records.outputs import centred_scores, drift_floor, mean_step, root_mean_square, targets
from analysis.store.forms import read_form
from analysis.store.study_forms import ForecastFile
from analysis.studies.forecast import compute_forecast, forecast_cost, forecast_file, told
from analysis.studies.forecast.closed_forms import closed_form_step, procedure_of
from analysis.studies.forecast.network import run_step, task_drifts
from analysis.studies.forecast.new_data import next_task, read_new
from analysis.studies.forecast.pairs import Drifts, correlation, pair
from analysis.studies.forecast.sequential import own_training
from analysis.studies.request import ForecastRequest
from ntkcl_jax.data import steps_per_epoch
from ntkcl_jax.methods.base import Task
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import epoch_batches
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.task_loop import fit_task
from tests.support import streams as tiny
from tests.support.dense import dense_jacobian, evaluated, relative_error

NEW_TASK_FIELDS = {"accuracy", "predicted_accuracy_change", "predicted_accuracy_change_with_new"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.nearly_linear_run(tmp_path_factory.mktemp("forecast"), methods=("ntkcl", "sequential"))


@pytest.fixture(scope="module")
def made(run: Path) -> dict[str, Any]:
    return compute_forecast(run, quiet=True)


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return open_run(run)


def pairs(made: dict[str, Any]) -> list[dict[str, Any]]:
    return made["seeds"]["0"]["pairs"]


def test_in_a_nearly_linear_run_the_forecast_is_what_happened(made: dict[str, Any]) -> None:
    assert [(p["old"], p["new"]) for p in pairs(made)] == [(0, 1), (0, 2), (1, 2)]
    for p in pairs(made):
        assert p["relative_error"] < 0.03 and p["cosine"] > 0.9995
        assert 2 * p["trapezoid"]["relative_error"] < p["true_step"]["relative_error"] < 0.03
        assert p["predicted_loss_change"] == pytest.approx(p["measured_loss_change"], rel=0.1)
        assert 0 < p["ntk_drift"] < 0.1
    assert "This run is lazy" in told(made)


def drifts(predicted: float, measured: float) -> Drifts:
    """Forecast and measured drift of these sizes, in directions that have nothing to do with each other."""
    rng, zero, kernel = np.random.default_rng(3), np.zeros((8, 5)), np.eye(40)
    units = (x / root_mean_square(x) for x in rng.standard_normal((2, 8, 5)))
    forecast, truth = (size * x for size, x in zip((predicted, measured), units, strict=True))
    return Drifts(zero, zero, forecast, truth, forecast, truth, kernel, 2 * kernel)


def test_rounding_is_not_compared_with_rounding() -> None:
    floor = drift_floor(5)
    entry = pair(0, 1, drifts(0.5 * floor, 0.9 * floor))
    assert entry["moved"] is False and entry["rounding"] == floor
    assert [entry[name] for name in ("cosine", "relative_error", "true_step", "concentration")] == [None] * 4
    assert entry["measured_norm"] == pytest.approx(0.9 * floor) and entry["measured_loss_change"] is not None
    for sizes in ((0.5 * floor, 2 * floor), (2 * floor, 0.5 * floor)):  # either that moves is told
        told_apart = pair(0, 1, drifts(*sizes))
        assert told_apart["moved"] and abs(told_apart["cosine"]) < 0.5
    made = {"method": "ntkcl", "procedure": "run", "loss_change_correlation": correlation([entry] * 3)}
    assert made["loss_change_correlation"] is None
    assert told({**made, "seeds": {"0": {"pairs": [entry]}}}).endswith("within the rounding of float32 outputs.")
    mixed = told({**made, "seeds": {"0": {"pairs": [entry, told_apart]}}})
    assert "In 1 of 2 pairs nothing moved" in mixed and "4.00 times its size" in mixed


def test_the_floor_is_above_what_float32_leaves_of_a_score_and_far_below_a_drift(records: Records, made: dict) -> None:
    probes = records.probes(0, 8)
    images = probes.images[probes.rows(0)]
    fn, params = centred_scores(records, 0, 1, with_mean=True)
    double, wide = centred_scores(records, 0, 1, dtype="float64")
    with jax.enable_x64(True):
        exact = np.asarray(evaluated(double, wide, images))
    off = root_mean_square(Linearized(fn, params, images[:2]).values(images) - exact)
    assert 0 < off < drift_floor(7) / 2
    assert all(p["moved"] and min(p["measured_norm"], p["predicted_norm"]) > 30 * drift_floor(7) for p in pairs(made))


@pytest.mark.slow
def test_the_jacobian_of_another_checkpoint_forecasts_worse(records: Records) -> None:
    probes = records.probes(0, 8)
    images = probes.images[probes.rows(0)]
    with Progress(quiet=True).stage("", 1) as stage:
        step = run_step(records, 0, 1, stage)
    right = task_drifts(records, 0, 1, step, probes)
    assert relative_error(right["predicted"], right["measured"]) < 0.03
    fn, before = centred_scores(records, 0, 0, with_mean=True)
    wrong = Linearized(fn, before, images).change(images, mean_step(before, step, 1, last=False))
    assert relative_error(wrong, right["measured"]) > 0.5


def test_what_is_measured_is_the_change_of_the_networks_own_scores(records: Records, made: dict[str, Any]) -> None:
    probes, p = records.probes(0, 8), pairs(made)[1]
    rows = probes.rows(0)
    last = records.task(0, 2).frozen.buffers
    prototypes = {path: value for path, value in last.items() if path.startswith("prototypes/")}
    scale = sum(records.run.config.model.section_weights)
    scores = []
    for task in (1, 2):
        recorded = records.task(0, task)
        frozen = recorded.frozen._replace(buffers=recorded.frozen.buffers | prototypes)
        values = np.asarray(recorded.apply_fn(recorded.after, frozen, probes.images[rows]), np.float64)
        scores.append((values - values.mean(axis=1, keepdims=True)) / scale)
    lengths = np.square(scores[1] - scores[0]).sum(axis=1)
    assert p["measured_norm"] == pytest.approx(np.sqrt(lengths.mean()), rel=1e-3)
    wanted = targets(probes.labels[rows], 7)
    losses = [0.5 * np.square(wanted - s).sum(axis=1).mean() for s in scores]
    assert p["measured_loss_change"] == pytest.approx(losses[1] - losses[0], rel=1e-3, abs=1e-8)


def test_the_file_holds_what_is_returned_and_every_field(run: Path, made: dict[str, Any]) -> None:
    stored = json.loads((run / "analysis" / "forecast.json").read_text())
    assert stored["seeds"].keys() == made["seeds"].keys() and stored["format"] == 1
    assert {"method", "procedure", "per_task", "versions", "commit", "loss_change_correlation"} <= stored.keys()
    read = read_form(run / "analysis" / "forecast.json", ForecastFile)
    assert read is not None and [pair.cosine for pair in read.seeds[0].pairs] == [p["cosine"] for p in pairs(made)]
    for p in pairs(made):
        assert p["images"] == stored["per_task"] == 8  # as many as the smallest task has
        assert 1 <= p["concentration"]["modes"]["90"] <= p["concentration"]["modes"]["99"] <= 8 * 7
        top = p["concentration"]["top"]
        assert 0 < top["baseline"] <= 1 and 0 < top["energy"] <= 1 and top["modes"] == 10


def test_of_a_linear_classifier_the_forecast_is_exact_to_rounding(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    found = compute_forecast(path, ForecastRequest(method="sequential"), quiet=True)
    for p in pairs(found):
        assert p["relative_error"] < 2e-5 and p["cosine"] > 1 - 1e-9
        assert p["predicted_loss_change"] == pytest.approx(p["measured_loss_change"], rel=1e-4)
        assert p["ntk_drift"] == 0 and p["concentration"]["top"]["modes"] == 7
    assert "rounding" in told(found)


@pytest.mark.parametrize("mistake", ["another order of the batches", "no momentum"])
def test_a_linear_classifier_trained_otherwise_is_told_apart(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    def other(seed: int, task: int, n: int) -> Any:
        sgd = own_training(seed + (mistake != "no momentum"), task, n)
        return sgd if mistake != "no momentum" else replace(sgd, momentum=0.0)

    monkeypatch.setattr("analysis.studies.forecast.sequential.own_training", other)
    monkeypatch.setattr("analysis.studies.forecast.sequential.LINEAR_BATCH", 4)  # else a task here is one batch
    monkeypatch.setattr("ntkcl_jax.readouts.linear.LINEAR_BATCH", 4)
    monkeypatch.setattr("analysis.studies.forecast.sequential.check_same", lambda *_: None)
    found = compute_forecast(shutil.copytree(run, tmp_path / "run"), ForecastRequest(method="sequential"), quiet=True)
    assert all(p["relative_error"] > 1e-3 for p in pairs(found))


def test_a_baseline_that_training_here_does_not_give_is_refused(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(path).readout(0, 2, "frozen", "linear")
    trees, meta = checkpoint.load(folder)
    second = meta["evaluations"][1]
    second["correct"][0] = (second["correct"][0] + 1) % second["images"][0]
    second.update(right=None, right_among_old=None)  # answers to single images would give another count away
    checkpoint.save(folder, trees, meta)
    with pytest.raises(RecordError, match="other predictions of sequential after task 1"):
        compute_forecast(path, ForecastRequest(method="sequential"), quiet=True)
    checkpoint.remove(folder)
    with pytest.raises(RecordError, match="--methods ntkcl sequential"):
        compute_forecast(path, ForecastRequest(method="sequential"), quiet=True)


@pytest.mark.slow
def test_a_ridge_step_is_the_optimum_by_the_dense_jacobian(records: Records) -> None:
    step = closed_form_step(records, 0, 1, 4, ForecastRequest(procedure="ridge", ridge=0.1))
    probes = records.probes(0, 4, side="train", tasks=(1,))
    fn, params = centred_scores(records, 0, 1)
    jacobian = dense_jacobian(fn, params, probes.images)
    flat = jacobian.reshape(-1, jacobian.shape[2])
    kernel = flat @ flat.T
    residual = (targets(probes.labels, 7) - Linearized(fn, params, probes.images).values(probes.images)).ravel()
    ridge = 0.1 * np.trace(kernel) / len(kernel)
    expected = flat.T @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), residual)
    got = np.concatenate([np.asarray(step[path]).ravel() for path in sorted(step)])
    assert relative_error(got, expected) < 1e-4


@pytest.mark.slow
def test_other_procedures_say_what_they_are_compared_with(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    found = compute_forecast(path, ForecastRequest(procedure="momentum", per_task=4, steps=20), quiet=True)
    assert "another training" in found["measured"] and found["training"]["steps"] == 20
    assert "another one" in told(found)
    assert all(np.isfinite(p["relative_error"]) for p in pairs(found))


def test_a_rate_that_diverges_is_refused() -> None:
    with pytest.raises(PlanError, match="below 2"):
        procedure_of(ForecastRequest(procedure="descent", rate=2.5), 3.0, 0.9)
    procedure_of(ForecastRequest(procedure="momentum", rate=2.5), 3.0, 0.9)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes to come, under another name; hostile letters in it."""
    path = tmp_path_factory.mktemp("new") / "more of\nit"
    return tiny.folder(path, classes=2)


@pytest.mark.slow
def test_new_data_are_forecast_as_the_network_then_learns_them(run: Path, more: Path, records: Records) -> None:
    found = compute_forecast(run, ForecastRequest(new_data=more), quiet=True)
    file = run / "analysis" / "forecast-more-of-it.json"
    assert forecast_file(run, ForecastRequest(new_data=more)) == file
    assert json.loads(file.read_text())["new_data"] == {"classes": ["class0", "class1"], "images": 18}
    assert [(p["old"], p["new"], p["measured_norm"]) for p in pairs(found)] == [
        (t, "more-of-it", None) for t in range(3)
    ]
    assert all(p.keys() >= NEW_TASK_FIELDS and p["measured_loss_change"] is None for p in pairs(found))
    read = read_form(file, ForecastFile)
    assert read is not None and {pair.new for pair in read.seeds[0].pairs} == {"more-of-it"}
    assert "2 new classes" in told(found)

    # What the network itself does with them: the plain steps of a further task.
    context, (images, names) = records.run.context, read_new(records, more)
    learner = replace(records.run.learner, tasks=4, task_classes=len(names), classes=9)
    state, scenario = next_task(records, 0, len(names))
    key = jax.random.key(stream_seed(0, "proxy", 3))
    state = learner.begin(state, Task.of(scenario, 3), key, lambda: [])
    batches = partial(epoch_batches, context, images, np.arange(18), images.labels + 7, 0, 3)
    steps = steps_per_epoch(18, context.config.optimizer.batch_size)
    fitted = list(fit_task(learner, context.config, scenario, state, batches, task=3, seed=0, steps_in_epoch=steps))
    trained = fitted[-1].state.trainable
    fn, before = centred_scores(records, 0, 3)
    probes = records.probes(0, 8)
    after = {path: trained[path] for path in before}
    change = np.asarray(evaluated(fn, after, probes.images) - evaluated(fn, before, probes.images))
    for p in pairs(found):
        rows = probes.rows(p["old"])
        assert p["predicted_norm"] == pytest.approx(np.sqrt(np.square(change[rows]).sum(axis=1).mean()), rel=0.03)


def test_new_classes_start_unseen_behind_the_old_ones(records: Records) -> None:
    state, scenario = next_task(records, 0, 4)
    assert scenario.task_sizes == (3, 2, 2, 4) and scenario.offsets[3] == 7
    assert state.frozen.buffers["prototypes/seen"].tolist() == [True] * 7 + [False] * 4
    assert not np.any(state.frozen.buffers["prototypes/kernel"][7:])
    after = jax.tree.leaves(records.task(0, 2).after)
    assert all(a is b for a, b in zip(jax.tree.leaves(state.trainable), after, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--new-data", "nowhere"], "missing"),
        (["--new-data", "empty"], "no class folders"),
        (["--new-data", "hollow"], "no images"),
        (["--new-data", "hollow", "--procedure", "ridge"], "new data go with"),
        (["--procedure", "flow", "--time", "-1"], "time above 0"),
        (["--procedure", "ridge", "--ridge", "0"], "ridge above 0"),
        (["--per-task", "1000"], "per-task"),
        (["--seeds", "5"], "seeds 0"),
        (["--method", "magic"], "magic"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, options, words
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "owl").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert NTK_ANALYSIS.run(["forecast", str(run), "--quiet", *options]) == 2
    told_to = capsys.readouterr()
    assert told_to.out == "" and told_to.err.count("\n") == 1 and words in told_to.err


def test_a_dry_run_counts_passes_and_writes_nothing(
    run: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(passes=1.5, peak_bytes=2e9, memory_bytes=4e9)  # of the planner, which has tests of its own
    monkeypatch.setattr("analysis.studies.forecast.cost.planned_for", lambda *_: found)
    path = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(path / "analysis", ignore_errors=True)
    lines = forecast_cost(path)
    # Two later tasks of 2 x 9 images in batches of 4, two epochs; old tasks' 8 probes: one, then two of them
    assert "20 steps of 4 images" in lines[1] and f"{3 * (8 + 16):,} forward passes" in lines[2]
    # The first task's kernel at checkpoints 1, 2 and 3, the second's at 2 and 3
    assert lines[3].startswith(f"Jacobian passes: {5 * 8 * 7 * 3 // 2} backward ones") and "memory: 2 GB" in lines[4]
    assert str(path / "analysis" / "forecast.json") in lines[-1]
    closed = forecast_cost(path, ForecastRequest(procedure="ridge", per_task=4))
    assert f"Jacobian passes: {(5 * 4 + 2 * 4) * 7 * 3 // 2} backward" in closed[2] and "2 over 4" in closed[2]
    assert "none" in forecast_cost(path, ForecastRequest(method="sequential"))[1]
    assert "10 steps" in forecast_cost(path, ForecastRequest(new_data=more))[1]
    assert not (path / "analysis").exists()


def test_a_run_without_finished_tasks_is_refused(run: Path, more: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(path / "checkpoints" / "ntkcl" / "seed0" / "task1")
    with pytest.raises(AnalysisError, match="at least 2 finished tasks"):
        compute_forecast(path, quiet=True)
    shutil.rmtree(path / "checkpoints" / "ntkcl" / "seed0" / "task0")
    with pytest.raises(AnalysisError, match="at least 1 finished task "):
        compute_forecast(path, ForecastRequest(new_data=more), quiet=True)


def test_the_command_prints_the_table_or_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    words = ["forecast", str(path), "--method", "sequential"]
    assert NTK_ANALYSIS.run([*words, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "old  new" in out and "forecast.json" in out and "correlate" in out
    assert NTK_ANALYSIS.run([*words, "--json"]) == 0
    told_to = capsys.readouterr()
    assert json.loads(told_to.out)["method"] == "sequential" and told_to.err == ""


def test_modes_are_counted_on_the_kernel_before(records: Records, made: dict[str, Any]) -> None:
    """E_10 by the definition, with the dense Jacobian."""
    probes, p = records.probes(0, 8), pairs(made)[0]
    images = probes.images[probes.rows(0)]
    fn, params = centred_scores(records, 0, 1)
    jacobian = dense_jacobian(fn, params, images)
    kernel = measures.sample_major(np.einsum("icp,jdp->ijcd", jacobian, jacobian))
    values, vectors = np.linalg.eigh(kernel)
    (now, start), (then, end) = (centred_scores(records, 0, c, with_mean=True) for c in (1, 2))
    drift = (Linearized(then, end, images).values(images) - Linearized(now, start, images).values(images)).ravel()
    energy = np.square(vectors[:, -10:].T @ drift).sum() / np.square(drift).sum()
    assert p["concentration"]["top"]["energy"] == pytest.approx(energy, rel=1e-3)
    assert p["concentration"]["top"]["baseline"] == pytest.approx(values[-10:].sum() / values.sum(), rel=1e-4)
