"""Whose runs: checkpoints as pure functions, which images, centred scores."""
