"""InfLoRA against its equations: naive products, singular vectors of the whole space, brute force over bases."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.methods.inflora import InfLora, covariance, design, grown, new_directions
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.runs import checkpoint
from tests.support import learners as small
from tests.support import network_twins as twins
from tests.support import networks as tiny

LEARNER = small.learner(InfLora, rank=2)
DIM = small.BACKBONE.dim


@pytest.fixture(scope="module")
def two_tasks() -> LearnerState:
    """After two tasks, whose changes are random."""
    return small.learnt(LEARNER, small.start(LEARNER), range(2))


def change(trainable: Tree, frozen: Frozen, name: str) -> np.ndarray:
    """All that the keys' or values' weights have gained, W + B A of each block."""
    merged, down, up = frozen.buffers[f"merged/{name}"], frozen.buffers["down"], trainable[f"lora/{name}"]
    return np.stack([np.asarray(merged[i]) + np.asarray(down[i]) @ np.asarray(up[i]) for i in range(len(up))])


def with_change(trainable: Tree, frozen: Frozen) -> Frozen:
    """The same as a plain backbone: keys' and values' kernels with the change added."""
    backbone = dict(frozen.backbone)
    for i in range(small.BACKBONE.depth):
        path = f"backbone/blocks/{i}/qkv/kernel"
        kernel = np.array(backbone[path])
        kernel[:, DIM : 2 * DIM] += change(trainable, frozen, "keys")[i]
        kernel[:, 2 * DIM :] += change(trainable, frozen, "values")[i]
        backbone[path] = jnp.asarray(kernel)
    return frozen._replace(backbone=backbone)


def slow_covariance(trainable: Tree, frozen: Frozen, number: int) -> np.ndarray:
    """Mean of h hᵀ, token by token, through the plain backbone with changed kernels."""
    numbers = small.plain(with_change(trainable, frozen).backbone)
    images, _ = small.pixels(small.views(number))
    inputs = np.zeros((small.BACKBONE.depth, DIM, DIM))
    for image in images:
        x = twins.embed(numbers, tiny.SHALLOW, image)
        for i in range(len(inputs)):
            for token in twins.layer_norm(numbers, f"backbone/blocks/{i}/norm1", x):
                inputs[i] += np.outer(token, token) / (len(images) * len(x))
            z = twins.attend(numbers, tiny.SHALLOW, i, x)
            x = z + twins.mlp(numbers, i, z)
    return inputs


def random_case(seed: int, old: int, size: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis with `old` columns and a covariance of tokens with unequal spread."""
    random = np.random.default_rng(seed)
    basis = np.zeros((size, size))
    basis[:, :old] = np.linalg.qr(random.normal(size=(size, size)))[0][:, :old]
    tokens = random.normal(size=(40, size)) * np.linspace(0.2, 2, size)
    return basis, tokens.T @ tokens / 40


def test_keys_and_values_gain_what_the_product_of_the_three_matrices_gives(two_tasks: LearnerState) -> None:
    trainable, frozen = two_tasks
    images, _ = small.pixels(small.views(2))
    found = small.apply(LEARNER, trainable, frozen, images, "features")
    np.testing.assert_allclose(
        found, small.adapter_twin(with_change(trainable, frozen), None, images), rtol=2e-5, atol=2e-5
    )
    assert np.max(np.abs(found - small.adapter_twin(frozen, None, images))) > 0.1
    scores = small.apply(LEARNER, trainable, frozen, images)[:, :4]
    head = np.asarray(trainable["head/kernel"])[:, :4], np.asarray(trainable["head/bias"])[:4]
    np.testing.assert_allclose(scores, np.asarray(found) @ head[0] + head[1], rtol=1e-4, atol=1e-4)


