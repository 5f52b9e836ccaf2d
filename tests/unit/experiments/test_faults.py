"""The campaign of faults: what it draws, what it compares, that it notices a loss, and a small one from end to end."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.faults import command as faults
from experiments.faults.disturbed import Campaign, Left, Lost, difference, one_line
from experiments.faults.kinds import FAULTS, cut, flip, full_disk

ROOT = Path(__file__).parents[3]
LEFT = Left({"task0/after a/x": ("float32", (1,), b"1234")}, {"results.json": b"{}"}, ["one", "two"])
WRITES = """
import json, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run-dir") + 1])
run.mkdir(exist_ok=True)
{}
"""


def test_of_a_hundred_kills_every_fourth_is_aimed_and_every_other_fault_comes_five_times() -> None:
    cases = faults.planned(100, disks=True)
    assert len(set(cases)) == len(cases) == 90
    times = [sum(name == fault for fault, _ in cases) for name in FAULTS]
    assert times == [38, 12] + [5] * 8
    left_out = {name for name, _ in cases} - {name for name, _ in faults.planned(100, disks=False)}
    assert [FAULTS[name] for name in left_out] == [full_disk]
    assert {name for name, _ in faults.planned(1, disks=True)} == {*FAULTS} - {list(FAULTS)[1]}
    assert set(faults.UNORDERED) < set(FAULTS)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"arrays": {}}, "task0/after a/x is missing"),
        ({"arrays": {"task0/after a/x": ("float32", (1,), b"1235")}}, "task0/after a/x has other bits"),
        ({"arrays": {"task0/after a/x": ("int32", (1,), b"1234")}}, "task0/after a/x has other bits"),
        ({"files": {"results.json": b"{ }"}}, "results.json has other bits"),
        ({"files": LEFT.files | {"more.png": b""}}, "more.png is not in the undisturbed run"),
        ({"records": ["two", "one"]}, "metrics.jsonl has other lines"),
        ({"records": ["one", "two", "two"]}, "metrics.jsonl has other lines"),
    ],
)
def test_any_difference_is_named(changes: dict, why: str) -> None:
    assert difference(replace(LEFT, **changes), LEFT) == why
    reordered = sorted(changes.get("records", [])) == LEFT.records
    assert difference(replace(LEFT, **changes), LEFT, ordered=False) == ("" if reordered else why)


def test_damage_changes_one_bit_or_the_length() -> None:
    content = bytes(range(200))
    for seed in range(20):
        flipped = flip(content, random.Random(seed))
        assert len(flipped) == 200
        assert sum((a ^ b).bit_count() for a, b in zip(content, flipped, strict=True)) == 1
        shorter = cut(content, random.Random(seed))
        assert content.startswith(shorter) and shorter != content


@pytest.mark.parametrize("error", ["", "Traceback ...\n", "ntkcl: one\ntwo\n", "ntkcl: without an end"])
def test_more_or_less_than_one_line_is_a_loss(error: str) -> None:
    with pytest.raises(Lost, match="expected one line"):
        one_line(error)


class Scripted(Campaign):
    """A campaign whose children run a script in place of `ntkcl`."""

    def start(self, run: Path, *launch: str) -> subprocess.Popen:
        code = WRITES.format(self.words[0])
        command = [sys.executable, "-c", code, "--run-dir", str(run)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


FINISH = "(run / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'time': 0.5, 'mfu': 0.1}) + '\\n')"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (FINISH, ""),
        ("sys.exit('ntkcl: no way')", "ended with code 1"),
        ("print('ntkcl: no way', file=sys.stderr); sys.exit(2)", "can't go on: ntkcl: no way"),
        (f"{FINISH}; (run / 'results.json.partial').touch()", "was left half-written"),
        (
            "print(f'ntkcl: checkpoint {run.parent} is damaged: x; delete the folder and resume', file=sys.stderr); "
            "sys.exit(2)",
            "can't go on",  # never outside the run folder
        ),
        (
            "part = run / 'checkpoints'; part.mkdir(); "
            "print(f'ntkcl: checkpoint {part} is damaged: x; delete the folder and resume', file=sys.stderr); "
            "sys.exit(2)",
            "can't go on",  # what was deleted is damaged again
        ),
        (
            f"{FINISH}\n"
            "if (run / 'part').exists():\n"
            "    print(f'ntkcl: checkpoint {run}/part is damaged: x; delete the folder and resume', file=sys.stderr)\n"
            "    sys.exit(2)",
            "",
        ),
    ],
)
def test_a_run_that_cannot_be_finished_is_a_loss(tmp_path: Path, script: str, why: str) -> None:
    campaign = Scripted([script], {})
    (tmp_path / "run" / "part").mkdir(parents=True)
    if not why:
        assert campaign.finish(tmp_path / "run") == Left({}, {}, ['{"step": 1}'])
        return
    with pytest.raises(Lost, match=why):
        campaign.finish(tmp_path / "run")
    assert (tmp_path / "run" / "part").exists()


@pytest.mark.parametrize(("lost", "tried"), [("", 7), ("broken", 4)])
def test_kills_that_did_not_come_are_made_up_unless_a_run_was_lost(
    lost: str, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is killed once where two kills were expected: 8 take 4 runs, then 2, then 1; the last of two in one."""
    plain, numbers = Campaign([], {}), []

    def one(_plain: Campaign, _wanted: Left, _root: Path, _seed: int, name: str, number: int) -> str:
        if name in list(FAULTS)[:2]:
            numbers.append(number)
            plain.events.extend(["kill"] * (2 if number == 6 else 1))
            return lost
        return ""

    monkeypatch.setattr(faults, "undisturbed", lambda *_: (plain, LEFT))
    monkeypatch.setattr(faults, "try_one", one)
    record = faults.campaign(tmp_path, 8, 0, 1)
    assert numbers == list(range(tried))
    assert sum(record["faults"][name]["tried"] for name in list(FAULTS)[:2]) == tried
    assert record["tried"] - record["survived"] == (tried if lost else 0)


@pytest.mark.slow
def test_a_small_campaign_loses_no_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.faults", "--kills", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "faults.json").read_text())
    tried = record["tried"]
    assert done.stdout.splitlines()[-1] == f"survived {tried} of {tried}"
    assert (record["name"], record["seed"], record["survived"], record["lost"]) == ("faults", 0, tried, {})
    assert {name for name, counts in record["faults"].items() if counts["survived"] == counts["tried"] > 0} >= {
        name for name, fault in FAULTS.items() if fault is not full_disk and name != list(FAULTS)[1]
    }
    assert sum(record["sent"].values()) >= 2
    assert record["versions"]["jax"] and record["seconds"] > 0 and record["command"]
    assert os.listdir(tmp_path) == ["faults.json"]
