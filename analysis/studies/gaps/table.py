"""Gaps as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

GROUPS = f"{'':10}   {'squared error, theory':^35}   {'squared error, network':^35}   {'loss on unseen images':^33}"
PARTS = f"{'own':>8} {'interplay':>9} {'cross':>8} {'total':>7}"
HEAD = f"seed  task   {PARTS}   {PARTS}   {'theory':>7} {'LOO':>7} {'network':>8} {'bound':>8}"


def table(made: Mapping[str, Any]) -> str:
    """One line for each seed and task: the split of its final squared error, and its loss just after it was learnt.

    Args:
        made: what `compute_gaps` returns.

    Example:
        >>> part = {"task_specific": 0.1, "interplay": {"1": 0.04}, "cross": {"own": {"1": -0.02}, "between": {}},
        ...         "total": 0.12, "learned_test_loss": 0.07}
        >>> entry = {**part, "task": 0, "network": part, "loo": 0.065, "bound": {"value": 3.2}}
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
    return "\n".join(lines)


def _split(part: Mapping[str, Any]) -> str:
    cross = sum(part["cross"]["own"].values()) + sum(part["cross"]["between"].values())
    interplay = sum(part["interplay"].values())
    return f"{part['task_specific']:>8.4f} {interplay:>9.4f} {cross:>8.4f} {part['total']:>7.4f}"
