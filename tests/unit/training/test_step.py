"""The compiled steps: draws, schedule, optimizer, one compilation for all tasks, padding, portability."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.ntkcl_objective import TERMS, OldRows, orthogonality
from ntkcl_jax.training import step as steps
from ntkcl_jax.training.step import TaskArrays, draw_old_rows, learning_rate, make_optimizer, train_step, update
from tests.support import networks as tiny

NET = tiny.network(tiny.SHALLOW)
OBJECTIVE = ObjectiveConfig(lambda_dis=0.2, lambda_orth=0.1, lambda_reg=0.1, orthogonality_rank=3)
OPTIMIZER = OptimizerConfig(learning_rate=0.1, batch_size=4, weight_decay=0.01, epochs=3)
SETTINGS = (NET, OBJECTIVE, OPTIMIZER)


def task_arrays(offset: int, size: int, old: int, seed: int = 0) -> TaskArrays:
    adaptation, _ = tiny.randomised(NET)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(16, 3)))[0].astype(np.float32)
    anchor = {path: value + 0.1 for path, value in adaptation.items()}
    return TaskArrays(anchor, jnp.asarray(basis), jnp.arange(3) < size, jnp.int32(offset), jnp.int32(old))


def batch(labels: list[int], valid: list[bool] | None = None, seed: int = 0) -> Batch:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return Batch(images, np.array(labels, np.int32), np.array(valid or [True] * len(labels)))


def start() -> tuple[dict[str, jax.Array], Any]:
    """A fresh copy of the parameters (the step donates what it is given) and an empty momentum."""
    adaptation = jax.tree.map(jnp.copy, tiny.randomised(NET)[0])
    return adaptation, jax.tree.map(jnp.zeros_like, make_optimizer(OPTIMIZER).init(adaptation))


def train(task: TaskArrays, images: Batch, step: int = 0, rate: float = 0.1, seed: int = 0) -> tuple:
    frozen = tiny.randomised(NET)[1]
    key = jax.random.key(seed)
    return train_step(*SETTINGS, *start(), frozen, task, images, jnp.float32(rate), key, jnp.int32(step))


def test_one_compilation_serves_all_tasks_steps_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(args)
        return update(*args)

    monkeypatch.setattr(steps, "update", counted)
    train_step.clear_cache()
    results = []
    for t, (offset, size, old) in enumerate([(0, 3, 0), (3, 2, 3), (2, 1, 2)]):
        task = task_arrays(offset, size, old, seed=t)
        for step in range(2):
            images = batch([offset, offset, offset + size - 1, offset], seed=10 * t + step)
            results.append(train(task, images, step, rate=0.1 / (1 + t), seed=t)[2])
    assert len(traces) == 1
    assert len({float(r.terms[-1]) for r in results}) == len(results)


def test_a_step_repeats_from_its_key_and_number_alone_and_differs_from_the_next() -> None:
    """Dropout and drawn prototypes follow (key, step)."""
    task, images = task_arrays(3, 2, 3), batch([3, 3, 4, 4])
    first, again = train(task, images), train(task, images)
    later, other = train(task, images, step=1), train(task, images, seed=1)
    for path in first[0]:
        np.testing.assert_array_equal(first[0][path], again[0][path])
    np.testing.assert_array_equal(first[2].terms, again[2].terms)
    assert float(later[2].terms[-1]) != float(first[2].terms[-1]) != float(other[2].terms[-1])


def test_a_step_changes_the_trainable_tree_and_leaves_everything_else_alone() -> None:
    frozen = tiny.randomised(NET)[1]
    before = jax.device_get(frozen)
    task = task_arrays(0, 3, 0)
    anchor = jax.device_get(task.anchor)
    given, _ = start()
    adaptation, _, result = train(task, batch([0, 1, 2, 2]))
    assert set(adaptation) == set(given)
    assert all(not np.array_equal(adaptation[path], given[path]) for path in given)  # decay moves the dead ones too
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(frozen))
    jax.tree.map(np.testing.assert_array_equal, anchor, jax.device_get(task.anchor))
    assert result.terms.shape == (len(TERMS) + 1,)
    weights = np.array([1, 1, 1, OBJECTIVE.lambda_dis, OBJECTIVE.lambda_orth, OBJECTIVE.lambda_reg])
    np.testing.assert_allclose(result.terms[-1], weights @ np.asarray(result.terms[:-1]), rtol=1e-5)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=tiny.QUICKLY)
def dry_update(network: Any, objective: Any, optimizer: Any, *args: Any) -> Any:
    """An update without dropout."""
    return update(network, objective, optimizer, *args, None)


def test_a_padded_batch_updates_like_its_valid_rows_alone() -> None:
    frozen, task = tiny.randomised(NET)[1], task_arrays(3, 2, 3)
    old = OldRows(
        jnp.asarray(frozen.prototypes["prototypes/kernel"][:3]), jnp.arange(3), jnp.array([True, True, False])
    )
    full = batch([3, 3, 4, 3, 0, 1], [True] * 4 + [False] * 2)
    alone = Batch(*(x[:4] for x in full[:3]))
    rate = jnp.float32(0.1)
    padded, short = (dry_update(*SETTINGS, *start(), frozen, task, b, old, rate) for b in (full, alone))
    np.testing.assert_allclose(padded[2].terms, short[2].terms, rtol=1e-5)
    assert padded[2].correct == short[2].correct
    for path, value in short[0].items():
        np.testing.assert_allclose(padded[0][path], value, atol=2e-5, err_msg=path)


def test_train_and_eval_steps_lower_for_cpu_cuda_and_tpu() -> None:
    frozen, task, images = tiny.randomised(NET)[1], task_arrays(0, 3, 0), batch([0, 1, 2, 2])
    key, platforms = jax.random.key(0), ("cpu", "cuda", "tpu")
    made = jax.export.export(train_step, platforms=platforms)(
        *SETTINGS, *start(), frozen, task, images, jnp.float32(0.1), key, jnp.int32(0)
    )
    assert made.platforms == platforms
    guess = jax.export.export(steps.eval_step, platforms=platforms)(
        NET, start()[0], frozen, images, jnp.array([0, 0, 0, 1, 1])
    )
    assert guess.platforms == platforms
    assert [x.shape for x in guess.out_avals] == [(4,), (4, 5), (4,)]


def test_predictions_are_the_best_scores_overall_and_within_the_true_task() -> None:
    adaptation, frozen = tiny.randomised(NET)
    images = batch([0, 3, 1, 2])
    pixels = images.images.astype(np.float32) / 255
    scores = np.asarray(tiny.scores(NET, adaptation, frozen, pixels)[0])
    made = steps.eval_step(NET, adaptation, frozen, images, jnp.array([0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(made.best, scores.argmax(axis=1))
    np.testing.assert_array_equal(made.top5, np.argsort(-scores, axis=1))
    own = [[0, 1], [2, 3, 4], [0, 1], [2, 3, 4]]
    np.testing.assert_array_equal(made.within_task, [c[np.argmax(row[c])] for c, row in zip(own, scores, strict=True)])


def test_bytes_become_pixels_from_0_to_1_and_boxes_are_cropped() -> None:
    images = batch([0, 1])
    np.testing.assert_allclose(steps.pixels_of(images, 8), images.images / 255.0, atol=1e-7)
    boxes = np.array([[0, 0, 8, 8], [0, 0, 8, 8]], np.float32)
    cropped = steps.pixels_of(images._replace(boxes=boxes, flips=np.array([False, True])), 8)
    np.testing.assert_allclose(cropped[0], images.images[0] / 255.0, atol=0.003)  # rounded to bytes and back
    np.testing.assert_allclose(cropped[1], images.images[1, :, ::-1] / 255.0, atol=0.003)


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


def test_the_rate_falls_as_a_cosine_over_epochs() -> None:
    config = OptimizerConfig(learning_rate=0.4, epochs=4)
    half = 0.5**0.5
    expected = [0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half)]
    np.testing.assert_allclose([learning_rate(config, e) for e in range(4)], expected, rtol=1e-12)
    assert learning_rate(OptimizerConfig(learning_rate=0.4, epochs=1), 0) == 0.4


def test_the_optimizer_is_sgd_with_coupled_decay_and_heavy_ball_momentum() -> None:
    config = OptimizerConfig(momentum=0.8, weight_decay=0.05)
    optimizer = make_optimizer(config)
    p = {"w": np.array([1.0, -2.0], np.float32), "b": np.array([0.5], np.float32)}
    hand, buffer = {k: v.astype(np.float64) for k, v in p.items()}, {k: np.zeros(v.shape) for k, v in p.items()}
    state = optimizer.init(p)
    rng = np.random.default_rng(0)
    for rate in (0.1, 0.1, 0.05, 0.01):
        gradient = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in p.items()}
        step, state = optimizer.update(gradient, state, p)
        p = {k: p[k] - rate * np.asarray(step[k]) for k in p}
        buffer = {k: 0.8 * buffer[k] + gradient[k] + 0.05 * hand[k] for k in p}
        hand = {k: hand[k] - rate * buffer[k] for k in p}
        for k, value in p.items():
            np.testing.assert_allclose(value, hand[k], rtol=1e-5)


def test_with_one_stream_alone_its_cross_entropy_and_orthogonality_count_once() -> None:
    single = tiny.network(replace(tiny.SHALLOW, streams="patch"))
    images, rows = batch([0, 1, 2, 1]), OldRows(jnp.zeros((1, 16)), jnp.zeros(1, jnp.int32), jnp.zeros(1, bool))
    found = {}
    for net in (NET, single):
        compute = jax.jit(functools.partial(steps.loss_terms, net, OBJECTIVE), static_argnums=5)
        found[net], (features, _) = compute(*tiny.randomised(NET), task_arrays(0, 3, 0), images, rows, None)
    assert found[single]["ce_channel"] == found[single]["ce_patch"] == 0
    np.testing.assert_allclose(found[single]["ce_hybrid"], found[NET]["ce_patch"], rtol=1e-5)
    wanted = orthogonality(features._replace(channel=jnp.zeros_like(features.channel)), images.valid,
                           task_arrays(0, 3, 0).basis, OBJECTIVE.orthogonality)  # fmt: skip
    np.testing.assert_allclose(found[single]["orthogonality"], wanted, rtol=1e-5)
