"""`fecam`: Mahalanobis distances written out class by class, with many images of a class and with few."""

import numpy as np
import pytest

from ntkcl_jax.readouts.base import Lesson
from ntkcl_jax.readouts.fecam import FeCAM
from tests.support.lessons import CLASSES, WIDTH, clusters, learnt, lesson

TRAIN, TEST = clusters(2, 12, spread=1.5), clusters(3, 4, spread=1.5)[0]


def taught(readout: FeCAM, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return readout.learn(readout.init(), Lesson(0, x[:, None], labels, readout.classes, lambda: (x, labels)))


@pytest.mark.parametrize(("images", "width"), [(15, 192), (400, 6)], ids=["few shots", "many shots"])
@pytest.mark.parametrize(("tukey", "shrinkage"), [(1.0, 1.0), (0.5, 1.0), (0.5, 20.0)])
def test_it_is_the_least_of_the_distances(images: int, width: int, tukey: float, shrinkage: float) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, width, width)) / np.sqrt(width)  # each class has a covariance of its own
    labels = np.arange(3 * images) % 3
    x = 0.3 + np.einsum("nd,nde->ne", rng.normal(size=(len(labels), width)), mixing[labels]).astype(np.float32)
    test = rng.normal(size=(9, width)).astype(np.float32)
    readout = FeCAM(width, 3, 0, tukey, shrinkage)
    scores = readout.scores(taught(readout, x, labels), test, 3)

    def transformed(rows: np.ndarray) -> np.ndarray:
        powers = np.where(rows < 0, -1.0, 1.0) * np.abs(rows.astype(np.float64)) ** tukey
        return np.stack([row / np.sqrt(row @ row) for row in powers])

    for c in range(3):
        rows = transformed(x[labels == c])
        covariance = np.cov(rows.T)
        covariance = covariance + shrinkage * np.mean(np.diagonal(covariance)) * np.eye(width)
        deviations = np.sqrt(np.diagonal(covariance))
        inverse = np.linalg.pinv(covariance / deviations[:, None] / deviations[None, :])
        for i, row in enumerate(transformed(test)):
            gap = row - rows.mean(axis=0)
            assert scores[i, c] == pytest.approx(-gap @ inverse @ gap, rel=1e-8)


def test_neither_the_order_of_tasks_nor_batches_matter() -> None:
    readout = FeCAM(WIDTH, CLASSES, 0)
    wanted = learnt(readout, *TRAIN)[-1]
    state = readout.init()
    for task in (2, 0, 1):
        whole = lesson(*TRAIN, task)
        for part in (slice(0, 5), slice(5, None)):
            state = readout.learn(state, whole._replace(features=whole.features[part], labels=whole.labels[part]))
    for name, value in wanted.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-10, atol=1e-12)


def test_classes_of_one_image_or_of_equal_ones_have_the_distance_itself() -> None:
    x, labels = TRAIN
    readout = FeCAM(WIDTH, CLASSES, 0)
    rows = np.concatenate([x[:1], np.repeat(x[1:2], 3, axis=0), x[labels == 2]])
    state = taught(readout, rows, np.repeat([0, 1, 2], [1, 3, 12]))
    scores = readout.scores(state, TEST, 4)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (TEST, x[:2])]
    np.testing.assert_allclose(scores[:, :2], -np.square(units[0][:, None] - units[1]).sum(axis=-1), rtol=1e-5)
    assert np.isfinite(scores[:, 2]).all() and np.isneginf(scores[:, 3]).all()


def test_much_shrinkage_leaves_the_nearest_class_mean() -> None:
    readout = FeCAM(WIDTH, CLASSES, 0, shrinkage=1e6)
    state = learnt(readout, *TRAIN)[-1]
    x = readout.expand(TEST)
    means = state["sums"] / state["counts"][:, None]
    wanted = -np.square(x[:, None] - means).sum(axis=-1)
    np.testing.assert_allclose(readout.scores(state, TEST, CLASSES), wanted, rtol=1e-4)


def test_what_it_takes_is_a_matrix_for_each_class() -> None:
    readout = FeCAM(WIDTH, CLASSES, 0)
    assert readout.memory == 2 * readout.init()["squares"].nbytes
