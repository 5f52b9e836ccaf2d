"""The learner and the readout of docs/extending.md, installed outside the tree, go through all that ours go through."""

import importlib
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import analysis
from ntkcl_jax.cli import main
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.methods import LEARNERS, READOUTS
from ntkcl_jax.devices.flops import Stream
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.training.readout_run import StoredReadout
from ntkcl_jax.training.rehearsal.play import rehearse, seed_seconds
from ntkcl_jax.training.run import evaluate_run, train
from ntkcl_jax.training.step import eval_step, train_step
from tests.support import learners as small
from tests.support import lessons
from tests.support import streams as tiny

GUIDE = Path(__file__).parents[3] / "docs" / "extending.md"
METHODS = ("scale-shift", "scale-shift/ridge", "frozen/slda")


def installed(site: Path, files: dict[str, str], points: dict[str, dict[str, str]]) -> None:
    """Write a package and its entry points, as pip leaves them."""
    for name, text in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    info = site / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = [line for group, own in points.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in own.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def forget() -> None:
    """Let the registries look again: they do so once a process."""
    for parts in (LEARNERS, READOUTS):
        parts.__dict__.pop("added", None)


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package that the guide shows, on the path while this module's tests run."""
    site = tmp_path_factory.mktemp("site")
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    files = {name: text for name, text in blocks if name.endswith(".py")}
    assert set(files) == {"mine/learner.py", "mine/readout.py"}
    points = tomllib.loads(dict(blocks)["pyproject.toml"])["project"]["entry-points"]
    installed(site, {"mine/__init__.py": "", **files}, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        forget()
        yield site
    forget()


def config() -> RunConfig:
    return tiny.config(methods=METHODS)


@pytest.fixture(scope="module")
def run(guide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "run"
    train_step.clear_cache()
    eval_step.clear_cache()
    results = train(config(), path, arrays=tiny.arrays(), quiet=True)
    assert (train_step._cache_size(), eval_step._cache_size()) == (1, 1)
    assert list(results["seeds"]["0"]) == list(METHODS)
    return path


def test_they_are_listed_after_our_own(guide: Path) -> None:
    assert LEARNERS.names == (*LEARNERS.own, "scale-shift")
    assert READOUTS.names == (*READOUTS.own, "slda")
    with pytest.raises(ConfigError, match=r"inflora, scale-shift and a readout of head, .* multilevel, slda$"):
        RunConfig(methods=("scale-shift/nothing",))


def test_their_checkpoints_lie_where_ours_do_and_one_training_serves_both_methods(run: Path) -> None:
    found = sorted(str(p.relative_to(run / "checkpoints")) for p in (run / "checkpoints").glob("*/*/*/*") if p.is_dir())
    tasks = [f"scale-shift/seed0/task{t}/{when}" for t in range(3) for when in ("after", "before")]
    assert found == sorted([*tasks, "scale-shift/seed0/ridge/task2", "frozen/seed0/slda/task2"])


def test_interrupted_they_end_with_the_same_bytes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in ("task1/step", "ridge/task0", "slda/task1"):
        broken = tmp_path / at.replace("/", "-")
        small.break_off(config(), broken, monkeypatch, at)
        train(config(), broken, arrays=tiny.arrays(), resume=True, quiet=True)
        assert (broken / "results.json").read_bytes() == (run / "results.json").read_bytes(), at
        assert tiny.same_states(run, broken)


def test_they_are_evaluated_again(run: Path) -> None:
    results, same = evaluate_run(run, arrays=tiny.arrays(), quiet=True)
    assert same
    assert results == json.loads((run / "results.json").read_text())


def test_a_run_is_opened_for_the_learner(run: Path) -> None:
    task = load_run(run, "scale-shift", arrays=tiny.arrays()).task(1)
    assert set(task.after) == {"blocks/scale", "blocks/shift", "head/kernel", "head/bias"}
    assert not np.array_equal(task.before["blocks/scale"], task.after["blocks/scale"])
    scores = task.apply_fn(task.after, task.frozen, task.test_images)
    assert scores.shape == (8, 7)
    assert np.isfinite(scores[:, :5]).all()


def test_the_learner_has_kernels(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    request = analysis.Request(method="scale-shift", per_task=2, checkpoints=(3,), outputs="trace")
    summary = analysis.compute_kernels(copy, request, quiet=True, arrays=tiny.arrays())
    assert summary == analysis.load_analysis(copy, "scale-shift").summary
    assert (copy / "analysis" / "scale-shift" / "summary.json").exists()


def test_the_learner_starts_as_the_untouched_backbone(guide: Path) -> None:
    learner = small.learner(LEARNERS.load("scale-shift"))
    images, _ = small.pixels(small.views(0))
    trainable, frozen = small.start(learner)
    found = small.apply(learner, trainable, frozen, images, "features")
    np.testing.assert_allclose(found, small.adapter_twin(frozen, None, images), rtol=1e-5, atol=1e-5)


def test_the_readout_is_linear_discriminant_analysis(run: Path) -> None:
    """Class by class and image by image; and it is as good as ours on clusters."""
    train_side, test_side = lessons.clusters(2, 30), lessons.clusters(3, 10)
    readout = READOUTS.load("slda")(lessons.WIDTH, lessons.CLASSES, 0)
    x, labels = train_side
    for task, state in enumerate(lessons.learnt(readout, x, labels)):
        seen = lessons.SCENARIO.offsets[task + 1]
        means = np.stack([x[labels == c].astype(np.float64).mean(axis=0) for c in range(seen)])
        rows = [x[i] - means[labels[i]] for i in range(len(x)) if labels[i] < seen]
        within = sum(np.outer(row, row) for row in rows) / len(rows)
        inverse = np.linalg.inv(within + 1e-4 * np.mean(np.square(x[labels < seen], dtype=np.float64)) * np.eye(10))
        slow = [[m @ inverse @ v - m @ inverse @ m / 2 for m in means] for v in test_side[0].astype(np.float64)]
        np.testing.assert_allclose(readout.scores(state, test_side[0], seen), slow, rtol=1e-6)
    assert lessons.evaluated(readout, train_side, test_side)[-1].accuracy > 0.95
    stored = StoredReadout.newest(RunFolder(run), 0, ("frozen", "slda"), 3)
    assert stored is not None
    assert stored.state["counts"].tolist() == [tiny.PER_CLASS] * tiny.CLASSES


@pytest.mark.slow
def test_they_are_rehearsed(guide: Path, tmp_path: Path) -> None:
    data = tiny.folder(tmp_path / "images")
    real = tiny.config(methods=METHODS, data__source="folder", data__path=str(data))
    found = rehearse(real, near=tmp_path, tasks=2, steps=1, quiet=True)
    assert found.resumed
    assert set(found.seed_s) == set(METHODS)
    assert all(seconds > 0 for seconds in found.seed_s.values())


def test_a_learner_that_never_trains_takes_the_backbones_time(guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from ntkcl_jax.methods.frozen import FrozenBackbone\n\nclass Still(FrozenBackbone):\n    name = 'still'\n"
    (guide / "mine" / "still.py").write_text(code)
    importlib.invalidate_caches()
    point = LEARNERS.added["scale-shift"]
    monkeypatch.setitem(LEARNERS.added, "still", type(point)("still", "mine.still:Still", point.group))
    stream, real = Stream((3, 2, 2), 63, 28), tiny.config(methods=("still/slda",))
    assert seed_seconds("still/slda", real, stream, {"backbone": 13.0}, save_s=1.0) == 7.0


def test_the_command_trains_draws_and_evaluates_them(
    guide: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, where = tiny.folder(tmp_path / "images"), tmp_path / "run"
    words = tiny.words(data, where, "--methods", *METHODS)

    def said(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ntkcl", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()  # ty: ignore[invalid-return-type]

    code, out, _ = said(*words)
    assert code in (0, None)
    assert all(method in out for method in METHODS)
    assert any((where / "figures").iterdir())
    assert said("evaluate", str(where))[0] in (0, None)
    code, _, err = said(*tiny.words(data, tmp_path / "other", "--methods", "scale-shift/nothing"))
    assert code == 2
    assert "scale-shift and a readout of" in " ".join(err.split())
    assert not (tmp_path / "other").exists()


BAD = {
    "mine.learner:Missing": "can't be imported from mine.learner:Missing (AttributeError: ",
    "mine.learner:dataclass": "to be a subclass of ntkcl_jax.methods.base.Learner, got <function dataclass",
    "mine.learner:Learner": "the learner 'bad' lacks features, init, name, terms, parts, recipe; define what",
    "mine.learner:ScaleShift": "expected mine.learner.ScaleShift to have the name of its entry point, 'bad'",
    "mine.readout:Slda": "to be a subclass of ntkcl_jax.methods.base.Learner, got <class 'mine.readout.Slda'>",
}


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_learner_stops_a_run_before_it_has_a_folder(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    point = LEARNERS.added["scale-shift"]
    monkeypatch.setitem(LEARNERS.added, "bad", type(point)("bad", value, point.group))
    with pytest.raises(ConfigError) as error:
        train(tiny.config(methods=("prototypes", "bad")), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert BAD[value] in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_readout_stops_a_run_before_it_has_a_folder(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = READOUTS.added["slda"]
    monkeypatch.setitem(READOUTS.added, "bad", type(point)("bad", "mine.learner:ScaleShift", point.group))
    with pytest.raises(ConfigError, match=r"to be a subclass of ntkcl_jax\.readouts\.base\.Readout"):
        train(tiny.config(methods=("frozen/bad",)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("learner", ["frozen", "first-session"])
def test_a_learner_that_stops_training_needs_a_readout(tmp_path: Path, learner: str) -> None:
    with pytest.raises(ConfigError, match=rf"put a readout above it, e\.g\. --methods {learner}/ridge"):
        train(tiny.config(methods=(learner,)), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert not (tmp_path / "run").exists()
