"""A run of made-up numbers that has everything."""

import shutil
from pathlib import Path

import pytest

from tests.support import reported


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with everything; never written to."""
    return reported.made_run(tmp_path_factory.mktemp("report") / "small", tasks=3, checkpoints=(0, 3))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "small"))
