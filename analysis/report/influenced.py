"""The report's section on influence: pairs of images, old classes by new ones, and the numbers as tables."""

import base64
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from msgspec import to_builtins

from analysis.report.tables import Table, Value
from analysis.store.influence_forms import Harmed, InfluenceFile, TaskInfluences, side_of
from analysis.studies.influence.table import verdict
from ntkcl_jax.plots.style import COLOURS, GREY, label, style

SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS[0], "white", COLOURS[1]])
SHOWN = 6
"""Old images whose pairs are drawn."""
HARMFUL, HELPFUL = 5, 3
"""New images beside each."""
NAMED = 24
"""Classes up to which the ticks of the matrices name them."""


def pixels_of(text: str) -> UInt8[np.ndarray, "s s 3"]:
    """A thumbnail.

    Example:
        >>> pixels_of(base64.b64encode(bytes(range(12))).decode())[1, 0].tolist()
        [6, 7, 8]
    """
    side = side_of(text)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(side, side, 3)


def class_name(names: Sequence[str], number: int, limit: int = 12) -> str:
    """Name of a class, shortened, for a figure; its number where it has none."""
    return label(names[number], limit) if number < len(names) else str(number)


@style()
def images_figure(harmed: Sequence[Harmed], names: Sequence[str]) -> Figure:
    """Draw the most harmed old images, a row each, with the new images that pushed them most.

    Args:
        harmed: the most harmed ones first.
        names: of classes, in the run's numbering.
    """
    shown = harmed[:SHOWN]
    figure = Figure(figsize=(9.2, 1.3 * len(shown) + 0.4), layout="constrained")
    grid = figure.subplots(len(shown), 1 + HARMFUL + HELPFUL, squeeze=False)
    for row, one in zip(grid, shown, strict=True):
        what = "forgotten" if one.forgotten else "worse"
        _picture(
            row[0], one.pixels, f"{class_name(names, one.label)} → {class_name(names, one.named)}", "black",
            f"task {one.task + 1}: {what}\n{one.loss_change:+.3f}",
        )  # fmt: skip
        for pairs, places, colour in (
            (one.harmful, row[1 : 1 + HARMFUL], COLOURS[1]), (one.helpful, row[1 + HARMFUL :], COLOURS[0])
        ):  # fmt: skip
            for axes in places:
                axes.axis("off")
            for axes, pair in zip(places, pairs, strict=False):
                _picture(axes, pair.pixels, f"{class_name(names, pair.label)}\n{pair.influence:+.4f}", colour)
    for at, text, colour in (
        (0, "old image", "black"), (1, "new images that harmed", COLOURS[1]),
        (1 + HARMFUL, "that helped", COLOURS[0]),
    ):  # fmt: skip
        grid[0][at].set_title(text, fontsize=9, color=colour)
    return figure


def _picture(axes: Axes, pixels: str, below: str, colour: str, beside: str = "") -> None:
    axes.axis("on")
    axes.imshow(pixels_of(pixels), interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=1.4)
    axes.set_xlabel(below, fontsize=8)
    if beside:
        axes.set_ylabel(beside, fontsize=8, rotation=0, ha="right", va="center")


def matrix_of(
    by_task: Sequence[TaskInfluences], field: str
) -> tuple[list[int], list[int], Float[np.ndarray, "old new"]]:
    """Old classes by new ones of all later tasks; NaN where the old class came later than the new one.

    Args:
        by_task: later tasks.
        field: `interplay` or `loss_change`.
    """
    old = sorted({c for one in by_task for c in one.by_class.old})
    new = sorted({c for one in by_task for c in one.by_class.new})
    found = np.full((len(old), len(new)), np.nan)
    for one in by_task:
        places = np.ix_([old.index(c) for c in one.by_class.old], [new.index(c) for c in one.by_class.new])
        found[places] = np.array(getattr(one.by_class, field), float)
    return old, new, found


@style()
def classes_figure(by_task: Sequence[TaskInfluences], names: Sequence[str]) -> Figure:
    """Draw how far each new class moves each old one, and by how much it changes its loss.

    Args:
        by_task: later tasks.
        names: of classes, in the run's numbering.
    """
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    for axes, field, title, unit in zip(
        figure.subplots(1, 2),
        ("interplay", "loss_change"),
        ("how far scores move", "what it does to the loss"),
        ("squared change of an old image's scores", "first-order change of its loss"),
        strict=True,
    ):
        old, new, values = matrix_of(by_task, field)
        most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
        # As elsewhere: orange harms, blue helps
        signed = {"vmin": -most, "cmap": SIGNED} if field == "loss_change" else {"vmin": 0, "cmap": "cividis"}
        image = axes.imshow(values, vmax=most, interpolation="none", aspect="auto", **signed)
        for classes, ticks, turned in ((new, axes.set_xticks, 90), (old, axes.set_yticks, 0)):
            few = len(classes) <= NAMED
            at = list(range(len(classes))) if few else []
            ticks(at, [class_name(names, classes[i]) for i in at], rotation=turned, fontsize=8)
        axes.set(title=title, xlabel="new class", ylabel="old class")
        axes.tick_params(length=0)
        axes.set_facecolor("#eeeeee")
        axes.spines[:].set(visible=True, color=GREY)
        figure.colorbar(image, ax=axes, label=unit, shrink=0.85)
    return figure


def says(made: InfluenceFile) -> str:
    """Which task cost most, and whether to believe the pairs."""
    return " ".join(verdict(to_builtins(made, str_keys=True)).split())


def tables_of(made: InfluenceFile, names: Sequence[str]) -> list[Table]:
    """Later tasks, and the most harmed images of the first seed.

    Args:
        made: what the file says.
        names: of classes of the first seed, in the run's numbering.
    """
    groups = list(dict.fromkeys(name for seed in made.seeds.values() for one in seed.by_task for name in one.groups))
    rows: list[list[Value]] = [
        [seed, one.task + 1, one.forgotten, one.learned, one.loss_change, one.error, one.forecast, one.by_images,
         one.by_mean, one.rest, *(one.groups.get(name) for name in groups), one.correlation]
        for seed, part in made.seeds.items() for one in part.by_task
    ]  # fmt: skip
    header = [
        "seed", "later task", "forgotten", "learned", "loss change", "standard error", "forecast", "by new images",
        "by the running mean", "by pull, decay, crops, dropout", *(f"of it by {name}" for name in groups),
        "correlation over images",
    ]  # fmt: skip

    def named(number: int) -> str:
        return names[number] if number < len(names) else str(number)

    harmed: list[list[Value]] = [
        [one.task + 1, one.old + 1, one.position, named(one.label), named(one.named),
         "yes" if one.forgotten else "no", one.loss_change, one.forecast, one.by_images,
         named(one.harmful[0].label) if one.harmful else None,
         one.harmful[0].position if one.harmful else None, one.harmful[0].influence if one.harmful else None]
        for one in made.first_seed[1].harmed
    ]  # fmt: skip
    about = [
        "later task", "old task", "test image", "its class", "named after", "forgotten", "loss change", "forecast",
        "by new images", "strongest new class", "training image", "its influence",
    ]  # fmt: skip
    title = "What each later task did to old test images' loss (mean), measured and to first order, with its parts"
    return [
        Table("influence", title, header, rows),
        Table("influence_images", "Old test images that were made worst", about, harmed),
    ]
