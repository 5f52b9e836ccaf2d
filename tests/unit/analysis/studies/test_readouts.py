"""Kernels of readouts: Grams of what classifiers read, by definition, by parts, and as the classifiers use them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import analysis
from analysis.cli import NTK_ANALYSIS
from analysis.errors import PlanError
from analysis.kernels.neural_tangents_backend import neural_tangents_ntk
from analysis.records.checkpoints import open_run
from analysis.records.readouts import WEIGHTS, ReadoutRecords
from analysis.report import write_report
from analysis.report.reading import read_run
from analysis.report.sections import sections_of
from analysis.report.tables import chosen, groups
from analysis.studies.kernels import compute_kernels
from analysis.studies.summary import readout_table
from ntkcl_jax.data import Batch
from ntkcl_jax.models.functional import drawn_backbone
from ntkcl_jax.readouts.base import Readout, State, with_constant
from ntkcl_jax.readouts.multilevel import CANDIDATES
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.training.learner_run import LearnerRun
from ntkcl_jax.training.readout_run import FeatureCache, Mapped, ReadoutRun, StoredReadout
from ntkcl_jax.training.run import train
from ntkcl_jax.weights import save_backbone
from tests.support import streams as tiny
from tests.support.dense import dense_ntk, evaluated, relative_error
from tests.support.refusals import refused

CLASSES, PER_TASK = 6, 18
METHODS = ("multilevel", "ridge", "frozen/random-ridge", "ranpac", "layup", "sequential", "prototypes")
STORED = ("multilevel", "ranpac")
"""Features of the frozen backbone's maps; and random features above a learner that has trained."""
WIDTHS = (12, 10, 16, 14)
"""Columns of F, M, G and S."""
ARRAYS = tiny.arrays(CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of two classes, 18 training images each: all of them can be probes."""
    folder = tmp_path_factory.mktemp("readouts")
    backbone = jax.device_get(drawn_backbone(jax.random.key(5), tiny.BACKBONE))
    save_backbone(backbone, tiny.BACKBONE, folder / "weights.safetensors")
    config = tiny.config(
        methods=METHODS, weights=str(folder / "weights.safetensors"), data__first_task_classes=2, baselines__epochs=1,
        readout__widths=WIDTHS, readout__views=0, readout__level_views=0, readout__random_features=20,
        compute__checkpoint_every_steps=1000,
    )  # fmt: skip
    train(config, folder / "run", arrays=ARRAYS, quiet=True)
    return folder / "run"


@pytest.fixture(scope="module")
def analysed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels of all training images."""
    path = shutil.copytree(run, tmp_path_factory.mktemp("analysed") / "run")
    for method in STORED:
        compute_kernels(path, request(method), quiet=True, arrays=ARRAYS)
    return path


def request(method: str) -> analysis.Request:
    return analysis.Request(method=method, per_task=PER_TASK, side="train", tile=20)


def opened(run: Path, method: str) -> ReadoutRecords:
    records = open_run(run, method, arrays=ARRAYS)
    assert isinstance(records, ReadoutRecords)
    return records


class Own:
    """A readout by the run's own compiled steps and NumPy, apart from what is tested."""

    def __init__(self, run: Path, method: str) -> None:
        self.records = opened(run, method)
        context, folder = self.records.run.context, RunFolder(run)
        with MetricsLog(Path("/dev/null")) as log, Progress(quiet=True) as progress:
            below = LearnerRun(context, folder, log, progress, 0, self.records.pair.learner)
            self.step = ReadoutRun(method, below, FeatureCache())
            self.readout: Readout = self.step.readout()
            stored = StoredReadout.newest(folder, 0, self.records.pair, 3)
            assert stored is not None
            self.state: State = stored.state
            self.learner = self.step.state(2)
        self.mapped = Mapped.of(self.readout, context.mesh)

    def features(self, images: np.ndarray) -> np.ndarray:
        batch = Batch(images, np.zeros(len(images), np.int64), np.ones(len(images), bool))
        return np.asarray(self.mapped.step(self.step.run.learner, self.learner, batch))

    def columns(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the classifier reads, by groups, float64."""
        x = self.features(images).astype(np.float64)
        if self.records.run.method != "multilevel":
            # The readouts' own expansion; `linear` has none
            expand = getattr(self.readout, "expand", with_constant)
            return {"weights": np.asarray(expand(x), np.float64)}
        # The first of the candidates with most right answers
        weights = CANDIDATES[int(self.state["hits"].max(axis=1).argmax())]
        parts = np.split(x, np.cumsum(WIDTHS)[:-1], axis=1)
        norms = self.state["norms"]
        return {name: x * w / s for name, x, w, s in zip("FMGS", parts, weights, norms, strict=True)}

    def kernel(self, images: np.ndarray) -> np.ndarray:
        return sum(x @ x.T for x in self.columns(images).values())


@pytest.mark.parametrize("method", STORED)
def test_the_stored_kernel_is_the_gram_of_what_the_classifier_reads(analysed: Path, method: str) -> None:
    own = Own(analysed, method)
    images = own.records.probes(0, PER_TASK, side="train", record=False).images
    found = analysis.load_analysis(analysed, method)
    (spec,) = found.kernels
    assert (spec.checkpoint, spec.k, spec.copies, spec.method) == (3, 1, CLASSES, method)
    theta = found.stored(0, 3).matrix()
    assert theta.shape == (54, 54, 1, 1)
    assert relative_error(theta[..., 0, 0], own.kernel(images)) < 2e-6
    matrix = theta[..., 0, 0]
    np.testing.assert_array_equal(matrix, matrix.T)
    values = np.linalg.eigvalsh(matrix)
    assert values[0] > -1e-12 * values[-1]


def test_feature_maps_are_groups_that_add_up(analysed: Path) -> None:
    own = Own(analysed, "multilevel")
    columns = own.columns(own.records.probes(0, PER_TASK, side="train", record=False).images)
    stored = analysis.load_analysis(analysed, "multilevel").stored(0, 3)
    assert stored.spec.groups == ("F", "M", "G", "S")
    for name, x in columns.items():
        part = stored.matrix(name)[..., 0, 0]
        np.testing.assert_allclose(part, x @ x.T, rtol=0, atol=2e-6 * max(np.abs(x @ x.T).max(), 1e-300))
    assert relative_error(sum(stored.matrix(name) for name in columns), stored.matrix()) < 1e-14
    assert not analysis.load_analysis(analysed, "ranpac").stored(0, 3).spec.groups


def test_it_is_the_kernel_of_one_output_by_definition_and_by_neural_tangents(analysed: Path) -> None:
    method = "multilevel"
    records = opened(analysed, method)
    fn, params = records.function(0, 3)
    probes = records.probes(0, PER_TASK, side="train", record=False)
    images = probes.images[:5]
    stored = analysis.load_analysis(analysed, method).stored(0, 3).matrix()[:5, :5]
    assert relative_error(stored, dense_ntk(*records.function(0, 3, dtype="float64"), images)) < 2e-6
    assert relative_error(neural_tangents_ntk(fn, params, images), stored) < 1e-5


@pytest.mark.parametrize("method", ["multilevel", "frozen/random-ridge", "layup"])
def test_with_a_classs_weights_the_function_gives_its_scores(run: Path, method: str) -> None:
    own = Own(run, method)
    images = own.records.probes(0, 3, record=False).images
    wanted = own.readout.scores(own.state, own.features(images), CLASSES)
    fn, params = own.records.function(0, 3)
    # The classifier's weights, as it solves for them: least squares on its scores of enough images
    x = own.columns(own.records.probes(0, PER_TASK, side="train", record=False).images)
    every = own.features(own.records.probes(0, PER_TASK, side="train", record=False).images)
    scores = own.readout.scores(own.state, every, CLASSES)
    stacked = np.concatenate([x[path.removesuffix(WEIGHTS)] for path in params], axis=1)
    weights = np.linalg.lstsq(stacked, scores, rcond=1e-9)[0]
    ends = np.cumsum([len(value) for value in params.values()])[:-1]
    for c in range(CLASSES):
        at = {path: part.astype(np.float32) for path, part in zip(params, np.split(weights[:, c], ends), strict=True)}
        got = np.asarray(evaluated(fn, at, images))
        assert got.shape == (len(images), 1)
        np.testing.assert_allclose(got[:, 0], wanted[:, c], atol=2e-3)


@pytest.mark.parametrize("method", STORED)
def test_kernel_ridge_with_the_stored_kernel_and_the_chosen_ridge_is_the_classifier(
    analysed: Path, method: str
) -> None:
    """Its scores are K(x, X) (K(X, X) + λ I)⁻¹ Y over the training images X of all tasks, x seen or not."""
    own = Own(analysed, method)
    probes = own.records.probes(0, PER_TASK, side="train", record=False)
    stored = analysis.load_analysis(analysed, method)
    kernel = stored.stored(0, 3).matrix()[..., 0, 0]
    ridge = stored.summary["seeds"]["0"]["readout"]["ridge"]
    dual = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), np.eye(CLASSES)[probes.labels])
    wanted = own.readout.scores(own.state, own.features(probes.images), CLASSES)
    np.testing.assert_allclose(kernel @ dual, wanted, atol=1e-4)
    if method == "multilevel":
        test = own.records.probes(0, 4, record=False)
        fn, params = own.records.function(0, 3)
        parts = own.records.groups(list(params), "part")
        cross = analysis.empirical_ntk(fn, params, test.images, probes.images, tile=20, groups=parts)["whole"]
        wanted = own.readout.scores(own.state, own.features(test.images), CLASSES)
        assert len(np.unique(wanted.argmax(axis=1))) > 2
        np.testing.assert_allclose(cross[..., 0, 0] @ dual, wanted, atol=1e-5)


def test_the_summary_says_what_was_chosen_and_how_each_map_fits_the_labels(analysed: Path) -> None:
    own = Own(analysed, "multilevel")
    made = json.loads((analysed / "analysis/multilevel/summary.json").read_text())["seeds"]["0"]
    says = own.readout.says(own.state)
    assert made["readout"] == {"says": says, "ridge": own.readout.linear(own.state).ridge, "copies": CLASSES}
    (last,) = made["checkpoints"].values()
    probes = own.records.probes(0, PER_TASK, side="train", record=False)
    centre = np.eye(54) - 1 / 54
    wanted = centre @ np.equal.outer(probes.labels, probes.labels) @ centre
    for name, x in own.columns(probes.images).items():
        kernel = centre @ x @ x.T @ centre
        by_hand = (kernel * wanted).sum() / np.linalg.norm(kernel) / np.linalg.norm(wanted) if x.any() else None
        assert last["groups"][name]["stream_alignment"] == (None if by_hand is None else pytest.approx(by_hand, 1e-4))
        assert len(last["groups"][name]["centred_target_alignment"]) == 3
    table = readout_table({"method": "multilevel", "seeds": {"0": made}})
    assert [line.split()[1] for line in table.splitlines()[1:6]] == ["F", "M", "G", "S", "all"]
    assert f"seed 0 · multilevel: {says}" in table and "checkpoint 3. All 6 outputs have this kernel each." in table
    ranpac = json.loads((analysed / "analysis/ranpac/summary.json").read_text())["seeds"]["0"]
    assert ranpac["readout"]["says"] == f"ridge {ranpac['readout']['ridge']:g}"


def test_while_a_run_goes_on_each_newest_state_leaves_its_kernel(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.studies.kernels.save_figures", lambda *_: [])
    path = shutil.copytree(run, tmp_path / "run")
    folder, pair = RunFolder(path), ("first-session", "ranpac")
    newest = StoredReadout.newest(folder, 0, pair, 3)
    assert newest is not None
    checkpoint.remove(folder.readout(0, 2, *pair))
    assert opened(path, "ranpac").checkpoints(0) == ()
    refused(lambda: compute_kernels(path, request("ranpac"), quiet=True, arrays=ARRAYS), "no finished task yet")
    StoredReadout(newest.state, newest.evaluations[:2]).store(folder, 0, pair)
    asked = replace(request("ranpac"), tasks=(0, 1))
    made = compute_kernels(path, asked, quiet=True, arrays=ARRAYS)
    assert list(made["seeds"]["0"]["checkpoints"]) == ["2"] and made["seeds"]["0"]["readout"]["copies"] == 4
    newest.store(folder, 0, pair)
    made = compute_kernels(path, asked, quiet=True, arrays=ARRAYS)["seeds"]["0"]
    assert list(made["checkpoints"]) == ["2", "3"] and made["readout"]["copies"] == CLASSES
    assert made["checkpoints"]["3"]["drift"] == [0, 0]  # features after the first session don't move


def test_what_a_readout_does_not_have_is_refused_in_one_line(run: Path) -> None:
    def kernels(method: str, **asked: Any) -> Callable[[], object]:
        return lambda: compute_kernels(run, analysis.Request(method=method, **asked), quiet=True, arrays=ARRAYS)

    refused(kernels("prototypes"), "trained weights, got prototypes", "name another method of the run")
    refused(kernels("ease"), f"checkpoints of {', '.join(METHODS)}, none of method ease")
    refused(
        kernels("ridge", checkpoints=(1,)), "checkpoints 3 of seed 0", "got 1: a readout keeps its newest state only"
    )
    refused(kernels("ridge", head="proxy", per_task=4), "outputs scores; got 'proxy'")
    refused(kernels("ridge", groups="layer", per_task=4), "groups part or none", "got layer")
    assert not (run / "analysis" / "ridge" / "kernels").exists()


def test_studies_of_training_say_why_a_readout_has_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for study, about in (("gaps", "theory's learner itself"), ("forecast", "takes no steps")):
        assert NTK_ANALYSIS.run([study, str(run), "--method", "multilevel"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and about in said
        assert "`ntk-analysis kernels RUN --method multilevel` has its kernels" in said
    with pytest.raises(
        PlanError, match=r"ease/ridge: its classifier .* features is ease, .*kernels RUN --method ease`$"
    ):
        analysis.GapsRequest(method="ease/ridge")
    for study, compute in (("gaps", analysis.compute_gaps), ("forecasts", analysis.compute_forecast)):
        refused(
            lambda compute=compute: compute(run, quiet=True, arrays=ARRAYS),
            f"has no method ntkcl, which {study} start from, only multilevel, ridge",
            "multilevel: it",
        )


def test_the_report_shows_readouts_and_what_they_chose(analysed: Path, tmp_path: Path, undrawn: None) -> None:
    path = shutil.copytree(analysed, tmp_path / "run")
    files = read_run(path)
    assert (files.method, list(files.others)) == ("multilevel", ["ranpac"])
    rows = chosen(files).rows
    assert [row[0] for row in rows] == ["multilevel", "ridge", "frozen/random-ridge", "ranpac", "layup"]
    assert rows[0] == ["multilevel", 0, files.chosen["multilevel"][0]] and "left-out images right" in str(rows[0][2])
    assert [row[:2] for row in groups(files).rows] == [["multilevel", name] for name in "FMGS"]
    page = write_report([path]).read_text()
    assert str(rows[0][2]).replace(" ± ", "\xa0±\xa0") in page
    assert "Kernels of all methods" in page and "aligned with" in page
    assert (path / "analysis/tables/groups.csv").exists() and (path / "analysis/tables/readouts.csv").exists()
    assert set(sections_of([files])) == {
        "budget",
        "accuracy",
        "kernels",
        "ratios",
        "drift",
        "shares",
        "methods",
    }
    shutil.rmtree(path / "analysis")
    files = read_run(path)
    assert files.method == "multilevel" and files.summary is None
    assert sections_of([files])["shares"][1](files).missing.endswith("--method multilevel")
    assert "--method multilevel" in write_report([path]).read_text()


def test_a_readout_without_maps_has_nothing_to_split(analysed: Path, tmp_path: Path) -> None:
    path = shutil.copytree(analysed, tmp_path / "run")
    shutil.rmtree(path / "analysis" / "multilevel")
    files = read_run(path)
    part = sections_of([files])["shares"][1](files)
    assert files.method == "ranpac" and not part.missing and not part.panels and not part.tables
