"""Kernels of a run: stored blocks equal the definition, survive being killed, and come with a readable summary."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.cli import NTK_ANALYSIS
from analysis.errors import AnalysisError, PlanError, RecordError, StoreError, TooLargeError
from analysis.kernels.planner import Plan
from analysis.records.checkpoints import open_run
from analysis.store.forms import read_form
from analysis.store.study_forms import SummaryFile
from analysis.studies.kernels import Session, compute_kernels, dry_run
from ntkcl_jax.cli import NTKCL
from ntkcl_jax.training.run import train
from tests.support import plugins
from tests.support import streams as tiny
from tests.support.dense import dense_ntk, relative_error

ROOT = Path(__file__).parents[4]
REQUEST = analysis.Request(per_task=3, tile=4)
# The same request in a process of its own, which kills itself after the given number of blocks.
SCRIPT = """
import os, signal, sys
import analysis
from analysis import store
from analysis.studies.kernels import compute_kernels
from tests.support import streams as tiny

run, part, parts, blocks = sys.argv[1], *map(int, sys.argv[2:])
put = store.OpenKernel.put
def counted(self, *args):
    global blocks
    if not blocks:
        os.kill(os.getpid(), signal.SIGKILL)
    blocks -= 1
    return put(self, *args)
store.OpenKernel.put = counted
request = analysis.Request(per_task=3, tile=4, part=(part, parts))
compute_kernels(run, request, resume=True, quiet=True, arrays=tiny.arrays())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "run"
    train(tiny.config(), path, arrays=tiny.arrays(), quiet=True)
    return path


@pytest.fixture(scope="module")
def analysed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analysed") / "run"
    shutil.copytree(run, path)
    compute_kernels(path, REQUEST, quiet=True, arrays=tiny.arrays())
    return path


