"""No damaged, foreign or unwritable file breaks the report: each is refused in one line, and what was there stays."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from analysis.cli import NTK_ANALYSIS
from analysis.errors import AnalysisError, StoreError
from analysis.report import write_report
from analysis.report.reading import read_run
from analysis.report.sections import SECTIONS, all_tables
from analysis.report.verdict import verdict
from tests.support import reported
from tests.support.stored import refused

FILES = ("config.json", "results.json", "analysis/summary.json", "analysis/gaps.json", "analysis/forecast.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with everything; never written to."""
    return reported.made_run(tmp_path_factory.mktemp("report") / "small", tasks=2, checkpoints=(0, 2))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b'{"format": 1, "se', b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"format": 2}'])
def test_a_broken_file_is_refused_in_one_line(run: Path, name: str, content: bytes) -> None:
    (run / "analysis/report.html").write_text("the report of before")
    (run / name).write_bytes(content)
    refused(lambda: write_report([run]), str(run / name))
    assert (run / "analysis/report.html").read_text() == "the report of before"


def damage(value: Any, rng: random.Random) -> Any:
    """A copy with one part deleted or replaced."""
    value = copy.deepcopy(value)
    here = value
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = rng.choice(keys)
        if not isinstance(here[key], dict | list) or not here[key] or rng.random() < 0.15:
            break
        here = here[key]
    if rng.random() < 0.25:
        del here[key]
    else:
        here[key] = rng.choice([None, "x", [], {}, -1, 1.5, 10**400, math.inf, True, [[1]], {"0": 1}])
    return value


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_damaged_is_refused_or_does_no_harm(run: Path, name: str) -> None:
    rng = random.Random(name)
    whole = json.loads((run / name).read_text())
    refusals = drawn = 0
    for _ in range(150):
        value = damage(whole, rng)
        (run / name).write_text(json.dumps(value))
        try:
            files = read_run(run)
        except StoreError as error:
            refusals += 1
            assert str(run / name) in str(error) and str(error).isprintable()
            continue
        assert verdict(files) and all_tables(files)
        if drawn < 2:  # drawing takes long
            drawn += 1
            assert [make(files) for _, make in SECTIONS.values()]
    assert refusals > 40


def test_what_cannot_be_written_or_found_is_said_in_one_line(
    run: Path, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(lambda: write_report([tmp_path / "nothing"]), "no run folder", error=AnalysisError)
    refused(lambda: write_report([]), "at least one run")
    refused(lambda: write_report([run], tmp_path), "got the folder")
    (tmp_path / "file").write_text("")
    refused(lambda: write_report([run], tmp_path / "file" / "r.html"), "can't write")

    def no_room(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", no_room)
    refused(lambda: write_report([run]), "Permission denied")
    assert not [p for p in run.rglob("*") if p.name.endswith((".partial", ".html"))]
    assert NTK_ANALYSIS.run(["report", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("undrawn")
def test_the_command_writes_where_it_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.html"
    assert NTK_ANALYSIS.run(["report", str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out and out.read_bytes().startswith(b"<!DOCTYPE html>")


def test_a_kernel_that_was_tampered_with_is_refused(run: Path) -> None:
    chunk = next((run / "analysis/kernels").rglob("c.0.0.*"))
    chunk.write_bytes(b"x")
    with pytest.raises(StoreError, match="has changed"):
        write_report([run])
