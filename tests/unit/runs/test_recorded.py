"""A run read back: states as functions, images, labels; while it runs, and without what it was made from."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jaxtyping import TypeCheckError

import ntkcl_jax
from ntkcl_jax.data import ImageSet, prepared
from ntkcl_jax.errors import ConfigError, DataError, RunFolderError
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.runs import checkpoint, recorded
from ntkcl_jax.runs.recorded import RecordedRun, RecordedTask, load_run
from ntkcl_jax.training.run import evaluate_run, train
from ntkcl_jax.weights import save_backbone
from tests.support import streams as tiny

SEEDS = (2, 0)
WHOLE_TASKS = {"compute__checkpoint_every_steps": 1000}
"""Each checkpoint waits for the disk many times; in-task ones are only written where a test looks at them."""


def refused(error: type[Exception], match: str) -> pytest.RaisesExc:
    """Expect a value of a wrong type to be refused; with --shape-checks the type checker is the first to do so."""
    return pytest.raises((error, TypeCheckError), match=f"{match}|Type-check error")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds on weights from a file that is gone."""
    folder = tmp_path_factory.mktemp("recorded")
    weights = folder / "w.safetensors"
    network = Network(tiny.config().model, task_classes=3, classes=7)
    save_backbone(jax.device_get(network.init(jax.random.key(5))[1].backbone), tiny.BACKBONE, weights)
    train(
        tiny.config(weights=str(weights), seeds=SEEDS, **WHOLE_TASKS), folder / "run", arrays=tiny.arrays(), quiet=True
    )
    weights.unlink()
    return folder / "run"


@pytest.fixture(scope="module")
def run(path: Path) -> RecordedRun:
    return load_run(path, arrays=tiny.arrays())


def test_a_run_tells_its_settings_seeds_and_tasks(run: RecordedRun) -> None:
    assert (run.config.seeds, run.seeds, run.num_tasks) == (SEEDS, SEEDS, 3)
    assert [run.tasks_done(seed) for seed in SEEDS] == [3, 3]
    assert run.results["seeds"].keys() == {"2", "0"}
    assert ntkcl_jax.load_run is load_run


def test_before_and_after_have_the_same_variables(run: RecordedRun) -> None:
    for t in range(3):
        task = run.task(t, seed=0)
        assert task.before.keys() == task.after.keys()
        assert all(task.before[k].shape == task.after[k].shape for k in task.before)
        assert all(task.before[k].dtype == task.after[k].dtype == jnp.float32 for k in task.before)
        assert not jnp.array_equal(task.before["proxy/kernel"], task.after["proxy/kernel"])


def test_the_head_before_a_task_is_a_new_one_and_the_rest_goes_on(run: RecordedRun) -> None:
    heads = [run.task(t).before["proxy/kernel"] for t in range(3)]
    for t in (1, 2):
        last, now = run.task(t - 1), run.task(t)
        assert not jnp.array_equal(now.before["proxy/kernel"], last.after["proxy/kernel"])
        assert not jnp.array_equal(heads[t], heads[t - 1])
        rest = [k for k in now.before if not k.startswith("proxy/")]
        assert all(jnp.array_equal(now.before[k], last.after[k]) for k in rest)
        before, after = now.frozen_before, last.frozen
        assert all(jnp.array_equal(before.backbone[k], after.backbone[k]) for k in before.backbone)
        same = {k for k in before.buffers if jnp.array_equal(before.buffers[k], after.buffers[k])}
        assert set(before.buffers) - same == {"basis"}  # directions of the old prototypes, found when a task begins


def counts(run: RecordedRun, t: int, seed: int) -> list[int]:
    """Right answers after task t for each task so far, by hand."""
    now = run.task(t, seed)
    found = []
    for k in range(t + 1):
        old = run.task(k, seed)
        scores = now.apply_fn(now.after, now.frozen, jnp.asarray(old.test_images))
        found.append(int((np.asarray(scores).argmax(axis=1) == old.test_labels).sum()))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_states_give_the_accuracies_of_the_results(run: RecordedRun, seed: int) -> None:
    matrix = run.results["seeds"][str(seed)]["ntkcl"]["accuracy_matrix"]
    for t in range(3):
        images = [len(run.task(k, seed).test_labels) for k in range(t + 1)]
        assert [c / n for c, n in zip(counts(run, t, seed), images, strict=True)] == matrix[t][: t + 1]


