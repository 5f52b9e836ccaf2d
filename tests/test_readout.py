"""NTK-CL's features under a ridge: each task's own checkpoint, each task's own images, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax import readout
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.recorded import load_run
from ntkcl_jax.ridge import RIDGES, random_relu
from ntkcl_jax.run import train
from ntkcl_jax.seeds import stream_seed
from tests import tiny

METHODS = ("ntkcl", "ntkcl-ridge", "prototypes")
WIDTH = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readout") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "RANDOM_FEATURES", WIDTH)
        train(tiny.config(methods=METHODS), path, arrays=tiny.arrays(), quiet=True)
    return path


def test_the_readout_is_a_ridge_on_what_each_task_left(run: Path) -> None:
    """Slow twin: all features stacked, one solve a ridge, leave-one-out by the hat matrix."""
    opened = load_run(run, arrays=tiny.arrays())
    found = opened.results["seeds"]["0"]["ntkcl-ridge"]["accuracy_after_task"]
    seed = stream_seed(0, "ntkcl-ridge")
    rows, wanted, losses = [], [], np.zeros(len(RIDGES))
    for task in range(3):
        state = opened.task(task)

        def random(images: np.ndarray, state=state) -> np.ndarray:
            hybrid = np.asarray(state.apply_fn(state.after, state.frozen, images, "features"))
            return np.concatenate([random_relu(hybrid, WIDTH, seed), np.ones((len(images), 1))], axis=1)

        rows.append(random(state.train_images))
        wanted.append(np.eye(tiny.CLASSES)[state.train_labels])
        x, y = np.concatenate(rows), np.concatenate(wanted)
        scale = np.square(x).sum() / x.shape[1]
        solved = [np.linalg.inv(x.T @ x + ridge * scale * np.eye(x.shape[1])) for ridge in RIDGES]
        for i, inverse in enumerate(solved):
            own = rows[-1]
            left = 1 - np.einsum("nd,de,ne->n", own, inverse, own)
            losses[i] += np.square((wanted[-1] - own @ inverse @ x.T @ y) / left[:, None]).sum()
        weights = solved[int(np.argmin(losses))] @ x.T @ y
        seen = opened.setup.scenarios[0].offsets[task + 1]
        tests = [opened.task(t) for t in range(task + 1)]
        images, labels = (np.concatenate([getattr(t, f"test_{what}") for t in tests]) for what in ("images", "labels"))
        accuracy = ((random(images) @ weights)[:, :seen].argmax(axis=1) == labels).mean()
        assert found[task] == pytest.approx(accuracy, abs=1e-12)


def test_it_is_read_back_and_not_made_again(run: Path, tmp_path: Path) -> None:
    stored = run / "baselines" / "seed0-ntkcl-ridge.json"
    assert [len(task["correct"]) for task in json.loads(stored.read_text())["tasks"]] == [1, 2, 3]
    before = stored.read_bytes()
    train(tiny.config(methods=METHODS), run, arrays=tiny.arrays(), quiet=True, resume=True)
    assert stored.read_bytes() == before


def test_without_checkpoints_to_read_it_is_refused() -> None:
    for methods in (("ntkcl-ridge",), ("ntkcl-ridge", "ntkcl")):
        with pytest.raises(ConfigError, match="name ntkcl before it"):
            tiny.config(methods=methods)
