"""Kernels of a run in the memory that there is; where one doesn't fit, how many images of a task would."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from analysis.errors import PlanError, TooLargeError
from analysis.kernels import tiled
from analysis.kernels.empirical import default_precision, empirical_ntk
from analysis.kernels.functions import ApplyFn, Params
from analysis.kernels.planner import Plan, plan


def most_per_task(attempt: Callable[[int], object], asked: int, least: int = 1) -> int | None:
    """The most images of a task, fewer than asked for, that fit.

    Args:
        attempt: raises `TooLargeError` where so many images of each task don't fit; then more don't either.
        asked: how many don't.
        least: fewer mean nothing.

    Returns:
        None where not even `least` fit.

    Example:
        >>> def attempt(n):
        ...     if n * n > 30:
        ...         raise TooLargeError("much is needed", "take less")
        >>> most_per_task(attempt, 20), most_per_task(attempt, 20, least=6)
        (5, None)
    """

    def fits(n: int) -> bool:
        try:
            attempt(n)
        except TooLargeError:
            return False
        return True

    low, high = least - 1, asked
    # `low` fits (or is too few to be tried), `high` doesn't
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if low >= least else None


def explained(
    error: TooLargeError, attempt: Callable[[int], object], asked: int, least: int = 1, otherwise: str = ""
) -> PlanError:
    """Say what would fit.

    Args:
        error: why what was asked for doesn't.
        attempt: as for `most_per_task`.
        asked: images of each task.
        least: fewer mean nothing.
        otherwise: what else would do.

    Example:
        >>> def attempt(n):
        ...     if n > 3:
        ...         raise TooLargeError("8 GB are needed, 4 GB may be used", "take less")
        >>> print(explained(TooLargeError("8 GB are needed, 4 GB may be used", ""), attempt, 20))
        8 GB are needed, 4 GB may be used: --per-task 3 fits
    """
    found = most_per_task(attempt, asked, least)
    said = f"not even --per-task {least} fits" if found is None else f"--per-task {found} fits"
    return PlanError(f"{error.facts}: {said}{f'; {otherwise}' if otherwise else ''}")


def planned(fn: ApplyFn, params: Params, images: Any, count: int) -> Plan:
    """How `empirical_ntk` would compute the full kernel of so many images like these.

    Raises:
        TooLargeError: memory doesn't suffice.
    """
    mesh = tiled.data_mesh(None)
    return plan(
        fn, params, images, count, way="tiled", precision=default_precision(),
        devices=1 if mesh is None else mesh.size, mesh=mesh,
    )  # fmt: skip


def planned_for(fn: ApplyFn, params: Params, images: Any, per_task: int, multiple: int = 1, least: int = 1) -> Plan:
    """The same of a multiple of the images of a task.

    Raises:
        PlanError: memory doesn't suffice; the message names a number of images of a task for which it does.
    """
    try:
        return planned(fn, params, images, multiple * per_task)
    except TooLargeError as error:
        raise explained(error, lambda n: planned(fn, params, images, multiple * n), per_task, least) from error


def kernel_of(
    fn: ApplyFn, params: Params, images: Float32[np.ndarray, "n h w c"], per_task: int, least: int = 1
) -> Float[np.ndarray, "n n k k"]:
    """Full kernel of images whose number is a multiple of the images of a task.

    Args:
        fn: scores.
        params: what to differentiate them by.
        images: all of them.
        per_task: images of a task.
        least: fewer mean nothing.

    Raises:
        PlanError: memory doesn't suffice; the message names a number of images of a task for which it does.
    """
    try:
        return empirical_ntk(fn, params, images)
    except TooLargeError as error:
        multiple = len(images) // per_task
        raise explained(error, lambda n: planned(fn, params, images, multiple * n), per_task, least) from error


def passes(rows: int, each: float) -> str:
    """A number of Jacobian rows, each computed so often.

    Example:
        >>> passes(2000, 1.0), passes(2000, 1.5)
        ('2,000', '3,000')
    """
    return f"{round(rows * each):,}"
