"""The forgetting budget against scores gone through image by image, and what it must be in cases that are known."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.readouts.base import make_readout
from ntkcl_jax.training.budget import PARTS, forgetting_budget, packed, paired, unpacked
from ntkcl_jax.training.evaluate import score_classes
from ntkcl_jax.training.metrics import TaskEvaluation, aggregate, summarise
from tests.support import streams as tiny
from tests.support.lessons import WIDTH, clusters, evaluated

OFFSETS = (0, 3, 5, 9, 12)
TASKS = len(OFFSETS) - 1
LABELS = np.random.default_rng(0).permutation(np.tile(np.arange(12), 9))  # tasks mixed, as in a source


def drawn_scores(seed: int, noise: float = 1.0) -> list[np.ndarray]:
    """Scores of all images and classes after each task; whole numbers, so that there are ties."""
    rng = np.random.default_rng(seed)
    steady = 2.0 * np.eye(12)[LABELS] + rng.normal(size=(len(LABELS), 12))
    return [np.round(2 * (steady + noise * rng.normal(size=steady.shape))) for _ in range(TASKS)]


def evaluations(scores: list[np.ndarray]) -> list[TaskEvaluation]:
    """What a run would have counted."""
    found = []
    for s in range(TASKS):
        seen = OFFSETS[s + 1] > LABELS
        found.append(score_classes(scores[s][seen][:, : OFFSETS[s + 1]], LABELS[seen], OFFSETS[: s + 2]))
    return found


def answered(scores: list[np.ndarray], s: int, image: int, classes: int) -> int:
    """Slow twin: 1 where an image is answered rightly after task s among the first classes."""
    return int(max(range(classes), key=lambda c: scores[s][image, c]) == LABELS[image])  # `max` takes the first


@pytest.mark.parametrize("seed", [1, 2])
def test_the_budget_is_what_going_through_the_scores_gives(seed: int) -> None:
    scores = drawn_scores(seed)
    made = summarise(evaluations(scores))
    budget, acc, among = made["forgetting_budget"], made["accuracy_matrix"], made["accuracy_among_old_classes"]
    by_part = {part: [] for part in PARTS}
    for k, (first, end) in enumerate(pairwise(OFFSETS[:-1])):
        mine = [i for i, label in enumerate(LABELS) if first <= label < end]
        assert budget["test_images"][k] == len(mine)
        changes = {part: np.zeros(len(mine)) for part in PARTS}
        for s in range(k + 1, TASKS):
            before = np.array([answered(scores, s - 1, i, OFFSETS[s]) for i in mine])
            between = np.array([answered(scores, s, i, OFFSETS[s]) for i in mine])
            after = np.array([answered(scores, s, i, OFFSETS[s + 1]) for i in mine])
            assert among[s][k] == between.mean()
            assert acc[s - 1][k] - among[s][k] == pytest.approx((before - between).mean(), abs=1e-12)
            assert budget["drift_lost"][s][k] == (before > between).mean()
            gained = budget["drift_lost"][s][k] - (acc[s - 1][k] - among[s][k])
            assert gained == pytest.approx((before < between).mean(), abs=1e-12)
            assert (between >= after).all()  # competition takes and never gives
            changes["drift"] += before - between
            changes["competition"] += between - after
        changes["lost"] = np.array(
            [answered(scores, k, i, OFFSETS[k + 1]) - answered(scores, TASKS - 1, i, 12) for i in mine]
        )
        for part in PARTS:
            assert budget["of_task"][part][k] == pytest.approx(changes[part].mean(), abs=1e-12)
            error = changes[part].std() / math.sqrt(len(mine))
            assert budget["of_task"][f"{part}_error"][k] == pytest.approx(error, abs=1e-12)
            by_part[part].append((changes[part].mean(), error))
    for part in PARTS:
        means, errors = zip(*by_part[part], strict=True)
        assert budget[part] == pytest.approx(np.mean(means), abs=1e-12)
        assert budget[f"{part}_error"] == pytest.approx(math.sqrt(np.square(errors).sum()) / 3, abs=1e-12)
    assert budget["lost"] == pytest.approx(budget["competition"] + budget["drift"], abs=1e-12)
    assert budget["lost"] == pytest.approx(-made["backward_transfer"], abs=1e-12)
    assert [[x is None for x in row] for row in among] == (~np.tri(TASKS, k=-1, dtype=bool)).tolist()
    assert json.loads(json.dumps(made)) == made


def test_scores_that_stay_drift_by_nothing_and_scores_that_ignore_new_classes_lose_nothing_to_them() -> None:
    still = drawn_scores(3)[:1] * TASKS
    budget = summarise(evaluations(still))["forgetting_budget"]
    assert budget["drift"] == budget["drift_error"] == 0 and budget["competition"] > 0.05
    assert all(x in (0, None) for row in budget["drift_lost"] for x in row)
    own = [np.where(np.searchsorted(OFFSETS, np.arange(12), side="right") - 1 == 0, s, -99.0) for s in drawn_scores(4)]
    budget = summarise(evaluations(own))["forgetting_budget"]
    assert budget["competition"] == budget["competition_error"] == 0 and budget["drift"] != 0


def test_the_error_is_that_of_repeated_test_sets() -> None:
    rng = np.random.default_rng(5)
    images, draws = 300, rng.multinomial(300, [0.1, 0.8, 0.1], size=2000)
    means = (draws[:, 2] - draws[:, 0]) / images
    errors = [paired(np.repeat([-1, 0, 1], draw))[1] for draw in draws[:200]]
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.06)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packed_answers_come_back(flags: list[bool]) -> None:
    assert unpacked(packed(np.array(flags)), len(flags)).tolist() == flags


def test_the_order_of_images_of_different_tasks_does_not_matter() -> None:
    scores = drawn_scores(6)[1][:, :5]
    seen = LABELS < 5
    mixed = score_classes(scores[seen], LABELS[seen], OFFSETS[:3])
    order = np.argsort(LABELS[seen] >= 3, kind="stable")
    assert score_classes(scores[seen][order], LABELS[seen][order], OFFSETS[:3]) == mixed


@pytest.mark.parametrize(
    "change",
    [
        {"right": None},
        {"right": ["oA=="]},
        {"right": ["oA==", "wA=="]},  # two right where one is counted
        {"right": ["oA=", "gA=="]},
        {"right": ["é", "gA=="]},
        {"right": ["oAA=", "gA=="]},  # two bytes for three images
        {"right": ["oQ==", "gA=="]},  # a fourth image
        {"right_among_old": ["gA=="]},  # lacks an image that is right among more classes
        {"right_among_old": []},
    ],
)
def test_answers_that_no_evaluation_has_are_refused(change: dict) -> None:
    record = {"task": 1, "images": [3, 2], "correct": [2, 1], "correct_task": 4, "right": ["oA==", "gA=="]}
    record |= {"right_among_old": ["4A=="]}
    good = TaskEvaluation.from_record(record, "run/task1")
    assert good.answers is not None and [f.tolist() for f in good.answers[1]] == [[True, True, True]]
    assert good.to_record() == record | {"correct_top5": None, "correct_given_task": None}
    with pytest.raises(RunFolderError, match="no run wrote"):
        TaskEvaluation.from_record(record | change, "run/task1")


def test_an_evaluation_of_an_older_version_agrees_by_its_counts() -> None:
    found = evaluations(drawn_scores(7))
    record = found[1].to_record() | {"right": None, "right_among_old": None}
    old = TaskEvaluation.from_record(record, "run")
    assert old.agrees(found[1]) and found[1].agrees(old) and found[1].agrees(found[1]) and old != found[1]
    other = evaluations(drawn_scores(8))[1]
    assert not found[1].agrees(other) and not old.agrees(other)
    # One that lacks them among others that don't: nothing can be split
    made = summarise([found[0], old, *found[2:]])
    assert made["accuracy_among_old_classes"] is None and made["forgetting_budget"] is None
    whole = summarise(found)
    assert {name: value for name, value in made.items() if value is not None}.items() <= whole.items()
    over_seeds = aggregate([whole, made])
    assert over_seeds["forgetting_budget"] == {"mean": None, "std": None, "n": 2}


def test_a_single_task_has_no_budget_and_seeds_are_averaged() -> None:
    first, second = (summarise(evaluations(drawn_scores(seed))) for seed in (1, 2))
    assert summarise(evaluations(drawn_scores(1))[:1])["forgetting_budget"] is None
    both = aggregate([first, second])["forgetting_budget"]
    drifts = [made["forgetting_budget"]["of_task"]["drift"][1] for made in (first, second)]
    assert both["mean"]["of_task"]["drift"][1] == pytest.approx(np.mean(drifts))
    assert both["std"]["of_task"]["drift"][1] == pytest.approx(np.std(drifts, ddof=1))
    assert both["mean"]["drift_lost"][0][0] is None and both["n"] == 2


def test_class_means_under_features_that_stay_have_no_drift_and_a_refitted_ridge_may() -> None:
    train, test = clusters(0, 8, spread=4.0), clusters(1, 30, spread=4.0)
    config = tiny.config()
    found = {
        name: summarise(evaluated(make_readout(name, config, width=WIDTH, classes=7, seed=0), train, test))
        for name in ("prototypes", "ridge")
    }
    budgets = {name: made["forgetting_budget"] for name, made in found.items()}
    assert budgets["prototypes"]["drift"] == 0 and budgets["prototypes"]["competition"] > 0.05
    assert budgets["ridge"]["drift_error"] > 0


def test_nothing_is_split_of_no_or_one_task() -> None:
    assert forgetting_budget([[np.array([True])]], [[]]) is None