def test_the_function_has_scores_proxy_logits_and_features(run: RecordedRun) -> None:
    task = run.task(1)
    images = jnp.asarray(task.test_images[:3])
    assert task.apply_fn(task.after, task.frozen, images).shape == (3, 7)
    assert task.apply_fn(task.after, task.frozen, images, "proxy").shape == (3, 3)
    assert task.apply_fn(task.after, task.frozen, images, output="features").shape == (3, 32)
    with refused(ValueError, "output must be one of"):
        task.apply_fn(task.after, task.frozen, images, output="logits")


def test_classes_not_seen_yet_score_lowest(run: RecordedRun) -> None:
    task = run.task(0)
    scores = np.asarray(task.apply_fn(task.after, task.frozen, jnp.asarray(task.test_images)))
    assert scores[:, 3:].max() < scores[:, :3].min()


def test_a_run_reads_the_same_where_float64_is_switched_on(path: Path, run: RecordedRun) -> None:
    task = run.task(1)
    scores = np.asarray(task.apply_fn(task.after, task.frozen, task.test_images))
    with jax.enable_x64(True):
        again = load_run(path, arrays=tiny.arrays()).task(1)
        wide = again.apply_fn(again.after, again.frozen, again.test_images)
    assert {name: value.dtype for name, value in again.after.items()} == {n: v.dtype for n, v in task.after.items()}
    np.testing.assert_array_equal(np.asarray(wide), scores)


def images_of(task: RecordedTask, side: str) -> tuple[np.ndarray, np.ndarray]:
    return (task.test_images, task.test_labels) if side == "test" else (task.train_images, task.train_labels)


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_task_has_its_images_and_labels_in_the_order_of_the_source(run: RecordedRun, side: str) -> None:
    data = tiny.arrays()
    pixels, source = (getattr(data, f"{side}_{what}") for what in ("images", "labels"))
    order = run.header["scenarios"]["0"]["class_order"]
    for t, classes in enumerate([range(0, 3), range(3, 5), range(5, 7)]):
        task = run.task(t, seed=0)
        images, labels = images_of(task, side)
        assert task.labels == classes
        assert task.class_names == tuple(str(order[c]) for c in classes)
        assert (images.dtype, images.shape[1:]) == (np.float32, (8, 8, 3))
        assert 0 <= images.min() < images.max() <= 1
        assert images.max() > 0.5
        wanted = np.isin(source, [order[c] for c in classes])
        assert [order[label] for label in labels] == source[wanted].tolist()
        brightness = pixels[wanted].mean(axis=(1, 2, 3)) / 255
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), brightness, atol=0.03)


@pytest.mark.parametrize("side", ["train", "test"])
def test_some_of_a_tasks_images_are_those_of_all_at_these_positions(run: RecordedRun, side: str) -> None:
    task = run.task(1, seed=0)
    images, labels = images_of(task, side)
    assert (task.images(side).tobytes(), task.labels_of(side).tobytes()) == (images.tobytes(), labels.tobytes())
    for positions in ([3], [5, 0, 5, 2], np.array([1, 0], np.int32), range(len(labels)), []):
        some = task.images(side, positions)
        assert (some.dtype, some.shape) == (np.float32, (len(positions), 8, 8, 3))
        assert some.tobytes() == images[list(positions)].tobytes()


