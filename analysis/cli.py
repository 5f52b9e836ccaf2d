"""The `ntk-analysis` command. Nothing heavy is imported before the arguments are understood."""

import json
from typing import Any

from analysis.errors import AnalysisError, PlanError
from ntkcl_jax.devices.memory import exhausted
from ntkcl_jax.errors import NtkclError, reason
from ntkcl_jax.terminal.console import Program

USAGE = """usage: ntk-analysis COMMAND ...

Empirical neural tangent kernels of NTK-CL runs, exact and checked: what training did to the tasks' kernels.

  kernels RUN      intra-task and inter-task kernels at every checkpoint, summary.json and figures in RUN/analysis
  gaps RUN         task-interplay and task-specific gap of each task, theory beside the network, in gaps.json
  forecast RUN     what each task made the network forget, said before it happened; --new-data: what would come next
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
    (index, count), method = options.request.part, options.request.method
    if count > 1:
        again = f"ntk-analysis kernels {options.run}{'' if method == 'ntkcl' else f' --method {method}'} --resume"
        print(f"part {index} of {count} is done; when all are: {again}")
        return
    from analysis.store import analysis_folder

    home = analysis_folder(options.run, method)
    print(f"{table(made)}\n\nsummary   {home / 'summary.json'}\npictures  {home / 'figures'}")


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
    from analysis.studies.gaps import compute_gaps, gaps_table

    made = compute_gaps(options.run, options.request, quiet=options.quiet or options.json)
    path = options.run / "analysis" / "gaps.json"
    print(json.dumps(made) if options.json else f"{gaps_table(made)}\n\ngaps      {path}")


def forecast(args: list[str]) -> None:
    """Forecast forgetting."""
    from analysis.options import Forecast
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Forecast, "ntk-analysis forecast", args)
    from analysis.studies.forecast import compute_forecast, forecast_file, told

    made = compute_forecast(options.run, options.request, quiet=options.quiet or options.json)
    file = forecast_file(options.run, options.request)
    print(json.dumps(made) if options.json else f"{told(made)}\n\nforecast  {file}")


def report(args: list[str]) -> None:
    """Write the report."""
    from analysis.options import Report
    from ntkcl_jax.terminal.parsing import parse

    options = parse(Report, "ntk-analysis report", args)
    from analysis.report import write_report

    print(f"report    {write_report(options.runs, options.out)}")


def table(summary: dict[str, Any]) -> str:
    """One line for each seed and checkpoint: means over tasks and pairs of tasks.

    Example:
        >>> figures = {"inter_intra_ratio": [[1.0, 0.5], [0.5, 1.0]], "unrelated_ratio": [[1.0, 0.1], [0.1, 1.0]],
        ...            "effective_dimension": [3.0, 5.0], "target_alignment": [0.1, 0.3], "drift": [None, None]}
        >>> print(table({"seeds": {"0": {"checkpoints": {"0": figures}}}}))
        seed  checkpoint  inter/intra  if unrelated  effective dimension  target alignment   drift
        0     0                 0.500         0.100                  4.0             0.200       –
    """
    lines = ["seed  checkpoint  inter/intra  if unrelated  effective dimension  target alignment   drift"]
    for seed, part in summary["seeds"].items():
        for number, figures in part["checkpoints"].items():
            ratio, unrelated = (_mean_of_pairs(figures[n]) for n in ("inter_intra_ratio", "unrelated_ratio"))
            drift = [value for value in figures["drift"] if value is not None]
            lines.append(
                f"{seed:<5} {number:<10} {ratio:>12} {unrelated:>13} {_mean(figures['effective_dimension']):>20.1f} "
                f"{_mean(figures['target_alignment']):>17.3f} {f'{_mean(drift):.3f}' if drift else '–':>7}"
            )
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _mean_of_pairs(matrix: list[list[float]]) -> str:
    pairs = [value for t, row in enumerate(matrix) for value in row[t + 1 :]]
    return f"{_mean(pairs):.3f}" if pairs else "–"


NTK_ANALYSIS = Program(
    name="ntk-analysis",
    usage=USAGE,
    commands={"kernels": kernels, "gaps": gaps, "forecast": forecast, "report": report},
    resumable=("kernels",),
    errors=(AnalysisError, NtkclError),
    smaller="use fewer images (--per-task) or a machine with more memory",
)


def main() -> None:
    """Entry point of the `ntk-analysis` script."""
    NTK_ANALYSIS.main()


if __name__ == "__main__":
    main()
