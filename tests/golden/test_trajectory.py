"""A whole run of the `reference` forms, from preset to predictions, goes as it was recorded."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.trajectory import FIXTURE, trajectory


@pytest.mark.slow
def test_every_loss_and_prediction_of_a_whole_run_is_the_recorded_one(tmp_path: Path) -> None:
    recorded, found = json.loads(FIXTURE.read_text()), trajectory(tmp_path / "run")
    assert len(found["losses"]) == len(recorded["losses"]) == 20
    for ours, theirs in zip(found["losses"], recorded["losses"], strict=True):
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-5, err_msg=str(theirs))
    assert found["predictions"] == recorded["predictions"]
