"""What was measured, as tables: later tasks without some images, and the run's step kept off some old losses."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from experiments.commands import Record, commit_of
from experiments.sweep.tables import markdown
from ntkcl_jax.errors import ConfigError

SAME: Record = dict.fromkeys(("seed", "tasks", "command", "commit", "versions"))
"""What may differ between the seeds of a table."""
RULES = {"cholesky": "pivoted Cholesky", "influence": "largest influence", "random": "random"}
"""Ways to choose a coreset, and what tables call them."""
NUMBERS = ("old_loss", "old_accuracy", "new_loss", "new_accuracy")


def error(values: Float[np.ndarray, "n"]) -> float:
    """Standard error of a mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def means(task: Record, way: str) -> dict[str, float]:
    """What a way leaves of a task, mean over its draws."""
    found = task[way] if isinstance(task[way], list) else [task[way]]
    return {name: float(np.mean([one[name] for one in found])) for name in NUMBERS}


def differences(tasks: Sequence[Record], way: str, other: str, name: str) -> Float[np.ndarray, "tasks"]:
    """A way's number minus another's, task by task."""
    return np.array([means(task, way)[name] - means(task, other)[name] for task in tasks])


def told(values: Float[np.ndarray, "n"], digits: int, factor: float = 1.0) -> str:
    """Mean ± standard error over later tasks.

    Example:
        >>> told(np.array([0.01, 0.03]), digits=1, factor=100)
        '+2.0 ± 1.0'
    """
    return f"{factor * values.mean():+.{digits}f} ± {factor * error(values):.{digits}f}"


def left_out(tasks: Sequence[Record]) -> str:
    """Later tasks trained again without some images, each beside the mean of the random choices."""
    rows = []
    for way, title in (("all", "none"), ("helpful", "those that help most"), ("harmful", "those that harm most")):
        expected = np.array([-task["expected"][way] for task in tasks]) if way != "all" else np.zeros(len(tasks))
        rows.append([
            title,
            told(differences(tasks, way, "before", "old_loss"), 4),
            told(differences(tasks, way, "random", "old_loss"), 4),
            told(expected, 4) if way != "all" else "–",
            told(differences(tasks, way, "random", "old_accuracy"), 2, 100),
            told(differences(tasks, way, "random", "new_loss"), 4),
            told(differences(tasks, way, "random", "new_accuracy"), 2, 100),
            f"{sum(differences(tasks, way, 'random', 'old_loss') < 0)} of {len(tasks)}",
        ])  # fmt: skip
    random = [
        "at random",
        told(differences(tasks, "random", "before", "old_loss"), 4),
        f"one draw: ± {np.mean([np.std([one['old_loss'] for one in task['random']], ddof=1) for task in tasks]):.4f}",
        *["–"] * 5,
    ]
    head = [
        "left out", "old loss, change by the task", "against random", "influence says", "old accuracy, points",
        "new loss", "new accuracy, points", "old loss below random",
    ]  # fmt: skip
    return markdown(head, [*rows, random])


def remembered(tasks: Sequence[Record]) -> str:
    """The run's step kept off the losses of remembered images."""
    flat = [{**task, **{f"kept {rule}": task["kept"][rule] for rule in RULES}} for task in tasks]
    rows = [
        [
            title,
            *(
                told(differences(flat, way, "before", name), digits, factor)
                for name, digits, factor in (("old_loss", 4, 1), ("old_accuracy", 2, 100), ("new_loss", 4, 1),
                                             ("new_accuracy", 2, 100))
            ),
            "–" if way in ("all", "kept random") else told(differences(flat, way, "kept random", "old_loss"), 4),
        ]
        for way, title in (("all", "none"), *((f"kept {rule}", title) for rule, title in RULES.items()))
    ]  # fmt: skip
    head = [
        "remembered", "old loss, change by the step", "old accuracy, points", "new loss", "new accuracy, points",
        "old loss against random",
    ]  # fmt: skip
    return markdown(head, rows)


def page(known: Mapping[str, Record]) -> str:
    """What a page says of all streams.

    Raises:
        ConfigError: seeds of one stream that were measured differently.
    """
    parts = ["## Whether influence is real\n"]
    for stream in dict.fromkeys(record["stream"] for record in known.values()):
        every = [record for record in known.values() if record["stream"] == stream]
        record, tasks = every[0], [task for one in every for task in one["tasks"]]
        if any({**one, **SAME} != {**record, **SAME} for one in every):
            raise ConfigError(f"the seeds of {stream} were measured with different settings; measure all of them again")
        settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
        correlations = np.array([task["correlation"] for task in tasks], float)
        ratio = np.array([task["by_images"] / task["forecast"] for task in tasks])
        size = np.array([task["forecast"] / task["measured"] for task in tasks])
        parts.append(
            f"`{' '.join(record['command'])}`, commit {commit_of(record)}: {stream} ({settings}), "
            f"{len(every)} seeds, {len(tasks)} later tasks. Influences are of {record['probes']} test images of each "
            "old task, everything measured is of the others; losses are half squared errors of centred scores with the "
            "prototypes that the run ended with. Mean ± standard error over later tasks.\n\n"
            f"Forecast and measured loss changes correlate over a task's old test images at "
            f"{correlations.mean():.2f} ({correlations.min():.2f} to {correlations.max():.2f}); the forecast is "
            f"{np.median(size):.2f} times what was measured (median; {size.min():.2f} to {size.max():.2f}), "
            f"and the images as they are seen without crops bring {np.median(ratio):.0%} of it (median; "
            f"{ratio.min():.0%} to {ratio.max():.0%}).\n\n"
            f"**Without {record['share']:.0%} of a later task's images** ({record['draws']} random choices a task):\n\n"
            f"{left_out(tasks)}\n"
            f"**Keeping the step off {record['remember']} remembered old images' losses** (of 40 a task; not replay, "
            f"which the trainer has none of):\n\n{remembered(tasks)}"
        )
    return "\n".join(parts)
