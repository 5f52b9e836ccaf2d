"""RanPAC: the ridge of all tasks at once, its λ by brute force, its first session, and how a run resumes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax import preset
from ntkcl_jax.config.data import DataConfig
from ntkcl_jax.data import make_scenario
from ntkcl_jax.readouts.head import network_features
from ntkcl_jax.readouts.ranpac import METHOD, RIDGES, choose_ridge, ranpac
from ntkcl_jax.readouts.ridge import random_relu
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.run import all_views, train
from ntkcl_jax.training.tunedrun import make_method
from ntkcl_jax.weights import save_backbone
from tests.support import learners as small
from tests.support import streams as stream

SCENARIO = make_scenario(7, DataConfig(first_task_classes=3, classes_per_task=2), seed=0)
WIDTH = 40


def features(seed: int, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    centres = 3 + 2 * np.random.default_rng(1).normal(size=(7, 10))
    labels = np.tile(np.arange(7), per_class)
    noise = np.random.default_rng(seed).normal(size=(len(labels), 10))
    return (centres[labels] + 1.5 * noise).astype(np.float32), labels


def learnt(seed: int = 0, train: tuple | None = None) -> list[TaskEvaluation]:
    return list(ranpac(SCENARIO, seed, *(train or features(2, 30)), *features(3, 10), width=WIDTH))


def test_the_ridge_is_the_one_that_predicts_a_held_out_fifth_best() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 12)), np.eye(3)[random.integers(0, 3, 30)]
    order = np.random.default_rng(5).permutation(30)
    fitted, held = order[:24], order[24:]
    errors = []
    for ridge in RIDGES:
        weights = np.linalg.inv(x[fitted].T @ x[fitted] + ridge * np.eye(12)) @ x[fitted].T @ y[fitted]
        errors.append(np.sum((x[held] @ weights - y[held]) ** 2))
    assert 0 < np.argmin(errors) < len(RIDGES) - 1
    assert choose_ridge(x, y, seed=5) == RIDGES[int(np.argmin(errors))]


def test_it_is_the_ridge_regression_of_all_images_seen() -> None:
    (x, labels), (test, wanted) = features(2, 30), features(3, 10)
    width_of = {"features": 10, "random": WIDTH}
    matrix = np.random.default_rng(stream_seed(0, METHOD)).standard_normal((width_of["features"], width_of["random"]))
    for task, evaluation in enumerate(learnt()):
        new = np.isin(labels, SCENARIO.classes(task))
        one_hot = np.eye(7)[labels]
        random = np.maximum(x @ matrix, 0)
        ridge = choose_ridge(random[new], one_hot[new], stream_seed(0, METHOD, "held out", task))
        seen, classes = labels < SCENARIO.offsets[task + 1], SCENARIO.offsets[task + 1]
        stacked = np.concatenate([random[seen], np.sqrt(ridge) * np.eye(WIDTH)])  # the ridge as rows of its own
        targets = np.concatenate([one_hot[seen], np.zeros((WIDTH, 7))])
        weights = np.linalg.lstsq(stacked, targets, rcond=None)[0][:, :classes]
        guess = np.argmax(np.maximum(test[wanted < classes] @ matrix, 0) @ weights, axis=1)
        assert sum(evaluation.correct) == (guess == wanted[wanted < classes]).sum()


def test_it_learns_is_a_function_of_its_seed_and_never_sees_a_class_early() -> None:
    x, labels = features(2, 30)
    spoilt = np.where((labels >= 5)[:, None], 99, x).astype(np.float32)
    first, again, other = learnt(3), learnt(3), learnt(3, (spoilt, labels))
    assert first[-1].accuracy > 0.8
    assert first == again
    assert first[:2] == other[:2]
    assert first[2] != other[2]
    assert (random_relu(x, 5, stream_seed(3, METHOD)) != random_relu(x, 5, stream_seed(4, METHOD))).any()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("ranpac")
    save_backbone(jax.device_get(small.backbone()), small.BACKBONE, folder / "weights.safetensors")
    settings = {
        "methods": (METHOD,),
        "model__backbone": small.BACKBONE,
        "weights": str(folder / "weights.safetensors"),
        "readout__random_features": WIDTH,
    }
    train(stream.config(**settings), folder / "run", arrays=stream.arrays(), quiet=True)
    return folder / "run", settings


def test_the_first_session_trains_on_task_0_alone_and_features_stay(run: tuple[Path, dict]) -> None:
    folder, _ = run
    tasks = sorted(p.name for p in (folder / "checkpoints" / METHOD / "seed0").iterdir())
    assert tasks == ["task0"]
    states = [checkpoint.load(folder / "checkpoints" / METHOD / "seed0" / "task0" / w)[0] for w in ("before", "after")]
    assert not np.allclose(states[0]["adaptation"]["adapters/up"], states[1]["adaptation"]["adapters/up"])
    setup = load_run(folder, arrays=stream.arrays()).setup
    method = make_method(METHOD, setup)
    held = small.start(method)[1]
    scenario = setup.scenarios[0]
    found = []
    for side in ("train", "test"):
        images, views = (
            (setup.source.train, setup.train_views) if side == "train" else (setup.source.test, setup.test_views)
        )
        trainable = jax.tree.map(jnp.asarray, states[1]["adaptation"])
        made, _ = network_features(method, trainable, held, all_views(setup, side))
        pixels = views.images(np.arange(len(images))).astype(np.float32) / 255
        np.testing.assert_allclose(made, small.adapter_twin(held, trainable, pixels), atol=1e-4)
        found += [made, scenario.relabel(images.labels)]
    wanted = list(ranpac(scenario, 0, *found, width=WIDTH))
    stored = json.loads((folder / "baselines" / f"seed0-{METHOD}.json").read_text())["tasks"]
    assert stored == [e.to_record() for e in wanted]


def test_a_run_broken_off_in_its_first_session_resumes_to_the_same_bits(
    run: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, settings = run
    save = checkpoint.save

    def failing(path: Path, *rest: object) -> None:
        save(path, *rest)
        if "task0/step3" in str(path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            train(stream.config(**settings), tmp_path / "run", arrays=stream.arrays(), quiet=True)
    train(stream.config(**settings), tmp_path / "run", arrays=stream.arrays(), quiet=True, resume=True)
    assert (tmp_path / "run" / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert list(small.stored(tmp_path / "run", METHOD)) == list(small.stored(whole, METHOD))
    assert stream.records(tmp_path / "run") == stream.records(whole)


def test_without_a_first_session_nothing_is_trained(run: tuple[Path, dict], tmp_path: Path) -> None:
    config = stream.config(**run[1], baselines__first_session=False)
    train(config, tmp_path / "run", arrays=stream.arrays(), quiet=True)
    assert not (tmp_path / "run" / "checkpoints" / METHOD).exists()
    assert preset("digits").baselines.first_session
