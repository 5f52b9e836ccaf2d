"""NTK-CL's features under a ridge: each task's own checkpoint, each task's own images, and nothing else."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import eval_batches
from ntkcl_jax.data.transforms import crop_box, train_transform_host
from ntkcl_jax.errors import ConfigError, RunFolderError
from ntkcl_jax.readouts import head as readout
from ntkcl_jax.readouts.head import METHOD, RidgeHead
from ntkcl_jax.readouts.ridge import RIDGES, random_relu
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import RecordedTask, load_run
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.evaluate import evaluate_run
from ntkcl_jax.training.run import train
from tests.support import streams as tiny

METHODS = ("ntkcl", "ntkcl-ridge", "prototypes")
WIDTH, VIEWS = 30, 2


def config() -> RunConfig:
    """A readout that takes no time."""
    return tiny.config(methods=METHODS, readout__random_features=WIDTH, readout__views=VIEWS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readout") / "run"
    train(config(), path, arrays=tiny.arrays(), quiet=True)
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def philox(seed: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=position << 128))


def cropped(task: RecordedTask, view: int) -> np.ndarray:
    """The task's images in the crops of the epoch after the last, one image at a time."""
    config, setup = task.run.config, task.run.setup
    data, seed = config.data, stream_seed(0, "augmentation", task.task, config.optimizer.epochs + view)
    labels = setup.scenarios[0].relabel(setup.source.train.labels)
    out = []
    for position, place in enumerate(np.flatnonzero(np.isin(labels, task.labels))):
        image, rng = setup.source.train.load(int(place)), philox(seed, position)
        flip = bool(rng.random() < 0.5)
        box = crop_box(rng, *image.shape[:2], data.crop_scale, data.crop_ratio)
        out.append(train_transform_host(image, setup.size, box, flip))
    return np.stack(out).astype(np.float32) / 255


def test_the_readout_is_a_ridge_on_what_each_task_left(run: Path) -> None:
    """Slow twin: all rows stacked, one solve a ridge, an image left out by solving without its rows."""
    opened = load_run(run, arrays=tiny.arrays())
    found = opened.results["seeds"]["0"]["ntkcl-ridge"]["accuracy_after_task"]
    seed = stream_seed(0, "ntkcl-ridge")
    rows, wanted, losses = [], [], np.zeros(len(RIDGES))
    for task in range(3):
        state = opened.task(task)

        def random(images: np.ndarray, state=state) -> np.ndarray:
            hybrid = np.asarray(state.apply_fn(state.after, state.frozen, images, "features"))
            return np.concatenate([random_relu(hybrid, WIDTH, seed), np.ones((len(images), 1))], axis=1)

        views = [random(state.train_images), *(random(cropped(state, view)) for view in range(VIEWS))]
        own, images = np.tile(np.arange(len(views[0])), 1 + VIEWS), len(views[0])
        rows.append(np.concatenate(views))
        wanted.append(np.tile(np.eye(tiny.CLASSES)[state.train_labels], (1 + VIEWS, 1)))
        x, y = np.concatenate(rows), np.concatenate(wanted)
        scale = np.square(x).sum() / x.shape[1]
        before = len(x) - len(own)
        for image in range(images):
            kept = np.concatenate([np.ones(before, bool), own != image])
            gram, sums = x[kept].T @ x[kept], x[kept].T @ y[kept]
            for i, ridge in enumerate(RIDGES):
                weights = np.linalg.solve(gram + ridge * scale * np.eye(len(gram)), sums)
                losses[i] += np.square(wanted[-1][image] - rows[-1][image] @ weights).sum()
        ridge = RIDGES[int(np.argmin(losses))] * scale
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
        seen = opened.setup.scenarios[0].offsets[task + 1]
        tests = [opened.task(t) for t in range(task + 1)]
        pixels, labels = (np.concatenate([getattr(t, f"test_{what}") for t in tests]) for what in ("images", "labels"))
        accuracy = ((random(pixels) @ weights)[:, :seen].argmax(axis=1) == labels).mean()
        assert found[task] == pytest.approx(accuracy, abs=1e-12)
    np.testing.assert_allclose(RidgeHead.stored(RunFolder(run), 0, 3).classifier.losses, losses, rtol=1e-4)


def test_it_is_read_back_and_not_made_again(run: Path) -> None:
    stored = run / "baselines" / "seed0-ntkcl-ridge.json"
    assert [len(task["correct"]) for task in json.loads(stored.read_text())["tasks"]] == [1, 2, 3]
    before = stored.read_bytes()
    train(config(), run, arrays=tiny.arrays(), quiet=True, resume=True)
    assert stored.read_bytes() == before


