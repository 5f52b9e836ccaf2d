"""A run that is killed, interrupted or asked to end, and taken up again, ends with the bits of an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntkcl_jax import cli
from ntkcl_jax.config.presets import preset
from ntkcl_jax.terminal.options import parse_train
from ntkcl_jax.training.run import train
from tests.support import streams as tiny

ROOT = Path(__file__).parents[3]
CONFIG = {"methods": ("ntkcl", "sequential")}
# The run of `undisturbed`, with a SIGKILL before or after the first call of a function whose arguments tell `wanted`.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.training import run
from ntkcl_jax.runs import folder as runfolder
from tests.support import streams as tiny

where, name, wanted, when = sys.argv[1:]
owner, attribute = {
    "hash": (checkpoint, "file_sha256"),
    "rename": (Path, "rename"),
    "drop": (runfolder.RunFolder, "drop_steps"),
    "json": (checkpoint, "write_json"),
}[name]
function = getattr(owner, attribute)

def deadly(*args, **kwargs):
    now = wanted in str(args)
    if now and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = function(*args, **kwargs)
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, attribute, deadly)
run.train(tiny.config(methods=("ntkcl", "sequential")), where, arrays=tiny.arrays(), quiet=True)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(tiny.config(**CONFIG), path, arrays=tiny.arrays(), quiet=True)
    return path


def start(*words: str) -> subprocess.Popen:
    # A shell's background job ignores Ctrl-C and so do its children: what a terminal would start doesn't.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def assert_same(run: Path, undisturbed: Path) -> None:
    assert (run / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    assert tiny.same_states(run, undisturbed)
    assert tiny.records(run) == tiny.records(undisturbed)
    assert not list(run.rglob("*.partial"))


@pytest.mark.parametrize(
    ("function", "wanted", "when", "left"),
    [
        pytest.param("json", "config.json", "before", set(), marks=pytest.mark.slow),
        ("hash", "step6.partial", "before", {"before", "step3", "step6.partial"}),  # in the middle of a checkpoint
        # task 1 is stored, its in-task state still there
        pytest.param("drop", ", 0, 1, ", "before", {"before", "after", "step9"}, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(
    undisturbed: Path, tmp_path: Path, function: str, wanted: str, when: str, left: set[str]
) -> None:
    run = tmp_path / "run"
    process = start("-c", SCRIPT, str(run), function, wanted, when)
    error = process.communicate(timeout=900)[1]
    assert process.returncode == -signal.SIGKILL, error
    tasks = sorted((run / "checkpoints" / "ntkcl").glob("seed0/task*"))
    assert {p.name for p in tasks[-1].iterdir()} == left if left else not tasks
    assert not (run / "results.json").exists()
    train(tiny.config(**CONFIG), run, arrays=tiny.arrays(), resume=True, quiet=True)
    assert_same(run, undisturbed)


def test_resuming_a_finished_run_changes_nothing(undisturbed: Path) -> None:
    before = {p: p.read_bytes() for p in undisturbed.rglob("*") if p.is_file()}
    train(tiny.config(**CONFIG), undisturbed, arrays=tiny.arrays(), resume=True, quiet=True)
    assert {p: p.read_bytes() for p in undisturbed.rglob("*") if p.is_file()} == before


def test_resuming_with_other_packages_warns_in_one_line(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = shutil.copytree(undisturbed, tmp_path / "run")
    header = json.loads((run / "config.json").read_text())
    now = dict(header["versions"])
    header["versions"] |= {"jax": "0.1.2", "numpy": "1.0", "python": "3.1"}
    del header["versions"]["optax"]
    (run / "config.json").write_text(json.dumps(header))
    train(tiny.config(**CONFIG), undisturbed, arrays=tiny.arrays(), resume=True)
    assert "warning" not in capsys.readouterr().err
    train(tiny.config(**CONFIG), run, arrays=tiny.arrays(), resume=True)
    out, error = capsys.readouterr()
    assert (out, error) == (
        "",
        f"warning: since this run was started, jax was 0.1.2, now {now['jax']}, optax was unknown, now {now['optax']}: "
        "numbers may differ in their last bits; resume with the old versions on the old devices for the same bits\n",
    )
    assert_same(run, undisturbed)
    train(tiny.config(**CONFIG), run, arrays=tiny.arrays(), resume=True, quiet=True)
    assert capsys.readouterr() == ("", "")


def wait_for(run: Path, pattern: str, process: subprocess.Popen) -> None:
    """Wait until the process has written something."""
    end = time.monotonic() + 300
    while not list(run.glob(pattern)):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)


def test_ctrl_c_and_sigterm_say_how_to_go_on_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, run = tiny.folder(tmp_path / "data"), tmp_path / "run"
    # A thousand steps, six hundred of them after the second signal's moment: even on a busy machine the run goes on
    # for seconds when a signal is sent.
    longer = ["--quiet", "--optimizer.epochs", "60", "--compute.checkpoint-every-steps", "100"]
    words = tiny.words(data, run, *longer)
    for number, pattern, more, told in (
        (signal.SIGINT, "checkpoints/ntkcl/seed0/task0/step*", [], "interrupted"),
        (signal.SIGTERM, "checkpoints/ntkcl/seed0/task1/before", ["--resume"], "terminated"),
    ):
        process = start("-m", "ntkcl_jax", *words, *more)
        wait_for(run, pattern, process)
        process.send_signal(number)
        out, error = process.communicate(timeout=900)
        assert error == f"ntkcl: {told}; the same command with --resume goes on from the last checkpoint\n"
        assert out == ""
        assert process.returncode == 128 + number
    code = cli.NTKCL.run([*words, "--resume"])
    out, error = capsys.readouterr()
    assert (code, error) == (0, "")
    assert "results.json" in out
    assert list((run / "figures").glob("*.png"))
    other = tmp_path / "other"
    train(parse_train("digits", preset("digits"), words[2:]).config, other, quiet=True)
    assert_same(run, other)


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_same_bits(tmp_path: Path) -> None:
    data = tiny.folder(tmp_path / "data")
    words = ["-m", "ntkcl_jax", *tiny.words(data, tmp_path / "run", "--quiet", "--seeds", "0", "1")]
    began = time.monotonic()
    process = start(*words[:-4], "--quiet", "--seeds", "0", "1", "--run-dir", str(tmp_path / "undisturbed"))
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 0, error
    duration = time.monotonic() - began
    seed = int(os.environ.get("NTKCL_KILL_SEED", "0"))
    for i in range(5):
        draw = random.Random(f"{seed} {i}")
        kills = 0
        while not kills:  # a machine that is faster now than when the time was taken ends before it is killed
            run = tmp_path / f"run{i}-{duration}"
            for attempt in range(4):  # three kills, then to the end
                resume = ["--resume"] if run.exists() else []
                process = start(*words, "--run-dir", str(run), *resume)
                if attempt < 3:
                    try:
                        process.communicate(timeout=draw.uniform(0.15, 1) * duration)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        kills += 1
                error = process.communicate(timeout=600)[1]
            assert process.returncode == 0, error
            duration /= 1 if kills else 2
        assert_same(run, tmp_path / "undisturbed")


@pytest.mark.slow
def test_programs_kept_on_disk_give_the_same_bits_even_damaged(undisturbed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "programs"
    script = f"""
import sys
from ntkcl_jax.training import run
from tests.support import streams as tiny

run.train(tiny.config(**{CONFIG!r}), sys.argv[1], arrays=tiny.arrays(), quiet=True)
"""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    entries: list[list[str]] = []
    for run in ("fills", "reads", "finds damaged"):
        command = [sys.executable, "-c", script, str(tmp_path / run)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | kept, timeout=600, stderr=subprocess.PIPE, text=True, check=True
        )
        assert_same(tmp_path / run, undisturbed)
        assert ("Error reading persistent compilation cache" in done.stderr) == (run == "finds damaged")
        files = sorted(cache.glob("*-cache"))
        entries.append([file.name for file in files])
        if run == "reads":
            for file in files:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert len(entries[0]) > 3
    assert entries[0] == entries[1] == entries[2]
