"""Training and evaluation of runs: seeds x methods over one stream."""
