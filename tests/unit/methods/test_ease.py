"""EASE against its equations, written as loops over classes and subspaces."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import UNSEEN, LearnerState
from ntkcl_jax.methods.ease import NONE, Ease, completed
from ntkcl_jax.runs import checkpoint
from tests.support import learners as small
from tests.support.networks import QUICKLY

LEARNER = small.learner(Ease, rank=3, dropout=0.0)
TASK_OF = np.array([0, 0, 1, 1, 2])
DIM = small.BACKBONE.dim


@pytest.fixture(scope="module")
def two_tasks() -> LearnerState:
    """After two tasks."""
    return small.learnt(LEARNER, small.start(LEARNER), range(2))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def synthesized(means: np.ndarray, task_of: np.ndarray) -> np.ndarray:
    """Means in all subspaces: number by number, as the paper words it."""
    made = means.copy()
    tasks = int(task_of.max()) + 1
    for old in range(tasks):
        for s in range(old + 1, tasks):
            for c in [c for c in range(len(means)) if task_of[c] == old]:
                newer = [j for j in range(len(means)) if task_of[j] >= s]
                likeness = [cosine(means[c, old], means[j, old]) for j in newer]
                total = sum(np.exp(x) for x in likeness)
                made[c, s] = sum(np.exp(x) / total * means[j, s] for x, j in zip(likeness, newer, strict=True))
    return made


def test_means_that_old_classes_lack_are_mixed_from_later_classes_by_likeness() -> None:
    means = np.random.default_rng(0).normal(size=(6, 3, 4))
    task_of = np.append(TASK_OF, NONE)
    made = completed(means, task_of)
    np.testing.assert_allclose(made[:5], synthesized(means[:5], TASK_OF), rtol=1e-12)
    for c in range(5):
        np.testing.assert_array_equal(made[c, : TASK_OF[c] + 1], means[c, : TASK_OF[c] + 1])
    two = np.where(TASK_OF < 2, TASK_OF, NONE)  # while the third task hasn't come, its subspace stays empty
    np.testing.assert_array_equal(completed(means[:5], two)[:, 2], means[:5, 2])


def test_features_are_those_of_every_tasks_adapters() -> None:
    images, _ = small.pixels(small.views(0))
    state, sets, earlier = small.start(LEARNER), [], None
    for number in range(3):
        trainable, frozen = state = small.learnt(LEARNER, state, range(number, number + 1))
        sets.append(trainable)
        found = np.asarray(small.apply(LEARNER, trainable, frozen, images, "features")).reshape(-1, 3, DIM)
        assert np.all(found[:, number + 1 :] == 0)
        slow = small.adapter_twin(frozen, trainable, images)
        np.testing.assert_allclose(found[:, number], slow, rtol=2e-5, atol=2e-5)
        if earlier is not None:
            np.testing.assert_allclose(found[:, :number], earlier[:, :number], rtol=1e-5, atol=1e-6)
        earlier = found
    assert all(np.any(sets[0][path] != sets[1][path]) for path in sets[0])


def test_class_means_are_those_of_valid_training_images_in_all_subspaces() -> None:
    trainable, frozen = small.learnt(LEARNER, small.start(LEARNER), range(3))
    exact = np.zeros((5, 3, DIM))
    for number in range(3):
        images, labels = small.pixels(small.views(number))
        features = np.asarray(small.apply(LEARNER, trainable, frozen, images, "features")).reshape(-1, 3, DIM)
        for c in small.CLASSES_OF[number]:
            exact[c, : number + 1] = features[labels == c].mean(axis=0)[: number + 1]
    np.testing.assert_allclose(frozen.buffers["means"], exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(frozen.buffers["prototypes"], synthesized(exact, TASK_OF), rtol=1e-4, atol=1e-5)
    assert frozen.buffers["task_of_class"].tolist() == TASK_OF.tolist()


def test_the_score_is_the_own_subspaces_cosine_and_a_tenth_of_the_others_mean() -> None:
    images, _ = small.pixels(small.views(1))
    state = small.start(LEARNER)
    for number in range(3):
        trainable, frozen = state = small.learnt(LEARNER, state, range(number, number + 1))
        features = np.asarray(small.apply(LEARNER, trainable, frozen, images, "features")).reshape(-1, 3, DIM)
        prototypes = np.asarray(frozen.buffers["prototypes"])
        scores = np.asarray(small.apply(LEARNER, trainable, frozen, images))
        for x in range(len(images)):
            for c in range(5):
                if TASK_OF[c] > number:
                    assert scores[x, c] == UNSEEN
                    continue
                cosines = [cosine(features[x, s], prototypes[c, s]) for s in range(number + 1)]
                others = [value for s, value in enumerate(cosines) if s != TASK_OF[c]]
                expected = cosines[TASK_OF[c]] + (0.1 * sum(others) / number if number else 0)
                np.testing.assert_allclose(scores[x, c], expected, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_scaled_cosine_cross_entropy_of_the_new_adapters_alone(two_tasks: LearnerState) -> None:
    trainable, frozen = two_tasks
    images, labels = small.pixels(small.views(1))
    rest = (frozen, small.task(1), images, labels, np.ones(len(labels), bool), jax.random.key(0))
    (loss, _), gradient = small.loss_and_gradient(LEARNER, trainable, *rest)
    features = small.adapter_twin(frozen, trainable, images)
    head, scale = np.asarray(trainable["head/kernel"]), float(trainable["head/scale"])
    logits = np.array([[scale * cosine(f, head[:, c]) for c in range(5)] for f in features])
    np.testing.assert_allclose(loss, small.log_loss(logits, labels, (2, 3)), rtol=1e-5)
    assert all(np.any(value != 0) for value in gradient.values())


def test_dropout_follows_the_key() -> None:
    learner = small.learner(Ease, rank=3, dropout=0.5)
    trainable, frozen = small.start(learner)
    trainable = small.moved(trainable)
    images, labels = small.pixels(small.views(0))
    rest = (small.task(0), Batch(*map(jnp.asarray, (images, labels, np.ones(len(labels), bool)))))
    loss = jax.jit(lambda key: learner.loss(trainable, frozen, *rest, key)[0]["ce"], compiler_options=QUICKLY)
    losses = [float(loss(jax.random.key(key))) for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_scores_have_a_finite_float64_derivative_past_the_loop_over_old_adapters(two_tasks: LearnerState) -> None:
    with jax.enable_x64(True):
        learner = small.learner(Ease, rank=3, dtype="float64")
        trainable, frozen = small.widened(two_tasks)
        images, labels = small.pixels(small.views(1))
        rest = (images.astype(np.float64), labels, np.ones(len(labels), bool), jax.random.key(0))
        gradient = small.loss_and_gradient(learner, trainable, frozen, small.task(1), *rest)[1]
        assert all(x.dtype == jnp.float64 and np.isfinite(x).all() for x in gradient.values())
        derivative = jax.jacrev(lambda p: learner.apply_fn(p, frozen, jnp.asarray(rest[0][:2]))[:, :4].sum(axis=0))
        jacobian = jax.jit(derivative, compiler_options=QUICKLY)(trainable)
        assert all(np.isfinite(x).all() for x in jacobian.values())
        assert np.any(jacobian["adapters/up"] != 0)


def test_a_run_compiles_once_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small.check_run("ease", tmp_path, monkeypatch)
    home = run / "checkpoints" / "ease" / "seed0"
    first = checkpoint.load(home / "task0" / "after")[0]["trainable"]
    last = checkpoint.load(home / "task2" / "after")[0]["buffers"]
    for path in [path for path in first if path.startswith("adapters/")]:
        np.testing.assert_array_equal(last[f"old/{path}"][0], first[path])
