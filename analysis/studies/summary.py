"""What kernels say across tasks and checkpoints: numbers of `RUN/analysis/summary.json` (docs/theory.md, section 4)."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis import measures
from analysis.errors import FunctionError
from analysis.measures import Checkpoint, Measure
from analysis.measures.measure import over_tasks

SPECTRUM_LENGTH = 64
"""Eigenvalues kept in the summary; the kernel itself has the others."""
WIDEST = 100
"""Signs of a line of the table; measures that don't fit go into another table below."""


def summarise(
    now: Checkpoint, before: Checkpoint | None = None, chosen: Mapping[str, Measure] | None = None
) -> dict[str, Any]:
    """All figures of one checkpoint.

    Args:
        now: its kernel.
        before: the previous checkpoint's, of the same images; None for the first.
        chosen: measures by name; all that there are when None.

    Returns:
        Every measure's values by its name (docs/measures.md): T numbers, or T x T for pairs of tasks; None where a
        measure has no meaning. Per task `spectrum`, the largest eigenvalues, descending; `stream_alignment`, the
        centred alignment of all tasks' images at once; per group what `group_figures` says.

    Raises:
        FunctionError: a kernel that isn't symmetric, or a task without any gradient.
        MeasureError: a measure of an installed package can't be used.
    """
    found = measures.by_name() if chosen is None else chosen
    return {
        **{name: measure.values(now, before) for name, measure in found.items()},
        "spectrum": [values[:SPECTRUM_LENGTH].tolist() for values in now.spectra],
        "stream_alignment": aligned(now.samples, now.labels),
        "groups": {name: group_figures(part, now) for name, part in now.groups.items()},
    }


def group_figures(part: Float[np.ndarray, "n n *k"], now: Checkpoint) -> dict[str, Any]:
    """What a parameter group's part of the kernel says by itself.

    Returns:
        `share` of each task's trace, `inter_intra_ratio` (None without any gradient), each task's
        `centred_target_alignment`, and `stream_alignment`, that of all tasks' images at once.
    """
    matrix, samples = measures.matrix_of(part), measures.sample_kernel(part)
    share = [float(np.trace(matrix[s, s]) / np.trace(now.matrix[s, s])) for s in now.rows]
    ratio = None
    # Without a gradient on some task the ratio would be 0/0
    if min(share) > 0:
        ratio = measures.task_grid(matrix, [offset * now.outputs for offset in now.offsets]).inter_intra_ratio.tolist()
    return {
        "share": share,
        "inter_intra_ratio": ratio,
        "centred_target_alignment": [aligned(samples[s, s], now.labels[s]) for s in now.images],
        "stream_alignment": aligned(samples, now.labels),
    }


def too_few(labels: Int[np.ndarray, "n"], offsets: Sequence[int], tasks: Sequence[int]) -> list[int]:
    """Tasks of whose images no two are of one class, so that nothing tells how alike images of a class are.

    Alignment then compares a kernel with the identity, and a second sample of the task would be one of other classes.

    Example:
        >>> too_few(np.array([0, 1, 2, 2]), (0, 2, 4), (3, 5))
        [3]
    """
    parts = zip(tasks, itertools.pairwise(offsets), strict=True)
    return [task for task, (start, stop) in parts if len(np.unique(labels[start:stop])) == stop - start]


def notes(summary: Mapping[str, Any]) -> list[str]:
    r"""What has to be known beside the tables: to what drift is, and which tasks have too few probe images.

    Example:
        >>> seeds = {"0": {"too_few": [1], "checkpoints": {"0": {"compared_with": None}, "4": {"compared_with": 0}}}}
        >>> print("\n".join(notes({"per_task": 4, "seeds": seeds})))
        Drift of seed 0 is since the last computed checkpoint: 4 since 0.
        Seed 0, task 2: no two of the 4 probe images are of one class, so that target alignment and the ratio of a task
        to itself say nothing of classes; take twice as many images as a task has classes (--per-task).
    """
    told = []
    for seed, part in summary["seeds"].items():
        since = [(int(c), figures["compared_with"]) for c, figures in part["checkpoints"].items()]
        far = [f"{c} since {before}" for c, before in since if before is not None and before != c - 1]
        if far:
            told.append(f"Drift of seed {seed} is since the last computed checkpoint: {', '.join(far)}.")
        if part["too_few"]:
            tasks = ", ".join(str(task + 1) for task in part["too_few"])
            told.append(
                f"Seed {seed}, task{'s' * (len(part['too_few']) > 1)} {tasks}: no two of the {summary['per_task']} "
                "probe images are of one class, so that target alignment and the ratio of a task\nto itself say "
                "nothing of classes; take twice as many images as a task has classes (--per-task)."
            )
    return told


