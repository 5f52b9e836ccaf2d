"""What a finished run leaves: numbers, records, checkpoints; and that a seed always gives the same bits."""

import json
import math
import statistics
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from ntkcl_jax.config import ComputeConfig
from ntkcl_jax.data import Arrays
from ntkcl_jax.devices.flops import training_flops
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.log import read_metrics
from ntkcl_jax.training.run import train
from ntkcl_jax.training.step import train_step
from ntkcl_jax.weights import file_sha256, save_backbone
from tests.support import streams as tiny

SEEDS = (3, 0)
METHODS = ("ntkcl", "prototypes", "sequential")
NEW = (":trainable/proxy/kernel", ":trainable/proxy/scale", ":buffers/basis")
"""What a task makes for itself."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, three methods; and how often the training step was compiled for it all."""
    path = tmp_path_factory.mktemp("run") / "run"
    train_step.clear_cache()
    train(tiny.config(seeds=SEEDS, methods=METHODS), path, arrays=tiny.arrays(), quiet=True)
    (path.parent / "compilations").write_text(str(train_step._cache_size()))
    return path


@pytest.fixture(scope="module")
def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_a_run_compiles_its_training_step_once_for_all_tasks_and_seeds(run: Path) -> None:
    assert (run.parent / "compilations").read_text() == "1"


def test_results_hold_every_seed_and_method_as_fractions(results: dict) -> None:
    assert list(results["seeds"]) == ["3", "0"]
    for seed in results["seeds"].values():
        assert list(seed) == list(METHODS)
        for metrics in seed.values():
            matrix = metrics["accuracy_matrix"]
            assert [[x is None for x in row] for row in matrix] == np.triu(np.ones((3, 3), bool), 1).tolist()
            numbers = [x for row in matrix for x in row if x is not None] + metrics["accuracy_after_task"]
            assert all(0 <= x <= 1 for x in numbers)


def test_the_headline_numbers_follow_from_the_matrix(results: dict) -> None:
    images = np.array(tiny.TASK_SIZES) * 4
    for seed in results["seeds"].values():
        for metrics in seed.values():
            rows = [[x for x in row if x is not None] for row in metrics["accuracy_matrix"]]
            after = [float(np.dot(row, images[: len(row)]) / images[: len(row)].sum()) for row in rows]
            np.testing.assert_allclose(metrics["accuracy_after_task"], after, rtol=1e-12)
            assert metrics["average_incremental_accuracy"] == pytest.approx(statistics.fmean(after), rel=1e-12)
            assert metrics["final_accuracy"] == metrics["accuracy_after_task"][-1]
            drops = [max(rows[0][0], rows[1][0]) - rows[2][0], rows[1][1] - rows[2][1]]
            assert metrics["forgetting"] == pytest.approx(statistics.fmean(drops), abs=1e-12)
            change = [rows[2][0] - rows[0][0], rows[2][1] - rows[1][1]]
            assert metrics["backward_transfer"] == pytest.approx(statistics.fmean(change), abs=1e-12)


def test_what_old_tasks_lost_is_competition_and_drift_and_class_means_of_a_network_that_stays_have_none(
    results: dict,
) -> None:
    drifted = []
    for seed in results["seeds"].values():
        for method, metrics in seed.items():
            budget, among_old = metrics["forgetting_budget"], metrics["accuracy_among_old_classes"]
            assert [[x is None for x in row] for row in among_old] == np.triu(np.ones((3, 3), bool)).tolist()
            assert budget["lost"] == pytest.approx(-metrics["backward_transfer"], abs=1e-12)
            assert budget["competition"] + budget["drift"] == pytest.approx(budget["lost"], abs=1e-12)
            assert budget["test_images"] == [4 * classes for classes in tiny.TASK_SIZES]
            rows = metrics["accuracy_matrix"]
            assert all(among_old[s][k] >= rows[s][k] for s in range(3) for k in range(s))
            if method == "prototypes":
                assert among_old[1][0] == rows[0][0] and among_old[2][:2] == rows[1][:2]
                assert budget["drift"] == budget["drift_error"] == 0
            else:
                drifted.append(budget["drift_error"])
    assert any(drifted)


