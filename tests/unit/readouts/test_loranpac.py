"""`loranpac`: least squares of all rows where nothing is left out, and truncation by whole decompositions."""

from dataclasses import replace

import numpy as np
import pytest

from ntkcl_jax.readouts import loranpac
from ntkcl_jax.readouts.base import Lesson
from ntkcl_jax.readouts.loranpac import LoRanPAC
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt

WIDE = 300
TRAIN, TEST = clusters(2, 12, spread=1.5), clusters(3, 4, spread=1.5)[0]
IMAGES = len(TRAIN[1])
WHOLE = LoRanPAC(WIDTH, CLASSES, 3, WIDE, WIDE, kept=1.0)
CUT = LoRanPAC(WIDTH, CLASSES, 3, WIDE, 40)


def expanded(x: np.ndarray, wide: int = WIDE) -> np.ndarray:
    matrix = np.random.default_rng(stream_seed(3, "loranpac")).standard_normal((WIDTH, wide))
    return np.maximum(x.astype(np.float64) @ matrix, 0)


@pytest.mark.parametrize("rows", [1000, 11])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("wide", [WIDE, 20], ids=["more features", "more images"])
def test_untruncated_it_is_least_squares_without_a_ridge_in_any_order_and_blocks(
    monkeypatch: pytest.MonkeyPatch, rows: int, order: tuple[int, ...], wide: int
) -> None:
    monkeypatch.setattr(loranpac, "ROWS", rows)
    readout = replace(WHOLE, wide_features=wide, cap=wide)
    x, labels = TRAIN
    known = np.zeros(IMAGES, bool)
    for task, state in zip(order, learnt(readout, x, labels, order), strict=True):
        known |= np.isin(labels, SCENARIO.classes(task))
        weights = np.linalg.lstsq(expanded(x[known], wide), np.eye(CLASSES)[labels[known]], rcond=None)[0]
        found = readout.scores(state, TEST, CLASSES)
        np.testing.assert_allclose(found, expanded(TEST, wide) @ weights, rtol=1e-5, atol=1e-6)
        assert np.count_nonzero(state["values"]) == np.linalg.matrix_rank(expanded(x[known], wide))


def test_truncated_it_is_whole_decompositions_of_what_was_kept_and_the_new_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow twin: a low-rank matrix of all columns, decomposed anew for each block."""
    monkeypatch.setattr(loranpac, "ROWS", 20)
    x, labels = TRAIN
    kept, images, sums = np.zeros((WIDE, 0)), 0, np.zeros((WIDE, CLASSES))
    counts = []
    for task, state in enumerate(learnt(CUT, x, labels)):
        own = np.flatnonzero(np.isin(labels, SCENARIO.classes(task)))
        for block in np.split(own, range(20, len(own), 20)):
            images += len(block)
            new = expanded(x[block]).T
            sums += new @ np.eye(CLASSES)[labels[block]]
            left, values, right = np.linalg.svd(np.concatenate([kept, new], axis=1), full_matrices=False)
            most = min(round(0.75 * images), 40)
            kept = left[:, :most] * values[:most] @ right[:most]
        counts.append(most)
        weights = left[:, :most] / values[:most] ** 2 @ (left[:, :most].T @ sums)
        np.testing.assert_allclose(state["values"][:most], values[:most], rtol=1e-9)
        assert not state["values"][most:].any() and not state["basis"][:, most:].any()
        np.testing.assert_allclose(CUT.scores(state, TEST, CLASSES), expanded(TEST) @ weights, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(state["sums"], sums, rtol=1e-10)
    assert counts == [27, 40, 40]  # 36 images; then the cap


def test_with_truncation_the_order_of_tasks_matters() -> None:
    one, other = (learnt(CUT, *TRAIN, tasks=order)[-1] for order in ([0, 1, 2], [2, 1, 0]))
    np.testing.assert_allclose(one["sums"], other["sums"], rtol=1e-10)
    assert not np.allclose(one["values"], other["values"], rtol=1e-6)


def test_the_basis_stays_orthogonal_over_many_blocks_of_nearly_equal_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loranpac, "ROWS", 5)
    x, labels = TRAIN
    state = learnt(CUT, (x[:1] + 1e-5 * x).astype(np.float32), labels)[-1]
    basis = state["basis"][:, state["values"] > 0]
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)


def test_equal_images_leave_no_direction_of_rounding() -> None:
    x, labels = TRAIN
    twice, double = np.concatenate([x, x]), np.concatenate([labels, labels])
    for rows, wanted in ((x, 84), (twice, 84), (np.ones_like(x), 1)):
        names = double if len(rows) > IMAGES else labels
        part = Lesson(0, rows[:, None], names, CLASSES, lambda: (x, labels))
        state = WHOLE.learn(WHOLE.init(), part)
        assert np.count_nonzero(state["values"]) == wanted
        solved = np.linalg.pinv(expanded(rows), rcond=1e-12) @ np.eye(CLASSES)[names]
        np.testing.assert_allclose(WHOLE.scores(state, TEST, CLASSES), expanded(TEST) @ solved, rtol=1e-5, atol=1e-6)


def test_what_is_set_to_fit_fits() -> None:
    for free in (10**8, 10**9, 10**10):
        wide = int(CUT.fitting(free).rsplit(" ", 1)[1])
        assert 0.99 * free < LoRanPAC(1, 1, 0, wide, round(0.1 * wide)).memory < 1.01 * free
