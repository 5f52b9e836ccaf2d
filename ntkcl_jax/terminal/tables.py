"""Tables of a finished run, for a terminal or a Markdown page; percent and rounding happen here and nowhere earlier."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.terminal.budget import LEGEND, OLDER, budget_cells, is_older
from ntkcl_jax.terminal.progress import plain_text

_HEADLINES = (
    ("average", "average_incremental_accuracy"),
    ("final", "final_accuracy"),
    ("forgetting", "forgetting"),
    ("backward transfer", "backward_transfer"),
)
_MISSING = "–"


def accuracy_table(results: Mapping[str, Any], *, markdown: bool = False, width: int = 100) -> str:
    """Write the methods' accuracies of a run, in percent, as mean ± sample standard deviation over seeds.

    First what old tasks lost and to what (where there are two), then the headline numbers, then the accuracy on all
    classes seen after each task, broken over as many tables as `width` asks for, then the tasks' names.

    Args:
        results: what `results.json` holds: "summary" (method -> `metrics.aggregate`) and "task_names".
        markdown: write Markdown tables instead of aligned columns.
        width: columns of the terminal; a single column of numbers is never broken.

    Returns:
        The text, ending in a line end. A number that doesn't exist (forgetting of a single task) is a dash.

    Raises:
        RunFolderError: if `results` lacks a part.

    Example:
        >>> from ntkcl_jax.training.metrics import TaskEvaluation, aggregate, summarise
        >>> only = TaskEvaluation(task=0, images=(4,), correct=(3,), correct_task=4)
        >>> summary = aggregate([summarise([only])])
        >>> print(accuracy_table({"summary": {"ntkcl": summary}, "task_names": ["3 7"]}), end="")
        Accuracy on all classes seen, %
        method  average  final  forgetting  backward transfer  seeds
        ntkcl     75.00  75.00           –                  –      1
        <BLANKLINE>
        Accuracy after each task, %
        method  task 1
        ntkcl    75.00
        <BLANKLINE>
        Tasks: 1 = 3 7
    """
    summaries, task_names = summary_of(results)
    several = any(s["final_accuracy"]["n"] > 1 for s in summaries.values())
    spread = ", mean ± standard deviation over seeds" if several else ""
    methods = [["method", *(short_name(m, 24) for m in summaries)]]

    headline = [
        [title, *(percent(s[name]["mean"], s[name]["std"]) for s in summaries.values())] for title, name in _HEADLINES
    ]
    headline.append(["seeds", *(str(s["final_accuracy"]["n"]) for s in summaries.values())])
    # Methods of an unfinished run have come to different tasks
    tasks = max(len(s["accuracy_after_task"]["mean"]) for s in summaries.values())
    after = [[f"task {t + 1}", *(_after(s, t) for s in summaries.values())] for t in range(tasks)]

    write = _markdown if markdown else _aligned
    parts = _lost(summaries, several, markdown, width) if tasks > 1 else []
    parts += [f"Accuracy on all classes seen, %{spread}"]
    parts += [write(block) for block in _fit(methods, headline, width)]
    parts += ["", f"Accuracy after each task, %{spread}"]
    parts += [write(block) for block in _fit(methods, after, width)]
    names = "; ".join(f"{t} = {short_name(name, 40)}" for t, name in enumerate(task_names[:tasks], start=1))
    legend = f"Tasks: {names}"
    parts += ["", _markdown_text(legend)] if markdown else ["", *textwrap.wrap(legend, width)]
    if not markdown:
        return "\n".join(parts) + "\n"
    return "\n".join(_spaced(parts)) + "\n"


def _lost(summaries: Mapping[str, Any], several: bool, markdown: bool, width: int) -> list[str]:
    """What each method lost on old tasks, in columns that add up, and what the columns mean."""
    # Columns that belong together: never dealt over several tables, so that only long names make it wider
    cells = [budget_cells(summary, several=several) for summary in summaries.values()]
    columns = [["method", *(short_name(m, 24) for m in summaries)]]
    for head, column in zip(("lost", "= competition", "+ drift"), zip(*cells, strict=True), strict=True):
        columns.append([head, *column])
    legend = [LEGEND, *([OLDER] if any(map(is_older, summaries.values())) else [])]
    spread = "standard deviation over seeds" if several else "standard error over test images"
    return [
        f"Lost on old tasks since each was learned, points, mean over tasks ± {spread}",
        _markdown(columns) if markdown else _aligned(columns),
        *(_markdown_text(text) if markdown else textwrap.fill(text, width) for text in legend),
        "",
    ]


def summary_of(results: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take the parts of `results.json` that tables and figures need.

    Returns:
        Method -> aggregated metrics, in the file's order, and the tasks' names.

    Raises:
        RunFolderError: if a part is missing or empty.
    """
    summaries, names = results.get("summary"), results.get("task_names")
    if not isinstance(summaries, Mapping) or not summaries or not isinstance(names, Sequence):
        raise RunFolderError(
            f"expected results with a 'summary' of at least one method and 'task_names', got {sorted(results)}; "
            "finish the run or evaluate it again"
        )
    # All methods are checked before a line is written: an old file gives one message, no half table
    wanted = [name for _, name in _HEADLINES] + ["accuracy_after_task"]
    for method, summary in summaries.items():
        missing = [name for name in wanted if name not in summary]
        if missing:
            raise RunFolderError(f"expected {missing[0]} of method {method} in the results; evaluate the run again")
    return dict(summaries), [str(name) for name in names]


