"""Gaps of a run: theory's learner is the one of the definition, in dense float64; the network's split is its own."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from analysis.cli import NTK_ANALYSIS
from analysis.errors import AnalysisError, PlanError, RecordError, TooLargeError
from analysis.kernels.planner import Plan
from analysis.records.checkpoints import Records, open_run
from analysis.records.outputs import centred_scores, half_squared, targets
from analysis.store.forms import read_form
from analysis.store.study_forms import GapsFile
from analysis.studies.fitting import kernel_of
from analysis.studies.gaps import compute_gaps, gaps_cost, gaps_table
from analysis.studies.gaps.entries import ridge_says
from analysis.studies.gaps.learner import check, gather
from analysis.studies.request import GapsRequest
from ntkcl_jax.methods.ntkcl import MEAN
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.training.run import train
from tests.support import streams as tiny
from tests.support.dense import dense_jacobian, evaluated

N, K = 4, 7
FRACTION = 0.1
LEARNED = ("train_loss", "test_loss", "learned_train_loss", "learned_test_loss")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gaps") / "run"
    train(tiny.config(), path, arrays=tiny.arrays(), quiet=True)
    return path


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return open_run(run, arrays=tiny.arrays())


def gaps(run: Path, **changes: Any) -> list[dict[str, Any]]:
    request = GapsRequest(**{"per_task": N, "ridge": FRACTION} | changes)
    return compute_gaps(run, request, quiet=True, arrays=tiny.arrays())["seeds"]["0"]["by_task"]


@pytest.fixture(scope="module")
def found(run: Path) -> list[dict[str, Any]]:
    return gaps(run)


@pytest.fixture(scope="module")
def twin(records: Records) -> dict[str, Any]:
    """The learner of the definition: every Jacobian whole and in float64, one linear solve a task."""
    images = gather(records, 0, GapsRequest(per_task=N))
    wanted = targets(images.labels, K)
    outputs = [_values(records, 0, images.pixels)]
    radii = []
    for task, rows in images.trained.items():
        fn, params = centred_scores(records, 0, task, dtype="float64")
        jacobian = dense_jacobian(fn, params, images.pixels)
        own = jacobian[rows].reshape(N * K, -1)
        kernel = own @ own.T
        ridge = FRACTION * np.trace(kernel) / len(kernel)
        residual = (wanted[rows] - outputs[-1][rows]).ravel()
        step = own.T @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), residual)
        radii.append(np.linalg.norm(step))
        outputs.append(outputs[-1] + jacobian @ step)
    network = [_values(records, task, images.pixels) for task in range(4)]
    return {"images": images, "wanted": wanted, "outputs": outputs, "network": network, "radii": radii}


def _values(records: Records, checkpoint: int, pixels: np.ndarray) -> np.ndarray:
    fn, params = centred_scores(records, 0, checkpoint)
    return np.asarray(evaluated(fn, params, jnp.asarray(pixels)), np.float64)


@pytest.mark.parametrize("learner", ["outputs", "network"])
@pytest.mark.parametrize("task", range(3))
def test_the_split_is_that_of_the_definition(
    found: list[dict[str, Any]], twin: dict[str, Any], learner: str, task: int
) -> None:
    rows = twin["images"].trained[task]
    said = found[task]["network"] if learner == "network" else found[task]
    outputs = [at[rows] for at in twin[learner]]
    residual = twin["wanted"][rows] - outputs[task + 1]
    assert said["task_specific"] == pytest.approx(np.square(residual).sum() / N, rel=1e-4)
    changes = {k: outputs[k + 1] - outputs[k] for k in range(task + 1, 3)}
    assert sorted(said["interplay"]) == [str(k) for k in changes]
    for k, change in changes.items():
        size = np.square(change).sum() / N
        assert said["interplay"][str(k)] == pytest.approx(size, rel=2e-3)
        assert said["cross"]["own"][str(k)] == pytest.approx(-2 * (residual * change).sum() / N, rel=2e-3, abs=1e-6)
    left = np.square(twin["wanted"][rows] - outputs[-1]).sum() / N
    assert said["direct"] == pytest.approx(left, rel=1e-4)
    assert said["total"] == pytest.approx(said["direct"], rel=1e-10)
    assert said["forgetting"] == pytest.approx(said["total"] - said["task_specific"], abs=1e-12)


@pytest.mark.parametrize("learner", ["outputs", "network"])
def test_losses_are_half_squared_errors_on_the_images_they_are_named_after(
    found: list[dict[str, Any]], twin: dict[str, Any], learner: str
) -> None:
    images, outputs = twin["images"], twin[learner]
    for task, entry in enumerate(found):
        said = entry["network"] if learner == "network" else entry
        for name, where, when in zip(
            LEARNED, (images.trained, images.unseen) * 2, (-1, -1, task + 1, task + 1), strict=True
        ):
            rows = where[task]
            assert said[name] == pytest.approx(half_squared(outputs[when][rows], twin["wanted"][rows]), rel=1e-4), name


def test_the_radius_is_the_length_of_the_step(found: list[dict[str, Any]], twin: dict[str, Any]) -> None:
    for entry, length in zip(found, twin["radii"], strict=True):
        assert entry["radius"]["exact"] == pytest.approx(length, rel=1e-4)
        assert entry["radius"]["step"] == pytest.approx(length, rel=1e-4)
        assert entry["radius"]["exact"] <= min(entry["radius"]["quadratic"], entry["radius"]["a_priori"])
        assert entry["bound"]["radius"] >= length


def test_leave_one_out_is_what_learning_without_each_image_gives(records: Records, found: list[dict[str, Any]]) -> None:
    images = gather(records, 0, GapsRequest(per_task=N))
    rows = images.trained[0]
    fn, params = centred_scores(records, 0, 0, dtype="float64")
    jacobian = dense_jacobian(fn, params, images.pixels[rows])
    residual = targets(images.labels, K)[rows] - _values(records, 0, images.pixels)[rows]
    losses = []
    for out in range(N):
        kept = [i for i in range(N) if i != out]
        own = jacobian[kept].reshape(-1, jacobian.shape[-1])
        alpha = np.linalg.solve(own @ own.T + found[0]["ridge"] * np.eye(len(own)), residual[kept].ravel())
        losses.append(0.5 * np.square(residual[out] - jacobian[out] @ (own.T @ alpha)).sum())
    assert found[0]["loo"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_matched_learner_goes_as_far_as_the_network(run: Path, records: Records) -> None:
    for entry in gaps(run, ridge="matched"):
        _, before = centred_scores(records, 0, entry["task"])
        _, after = centred_scores(records, 0, entry["task"] + 1)
        length = np.sqrt(sum(np.square(np.asarray(after[p], np.float64) - before[p]).sum() for p in before))
        assert entry["network"]["step"] == pytest.approx(length, rel=1e-6)
        assert entry["radius"]["step"] == pytest.approx(length, rel=1e-4)


@pytest.fixture
def still(run: Path, tmp_path: Path) -> Path:
    """The run as if nothing but its first task had moved the adaptation, as with a later learning rate of 0."""
    path = Path(shutil.copytree(run, tmp_path / "still"))
    folder = RunFolder(path)
    first, _ = checkpoint.load(folder.task(0, 0, "after", "ntkcl"))
    for task, when in itertools.product((1, 2), ("before", "after")):
        trees, meta = checkpoint.load(folder.task(0, task, when, "ntkcl"))
        for tree, kept in (("trainable", lambda name: not name.startswith("proxy/")), ("buffers", is_mean)):
            trees[tree] |= {name: value for name, value in first[tree].items() if kept(name)}
        checkpoint.save(folder.task(0, task, when, "ntkcl"), trees, meta)
    return path


def is_mean(name: str) -> bool:
    return name.startswith(MEAN)


def test_where_the_network_stayed_theorys_learner_stays_and_nothing_is_judged_by_rounding(still: Path) -> None:
    made = compute_gaps(still, GapsRequest(per_task=N), quiet=True, arrays=tiny.arrays())
    moving, *resting = made["seeds"]["0"]["by_task"]
    assert moving["matched"] and moving["ridge_note"] == "" and moving["laziness"]["moved"]
    for entry in resting:
        assert entry["network"]["step"] == 0 and entry["radius"]["step"] < 1e-6
        assert entry["learned_train_loss"] == pytest.approx(entry["train_loss"], rel=1e-6)
        assert entry["matched"] and "stays where it is" in entry["ridge_note"]
        assert entry["laziness"] == {"relative_error": None, "cosine": None, "drift_norm": 0.0, "moved": False}
    assert "Ridge of seed 0, task 3: training moved nothing" in gaps_table(made)
    read = read_form(still / "analysis" / "gaps.json", GapsFile)
    assert read is not None and [gap.matched for gap in read.every] == [True] * 3


def test_a_ridge_that_could_not_be_matched_says_so(found: list[dict[str, Any]]) -> None:
    def said(step: float, ridge: float | str = "matched", decided: bool = True) -> dict[str, Any]:
        return ridge_says(ridge, decided, 767.8, step)

    assert said(767.0) == {"matched": True, "ridge_note": ""}
    short = said(6.1)
    assert short["matched"] is False and "step of 768 is out of the learner's reach" in short["ridge_note"]
    assert said(6.1, ridge="loo") == said(6.1, ridge=0.1) == {"matched": None, "ridge_note": ""}
    assert "every ridge has the same" in said(6.1, ridge="loo", decided=False)["ridge_note"]
    table = gaps_table({"seeds": {"0": {"by_task": [found[0] | short, found[1]]}}})
    assert table.splitlines()[-1] == f"Ridge of seed 0, task 1: {short['ridge_note']}."


def test_the_ridge_by_leave_one_out_is_the_best_of_its_neighbours(run: Path) -> None:
    best = gaps(run, ridge="loo")[0]
    assert best["loo"] <= gaps(run, ridge=best["ridge_fraction"] * 10**0.5)[0]["loo"]


def test_with_test_images_nothing_that_learnt_has_seen_them_and_the_bound_is_a_theorem(
    run: Path, records: Records
) -> None:
    images = gather(records, 0, GapsRequest(per_task=N, side="test"))
    probes = records.probes(0, 2 * N, record=False)
    rows = np.concatenate([images.trained[1], images.unseen[1]])
    np.testing.assert_array_equal(images.pixels[rows], probes.images[probes.rows(1)])
    bound = gaps(run, side="test")[1]["bound"]
    assert bound["theorem"]
    assert bound["value"] == pytest.approx(bound["empirical"] + bound["complexity"] + bound["confidence"])
    assert not gaps(run)[1]["bound"]["theorem"]


def test_learning_curves_measure_what_they_predict(found: list[dict[str, Any]]) -> None:
    curve = found[0]["learning_curve"]
    assert curve["sizes"] == [2, 3]
    assert all(len(curve[name]) == 2 for name in ("finite_population", "eigenlearning", "leave_one_out", "measured"))
    assert curve["network"] == {"images": 27, "loss": found[0]["network"]["learned_test_loss"]}


def test_the_file_is_what_is_returned_and_equal_calls_give_equal_bytes(run: Path) -> None:
    made = compute_gaps(run, GapsRequest(per_task=N), quiet=True, arrays=tiny.arrays())
    path = run / "analysis" / "gaps.json"
    first = path.read_bytes()
    assert json.loads(first) == made
    read = read_form(path, GapsFile)
    assert read is not None and [gap.loo for gap in read.every] == [gap["loo"] for gap in made["seeds"]["0"]["by_task"]]
    compute_gaps(run, GapsRequest(per_task=N), quiet=True, arrays=tiny.arrays())
    assert path.read_bytes() == first
    assert len(gaps_table(made).splitlines()) == 2 + 3


def test_a_kernel_that_its_own_derivative_contradicts_is_refused() -> None:
    kernel, alpha = np.eye(4), np.ones((2, 2))
    assert check(0, kernel, kernel, alpha, alpha, alpha)["product_error"] == 0
    with pytest.raises(AnalysisError, match="task 3 is refused"):
        check(3, 1.001 * kernel, kernel, alpha, alpha, alpha)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"per_task": 3}, "at least 4 images"),
        ({"ridge": 0.0}, "above 0"),
        ({"ridge": float("nan")}, "above 0"),
        ({"confidence": 1.0}, "between 0 and 1"),
    ],
)
def test_requests_that_mean_nothing_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        GapsRequest(**changes)


def test_without_a_number_every_task_gives_as_many_images_as_all_have(records: Records) -> None:
    for side, n in (("train", 8), ("test", 4)):  # the smallest task has 2 x 9 training and 2 x 4 test images
        images = gather(records, 0, GapsRequest(side=side))
        assert [len(rows) for rows in (*images.trained.values(), *images.unseen.values())] == [n] * 6


def test_what_a_run_does_not_have_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="at most 8 probes"):
        gaps(run, per_task=9)
    with pytest.raises(RecordError, match="seed"):
        gaps(run, seeds=(5,))
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    shutil.rmtree(begun / "checkpoints" / "ntkcl" / "seed0" / "task0" / "after")
    with pytest.raises(RecordError, match="no finished task"):
        gaps(begun)


def test_a_dry_run_counts_passes_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(run, tmp_path / "dry"))
    shutil.rmtree(path / "analysis", ignore_errors=True)
    lines = gaps_cost(path, GapsRequest(per_task=N), arrays=tiny.arrays())
    assert lines[0].startswith("gaps of 3 tasks (1 seeds): theory's learner has 4 images")
    assert lines[1].startswith(f"Jacobian passes: {3 * 2 * N * K} backward ones")
    assert "memory: " in lines[3] and str(path / "analysis" / "gaps.json") in lines[4]
    assert not (path / "analysis").exists()


def test_gaps_that_do_not_fit_name_images_that_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(fn: Any, params: Any, images: Any, count: int = 16, **_: Any) -> Plan:
        if count > 12:
            raise TooLargeError("8 GB are needed", "take less")
        return object.__new__(Plan)

    monkeypatch.setattr("analysis.studies.fitting.plan", plan)
    monkeypatch.setattr("analysis.studies.fitting.empirical_ntk", plan)
    with pytest.raises(PlanError, match=r"^8 GB are needed: --per-task 6 fits$"):
        gaps_cost(run, GapsRequest(per_task=8), arrays=tiny.arrays())
    with pytest.raises(PlanError, match=r"^8 GB are needed: --per-task 6 fits$"):
        kernel_of(np.sin, np.zeros(1), np.zeros((16, 1, 1, 1), np.float32), per_task=8)
    with pytest.raises(PlanError, match=r"^8 GB are needed: not even --per-task 7 fits$"):
        kernel_of(np.sin, np.zeros(1), np.zeros((16, 1, 1, 1), np.float32), per_task=8, least=7)


def test_the_command_ends_with_code_2_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert NTK_ANALYSIS.run(["gaps", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
