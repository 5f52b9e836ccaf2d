"""Which old training images would be worth remembering before a later task, by kernels of the checkpoint before it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from analysis.records.probes import Probes
from analysis.studies.influence.look import TaskInfluence
from analysis.theory.influence import kept_off, pivoted_cholesky
from ntkcl_jax.seeds import stream_seed

DRAWS = 20
"""Random choices that the others are compared with."""


def chosen_by(made: TaskInfluence, most: int) -> dict[str, Int[np.ndarray, "k"]]:
    """Places among the old training images, by rule: those that the task harms most, and those that explain the others.

    Args:
        made: of a later task.
        most: k.
    """
    m = len(made.forecast)
    return {
        "influence": np.argsort(-made.influence[m:].sum(axis=1), kind="stable")[:most],
        "cholesky": pivoted_cholesky(made.kernel[m:, m:], most),
    }


def random_choices(made: TaskInfluence, most: int, seed: int) -> list[Int[np.ndarray, "k"]]:
    """As many old training images, drawn at random."""
    count = len(made.train_forecast)
    rng = np.random.default_rng(stream_seed(seed, "coreset", made.task))
    return [rng.choice(count, min(most, count), replace=False) for _ in range(DRAWS)]


def left(made: TaskInfluence, chosen: Int[np.ndarray, "k"]) -> float:
    """Mean first-order loss change of old test images, had the step left the chosen images' losses alone."""
    m = len(made.forecast)
    at = m + chosen
    kept = kept_off(
        made.kernel[np.ix_(at, at)], made.kernel[:m, at], made.forecast, made.train_forecast[chosen]
    )  # fmt: skip
    return float(kept.mean())


def coreset_json(made: TaskInfluence, remembered: Probes, most: int, seed: int) -> dict[str, Any]:
    """What the file says of the choices: which images, and what old test images would still lose to first order."""
    task_of = np.repeat(remembered.tasks, np.diff(remembered.offsets))
    images: Callable[[np.ndarray], list[dict[str, int]]] = lambda chosen: [  # noqa: E731
        {"task": int(task_of[i]), "position": int(remembered.positions[i]), "label": int(remembered.labels[i])}
        for i in chosen
    ]
    drawn = [left(made, chosen) for chosen in random_choices(made, most, seed)]
    return {
        "candidates": len(remembered.labels),
        "forecast": float(made.forecast.mean()),
        "random": {"mean": float(np.mean(drawn)), "deviation": float(np.std(drawn, ddof=1))},
        **{
            rule: {"left": left(made, chosen), "images": images(chosen)}
            for rule, chosen in chosen_by(made, most).items()
        },
    }
