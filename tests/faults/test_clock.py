"""A wall clock that is set back, or far ahead, changes no result and takes no work from its owner."""

import os
import time
from pathlib import Path

import pytest

from experiments.sweep import claims
from ntkcl_jax.runs.log import MetricsLog, read_metrics
from ntkcl_jax.training.run import train
from tests.support import streams as tiny


def set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on each look at the wall clock shows an hour less."""
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)


def test_a_run_ends_with_the_same_bits_while_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(methods=("prototypes",))
    train(config, tmp_path / "usual", arrays=tiny.arrays(), quiet=True)
    set_back(monkeypatch)
    train(config, tmp_path / "back", arrays=tiny.arrays(), quiet=True)
    assert tiny.records(tmp_path / "back") == tiny.records(tmp_path / "usual")
    assert (tmp_path / "back/results.json").read_bytes() == (tmp_path / "usual/results.json").read_bytes()
    times = [record["time"] for record in read_metrics(tmp_path / "back/metrics.jsonl")]
    assert times == sorted(times)
    assert times[0] >= 0


def test_the_log_doesnt_look_at_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_back(monkeypatch)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for step in range(3):
            log.append(step=step)
    times = [record["time"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 60


def test_a_claims_seconds_are_counted_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = claims.take(tmp_path, 0)
    assert claim is not None
    set_back(monkeypatch)
    with claim.held():
        pass
    ended = claims.state(tmp_path)
    assert ended.kind == "done"
    assert ended.owner is not None
    assert ended.owner["seconds"] >= 0


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_claim_elsewhere_is_judged_by_the_file_systems_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """This machine's clock is hours off: an owner that was heard of a moment ago lives all the same."""
    claim = claims.take(tmp_path, 0)
    assert claim is not None
    true_time = time.time
    monkeypatch.setattr(claims, "machine", lambda: "another machine")
    monkeypatch.setattr(time, "time", lambda: true_time() + 3600 * hours)
    assert claims.state(tmp_path).kind == "running"
    assert claims.state(tmp_path).silent_s >= 0


def test_a_sign_of_life_from_the_future_counts_as_one_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's clock was set back after the owner's last beat."""
    claim = claims.take(tmp_path, 0)
    assert claim is not None
    monkeypatch.setattr(claims, "machine", lambda: "another machine")
    ahead = time.time() + 7200
    os.utime(claim.path, (ahead, ahead))
    found = claims.state(tmp_path)
    assert (found.kind, found.silent_s) == ("running", 0.0)
    claim.beat()
    assert abs(claim.path.stat().st_mtime - time.time()) < 60
