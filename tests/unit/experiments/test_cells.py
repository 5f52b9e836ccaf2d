"""Cells: run once whoever runs them, taken up again after any death, listed as they are."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.sweep import cells, collect
from experiments.sweep import command as sweep
from experiments.sweep.cells import Cell, cells_of, finished, listing, status, work
from experiments.sweep.claims import DEATHS, state, take
from experiments.sweep.rows import lines, method_rows
from experiments.sweep.sweeps import SWEEPS
from ntkcl_jax import preset
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.errors import ConfigError, DataError
from ntkcl_jax.terminal.options import parse_train

CLUSTER = Path(sweep.__file__).parent / "cluster"
DIE_IN_A_CELL = """
import os, signal, sys
from pathlib import Path
from experiments.sweep import cells
from experiments.sweep.rows import lines
from experiments.sweep.sweeps import SWEEPS
cells.run_cell = lambda folder, cell: os.kill(os.getpid(), signal.Signals[sys.argv[2]])
if sys.argv[2] == "SIGTERM":
    from experiments.sweep.command import _terminate
    signal.signal(signal.SIGTERM, _terminate)
own = cells.cells_of(lines(SWEEPS["methods"], ["digits"], ["ridge"], {}), [0])
cells.work(Path(sys.argv[1]), own)
"""


def some(seeds: tuple[int, ...] = (0, 1)) -> list[Cell]:
    return cells_of(lines(SWEEPS["methods"], ["digits"], ["ridge", "prototypes"], {}), seeds)


def write_results(folder: Path, cell: Cell) -> None:
    """What a run leaves, as far as cells look at it."""
    seeds = {str(seed): {method: {} for method in cell.config.methods} for seed in cell.config.seeds}
    (folder / "results.json").write_text(json.dumps({"seeds": seeds}))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that were run, which do nothing but finish."""
    names: list[str] = []

    def run_cell(folder: Path, cell: Cell) -> None:
        names.append(cell.name)
        assert state(folder).kind == "running"
        write_results(folder, cell)

    monkeypatch.setattr(cells, "run_cell", run_cell)
    return names


def test_a_cell_is_one_setting_with_one_seed_and_methods_that_read_each_other_share_it() -> None:
    found = cells_of(lines(SWEEPS["methods"], ["digits"], [], {}), (0, 3))
    assert len({cell.name for cell in found}) == len(found) == 2 * (len(method_rows()) + 1)
    assert all(len(cell.config.seeds) == 1 for cell in found)
    own = next(cell for cell in found if cell.name == "digits--ntkcl--seed3")
    assert own.config == preset("digits", seeds=(3,), methods=("ntkcl", "ntkcl-ridge"))


def test_a_cell_is_finished_when_every_seed_and_method_is_there(tmp_path: Path) -> None:
    cell = cells_of(lines(SWEEPS["methods"], ["digits"], ["ntkcl"], {}), (0,))[0]
    write_results(tmp_path, cell)
    assert finished(tmp_path, cell.config)
    assert not finished(tmp_path, replace(cell.config, seeds=(0, 1)))
    write_results(tmp_path, replace(cell, config=replace(cell.config, methods=("ntkcl",))))
    assert not finished(tmp_path, cell.config)
    assert not finished(tmp_path / "none", cell.config)


def test_every_cell_runs_once_and_again_does_nothing(tmp_path: Path, ran: list[str]) -> None:
    assert work(tmp_path, some()) == []
    assert ran == [cell.name for cell in some()]
    assert work(tmp_path, some()) == []
    assert len(ran) == 4


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path: Path, ran: list[str]) -> None:
    busy, *others = some()
    assert take(tmp_path / busy.name, 0)
    assert work(tmp_path, some()) == []
    assert ran == [cell.name for cell in others]
    assert status(tmp_path, busy).detail.startswith(f"by {os.uname().nodename}:{os.getpid()} since 20")


def test_a_cell_is_claimed_again_where_results_are_missing_although_its_claim_ended(
    tmp_path: Path, ran: list[str]
) -> None:
    claim = take(tmp_path / some()[0].name, 0)
    assert claim
    with claim.held():
        pass
    assert work(tmp_path, some()[:1]) == []
    assert ran == [some()[0].name]


@pytest.mark.parametrize(("name", "detail"), [("SIGKILL", "died, last seen"), ("SIGTERM", "was stopped")])
def test_a_cell_whose_process_was_killed_is_taken_over(tmp_path: Path, ran: list[str], name: str, detail: str) -> None:
    here = os.environ | {"PYTHONPATH": str(Path(sweep.__file__).parents[1])}
    command = [sys.executable, "-c", DIE_IN_A_CELL, str(tmp_path), name]
    assert subprocess.run(command, env=here, capture_output=True, timeout=120, check=False).returncode != 0
    cell = cells_of(lines(SWEEPS["methods"], ["digits"], ["ridge"], {}), [0])[0]
    found = status(tmp_path, cell)
    assert (found.kind, detail in found.detail) == ("interrupted", True)
    assert work(tmp_path, [cell]) == []
    assert ran == [cell.name]
    assert status(tmp_path, cell).kind == "done"


