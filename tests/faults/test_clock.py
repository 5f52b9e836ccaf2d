"""A wall clock that is set back changes no result."""

import time
from pathlib import Path

import pytest

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
