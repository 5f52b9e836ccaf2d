"""Runs that are interrupted while a readout learns, and taken up again."""

from pathlib import Path

import pytest

from ntkcl_jax.config import RunConfig
from ntkcl_jax.readouts.base import Lesson, Readout, State
from ntkcl_jax.training.run import train
from tests.support import streams as tiny


def train_broken_off(config: RunConfig, path: Path, readout: type[Readout], lesson: int) -> None:
    """Interrupt a run when a readout is told its lesson of that number, from 1, over all methods; then resume it."""
    learn, told = readout.learn, []

    def dies(self: Readout, state: State, what: Lesson) -> State:
        told.append(1)
        if len(told) == lesson:
            raise KeyboardInterrupt
        return learn(self, state, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "learn", dies)
        with pytest.raises(KeyboardInterrupt):
            train(config, path, arrays=tiny.arrays(), quiet=True)
    train(config, path, arrays=tiny.arrays(), quiet=True, resume=True)
