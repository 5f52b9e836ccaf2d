"""Cells: run once whoever runs them, taken up again after any death, listed as they are."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import experiments
from experiments.sweep import cells, collect, processes
from experiments.sweep import command as sweep
from experiments.sweep.cells import Cell, cells_of, finished, listing, run_cell, status
from experiments.sweep.definitions import SWEEPS
from experiments.sweep.processes import work
from experiments.sweep.rows import lines, method_rows
from ntkcl_jax import preset
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.errors import ConfigError, DataError, RunFolderError
from ntkcl_jax.terminal.stopping import Terminated

ROOT = Path(experiments.__file__).parents[1]
CHILD = """
import fcntl, json, os, pathlib, signal, sys, time
folder, methods, seed, ways = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], sys.argv[4].split()
folder.mkdir(parents=True, exist_ok=True)
with open(folder.with_suffix(".log"), "a") as log:
    print(os.getpid(), file=log)
way = ways[min(len(open(log.name).readlines()), len(ways)) - 1]
(folder / "failed.json").unlink(missing_ok=True)
if way == "done":
    lock = open(folder / ".lock", "w")  # as a run does
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(75)
    if not (folder / "results.json").exists():
        with open(folder / "trained", "a") as trained:
            print(os.getpid(), file=trained)
        time.sleep(0.05)
    (folder / "results.json").write_text(json.dumps({"seeds": {seed: dict.fromkeys(methods, {})}}))
elif way == "waits":
    def stop(*_):
        (folder / "stopped").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (folder / "waits").touch()
    time.sleep(600)
elif way.startswith("SIG"):
    os.kill(os.getpid(), signal.Signals[way])
elif way == "1":
    (folder / "failed.json").write_text(json.dumps({"error": "DataError: no images here"}))
sys.exit(int(way) if way.isdecimal() else 0)
"""
"""In place of a cell's process: does the first of some words the first time it is started, then the next."""
SWEEP = """
import sys
from pathlib import Path
from tests.unit.experiments.test_cells import Fake, some
from experiments.sweep.processes import work
root = Path(sys.argv[1])
input()  # until all sweeps are there
failed = work(root, some(range(int(sys.argv[3]))), Fake(root, sys.argv[2]), processes=2)
sys.exit(len(failed))
"""
"""A sweep whose cells all do the same."""


class Fake:
    """Starts processes that don't train.

    Attributes:
        root: folder of the run folders.
        usual: what a cell's process does; words for one start after the other.
        ways: the same for cells with this in their name.
    """

    def __init__(self, root: Path, usual: str = "done", **ways: str) -> None:
        self.root, self.usual, self.ways = root, usual, ways

    def __call__(self, cell: Cell) -> tuple[Sequence[str], dict[str, str]]:
        way = next((way for part, way in self.ways.items() if part in cell.name), self.usual)
        words = [str(self.root / cell.name), json.dumps(cell.config.methods), str(cell.config.seeds[0]), way]
        return [sys.executable, "-S", "-E", "-c", CHILD, *words], dict(os.environ)

    def starts(self, cell: Cell) -> int:
        """How often the cell's process was started."""
        log = (self.root / cell.name).with_suffix(".log")
        return len(log.read_text().splitlines()) if log.exists() else 0


def some(seeds: Sequence[int] = (0, 1)) -> list[Cell]:
    return cells_of(lines(SWEEPS["methods"], ["digits"], ["ridge", "prototypes"], {}), seeds)


def write_results(folder: Path, cell: Cell) -> None:
    """What a run leaves, as far as cells look at it."""
    seeds = {str(seed): {method: {} for method in cell.config.methods} for seed in cell.config.seeds}
    (folder / "results.json").write_text(json.dumps({"seeds": seeds}))


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


def a_sweep(root: Path, way: str, seeds: int = 2) -> subprocess.Popen:
    """A sweep in a process group of its own, which waits for `go`."""
    command = [sys.executable, "-c", SWEEP, str(root), way, str(seeds)]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, process_group=0, **pipes)


