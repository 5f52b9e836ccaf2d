"""Accuracy, forgetting and spread against hand-computed numbers, brute force and properties."""

import json
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ntkcl_jax.errors import DataError, NonFiniteError, RunFolderError
from ntkcl_jax.training.metrics import TaskEvaluation, aggregate, mean_std, score_predictions, summarise

KEYS = {
    "accuracy_matrix",
    "accuracy_after_task",
    "average_incremental_accuracy",
    "final_accuracy",
    "forgetting",
    "backward_transfer",
    "top5_after_task",
    "task_id_accuracy_after_task",
    "accuracy_given_task_after_task",
    "accuracy_among_old_classes",
    "forgetting_budget",
}


def evaluations_of(counts: list[list[int]], images: list[int]) -> list[TaskEvaluation]:
    """One evaluation for each row of right answers."""
    return [
        TaskEvaluation(task=t, images=tuple(images[: t + 1]), correct=tuple(row), correct_task=sum(images[: t + 1]))
        for t, row in enumerate(counts)
    ]


@st.composite
def histories(draw):
    """Test images of each task, and right answers after each task."""
    images = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    counts = [[draw(st.integers(0, images[k])) for k in range(t + 1)] for t in range(len(images))]
    return images, counts


# two tasks of 2 classes, then a third of 1: labels 0 1 | 2 3 | 4
LABELS = np.array([0, 0, 1, 1, 2, 3, 4, 4])
PREDICTIONS = np.array([0, 1, 2, 1, 2, 3, 0, 4])


def test_counts_of_one_evaluation_match_those_made_by_hand():
    within = np.array([0, 1, 1, 1, 2, 3, 4, 4])
    after = score_predictions(PREDICTIONS, LABELS, (0, 2, 4, 5), within_task_predictions=within)
    assert after.task == 2
    assert after.images == (4, 2, 2)
    assert after.correct == (2, 2, 1)
    assert after.task_accuracies == (0.5, 1.0, 0.5)
    assert after.accuracy == 5 / 8  # not (0.5 + 1.0 + 0.5) / 3
    assert after.task_id_accuracy == 6 / 8
    assert after.accuracy_given_task == 7 / 8
    assert after.top5_accuracy is None


def test_counts_are_plain_numbers_that_survive_json():
    after = score_predictions(PREDICTIONS, LABELS, (0, 2, 4, 5))
    assert TaskEvaluation(**json.loads(json.dumps(after.to_record()))) == after
    assert type(after.accuracy) is float and type(after.correct_task) is int


@pytest.mark.parametrize(("classes", "reported"), [(10, False), (11, True)])
def test_top5_is_reported_only_above_ten_classes(classes, reported):
    labels = np.arange(classes)
    best = np.stack([(labels + shift) % classes for shift in (1, 2, 3, 4, 0)], axis=1)
    best[0] = [1, 2, 3, 4, 5]  # class 0 is not among the best five of the first image
    after = score_predictions((labels + 1) % classes, labels, (0, classes), top5=best)
    assert after.top5_accuracy == ((classes - 1) / classes if reported else None)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_evaluation_equals_a_loop_over_images(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    offsets = [0, *np.cumsum(sizes).tolist()]
    seen = offsets[-1]
    extra = data.draw(st.lists(st.integers(0, seen - 1), max_size=20))
    labels = list(range(seen)) + extra
    said = data.draw(st.lists(st.integers(0, seen - 1), min_size=len(labels), max_size=len(labels)))
    after = score_predictions(np.array(said), np.array(labels), offsets)

    def task_of(c):
        return next(k for k in range(len(sizes)) if offsets[k] <= c < offsets[k + 1])

    for k in range(len(sizes)):
        mine = [(p, y) for p, y in zip(said, labels, strict=True) if task_of(y) == k]
        assert after.task_accuracies[k] == sum(p == y for p, y in mine) / len(mine)
    assert after.accuracy == sum(p == y for p, y in zip(said, labels, strict=True)) / len(labels)
    same = sum(task_of(p) == task_of(y) for p, y in zip(said, labels, strict=True))
    assert after.task_id_accuracy == same / len(labels)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    assert score_predictions(np.array(said)[order], np.array(labels)[order], offsets) == after
    # pooled accuracy is the image-weighted mean of the tasks' accuracies
    weighted = sum(a * n for a, n in zip(after.task_accuracies, after.images, strict=True)) / sum(after.images)
    assert after.accuracy == pytest.approx(weighted, abs=1e-12)
    assert after.accuracy <= after.task_id_accuracy <= 1


def test_a_task_without_test_images_is_named():
    with pytest.raises(DataError, match="none for task 1"):
        score_predictions(np.array([0, 4]), np.array([0, 4]), (0, 2, 4, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.array([0, 1, 2, 1, 2, 3, 0, 5])}, "predictions in 0..4"),
        ({"predictions": PREDICTIONS[:-1]}, "predictions|labels"),
        ({"predictions": PREDICTIONS.astype(float)}, "predictions"),
        ({"labels": np.where(LABELS == 4, -1, LABELS)}, "labels in 0..4"),
        ({"offsets": (2, 4, 5)}, "offsets"),
        ({"offsets": (0, 2, 2, 5)}, "offsets"),
        ({"offsets": (0,)}, "offsets"),
        ({"within_task_predictions": np.array([0, 1, 2, 1, 2, 3, 4, 4])}, "one of another task"),
    ],
)
def test_impossible_results_are_refused(change, message):
    given_ = {"predictions": PREDICTIONS, "labels": LABELS, "offsets": (0, 2, 4, 5)} | change
    with pytest.raises((ValueError, TypeCheckError), match=message):  # the latter under --shape-checks
        score_predictions(given_.pop("predictions"), given_.pop("labels"), given_.pop("offsets"), **given_)


