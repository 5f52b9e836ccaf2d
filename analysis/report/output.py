"""Figures as bytes, and files that are whole or absent."""

import contextlib
import io
import os
import uuid
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.errors import StoreError
from analysis.store.files import cannot_write
from ntkcl_jax.plots.style import style
from ntkcl_jax.runs.checkpoint import PARTIAL

DPI = 150


@style()
def render(figure: Figure) -> dict[str, bytes]:
    """Draw a figure as `svg` and `png`: the same bytes for the same numbers, without a date or a version.

    Text of the SVG is drawn as outlines, so it looks the same without the font.

    Example:
        >>> sorted(render(Figure(figsize=(1, 1))))
        ['png', 'svg']
    """
    # Without a salt the ids in an SVG are drawn at random; `style` takes both settings back afterwards
    matplotlib.rcParams.update({"svg.hashsalt": "ntkcl", "svg.fonttype": "path"})
    FigureCanvasAgg(figure)
    made = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        memory = io.BytesIO()
        figure.savefig(memory, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # what the first drawing has laid out holds for the second
        made[kind] = memory.getvalue()
    return made


def write(path: Path, content: bytes) -> Path:
    """Write a file so that it is either the old one or the new one, never a part.

    Args:
        path: the file; its folder is made.
        content: all of it.

    Raises:
        StoreError: the folder can't be written.
    """
    # A name of its own, as two reports may be written at once; in the same folder, so that the rename is one step
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    return path


def check_target(path: Path) -> None:
    """Refuse a place that a file can't be written to, before the work.

    Raises:
        StoreError: the path is a folder.
    """
    if path.is_dir():
        raise StoreError(f"expected a file to write the report to, got the folder {path}; name a file in it")