def percent(mean: float | None, std: float | None = None, digits: int = 2) -> str:
    """Write a fraction in percent, with its spread where there is one.

    Example:
        >>> percent(0.93764, 0.0035), percent(1.0), percent(None)
        ('93.76 ± 0.35', '100.00', '–')
    """
    if mean is None:
        return _MISSING
    shown = _fixed(100 * mean, digits)
    return shown if std is None else f"{shown} ± {_fixed(100 * std, digits)}"


def short_name(name: str, limit: int) -> str:
    """Make a name printable and at most `limit` characters long, losing its middle.

    Example:
        >>> short_name("a name that goes on and on", 12)
        'a name…nd on'
    """
    text = " ".join(plain_text(part) for part in str(name).split())
    if len(text) <= limit:
        return text
    # The ends tell more than the middle: numbered names differ at their end
    head = limit // 2
    tail = limit - head - 1
    return text[:head] + "…" + (text[-tail:] if tail else "")


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.00"


def _after(summary: Mapping[str, Any], task: int) -> str:
    after = summary["accuracy_after_task"]
    if task >= len(after["mean"]):  # this method hasn't come as far as another
        return _MISSING
    return percent(after["mean"][task], after["std"][task])


def _fit(fixed: list[list[str]], columns: list[list[str]], width: int) -> list[list[list[str]]]:
    """Deal columns (head first) over tables of at most `width` characters, each starting with the fixed ones."""
    blocks = [list(fixed)]
    for column in columns:
        # At least one column of numbers in each table, however narrow the terminal
        if len(blocks[-1]) > len(fixed) and _width([*blocks[-1], column]) > width:
            blocks.append(list(fixed))
        blocks[-1].append(column)
    return blocks


def _width(columns: list[list[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def _aligned(columns: list[list[str]]) -> str:
    padded = [
        [cell.ljust(max(map(len, column))) if i == 0 else cell.rjust(max(map(len, column))) for cell in column]
        for i, column in enumerate(columns)
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def _markdown(columns: list[list[str]]) -> str:
    head, *rows = ["| " + " | ".join(map(_markdown_text, row)) + " |" for row in zip(*columns, strict=True)]
    return "\n".join([head, "|" + "|".join(["---", *["---:"] * (len(columns) - 1)]) + "|", *rows])


def _markdown_text(text: str) -> str:
    """Take the meaning from every sign that Markdown or HTML reads."""
    return "".join("\\" + c if c in "\\`*_[]<>|#~$&" else c for c in text)


def _spaced(parts: list[str]) -> list[str]:
    """Empty lines around every table and paragraph, as Markdown needs, and none doubled."""
    filled = [part for part in parts if part]
    return [line for part in filled for line in (part, "")][:-1]