def test_the_summary_is_mean_and_sample_deviation_over_seeds(results: dict) -> None:
    for method in METHODS:
        finals = [seed[method]["final_accuracy"] for seed in results["seeds"].values()]
        summary = results["summary"][method]["final_accuracy"]
        assert summary == {"mean": statistics.fmean(finals), "std": statistics.stdev(finals), "n": 2}


def test_tasks_have_class_names_only_where_all_seeds_share_one_order(results: dict, tmp_path: Path) -> None:
    assert results["task_names"] == ["task 1", "task 2", "task 3"]
    config = tiny.config(methods=("prototypes",), data__shuffle_classes=False, seeds=(0, 1))
    assert train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)["task_names"] == ["0 1 2", "3 4", "5 6"]


def test_what_train_returns_is_what_the_file_holds(tmp_path: Path) -> None:
    returned = train(tiny.config(methods=("prototypes",)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert returned == json.loads((tmp_path / "run" / "results.json").read_text())


def test_the_config_file_holds_all_that_is_needed_to_repeat_the_run(run: Path) -> None:
    header = json.loads((run / "config.json").read_text())
    assert header["config"]["optimizer"]["learning_rate"] == 0.05
    assert header["config"]["seeds"] == [3, 0]
    assert header["scenarios"]["0"]["class_order"] == np.random.RandomState(0).permutation(7).tolist()
    assert header["scenarios"]["3"]["class_order"] == np.random.RandomState(3).permutation(7).tolist()
    assert header["scenarios"]["0"]["task_sizes"] == tiny.TASK_SIZES
    assert header["data"]["train_images"] == 63
    assert header["data"]["test_images"] == 28
    assert header["versions"]["jax"] == jax.__version__
    assert header["versions"]["numpy"] == np.__version__
    assert header["command"]
    assert header["machine"]
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (header["git"] or {"commit": ""})["commit"] == asked.stdout.strip()  # "" outside a checkout


def test_the_data_hash_sees_a_pixel_and_a_label(tmp_path: Path) -> None:
    data = tiny.arrays()
    pixels, labels = data.train_images.copy(), data.train_labels.copy()
    pixels[5, 3, 3, 1] ^= 1
    labels[[0, 60]] = labels[[60, 0]]
    seen = set()
    for i, images in enumerate(
        (
            data,
            Arrays(pixels, data.train_labels, data.test_images, data.test_labels),
            Arrays(data.train_images, labels, data.test_images, data.test_labels),
        )
    ):
        train(tiny.config(methods=("prototypes",)), tmp_path / str(i), arrays=images, quiet=True)
        seen.add(json.loads((tmp_path / str(i) / "config.json").read_text())["data"]["fingerprint"])
    assert len(seen) == 3


def test_metrics_tell_losses_by_step_and_accuracies_by_task(run: Path, results: dict) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records if r["kind"] == "train" and (r["seed"], r["task"]) == (0, 1)]
    assert steps == [3, 6, 9, 10]
    assert all(math.isfinite(r["total"]) and r["ce_hybrid"] > 0 for r in records if r["kind"] == "train")
    for method in METHODS:
        told = [r for r in records if r["kind"] == "task" and (r["seed"], r["method"]) == (0, method)]
        metrics = results["seeds"]["0"][method]
        assert [r["accuracy"] for r in told] == metrics["accuracy_after_task"]
        rows = [[x for x in row if x is not None] for row in metrics["accuracy_matrix"]]
        assert [r["task_accuracies"] for r in told] == rows
    times = [r["time"] for r in records]
    assert times == sorted(times)


def test_a_log_line_tells_speed_in_flops_counted_from_the_config_and_utilisation_where_the_peak_is_known(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flops = training_flops(tiny.config(), tiny.CLASSES) / tiny.config().optimizer.batch_size
    for line in read_metrics(run / "metrics.jsonl"):
        if line["kind"] == "train":
            assert line["tflops"] == pytest.approx(line["images_per_s"] * flops / 1e12)
            assert "mfu" not in line  # nobody's data sheet has this CPU
    monkeypatch.setattr("ntkcl_jax.training.learner_run.peak_tflops", lambda kind, dtype: 2.0)
    train(tiny.config(optimizer__epochs=1), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines
    assert all(line["mfu"] == pytest.approx(line["tflops"] / 2) for line in lines)


def test_every_task_leaves_its_state_before_and_after_and_no_in_task_state(run: Path) -> None:
    home = run / "checkpoints" / "ntkcl"
    found = sorted(str(p.relative_to(home)) for p in home.glob("*/*/*"))
    assert found == sorted(f"seed{s}/task{t}/{when}" for s in SEEDS for t in range(3) for when in ("before", "after"))


def test_a_task_starts_where_the_one_before_ended_but_for_its_proxy_head(run: Path) -> None:
    states = tiny.states(run)
    for task in (1, 2):
        for key in [k for k in states if k.startswith(f"checkpoints/ntkcl/seed0/task{task}/before:")]:
            before, after = states[key], states[key.replace(f"task{task}/before", f"task{task - 1}/after")]
            assert (before.tobytes() == after.tobytes()) is not key.endswith(NEW), key


def test_the_same_seed_gives_the_same_bits_and_the_same_result_file(run: Path, tmp_path: Path) -> None:
    train(tiny.config(seeds=SEEDS, methods=METHODS), tmp_path / "again", arrays=tiny.arrays(), quiet=True)
    assert (tmp_path / "again" / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert tiny.same_states(run, tmp_path / "again")


def test_other_seeds_and_methods_and_their_order_leave_a_seed_as_it_is(
    run: Path, results: dict, tmp_path: Path
) -> None:
    config = tiny.config(seeds=(0,), methods=("sequential", "joint", "ntkcl", "prototypes"))
    alone = train(config, tmp_path / "alone", arrays=tiny.arrays(), quiet=True)
    for method in METHODS:
        assert alone["seeds"]["0"][method] == results["seeds"]["0"][method]
    ours, theirs = tiny.states(tmp_path / "alone"), tiny.states(run)
    shared = [key for key in ours if "/joint/" not in key]
    assert {key.split("/")[1] for key in shared} == {"ntkcl", "frozen"}
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in shared)


def test_another_seed_gives_other_parameters(run: Path) -> None:
    states = tiny.states(run)
    trained = "checkpoints/ntkcl/seed0/task2/after:trainable/"
    keys = [k for k in states if k.startswith((f"{trained}current/adapters", f"{trained}proxy/kernel"))]
    assert len(keys) > 1
    assert all(states[k].tobytes() != states[k.replace("seed0", "seed3")].tobytes() for k in keys)


def test_the_number_of_threads_and_of_evaluated_rows_changes_nothing(run: Path, tmp_path: Path) -> None:
    config = tiny.config(data__workers=3, compute=ComputeConfig(eval_batch_size=16, checkpoint_every_steps=1000))
    train(config, tmp_path / "other", arrays=tiny.arrays(), quiet=True)
    ours, theirs = tiny.states(tmp_path / "other"), tiny.states(run)
    assert all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)


def test_the_backbone_is_stored_once_with_the_hash_of_its_file(tmp_path: Path) -> None:
    config = tiny.config(weights=str(tmp_path / "w.safetensors"), methods=("prototypes",), seeds=(0, 1))
    network = Network(config.model, task_classes=3, classes=7)
    backbone = network.init(jax.random.key(5))[1].backbone
    save_backbone(jax.device_get(backbone), tiny.BACKBONE, tmp_path / "w.safetensors")
    train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert header["weights"]["sha256"] == file_sha256(tmp_path / "w.safetensors")
    stored = checkpoint.load(tmp_path / "run" / "checkpoints" / "backbone")[0]["backbone"]
    assert stored.keys() == backbone.keys()
    assert all(jnp.array_equal(stored[k], backbone[k]) for k in stored)


def test_a_stream_of_one_task_has_no_forgetting(tmp_path: Path) -> None:
    config = tiny.config(methods=("prototypes",), data__first_task_classes=7)
    results = train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert results["seeds"]["0"]["prototypes"]["forgetting"] is None
    assert results["summary"]["prototypes"]["forgetting"] == {"mean": None, "std": None, "n": 1}
