"""NTK-CL as a learner: what begins and ends a task, old prototypes that a step draws, columns that its logits fill."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import BackboneConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.errors import ConfigError, NonFiniteError
from ntkcl_jax.methods.base import Recipe, Task
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import ANCHOR, BASIS, draw_old_rows, old_prototype_rows, updated_mean
from ntkcl_jax.methods.ntkcl_objective import OldRows, orthogonality, orthogonality_basis
from tests.support import networks as tiny

OBJECTIVE = ObjectiveConfig(orthogonality_rank=3)
LEARNER = tiny.ntkcl(objective=OBJECTIVE)
TASKS = (Task(jnp.int32(0), jnp.arange(5) < 3), Task(jnp.int32(1), jnp.arange(5) >= 3))
NO_ROWS = OldRows(jnp.zeros((1, 16)), jnp.zeros(1, jnp.int32), jnp.zeros(1, bool))


def batch(labels: list[int], seed: int = 0) -> Batch:
    return Batch(tiny.images(len(labels), seed=seed), np.array(labels, np.int32), np.ones(len(labels), bool))


def test_a_task_begins_with_a_new_proxy_head_and_the_directions_of_old_prototypes() -> None:
    state = tiny.ntkcl_state(LEARNER)
    begun, other = (LEARNER.begin(state, TASKS[1], jax.random.key(k), lambda: []) for k in (1, 2))
    for path, value in state.trainable.items():
        assert np.array_equal(begun.trainable[path], value) is not path.startswith("proxy/"), path
    assert not np.array_equal(begun.trainable["proxy/kernel"], other.trainable["proxy/kernel"])
    assert begun.trainable["proxy/scale"] == 1
    changed = {path for path in state.frozen.buffers if begun.frozen.buffers[path] is not state.frozen.buffers[path]}
    assert changed == {BASIS}
    rows = np.asarray(state.frozen.buffers["prototypes/kernel"])
    wanted = orthogonality_basis(rows, old=3, allocated=5, rank=3, variant=OBJECTIVE.orthogonality)
    np.testing.assert_array_equal(begun.frozen.buffers[BASIS], wanted)


@pytest.mark.parametrize("number", [0, 1])
def test_a_task_ends_with_its_mean_then_its_prototypes_then_its_anchor(number: int) -> None:
    """Prototypes are means under the updated running mean, which the last task doesn't touch."""
    state, labels = tiny.ntkcl_state(LEARNER), ([0, 1, 2, 0], [3, 4, 3, 4])[number]
    trainable, frozen = state
    ended = LEARNER.finish(state, TASKS[number], lambda: [batch(labels)])
    assert ended.trainable is trainable or all(ended.trainable[path] is value for path, value in trainable.items())
    mean = updated_mean(frozen.buffers, trainable, number) if number == 0 else {}
    expected = {path: mean.get(path, value) for path, value in frozen.buffers.items() if path.startswith("mean/")}
    for path, value in expected.items():
        np.testing.assert_array_equal(ended.frozen.buffers[path], value)
    offset, size = ((0, 3), (3, 2))[number]
    under = frozen._replace(buffers=frozen.buffers | mean)
    means = class_means(LEARNER, trainable, under, [batch(labels)], offset, size)
    kernel = np.array(frozen.buffers["prototypes/kernel"])
    kernel[offset : offset + size] = means
    np.testing.assert_array_equal(ended.frozen.buffers["prototypes/kernel"], kernel)
    seen = np.arange(5) < 4 if number == 0 else np.ones(5, bool)
    np.testing.assert_array_equal(ended.frozen.buffers["prototypes/seen"], seen)
    for path, value in LEARNER.anchored(trainable).items():
        assert path.startswith(ANCHOR)
        np.testing.assert_array_equal(ended.frozen.buffers[path], value)
    np.testing.assert_array_equal(ended.frozen.buffers[BASIS], frozen.buffers[BASIS])


def test_a_prototype_that_overflows_stops_the_run() -> None:
    state = tiny.ntkcl_state(LEARNER)
    broken = state.updated({path: value * jnp.nan for path, value in state.trainable.items()})
    with pytest.raises(NonFiniteError, match="a prototype of task 1 isn't finite"):
        LEARNER.end(broken, TASKS[1], lambda: [batch([3, 4])])


