"""The untouched backbone as a learner: its class tokens, and nothing to train."""

import numpy as np

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.frozen import FrozenBackbone
from ntkcl_jax.training.readout_run import features_of
from tests.support import learners as small

LEARNER = small.learner(FrozenBackbone)


def test_features_are_the_class_tokens_of_valid_rows_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    state = small.start(LEARNER)
    batches = [
        Batch(images[:3], np.array([4, 0, 2], np.int32), np.array([True] * 3)),
        Batch(np.concatenate([images[3:], images[:1]]), np.array([1, 3, 0], np.int32), np.array([True, True, False])),
    ]
    found, labels = features_of(LEARNER, state, batches)
    np.testing.assert_allclose(found, small.adapter_twin(state.frozen, None, images / np.float32(255)), atol=1e-5)
    assert found.dtype == np.float32
    assert labels.tolist() == [4, 0, 2, 1, 3]


def test_nothing_is_trained() -> None:
    state = small.start(LEARNER)
    assert state.trainable == {}
    assert (LEARNER.terms, LEARNER.sessions, LEARNER.outputs) == ((), 0, ("features",))
    assert small.learnt(LEARNER, state, range(1)).frozen.buffers["seen"].tolist() == [True, True, False, False, False]
