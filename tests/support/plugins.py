"""Packages outside the tree that bring measures, as an installer leaves them: modules and a `.dist-info`, no pip."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

TEMPLATE = """
from analysis.measures import Measure

def values(*checkpoints):
    return {values}

MEASURE = Measure(name="{name}", title="{title}", kind="{kind}", function=values, sentence="Do nothing.", {more})
"""


def installed(
    monkeypatch: pytest.MonkeyPatch, site: Path, package: str, module: str, entries: Mapping[str, str] | None = None
) -> None:
    """Write a package and put it on the path.

    Args:
        monkeypatch: takes it from the path again.
        site: folder of the package; made.
        package: its name, and that of its module.
        module: the module's text.
        entries: entry points of `analysis.measures`; one, of the package's name, to its `MEASURE` when None.
    """
    info = site / f"{package}-1.dist-info"
    info.mkdir(parents=True)
    (site / f"{package}.py").write_text(module)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    entries = {package: f"{package}:MEASURE"} if entries is None else entries
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[analysis.measures]", *lines, ""]))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, package, raising=False)


def module(
    values: str = "[1.0, 2.0]", *, name: str = "made", title: str = "made up", kind: str = "task", more: str = ""
) -> str:
    """Text of a module with one measure, whose function gives `values` of `checkpoints`."""
    return TEMPLATE.format(values=values, name=name, title=title, kind=kind, more=more)
