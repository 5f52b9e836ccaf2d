"""What every readout promises, whatever it computes."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ntkcl_jax.config import BackboneConfig, ModelConfig, RunConfig
from ntkcl_jax.config.methods import READOUTS, ReadoutConfig
from ntkcl_jax.readouts.base import Readout, is_linear, make_readout, with_constant
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, evaluated, learnt, lesson

TRAIN, TEST = clusters(2, 30), clusters(3, 10)
ADDITIVE = (
    "prototypes", "ridge", "random-ridge", "ranpac", "layup", "acil", "ds-al", "klda", "fecam", "loranpac",
    "multilevel",
)  # fmt: skip
NOT_LINEAR = {"prototypes", "ds-al", "klda", "fecam"}
each = pytest.mark.parametrize("name", READOUTS.own)


def readout(name: str, seed: int = 0) -> Readout:
    backbone = BackboneConfig(dim=WIDTH // 2, depth=2, heads=1)  # two class tokens are as wide as a cluster's features
    config = replace(
        RunConfig(),
        model=ModelConfig(backbone, fusion_heads=1),
        readout=ReadoutConfig(random_features=40, views=2, widths=(3, 3, 2, 2), wide_features=400),
    )
    return make_readout(name, config, width=WIDTH, classes=CLASSES, seed=seed)


def test_all_of_them_are_tested() -> None:
    assert {name: readout(name).additive for name in READOUTS.own} == {name: name in ADDITIVE for name in READOUTS.own}


def test_on_an_easy_stream_all_but_the_sequential_classifier_remember() -> None:
    final = {name: evaluated(readout(name), TRAIN, TEST)[-1] for name in READOUTS.own}
    forgetful = final.pop("linear")
    assert {name: e.accuracy for name, e in final.items() if e.accuracy <= 0.95} == {}
    assert forgetful.accuracy < 0.6
    assert forgetful.task_accuracies[-1] > 0.95
    assert forgetful.task_accuracies[0] < 0.5


@each
def test_a_readout_is_a_function_of_its_seed(name: str) -> None:
    found = evaluated(readout(name, seed=3), TRAIN, TEST)
    assert found == evaluated(readout(name, seed=3), TRAIN, TEST)
    assert [e.images for e in found] == [(30,), (30, 20), (30, 20, 20)]
    states = [learnt(readout(name, seed), *TRAIN)[-1] for seed in (3, 4)]
    differ = any(not np.array_equal(value, states[1][key]) for key, value in states[0].items())
    # These draw nothing: `layup` nothing that can be seen in what it learns, `multilevel` its maps before it learns
    assert differ is (name not in ("prototypes", "ridge", "layup", "fecam", "multilevel"))


@each
def test_a_readout_never_sees_a_class_early(name: str) -> None:
    """Garbage in the images of later tasks doesn't change the first evaluations."""
    features, labels = TRAIN
    spoilt = np.where((labels >= 5)[:, None], 99 * np.sin(np.arange(WIDTH)), features).astype(np.float32)
    one, other = (evaluated(readout(name), (x, labels), TEST) for x in (features, spoilt))
    assert one[:2] == other[:2]
    assert one[2] != other[2]


@each
def test_learning_leaves_the_old_state_alone_and_keeps_its_names_shapes_and_types(name: str) -> None:
    made = readout(name)
    state, like = made.init(), [(k, v.shape, v.dtype) for k, v in sorted(made.init().items())]
    for task in range(3):
        before = copy.deepcopy(state)
        new = made.learn(state, lesson(*TRAIN, task, made.views))
        for key, value in before.items():
            np.testing.assert_array_equal(state[key], value)
        assert [(k, v.shape, v.dtype) for k, v in sorted(new.items())] == like
        assert any(not np.array_equal(new[key], state[key]) for key in new)
        state = new


@each
def test_scores_are_those_of_the_classes_seen_image_by_image(name: str) -> None:
    made = readout(name)
    state = learnt(made, *TRAIN, tasks=[0, 1])[-1]
    before, test = copy.deepcopy(state), TEST[0][:9]
    scores = made.scores(state, test, 5)
    assert scores.shape == (9, 5)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(made.scores(state, test, 3), scores[:, :3], rtol=1e-5, atol=1e-6)
    order = np.array([4, 0, 7])
    np.testing.assert_allclose(made.scores(state, test[order], 5), scores[order], rtol=1e-4, atol=1e-5)
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)


