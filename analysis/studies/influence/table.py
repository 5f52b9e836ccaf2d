"""Influences for people: the table of later tasks, and what it says in plain words."""

from collections.abc import Mapping
from typing import Any

from analysis.measures.error_bars import is_told

WEAK = 0.5
"""Correlation of forecast and measured changes over images below which single pairs aren't to be believed."""


def told(made: Mapping[str, Any]) -> str:
    """The table and the sentences below it."""
    return f"{table(made)}\n\n{verdict(made)}"


def table(made: Mapping[str, Any]) -> str:
    """One line for each seed and later task, counted from 1.

    Losses are means over old test images; the correlation is that of their forecast and measured changes.

    Example:
        >>> part = {"task": 1, "images": 300, "old_images": 60, "forgotten": 4, "learned": 1, "loss_change": 0.02,
        ...         "error": 0.004, "forecast": 0.03, "by_images": 0.025, "by_mean": 0.0, "rest": 0.005,
        ...         "correlation": 0.9}
        >>> print(table({"seeds": {"0": {"by_task": [part]}}}))
        seed  task  images  forgotten  learned  loss change measured  forecast  by images  by mean     rest   corr.
        0     2         60          4        1     +0.0200 ± 0.0040   +0.0300    +0.0250  +0.0000  +0.0050    0.90
    """
    lines = [
        "seed  task  images  forgotten  learned  loss change measured  forecast  by images  by mean     rest   corr."
    ]
    for seed, part in made["seeds"].items():
        for one in part["by_task"]:
            measured = f"{one['loss_change']:+.4f} ± {one['error']:.4f}"
            known = one["correlation"]
            lines.append(
                f"{seed:<5} {one['task'] + 1:<4} {one['old_images']:>7} {one['forgotten']:>10} {one['learned']:>8} "
                f"{measured:>20} {one['forecast']:>+10.4f} {one['by_images']:>+10.4f} {one['by_mean']:>+8.4f} "
                f"{one['rest']:>+8.4f} {'–' if known is None else format(known, '.2f'):>7}"
            )
    return "\n".join(lines)


def verdict(made: Mapping[str, Any]) -> str:
    """Which task cost most, which classes did it, whether to believe single pairs, and where the pairs are."""
    every = [one for part in made["seeds"].values() for one in part["by_task"]]
    lines = [worst(every), doubt(every)]
    return "\n".join(filter(None, lines))


def worst(every: list[Mapping[str, Any]]) -> str:
    """The later task that raised old losses most, if any did beyond noise, and how much of it few images bring.

    Example:
        >>> one = {"task": 1, "images": 40, "loss_change": 0.02, "error": 0.004, "by_image": [0.002] * 10 + [0.0] * 30}
        >>> print(worst([one]))
        Task 2 raised old images' loss most, by +0.0200 ± 0.0040 a test image. To first order, the 5 % of its training
        images that push it up most bring +0.0040, all of them together +0.0200.
        >>> worst([one | {"error": 0.02}])
        'No later task raised old test images’ loss beyond noise.'
    """
    most = max(every, key=lambda one: one["loss_change"])
    if most["loss_change"] <= 0 or not is_told(most["loss_change"], most["error"]):
        return "No later task raised old test images’ loss beyond noise."
    few = sorted(most["by_image"], reverse=True)[: max(1, most["images"] // 20)]
    return (
        f"Task {most['task'] + 1} raised old images' loss most, by {most['loss_change']:+.4f} ± {most['error']:.4f} a "
        f"test image. To first order, the 5 % of its training\nimages that push it up most bring {sum(few):+.4f}, all "
        f"of them together {sum(most['by_image']):+.4f}."
    )


def doubt(every: list[Mapping[str, Any]]) -> str:
    """Why single pairs aren't to be believed; "" where nothing speaks against them.

    Example:
        >>> doubt([{"task": 1, "correlation": 0.2, "rest": 0.0, "forecast": 1.0, "by_images": 1.0}])
        'Mistrust single pairs of task 2: forecast and measured changes of images correlate at 0.20 only.'
        >>> doubt([{"task": 1, "correlation": 0.9, "rest": 0.0, "forecast": 1.0, "by_images": 1.0}])
        ''
    """
    lines = [
        f"Mistrust single pairs of task {one['task'] + 1}: forecast and measured changes of images correlate at "
        f"{one['correlation']:.2f} only."
        for one in every
        if one["correlation"] is not None and one["correlation"] < WEAK
    ]
    lines += [
        f"In task {one['task'] + 1} crops, dropout and the pull to the start bring {one['rest']:+.4f} of "
        f"{one['forecast']:+.4f}: more than the images as they are seen without crops ({one['by_images']:+.4f})."
        for one in every
        if abs(one["rest"]) > abs(one["by_images"])
    ]
    return "\n".join(lines)
