"""A readout above a learner in a run: each task's own checkpoint, its own images, and nothing else."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax.config import RunConfig
from ntkcl_jax.data.transforms import crop_box, train_transform_host
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.readouts.base import Lesson, State, make_readout
from ntkcl_jax.readouts.ridge import RIDGES, RandomRidge, random_relu
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import RecordedTask, load_run
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.metrics import SPLIT
from ntkcl_jax.training.readout_run import StoredReadout, features_of
from ntkcl_jax.training.run import evaluate_run, train
from tests.support import streams as tiny

METHOD, PAIR = "ntkcl-ridge", ("ntkcl", "random-ridge")
METHODS = ("ntkcl", METHOD, "prototypes")
WIDTH, VIEWS = 30, 2


def config(**changes: object) -> RunConfig:
    """A readout that takes no time."""
    return tiny.config(**{"methods": METHODS, "readout__random_features": WIDTH, "readout__views": VIEWS, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readout") / "run"
    train(config(), path, arrays=tiny.arrays(), quiet=True)
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def newest(run: Path) -> StoredReadout:
    found = StoredReadout.newest(RunFolder(run), 0, PAIR, 3)
    assert found is not None
    return found


def philox(seed: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=position << 128))


def cropped(task: RecordedTask, view: int, epochs: int) -> np.ndarray:
    """The task's images in the crops of an epoch after the last, one image at a time."""
    context = task.run.context
    data, seed = task.run.config.data, stream_seed(0, "augmentation", task.task, epochs + view)
    labels = context.scenarios[0].relabel(context.source.train.labels)
    out = []
    for position, place in enumerate(np.flatnonzero(np.isin(labels, task.labels))):
        image, rng = context.source.train.load(int(place)), philox(seed, position)
        flip = bool(rng.random() < 0.5)
        box = crop_box(rng, *image.shape[:2], data.crop_scale, data.crop_ratio)
        out.append(train_transform_host(image, context.size, box, flip))
    return np.stack(out).astype(np.float32) / 255


def test_the_readout_is_a_ridge_on_what_each_task_left(run: Path) -> None:
    """Slow twin: all rows stacked, one solve a ridge, an image left out by solving without its rows."""
    opened = load_run(run, arrays=tiny.arrays())
    found = opened.results["seeds"]["0"][METHOD]["accuracy_after_task"]
    seed = stream_seed(0, METHOD)
    rows, wanted, losses = [], [], np.zeros(len(RIDGES))
    for task in range(3):
        state = opened.task(task)

        def random(images: np.ndarray, state=state) -> np.ndarray:
            hybrid = np.asarray(state.apply_fn(state.after, state.frozen, images, "features"))
            return np.concatenate([random_relu(hybrid, WIDTH, seed), np.ones((len(images), 1))], axis=1)

        crops = [cropped(state, view, opened.config.optimizer.epochs) for view in range(VIEWS)]
        views = [random(state.train_images), *map(random, crops)]
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
        seen = opened.context.scenarios[0].offsets[task + 1]
        tests = [opened.task(t) for t in range(task + 1)]
        pixels, labels = (np.concatenate([getattr(t, f"test_{what}") for t in tests]) for what in ("images", "labels"))
        accuracy = ((random(pixels) @ weights)[:, :seen].argmax(axis=1) == labels).mean()
        assert found[task] == pytest.approx(accuracy, abs=1e-12)
    np.testing.assert_allclose(newest(run).state["losses"], losses, rtol=1e-4)


