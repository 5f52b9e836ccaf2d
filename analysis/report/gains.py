"""Differences of accuracies with their standard errors: what the report may call a gain, a loss or a cost.

With several seeds the error is that of their spread, and never less than what the number of test images alone gives.
Where a run is of a version that kept no answers to single images, their number is that of `config.json`, as if every
class had equally many.
"""

from dataclasses import dataclass

from analysis.measures.error_bars import difference_error, is_told, of_mean, over_seeds
from analysis.report.reading import RunFiles, floats, known
from analysis.store.forms import MethodResults


@dataclass(frozen=True)
class Difference:
    """Of two accuracies.

    Attributes:
        value: fraction, from -1 to 1.
        error: its standard error; None where neither the number of images nor several seeds are known.
    """

    value: float
    error: float | None

    @property
    def told(self) -> bool:
        """Whether it is larger than what chance explains; an error that isn't known tells nothing."""
        return self.error is not None and is_told(self.value, self.error)


def images_of(files: RunFiles, made: MethodResults, tasks: slice) -> float | None:
    """Test images of some tasks; None where they aren't recorded."""
    if made.lost is not None:
        return sum(made.lost.test_images[tasks])
    data, scenarios = files.config.data, list(files.config.scenarios.values())
    if not data.test_images or not scenarios:
        return None
    return data.test_images * sum(scenarios[0].task_sizes[tasks]) / len(data.class_names) or None


def gain(files: RunFiles, method: str, other: str) -> Difference | None:
    """Final accuracy of a method less that of another one, on the same images; None without results of both."""
    if not files.results or not {method, other} <= files.results.summary.keys():
        return None
    first, second = (files.results.summary[name] for name in (method, other))
    images = images_of(files, first, slice(first.tasks))
    finals = first.final_accuracy.mean, second.final_accuracy.mean
    of_images = difference_error(*finals, images) if images else None
    by_seed = [
        (a.final_accuracy, b.final_accuracy)
        for one in files.results.seeds.values()
        if (a := one.get(method)) and (b := one.get(other))
    ]
    paired = [a - b for a, b in by_seed if a is not None and b is not None]
    return Difference(finals[0] - finals[1], over_seeds(paired, of_images))


def falls(files: RunFiles, method: str) -> list[Difference]:
    """Of each task how far its accuracy is below its best, means over seeds; the last row counts, so none is negative.

    Raises:
        KeyError: no results of that method.
    """
    assert files.results
    made = files.results.summary[method]
    matrix = floats(made.accuracy_matrix.mean)
    last = matrix[-1]
    found = []
    # From the diagonal down: above it a task isn't learned yet
    for t in range(len(last)):
        best, end = float(matrix[t:, t].max()), float(last[t])
        images = images_of(files, made, slice(t, t + 1))
        found.append(Difference(best - end, difference_error(best, end, images) if images else None))
    return found


def forgetting(files: RunFiles, method: str) -> Difference | None:
    """Mean over earlier tasks of what was lost between a task's best and the end; None for a single task."""
    made = files.results.summary[method] if files.results else None
    if not files.results or made is None or made.forgetting.mean is None:
        return None
    errors = known(fall.error for fall in falls(files, method)[:-1])
    by_seed = known(one[method].forgetting for one in files.results.seeds.values() if method in one)
    return Difference(made.forgetting.mean, over_seeds(by_seed, of_mean(errors) if errors else None))
