"""What the tests of faults share: an image folder, a command line that must fail, a finished run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ntkcl_jax import cli
from ntkcl_jax.training.run import train
from tests.support import streams as tiny

Fail = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "data")


@pytest.fixture
def fail(capsys: pytest.CaptureFixture) -> Fail:
    """Run a command line that must fail: returns its one line on standard error."""

    def fail(*words: object) -> str:
        code = cli.NTKCL.run([str(word) for word in words])
        out, error = capsys.readouterr()
        assert (code, out) == (2, ""), error
        assert error.startswith("ntkcl: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        return error

    return fail


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny config; tests work on copies."""
    path = tmp_path_factory.mktemp("faults") / "run"
    train(tiny.config(), path, arrays=tiny.arrays(), quiet=True)
    return path


def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def resume(run: Path, **changes: object) -> dict:
    return train(tiny.config(**changes), run, arrays=tiny.arrays(), resume=True, quiet=True)
