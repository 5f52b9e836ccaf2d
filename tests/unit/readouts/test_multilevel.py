"""`multilevel` in runs: over any learner, resumed, evaluated again, and refused where memory is short."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ntkcl_jax import load_run
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.config.methods import Method
from ntkcl_jax.data import eval_batches
from ntkcl_jax.data.affine import affine_view_host, affine_warp
from ntkcl_jax.data.transforms import test_transform as transform_for_testing
from ntkcl_jax.errors import ConfigError, MemoryShortError
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.readouts.base import Lesson, State
from ntkcl_jax.readouts.multilevel import CANDIDATES, MultiLevel
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training import run as runs
from ntkcl_jax.training.learner_run import LearnerRun
from ntkcl_jax.training.readout_run import FeatureCache, Mapped, Part, StoredReadout, features_of
from ntkcl_jax.training.run import evaluate_run, train
from tests.support import lessons
from tests.support import streams as tiny
from tests.support.broken_off import train_broken_off

METHODS = ("multilevel", "first-session/multilevel", "ntkcl/multilevel")
SMALL = {"readout__widths": (12, 10, 16, 14), "readout__level_views": 1}
WARPED = {**SMALL, "readout__level_views": 2, "readout__level_view": "affine"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("multilevel") / "run"
    train(tiny.config(methods=METHODS, **SMALL), path, arrays=tiny.arrays(), quiet=True)
    return path


def test_its_name_is_short_for_a_frozen_backbone() -> None:
    assert Method.of("multilevel") == Method("frozen", "multilevel")


def test_what_is_stored_is_the_regression_on_what_each_tasks_state_gives(run: Path) -> None:
    """The stored solution, on features of a pass of its own, gives the accuracy that the run recorded."""
    opened = load_run(run, arrays=tiny.arrays())
    context, scenario = opened.context, opened.context.scenarios[0]
    readout = MultiLevel.of(opened.config, width=16, classes=scenario.num_classes, seed=0)
    stored = StoredReadout.newest(RunFolder(opened.path), 0, ("frozen", "multilevel"), scenario.num_tasks)
    assert stored is not None and int(stored.state["left_out"]) == len(context.source.train)
    mapped = Mapped.of(readout, context.mesh)
    source = context.source.test
    batches = context.views("test", np.arange(len(source)), source.labels)
    learner = context.learner("frozen")
    state = learner.start(jax.random.key(0), context.backbone_of(0))
    features, labels = features_of(learner, state, batches, mapped)
    assert features.shape == (len(source), 52) and features.dtype == np.float32
    scores = readout.scores(stored.state, features, scenario.num_classes)
    told = scores.argmax(axis=1) == scenario.relabel(labels)
    recorded = opened.results["seeds"]["0"]["multilevel"]["final_accuracy"]
    assert told.mean() == pytest.approx(recorded)


def test_evaluating_again_gives_the_same(run: Path) -> None:
    again, same = evaluate_run(run, arrays=tiny.arrays(), quiet=True)
    assert same
    assert set(again["summary"]) == set(METHODS)


def test_an_interrupted_run_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    train_broken_off(tiny.config(methods=METHODS, **SMALL), tmp_path / "run", MultiLevel, lesson=3)
    assert tiny.same_states(run, tmp_path / "run")
    assert (run / "results.json").read_bytes() == (tmp_path / "run" / "results.json").read_bytes()


@pytest.fixture(scope="module")
def warped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Lesson]]:
    """A run with two affine views of each image, and what it was told of each task."""
    path, lessons, learn = tmp_path_factory.mktemp("warped") / "run", list[Lesson](), MultiLevel.learn

    def noting(self: MultiLevel, state: State, lesson: Lesson) -> State:
        lessons.append(lesson)
        return learn(self, state, lesson)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultiLevel, "learn", noting)
        train(tiny.config(methods=("multilevel",), **WARPED), path, arrays=tiny.arrays(), quiet=True)
    return path, lessons


def test_affine_views_are_the_images_as_tested_each_under_its_own_map(warped: tuple[Path, list[Lesson]]) -> None:
    """Slow twin: one image at a time, whatever crops training takes."""
    opened = load_run(warped[0], arrays=tiny.arrays())
    context, scenario, data = opened.context, opened.context.scenarios[0], opened.config.data
    source, labels = context.source.train, scenario.relabel(context.source.train.labels)
    learner = context.learner("frozen")
    state = learner.start(jax.random.key(0), context.backbone_of(0))
    mapped = Mapped.of(MultiLevel.of(opened.config, width=16, classes=7, seed=0), context.mesh)
    for task, lesson in enumerate(warped[1]):
        places = np.flatnonzero(np.isin(labels, scenario.classes(task)))
        for view in range(2):
            seed, made = stream_seed(0, "augmentation", task, opened.config.optimizer.epochs + view), []
            for position, place in enumerate(places):
                image = transform_for_testing(source.load(int(place)), data.resize, context.size)
                rng = np.random.Generator(np.random.Philox(key=seed, counter=position << 128))
                flip = bool(rng.random() < 0.5)
                made.append(affine_view_host(image, affine_warp(rng, context.size, data), flip))
            wanted = features_of(learner, state, eval_batches(np.stack(made), labels[places], 16), mapped)[0]
            np.testing.assert_allclose(lesson.features[:, 1 + view], wanted, rtol=1e-4, atol=1e-4)
            assert np.abs(lesson.features[:, 1 + view] - lesson.plain).max() > 0.01


def test_a_run_with_affine_views_that_is_broken_off_ends_with_the_same_bits(
    warped: tuple[Path, list[Lesson]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, told = MultiLevel.learn, []

    def dies(self: MultiLevel, state: State, lesson: Lesson) -> State:
        told.append(lesson.task)
        if told == [0, 1]:
            raise KeyboardInterrupt
        return learn(self, state, lesson)

    config = tiny.config(methods=("multilevel",), **WARPED)
    passes, part = list[tuple[str, int | None]](), FeatureCache._part

    def noting(self: FeatureCache, run: LearnerRun, state: LearnerState, which: Part, *rest: Any) -> np.ndarray:
        passes.extend([(which.side, which.task)] * (which not in self.parts))
        return part(self, run, state, which, *rest)

    monkeypatch.setattr(MultiLevel, "learn", dies)
    monkeypatch.setattr(FeatureCache, "_part", noting)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert passes == [("train", 0), ("test", 0), ("train", 1)]
    passes.clear()
    train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True, resume=True)
    assert told == [0, 1, 1, 2]
    # Nothing of the first task's training images: what was learnt of them is stored
    assert passes == [("train", 1), ("test", 0), ("test", 1), ("train", 2), ("test", 2)]
    assert tiny.same_states(warped[0], tmp_path / "run")
    assert (warped[0] / "results.json").read_bytes() == (tmp_path / "run" / "results.json").read_bytes()


def test_without_a_word_about_them_views_are_what_training_sees(
    warped: tuple[Path, list[Lesson]], tmp_path: Path
) -> None:
    changes = {**WARPED, "readout__level_view": None, "data__train_view": "affine"}
    train(tiny.config(methods=("multilevel",), **changes), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert tiny.same_states(warped[0], tmp_path / "run")


def test_rows_that_are_kept_are_those_of_the_images_asked_for_by_each_readouts_own_maps(run: Path) -> None:
    opened = load_run(run, arrays=tiny.arrays())
    context = opened.context
    with MetricsLog(Path(os.devnull)) as log:
        learner_run = LearnerRun(context, RunFolder(run), log, Progress(quiet=True), 0, "frozen")
    state, cache = learner_run.initial(), FeatureCache()

    @dataclass(frozen=True)
    class Other(MultiLevel):
        name = "other"

    readouts = [kind.of(opened.config, width=16, classes=7, seed=0) for kind in (MultiLevel, Other)]
    assert readouts[0].maps == readouts[1].maps
    found, places = [], np.array([20, 3, 27, 0])
    for readout in readouts:
        mapped = Mapped.of(readout, context.mesh)
        found.append(cache.rows(learner_run, state, "test", places, mapped))
        batches = context.views("test", places, places)
        np.testing.assert_allclose(found[-1], features_of(learner_run.learner, state, batches, mapped)[0], atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_a_run_says_what_was_chosen(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny.config(methods=("multilevel",), **SMALL), tmp_path / "run", arrays=tiny.arrays())
    said = " ".join(capsys.readouterr().err.split())
    assert "seed 0 · multilevel: weights F " in said and "% of left-out images right" in said


def test_too_little_memory_is_said_before_there_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "host_memory", lambda: 10_000_000)
    config = tiny.config(methods=("multilevel",), readout__widths=(1000, 1000, 5000, 3000))
    with pytest.raises(MemoryShortError, match=r"takes 2\.4 GB .* 0\.0 GB are free; set --readout\.widths 45 45 "):
        train(config, tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_backbone_of_one_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads blocks before the last, got a backbone of one block"):
        MultiLevel(4, 2, 0, BackboneConfig(depth=1), (1, 1, 1, 1))


def test_the_first_candidate_is_what_stands_where_nothing_is_known() -> None:
    assert CANDIDATES[0] == (1.0, 1.0, 1.0, 1.0)
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_clusters_are_told_apart_and_nothing_is_forgotten() -> None:
    readout = MultiLevel(4, lessons.CLASSES, 0, BackboneConfig(), (3, 3, 2, 2))
    found = lessons.evaluated(readout, lessons.clusters(0, 20), lessons.clusters(1, 10))
    assert found[-1].accuracy > 0.9
