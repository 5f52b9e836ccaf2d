"""Influence on a run: images' parts add up to the forecast's own numbers, and are what the dense Jacobian says."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.cli import NTK_ANALYSIS
from analysis.errors import PlanError
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, targets
from analysis.records.probes import Probes
from analysis.store.forms import read_form
from analysis.store.influence_forms import InfluenceFile
from analysis.studies.forecast.network import run_twin, task_drifts
from analysis.studies.influence.coreset import left, random_choices
from analysis.studies.influence.engine import Looked, compute_influence, most_harmed
from analysis.studies.influence.look import Outcome, TaskInfluence, look, parts_of
from analysis.studies.influence.network import sides_of
from analysis.studies.influence.pictures import thumbnail
from analysis.studies.influence.table import told
from analysis.studies.opening import open_ntkcl
from analysis.studies.refusals import without_ntkcl
from analysis.studies.request import InfluenceRequest
from analysis.studies.twin import DUAL, step_of
from analysis.theory.influence import influences
from ntkcl_jax.terminal.progress import Progress
from tests.support import streams as tiny
from tests.support.dense import dense_jacobian, relative_error

# Nothing but images moves the network: no pull, no decay, no units dropped, each image trained as it is tested
PLAIN = {
    "objective": replace(tiny.config().objective, lambda_reg=0.0),
    "model": replace(tiny.config().model, adapter_dropout=0.0, fusion_dropout=0.0),
    "data__crop_scale": (1.0, 1.0),
    "data__flip": False,
    "optimizer__weight_decay": 0.0,
}
TASK = 2
"""The last task: two old ones."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.nearly_linear_run(tmp_path_factory.mktemp("influence"), **PLAIN)


@pytest.fixture(scope="module")
def records(run: Path) -> Records:
    return open_ntkcl(run, "influences")


@pytest.fixture(scope="module")
def probes(records: Records) -> Probes:
    return records.probes(0, 8)


@pytest.fixture(scope="module")
def looked(records: Records, probes: Probes) -> TaskInfluence:
    with Progress(quiet=True).stage("", 1) as stage:
        return look(records, 0, TASK, probes, records.probes(0, 4, side="train", tasks=(0, 1)), stage)


@pytest.fixture(scope="module")
def step(records: Records) -> Params:
    with Progress(quiet=True).stage("", 1) as stage:
        return step_of(run_twin(records, 0, TASK, stage))


@pytest.fixture(scope="module")
def made(run: Path) -> dict[str, Any]:
    return compute_influence(run, InfluenceRequest(coreset=3), quiet=True)


@pytest.mark.slow
def test_parts_of_all_images_add_up_to_the_forecasts_own_first_order_loss_change(
    records: Records, probes: Probes, looked: TaskInfluence, step: Params
) -> None:
    drifts = task_drifts(records, 0, TASK, step, probes)
    first_order = ((drifts["before"] - drifts["wanted"]) * drifts["predicted"]).sum(axis=1)
    # The twin that also learns duals makes the forecast's step
    np.testing.assert_allclose(looked.forecast, first_order, atol=1e-5 * abs(first_order).max())
    assert abs(looked.rest).max() < 1e-3 * abs(first_order).max(), "nothing but images moves the network here"
    np.testing.assert_allclose(sum(looked.groups.values()) + looked.mean_move, looked.forecast, rtol=1e-9)
    # Classes are sums of their images
    for i, c in enumerate(looked.old_classes):
        for j, new in enumerate(looked.new_classes):
            block = looked.tests[probes.labels[: len(looked.forecast)] == c][:, looked.labels == new]
            assert looked.loss_change[i, j] == pytest.approx(block.sum(axis=1).mean(), rel=1e-3)
    own = records.probes(0, 8, tasks=(0, 1))
    measured = drifts["measured"] + drifts["before"]
    assert (looked.measured.is_right == (measured.argmax(axis=1) == own.labels)).all()


@pytest.mark.slow
def test_influence_is_the_product_of_two_rows_of_the_dense_jacobian(
    records: Records, probes: Probes, looked: TaskInfluence
) -> None:
    with Progress(quiet=True).stage("", 1) as stage:
        duals = np.asarray(run_twin(records, 0, TASK, stage, duals=True).trainable[DUAL], np.float64)
    sides, at = sides_of(records, 0, TASK), np.array([0, 5, 11])
    images, new = probes.images[[0, 9]], records.task(0, TASK).images("train", at)
    j_old, j_new = (dense_jacobian(fn, sides.params, x) for fn, x in ((sides.old, images), (sides.new, new)))
    values = Linearized(sides.old, sides.params, images).values(images)
    gradients = values - targets(probes.labels[[0, 9]], values.shape[1])
    expected = influences(gradients, np.einsum("icp,jdp->ijcd", j_old, j_new), duals[at].reshape(3, -1))
    assert relative_error(looked.tests[np.ix_([0, 9], at)], expected) < 1e-4
    kernel = np.einsum("ic,icp,jdp,jd->ij", gradients, j_old, j_old, gradients)
    assert relative_error(looked.kernel[np.ix_([0, 9], [0, 9])], kernel) < 1e-4


