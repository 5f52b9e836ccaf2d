"""The rows: each one changes one thing of the default, or puts a rival on the same images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from experiments.multilevel.maps import SETTINGS
from ntkcl_jax.readouts.group_ridge import RIDGES, Weights
from ntkcl_jax.readouts.multilevel import CANDIDATES

Rule = Literal["accuracy", "error", "weights by error", "ridge by error"]
WIDTHS = (100, 100, 500, 300)
"""A tenth of the library's, so that a row takes seconds."""
FACTORS = (0.25, 0.5, 2, 4, 10)
COMPARED, MORE_COMPARED = 250, 500
"""Columns by which weights and ridges are compared, about; the library compares 1,000 of 10,000."""
SIZES, SHOTS = (2, 5, 10, 20, 50), (1, 2, 5, 15)
RIVALS = ("ridge", "ranpac", "prototypes")
VIEWS = {"no view": (), "1 crop": ("crop 0",), "3 affine": ("affine 0", "affine 1", "affine 2")}
"""Views that are learnt beside an image: kind and number of each."""
AFFINE = ("affine 0",)


@dataclass(frozen=True)
class Learnt:
    """What is learnt, and of what: rows that agree in it share the work.

    Attributes:
        setting: which features; see `maps.groups`.
        views: that are learnt beside each image.
        compared: columns by which weights and ridges are compared.
        size: classes of a task; None: the stream's.
        shots: training images of a class; None: all.
        fixed: whether only the class order changes from seed to seed, not the random matrices.
    """

    setting: str = "default"
    views: tuple[str, ...] = AFFINE
    compared: int = COMPARED
    size: int | None = None
    shots: int | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        axis: what is changed.
        name: to what.
        learnt: what is learnt.
        readout: `multilevel` or a rival.
        weights: of the groups that are compared.
        ridges: that are compared.
        rule: by what weights and ridge are chosen.
        root: whether S enters as sign(s) √|s|.
    """

    axis: str
    name: str
    learnt: Learnt = Learnt()
    readout: str = "multilevel"
    weights: tuple[Weights, ...] = CANDIDATES
    ridges: tuple[float, ...] = RIDGES
    rule: Rule = "accuracy"
    root: bool = False

    @property
    def title(self) -> str:
        """Axis and name."""
        return f"{self.axis}: {self.name}" if self.axis else self.name


DEFAULT = Row("", "default")


def rows() -> Iterator[Row]:
    """Every row, in the order of the table."""
    yield DEFAULT
    for name, weights in FIXED_WEIGHTS.items():
        yield Row("groups", name, weights=(weights,))
    yield Row("groups", "weights by squared error", rule="weights by error")
    for setting in SETTINGS:
        yield Row("read", setting, Learnt(setting))
    yield Row("read", "signed root of S", root=True)
    for factor in FACTORS:
        yield Row("widths", f"x {factor:g}", Learnt(f"x{factor:g}"))
    for name, views in VIEWS.items():
        yield Row("views", name, Learnt(views=views))
    for ridge in RIDGES:
        yield Row("ridge", f"{ridge:g}", ridges=(ridge,))
    yield Row("ridge", "by squared error", rule="ridge by error")
    yield Row("ridge", "weights and ridge by squared error", rule="error")
    yield Row("ridge", f"compared on {MORE_COMPARED} columns", Learnt(compared=MORE_COMPARED))
    reach = {"the stream's own tasks": Learnt(), "class order alone": Learnt(fixed=True)}
    reach |= {f"{size} classes a task": Learnt(size=size) for size in SIZES}
    reach |= {f"{shots} image{'s' * (shots > 1)} a class": Learnt(shots=shots) for shots in SHOTS}
    for name, learnt in reach.items():
        for readout in ("multilevel", *RIVALS):
            if (name, readout) != ("the stream's own tasks", "multilevel"):  # that's the default
                of = learnt if readout == "multilevel" else replace(learnt, views=())
                yield Row(name, readout, of, readout)


FIXED_WEIGHTS: dict[str, Weights] = {
    **{f"{name} alone": tuple(float(name == other) for other in "FMGS") for name in "FMGS"},
    **{f"without {name}": tuple(float(name != other) for other in "FMGS") for name in "FMGS"},
    "1 1 1 1": (1.0, 1.0, 1.0, 1.0),
    "1 1 1 0.3": (1.0, 1.0, 1.0, 0.3),
    "0.3 1 1 1": (0.3, 1.0, 1.0, 1.0),
}
"""Weights of F, M, G and S that aren't chosen."""
