"""What-ifs on a run: its own point is its own step, and a rate of zero what a network that stays still would do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis import measures
from analysis.cli import NTK_ANALYSIS
from analysis.errors import PlanError
from analysis.kernels.empirical import empirical_ntk
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import difference, targets
from analysis.store.advice_forms import AdviceFile
from analysis.store.forms import made_of, read_form
from analysis.store.what_if_forms import WhatIfFile
from analysis.studies.advice.left_out import nearest_means
from analysis.studies.opening import open_ntkcl
from analysis.studies.request import WhatIfRequest
from analysis.studies.what_if.course import Course
from analysis.studies.what_if.engine import Numbers, best_course, best_of, compute_what_if
from analysis.studies.what_if.look import Seen, TaskLook, look, outcomes
from analysis.studies.what_if.network import End, centred_cosines, measured, task_end
from analysis.studies.what_if.steps import Grid, TaskSteps, chosen, objective_of, task_steps
from analysis.studies.what_if.table import told
from ntkcl_jax.config import RunConfig
from ntkcl_jax.terminal.progress import Progress
from ntkcl_jax.training.first_task import READOUTS
from ntkcl_jax.training.run import train
from tests.support import streams as tiny
from tests.support.dense import relative_error

GRID = Grid((0.0, 0.05, 0.1), (1, 2), (2, 1), 0.1)
DIRECTIONS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.nearly_linear_run(tmp_path_factory.mktemp("what-if"))


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return open_ntkcl(run, "what-ifs")


@pytest.fixture(scope="module")
def end(records: Records) -> End:
    return task_end(records, 0, 1, records.probes(0, 2).images)


def measured_scores(records: Records, seed: int, task: int, images: np.ndarray) -> np.ndarray:
    return centred_cosines(*measured(records, seed, task, images), records.run.config.model.section_weights)


def no_course(records: Records) -> Course:
    return Course(records.run.num_tasks - 1, records.run.config.model.section_weights)


def average_of(end: End, labels: np.ndarray) -> np.ndarray:
    """Makes class means of rows, as `look` does."""
    classes = np.eye(end.classes - end.offset)[labels - end.offset]
    return (classes / classes.sum(axis=0)).T


@pytest.fixture(scope="module")
def steps(records: Records, end: End) -> TaskSteps:
    with Progress(quiet=True).stage("", 1) as stage:
        return task_steps(records, 0, 1, end, chosen(records, 0, 1), GRID, DIRECTIONS, stage)


@pytest.fixture(scope="module")
def made(run: Path) -> dict[str, Any]:
    return compute_what_if(run, WhatIfRequest(rates=(0.05,), epochs=(1,), directions=DIRECTIONS), quiet=True)


@pytest.mark.slow
def test_the_end_of_a_task_is_the_network_itself_and_its_scores_are_those_of_its_features(
    records: Records, end: End
) -> None:
    probes = records.probes(0, 8)
    images = probes.images[: probes.rows(1).stop]
    recorded = records.task(0, 1)
    after = np.asarray(recorded.apply_fn(recorded.after, recorded.frozen, images), np.float64)[:, :5]
    after = (after - after.mean(axis=1, keepdims=True)) / sum(end.weights)
    np.testing.assert_allclose(measured_scores(records, 0, 1, images), after, atol=2e-6)
    # Before it: the same function of features, prototypes of both tasks in it
    features = end.features.values(images)
    scores = Linearized(end.scores, end.params, images[:2])
    np.testing.assert_allclose(scores.values(images)[:, :5], end.read(features), atol=2e-6)
    assert not scores.values(images)[:, 5:].any(), "classes to come have no score"
    # Its derivative, and the transpose of that
    step = difference(recorded.after, end.params)
    change = end.pushed(features, end.change(images, step))
    assert relative_error(change, scores.change(images, step)[:, :5]) < 1e-4
    dual = np.random.default_rng(0).standard_normal(change.shape)
    other = np.random.default_rng(1).standard_normal(features.shape)
    assert (end.pushed(features, other) * dual).sum() == pytest.approx((other * end.pulled(features, dual)).sum())


@pytest.mark.slow
def test_the_known_point_is_the_runs_own_step_and_zero_is_none(records: Records, end: End, steps: TaskSteps) -> None:
    own = difference(records.task(0, 1).after, end.params)
    assert all((steps.basis[0][path] == own[path]).all() for path in own)
    np.testing.assert_allclose(steps.weights[GRID.own], [1.0] + [0.0] * (len(steps.basis) - 1), atol=1e-12)
    assert not steps.weights[0].any()
    images, new = records.probes(0, 8).images[:16], chosen(records, 0, 1)[1]
    both, features = np.concatenate([images, new.images]), end.features.values(images)
    streams, means = (np.stack(part) for part in zip(*(end.apart(both, step) for step in steps.basis), strict=True))
    # The mean of two tasks takes in half of the second's step
    changes = streams + means / 2
    np.testing.assert_allclose(changes[0], end.change(both, steps.basis[0]), atol=1e-6 * abs(changes[0]).max())
    found = outcomes(end, features, changes, steps.weights, slice(16, len(both)), average_of(end, new.labels))
    still = end.read(features)
    assert (found[0] == still).all(), "a rate of zero changes nothing, exactly"
    after = measured_scores(records, 0, 1, images)
    assert relative_error(found[GRID.own] - still, after - still) < 0.1
    assert relative_error(found[1, 1] - still, after - still) > 0.2, "half the rate is another point"
    # Steps that features' duals stand for are the transpose of what steps change
    dual = np.random.default_rng(0).standard_normal(features.shape)
    back = end.step(images, dual)
    product = sum(float((back[path] * np.asarray(own[path])).sum()) for path in own)
    assert product == pytest.approx(float((end.change(images, own) * dual).sum()), rel=1e-4)


@pytest.mark.slow
def test_the_course_of_a_run_is_that_of_another_run_at_that_rate(run: Path, records: Records) -> None:
    later = replace(records.run.config.optimizer, later_learning_rate=0.05)
    train(replace(records.run.config, optimizer=later), run.parent / "half", quiet=True)
    other, course, probes = open_ntkcl(run.parent / "half", "what-ifs"), no_course(records), records.probes(0, 8)
    with Progress(quiet=True).stage("", 1) as stage:
        looks = [look(records, 0, task, probes, GRID, DIRECTIONS, course, stage) for task in (1, 2)]
    for made in looks:
        assert (made.course.loss[2] == made.measured.loss).all() and (made.course.right[2] == made.measured.right).all()
        images = probes.images[: probes.rows(made.task).stop]
        wanted = targets(probes.labels[: len(images)], 3 + 2 * made.task)
        truth = Seen.of(measured_scores(other, 0, made.task, images), wanted)
        change, forecast = truth.loss - made.measured.loss, made.course.loss[1] - made.measured.loss
        assert relative_error(forecast, change) < 0.15
        # One task alone isn't the course: what the task before would have done otherwise counts at the second
        alone = made.grid.loss[1, 1] - made.grid.loss[2, 1]
        assert (relative_error(alone, change) > 0.3) == (made.task == 2)


@pytest.mark.slow
def test_steps_are_rescaled_as_the_dense_kernel_says_and_projected_ones_spare_old_images(
    records: Records, end: End, steps: TaskSteps
) -> None:
    old, new = chosen(records, 0, 1)
    n = len(old.images)
    both = np.concatenate([old.images, new.images])
    kernel = measures.sample_major(empirical_ntk(end.scores, end.params, both)[:, :, :5, :5])
    scores = Linearized(end.scores, end.params, both[:2])
    # V, the old images' strongest directions, by an eigendecomposition of their own kernel
    _, vectors = np.linalg.eigh(kernel[: n * 5, : n * 5])
    strong = vectors[:, ::-1][:, :DIRECTIONS]
    for step, spared in zip(steps.basis, steps.spared, strict=True):
        whole, left = (scores.change(old.images, part)[:, :5].ravel() for part in (step, spared))
        assert np.linalg.norm(strong.T @ left) < 2e-3 * np.linalg.norm(whole)
        rest = whole - strong @ (strong.T @ whole)
        assert relative_error(left, rest) < 2e-3
    # Half the rate: each of the new images' modes by its own factor, the known change times q'/q

    s, u = np.linalg.eigh(kernel[n * 5 :, n * 5 :])
    s = np.maximum(s, 0)
    objective = replace(objective_of(records, 0, 1, len(new.images), 2), scale=steps.scale)
    half, whole = objective.filters(s, [0.05, 0.1])
    known = scores.change(new.images, steps.basis[0])[:, :5].ravel()
    step = {
        path: sum(w * part[path] for w, part in zip(steps.weights[1, 1], steps.basis, strict=True))
        for path in steps.basis[0]
    }
    assert relative_error(scores.change(new.images, step)[:, :5].ravel(), u @ (half / whole * (u.T @ known))) < 2e-3


@pytest.mark.slow
def test_the_file_holds_every_point_their_means_and_the_best(run: Path, made: dict[str, Any]) -> None:
    read = read_form(run / "analysis" / "what_if.json", WhatIfFile)
    assert read is not None and read.rates == (0.0, 0.05, 0.1) and read.epochs == (1, 2)
    assert json.loads((run / "analysis" / "what_if.json").read_text())["best"] == made["best"]
    parts = made["seeds"]["0"]["by_task"]
    assert [part["task"] for part in parts] == [1, 2] and [len(part["earlier"]) for part in parts] == [1, 2]
    for part in parts:
        points = {name: np.array(values) for name, values in part["points"].items()}
        assert (points["old_loss_change"][0] == 0).all() and (points["new_loss_change"][0] == 0).all()
        old = len(part["earlier"])
        whole = (old * points["old_accuracy"] + points["new_accuracy"]) / (old + 1)
        np.testing.assert_allclose(points["accuracy"], whole)
        mean = np.mean([one["loss_change"] for one in part["earlier"]], axis=0)
        np.testing.assert_allclose(points["old_loss_change"], mean, atol=1e-12)
        assert part["first_order"]["relative_error"] < 0.3
        # To first order the run's own point is what it measured
        assert points["old_loss_change"][2, 1] == pytest.approx(part["measured"]["old_loss_change"], rel=0.3, abs=1e-4)
    assert made["best"]["accuracy"] == pytest.approx(np.max(made["mean"]["points"]["accuracy"]))
    for best in (made["best"], made["best_course"]):
        assert best["accuracy"] - best["own_accuracy"] == pytest.approx(best["gain"])
    assert made["end"]["accuracy"][2] == pytest.approx(parts[-1]["measured"]["accuracy"])
    assert read.end.accuracy == tuple(made["end"]["accuracy"]) and read.best_course.rate in read.rates
    assert made["reliable"] and "Mistrust" not in told(made) and "yours" in told(made)
    far = made | {"reliable": False, "first_order_error": 0.8, "kernel_drift": 0.4}
    assert "misses 80% of what it did to old tasks and old tasks' kernels moved by 40%" in told(far)


@pytest.mark.slow
def test_an_advice_compares_readouts_on_left_out_images_over_two_networks(
    run: Path, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    assert NTK_ANALYSIS.run(["advise", str(run), "--json"]) == 0
    made = made_of(json.loads(capsys.readouterr().out), AdviceFile)
    assert read_form(run / "analysis/advice.json", AdviceFile) == made
    left, (one,) = made.left_out, made.methods
    assert (left.images, left.classes, left.per_class) == (tiny.CLASSES * tiny.PER_CLASS, tiny.CLASSES, tiny.PER_CLASS)
    assert left.rested and set(left.rested) == set(left.untouched) == {"prototypes", *READOUTS}
    assert one.method == "ntkcl" and len(one.says) >= 2
    # The network that a later rate of 0 keeps is the one after the first task, on all images of the stream
    first, tasks = records.run.task(0), [records.run.task(t) for t in range(3)]
    images, labels = (
        np.concatenate([getattr(task, f"train_{name}") for task in tasks]) for name in ("images", "labels")
    )
    features = np.asarray(first.apply_fn(first.after, first.frozen, images, "features"))
    right = nearest_means(features, labels)
    assert left.rested["prototypes"].value == pytest.approx(100 * right.mean())
    last = tasks[-1]
    answers = np.asarray(last.apply_fn(last.after, last.frozen, images)).argmax(axis=1) == labels
    assert left.ended and left.ended.value == pytest.approx(100 * answers.mean())
    assert NTK_ANALYSIS.run(["advise", str(run.parent), "--quiet"]) == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_stood_still_borrows_the_twins_step_and_is_measured_at_zero(run: Path, records: Records) -> None:

    still = Grid((0.0, 0.1), (2,), (0, 0), 0.1)
    with Progress(quiet=True).stage("", 1) as stage:
        found, own = (
            look(records, 0, 1, records.probes(0, 8), grid, DIRECTIONS, no_course(records), stage)
            for grid in (still, replace(still, own=(1, 0)))
        )
    assert found.first_order is None and own.first_order is not None
    # The linearised twin of a nearly linear run does what the run did
    twin, ran = (part.grid.loss[1, 0] - part.grid.loss[0, 0] for part in (found, own))
    assert relative_error(twin, ran) < 0.1


@pytest.mark.slow
def test_more_images_than_there_are_is_refused_in_a_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert NTK_ANALYSIS.run(["whatif", str(run), "--quiet", "--per-task", "99"]) == 2
    assert "at most 12 probes a task" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rates", "-0.1"], "expected learning rates of at least 0; got -0.1"),
        (["--epochs", "0"], "expected epochs of at least 1; got 0"),
        (["--directions", "0"], "expected directions of at least 1; got 0"),
        (["--per-task", "0"], "expected at least 1 image a task; got 0"),
    ],
)
def test_what_means_nothing_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert NTK_ANALYSIS.run(["whatif", str(tmp_path), "--quiet", *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_grid_holds_zero_and_the_runs_own_point_and_a_run_without_an_epoch_has_none() -> None:
    own = RunConfig().optimizer
    still = RunConfig(optimizer=replace(own, learning_rate=1.0, later_learning_rate=0.0, epochs=2))
    assert Grid.of(still, (0.1,), ()) == Grid((0.0, 0.1), (1, 2, 4), (0, 1), 1.0)
    same = RunConfig(optimizer=replace(own, learning_rate=0.3, later_learning_rate=None, epochs=1))
    assert Grid.of(same, (0.1, 0.3), (5,)) == Grid((0.0, 0.1, 0.3), (1, 5), (2, 0), 0.3)
    with pytest.raises(PlanError, match="no epoch"):
        Grid.of(replace(same, optimizer=replace(own, epochs=0)), (), ())


def made_up_end() -> tuple[End, np.ndarray, np.ndarray]:
    """An end of a task below a network that isn't asked: three old classes, two new ones, two sections of four."""
    rng = np.random.default_rng(0)
    unasked = Linearized(lambda params, x: x @ params, jnp.ones((8, 8)), np.ones((2, 8), np.float32))
    end = End(unasked, 0.5, Partial(jnp.matmul), {}, rng.standard_normal((5, 8)), 3, (0.3, 0.1))
    return end, rng.standard_normal((10, 8)), rng.standard_normal((10, 8))