SUMS: dict[str, tuple[str, ...]] = {
    "prototypes": ("means",),
    "ridge": ("gram", "sums", "images"),
    "random-ridge": ("gram", "sums", "images"),
    "ranpac": ("gram", "sums"),
    "layup": ("gram", "sums"),
    "acil": ("gram", "sums"),
    "ds-al": ("gram", "sums", "compensation_gram"),
    "klda": ("counts",),  # the first task chooses the kernel of the others
    "fecam": ("counts", "sums", "squares"),
    "loranpac": ("sums", "images"),
    "multilevel": ("gram", "sums", "left_out"),
}
"""Parts of a state that are sums over images, or means of whole classes."""


@pytest.mark.parametrize("name", ADDITIVE)
def test_the_order_of_tasks_does_not_matter_to_what_is_added_up(name: str) -> None:
    made = readout(name)
    wanted = learnt(made, *TRAIN)[-1]
    for order in ([2, 0, 1], [1, 2, 0]):
        found = learnt(made, *TRAIN, tasks=order)[-1]
        for key in SUMS[name]:
            np.testing.assert_allclose(found[key], wanted[key], rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("name", ["ridge", "random-ridge", "ranpac", "acil", "fecam", "loranpac"])
def test_nor_does_it_matter_how_images_are_split_into_lessons(name: str) -> None:
    """Prototypes are no sums: a class comes in one lesson."""
    made, state = readout(name), {}
    whole = lesson(*TRAIN, 0, made.views)
    wanted, state = made.learn(made.init(), whole), made.init()
    for part in (slice(0, 50), slice(50, 64), slice(64, None)):
        state = made.learn(state, whole._replace(features=whole.features[part], labels=whole.labels[part]))
    for key in SUMS[name]:
        np.testing.assert_allclose(state[key], wanted[key], rtol=1e-10, atol=1e-8)


def test_after_the_first_task_sequential_and_joint_have_seen_the_same() -> None:
    assert all(evaluated(readout(name), TRAIN, TEST)[0].accuracy > 0.95 for name in ("linear", "joint"))


def test_a_constant_input_is_appended_in_the_type_of_the_features() -> None:
    found: Any = with_constant(np.full((2, 3), 5, np.float32))
    assert found.tolist() == [[5, 5, 5, 1]] * 2
    assert found.dtype == np.float32


def test_the_stream_has_three_tasks() -> None:
    assert SCENARIO.offsets == (0, 3, 5, 7)


@pytest.mark.parametrize("name", [name for name in READOUTS.own if name not in NOT_LINEAR])
def test_what_it_says_it_is_linear_in_gives_its_scores(name: str) -> None:
    """By NumPy: ridge regression on the columns is the classifier; trained otherwise, some weights on them are."""
    plain = {"random-ridge": {"crops": 0}, "multilevel": {"level_views": 0}}
    made = replace(readout(name), **plain.get(name, {}))
    state = learnt(made, *TRAIN)[-1]
    model = made.linear(state)
    assert model is not None and sum(width for _, width in model.groups) == len(model.scale)

    def columns(features: np.ndarray) -> np.ndarray:
        x = features.astype(np.float64)
        x = x if model.projection is None else np.maximum(x @ model.projection, 0)
        return (with_constant(x) if model.constant else x) * model.scale

    x, y = columns(TRAIN[0]), np.eye(CLASSES)[TRAIN[1]]
    wanted = made.scores(state, TEST[0], CLASSES)
    if model.ridge is None:
        weights = np.linalg.lstsq(x, made.scores(state, TRAIN[0], CLASSES))[0]
    else:
        weights = np.linalg.solve(x.T @ x + model.ridge * np.eye(x.shape[1]), x.T @ y)
    np.testing.assert_allclose(columns(TEST[0]) @ weights, wanted, atol=1e-5 * np.abs(wanted).max())


def test_only_what_is_linear_in_weights_has_a_linear_model() -> None:
    assert {name for name in READOUTS.own if not is_linear(name)} == NOT_LINEAR
    assert all(readout(name).linear({}) is None for name in NOT_LINEAR)
