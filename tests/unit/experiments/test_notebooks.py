"""The notebooks open as notebooks, run from top to bottom, and leave nothing behind."""

import importlib.util
import runpy
import sys
import tempfile
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parents[3] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
TRAINING = ("05", "06")
"""Those that train a run."""
MARKDOWN, CODE = "# %% [markdown]", "# %%"


def cells(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Header and cells (first line, rest) of a percent file."""
    header: list[str] = []
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("# %%"):
            found.append((line, []))
        else:
            (found[-1][1] if found else header).append(line)
    return "\n".join(header).strip(), [(kind, "\n".join(lines).strip()) for kind, lines in found]


@pytest.fixture
def quick_compilation():
    """XLA takes most of the time of small runs; nothing here needs its optimisations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def beside_the_notebooks(monkeypatch: pytest.MonkeyPatch):
    """Notebooks import `small` from their folder; without pictures on a screen, byte code or a run of the user's."""
    import matplotlib.pyplot as plt

    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("NTKCL_RUN", raising=False)
    yield
    plt.close("all")


def run(path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a notebook as a script in an empty folder, and look at what it leaves and shows."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(here)
    before = set(FOLDER.rglob("*"))
    runpy.run_path(str(path), run_name="__main__")
    assert len(plt.get_fignums()) == 1
    assert not list(here.iterdir())
    assert set(FOLDER.rglob("*")) == before


def test_there_are_six_in_a_row() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_opens_as_a_notebook(path: Path) -> None:
    header, found = cells(path.read_text())
    lines = header.splitlines()
    assert lines[0] == lines[-1] == "# ---"
    assert all(line.startswith("#") for line in lines)
    for word in ("jupytext:", "extension: .py", "format_name: percent", "kernelspec:", "name: python3"):
        assert word in header
    assert {kind for kind, _ in found} == {MARKDOWN, CODE}
    for kind, text in found:
        assert text, "an empty cell"
        if kind == MARKDOWN:
            assert all(line.startswith("#") for line in text.splitlines())
        else:
            compile(text, path.name, "exec")  # a cell is run on its own
    first_kind, first_text = found[0]
    assert first_kind == MARKDOWN and first_text.startswith("# # ")
    assert "docs/theory.md, section" in first_text
    assert found[-1][0] == CODE and "\nassert " in found[-1][1]


@pytest.mark.filterwarnings("ignore:.*non-interactive")
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name[:2] not in TRAINING], ids=lambda path: path.stem)
def test_it_runs_and_its_assertion_holds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run(path, tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive")
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name[:2] in TRAINING], ids=lambda path: path.stem)
def test_it_trains_and_its_assertion_holds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run(path, tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_a_given_run_is_copied_so_that_nothing_in_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.setenv("NTKCL_RUN", str(tmp_path / "mine"))
    spec = importlib.util.spec_from_file_location("small_again", FOLDER / "small.py")
    assert spec is not None and spec.loader is not None
    small = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small)
    path, arrays = small.given_run()
    assert (path / "config.json").read_text() == "{}"
    assert arrays is None
    assert path.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
    assert not path.is_relative_to(tmp_path)
