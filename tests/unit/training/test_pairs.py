"""Any learner under any readout: one training serves them all, and nothing is compiled twice."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config.methods import LEARNERS, Method
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.models.functional import Frozen
from ntkcl_jax.readouts.base import Lesson, State
from ntkcl_jax.readouts.linear import Joint
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.training import task_loop
from ntkcl_jax.training.evaluate import score_classes
from ntkcl_jax.training.readout_run import StoredReadout
from ntkcl_jax.training.run import evaluate_run, train
from ntkcl_jax.training.step import eval_step, feature_step, train_step
from tests.support import streams as tiny

STEPS = [14, 10, 10]
"""Of each task: two epochs of 27, 18 and 18 images in batches of four."""
PAIRS = (
    "ease/ridge",
    "ntkcl/linear",
    "first-session/ridge",
    "frozen/ranpac",
    # What these two store is recomputed below
    pytest.param("l2p/prototypes", marks=pytest.mark.slow),
    pytest.param("adapters/joint", marks=pytest.mark.slow),
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collects the learner of every training step."""
    asked = []

    def counted(learner: Any, *args: Any, **more: Any) -> Any:
        asked.append(learner)
        return train_step(learner, *args, **more)

    for step in (train_step, eval_step, feature_step):
        step.clear_cache()
    with monkeypatch.context() as patch:
        patch.setattr(task_loop, "train_step", counted)
        yield asked


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_runs_and_shares_its_training_with_another_readout(pair: str, tmp_path: Any, trained: list) -> None:
    learner, readout = Method.of(pair)
    other = f"{learner}/{'prototypes' if readout == 'ridge' else 'ridge'}"
    config = tiny.config(methods=(pair, other), readout__random_features=30)
    results = train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    sessions = LEARNERS.load(learner).sessions
    assert [found.name for found in trained] == [learner] * sum(STEPS[:sessions])
    assert (train_step._cache_size(), eval_step._cache_size()) == (sessions != 0, 0)
    assert feature_step._cache_size() == 1
    home = tmp_path / "run" / "checkpoints" / learner / "seed0"
    tasks = [f"task{t}" for t in range(3)][:sessions]
    assert sorted(p.name for p in home.iterdir()) == sorted([*tasks, readout, Method.of(other).readout])
    for method in (pair, other):
        rows = results["seeds"]["0"][method]["accuracy_matrix"]
        assert [sum(x is not None for x in row) for row in rows] == [1, 2, 3]
    again, same = evaluate_run(tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert same
    assert again == results


def test_each_lesson_holds_features_of_the_state_that_its_task_left(tmp_path: Any) -> None:
    """Nearest class means by hand, from L2P's checkpoints: old means stay as their own task's features made them."""
    config = tiny.config(methods=("l2p", "l2p/prototypes"))
    train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    run = load_run(tmp_path / "run", "l2p", arrays=tiny.arrays())
    means, evaluations = [], []
    for number in range(3):
        task = run.task(number)

        def features(images: np.ndarray, task=task) -> np.ndarray:
            return np.asarray(task.apply_fn(task.after, task.frozen, images, "features"))

        own = features(task.train_images)
        means += [own[task.train_labels == c].mean(axis=0).astype(np.float64) for c in task.labels]
        tests = [run.task(t) for t in range(number + 1)]
        seen = features(np.concatenate([t.test_images for t in tests])).astype(np.float64)
        labels = np.concatenate([t.test_labels for t in tests])
        scores = [[x @ m / np.linalg.norm(x) / np.linalg.norm(m) for m in means] for x in seen]
        offsets = run.context.scenarios[0].offsets[: number + 2]
        evaluations.append(score_classes(np.array(scores), labels, offsets))
    stored = StoredReadout.newest(RunFolder(tmp_path / "run"), 0, ("l2p", "prototypes"), 3)
    assert stored is not None
    np.testing.assert_allclose(stored.state["means"], means, rtol=1e-4, atol=1e-5)
    assert stored.evaluations == tuple(evaluations)


def test_joint_sees_all_images_again_under_the_newest_features(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, real = [], Joint.learn

    def learn(readout: Joint, state: State, lesson: Lesson) -> State:
        found.append(lesson.everything())
        return real(readout, state, lesson)

    monkeypatch.setattr(Joint, "learn", learn)
    train(tiny.config(methods=("adapters/joint",)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    run = load_run(tmp_path / "run", arrays=tiny.arrays())
    learner, context = run.context.learner("adapters"), run.context
    images = context.prepared("train").images(np.arange(63)).astype(np.float32) / 255
    labels = context.scenarios[0].relabel(context.source.train.labels)
    for task, (features, known) in enumerate(found):
        trees = checkpoint.load(RunFolder(run.path).task(0, task, "after", "adapters"))[0]
        trainable, buffers = jax.tree.map(jnp.asarray, (trees["trainable"], trees["buffers"]))
        state = LearnerState(trainable, Frozen(context.backbone_of(0), buffers))
        chosen = labels < context.scenarios[0].offsets[task + 1]
        wanted = learner.features(*state, jnp.asarray(images[chosen]))
        np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(known, labels[chosen])