def test_a_cell_that_kills_its_processes_is_left_alone_until_asked(tmp_path: Path, ran: list[str]) -> None:
    cell = some()[0]
    for number in range(DEATHS):
        claim = take(tmp_path / cell.name, number)
        assert claim
        claim.path.write_text(json.dumps(claim.owner | {"started": "long ago"}))
    assert status(tmp_path, cell).kind == "failed"
    assert work(tmp_path, [cell]) == []
    assert ran == []
    assert work(tmp_path, [cell], retry=True) == []
    assert ran == [cell.name]


def test_one_cell_that_fails_stops_no_other_and_waits_for_retry(
    tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = cells.run_cell

    def run_cell(folder: Path, cell: Cell) -> None:
        if cell.row == "prototypes":
            raise DataError("no images\nhere")
        good(folder, cell)

    monkeypatch.setattr(cells, "run_cell", run_cell)
    failed = work(tmp_path, some())
    assert failed == [f"digits--prototypes--seed{s}: no images here" for s in (0, 1)]
    assert ran == ["digits--ridge--seed0", "digits--ridge--seed1"]
    assert work(tmp_path, some()) == []
    assert status(tmp_path, some()[0]).detail == "DataError: no images here"
    assert len(work(tmp_path, some(), retry=True)) == 2  # each once, not for ever
    monkeypatch.setattr(cells, "run_cell", good)
    assert work(tmp_path, some(), retry=True) == []
    assert len(ran) == 4


def test_a_finished_run_with_other_settings_is_not_taken_for_the_cell(tmp_path: Path, ran: list[str]) -> None:
    cell = some()[0]
    other = cells_of(lines(SWEEPS["methods"], ["digits"], ["prototypes"], {"data.images_per_class": 3}), (0,))[0]
    assert other.name == cell.name
    (tmp_path / cell.name).mkdir()
    write_results(tmp_path / cell.name, other)
    (tmp_path / cell.name / "config.json").write_text(json.dumps({"config": to_json(other.config)}))
    assert status(tmp_path, other).kind == "done"
    assert status(tmp_path, cell).kind == "failed"
    assert "choose another --out" in status(tmp_path, cell).detail
    assert work(tmp_path, [cell]) == []
    assert ran == []


def test_the_list_says_how_far_each_cell_is(tmp_path: Path, ran: list[str]) -> None:
    done, busy, begun, _ = some()
    work(tmp_path, [done])
    take(tmp_path / busy.name, 0)
    (tmp_path / begun.name).mkdir()
    (tmp_path / begun.name / "config.json").write_text("{}")
    *found, counts = listing(tmp_path, some()).splitlines()
    assert [line.split()[0] for line in found] == ["done", "running", "interrupted", "free"]
    assert counts == f"4 cells in {tmp_path}: 1 done, 1 running, 1 interrupted, 1 free"


def test_files_are_told_by_stream_and_asked_for_where_they_are_needed() -> None:
    own = cells_of(lines(SWEEPS["variants"], ["omniglot", "digits"], ["paper"], {}), (0,))
    found = sweep.with_files(own, ["omniglot=a=b"], ["digits=w.npz"])
    assert [(c.config.data.path, c.config.weights) for c in found] == [("a=b", "nano"), ("", "w.npz")]
    assert [c.config.weights for c in sweep.with_files(own, ["omniglot=x"], ["v.npz"])] == ["v.npz", "v.npz"]
    with pytest.raises(ConfigError, match="needs --data omniglot=FOLDER"):
        sweep.with_files(own, [], [])
    with pytest.raises(ConfigError, match="STREAM=PATH"):
        sweep.with_files(own, ["folder"], [])


def test_a_real_sweep_runs_its_cells_and_writes_what_they_hold(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["methods", "--streams", "uci-digits", "--rows", "prototypes", "--seeds", "0", "1", "--set"]
    words += ["data.images_per_class=3", "--out", str(tmp_path / "runs"), "--report", str(tmp_path / "page.md")]
    assert sweep.run(words) == 0
    assert sweep.run([*words, "--list"]) == 0
    assert "2 cells" in (shown := capsys.readouterr().out)
    assert "2 done" in shown
    finals = []
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"uci-digits--prototypes--seed{seed}"
        results = json.loads((folder / "results.json").read_text())
        finals.append(results["seeds"][str(seed)]["prototypes"]["final_accuracy"])
    page = (tmp_path / "page.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| prototypes |"))
    assert f"| {50 * sum(finals):.2f} ± " in row
    assert "Not the real settings: data.images_per_class=3" in page
    with open(tmp_path / "methods.csv", newline="") as f:
        (line,) = csv.DictReader(f)
    assert float(line["final_accuracy_mean"]) == pytest.approx(sum(finals) / 2, abs=1e-15)
    assert (line["n"], line["seeds"]) == ("2", "0 1")
    assert (tmp_path / "methods.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", [CLUSTER / "slurm_array.sh", CLUSTER / "tpu_pod.sh"], ids=lambda p: p.name)
def test_cluster_scripts_are_bash_and_name_only_options_that_exist(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    text = script.read_text()
    known = set(re.findall(r"--[a-z]+", sweep.parser().format_help()))
    comment, code = text.split("set -euo pipefail")
    call = re.search(r"-m experiments\.sweep (.*)", code)
    assert call
    example = comment[comment.index("_array.sh benchmarks" if "array" in script.name else "_pod.sh benchmarks") :]
    example = example[: example.index("#\n")]
    named = set(re.findall(r"--[a-z]+", call[1])) | set(re.findall(r"--[a-z]+", example))
    assert {"--processes", "--wait", "--streams", "--data", "--weights"} <= named <= known
    done = subprocess.run(["bash", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_a_run_over_several_nodes_is_started_and_taken_up_again(tmp_path: Path) -> None:
    script, run, log = CLUSTER / "one_run.sh", tmp_path / "run", tmp_path / "log"
    fake = tmp_path / "srun"  # in place of SLURM's: says what it would start on every node
    fake.write_text(f'#!/bin/bash\necho "$*" >> {log}\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NTKCL": "ntkcl"}

    def start(*words: str) -> subprocess.CompletedProcess:
        command = ["bash", str(script), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

    words = ["digits", "--run-dir", str(run), "--optimizer.epochs", "1"]
    assert start(*words).returncode == 0
    run.mkdir()
    assert start(*words).returncode == 0
    called = f"--kill-on-bad-exit=1 ntkcl train {' '.join(words)}"
    coordinator = "--hosts.coordinator auto"
    assert log.read_text().splitlines() == [f"{called} {coordinator}", f"{called} --resume {coordinator}"]
    parsed = parse_train("digits", preset("digits"), [*words[1:], "--resume", *coordinator.split()])
    assert (parsed.hosts.coordinator, parsed.resume) == ("auto", True)
    for lacking in ([], ["digits"], ["digits", "--run-dir"]):
        done = start(*lacking)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_cluster_workers_stop_when_told(tmp_path: Path) -> None:
    fake = tmp_path / "python"  # in place of the sweep: says how it was called, then waits for the signal
    fake.write_text(
        '#!/bin/bash\ntrap \'echo stopped >> "$LOG"; exit 143\' TERM\necho "$TPU_VISIBLE_CHIPS $*" >> "$LOG"\n'
        "while true; do sleep 0.05; done\n"
    )
    fake.chmod(0o755)
    log = tmp_path / "log"
    environment = os.environ | {"PYTHON": str(fake), "CHIPS": "2", "LOG": str(log)}
    pod = subprocess.Popen(["bash", CLUSTER / "tpu_pod.sh", "methods", "--out", "shared"], env=environment)
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert pod.poll() is None
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=20) == 143
    *calls, first, second = sorted(log.read_text().splitlines())
    words = "-m experiments.sweep methods --out shared --processes 1 --wait"
    assert (calls, first, second) == ([f"0 {words}", f"1 {words}"], "stopped", "stopped")


def test_cluster_workers_stop_when_told_while_they_are_started(tmp_path: Path) -> None:
    fake = tmp_path / "python"  # the first worker tells the script to stop before the others are there
    fake.write_text("#!/bin/bash\n[[ $TPU_VISIBLE_CHIPS = 0 ]] && kill -TERM $PPID\nwhile true; do sleep 0.05; done\n")
    fake.chmod(0o755)
    environment = os.environ | {"PYTHON": str(fake), "CHIPS": "16"}
    words = ["bash", CLUSTER / "tpu_pod.sh", "methods", "--out", "shared"]
    assert subprocess.run(words, env=environment, timeout=20, check=False).returncode == 143


def test_other_pages_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another file"):
        collect.page_with("# Something else\n", "methods", "x")
    with pytest.raises(ConfigError, match="no result of methods"):
        collect.write_report("methods", lines(SWEEPS["methods"], [], [], {}), (0,), [tmp_path], tmp_path / "p.md", [])