def aligned(samples: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> float | None:
    """Centred alignment of a kernel of images with their classes; None for one class, or a kernel that is constant.

    Example:
        >>> aligned(np.diag([2.0, 2.0]), np.array([0, 1])), aligned(np.ones((2, 2)), np.array([0, 1]))
        (1.0, None)
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    try:
        return measures.target_alignment(samples, measures.one_hot(labels, classes), centred=True)
    except FunctionError:  # nothing is left of it without its mean
        return None


def task_health(now: Checkpoint, kernel_health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Health of each task's intra-task kernel: the whole kernel's figures with the task's own smallest eigenvalue.

    Args:
        now: the checkpoint.
        kernel_health: what the gate found of the whole kernel.
    """
    return [{**kernel_health, "smallest_eigenvalue": float(values[0] / values[-1])} for values in now.eigenvalues]


def summary_table(summary: Mapping[str, Any], width: int = WIDEST) -> str:
    """The table that `ntk-analysis kernels` prints: a line for each seed and checkpoint, means over tasks or pairs.

    Args:
        summary: what `summary.json` holds.
        width: signs of a line; measures that don't fit follow in another table below.

    Returns:
        Its lines; of the measures that have a `column` and that the summary has values of.

    Raises:
        MeasureError: a measure of an installed package can't be used.

    Example:
        >>> figures = {"inter_intra_ratio": [[1.0, 0.5], [0.5, 1.0]], "unrelated_ratio": [[1.0, 0.1], [0.1, 1.0]],
        ...            "effective_dimension": [3.0, 5.0], "target_alignment": [0.1, 0.3], "drift": [None, None]}
        >>> print(summary_table({"seeds": {"0": {"checkpoints": {"0": figures}}}}))
        seed  checkpoint  inter/intra  if unrelated  effective dimension  target alignment   drift
        0     0                 0.500         0.100                  4.0             0.200       –
    """
    lines = [(seed, c, v) for seed, part in summary["seeds"].items() for c, v in part["checkpoints"].items()]
    left = [["seed".ljust(5), *(seed.ljust(5) for seed, _, _ in lines)],
            ["checkpoint", *(number.ljust(10) for _, number, _ in lines)]]  # fmt: skip
    tables = [left]
    for measure in measures.by_name().values():
        # A summary that was written before a package was installed lacks its measures
        if not measure.column or any(measure.name not in values for _, _, values in lines):
            continue
        means = [over_tasks(values[measure.name]) for _, _, values in lines]
        cells = [measure.column, *("–" if mean is None else f"{mean:.{measure.digits}f}" for mean in means)]
        column = [cell.rjust(1 + max(6, *map(len, cells))) for cell in cells]
        # A space between columns; a table has at least one measure beside its left side, however wide that is
        if sum(1 + len(column[0]) for column in [*tables[-1], column]) - 1 > width and len(tables[-1]) > len(left):
            tables.append(left)
        tables[-1] = [*tables[-1], column]
    return "\n\n".join("\n".join(" ".join(row) for row in zip(*table, strict=True)) for table in tables)


def readout_table(summary: Mapping[str, Any]) -> str:
    """What is said of a readout's kernels beside `summary_table`: its groups at the newest state, and what it chose.

    Args:
        summary: what `summary.json` holds.

    Returns:
        A line for each seed and feature map, and for all of them together; "" for a method that is no readout.

    Example:
        >>> group = {"share": [0.5, 0.5], "inter_intra_ratio": None, "centred_target_alignment": [0.25, None]}
        >>> figures = {"groups": {"F": {**group, "stream_alignment": 0.125}}, "stream_alignment": 0.25,
        ...            "inter_intra_ratio": [[1.0, 0.5], [0.5, 1.0]], "centred_target_alignment": [0.5, 0.5]}
        >>> chosen = {"says": "weights F 1", "ridge": 0.5, "copies": 4}
        >>> seeds = {"0": {"readout": chosen, "checkpoints": {"2": figures}}}
        >>> print(readout_table({"method": "multilevel", "seeds": seeds}))
        seed  map   share  alignment within tasks  over all tasks  inter/intra
        0     F     0.500                   0.250           0.125            –
        0     all   1.000                   0.500           0.250        0.500
        <BLANKLINE>
        seed 0 · multilevel: weights F 1
        <BLANKLINE>
        A readout keeps its newest state only: checkpoint 2. All 4 outputs have this kernel each.
    """
    of_readout = {seed: part for seed, part in summary["seeds"].items() if "readout" in part}
    if not of_readout:
        return ""
    rows: list[tuple[str, ...]] = [("seed", "map", "share", "alignment within tasks", "over all tasks", "inter/intra")]
    for seed, part in of_readout.items():
        last = part["checkpoints"][max(part["checkpoints"], key=int)]
        every: dict[str, Any] = {**last["groups"], "all": {**last, "share": [1.0]}}
        for name, figures in every.items():
            ratio = figures["inter_intra_ratio"]
            numbers = (
                over_tasks(figures["share"]), over_tasks(figures["centred_target_alignment"]),
                figures["stream_alignment"], None if ratio is None else over_tasks(ratio),
            )  # fmt: skip
            rows.append((seed, name, *("–" if number is None else f"{number:.3f}" for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]) for row in rows]
    said = [f"seed {seed} · {summary['method']}: {part['readout']['says']}" for seed, part in of_readout.items()
            if part["readout"]["says"]]  # fmt: skip
    newest = sorted({max(map(int, part["checkpoints"])) for part in of_readout.values()})
    copies = max(part["readout"]["copies"] for part in of_readout.values())
    note = (
        f"A readout keeps its newest state only: checkpoint {', '.join(map(str, newest))}. All {copies} outputs have "
        "this kernel each."
    )
    return "\n".join([*lines, "", *said, *[""][: len(said)], note])


def measures_csv(summary: Mapping[str, Any]) -> str:
    r"""The values of every measure, one a line: `measures.csv`. Tasks count from 1; no value where there is no meaning.

    Args:
        summary: what `summary.json` holds.

    Raises:
        MeasureError: a measure of an installed package can't be used.

    Example:
        >>> figures = {"overlap": [[1.0, 0.5], [0.5, 1.0]], "drift": [None, 0.25]}
        >>> print(measures_csv({"seeds": {"0": {"tasks": [0, 3], "checkpoints": {"1": figures}}}}), end="")
        seed,checkpoint,task,other_task,measure,value
        0,1,1,1,overlap,1.0
        0,1,1,4,overlap,0.5
        0,1,4,1,overlap,0.5
        0,1,4,4,overlap,1.0
        0,1,1,,drift,
        0,1,4,,drift,0.25
    """
    memory = io.StringIO(newline="")
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(["seed", "checkpoint", "task", "other_task", "measure", "value"])
    found = measures.by_name()
    for seed, part in summary["seeds"].items():
        tasks = [task + 1 for task in part["tasks"]]
        for number, figures in part["checkpoints"].items():
            # In the order of the measures, whatever the file's is
            for name in (name for name in found if name in figures):
                for task, value in zip(tasks, figures[name], strict=True):
                    pairs = zip(tasks, value, strict=True) if isinstance(value, list) else [("", value)]
                    writer.writerows([seed, number, task, other, name, one] for other, one in pairs)
    return memory.getvalue()