@pytest.mark.slow
def test_the_running_mean_follows_what_trains(records: Records, step: Params) -> None:
    # After the second of three tasks the mean takes half of the step in; after the last one nothing
    sides = sides_of(records, 0, 1)
    fn, before = sides.with_mean
    images = records.probes(0, 2).images
    whole = {path: step[path] if path in step else np.zeros(np.shape(value)) for path, value in before.items()}
    for path in before.keys() - step.keys():
        whole[path] = step[path.replace("mean/", "current/", 1)] / 2
    follows = Linearized(sides.old, sides.params, images).change(images, step)
    assert relative_error(follows, Linearized(fn, before, images).change(images, whole)) < 1e-5
    still = {path: value if path in step else np.zeros_like(value) for path, value in whole.items()}
    # It matters little in a network this small, and yet far more than rounding
    assert relative_error(Linearized(fn, before, images).change(images, still), follows) > 1e-4


@pytest.mark.slow
def test_the_file_holds_every_later_task_and_the_pairs_of_the_images_that_were_made_worst(
    run: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_form(run / "analysis" / "influence.json", InfluenceFile)
    assert found is not None and [one.task for one in found.seeds[0].by_task] == [1, 2]
    for one in found.seeds[0].by_task:
        assert one.by_images + one.by_mean + one.rest == pytest.approx(one.forecast)
        assert sum(one.groups.values()) + one.by_mean == pytest.approx(one.forecast)
        assert sum(one.by_image) == pytest.approx(one.by_images)
    with open(run / "analysis" / "influence.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    pairs = [pair for one in found.seeds[0].harmed for pair in (*one.harmful, *one.helpful)]
    assert [float(row["influence"]) for row in rows] == [pair.influence for pair in pairs]
    assert told(made).startswith("seed  task")
    assert NTK_ANALYSIS.run(["influence", str(run), "--dry-run"]) == 0
    assert "influence of the training images of 2 tasks" in capsys.readouterr().out
    assert NTK_ANALYSIS.run(["influence", str(run), "--quiet", "--per-task", "99"]) == 2
    assert "probes a task" in " ".join(capsys.readouterr().err.split())


NONE = np.zeros(0, np.int64)
UNSEEN = Probes(0, "test", (), (0,), NONE, NONE, np.zeros((0, 1, 1, 3), np.float32), ())
"""Images that nobody looks at."""


def looked_of(loss_change: list[float], was: list[bool], now: list[bool]) -> TaskInfluence:
    """Two old test images and three old training images under two new ones, of a model with four parameters."""
    rng = np.random.default_rng(0)
    gradients, step = rng.standard_normal((5, 4)), rng.standard_normal((2, 4))
    influence, m = gradients @ step.T, 2
    outcome = Outcome(np.array(loss_change), np.array(was), np.array(now), np.array([2, 2]))
    return TaskInfluence(
        1, np.array([2, 3]), (0, 1), (2, 3), influence, influence[:m].sum(axis=1), np.zeros(m), {}, np.zeros((2, 2)),
        np.zeros((2, 2)), outcome, gradients @ gradients.T, influence[m:].sum(axis=1),
    )  # fmt: skip


def test_forgotten_images_come_before_those_that_only_got_worse() -> None:
    made = looked_of([0.5, 0.1], [True, True], [True, False])
    assert [i for _, i in most_harmed([Looked(made, UNSEEN, UNSEEN)])] == [1, 0]
    better = looked_of([-0.5, 0.1], [True, True], [True, True])
    assert [i for _, i in most_harmed([Looked(better, UNSEEN, UNSEEN)])] == [1], "an image whose loss fell isn't harmed"


def test_remembering_is_a_projection_of_the_step() -> None:
    made, rng = looked_of([0.1, 0.1], [True, True], [True, True]), np.random.default_rng(0)
    gradients, step = rng.standard_normal((5, 4)), rng.standard_normal((2, 4)).sum(axis=0)
    chosen = np.array([2, 0])
    basis = np.linalg.qr(gradients[2 + chosen].T)[0]
    expected = gradients[:2] @ (step - basis @ (basis.T @ step))
    assert left(made, chosen) == pytest.approx(expected.mean())
    assert [len(set(drawn.tolist())) for drawn in random_choices(made, 2, seed=0)] == [2] * 20
    assert [len(drawn) for drawn in random_choices(made, 9, seed=0)] == [3] * 20


def test_a_group_keeps_its_own_part_of_a_step_alone() -> None:
    step = {"current/adapters/0/up/bias": np.ones(2), "current/prompts/0/x": np.ones(3), "fusion/query": np.ones(1)}
    parts = parts_of(step)
    assert list(parts) == ["channel", "patch", "fusion"]
    assert all((sum(part[path] for part in parts.values()) == value).all() for path, value in step.items())


def test_thumbnails_are_means_of_blocks() -> None:
    image = np.zeros((64, 64, 3))
    image[::2, ::2] = 1  # one of four pixels of each block
    assert (thumbnail(image) == 64).all() and thumbnail(image).shape == (32, 32, 3)
    assert thumbnail(image[:28, :28]).shape == (28, 28, 3)


def test_what_can_be_asked_wrongly_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, value in (("per_task", 0), ("coreset", 0)):
        with pytest.raises(PlanError, match="expected at least 1"):
            InfluenceRequest(**{name: value})
    said = without_ntkcl("influences", tmp_path, ("ntkcl-ridge",))
    assert "`ntk-analysis influence RUN`" in said and "step of its own" in said
    assert "`ntk-analysis whatif RUN`" in without_ntkcl("what-ifs", tmp_path, ("ntkcl-ridge",))
    assert NTK_ANALYSIS.run(["influence", str(tmp_path / "none"), "--quiet"]) == 2
    assert "none" in capsys.readouterr().err