def test_crops_are_those_of_epochs_that_no_learner_has_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that trains for longer than NTK-CL has come to later epochs."""
    lessons, real = list[Lesson](), RandomRidge.learn

    def learn(readout: RandomRidge, state: State, lesson: Lesson) -> State:
        lessons.append(lesson)
        return real(readout, state, lesson)

    monkeypatch.setattr(RandomRidge, "learn", learn)
    made = config(methods=("adapters", "adapters/random-ridge"), baselines__epochs=5)
    train(made, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    task = load_run(tmp_path / "run", "adapters", arrays=tiny.arrays()).task(1)
    images = (task.train_images, *(cropped(task, view, 5) for view in range(VIEWS)))
    for view, pixels in enumerate(images):
        wanted = task.apply_fn(task.after, task.frozen, pixels, "features")
        np.testing.assert_allclose(lessons[1].features[:, view], wanted, atol=1e-4)


def test_it_is_read_back_and_not_made_again(run: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [len(e.correct) for e in newest(run).evaluations] == [1, 2, 3]
    monkeypatch.setattr(RandomRidge, "learn", None)
    train(config(), copy, arrays=tiny.arrays(), quiet=True, resume=True)
    assert (copy / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert tiny.same_states(run, copy)
    assert tiny.records(run) == tiny.records(copy)


def test_an_interrupted_readout_goes_on_with_the_same_bits(
    run: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "checkpoints" / "ntkcl" / "seed0" / "random-ridge")
    (copy / "results.json").unlink()
    real, asked = RandomRidge.learn, []

    def dies_in_task_1(readout: RandomRidge, state: State, lesson: Lesson) -> State:
        asked.append(int(state["images"]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(readout, state, lesson)

    monkeypatch.setattr(RandomRidge, "learn", dies_in_task_1)
    again = functools.partial(train, config(), copy, arrays=tiny.arrays(), quiet=True, resume=True)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert len(newest(copy).evaluations) == 1
    again()
    assert asked == [0, 27, 27, 45]
    assert (copy / "results.json").read_bytes() == (run / "results.json").read_bytes()
    assert tiny.same_states(run, copy)


def test_records_of_a_task_that_was_logged_and_not_stored_are_written_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoredReadout.store

    def dies_in_task_1(stored: StoredReadout, *where: object) -> None:
        if len(stored.evaluations) == 2:
            raise KeyboardInterrupt
        store(stored, *where)

    with monkeypatch.context() as patch:
        patch.setattr(StoredReadout, "store", dies_in_task_1)
        with pytest.raises(KeyboardInterrupt):
            train(config(), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    train(config(), tmp_path / "run", arrays=tiny.arrays(), quiet=True, resume=True)
    assert tiny.records(tmp_path / "run") == tiny.records(run)
    assert (tmp_path / "run" / "results.json").read_bytes() == (run / "results.json").read_bytes()


def test_the_newest_alone_is_stored_and_its_size_is_that_of_the_sums(run: Path) -> None:
    home = run / "checkpoints" / "ntkcl" / "seed0"
    assert [p.name for p in (home / "random-ridge").iterdir()] == ["task2"]
    trees, meta = checkpoint.load(RunFolder(run).readout(0, 2, *PAIR))
    shapes = {name: value.shape for name, value in trees["readout"].items()}
    assert shapes == {"gram": (31, 31), "sums": (31, 7), "losses": (len(RIDGES),), "images": ()}
    assert trees["readout"]["images"] == tiny.CLASSES * tiny.PER_CLASS
    assert (meta["seed"], meta["task"]) == (0, 2)


def test_a_kill_between_storing_a_task_and_dropping_the_one_before_costs_nothing(run: Path, copy: Path) -> None:
    folder, stored = RunFolder(copy), newest(copy)
    older = replace(stored, evaluations=stored.evaluations[:2])
    checkpoint.save(folder.readout(0, 1, *PAIR), {"readout": older.state}, {"evaluations": [], "seed": 0, "task": 1})
    assert newest(copy).evaluations == stored.evaluations
    train(config(), copy, arrays=tiny.arrays(), quiet=True, resume=True)  # there is nothing left to learn
    assert tiny.same_states(run, copy)


def test_evaluating_again_classifies_with_the_stored_readout(run: Path, copy: Path) -> None:
    recorded = json.loads((run / "results.json").read_text())["seeds"]["0"]
    results, same = evaluate_run(run, arrays=tiny.arrays(), quiet=True)
    assert same
    assert results["seeds"]["0"] == recorded
    stored = newest(copy)
    replace(stored, state=stored.state | {"sums": -stored.state["sums"]}).store(RunFolder(copy), 0, PAIR)
    results, same = evaluate_run(copy, arrays=tiny.arrays(), quiet=True)
    assert not same
    found = results["seeds"]["0"][METHOD]["accuracy_after_task"]
    pairs = zip(found, recorded[METHOD]["accuracy_after_task"], strict=True)
    assert [a == b for a, b in pairs] == [True, True, False]


def test_a_run_of_an_older_version_is_evaluated_to_what_it_lacks_but_for_rows_that_a_readout_has_no_state_of(
    run: Path, copy: Path
) -> None:
    stored = newest(copy)
    older = [replace(e, right=None, right_among_old=None) for e in stored.evaluations]
    replace(stored, evaluations=tuple(older)).store(RunFolder(copy), 0, PAIR)
    whole = json.loads((run / "results.json").read_text())["seeds"]["0"]
    counts = {method: {k: v for k, v in made.items() if k not in SPLIT} for method, made in whole.items()}
    (copy / "results.json").write_text(json.dumps({"seeds": {"0": counts}}))
    results, same = evaluate_run(copy, arrays=tiny.arrays(), quiet=True)
    assert same
    assert results["seeds"]["0"] == whole | {METHOD: counts[METHOD] | dict.fromkeys(SPLIT)}
    # Resumed, it keeps what it has
    train(config(), copy, arrays=tiny.arrays(), quiet=True, resume=True)
    assert json.loads((copy / "results.json").read_text())["seeds"]["0"][METHOD] == counts[METHOD] | dict.fromkeys(
        SPLIT
    )
    (copy / "results.json").write_text(json.dumps({"seeds": {"0": {METHOD: []}}}))
    assert not evaluate_run(copy, arrays=tiny.arrays(), quiet=True)[1]


def test_a_stored_readout_classifies_each_image_by_itself(run: Path) -> None:
    opened = load_run(run, arrays=tiny.arrays())
    stored, task, context = newest(run), opened.task(2), opened.context
    labels = context.scenarios[0].relabel(tiny.arrays().test_labels)
    readout = make_readout("random-ridge", opened.config, width=32, classes=7, seed=0)

    def scores(places: np.ndarray) -> np.ndarray:
        views = context.views("test", places, labels[places])
        features, order = features_of(task.learner, LearnerState(task.after, task.frozen), views)
        np.testing.assert_array_equal(order, labels[places])
        return readout.scores(stored.state, features, 7)

    every = scores(np.arange(len(labels)))
    assert (every.argmax(axis=1) == labels).sum() == sum(stored.evaluations[-1].correct)
    few = np.array([20, 3, 11])
    np.testing.assert_allclose(scores(few), every[few], rtol=1e-4, atol=1e-5)


def test_none_is_none_and_a_damaged_one_or_one_of_another_shape_is_said(copy: Path) -> None:
    folder = RunFolder(copy)
    assert StoredReadout.newest(folder, 1, PAIR, 3) is None
    assert StoredReadout.newest(folder, 0, ("ntkcl", "ridge"), 3) is None
    wider = RandomRidge(16, 7, 0, random_features=WIDTH + 1).init()
    with pytest.raises(RunFolderError, match=r"expected float64 \(32, 32\) as readout/gram, got float64 \(31, 31\)"):
        StoredReadout.newest(folder, 0, PAIR, 3, wider)
    (folder.readout(0, 2, *PAIR) / "meta.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"damaged: meta\.json"):
        StoredReadout.newest(folder, 0, PAIR, 3)


def test_it_trains_its_learner_where_the_run_does_not_name_it_and_learns_the_same(run: Path, tmp_path: Path) -> None:
    results = train(config(methods=(METHOD,)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    recorded = json.loads((run / "results.json").read_text())["seeds"]["0"]
    assert results["seeds"]["0"] == {METHOD: recorded[METHOD]}
    meta = checkpoint.load(RunFolder(tmp_path / "run").task(0, 2, "after", "ntkcl"))[1]
    assert meta["evaluation"] is None  # its own head is no method of this run


@pytest.mark.parametrize(
    ("method", "later", "remedy"),
    [
        (METHOD, None, "with --optimizer.later-learning-rate 0 they stay"),
        (METHOD, 0.0, None),
        ("adapters/ridge", None, "first-session/ridge is the like with features that stay"),
        ("adapters/linear", None, None),
        ("ranpac", None, None),
        ("ridge", None, None),
    ],
)
def test_features_that_move_under_sums_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, method: str, later: float | None, remedy: str | None
) -> None:
    made = config(methods=(method,), optimizer__later_learning_rate=later, optimizer__epochs=1)
    train(made, tmp_path / "run", arrays=tiny.arrays())
    said = capsys.readouterr().err
    assert (f"hint: {method} adds up features" in said) == (remedy is not None)
    assert remedy is None or remedy in " ".join(said.split())
