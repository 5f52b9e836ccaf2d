"""The `ntkcl` command. Nothing heavy is imported before the arguments are understood."""

import json
import sys
from dataclasses import asdict
from typing import Any

from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.terminal.console import Program

USAGE = """usage: ntkcl COMMAND ...

Parameter-efficient continual learning on a frozen vision transformer (NTK-CL, arXiv:2407.17120).

  demo             train on real handwritten digits, with pictures, in minutes; needs no files
  train PRESET     train on a stream of tasks; every field of the configuration is an option;
                   --rehearse tells the memory, time and disk that it will take
  evaluate RUN     classify again with the checkpoints of a finished run
  verify [PRESET]  check weights, images, split and transforms, without training
  presets          list the named configurations
  weights          say what a weights file holds (show FILE), or write it with other names (convert IN OUT)

Each command explains itself: ntkcl COMMAND --help. A mistake that you can mend ends with exit code 2.
"""


def demo(args: list[str]) -> None:
    """Run the demonstration: NTK-CL beside frozen prototypes and sequential fine-tuning."""
    from ntkcl_jax.config.devices import MeshConfig
    from ntkcl_jax.terminal.options import Demo
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Demo, "ntkcl demo", args)
    from ntkcl_jax.config.presets import preset

    # The two baselines between which any method should be seen: no training, and nothing against forgetting
    config = preset("digits", seeds=options.seeds, methods=("ntkcl", "prototypes", "sequential"))
    _train(config, options, MeshConfig(data=1))  # it is too small to share


def train(args: list[str]) -> None:
    """Train a preset, with any field overridden."""
    from ntkcl_jax.config.presets import PRESETS, preset

    if args[:1] in (["-h"], ["--help"]):
        # tyro's help needs a preset, whose values it shows as defaults
        print("usage: ntkcl train PRESET --run-dir RUN [options]\n")
        print(_preset_lines())
        print("\nntkcl train PRESET --help lists every option with the preset's values.")
        print("ntkcl train PRESET --rehearse tells the memory, time and disk that the run will take.")
        return
    if not args or args[0].startswith("-"):
        raise ConfigError(f"expected a preset first, e.g. `ntkcl train digits --run-dir RUN`: {', '.join(PRESETS)}")
    config = preset(args[0])
    # Looked for by hand: a rehearsal has other options and needs no --run-dir, which `Train` demands
    if "--rehearse" in args[1:]:
        _rehearse(args[0], config, [word for word in args[1:] if word != "--rehearse"])
        return
    from ntkcl_jax.terminal.options import parse_train

    options = parse_train(args[0], config, args[1:])
    # Only now, when the words are understood: this imports JAX, which takes seconds
    from ntkcl_jax.devices.hosts import together

    # Before any other use of JAX, which otherwise starts with this process's devices alone
    with together(options.hosts):
        _train(options.config, options, options.mesh)


def _rehearse(name: str, config: Any, args: list[str]) -> None:
    from ntkcl_jax.terminal.options import parse_rehearse

    options = parse_rehearse(name, config, args)
    from ntkcl_jax.training.rehearsal.play import rehearse
    from ntkcl_jax.training.rehearsal.report import report

    found = rehearse(
        options.config,
        near=options.run_dir,
        tasks=options.tasks,
        steps=options.steps,
        minutes=options.minutes,
        quiet=options.quiet or options.json,
    )
    print(json.dumps(found.to_json()) if options.json else report(found), end="\n" if options.json else "")


def _train(config: Any, options: Any, mesh: Any) -> None:
    from ntkcl_jax.devices.hosts import first
    from ntkcl_jax.devices.memory import explained
    from ntkcl_jax.training.run import train

    quiet = options.quiet or options.json
    with explained(config):
        results = train(config, options.run_dir, resume=options.resume, quiet=quiet, mesh=mesh)
    # Every process gets the results; one of them draws and prints
    if not first():
        return
    from ntkcl_jax.plots.run import draw_run

    pictures = draw_run(options.run_dir)
    _show(results, options.json)
    if not options.json:
        print(f"\nresults   {options.run_dir / 'results.json'}\npictures  {options.run_dir / 'figures'}")
        print("          " + ", ".join(path.name for path in pictures))
        print(f"kernels   ntk-analysis kernels {options.run_dir}")