def test_only_the_images_asked_for_are_prepared_and_none_for_labels(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole side is prepared only when a task's images are asked for without positions."""
    count, seen = prepared.prepare, []

    def counted(image_set: ImageSet, indices: np.ndarray, *rest: object) -> np.ndarray:
        seen.append(len(indices))
        return count(image_set, indices, *rest)

    monkeypatch.setattr(prepared, "prepare", counted)
    monkeypatch.setattr(recorded, "prepare", counted)
    task = load_run(path, arrays=tiny.arrays()).task(2)
    assert (len(task.train_labels), len(task.labels_of("test"))) == (18, 8)
    assert seen == []
    task.images("train", [4, 2])
    task.images(positions=[1])
    assert seen == [2, 1]
    task.images("test")
    assert (seen, len(task.test_images)) == ([2, 1, 28], 8)


@pytest.mark.parametrize(
    ("positions", "came"),
    [
        ([0, 8], "8"),
        ([-1], "-1"),
        ([0.5], r"float64 of shape \(1,\)"),
        ([[1]], r"int64 of shape \(1, 1\)"),
        (True, "bool"),
    ],
)
def test_positions_that_a_task_does_not_have_are_refused(run: RecordedRun, positions: object, came: str) -> None:
    with refused(DataError, f"expected positions as a list of whole numbers from 0 to 7, got {came}"):
        run.task(1).images("test", positions)


def test_a_side_that_no_task_has_is_refused(run: RecordedRun) -> None:
    for ask in (run.task(0).images, run.task(0).labels_of):
        with refused(ConfigError, "expected side 'train' or 'test', got 'val'; name one of them"):
            ask("val")


def test_a_seed_that_drew_its_own_backbone_gets_it_back(tmp_path: Path) -> None:
    train(
        tiny.config(seeds=(1, 0), optimizer__epochs=1, **WHOLE_TASKS),
        tmp_path / "run",
        arrays=tiny.arrays(),
        quiet=True,
    )
    opened = load_run(tmp_path / "run", arrays=tiny.arrays())
    assert opened.context.backbone is None
    for seed in (0, 1):
        assert counts(opened, 0, seed)[0] / 12 == opened.results["seeds"][str(seed)]["ntkcl"]["accuracy_matrix"][0][0]
    trees = [opened.task(0, seed).frozen.backbone for seed in (0, 1)]
    assert not all(jnp.array_equal(trees[0][k], trees[1][k]) for k in trees[0])


def test_a_run_can_be_read_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, run, seen = checkpoint.save, tmp_path / "run", []

    def reading(path: Path, *rest: object) -> None:
        save(path, *rest)
        if "task1/step3" in str(path):
            opened = load_run(run, arrays=tiny.arrays())
            assert (opened.tasks_done(0), opened.results) == (1, {})
            with pytest.raises(RunFolderError, match=r"no whole checkpoint at .*task1/after; the run hasn't come that"):
                opened.task(1)
            seen.append(opened.task(0))
            assert evaluate_run(run, arrays=tiny.arrays())[1]

    monkeypatch.setattr(checkpoint, "save", reading)
    train(tiny.config(), run, arrays=tiny.arrays(), quiet=True)
    assert len(seen) == 1
    later = load_run(run, arrays=tiny.arrays()).task(0)
    assert all(jnp.array_equal(seen[0].after[k], later.after[k]) for k in later.after)


def test_evaluating_gives_the_stored_results(path: Path) -> None:
    results, same = evaluate_run(path, arrays=tiny.arrays())
    assert same
    assert results == json.loads((path / "results.json").read_text())


def test_the_images_of_an_arrays_run_have_to_be_given_again(path: Path) -> None:
    with pytest.raises(DataError, match=r"data.source='arrays' needs arrays=Arrays"):
        load_run(path)
    with pytest.raises(RunFolderError, match=r"was started with other settings: data\."):
        load_run(path, arrays=tiny.arrays(classes=6))


def test_what_is_not_there_is_named(path: Path, run: RecordedRun, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="has seeds 2, 0 and tasks 0 to 2; got seed 2, task 3"):
        run.task(3)
    with pytest.raises(RunFolderError, match="got seed 7, task 0"):
        run.task(0, seed=7)
    with pytest.raises(RunFolderError, match=r"is no run folder: it has no config.json"):
        load_run(tmp_path)
    cut = shutil.copytree(path, tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "backbone")
    with pytest.raises(RunFolderError, match=r"no whole checkpoint at .*backbone"):
        load_run(cut, arrays=tiny.arrays())


def test_a_run_of_a_readout_alone_is_evaluated_again_but_has_no_learners_states(tmp_path: Path) -> None:
    results = train(tiny.config(methods=("prototypes",)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert evaluate_run(tmp_path / "run", arrays=tiny.arrays()) == (results, True)
    opened = load_run(tmp_path / "run", arrays=tiny.arrays())
    assert (opened.methods, opened.tasks_done(0), set(opened.results["summary"])) == ((), 0, {"prototypes"})
    with pytest.raises(RunFolderError, match="has no checkpoints, none of method ntkcl"):
        opened.task(0)