def kernel_files(run: Path) -> dict[str, bytes]:
    """Every file of the store but for the times."""
    root = run / "analysis" / "kernels"
    files = [p for p in root.rglob("*") if p.is_file() and p.name != "timings.json"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def copy(run: Path, path: Path) -> Path:
    shutil.copytree(run, path)
    return path


def test_blocks_are_the_kernels_between_the_tasks_images_by_definition(analysed: Path) -> None:
    records = open_run(analysed, arrays=tiny.arrays())
    probes = records.probes(0, 3)
    fn, params = records.function(0, 2, dtype="float64")
    found = analysis.load_analysis(analysed)
    for t, k in ((0, 0), (0, 2), (2, 1)):
        dense = dense_ntk(fn, params, probes.images[probes.rows(t)], probes.images[probes.rows(k)])
        assert relative_error(found.kernel(0, 2, t, k), dense) < 1e-5
    parts = [found.kernel(0, 2, 0, 2, group=name) for name in ("channel", "patch", "fusion")]
    assert relative_error(sum(parts), found.kernel(0, 2, 0, 2)) < 1e-12


def test_every_checkpoint_has_every_figure(analysed: Path) -> None:
    made = json.loads((analysed / "analysis" / "summary.json").read_text())
    checkpoints = made["seeds"]["0"]["checkpoints"]
    read = read_form(analysed / "analysis" / "summary.json", SummaryFile)
    assert read is not None and list(read.seeds[0].checkpoints) == [0, 1, 2, 3]
    assert list(checkpoints) == ["0", "1", "2", "3"]
    assert [figures["compared_with"] for figures in checkpoints.values()] == [None, 0, 1, 2]
    assert made["seeds"]["0"]["too_few"] == [0]  # three images of three classes
    for number, figures in checkpoints.items():
        for name in ("inter_intra_ratio", "kernel_norm", "unrelated_ratio", "same_task_ratio", "overlap"):
            assert np.shape(figures[name]) == (3, 3)
        for name in ("effective_dimension", "participation_ratio", "target_alignment", "spectrum", "drift", "health"):
            assert len(figures[name]) == 3
        assert np.allclose(np.diag(figures["inter_intra_ratio"]), 1)
        assert (np.array(figures["drift"]) == None).all() == (number == "0")  # noqa: E711
        assert figures["kernel_health"]["reason"] == ""
        assert figures["kernel_health"]["recomputation_error"] < 1e-5
        assert all(one["smallest_eigenvalue"] > -1e-10 for one in figures["health"])
        assert np.allclose(np.sum([group["share"] for group in figures["groups"].values()], axis=0), 1)
    assert sorted(p.name for p in (analysed / "analysis" / "figures").iterdir()) == [
        "ratios_seed0.png", "spectra_seed0.png", "tasks_seed0.png",
    ]  # fmt: skip


def test_a_second_call_computes_nothing_and_changes_nothing(analysed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_files(analysed)
    monkeypatch.setattr("analysis.kernels.tiled.fill", None)
    compute_kernels(analysed, REQUEST, quiet=True, arrays=tiny.arrays())
    assert kernel_files(analysed) == before


def test_a_packages_measure_is_read_off_kernels_that_are_stored(
    analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy(analysed, tmp_path / "run")
    monkeypatch.setattr("analysis.kernels.tiled.fill", None)
    values = "[float(kernel.trace()) for kernel in checkpoints[0].intra]"
    with monkeypatch.context() as while_there:
        plugins.installed(while_there, tmp_path / "good", "trace_of", plugins.module(values, name="trace"))
        made = compute_kernels(path, REQUEST, quiet=True, arrays=tiny.arrays())
    traces = [np.einsum("iicc", analysis.load_analysis(path).kernel(0, 3, t, t)) for t in range(3)]
    assert made["seeds"]["0"]["checkpoints"]["3"]["trace"] == pytest.approx(traces)
    assert json.loads((path / "analysis" / "summary.json").read_text()) == made
    rows = list(csv.DictReader((path / "analysis" / "measures.csv").read_text().splitlines()))
    found = [float(row["value"]) for row in rows if (row["measure"], row["checkpoint"]) == ("trace", "3")]
    assert found == pytest.approx(traces)

    plugins.installed(monkeypatch, tmp_path / "bad", "trace_bad", plugins.module("[0.0, float('nan'), 0.0]"))
    with pytest.raises(AnalysisError, match=r"trace_bad .* task 2"):
        compute_kernels(path, REQUEST, quiet=True, arrays=tiny.arrays())
    assert json.loads((path / "analysis" / "summary.json").read_text()) == made  # what is there stays


@pytest.mark.slow
def test_killed_kernels_end_with_the_same_bytes(run: Path, analysed: Path, tmp_path: Path) -> None:
    path = copy(run, tmp_path / "run")
    for blocks in (4, 9):  # in the middle of the first kernel, and of a later one
        words = [sys.executable, "-c", SCRIPT, str(path), "0", "1", str(blocks)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(path.rglob("*.partial"))
    compute_kernels(path, REQUEST, resume=True, quiet=True, arrays=tiny.arrays())
    assert kernel_files(path) == kernel_files(analysed)


def test_an_unfinished_kernel_is_taken_up_only_when_asked_for(run: Path, tmp_path: Path) -> None:
    path = copy(run, tmp_path / "run")
    subprocess.run([sys.executable, "-c", SCRIPT, str(path), "0", "1", "2"], cwd=ROOT, capture_output=True, check=False)
    with pytest.raises(StoreError, match="--resume"):
        compute_kernels(path, REQUEST, quiet=True, arrays=tiny.arrays())


@pytest.mark.slow
def test_two_processes_share_the_work(run: Path, analysed: Path, tmp_path: Path) -> None:
    path = copy(run, tmp_path / "run")
    both = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), part, "2", "-1"], cwd=ROOT, stderr=subprocess.PIPE)
        for part in ("0", "1")
    ]
    for process in both:
        assert process.communicate()[1] is not None and process.returncode == 0
    assert not analysis.load_analysis(path).kernels  # nothing is finished before somebody looks at all of it
    compute_kernels(path, REQUEST, resume=True, quiet=True, arrays=tiny.arrays())
    assert kernel_files(path) == kernel_files(analysed)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"per_task": 1000}, RecordError, "per-task"),
        ({"checkpoints": (9,)}, RecordError, "checkpoints 0 to 3"),
        ({"tasks": (7,)}, RecordError, "task 7"),
        ({"seeds": (5,)}, RecordError, "seeds"),
        ({"memory_bytes": 1000}, PlanError, "may be used"),
    ],
)
def test_an_impossible_request_leaves_nothing(run: Path, tmp_path: Path, request_, error, words) -> None:  # type: ignore[no-untyped-def]
    path = copy(run, tmp_path / "run")
    with pytest.raises(error, match=words) as caught:
        compute_kernels(path, analysis.Request(**{"per_task": 3} | request_), quiet=True, arrays=tiny.arrays())
    assert "\n" not in str(caught.value)
    assert not (path / "analysis" / "kernels").exists()


