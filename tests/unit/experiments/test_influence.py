"""The tables of what leaving images out does: differences are paired by later task, errors are over tasks."""

from typing import Any

import numpy as np
import pytest

from experiments.influence.command import run
from experiments.influence.tables import differences, page
from ntkcl_jax.errors import ConfigError


def outcome(old_loss: float) -> dict[str, float]:
    return {"old_loss": old_loss, "old_accuracy": 1 - old_loss, "new_loss": 0.1, "new_accuracy": 0.9}


def task(before: float) -> dict[str, Any]:
    """Leaving out what harms spares 0.02, at random on average 0.005."""
    kept = {"cholesky": [outcome(before)], "influence": [outcome(before + 0.01)]}
    return {
        "task": 1, "images": 40, "left_out": 2, "correlation": 0.9, "by_images": 0.03, "rest": 0.01,
        "forecast": 0.04, "measured": 0.05, "expected": {"harmful": 0.015, "helpful": -0.01},
        "before": outcome(before), "all": outcome(before + 0.05), "harmful": outcome(before + 0.03),
        "helpful": outcome(before + 0.06), "random": [outcome(before + 0.04), outcome(before + 0.05)],
        "kept": kept | {"random": [outcome(before + 0.02), outcome(before + 0.04)]},
    }  # fmt: skip


RECORD = {
    "stream": "digits", "seed": 0, "command": ["python", "-m", "experiments.influence"],
    "commit": {"commit": "c6e5204ec6e5"}, "share": 0.05,
    "draws": 2, "remember": 20, "probes": 60, "settings": {"lambda_reg": 0.001}, "tasks": [task(0.1)],
}  # fmt: skip


def test_every_way_is_compared_with_the_mean_of_the_random_ones_of_its_own_task() -> None:
    other = {**RECORD, "seed": 1, "tasks": [task(0.3)]}
    both = [*RECORD["tasks"], *other["tasks"]]
    np.testing.assert_allclose(differences(both, "harmful", "random", "old_loss"), [-0.015, -0.015])
    known = {"digits 0": RECORD, "digits 1": other}
    said = page(known)
    assert "2 seeds, 2 later tasks" in said
    with pytest.raises(ConfigError, match="different settings"):
        page({**known, "digits 2": {**other, "draws": 9}})
    assert (
        "| those that harm most | +0.0300 ± 0.0000 | -0.0150 ± 0.0000 | -0.0150 ± 0.0000 | +1.50 ± 0.00 | "
        "+0.0000 ± 0.0000 | +0.00 ± 0.00 | 2 of 2 |" in said
    )
    assert said.index("those that help most") < said.index("those that harm most"), "the poor ones first"
    assert "one draw: ± 0.0071" in said and "| pivoted Cholesky | +0.0000 ± 0.0000 |" in said
    assert "the forecast is 0.80 times what was measured" in said and "bring 75% of it" in said


@pytest.mark.parametrize("words", [["--share", "0"], ["--draws", "1"], ["--remember", "0"]])
def test_numbers_that_mean_nothing_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--share between 0 and 1"):
        run(words)
