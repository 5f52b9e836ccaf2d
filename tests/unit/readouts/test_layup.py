"""LayUP: the ridge of all tokens at once, by rows stacked, with the λ of its own held-out fifth."""

from dataclasses import fields

import numpy as np

from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.readouts.held_out_ridge import choose_ridge
from ntkcl_jax.readouts.layup import LayUP
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt


def test_it_is_the_ridge_regression_of_all_tokens_seen() -> None:
    readout = LayUP(1, CLASSES, 3, BackboneConfig(dim=WIDTH // 2, depth=2, heads=1))
    assert [field.name for field in fields(readout)] == ["width", "classes", "seed", "backbone"]
    (x, labels), (test, _) = clusters(2, 30, spread=1.5), clusters(3, 10, spread=1.5)
    for task, state in enumerate(learnt(readout, x, labels)):
        new, classes = np.isin(labels, SCENARIO.classes(task)), SCENARIO.offsets[task + 1]
        one_hot, seen = np.eye(CLASSES)[labels], labels < classes
        ridge = choose_ridge(x[new].astype(float), one_hot[new], stream_seed(3, "layup", "held out", task))
        stacked = np.concatenate([x[seen], np.sqrt(ridge) * np.eye(WIDTH)])  # the ridge as rows of its own
        weights = np.linalg.lstsq(stacked, np.concatenate([one_hot[seen], np.zeros((WIDTH, CLASSES))]), rcond=None)[0]
        np.testing.assert_allclose(readout.scores(state, test, classes), (test @ weights)[:, :classes], atol=1e-5)
