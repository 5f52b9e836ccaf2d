"""The form of `influence.json`, which new images made old ones worse, as classes.

Losses are half squared errors of centred scores of one image, tasks and positions count from 0; a position is a place
among the images of the image's own task and side. A file may hold more than is named.
"""

import base64
from typing import Annotated, ClassVar

from msgspec import Meta

from analysis.store.form import Count, Form, Index, Matrix, Number, check_shape
from analysis.store.study_forms import STUDY_FORMAT, Positive, Study

MOST_SIDE = 256
"""Pixels of a thumbnail's side beyond which a file isn't believed."""
Pixels = Annotated[str, Meta(max_length=4 * MOST_SIDE**2)]
"""Red, green and blue bytes of a square image, row by row, in base64."""


def side_of(pixels: str) -> int:
    """Side of a thumbnail.

    Raises:
        ValueError: no square image.

    Example:
        >>> side_of(base64.b64encode(bytes(12)).decode())
        2
    """
    try:
        found = len(base64.b64decode(pixels, validate=True))
    except ValueError as error:
        raise ValueError(f"pixels: expected base64 ({error})") from None
    side = round((found / 3) ** 0.5)
    if side < 1 or 3 * side * side != found:
        raise ValueError(f"pixels: expected the bytes of a square image in base64, got {found} bytes")
    return side


class Pushing(Form, frozen=True, kw_only=True):
    """A new training image beside an old test image.

    Attributes:
        position: of the new image.
        label: its class, in the run's numbering.
        influence: by how much it changes the old image's loss, to first order.
        pixels: the new image.
    """

    position: Index
    label: Index
    influence: float
    pixels: Pixels


class Harmed(Form, frozen=True, kw_only=True):
    """An old test image that a later task made worse.

    Attributes:
        task: the later task.
        old: the image's own task.
        position: of the image.
        label: its class.
        named: the class that it is taken for after the later task.
        forgotten: it was named right before the later task and wrongly after it.
        loss_change: measured.
        forecast: to first order, whole.
        by_images: the part of `forecast` that the new images bring.
        harmful: new images that push its loss up most, the strongest first.
        helpful: new images that push it down most.
        pixels: the image.
    """

    task: Index
    old: Index
    position: Index
    label: Index
    named: Index
    forgotten: bool
    loss_change: float
    forecast: float
    by_images: float
    harmful: tuple[Pushing, ...]
    helpful: tuple[Pushing, ...]
    pixels: Pixels

    def __post_init__(self) -> None:
        """Check what types can't say."""
        for image in (self, *self.harmful, *self.helpful):
            side_of(image.pixels)


class ByClass(Form, frozen=True, kw_only=True):
    """Old classes by new ones.

    Attributes:
        old: the old classes.
        new: the new ones.
        interplay: mean squared change of an old image's centred scores by the new class's images.
        loss_change: mean first-order loss change.
    """

    old: tuple[Index, ...]
    new: tuple[Index, ...]
    interplay: Matrix
    loss_change: Matrix

    def __post_init__(self) -> None:
        """Check what types can't say."""
        check_shape("interplay", self.interplay, len(self.old), len(self.new))
        check_shape("loss_change", self.loss_change, len(self.old), len(self.new))


class Chosen(Form, frozen=True, kw_only=True):
    """Old training images chosen by a rule.

    Attributes:
        left: mean first-order loss change of old test images, had the step left the chosen images' losses alone.
    """

    left: float


class Spread(Form, frozen=True, kw_only=True):
    """Of random choices.

    Attributes:
        mean: of `left`.
        deviation: sample standard deviation.
    """

    mean: float
    deviation: float


class Coreset(Form, frozen=True, kw_only=True):
    """Old training images that would be worth remembering.

    Attributes:
        candidates: how many were looked at.
        forecast: mean first-order loss change of old test images with none remembered.
        influence: those that the task harms most.
        cholesky: those whose loss gradients explain the others'.
        random: as many drawn at random.
    """

    candidates: Positive
    forecast: float
    influence: Chosen
    cholesky: Chosen
    random: Spread


class TaskInfluences(Form, frozen=True, kw_only=True):
    """A later task; losses are means over old test images.

    Attributes:
        task: its number.
        images: its training images.
        old_images: old test images.
        forgotten: of these, named right before it and wrongly after.
        learned: named wrongly before it and right after.
        loss_change: measured.
        error: standard error of `loss_change` over images.
        forecast: to first order.
        by_images: the part that the new images bring.
        by_mean: the part that the running mean's own move brings.
        rest: the remaining part.
        groups: parts by parameter group, which with `by_mean` add up to `forecast`.
        correlation: of forecast and measured loss changes over images; null where either doesn't vary.
        by_class: old classes by new ones.
        by_image: what each of its training images brings of `by_images`, in their order.
        coreset: what to remember.
    """

    task: Index
    images: Positive
    old_images: Positive
    forgotten: Count
    learned: Count
    loss_change: float
    error: float
    forecast: float
    by_images: float
    by_mean: float
    rest: float
    groups: dict[str, float]
    by_class: ByClass
    by_image: tuple[float, ...]
    coreset: Coreset
    correlation: Number = None

    def __post_init__(self) -> None:
        """Check what types can't say."""
        check_shape("by_image", self.by_image, self.images)


class InfluenceSeed(Form, frozen=True, kw_only=True):
    """A seed.

    Attributes:
        tasks: all finished ones.
        names: theirs.
        by_task: later tasks in order.
        harmed: the old test images that were made worst.
    """

    tasks: tuple[Index, ...]
    names: tuple[str, ...]
    by_task: tuple[TaskInfluences, ...]
    harmed: tuple[Harmed, ...]


class InfluenceFile(Study, frozen=True, kw_only=True):
    """`influence.json`.

    Attributes:
        format: `STUDY_FORMAT`.
        coreset_size: images that each rule chooses.
        seeds: by seed.
    """

    version: ClassVar[int] = STUDY_FORMAT
    format: int
    coreset_size: Positive
    seeds: dict[Index, InfluenceSeed]

    @property
    def first_seed(self) -> tuple[int, InfluenceSeed]:
        """The first seed and what was found of it."""
        return next(iter(self.seeds.items()))

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.seeds:
            raise ValueError("seeds: expected at least one")