@pytest.mark.parametrize("bad", [{"correct": (5,)}, {"images": (4, 4)}, {"correct_task": 9}, {"images": (0,)}])
def test_impossible_counts_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        TaskEvaluation(**({"task": 0, "images": (4,), "correct": (3,), "correct_task": 4} | bad))


def test_summary_matches_a_matrix_worked_out_by_hand():
    summary = summarise(evaluations_of([[8], [9, 6], [5, 7, 10]], [10, 10, 20]))
    assert set(summary) == KEYS
    assert summary["accuracy_matrix"] == [[0.8, None, None], [0.9, 0.6, None], [0.5, 0.7, 0.5]]
    assert summary["accuracy_after_task"] == [0.8, 0.75, 0.55]
    assert summary["average_incremental_accuracy"] == pytest.approx(0.7)
    assert summary["final_accuracy"] == 0.55
    assert summary["forgetting"] == pytest.approx(((0.9 - 0.5) + (0.6 - 0.7)) / 2)
    assert summary["backward_transfer"] == pytest.approx(((0.5 - 0.8) + (0.7 - 0.6)) / 2)
    assert summary["top5_after_task"] == [None] * 3
    assert summary["task_id_accuracy_after_task"] == [1.0] * 3
    json.dumps(summary, allow_nan=False)


def test_the_last_row_is_not_in_the_maximum_of_forgetting():
    # task 0 got better at the end: forgetting must be negative, not clipped at zero
    assert summarise(evaluations_of([[2], [6, 5]], [10, 10]))["forgetting"] == pytest.approx(-0.4)


def test_a_single_task_has_neither_forgetting_nor_transfer():
    summary = summarise(evaluations_of([[3]], [4]))
    assert summary["forgetting"] is None
    assert summary["backward_transfer"] is None
    assert summary["average_incremental_accuracy"] == summary["final_accuracy"] == 0.75


@settings(max_examples=100, deadline=None)
@given(histories())
def test_summary_equals_the_formulas_written_out(history):
    images, counts = history
    summary = summarise(evaluations_of(counts, images))
    tasks = len(images)
    acc = {(t, k): counts[t][k] / images[k] for t in range(tasks) for k in range(t + 1)}
    if tasks > 1:
        forgotten = [max(acc[t, k] for t in range(k, tasks - 1)) - acc[tasks - 1, k] for k in range(tasks - 1)]
        gained = [acc[tasks - 1, k] - acc[k, k] for k in range(tasks - 1)]
        assert summary["forgetting"] == pytest.approx(sum(forgotten) / len(forgotten), abs=1e-12)
        assert summary["backward_transfer"] == pytest.approx(sum(gained) / len(gained), abs=1e-12)
        assert -1 <= summary["forgetting"] <= 1
        assert summary["forgetting"] >= -summary["backward_transfer"] - 1e-12  # the best is at least the first
    for t in range(tasks):
        assert summary["accuracy_after_task"][t] == sum(counts[t]) / sum(images[: t + 1])
        assert all((summary["accuracy_matrix"][t][k] is None) == (k > t) for k in range(tasks))
    assert min(summary["accuracy_after_task"]) <= summary["average_incremental_accuracy"] + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 7))
