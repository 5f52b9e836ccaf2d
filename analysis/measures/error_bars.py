"""Standard errors of accuracies and of their differences: what so many test images, or seeds, can tell apart."""

import math
import statistics
from collections.abc import Sequence

TOLD = 2.0
"""Standard errors that a difference has to exceed to be called a gain, a loss or a cost."""


def difference_error(first: float, second: float, images: float) -> float:
    """Standard error of the difference of two accuracies, where only they are known: as if of independent images.

    On the same images answers mostly agree, which makes the true error smaller, so it errs on the side of caution.

    Args:
        first: an accuracy.
        second: another.
        images: how many each is of.

    Example:
        >>> round(difference_error(0.9, 0.8, 100), 4), round(difference_error(0.9, 0.8, 10000), 4)
        (0.05, 0.005)
    """
    return math.sqrt((first * (1 - first) + second * (1 - second)) / images)


def of_mean(errors: Sequence[float]) -> float:
    """Standard error of a mean of independent numbers.

    Example:
        >>> of_mean([3.0, 4.0])
        2.5
    """
    return math.sqrt(sum(error**2 for error in errors)) / len(errors)


def over_seeds(values: Sequence[float], of_images: float | None) -> float | None:
    """Standard error of a mean over seeds: that of their spread, and no less than that of the images, which they share.

    Args:
        values: one for each seed.
        of_images: standard error of one of them; None where the number of images isn't known.

    Returns:
        None where neither is known.

    Example:
        >>> over_seeds([0.1, 0.3], 0.01).__round__(12), over_seeds([0.1, 0.1], 0.01), over_seeds([0.1], None)
        (0.1, 0.01, None)
    """
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return max((error for error in (spread, of_images) if error is not None), default=None)


def is_told(value: float, error: float) -> bool:
    """Whether a difference is larger than `TOLD` standard errors.

    Example:
        >>> is_told(-0.05, 0.02), is_told(0.03, 0.02), is_told(0.0, 0.0)
        (True, False, False)
    """
    return abs(value) > TOLD * error