def evaluate(args: list[str]) -> None:
    """Classify again with the checkpoints of a run."""
    from ntkcl_jax.terminal.options import Evaluate
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Evaluate, "ntkcl evaluate", args)
    from ntkcl_jax.training.run import evaluate_run

    results, same = evaluate_run(options.run, quiet=options.quiet or options.json)
    _show(results, options.json)
    if not same:
        raise NtkclError(
            f"{options.run} gives other accuracies than its results.json: the machine, a package or a file has changed"
        )


def verify(args: list[str]) -> int:
    """Check weights, images, split and transforms; returns the exit code."""
    from ntkcl_jax.terminal.options import parse_verify

    options = parse_verify(args)
    from ntkcl_jax.terminal.progress import Progress
    from ntkcl_jax.training.verify import verify
    from ntkcl_jax.training.verify_report import asked, first_classes, report

    config, backbone, notes, expected = asked(options)
    with Progress(options.quiet or options.json) as progress:
        found = verify(
            config,
            backbone,
            notes=notes,
            expected=expected,
            tolerance=options.tolerance,
            max_duplicates=options.max_duplicates,
            compare=options.compare,
            first_classes=first_classes(options, config),
            progress=progress,
        )
    print(json.dumps(asdict(found) | {"passed": found.passed}) if options.json else report(found).rstrip())
    return 0 if found.passed else 1


def presets(args: list[str]) -> None:
    """List the presets, or tell about one."""
    from ntkcl_jax.terminal.options import Presets
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Presets, "ntkcl presets", args)
    if options.preset:
        from ntkcl_jax.config.presets import preset
        from ntkcl_jax.terminal.preset_card import header

        config = preset(options.preset)
        if not options.json:
            print(header(options.preset), end="")
            return
        from ntkcl_jax.config.codec import to_json

        print(json.dumps(to_json(config), indent=1))
        return
    if not options.json:
        print(_preset_lines())
        return
    from ntkcl_jax.config.codec import to_json
    from ntkcl_jax.config.presets import PRESETS

    print(json.dumps({name: to_json(p.make()) for name, p in PRESETS.items()}, indent=1))


def weights(args: list[str]) -> None:
    """Show or convert a weights file."""
    if args[:1] in (["-h"], ["--help"]):
        print("usage: ntkcl weights show FILE\n       ntkcl weights convert IN OUT.safetensors [options]\n")
        print("Both explain themselves, e.g. ntkcl weights convert --help")
        return
    from ntkcl_jax.terminal.options import ConvertWeights, ShowWeights
    from ntkcl_jax.terminal.parsing import parse

    match args[:1]:
        case ["show"]:
            shown = parse(ShowWeights, "ntkcl weights show", args[1:])
            from ntkcl_jax.weights.convert import described, show

            facts = show(shown.file)
            print(json.dumps(facts, indent=1) if shown.json else described(facts), end="\n" if shown.json else "")
        case ["convert"]:
            asked = parse(ConvertWeights, "ntkcl weights convert", args[1:])
            from ntkcl_jax.weights.convert import convert, converted

            done = convert(asked.source, asked.target, to=asked.to, heads=asked.heads, image_size=asked.image_size)
            print(json.dumps(done, indent=1) if asked.json else converted(done), end="\n" if asked.json else "")
        case _:
            raise ConfigError("expected `ntkcl weights show FILE` or `ntkcl weights convert IN OUT.safetensors`")


def _preset_lines() -> str:
    from ntkcl_jax.config.presets import PRESETS

    return "\n".join(f"  {name:<18} {preset.about}" for name, preset in PRESETS.items())


def _show(results: dict[str, Any], as_json: bool) -> None:
    """Print results for a machine or for a person."""
    if as_json:
        print(json.dumps(results))
        return
    from ntkcl_jax.terminal.tables import accuracy_table

    print("\n" + accuracy_table(results), end="")


def _among_others() -> bool:
    # A mistake in the words is told before JAX was imported: then there are no other processes, and no reason to do it
    if "ntkcl_jax.devices.hosts" not in sys.modules:
        return False
    from ntkcl_jax.devices.hosts import several

    return several()


NTKCL = Program(
    name="ntkcl",
    usage=USAGE,
    commands={
        "demo": demo,
        "train": train,
        "evaluate": evaluate,
        "verify": verify,
        "presets": presets,
        "weights": weights,
    },
    resumable=("demo", "train"),
    errors=(NtkclError,),
    among_others=_among_others,
)


def main() -> None:
    """Entry point of the `ntkcl` script."""
    NTKCL.main()


if __name__ == "__main__":
    main()
