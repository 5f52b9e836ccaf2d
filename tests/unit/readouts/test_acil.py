"""`acil` and `ds-al`: what the papers' recursions end at, by those recursions, and what doesn't depend on an order."""

from dataclasses import replace

import numpy as np
import pytest

from ntkcl_jax.readouts.acil import ACIL
from ntkcl_jax.readouts.ds_al import DSAL
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt, lesson

RANDOM = 30
MAIN = ACIL(WIDTH, CLASSES, 3, random_features=RANDOM, gamma=0.5)
BOTH = DSAL(WIDTH, CLASSES, 3, random_features=RANDOM, gamma=0.5, compensation=0.6)
TRAIN, TEST = clusters(2, 12, spread=1.5), clusters(3, 4)[0]


def projected(x: np.ndarray) -> np.ndarray:
    bound = 1 / np.sqrt(WIDTH)
    matrix = np.random.default_rng(stream_seed(3, "acil")).uniform(-bound, bound, (WIDTH, RANDOM))
    return x.astype(np.float64) @ matrix


class Recursive:
    """The published update: an inverse and a solution, no sums."""

    def __init__(self, gamma: float) -> None:
        self.inverse, self.weights = np.eye(RANDOM) / gamma, np.zeros((RANDOM, CLASSES))

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        gain = np.linalg.inv(np.eye(len(x)) + x @ self.inverse @ x.T)
        self.inverse = self.inverse - self.inverse @ x.T @ gain @ x @ self.inverse
        self.weights = self.weights + self.inverse @ x.T @ (y - x @ self.weights)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_both_streams_are_those_of_the_published_recursions(order: tuple[int, ...]) -> None:
    x, labels = TRAIN
    main, other = Recursive(0.5), Recursive(0.5)
    states = zip(learnt(MAIN, x, labels, order), learnt(BOTH, x, labels, order), strict=True)
    for task, (plain, dual) in zip(order, states, strict=True):
        classes = SCENARIO.classes(task)
        own = np.isin(labels, classes)
        y = np.eye(CLASSES)[labels[own]]
        relu, tanh = np.maximum(projected(x[own]), 0), np.tanh(projected(x[own]))
        main.fit(relu, y)
        residual = y - relu @ main.weights
        residual[:, [c for c in range(CLASSES) if c not in classes]] = 0
        other.fit(tanh, residual)
        wanted = np.maximum(projected(TEST), 0) @ main.weights
        np.testing.assert_allclose(MAIN.scores(plain, TEST, CLASSES), wanted, rtol=1e-8, atol=1e-9)
        wanted = wanted + 0.6 * np.tanh(projected(TEST)) @ other.weights
        np.testing.assert_allclose(BOTH.scores(dual, TEST, CLASSES), wanted, rtol=1e-8, atol=1e-9)


def test_the_main_stream_of_ds_al_is_acil_and_the_compensation_counts() -> None:
    plain, dual = learnt(MAIN, *TRAIN)[-1], learnt(BOTH, *TRAIN)[-1]
    for name, value in plain.items():
        np.testing.assert_array_equal(dual[name], value)
    alone = replace(BOTH, compensation=0.0)
    np.testing.assert_array_equal(alone.scores(dual, TEST, CLASSES), MAIN.scores(plain, TEST, CLASSES))
    assert np.abs(BOTH.scores(dual, TEST, CLASSES) - MAIN.scores(plain, TEST, CLASSES)).max() > 0.01


def test_only_the_residuals_depend_on_the_order_of_tasks() -> None:
    first, other = (learnt(BOTH, *TRAIN, tasks=order)[-1] for order in ([0, 1, 2], [2, 1, 0]))
    for name in ("gram", "sums", "compensation_gram"):
        np.testing.assert_allclose(first[name], other[name], rtol=1e-10, atol=1e-10)
    assert not np.allclose(first["compensation_sums"], other["compensation_sums"], atol=1e-3)


def test_residuals_of_earlier_classes_are_not_learnt() -> None:
    states = learnt(BOTH, *TRAIN)
    for before, after, task in zip(states, states[1:], (1, 2), strict=False):
        changed = np.flatnonzero(np.abs(after["compensation_sums"] - before["compensation_sums"]).max(axis=0))
        np.testing.assert_array_equal(changed, SCENARIO.classes(task))


def test_what_it_takes_grows_with_the_square_of_its_features() -> None:
    for made in (MAIN, BOTH):
        state = made.learn(made.init(), lesson(*TRAIN, 0))
        grams = [value for name, value in state.items() if name.endswith("gram")]
        assert made.memory == 8 * RANDOM**2 * (2 * len(grams) + 2)
        assert made.fitting(made.memory) == f"set --readout.random_features {RANDOM}"
