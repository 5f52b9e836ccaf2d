"""Published readouts of a frozen feature in runs: evaluated again, resumed to the same bits, refused if too large."""

from pathlib import Path

import pytest

from ntkcl_jax.config.methods import Method
from ntkcl_jax.errors import MemoryShortError
from ntkcl_jax.readouts.loranpac import LoRanPAC
from ntkcl_jax.training import run as runs
from ntkcl_jax.training.run import evaluate_run, train
from tests.support import streams as tiny
from tests.support.broken_off import train_broken_off

METHODS = ("acil", "ds-al", "klda", "fecam", "loranpac")
SMALL = {"readout__random_features": 20, "readout__wide_features": 200}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "run"
    train(tiny.config(methods=METHODS, **SMALL), path, arrays=tiny.arrays(), quiet=True)
    return path


def test_their_names_are_short_for_a_frozen_backbone() -> None:
    assert [Method.of(name) for name in METHODS] == [Method("frozen", name) for name in METHODS]


def test_evaluating_again_gives_the_same(run: Path) -> None:
    again, same = evaluate_run(run, arrays=tiny.arrays(), quiet=True)
    assert same
    assert set(again["summary"]) == set(METHODS)
    assert min(summary["final_accuracy"]["mean"] for summary in again["summary"].values()) > 2 / 7


def test_an_interrupted_run_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    train_broken_off(tiny.config(methods=METHODS, **SMALL), tmp_path / "run", LoRanPAC, lesson=3)
    assert tiny.same_states(run, tmp_path / "run")
    assert (run / "results.json").read_bytes() == (tmp_path / "run" / "results.json").read_bytes()


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("acil", {"readout__random_features": 10_000}, r"acil takes 3\.2 GB .*; set --readout\.random_features 3535$"),
        (
            "ds-al",
            {"readout__random_features": 10_000},
            r"ds-al takes 4\.8 GB .*; set --readout\.random_features 2886$",
        ),
        ("klda", {"readout__random_features": 10_000}, r"klda takes 3\.2 GB .*; set --readout\.random_features 3535$"),
        ("loranpac", {"readout__wide_features": 30_000}, r"loranpac takes 3\.8 GB .*; set --readout\.wide_features 5"),
        ("fecam", {}, r"fecam takes 0\.0 GB .*; run it on a machine with more$"),  # its sizes are the learner's
    ],
)
def test_too_little_memory_is_said_before_there_is_a_folder(
    method: str, changes: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "host_memory", lambda: 20_000 if method == "fecam" else 800_000_000)
    with pytest.raises(MemoryShortError, match=said):
        train(tiny.config(methods=(method,), **changes), tmp_path / "run", arrays=tiny.arrays(), quiet=True)
    assert not (tmp_path / "run").exists()
