"""Benchmarks: `python -m experiments.bench [COMMAND] [options]`; `--help` after a command says what it does.

    steps       (or no command) the compiled programs beside the rate of a matrix product
    torch       beside PyTorch, which must be installed
    growth      cost as images, classes, tasks, parameters and devices grow
    profile     where the time of a training step goes, and the roof over it
    estimate    a stream of ImageNet-21K's size and a kernel of 10^6 rows, from the configuration alone
    table       write the figures of experiments/bench/results into docs/performance.md

Kernels have a command of their own: `python -m experiments.bench.kernels --help`.
"""

import importlib
import sys

from experiments.bench.process import PLAIN_MEMORY
from ntkcl_jax.devices.host_memory import keep_freed_memory

COMMANDS = {
    "steps": "steps",
    "torch": "torch_peer",
    "growth": "growth",
    "profile": "profile",
    "estimate": "estimate",
    "table": "table",
}
"""Command, and the module whose `main` does it."""


def main(words: list[str]) -> int:
    """Hand over to a command; each imports what it needs itself."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    known = words[:1] and words[0] in COMMANDS
    command, rest = (words[0], words[1:]) if known else ("steps", words)
    if rest and not rest[0].startswith("-") and not known:
        print(f"error: expected one of {', '.join(COMMANDS)}; got {rest[0]}", file=sys.stderr)
        return 2
    if PLAIN_MEMORY not in rest:
        keep_freed_memory()  # as the commands that are measured do
    return importlib.import_module(f"experiments.bench.{COMMANDS[command]}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