@pytest.mark.parametrize(
    ("memory", "asked", "says"),
    [
        (49 * 15**2, {}, "28224 B are needed: --per-task 5 fits; with --outputs trace 8 do"),
        (400, {}, "28224 B are needed: not even --per-task 1 fits; with --outputs trace 6 do"),
        (5, {"tile": 2}, "28224 B are needed: not even --per-task 1 fits; or leave --tile out"),
        (400, {"outputs": "trace"}, "576 B are needed: --per-task 6 fits"),
    ],
)
def test_a_kernel_that_is_too_large_names_images_of_a_task_that_do(
    run: Path, monkeypatch: pytest.MonkeyPatch, memory: int, asked: dict[str, Any], says: str
) -> None:
    def plan(fn: Any, params: Any, images: Any, count: int, columns: None, *, outputs: str, **_: Any) -> Plan:
        size = count**2 * (49 if outputs == "full" else 1)
        if size > memory:
            raise TooLargeError(f"{size} B are needed", "take less")
        return object.__new__(Plan)

    monkeypatch.setattr("analysis.studies.kernels.plan", plan)
    session = Session(run, analysis.Request(per_task=8, groups="none", **asked), tiny.arrays())
    with pytest.raises(PlanError) as caught:
        next(session.jobs([(0, 3)], record=False))
    assert str(caught.value) == says


def test_no_run_and_no_finished_task_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="nowhere"):
        compute_kernels(tmp_path / "nowhere", REQUEST, quiet=True)


def test_a_sick_kernel_is_refused_and_not_stored(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy(run, tmp_path / "run")
    monkeypatch.setattr("analysis.kernels.health.LARGEST_RECOMPUTATION_ERROR", 0.0)
    with pytest.raises(AnalysisError, match="float64 recomputation"):
        compute_kernels(path, REQUEST, quiet=True, arrays=tiny.arrays())
    assert not [p for p in (path / "analysis" / "kernels").rglob("*") if p.is_file()]


def test_a_dry_run_writes_nothing(run: Path, tmp_path: Path) -> None:
    path = copy(run, tmp_path / "run")
    lines = dry_run(path, REQUEST, arrays=tiny.arrays())
    assert "4 kernels" in lines[0]
    assert "9 images of 3 tasks, 7 outputs" in lines[0]
    assert not (path / "analysis").exists()


SLOWLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("trace", "diagonal")]


@pytest.mark.parametrize("outputs", [*SLOWLY, "pseudo"])
def test_other_kinds_of_outputs_have_summaries_too(run: Path, tmp_path: Path, outputs: str) -> None:
    path = copy(run, tmp_path / "run")
    request = analysis.Request(per_task=4, checkpoints=(1, 2), outputs=outputs, groups="none")
    made = compute_kernels(path, request, quiet=True, arrays=tiny.arrays())
    figures = made["seeds"]["0"]["checkpoints"]["2"]
    assert made["outputs"] == outputs
    assert np.shape(figures["inter_intra_ratio"]) == (3, 3)
    assert figures["drift"][0] > 0


def test_the_command_tells_a_person_and_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = tiny.folder(tmp_path / "data"), tmp_path / "run"
    assert NTKCL.run(tiny.words(data, path, "--quiet")) == 0
    start = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "--help"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "kernels RUN" in told.stdout
    assert time.monotonic() - start < 5  # 0.1 s of it on an idle machine
    capsys.readouterr()
    assert NTK_ANALYSIS.run(["kernels", str(path), "--per-task", "2", "--checkpoints", "0", "1", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "inter/intra" in said and "summary.json" in said and "measures.csv" in said
    assert NTK_ANALYSIS.run(["kernels", str(path), "--per-task", "2", "--dry-run"]) == 0
    assert "way" in capsys.readouterr().out
    assert NTK_ANALYSIS.run(["kernels", str(path), "--per-task", "2", "--checkpoints", "0", "1", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["seeds"]["0"]["checkpoints"]) == ["0", "1"]
    assert NTK_ANALYSIS.run(["kernels", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