def test_the_covariance_is_that_of_all_tokens_of_valid_images(two_tasks: LearnerState) -> None:
    found = covariance(LEARNER, *two_tasks, small.views(1))
    np.testing.assert_allclose(found, slow_covariance(*two_tasks, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("old", [0, 2, 6, 7])
def test_the_down_projection_is_the_strongest_input_left_by_old_tasks(old: int) -> None:
    basis, inputs = random_case(0, old)
    rest = np.eye(7) - basis @ basis.T
    u, _, _ = np.linalg.svd(rest @ inputs)
    free = min(2, 7 - old)
    down = design(basis, inputs, 2)
    np.testing.assert_allclose(3 * down @ down.T, u[:, :free] @ u[:, :free].T, atol=1e-10)
    np.testing.assert_allclose(3 * down.T @ down, np.diag([1.0] * free + [0.0] * (2 - free)), atol=1e-12)
    np.testing.assert_allclose(basis.T @ down, 0, atol=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("old", [0, 2, 5])
def test_the_memory_reaches_the_threshold_with_the_fewest_columns(old: int, threshold: float) -> None:
    basis, inputs = random_case(1, old)
    larger = grown(basis, inputs, threshold)
    columns = int(np.any(larger != 0, axis=0).sum())
    np.testing.assert_allclose(larger[:, :columns].T @ larger[:, :columns], np.eye(columns), atol=1e-12)
    np.testing.assert_allclose(larger[:, :old] @ larger[:, :old].T, basis @ basis.T, atol=1e-12)

    def share(m: np.ndarray) -> float:
        return float(np.sum((m @ m.T @ inputs) ** 2) / np.sum(inputs**2))

    assert share(larger) >= threshold - 1e-12
    if columns > old:
        rest = inputs - basis @ basis.T @ inputs
        best = np.linalg.svd(rest)[0][:, : columns - old - 1]  # no other columns of that number carry more
        assert share(np.concatenate([basis[:, :old], best], axis=1)) < threshold


def test_the_memory_is_dualgpms_whichever_of_its_two_bases_is_stored() -> None:
    basis, inputs = random_case(2, 3)
    threshold = 0.9
    rest = np.linalg.qr(basis[:, :3], mode="complete")[0][:, 3:]
    u, s, _ = np.linalg.svd(rest @ rest.T @ inputs)
    left, drop = np.sum(s**2) / np.sum(inputs**2), 0
    while left > 1 - threshold:
        left -= s[drop] ** 2 / np.sum(inputs**2)
        drop += 1
    kept = rest - u[:, :drop] @ u[:, :drop].T @ rest
    dual = np.linalg.svd(kept)[0][:, : rest.shape[1] - drop]
    larger = grown(basis, inputs, threshold)
    assert 0 < drop < 4
    np.testing.assert_allclose(larger @ larger.T, np.eye(7) - dual @ dual.T, atol=1e-10)


def test_directions_come_in_the_order_of_what_they_carry() -> None:
    basis, inputs = random_case(3, 2)
    directions, energy = new_directions(basis, inputs)
    assert np.all(np.diff(energy) <= 0)
    rest = inputs - basis @ basis.T @ inputs
    np.testing.assert_allclose(np.sum((directions.T @ rest) ** 2, axis=1), energy, rtol=1e-10)


def test_a_new_task_changes_nothing_for_inputs_in_the_memory(two_tasks: LearnerState) -> None:
    """The change of task 1, on every vector of the basis kept after task 0."""
    first = small.learnt(LEARNER, small.start(LEARNER), range(1))
    memory = np.asarray(first.frozen.buffers["basis"])
    assert 0 < np.any(memory[0] != 0, axis=0).sum() < DIM
    for name in ("keys", "values"):
        before, after = change(*first, name), change(*two_tasks, name)
        for i in range(small.BACKBONE.depth):
            effect = memory[i].T @ (after[i] - before[i])
            assert np.max(np.abs(after[i] - before[i])) > 0.05
            assert np.max(np.abs(effect)) < 1e-6


def test_the_memory_after_a_task_holds_the_trained_networks_inputs(two_tasks: LearnerState) -> None:
    trainable, frozen = two_tasks
    first = small.learnt(LEARNER, small.start(LEARNER), range(1))
    for i, inputs in enumerate(slow_covariance(trainable, frozen, 1)):
        expected = grown(np.asarray(first.frozen.buffers["basis"][i]), inputs, 0.95 + 0.05 / 3)
        found = np.asarray(frozen.buffers["basis"][i])
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


def test_a_task_begins_where_the_one_before_ended(two_tasks: LearnerState) -> None:
    images, _ = small.pixels(small.views(0))
    see = functools.partial(small.views, 2)
    begun = LEARNER.begin(two_tasks, small.task(2), jax.random.key(0), see)
    assert np.all(begun.trainable["lora/keys"] == 0)
    assert np.all(begun.trainable["lora/values"] == 0)
    assert np.any(begun.frozen.buffers["down"] != two_tasks.frozen.buffers["down"])
    found = small.apply(LEARNER, *begun, images)
    np.testing.assert_allclose(found, small.apply(LEARNER, *two_tasks, images), rtol=1e-4, atol=1e-4)


def test_the_float64_gradient_is_finite_and_leaves_other_tasks_columns_alone(two_tasks: LearnerState) -> None:
    with jax.enable_x64(True):
        learner = small.learner(InfLora, rank=2, dtype="float64")
        trainable, frozen = small.widened(two_tasks)
        images, labels = small.pixels(small.views(1))
        rest = (images.astype(np.float64), labels, np.ones(len(labels), bool), jax.random.key(0))
        found = small.loss_and_gradient(learner, trainable, frozen, small.task(1), *rest)
        (loss, logits), gradient = jax.tree.map(np.asarray, found)
    np.testing.assert_allclose(loss, small.log_loss(logits, labels, (2, 3)), rtol=1e-12)
    assert all(x.dtype == np.float64 and np.isfinite(x).all() for x in gradient.values())
    assert all(np.any(gradient[path] != 0) for path in ("lora/keys", "lora/values"))
    assert np.all(gradient["head/kernel"][:, [0, 1, 4]] == 0)


def test_a_run_compiles_once_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = small.check_run("inflora", tmp_path, monkeypatch) / "checkpoints" / "inflora" / "seed0"
    before = checkpoint.load(home / "task1" / "before")[0]["trainable"]
    after = checkpoint.load(home / "task1" / "after")[0]["trainable"]
    np.testing.assert_array_equal(before["head/kernel"][:, :3], after["head/kernel"][:, :3])
    assert np.all(before["lora/values"] == 0)
    assert np.any(after["lora/values"] != 0)