def test_an_interrupted_readout_goes_on_with_the_same_bits(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, stored = RunFolder(copy), copy / "baselines" / "seed0-ntkcl-ridge.json"
    wanted, after = stored.read_bytes(), RidgeHead.stored(RunFolder(copy), 0, 3)
    stored.unlink()
    shutil.rmtree(copy / "checkpoints" / METHOD)
    real, asked = readout.learn, []

    def dies_in_task_2(classifier, *rest):
        asked.append(classifier.images)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(classifier, *rest)

    monkeypatch.setattr(readout, "learn", dies_in_task_2)
    again = functools.partial(train, config(), copy, arrays=tiny.arrays(), quiet=True, resume=True)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert len(RidgeHead.stored(folder, 0, 3).evaluations) == 1
    again()
    assert asked == [0, 27, 27, 45]
    assert stored.read_bytes() == wanted
    found = RidgeHead.stored(folder, 0, 3)
    assert found.evaluations == after.evaluations
    for name in ("gram", "sums", "losses"):
        np.testing.assert_array_equal(getattr(found.classifier, name), getattr(after.classifier, name))


def test_one_head_is_stored_and_its_size_is_that_of_the_sums(run: Path) -> None:
    assert [p.parent.name for p in (run / "checkpoints" / METHOD).glob("seed0/task*/after")] == ["task2"]
    trees, meta = checkpoint.load(RunFolder(run).task(0, 2, "after", METHOD))
    shapes = {name: value.shape for name, value in trees["ridge"].items()}
    assert shapes == {"gram": (31, 31), "sums": (31, 7), "losses": (len(RIDGES),)}
    assert meta["images"] == tiny.CLASSES * tiny.PER_CLASS


def test_evaluating_again_classifies_with_the_stored_head(run: Path, copy: Path) -> None:
    stored = json.loads((run / "results.json").read_text())["seeds"]["0"]
    results, same = evaluate_run(run, arrays=tiny.arrays(), quiet=True)
    assert same
    assert results["seeds"]["0"] == {method: stored[method] for method in ("ntkcl", METHOD)}
    head = RidgeHead.stored(RunFolder(copy), 0, 3)
    checkpoint.remove(RunFolder(copy).task(0, 2, "after", METHOD))
    replace(head, classifier=replace(head.classifier, sums=-head.classifier.sums)).store(RunFolder(copy))
    results, same = evaluate_run(copy, arrays=tiny.arrays(), quiet=True)
    assert not same
    found, recorded = (seed[METHOD]["accuracy_after_task"] for seed in (results["seeds"]["0"], stored))
    assert [a == b for a, b in zip(found, recorded, strict=True)] == [True, True, False]


def test_a_stored_head_classifies_each_image_by_itself(run: Path) -> None:
    opened = load_run(run, arrays=tiny.arrays())
    head, task = RidgeHead.stored(RunFolder(run), 0, 3), opened.task(2)
    assert head is not None
    pixels, labels = tiny.arrays().test_images, opened.setup.scenarios[0].relabel(tiny.arrays().test_labels)
    pixels = opened.setup.test_views.images(np.arange(len(pixels)))

    def scores(places: np.ndarray) -> np.ndarray:
        batches = eval_batches(pixels[places], labels[places], 16)
        return head.scores(task.network, task.after, task.frozen, batches)

    every = scores(np.arange(len(pixels)))
    assert (every.argmax(axis=1) == labels).sum() == sum(head.evaluations[-1].correct)
    few = np.array([20, 3, 11])
    np.testing.assert_allclose(scores(few), every[few], rtol=1e-4, atol=1e-5)


def test_no_head_is_none_and_a_damaged_one_is_said(copy: Path) -> None:
    assert RidgeHead.stored(RunFolder(copy), 1, 3) is None
    (copy / "checkpoints" / METHOD / "seed0" / "task2" / "after" / "meta.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"damaged: meta\.json"):
        RidgeHead.stored(RunFolder(copy), 0, 3)


@pytest.mark.parametrize("later", [None, 0.0])
def test_features_that_move_under_the_sums_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, later: float | None
) -> None:
    plain = config()
    made = replace(plain, optimizer=replace(plain.optimizer, later_learning_rate=later))
    train(made, tmp_path / "run", arrays=tiny.arrays())
    assert ("hint: ntkcl-ridge" in capsys.readouterr().err) == (later is None)


def test_without_checkpoints_to_read_it_is_refused() -> None:
    for methods in (("ntkcl-ridge",), ("ntkcl-ridge", "ntkcl")):
        with pytest.raises(ConfigError, match="name ntkcl before it"):
            tiny.config(methods=methods)