def test_scores_are_centred_cosines_section_by_section_and_new_prototypes_move() -> None:
    end, features, _ = made_up_end()
    moved = end.prototypes + np.concatenate([np.zeros((3, 8)), np.full((2, 8), 0.5)])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for x, found in zip(features, end.read(features, np.full((2, 8), 0.5)), strict=True):
        scores = np.array([0.3 * cosine(x[:4], p[:4]) + 0.1 * cosine(x[4:], p[4:]) for p in moved])
        np.testing.assert_allclose(found, (scores - scores.mean()) / 0.4, atol=1e-12)


def test_scores_follow_features_to_first_order_and_duals_go_back() -> None:
    end, features, change = made_up_end()
    numeric = (end.read(features + 1e-6 * change) - end.read(features - 1e-6 * change)) / 2e-6
    np.testing.assert_allclose(end.pushed(features, change), numeric, atol=1e-8)
    dual = np.random.default_rng(1).standard_normal((10, 5))
    assert (end.pushed(features, change) * dual).sum() == pytest.approx((change * end.pulled(features, dual)).sum())


def test_where_training_diverges_nothing_is_told_and_the_best_point_is_among_the_others() -> None:
    rng = np.random.default_rng(2)
    wanted = np.eye(3)[rng.integers(0, 3, 12)] - 1 / 3
    # Rates 0 and 0.1 classify at random, 0.2 all rightly; 0.4 diverges
    scores = np.stack([rng.standard_normal((12, 3)), rng.standard_normal((12, 3)), wanted, np.full((12, 3), np.nan)])
    seen = Seen.of(scores[:, None], wanted)
    assert not seen.right[3].any() and seen.right[2].all()
    numbers = Numbers.of(seen, seen.loss[0, 0], 8)
    plain = numbers.plain()
    assert plain["accuracy"][3] == [None] and plain["old_loss_change"][3] == [None] and plain["accuracy"][2] == [1.0]
    assert plain["old_loss_change"][0] == [0.0]
    assert plain["new_loss_change"][2][0] == pytest.approx(-seen.loss[0, 0, 8:].mean())
    ran, course = Seen.of(scores[1], wanted), Seen.of(scores, wanted)
    looks = [TaskLook(1, seen, seen, ran, course, None, 1.0, True)] * 2
    grid = Grid((0.0, 0.1, 0.2, 0.4), (2,), (1, 0), 0.1)
    best = best_of(numbers, looks, grid, seeds=2)
    wrong = float(1 - seen.right[1].mean())
    assert (best["rate"], best["accuracy"]) == (0.2, 1.0) and best["gain"] == pytest.approx(wrong)
    # Two seeds of twelve images each
    assert best["error"] == pytest.approx(np.sqrt(wrong * (1 - wrong) / 24))
    # The whole run: the same numbers without epochs, against what was measured
    ends = Numbers.of(course, ran.loss, 8)
    assert best_course(ends, looks, grid) == best


def test_the_running_mean_of_a_course_is_the_average_of_streams_at_the_ends_of_tasks() -> None:
    rng = np.random.default_rng(3)
    # Five tasks; a feature is a number that follows the streams' sum of steps plus the mean's
    steps = rng.standard_normal((5, 2, 3, 1))
    slope, other = rng.standard_normal((2, 5, 1, 3, 1))
    course, streams, averaged = Course(last=4, weights=(1.0,)), [np.zeros((2, 3, 1))], np.zeros((2, 3, 1))
    for task in range(1, 5):
        found = course.add(task, slope[task] * steps[task], other[task] * steps[task])
        # Each task's step has its own slopes: of every stream, what each of them adds up to
        streams.append(streams[-1] + slope[task] * steps[task])
        if task < 4:
            ends = [
                sum((other[t] * steps[t] for t in range(1, end + 1)), np.zeros((2, 3, 1))) for end in range(task + 1)
            ]
            averaged = np.mean(ends, axis=0)
        np.testing.assert_allclose(found, streams[-1] + averaged, atol=1e-12)
