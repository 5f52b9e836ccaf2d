"""Claims: each folder has one owner, whoever dies, wherever they run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep import claims
from experiments.sweep.claims import Claim, ClaimLost, deaths, state, take
from ntkcl_jax.terminal.console import Terminated

CLAIM_ALL = """
import sys
from pathlib import Path
from experiments.sweep.claims import state, take
root, count = Path(sys.argv[1]), int(sys.argv[2])
input()  # until all processes are there
for i in range(count):
    claim = take(root / f"cell{i}", 0)
    if claim:
        print(i)
"""
TAKE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from experiments.sweep.claims import state, take
folder = Path(sys.argv[1])
assert take(folder, state(folder).number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(code: str, *words: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, words)]


def here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(claims.__file__).parents[1])}


def elsewhere(folder: Path, number: int = 1, *, age_s: float, text: str | None = None) -> Path:
    """The claim of a process on another machine, touched some time ago."""
    path = folder / "claims" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"host": "far", "pid": os.getpid(), "started": "1", "machine": "another one", "since": "then"}
    path.write_text(json.dumps(owner) if text is None else text)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_each_folder_goes_to_exactly_one_of_many_processes(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            python(CLAIM_ALL, tmp_path, 40), env=here(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    taken = [int(line) for racer in racers for line in racer.communicate(timeout=60)[0].split()]
    assert sorted(taken) == list(range(40))


def test_a_process_that_was_killed_here_is_dead_at_once_and_its_folder_is_taken_over_once(tmp_path: Path) -> None:
    done = subprocess.run(python(TAKE_AND_DIE, tmp_path), env=here(), timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    found = state(tmp_path)
    assert (found.kind, found.number) == ("dead", 1)
    assert isinstance(take(tmp_path, found.number), Claim)
    assert take(tmp_path, found.number) is None
    assert state(tmp_path).kind == "running"


def test_another_process_with_the_same_number_is_no_sign_of_life(tmp_path: Path) -> None:
    claim = take(tmp_path, 0)
    assert claim
    assert state(tmp_path, stale_s=0.0).kind == "running"  # silence doesn't matter where the process can be seen
    claim.path.write_text(json.dumps(claim.owner | {"started": "before the last restart"}))
    assert state(tmp_path).kind == "dead"


@pytest.mark.parametrize(("age_s", "kind"), [(1.0, "running"), (280.0, "running"), (301.0, "dead")])
def test_a_process_elsewhere_lives_as_long_as_it_is_heard_of(tmp_path: Path, age_s: float, kind: str) -> None:
    elsewhere(tmp_path, age_s=age_s)
    found = state(tmp_path)
    assert (found.kind, found.who) == (kind, f"far:{os.getpid()}")
    assert found.silent_s == pytest.approx(age_s, abs=15.0)  # a busy machine may take a while


def test_age_is_measured_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, age_s=1.0)
    monkeypatch.setattr(claims.time, "time", lambda: 1e12)  # a machine whose clock is far ahead
    assert state(tmp_path).kind == "running"
    assert [p.name for p in tmp_path.iterdir()] == ["claims"]  # the probe of the clock is gone


@pytest.mark.parametrize(("age_s", "kind"), [(1.0, "running"), (400.0, "dead")])
def test_an_owner_that_died_before_it_wrote_its_name_is_judged_by_age(tmp_path: Path, age_s: float, kind: str) -> None:
    elsewhere(tmp_path, age_s=age_s, text="")
    assert state(tmp_path).kind == kind


def test_the_last_claim_counts_also_beyond_nine(tmp_path: Path) -> None:
    for number in range(1, 12):
        elsewhere(tmp_path, number, age_s=400.0)
    found = state(tmp_path)
    assert (found.kind, found.number, deaths(tmp_path)) == ("dead", 11, 11)
    assert take(tmp_path, 10) is None
    claim = take(tmp_path, 11)
    assert claim
    with claim.held():
        pass
    assert deaths(tmp_path) == 0


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [(None, "done", None), (ValueError("no\nsuch"), "failed", "ValueError: no such"), (Terminated(), "released", None)],
)
def test_a_claim_says_how_it_ended(tmp_path: Path, error: BaseException | None, kind: str, said: str | None) -> None:
    claim = take(tmp_path, 0)
    assert claim
    with contextlib.suppress(ValueError, Terminated), claim.held():
        if error:
            raise error
    found = state(tmp_path)
    assert found.kind == kind
    assert found.owner
    assert found.owner.get("error") == said
    assert found.owner["seconds"] >= 0


def test_a_beat_is_a_sign_of_life(tmp_path: Path) -> None:
    claim = take(tmp_path, 0)
    assert claim
    then = time.time() - 1000
    os.utime(claim.path, (then, then))
    with claim.held(every_s=0.02):
        until = time.monotonic() + 10
        while state(tmp_path).silent_s > 900 and time.monotonic() < until:
            time.sleep(0.02)
        assert state(tmp_path).silent_s < 900


def test_an_owner_whose_claim_was_taken_over_stops_and_leaves_the_new_one_alone(tmp_path: Path) -> None:
    claim = take(tmp_path, 0)
    assert claim
    with pytest.raises(ClaimLost, match="taken over by far"), claim.held(every_s=0.02):
        newer = elsewhere(tmp_path, 2, age_s=0.0)
        before = newer.read_text()
        time.sleep(10)
    assert newer.read_text() == before
    assert "ended" not in json.loads(claim.path.read_text())
    assert state(tmp_path).kind == "running"
