"""RanPAC: the ridge of all tasks at once, its λ by brute force, its first session, and how a run resumes."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax import preset
from ntkcl_jax.config import RunConfig
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.models.functional import Frozen
from ntkcl_jax.readouts.base import Lesson
from ntkcl_jax.readouts.held_out_ridge import RIDGES, choose_ridge
from ntkcl_jax.readouts.ranpac import RanPAC
from ntkcl_jax.readouts.ridge import random_relu
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.evaluate import score_classes
from ntkcl_jax.training.readout_run import StoredReadout, features_of
from ntkcl_jax.training.run import train
from tests.support import learners as small
from tests.support import streams as stream
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt

RANDOM = 40
READOUT = RanPAC(WIDTH, CLASSES, 3, random_features=RANDOM)
PAIR = ("first-session", "ranpac")


def test_the_ridge_is_the_one_that_predicts_a_held_out_fifth_best() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 12)), np.eye(3)[random.integers(0, 3, 30)]
    order = np.random.default_rng(5).permutation(30)
    fitted, rest = order[:24], order[24:]
    errors = []
    for ridge in RIDGES:
        weights = np.linalg.inv(x[fitted].T @ x[fitted] + ridge * np.eye(12)) @ x[fitted].T @ y[fitted]
        errors.append(np.sum((x[rest] @ weights - y[rest]) ** 2))
    assert 0 < np.argmin(errors) < len(RIDGES) - 1
    assert choose_ridge(x, y, seed=5) == RIDGES[int(np.argmin(errors))]


def test_it_is_the_ridge_regression_of_all_images_seen() -> None:
    (x, labels), (test, _) = clusters(2, 30, spread=1.5), clusters(3, 10, spread=1.5)
    matrix = np.random.default_rng(stream_seed(3, "ranpac")).standard_normal((WIDTH, RANDOM))
    random, one_hot = np.maximum(x @ matrix, 0), np.eye(CLASSES)[labels]
    for task, state in enumerate(learnt(READOUT, x, labels)):
        new, classes = np.isin(labels, SCENARIO.classes(task)), SCENARIO.offsets[task + 1]
        ridge = choose_ridge(random[new], one_hot[new], stream_seed(3, "ranpac", "held out", task))
        seen = labels < classes
        stacked = np.concatenate([random[seen], np.sqrt(ridge) * np.eye(RANDOM)])  # the ridge as rows of its own
        targets = np.concatenate([one_hot[seen], np.zeros((RANDOM, CLASSES))])
        weights = np.linalg.lstsq(stacked, targets, rcond=None)[0][:, :classes]
        scores = READOUT.scores(state, test, classes)
        np.testing.assert_allclose(scores, np.maximum(test @ matrix, 0) @ weights, rtol=1e-4, atol=1e-5)
        assert (scores.argmax(axis=1) == (np.maximum(test @ matrix, 0) @ weights).argmax(axis=1)).all()


def test_another_seed_has_another_projection() -> None:
    x, _ = clusters(2, 3)
    assert (random_relu(x, 5, stream_seed(3, "ranpac")) != random_relu(x, 5, stream_seed(4, "ranpac"))).any()


def config(folder: Path, **changes: Any) -> RunConfig:
    weights = str(folder / "weights.safetensors")
    return stream.config(
        methods=("ranpac",), model__backbone=small.BACKBONE, weights=weights, readout__random_features=RANDOM, **changes
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranpac")
    small.weights_file(folder)
    train(config(folder), folder / "run", arrays=stream.arrays(), quiet=True)
    return folder / "run"


def test_the_first_session_trains_on_task_0_alone_and_features_stay(run: Path) -> None:
    """Every task's features are those of the adapters that task 0 left, by a slow twin."""
    home = run / "checkpoints" / "first-session" / "seed0"
    assert sorted(p.name for p in home.iterdir()) == ["ranpac", "task0"]
    before, after = (checkpoint.load(home / "task0" / when)[0] for when in ("before", "after"))
    assert not np.allclose(before["trainable"]["adapters/up"], after["trainable"]["adapters/up"])
    context = load_run(run, arrays=stream.arrays()).context
    learner, scenario = context.learner("first-session"), context.scenarios[0]
    state = LearnerState(*jax.tree.map(jnp.asarray, (after["trainable"], Frozen(small.backbone(), after["buffers"]))))
    features, labels = {}, {}
    for side, images in (("train", context.source.train), ("test", context.source.test)):
        places = np.arange(len(images))
        made, _ = features_of(learner, state, context.views(side, places, images.labels))
        pixels = context.prepared(side).images(places).astype(np.float32) / 255
        np.testing.assert_allclose(made, small.adapter_twin(state.frozen, state.trainable, pixels), atol=1e-4)
        features[side], labels[side] = made, scenario.relabel(images.labels)
    readout = RanPAC(small.BACKBONE.dim, stream.CLASSES, 0, random_features=RANDOM)
    wanted, learned = [], readout.init()
    for task in range(3):
        own, seen = np.isin(labels["train"], scenario.classes(task)), scenario.offsets[task + 1]
        rows = features["train"][own][:, None]
        learned = readout.learn(learned, Lesson(task, rows, labels["train"][own], seen, pytest.fail))
        chosen = labels["test"] < seen
        scores = readout.scores(learned, features["test"][chosen], seen)
        wanted.append(score_classes(scores, labels["test"][chosen], scenario.offsets[: task + 2]))
    stored = StoredReadout.newest(RunFolder(run), 0, PAIR, 3)
    assert stored is not None
    assert stored.evaluations == tuple(wanted)


def test_a_run_broken_off_in_its_first_session_resumes_to_the_same_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(run.parent)
    small.break_off(settings, tmp_path / "run", monkeypatch, "task0/step3")
    train(settings, tmp_path / "run", arrays=stream.arrays(), quiet=True, resume=True)
    assert (tmp_path / "run" / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert list(small.stored(tmp_path / "run", "first-session")) == list(small.stored(run, "first-session"))
    assert stream.records(tmp_path / "run") == stream.records(run)


def test_without_a_first_session_nothing_is_trained(run: Path, tmp_path: Path) -> None:
    train(config(run.parent, baselines__first_session=False), tmp_path / "run", arrays=stream.arrays(), quiet=True)
    there = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert there == {"backbone", "frozen"}
    assert {p.name for p in (tmp_path / "run" / "checkpoints" / "frozen" / "seed0").iterdir()} == {"ranpac"}
    assert preset("digits").baselines.first_session
