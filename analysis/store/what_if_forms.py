"""The form of `what_if.json`, what other learning rates would have done, as classes.

Accuracies are fractions from 0 to 1, losses half squared errors of centred scores. A file may hold more than is named.
"""

from typing import ClassVar

from analysis.store.forms import Form, Matrix, Number, Numbers, check_shape
from analysis.store.study_forms import STUDY_FORMAT, Positive, Study


class Outcome(Form, frozen=True, kw_only=True):
    """What training on later tasks left, mean over them.

    Attributes:
        accuracy: of the test images of all tasks seen, among all classes seen.
        old_accuracy: of the earlier tasks'.
        new_accuracy: of the new task's.
        old_loss_change: of the earlier tasks', against a rate of zero.
        new_loss_change: of the new task's.
    """

    accuracy: Number
    old_accuracy: Number
    new_accuracy: Number
    old_loss_change: Number
    new_loss_change: Number


class Outcomes(Form, frozen=True, kw_only=True):
    """The same at every point of a grid, rates x epochs; null where training diverges.

    Attributes:
        accuracy: as in `Outcome`.
        old_accuracy: likewise.
        new_accuracy: likewise.
        old_loss_change: likewise.
        new_loss_change: likewise.
    """

    accuracy: Matrix
    old_accuracy: Matrix
    new_accuracy: Matrix
    old_loss_change: Matrix
    new_loss_change: Matrix


class Ends(Form, frozen=True, kw_only=True):
    """The same at each rate, where the whole run would have ended; null where training diverges.

    Attributes:
        accuracy: as in `Outcome`.
        old_accuracy: likewise.
        new_accuracy: of the last task.
    """

    accuracy: Numbers
    old_accuracy: Numbers
    new_accuracy: Numbers


class WhatIfMean(Form, frozen=True, kw_only=True):
    """Means over later tasks and seeds.

    Attributes:
        points: of every rate and number of epochs.
        spared: the same without the directions that old tasks feel most.
        measured: what the run's own training left.
    """

    points: Outcomes
    spared: Outcomes
    measured: Outcome


class Point(Form, frozen=True, kw_only=True):
    """A way to train later tasks.

    Attributes:
        rate: initial learning rate.
        epochs: passes over a task's images.
    """

    rate: float
    epochs: Positive


class BestPoint(Point, frozen=True, kw_only=True):
    """The point of the highest accuracy.

    Attributes:
        accuracy: expected there.
        own_accuracy: at the run's own point.
        gain: over the run's own point.
        error: standard error of the gain.
        told: whether the gain is more than noise.
    """

    accuracy: float
    own_accuracy: float
    gain: float
    error: float
    told: bool


class WhatIfFile(Study, frozen=True, kw_only=True):
    """`what_if.json`.

    Attributes:
        format: `STUDY_FORMAT`.
        rates: of the grid, ascending from 0.
        epochs: of the grid, ascending.
        own: the run's own point.
        directions: how many `spared` leaves out.
        mean: over later tasks and seeds.
        best: point, of one later task at a time.
        end: of the whole run, mean over seeds.
        best_course: the same had all later tasks been trained at that rate.
        reliable: whether the run was linear enough for sizes to be believed.
        first_order_error: relative, of the run's own step.
        kernel_drift: mean relative change of old tasks' kernels.
    """

    version: ClassVar[int] = STUDY_FORMAT
    format: int
    rates: tuple[float, ...]
    epochs: tuple[Positive, ...]
    own: Point
    directions: int
    mean: WhatIfMean
    best: BestPoint
    end: Ends
    best_course: BestPoint
    reliable: bool
    first_order_error: Number = None
    kernel_drift: Number = None

    def __post_init__(self) -> None:
        """Check what types can't say."""
        for point in (self.own, self.best, self.best_course):
            if point.rate not in self.rates or point.epochs not in self.epochs:
                raise ValueError("own, best and best_course: expected points of the grid")
        for number in Ends.__struct_fields__:
            check_shape(f"end.{number}", getattr(self.end, number), len(self.rates))
        for name in ("points", "spared"):
            for number in Outcome.__struct_fields__:
                values = getattr(getattr(self.mean, name), number)
                check_shape(f"mean.{name}.{number}", values, len(self.rates), len(self.epochs))
