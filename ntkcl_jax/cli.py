"""The `ntkcl` command. Nothing heavy is imported before the arguments are understood."""

import io
import json
import os
import signal
import sys
from typing import Any

from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.progress import plain_text

USAGE = """usage: ntkcl COMMAND ...

Parameter-efficient continual learning on a frozen vision transformer (NTK-CL, arXiv:2407.17120).

  demo             train on real handwritten digits, with pictures, in minutes; needs no files
  train PRESET     train on a stream of tasks; every field of the configuration is an option
  evaluate RUN     classify again with the checkpoints of a finished run
  presets          list the named configurations

Each command explains itself: ntkcl COMMAND --help. A mistake that you can mend ends with exit code 2.
"""
USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def demo(args: list[str]) -> None:
    """Run the demonstration: NTK-CL beside frozen prototypes and sequential fine-tuning."""
    from ntkcl_jax.options import Demo, parse

    options = parse(Demo, "demo", args)
    from ntkcl_jax.presets import preset

    config = preset("digits", seeds=options.seeds, methods=("ntkcl", "prototypes", "sequential"))
    _train(config, options)


def train(args: list[str]) -> None:
    """Train a preset, with any field overridden."""
    from ntkcl_jax.presets import PRESETS, preset

    if args[:1] in (["-h"], ["--help"]):
        print("usage: ntkcl train PRESET --run-dir RUN [options]\n")
        print(_preset_lines())
        print("\nntkcl train PRESET --help lists every option with the preset's values.")
        return
    if not args or args[0].startswith("-"):
        raise ConfigError(f"expected a preset first, e.g. `ntkcl train digits --run-dir RUN`: {', '.join(PRESETS)}")
    config = preset(args[0])
    from ntkcl_jax.options import parse_train

    options = parse_train(args[0], config, args[1:])
    _train(options.config, options)


def _train(config: Any, options: Any) -> None:
    from ntkcl_jax.run import train

    results = train(config, options.run_dir, resume=options.resume, quiet=options.quiet or options.json)
    from ntkcl_jax.pictures import draw_run

    pictures = draw_run(options.run_dir)
    _show(results, options.json)
    if not options.json:
        print(f"\nresults   {options.run_dir / 'results.json'}\npictures  {options.run_dir / 'figures'}")
        print("          " + ", ".join(path.name for path in pictures))


def evaluate(args: list[str]) -> None:
    """Classify again with the checkpoints of a run."""
    from ntkcl_jax.options import Evaluate, parse

    options = parse(Evaluate, "evaluate", args)
    from ntkcl_jax.recorded import evaluate_run

    results, same = evaluate_run(options.run)
    _show(results, options.json)
    if not same:
        raise NtkclError(
            f"{options.run} gives other accuracies than its results.json: the machine, a package or a file has changed"
        )


def presets(args: list[str]) -> None:
    """List the presets."""
    from ntkcl_jax.options import Presets, parse

    options = parse(Presets, "presets", args)
    if not options.json:
        print(_preset_lines())
        return
    from ntkcl_jax.config_json import to_json
    from ntkcl_jax.presets import PRESETS

    print(json.dumps({name: to_json(p.make()) for name, p in PRESETS.items()}, indent=1))


def _preset_lines() -> str:
    from ntkcl_jax.presets import PRESETS

    return "\n".join(f"  {name:<12} {preset.about}" for name, preset in PRESETS.items())


def _show(results: dict[str, Any], as_json: bool) -> None:
    """Print results for a machine or for a person."""
    if as_json:
        print(json.dumps(results))
        return
    from ntkcl_jax.tables import accuracy_table

    print("\n" + accuracy_table(results), end="")


RESUMABLE = ("demo", "train")
COMMANDS = {"demo": demo, "train": train, "evaluate": evaluate, "presets": presets}


def run(argv: list[str]) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: words after `ntkcl`.

    Returns:
        0, or 2 after a mistake that the user can mend (one line on standard error), or 130 after Ctrl-C, or 143 after
        SIGTERM.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else USER_ERROR
    if argv[0] not in COMMANDS:
        return _complain(f"unknown command {argv[0]!r}; choose from {', '.join(COMMANDS)}", USER_ERROR)
    try:
        COMMANDS[argv[0]](argv[1:])
    except NtkclError as error:
        return _complain(str(error), USER_ERROR)
    except KeyboardInterrupt as error:
        ended = isinstance(error, Terminated)
        hint = "; the same command with --resume goes on from the last checkpoint" if argv[0] in RESUMABLE else ""
        return _complain(("terminated" if ended else "interrupted") + hint, TERMINATED if ended else INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _complain(message: str, code: int) -> int:
    """Write one line that can't steer the terminal, whatever names it carries."""
    print(f"ntkcl: {plain_text(' '.join(message.split()))}", file=sys.stderr)
    return code


def _terminate(*_: object) -> None:
    raise Terminated


def main() -> None:
    """Entry point of the `ntkcl` script."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a dash that a terminal can't show is no reason to fail
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