def go(sweep_process: subprocess.Popen) -> None:
    """Let it begin."""
    assert sweep_process.stdin
    sweep_process.stdin.write("\n")
    sweep_process.stdin.flush()


@contextlib.contextmanager
def held(folder: Path) -> Generator[subprocess.Popen]:
    """A process that holds a run folder's lock until it is killed, at the latest at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"
    words = [sys.executable, "-S", "-c", code, str(folder / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        try:
            yield holder
        finally:
            holder.kill()


def test_every_cell_runs_once_and_again_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fake = Fake(tmp_path)
    assert work(tmp_path, some(), fake, processes=3) == []
    assert work(tmp_path, some(), fake) == []
    assert [fake.starts(cell) for cell in some()] == [1, 1, 1, 1]
    said = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[:2] for line in said) == sorted(["done", cell.name] for cell in some())


def test_two_sweeps_at_the_same_time_run_each_cell_once(tmp_path: Path) -> None:
    both = [a_sweep(tmp_path, "done", 10) for _ in range(2)]
    for one in both:
        go(one)
    assert [(one.communicate(timeout=900)[1], one.returncode) for one in both] == [("", 0), ("", 0)]
    trained = [(tmp_path / cell.name / "trained").read_text().splitlines() for cell in some(range(10))]
    assert [len(lines) for lines in trained] == [1] * 20


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    busy, fake = some()[0], Fake(tmp_path)
    with held(tmp_path / busy.name):
        assert status(tmp_path, busy).kind == "running"
        assert work(tmp_path, some(), fake) == []
        assert [fake.starts(cell) for cell in some()] == [0, 1, 1, 1]
        assert "1 of 4 cells run in other processes" in capsys.readouterr().out
    assert status(tmp_path, busy).kind == "free"
    assert work(tmp_path, some(), fake) == []
    assert [fake.starts(cell) for cell in some()] == [1, 1, 1, 1]


def test_a_cell_whose_folder_was_taken_by_another_process_meanwhile_has_not_failed(tmp_path: Path) -> None:
    fake = Fake(tmp_path, seed0=str(cells.ELSEWHERE))
    assert work(tmp_path, some()[:1], fake) == []
    assert status(tmp_path, some()[0]).kind == "free"


def test_waiting_takes_up_what_another_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK_AGAIN_S", 0.2)
    cell, fake = some()[0], Fake(tmp_path)
    with held(tmp_path / cell.name) as holder:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.6; kill -9 {holder.pid}"])
        assert work(tmp_path, [cell], fake, wait=True) == []
        assert holder.poll() == -signal.SIGKILL
        assert killer.wait() == 0
    assert (fake.starts(cell), status(tmp_path, cell).kind) == (1, "done")


def test_a_cell_whose_process_was_killed_is_tried_once_more_after_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake = Fake(tmp_path, prototypes="SIGKILL done")
    assert work(tmp_path, some(), fake) == []
    assert [fake.starts(cell) for cell in some()] == [2, 2, 1, 1] or [fake.starts(c) for c in some()] == [1, 1, 2, 2]
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(said[:4]) == ["died", "died", "done", "done"]
    assert said[4:] == ["done", "done"]
    assert all(status(tmp_path, cell).kind == "done" for cell in some())


def test_a_cell_that_kills_its_processes_is_left_alone_until_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cell, fake = some()[0], Fake(tmp_path, usual="SIGKILL SIGKILL done")
    why = "its process was killed twice (signal 9, Killed); is there enough memory?"
    assert work(tmp_path, [cell], fake) == [f"{cell.name}: {why}"]
    assert f"failed {cell.name}: {why}" in capsys.readouterr().err
    assert (status(tmp_path, cell).kind, status(tmp_path, cell).detail) == ("failed", why)
    assert work(tmp_path, [cell], fake) == [f"{cell.name}: {why}"]
    assert fake.starts(cell) == 2
    assert work(tmp_path, [cell], fake, retry=True) == []
    assert fake.starts(cell) == 3


def test_one_cell_that_fails_stops_no_other_and_waits_for_retry(tmp_path: Path) -> None:
    fake = Fake(tmp_path, prototypes="1 1 done")
    failures = [f"digits--prototypes--seed{s}: DataError: no images here" for s in (0, 1)]
    assert sorted(work(tmp_path, some(), fake)) == failures
    assert all(status(tmp_path, cell).kind == "done" for cell in some() if cell.row == "ridge")
    assert sorted(work(tmp_path, some(), fake)) == failures  # said again, but not run again
    assert [fake.starts(cell) for cell in some() if cell.row == "prototypes"] == [1, 1]
    assert len(work(tmp_path, some(), fake, retry=True)) == 2  # each once, not for ever
    assert work(tmp_path, some(), fake, retry=True) == []
    assert sum(fake.starts(cell) for cell in some()) == 2 + 2 * 3


def test_a_process_that_ends_in_no_known_way_is_a_failure(tmp_path: Path) -> None:
    cell, fake = some()[0], Fake(tmp_path, usual="3")
    assert work(tmp_path, [cell], fake) == [f"{cell.name}: its process gave 3"]
    assert fake.starts(cell) == 1


def test_a_cell_whose_process_alone_is_stopped_is_left_as_it_is(tmp_path: Path) -> None:
    cell, fake = some()[0], Fake(tmp_path, usual="143 done")
    assert work(tmp_path, [cell], fake) == []
    assert status(tmp_path, cell).kind == "free"
    assert work(tmp_path, [cell], fake) == []
    assert status(tmp_path, cell).kind == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_every_process_and_start_no_other(tmp_path: Path, number: signal.Signals) -> None:
    parent = a_sweep(tmp_path, "waits")
    go(parent)
    while len(list(tmp_path.glob("*/waits"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    _, error = parent.communicate(timeout=900)
    assert error.splitlines()[-1].split(".")[-1] == ("Terminated" if number == signal.SIGTERM else "KeyboardInterrupt")
    assert len(list(tmp_path.glob("*/stopped"))) == len(list(tmp_path.glob("*.log"))) == 2
    for log in tmp_path.glob("*.log"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)


def test_a_terminals_ctrl_c_reaches_the_children_only_as_sigterm(tmp_path: Path) -> None:
    parent = a_sweep(tmp_path, "waits")
    go(parent)
    while len(list(tmp_path.glob("*/waits"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    assert "KeyboardInterrupt" in parent.communicate(timeout=900)[1]
    assert len(list(tmp_path.glob("*/stopped"))) == 2


def test_a_cell_says_in_its_folder_why_it_failed_and_forgets_it_when_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cell = some()[0]

    def fail(*_: object, **__: object) -> None:
        assert not (tmp_path / cell.name / cells.WHY).exists()
        raise DataError("no images\nhere")

    monkeypatch.setattr("ntkcl_jax.train", fail)
    for _ in range(2):
        assert run_cell(tmp_path, cell) == cells.FAILED
        assert capsys.readouterr().err == f"failed {cell.name}: DataError: no images here\n"
        assert (status(tmp_path, cell).kind, status(tmp_path, cell).detail) == ("failed", "DataError: no images here")
    monkeypatch.setattr("ntkcl_jax.train", lambda *_, **__: 1 / 0)
    assert run_cell(tmp_path, cell) == cells.FAILED
    assert "Traceback" in capsys.readouterr().err  # a mistake in the program


def test_a_run_folders_own_lock_keeps_a_second_process_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cell = cells_of(lines(SWEEPS["methods"], ["uci-digits"], ["prototypes"], {"data.images_per_class": 3}), (0,))[0]
    with held(tmp_path / cell.name):
        assert run_cell(tmp_path, cell) == cells.ELSEWHERE
    assert not (tmp_path / cell.name / cells.WHY).exists()

    def other_settings(*_: object, **__: object) -> None:
        raise RunFolderError("other settings")

    monkeypatch.setattr("ntkcl_jax.train", other_settings)
    assert run_cell(tmp_path, cell) == cells.FAILED  # nobody holds it: an error like any other
    assert "other settings" in capsys.readouterr().err


def test_results_that_are_missing_are_made_again_although_a_cell_was_begun(tmp_path: Path) -> None:
    cell, fake = some()[0], Fake(tmp_path)
    (tmp_path / cell.name).mkdir()
    (tmp_path / cell.name / "config.json").write_text("{}")
    assert status(tmp_path, cell).kind == "unfinished"
    assert work(tmp_path, [cell], fake) == []
    assert status(tmp_path, cell).kind == "done"


def test_a_finished_run_with_other_settings_is_not_taken_for_the_cell(tmp_path: Path) -> None:
    cell, fake = some()[2], Fake(tmp_path)
    other = cells_of(lines(SWEEPS["methods"], ["digits"], [cell.row], {"data.images_per_class": 3}), (0,))[0]
    assert other.name == cell.name
    (tmp_path / cell.name).mkdir()
    write_results(tmp_path / cell.name, other)
    (tmp_path / cell.name / "config.json").write_text(json.dumps({"config": to_json(other.config)}))
    assert status(tmp_path, other).kind == "done"
    assert status(tmp_path, cell).kind == "failed"
    assert "choose another --out" in status(tmp_path, cell).detail
    assert len(work(tmp_path, [cell], fake)) == 1
    assert fake.starts(cell) == 0


def test_the_list_says_how_far_each_cell_is(tmp_path: Path) -> None:
    done, begun, bad, busy, free = some((0, 1, 2))[:5]
    work(tmp_path, [done], Fake(tmp_path))
    (tmp_path / begun.name).mkdir()
    (tmp_path / begun.name / "config.json").write_text("{}")
    work(tmp_path, [bad], Fake(tmp_path, "1"))
    with held(tmp_path / busy.name):
        *found, counts = listing(tmp_path, [done, begun, bad, busy, free]).splitlines()
    assert [line.split()[0] for line in found] == ["done", "unfinished", "failed", "running", "free"]
    assert found[2].endswith("  DataError: no images here")
    assert counts == f"5 cells in {tmp_path}: 1 done, 1 running, 1 unfinished, 1 failed, 1 free"


def test_files_are_told_by_stream_and_asked_for_where_they_are_needed() -> None:
    own = cells_of(lines(SWEEPS["variants"], ["omniglot", "digits"], ["paper"], {}), (0,))
    found = sweep.with_files(own, ["omniglot=a=b"], ["digits=w.npz"])
    assert [(c.config.data.path, c.config.weights) for c in found] == [("a=b", "nano"), ("", "w.npz")]
    assert [c.config.weights for c in sweep.with_files(own, ["omniglot=x"], ["v.npz"])] == ["v.npz", "v.npz"]
    assert sweep.with_files(own[:1], ["omniglot=x"], ["/at=1/v.npz"])[0].config.weights == "/at=1/v.npz"
    with pytest.raises(ConfigError, match="needs --data omniglot=FOLDER"):
        sweep.with_files(own, [], [])
    with pytest.raises(ConfigError, match="STREAM=PATH"):
        sweep.with_files(own, ["folder"], [])


def test_a_real_sweep_runs_its_cells_and_writes_what_they_hold(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["methods", "--streams", "uci-digits", "--rows", "prototypes", "--seeds", "0", "1", "--set"]
    words += ["data.images_per_class=3", "--out", str(tmp_path / "runs"), "--report", str(tmp_path / "page.md")]
    assert sweep.run([*words, "--shard", "2/2"]) == 0
    assert "no report yet: 1 of 2 cells aren't done" in capfd.readouterr().out
    assert not (tmp_path / "page.md").exists()
    assert sweep.run([*words, "--shard", "1/2"]) == 0
    assert sweep.run([*words, "--list"]) == 0
    assert "2 cells" in (shown := capfd.readouterr().out)
    assert "2 done" in shown
    finals = []
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"uci-digits--prototypes--seed{seed}"
        results = json.loads((folder / "results.json").read_text())
        finals.append(results["seeds"][str(seed)]["prototypes"]["final_accuracy"])
        command = json.loads((folder / "config.json").read_text())["command"]
        assert command[1:] == [*words, "--shard", f"{seed + 1}/2"]  # as typed, though a child ran it
    page = (tmp_path / "page.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| prototypes |"))
    assert f"| {50 * sum(finals):.2f} ± " in row
    assert "Not the real settings: data.images_per_class=3" in page
    with open(tmp_path / "results" / "methods.csv", newline="") as f:
        (line,) = csv.DictReader(f)
    assert float(line["final_accuracy_mean"]) == pytest.approx(sum(finals) / 2, abs=1e-15)
    assert (line["n"], line["seeds"]) == ("2", "0 1")
    assert (tmp_path / "results" / "methods.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_itself_leaves_the_accelerator_to_its_cells(tmp_path: Path) -> None:
    """A TPU belongs to the first process that looks at it."""
    code = "from experiments.sweep import command; command.run(sys.argv[1:]); from jax._src import xla_bridge; "
    code = f"import sys; {code}sys.exit(xla_bridge.backends_are_initialized())"
    words = ["methods", "--streams", "digits", "icons", "--data", "icons=x", "--out", str(tmp_path)]
    for more in (["--list"], ["--shard", "400/400"]):
        command = [sys.executable, "-c", code, *words, *more]
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=900, check=False).returncode == 0


def test_cells_of_one_command_share_compiled_programs_on_their_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    first, second = (sweep.environment_of(cell, "/programs") for cell in some()[:2])
    assert first["JAX_COMPILATION_CACHE_DIR"] == second["JAX_COMPILATION_CACHE_DIR"] == "/programs"
    assert [first[sweep.CELL], second[sweep.CELL]] == [cell.name for cell in some()[:2]]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/asked/for")
    assert sweep.environment_of(some()[0], "/programs")["JAX_COMPILATION_CACHE_DIR"] == "/asked/for"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on\n"),
        (Terminated(), 143, "stopped; the same command goes on\n"),
        (ConfigError("no row"), 2, "experiments.sweep: no row\n"),
    ],
)
def test_the_command_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: BaseException, code: int, said: str
) -> None:
    def run(_: Sequence[str]) -> int:
        raise error

    monkeypatch.setattr(sweep, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    signal.signal(signal.SIGTERM, before)
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


def test_no_process_at_a_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected --processes of at least 1, got 0"):
        sweep.run(["methods", "--streams", "digits", "--processes", "0"])


def test_a_sweep_that_cannot_go_on_leaves_no_process_behind(tmp_path: Path) -> None:
    fake, (first, second, *_) = Fake(tmp_path, "waits"), some()

    def command(cell: Cell) -> tuple[Sequence[str], dict[str, str]]:
        if cell.name == first.name:
            return fake(cell)
        while not (tmp_path / first.name / "waits").exists():
            time.sleep(0.05)
        return [str(tmp_path / "no such program")], {}

    with pytest.raises(FileNotFoundError):
        work(tmp_path, [first, second], command, processes=2)
    assert (tmp_path / first.name / "stopped").exists()


def test_a_sweep_with_a_failed_cell_says_so_in_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["variants", "--streams", "omniglot", "--rows", "prototypes", "--seeds", "0"]
    words += ["--data", f"omniglot={tmp_path / 'none'}", "--out", str(tmp_path / "runs")]
    assert sweep.run(words) == 1
    told = capfd.readouterr().err
    assert "failed omniglot--prototypes--seed0: DataError: " in told
    assert "1 of 1 cells failed; --list says why, --retry runs them again" in told


def test_other_pages_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another file"):
        collect.page_with("# Something else\n", "methods", "x")
    with pytest.raises(ConfigError, match="no result of methods"):
        collect.write_report("methods", lines(SWEEPS["methods"], [], [], {}), (0,), [tmp_path], tmp_path / "p.md", [])
