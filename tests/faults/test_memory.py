"""Memory that runs out, on a device or in the machine, ends with one line that says what would fit."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from analysis.cli import NTK_ANALYSIS
from analysis.kernels.planner import planning_memory
from analysis.studies import kernels as session
from ntkcl_jax.config.presets import preset
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.memory import evaluation_bytes, explained, training_bytes, what_fits
from ntkcl_jax.errors import MemoryShortError
from ntkcl_jax.training import run
from tests.faults.conftest import Fail
from tests.support import streams as tiny

SAID = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12345678 bytes."
LACKS = [
    jax.errors.JaxRuntimeError(f"{SAID}\nBufferAssignment OOM Debugging.\nmany more lines"),
    jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    MemoryError("Unable to allocate 9.1 TiB"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
]


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("error", LACKS, ids=lambda e: type(e).__name__)
def test_training_out_of_memory_names_batch_sizes_and_remat(
    data: Path, tmp_path: Path, fail: Fail, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "train", raising(error))
    line = fail(*tiny.words(data, tmp_path / "run"))
    assert "memory ran out (" in line
    assert "batch" in line
    assert "remat" in line
    assert "BufferAssignment" not in line


def test_the_batches_that_would_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("cifar100")
    monkeypatch.setattr(memory, "device_bytes", lambda: None)
    said = r"optimizer.batch_size=8 for training, compute.eval_batch_size=64 for evaluation"
    with pytest.raises(MemoryShortError, match=said), explained(config):
        raise LACKS[0]
    five = replace(config, optimizer=replace(config.optimizer, batch_size=5))
    assert "optimizer.batch_size=4 for training" in what_fits(config, training_bytes(five))
    nine = replace(config, compute=replace(config.compute, eval_batch_size=9, remat=True))
    assert what_fits(
        replace(nine, compute=replace(nine.compute, eval_batch_size=128)), evaluation_bytes(nine)
    ).endswith("compute.eval_batch_size=8 for evaluation")
    assert what_fits(config, 1) == "compute.remat=True"
    assert what_fits(nine, 1) == "a device with more memory"


def test_other_errors_pass_through_unchanged() -> None:
    error = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes")
    with pytest.raises(jax.errors.JaxRuntimeError) as caught, explained(preset("digits")):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--tile", "40"], "--resume and --tile 20"),
        ([], "--resume and --memory-bytes "),
        (["--tile", "1"], "--memory-bytes"),
    ],
)
def test_kernels_out_of_memory_name_a_smaller_tile(
    words: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(session, "compute_kernels", raising(LACKS[0]))
    assert NTK_ANALYSIS.run(["kernels", "run", *words]) == 2
    line = capsys.readouterr().err
    assert remedy in line
    assert line.count("\n") == 1
    if line.rstrip().rpartition(" ")[2].isdigit() and "--memory-bytes" in line:
        assert 0 < int(line.rstrip().rpartition(" ")[2]) <= 2 * planning_memory()


def test_a_name_that_the_system_refuses_is_one_line(fail: Fail) -> None:
    assert "File name too long" in fail("evaluate", "x" * 400)
