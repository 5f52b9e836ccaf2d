"""The metrics file survives crashes, full disks and resumed runs."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcl_jax.errors import NonFiniteError, RunFolderError
from ntkcl_jax.runs.log import MetricsLog, read_metrics


class Clock:
    """A clock that shows what the test says."""

    def __init__(self, now: float = 100.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_records_come_back_as_written_with_seconds_since_the_start(tmp_path):
    clock = Clock()
    with MetricsLog(tmp_path / "m.jsonl", clock) as log:
        log.append(seed=0, task=1, loss=0.5)
        clock.now += 2.5
        log.append(note="Größe", values=[1, 2.0], more={"a": None})
    assert read_metrics(tmp_path / "m.jsonl") == [
        {"seed": 0, "task": 1, "loss": 0.5, "time": 0.0},
        {"note": "Größe", "values": [1, 2.0], "more": {"a": None}, "time": 2.5},
    ]


def test_a_record_is_in_the_file_as_soon_as_it_is_appended(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.append(task=0)
    assert len(read_metrics(tmp_path / "m.jsonl")) == 1
    log.close()


def test_time_never_goes_back_when_the_clock_does(tmp_path):
    clock = Clock()
    with MetricsLog(tmp_path / "m.jsonl", clock) as log:
        for now in (103.0, 50.0, 51.0):
            clock.now = now
            log.append(now=now)
    assert [r["time"] for r in read_metrics(tmp_path / "m.jsonl")] == [3.0, 3.0, 4.0]


def test_time_goes_on_from_the_last_record_after_a_resume(tmp_path):
    clock = Clock()
    with MetricsLog(tmp_path / "m.jsonl", clock) as log:
        clock.now += 4
        log.append(step=0)
    clock.now = 5000.0
    with MetricsLog(tmp_path / "m.jsonl", clock) as log:
        clock.now += 1
        log.append(step=1)
    assert [r["time"] for r in read_metrics(tmp_path / "m.jsonl")] == [4.0, 5.0]


def test_numpy_and_jax_numbers_become_json_numbers(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.append(a=np.float32(0.5), b=np.int64(3), c=jnp.float32(0.25), d=np.array([1, 2]))
    (record,) = read_metrics(tmp_path / "m.jsonl")
    assert (record["a"], record["b"], record["c"], record["d"]) == (0.5, 3, 0.25, [1, 2])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (float("nan"), "loss"),
        (np.float32("inf"), "loss"),
        (jnp.float32("-inf"), "loss"),
        ({"hybrid": [0.0, float("nan")]}, r"loss.hybrid\[1\]"),
    ],
)
def test_a_number_that_is_not_finite_is_named_and_not_written(tmp_path, value, name):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        with pytest.raises(NonFiniteError, match=f"finite {name}, .* at task 2, step 7"):
            log.append(task=2, step=7, loss=value)
        log.append(task=2, step=8, loss=1.0)
    assert [r["step"] for r in read_metrics(tmp_path / "m.jsonl")] == [8]


def test_a_record_may_not_bring_its_own_time(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log, pytest.raises(ValueError, match="without 'time'"):
        log.append(time=3)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 200))
def test_a_file_cut_anywhere_keeps_every_whole_record(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "m.jsonl"
    with MetricsLog(path) as log:
        for step in range(4):
            log.append(step=step, name="é" * 3)
    whole = path.read_bytes()
    part = whole[: min(cut, len(whole))]
    path.write_bytes(part)
    complete = part.count(b"\n") + (part.endswith(b"}"))  # a line that lacks only its end is whole
    assert [r["step"] for r in read_metrics(path)] == list(range(complete))
    with MetricsLog(path) as log:
        log.append(step=99)
    assert [r["step"] for r in read_metrics(path)] == [*range(complete), 99]


@pytest.mark.parametrize("bad", [b'{"a": ', b"[1]", b'{"a": NaN}', b"\xff\xfe", b""])
def test_a_damaged_line_before_the_last_is_named(tmp_path, bad):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"a": 1}\n' + bad + b'\n{"a": 2}\n')
    with pytest.raises(RunFolderError, match="line 2 of"):
        read_metrics(path)
    with pytest.raises(RunFolderError, match="line 2 of"):
        MetricsLog(path)


def test_a_damaged_last_line_with_its_end_is_damage_too(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(RunFolderError, match="line 2 of"):
        read_metrics(tmp_path / "m.jsonl")


def test_zeros_left_by_a_power_cut_count_as_half_written(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"\0" * 50)
    assert read_metrics(path) == [{"a": 1}]


def test_truncate_keeps_what_is_asked_and_appending_goes_on(tmp_path):
    clock = Clock()
    with MetricsLog(tmp_path / "m.jsonl", clock) as log:
        for task in range(4):
            clock.now += 1
            log.append(task=task)
        clock.now += 10
        assert log.truncate(lambda record: record["task"] < 2) == 2
        clock.now += 1
        log.append(task=2)
    assert [(r["task"], r["time"]) for r in read_metrics(tmp_path / "m.jsonl")] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_truncate_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.append(task=0)
        before = (tmp_path / "m.jsonl").read_bytes()
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(RunFolderError, match="No space left"):
            log.truncate(lambda _record: False)
        assert (tmp_path / "m.jsonl").read_bytes() == before


def test_a_full_disk_takes_the_half_record_back(tmp_path):
    class Full:
        """A file on a disk that fills up after 5 bytes."""

        def __init__(self, file):
            self.file, self.room = file, 5

        def fileno(self):
            return self.file.fileno()

        def write(self, data):
            if self.room == 0:
                raise OSError(28, "No space left on device")
            self.room -= self.file.write(data[: self.room])
            return 5

        def close(self):
            self.file.close()

    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.append(task=0)
        real, log._file = log._file, Full(log._file)
        with pytest.raises(RunFolderError, match="No space left"):
            log.append(task=1)
        log._file = real
        log.append(task=2)
    assert [r["task"] for r in read_metrics(tmp_path / "m.jsonl")] == [0, 2]


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"none\.jsonl"):
        read_metrics(tmp_path / "none.jsonl")
    with pytest.raises(RunFolderError, match="writable file"):
        MetricsLog(tmp_path / "none" / "m.jsonl")
