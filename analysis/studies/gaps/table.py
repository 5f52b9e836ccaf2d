"""Gaps as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

GROUPS = f"{'':10}   {'squared error, theory':^35}   {'squared error, network':^35}   {'loss on unseen images':^33}"
PARTS = f"{'own':>8} {'interplay':>9} {'cross':>8} {'total':>7}"
HEAD = f"seed  task   {PARTS}   {PARTS}   {'theory':>7} {'LOO':>7} {'network':>8} {'bound':>8}"


def table(made: Mapping[str, Any]) -> str:
    """One line for each seed and task: the split of its final squared error, and its loss just after it was learnt.

    Below, what has to be known of ridges that aren't what was asked for.

    Args:
        made: what `compute_gaps` returns.

    Example:
        >>> part = {"task_specific": 0.1, "interplay": {"1": 0.04}, "cross": {"own": {"1": -0.02}, "between": {}},
        ...         "total": 0.12, "learned_test_loss": 0.07}
        >>> entry = {**part, "task": 0, "network": part, "loo": 0.065, "bound": {"value": 3.2}, "ridge_note": ""}
        >>> line = table({"seeds": {"0": {"by_task": [entry]}}}).splitlines()[-1].split()
        >>> line[:5], line[-4:]
        (['0', '1', '0.1000', '0.0400', '-0.0200'], ['0.0700', '0.0650', '0.0700', '3.200'])
    """
    lines = [GROUPS, HEAD]
    for seed, part in made["seeds"].items():
        for entry in part["by_task"]:
            network = entry["network"]
            unseen = f"{entry['learned_test_loss']:>7.4f} {entry['loo']:>7.4f} {network['learned_test_loss']:>8.4f}"
            lines.append(
                f"{seed:<5} {entry['task'] + 1:<5}  {_split(entry)}   {_split(network)}   {unseen} "
                f"{entry['bound']['value']:>8.3f}"
            )
    return "\n".join([*lines, *ridge_notes(made)])


def ridge_notes(made: Mapping[str, Any]) -> list[str]:
    """What `gaps.json` notes of ridges, a line for each seed and task that has a note, after an empty one.

    Example:
        >>> entries = [{"task": 0, "ridge_note": ""}, {"task": 1, "ridge_note": "it stays"}]
        >>> ridge_notes({"seeds": {"0": {"by_task": entries}}})
        ['', 'Ridge of seed 0, task 2: it stays.']
    """
    lines = [
        f"Ridge of seed {seed}, task {entry['task'] + 1}: {entry['ridge_note']}."
        for seed, part in made["seeds"].items()
        for entry in part["by_task"]
        if entry["ridge_note"]
    ]
    return ["", *lines] if lines else []


def _split(part: Mapping[str, Any]) -> str:
    cross = sum(part["cross"]["own"].values()) + sum(part["cross"]["between"].values())
    interplay = sum(part["interplay"].values())
    return f"{part['task_specific']:>8.4f} {interplay:>9.4f} {cross:>8.4f} {part['total']:>7.4f}"