def test_a_constant_matrix_forgets_nothing(tasks, right):
    summary = summarise(evaluations_of([[right] * (t + 1) for t in range(tasks)], [7] * tasks))
    assert summary["forgetting"] == 0
    assert summary["backward_transfer"] == 0


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(1, 6))
def test_a_run_cut_short_is_summarised_like_a_shorter_run(history, tasks):
    images, counts = history
    whole = evaluations_of(counts, images)
    part = summarise(whole[:tasks])
    tasks = min(tasks, len(images))
    assert len(part["accuracy_matrix"]) == len(part["accuracy_matrix"][0]) == tasks
    assert part["accuracy_after_task"] == summarise(whole)["accuracy_after_task"][:tasks]


def test_evaluations_out_of_order_or_over_other_images_are_refused():
    good = evaluations_of([[8], [9, 6]], [10, 10])
    for bad in ([], good[::-1], good[1:], [good[0], good[0]]):
        with pytest.raises(ValueError, match="in order"):
            summarise(bad)
    with pytest.raises(ValueError, match="same test images"):
        summarise([good[0], *evaluations_of([[8], [9, 6]], [11, 10])[1:]])


def test_standard_deviation_is_that_of_a_sample():
    mean, std, n = mean_std([0.2, 0.4, 0.9])
    assert (mean, n) == (pytest.approx(0.5), 3)
    assert std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert mean_std([0.3]) == (0.3, None, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_mean_and_spread_agree_with_numpy(values):
    mean, std, n = mean_std(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert n == len(values)
    assert mean_std(values[::-1])[0] == mean  # exactly: order of seeds must not show


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_average_over_a_diverged_seed_is_refused(bad):
    with pytest.raises(NonFiniteError, match="seed that diverged"):
        mean_std([0.5, bad])


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])
    with pytest.raises(ValueError, match="at least one"):
        aggregate([])


def test_every_metric_is_averaged_over_seeds_with_its_nesting():
    seeds = [summarise(evaluations_of(c, [10, 10])) for c in ([[8], [6, 6]], [[10], [6, 10]])]
    result = aggregate(seeds)
    assert set(result) == KEYS
    assert result["final_accuracy"] == {
        "mean": pytest.approx(0.7),
        "std": pytest.approx(statistics.stdev([0.6, 0.8])),
        "n": 2,
    }
    assert result["accuracy_after_task"]["mean"] == pytest.approx([0.9, 0.7])
    assert result["accuracy_matrix"]["mean"] == [[pytest.approx(0.9), None], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert result["accuracy_matrix"]["std"][0][1] is None
    assert result["top5_after_task"] == {"mean": [None, None], "std": [None, None], "n": 2}
    json.dumps(result, allow_nan=False)


def test_a_single_seed_has_no_spread():
    result = aggregate([summarise(evaluations_of([[8], [6, 6]], [10, 10]))])
    assert result["forgetting"] == {"mean": pytest.approx(0.2), "std": None, "n": 1}
    assert result["accuracy_after_task"]["std"] == [None, None]


def test_a_seed_that_is_not_as_far_is_left_out():
    whole = evaluations_of([[8], [6, 6]], [10, 10])
    result = aggregate([summarise(whole), summarise(whole[:1])])
    assert result["final_accuracy"] == {"mean": 0.6, "std": None, "n": 1}


def test_seeds_with_other_metrics_are_refused():
    whole = summarise(evaluations_of([[8], [6, 6]], [10, 10]))
    with pytest.raises(ValueError, match="same metrics"):
        aggregate([whole, {k: v for k, v in whole.items() if k != "forgetting"}])


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"task": 0},
        {"task": 0, "images": [2], "correct": ["2"], "correct_task": 2},
        {"task": 0, "images": [2], "correct": [3], "correct_task": 2},
        {"task": 1, "images": [2], "correct": [1], "correct_task": 2},
    ],
)
def test_what_no_run_wrote_in_an_evaluations_place_is_said_in_one_line(record):
    with pytest.raises(
        RunFolderError, match=r"^run/task0 holds an evaluation that no run wrote \(.*; delete"
    ) as caught:
        TaskEvaluation.from_record(record, "run/task0")
    assert "\n" not in str(caught.value)
