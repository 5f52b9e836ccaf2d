"""How figures look and how they are written: without pyplot or a display, the same bytes for the same numbers.

Colours are those of Okabe and Ito, told apart by people with colour-blindness.
"""

import contextlib
import io
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from ntkcl_jax.terminal.tables import short_name

COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#009E73", "#56B4E9", "#E69F00", "#000000")
GREY = "#666666"
INK = "#111111"
"""Text on light cells: a colour of its own, where black would be what a dark page draws text with."""
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    **{f"{axis}tick.color": GREY for axis in "xy"},
    **{f"{axis}tick.labelcolor": "black" for axis in "xy"},
}


@contextlib.contextmanager
def style() -> Generator[None]:
    """Draw (or decorate a drawing) with the project's style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # first back to matplotlib's own, then ours
        matplotlib.rcParams.update(_STYLE)
        yield


@style()
def save(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Write a figure as PNG: whole or not at all, and without a version in it.

    Raises:
        OSError: the file can't be written.
    """
    memory = io.BytesIO()
    FigureCanvasAgg(figure)  # ties itself to the figure, so that no display is asked for
    figure.savefig(memory, format="png", dpi=dpi, metadata={"Software": None})
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_bytes(memory.getvalue())
    os.replace(fresh, path)
    return path


def label(name: str, limit: int) -> str:
    """Shorten a name, draw unknown signs as a box, and keep `$` from starting mathematics."""
    # A missing glyph would be drawn as a box too, but with a warning for each
    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_char_index
    text = "".join(c if known(ord(c)) else "□" for c in short_name(name, limit))
    return text.replace("$", r"\$")