def test_logits_fill_the_columns_of_the_tasks_own_classes_and_no_other() -> None:
    """The proxy head is three wide; in the last task of two classes its third column falls off the stream's end."""
    state, images = tiny.ntkcl_state(LEARNER), batch([3, 4, 4, 3])
    compute = jax.jit(LEARNER.terms_of, static_argnums=5, compiler_options=tiny.QUICKLY)
    for task, columns in ((TASKS[0], [0, 1, 2]), (TASKS[1], [3, 4])):
        terms, features, logits = compute(*state, task, images, NO_ROWS, None)
        proxy = np.asarray(tiny.scores(LEARNER.network, *state, images.images)[1])
        np.testing.assert_allclose(logits[:, columns], proxy[:, : len(columns)], rtol=1e-5, atol=1e-6)
        assert np.all(np.isneginf(np.delete(np.asarray(logits), columns, axis=1)))
        assert set(terms) == set(LEARNER.terms)
        assert features.hybrid.shape == (4, 16)


@pytest.mark.parametrize(
    ("variant", "offset", "size", "expected"),
    [("paper", 0, 7, 0), ("paper", 7, 5, 7), ("reference", 0, 7, 2), ("reference", 0, 3, 0), ("reference", 7, 5, 7)],
)
def test_the_number_of_old_prototypes(variant: str, offset: int, size: int, expected: int) -> None:
    classes = jnp.arange(12)
    task = Task(jnp.int32(offset > 0), (classes >= offset) & (classes < offset + size))
    assert old_prototype_rows(variant, task, classes_per_task=5) == expected  # ty: ignore[invalid-argument-type]


draw = jax.jit(jax.vmap(draw_old_rows, in_axes=(0, None, None, None)), static_argnums=3)
PROTOTYPES = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.mark.parametrize(("old", "most", "count"), [(0, 4, 0), (2, 4, 2), (4, 4, 4), (6, 4, 4), (5, 9, 5)])
def test_old_rows_are_different_and_as_many_as_there_are(old: int, most: int, count: int) -> None:
    rows = draw(jax.random.split(jax.random.key(0), 50), PROTOTYPES, jnp.int32(old), most)
    assert rows.valid.shape == (50, min(most, 6))
    for labels, valid, features in zip(*(np.asarray(x) for x in (rows.labels, rows.valid, rows.features)), strict=True):
        assert valid.sum() == count
        assert len(set(labels[valid])) == count
        assert all(label < old for label in labels[valid])
        np.testing.assert_array_equal(features, PROTOTYPES[labels])


def test_old_rows_are_drawn_uniformly() -> None:
    n, old, most = 3000, 5, 2
    rows = draw(jax.random.split(jax.random.key(1), n), PROTOTYPES, jnp.int32(old), most)
    counts = np.bincount(np.asarray(rows.labels)[np.asarray(rows.valid)], minlength=6)
    assert counts[5] == 0
    expected = n * most / old
    assert np.sum((counts[:5] - expected) ** 2 / expected) < 18.5  # chi-square, 4 degrees, p = 0.001


def test_with_one_stream_alone_its_cross_entropy_and_orthogonality_count_once() -> None:
    single = tiny.ntkcl(replace(tiny.SHALLOW, streams="patch"), objective=OBJECTIVE)
    state, images, found = tiny.ntkcl_state(LEARNER), batch([0, 1, 2, 1]), {}
    for learner in (LEARNER, single):
        compute = jax.jit(functools.partial(learner.terms_of, task=TASKS[0], old_rows=NO_ROWS, key=None))
        found[learner], features, _ = compute(*state, batch=images)
    assert found[single]["ce_channel"] == found[single]["ce_patch"] == 0
    np.testing.assert_allclose(found[single]["ce_hybrid"], found[LEARNER]["ce_patch"], rtol=1e-5)
    patch = features._replace(channel=jnp.zeros_like(features.channel))
    wanted = orthogonality(patch, jnp.asarray(images.valid), state.frozen.buffers[BASIS], OBJECTIVE.orthogonality)
    np.testing.assert_allclose(found[single]["orthogonality"], wanted, rtol=1e-5)


def test_its_recipe_and_epochs_are_the_settings_of_the_run() -> None:
    settings = {"learning_rate": 0.3, "later_learning_rate": 0.1, "momentum": 0.7, "weight_decay": 0.2, "epochs": 4}
    config = RunConfig(model=tiny.SHALLOW, optimizer=OptimizerConfig(**settings))  # ty: ignore[invalid-argument-type]
    wanted = Recipe("sgd", 0.3, "cosine", weight_decay=0.2, momentum=0.7, later_learning_rate=0.1)
    assert LEARNER.recipe_of(config) == wanted
    assert [LEARNER.epochs_of(config, task) for task in (0, 1)] == [4, 4]
    stays = replace(config, optimizer=replace(config.optimizer, later_learning_rate=0.0))
    assert [LEARNER.epochs_of(stays, task) for task in (0, 1)] == [4, 0]


def test_a_model_for_another_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a model for"):
        replace(LEARNER, backbone=BackboneConfig())
