"""The `ntk-analysis` command. Nothing heavy is imported before the arguments are understood."""

import json
import shlex

from analysis.errors import AnalysisError, PlanError
from ntkcl_jax.devices.memory import exhausted
from ntkcl_jax.errors import NtkclError, reason
from ntkcl_jax.terminal.console import Program

USAGE = """usage: ntk-analysis COMMAND ...

Empirical neural tangent kernels of NTK-CL runs, exact and checked: what training did to the tasks' kernels.

  kernels RUN      intra-task and inter-task kernels at every checkpoint, summary.json and figures in RUN/analysis
  gaps RUN         task-interplay and task-specific gap of each task, theory beside the network, in gaps.json
  forecast RUN     what each task made the network forget, said before it happened; --new-data: what would come next
  whatif RUN       which later learning rate would have forgotten less, before training again, in what_if.json
  influence RUN    which new training images made which old test images worse, in influence.json
  advise RUN       what to do next, in two or three sentences with numbers, and the command for it, in advice.json
  report RUN ...   everything about a run, or several side by side, in one HTML file; figures and tables beside it

Each command explains itself: ntk-analysis COMMAND --help. A mistake that you can mend ends with exit code 2.
"""


def kernels(args: list[str]) -> None:
    """Compute kernels."""
    from analysis.options import Kernels
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Kernels, "ntk-analysis kernels", args)
    from analysis.studies.kernels import compute_kernels, dry_run

    if options.dry_run:
        print("\n".join(dry_run(options.run, options.request)))
        return
    try:
        made = compute_kernels(options.run, options.request, resume=options.resume, quiet=options.quiet or options.json)
    except Exception as error:
        if not exhausted(error):
            raise
        raise smaller_tile(error, options.request.tile) from error
    if options.json:
        print(json.dumps(made))
        return
    # A part's kernels are unfinished: there is no table to print yet
    (index, count), method = options.request.part, options.request.method
    if count > 1:
        again = f"ntk-analysis kernels {options.run}{'' if method == 'ntkcl' else f' --method {method}'} --resume"
        print(f"part {index} of {count} is done; when all are: {again}")
        return
    from analysis.store import analysis_folder
    from analysis.studies.summary import notes, readout_table, summary_table

    home = analysis_folder(options.run, method)
    files = {"summary": "summary.json", "measures": "measures.csv", "pictures": "figures"}
    tables = "\n\n".join(filter(None, (summary_table(made), readout_table(made), "\n".join(notes(made)))))
    print("\n".join([tables, "", *(f"{what:<9} {home / name}" for what, name in files.items())]))


def smaller_tile(error: Exception, tile: int | None) -> PlanError:
    """Say with which tile kernels would fit, where memory ran out."""
    from analysis.kernels.planner import planning_memory

    # The planner fills the memory that it may use: with half of it the tile gets smaller.
    remedy = f"--tile {tile // 2}" if tile and tile > 1 else f"--memory-bytes {planning_memory() // 2}"
    return PlanError(f"the memory ran out ({reason(error)}); repeat the command with --resume and {remedy}")


def gaps(args: list[str]) -> None:
    """Compute generalization gaps."""
    from analysis.options import Gaps
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Gaps, "ntk-analysis gaps", args)
    from analysis.studies.gaps import compute_gaps, gaps_cost, gaps_table

    if options.dry_run:
        print("\n".join(gaps_cost(options.run, options.request)))
        return
    made = compute_gaps(options.run, options.request, quiet=options.quiet or options.json)
    path = options.run / "analysis" / "gaps.json"
    print(json.dumps(made) if options.json else f"{gaps_table(made)}\n\ngaps      {path}")


def forecast(args: list[str]) -> None:
    """Forecast forgetting."""
    from analysis.options import Forecast
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Forecast, "ntk-analysis forecast", args)
    from analysis.studies.forecast import compute_forecast, forecast_cost, forecast_file, told

    if options.dry_run:
        print("\n".join(forecast_cost(options.run, options.request)))
        return
    made = compute_forecast(options.run, options.request, quiet=options.quiet or options.json)
    file = forecast_file(options.run, options.request)
    print(json.dumps(made) if options.json else f"{told(made)}\n\nforecast  {file}")


def whatif(args: list[str]) -> None:
    """Look at other learning rates."""
    from analysis.options import WhatIf
    from ntkcl_jax.terminal.parsing import parse

    options = parse(WhatIf, "ntk-analysis whatif", args)
    from analysis.studies.what_if.engine import compute_what_if
    from analysis.studies.what_if.table import told

    made = compute_what_if(options.run, options.request, quiet=options.quiet or options.json)
    file = options.run / "analysis" / "what_if.json"
    print(json.dumps(made) if options.json else f"{told(made)}\n\nwhat if   {file}")


def influence(args: list[str]) -> None:
    """Tell which new images made old ones worse."""
    from analysis.options import Influence
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Influence, "ntk-analysis influence", args)
    from analysis.studies.influence.cost import influence_cost
    from analysis.studies.influence.engine import compute_influence
    from analysis.studies.influence.table import told

    if options.dry_run:
        print("\n".join(influence_cost(options.run, options.request)))
        return
    made = compute_influence(options.run, options.request, quiet=options.quiet or options.json)
    file = options.run / "analysis" / "influence.json"
    print(json.dumps(made) if options.json else f"{told(made)}\n\ninfluence {file}")


def advise(args: list[str]) -> int:
    """Say what to do next, and do it where asked to; returns the exit code."""
    from analysis.options import Advise
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Advise, "ntk-analysis advise", args)
    from msgspec import to_builtins

    from analysis.studies.advice.engine import compute_advice
    from analysis.studies.advice.words import told

    made = compute_advice(options.run, quiet=options.quiet or options.json)
    file = options.run / "analysis" / "advice.json"
    print(json.dumps(to_builtins(made, str_keys=True)) if options.json else f"{told(made)}\n\nadvice    {file}")
    command = made.methods[0].command
    if not (options.follow and command):
        return 0
    from ntkcl_jax.cli import NTKCL

    print(f"\n{shlex.join(command)}", flush=True)
    return NTKCL.run([*command[1:], *(["--quiet"] if options.quiet else [])])


def report(args: list[str]) -> None:
    """Write the report."""
    from analysis.options import Report
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Report, "ntk-analysis report", args)
    from analysis.report import write_report

    print(f"report    {write_report(options.runs, options.out)}")


NTK_ANALYSIS = Program(
    name="ntk-analysis",
    usage=USAGE,
    commands={
        "kernels": kernels,
        "gaps": gaps,
        "forecast": forecast,
        "whatif": whatif,
        "influence": influence,
        "advise": advise,
        "report": report,
    },
    resumable=("kernels",),
    errors=(AnalysisError, NtkclError),
    smaller="use fewer images (--per-task) or a machine with more memory",
)


def main() -> None:
    """Entry point of the `ntk-analysis` script."""
    NTK_ANALYSIS.main()


if __name__ == "__main__":
    main()
