"""The ridge classifier on groups of features, beside the regression that it stands for."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ntkcl_jax.readouts import group_ridge
from ntkcl_jax.readouts.group_ridge import RIDGES, GroupRidge

WIDTHS, CLASSES = (4, 3, 5), 5
CANDIDATES = ((1.0, 1.0, 1.0), (1.0, 0.3, 0.0), (0.0, 1.0, 0.3))
TASKS = ((0, 1, 2), (3, 4))


def images(views: int = 1, seed: int = 0, per_class: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, views, w) in noise about class centres, and labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(CLASSES, sum(WIDTHS)))
    labels = np.tile(np.arange(CLASSES), per_class)
    return centres[labels][:, None] + rng.normal(size=(len(labels), views, sum(WIDTHS))), labels


def learnt(x: np.ndarray, y: np.ndarray, order: tuple[int, ...] = (0, 1)) -> GroupRidge:
    ridge, seen = GroupRidge.empty(WIDTHS, CLASSES, CANDIDATES), 0
    for task in order:
        own = np.isin(y, TASKS[task])
        seen = CLASSES if len(order) > 1 and task != order[0] else max(TASKS[task]) + 1
        ridge = ridge.learn(x[own], y[own], seen)
    return ridge


def weighted(x: np.ndarray, ridge: GroupRidge, weights: tuple[float, ...]) -> np.ndarray:
    return x * np.repeat(np.array(weights) / ridge.norms, WIDTHS)


def regression(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression of one-hot classes, by an augmented least-squares problem."""
    width = x.shape[1]
    left = np.concatenate([x, np.sqrt(penalty) * np.eye(width)])
    return np.linalg.lstsq(left, np.concatenate([np.eye(CLASSES)[y], np.zeros((width, CLASSES))]), rcond=None)[0]


@pytest.mark.parametrize("weights", CANDIDATES)
@pytest.mark.parametrize("views", [1, 3])
def test_the_solution_is_the_regression_of_all_tasks_on_weighted_rows(weights: tuple[float, ...], views: int) -> None:
    x, y = images(views)
    ridge = learnt(x, y)
    rows, labels = weighted(x, ridge, weights).reshape(-1, sum(WIDTHS)), np.repeat(y, views)
    penalty = 0.03 * np.square(weights).sum()
    wanted = rows @ regression(rows, labels, penalty)
    np.testing.assert_allclose(x.reshape(len(rows), -1) @ ridge.solved(weights, 0.03), wanted, atol=1e-10)


def test_the_first_task_gives_each_group_its_unit() -> None:
    x, y = images()
    ridge = learnt(x, y)
    first = np.isin(y, TASKS[0])
    ends = np.cumsum((0, *WIDTHS))
    for k, (start, end) in enumerate(itertools.pairwise(ends)):
        assert ridge.norms[k] == pytest.approx(np.sqrt((x[first, 0, start:end] ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("views", [1, 3])
def test_left_out_images_are_those_that_a_classifier_without_them_tells_right(views: int) -> None:
    x, y = images(views, per_class=4)
    ridge = learnt(x, y)
    hits = np.zeros((len(CANDIDATES), len(RIDGES)), int)
    for own in TASKS:
        seen = max(own) + 1
        there = y < seen
        for image in np.flatnonzero(np.isin(y, own)):
            others = there & (np.arange(len(y)) != image)
            for c, weights in enumerate(CANDIDATES):
                rows = weighted(x, ridge, weights)
                for r, fraction in enumerate(RIDGES):
                    penalty = fraction * np.square(weights).sum()
                    flat, labels = rows[others].reshape(-1, sum(WIDTHS)), np.repeat(y[others], views)
                    scores = rows[image, 0] @ regression(flat, labels, penalty)
                    hits[c, r] += scores[:seen].argmax() == y[image]
    np.testing.assert_array_equal(ridge.hits, hits)
    assert ridge.left_out == len(y)
    assert 0.3 < ridge.accuracy == hits.max() / len(y)
    best = hits.max(axis=1).argmax()
    assert ridge.choice == (CANDIDATES[best], max(RIDGES[r] for r in np.flatnonzero(hits[best] == hits.max())))


def test_where_no_left_out_image_was_told_right_the_ridge_is_the_largest() -> None:
    ridge = learnt(*images())
    assert replace(ridge, hits=np.zeros_like(ridge.hits)).choice == (CANDIDATES[0], RIDGES[-1])


def test_sums_know_no_order_of_tasks_and_no_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(2)
    one, other = learnt(x, y), learnt(x, y, (1, 0))
    monkeypatch.setattr(group_ridge, "ROWS", 3)
    parts = learnt(x, y)
    for again in (other, parts):
        np.testing.assert_allclose(again.gram, one.gram, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(again.sums, one.sums, rtol=1e-12, atol=1e-12)
    # With the same units, which the first task gives, the classifiers are one
    same = GroupRidge(WIDTHS, CANDIDATES, other.gram, other.sums, one.norms, other.hits, other.left_out, other.sums)
    np.testing.assert_allclose(same.solved((1.0, 0.3, 0.1), 0.01), one.solved((1.0, 0.3, 0.1), 0.01), atol=1e-10)


def test_the_old_state_stays_as_it_is() -> None:
    x, y = images()
    empty = GroupRidge.empty(WIDTHS, CLASSES, CANDIDATES)
    before = empty.gram.copy(), empty.hits.copy()
    empty.learn(x, y, CLASSES)
    assert np.array_equal(empty.gram, before[0]) and np.array_equal(empty.hits, before[1])


def test_a_part_of_the_columns_finds_the_group_that_tells_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    widths, labels = (300, 300), np.tile(np.arange(CLASSES), 12)
    told = rng.normal(size=(CLASSES, 8))[labels] + 0.3 * rng.normal(size=(len(labels), 8))
    x = np.concatenate([rng.normal(size=(len(labels), 300)), told @ rng.normal(size=(8, 300))], axis=1)
    found = []
    for compared in (600, 60):
        monkeypatch.setattr(group_ridge, "COMPARED", compared)
        ridge = GroupRidge.empty(widths, CLASSES, ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
        found.append(ridge.learn(x[:, None], labels, CLASSES).choice[0])
    assert found[0] == found[1] != (1.0, 0.0)
