"""Data sources that installed packages add, beginning with the one that docs/data.md tells how to write."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ntkcl_jax import cli, load_run
from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.codec import from_json, to_json
from ntkcl_jax.config.sources import SOURCES
from ntkcl_jax.data import load_source
from ntkcl_jax.data.sources import source_kind
from ntkcl_jax.devices.flops import Stream
from ntkcl_jax.errors import ConfigError, DataError, NtkclError
from ntkcl_jax.training.rehearsal import stage
from tests.support import streams as tiny

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "data.md").read_text()
MODULE = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0]
PROJECT = tomllib.loads(re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)[0])["project"]
(ENTRY,) = (f"{name} = {value}" for name, value in PROJECT["entry-points"][SOURCES.group].items())

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package where Python finds it: a module, and metadata with entry points as pip leaves them."""
    before = set(sys.modules)

    def put(entries: str, module: str, name: str = "my-source") -> Path:
        place = tmp_path / name
        info = place / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{SOURCES.group}]\n{entries}\n")
        (place / f"{name.replace('-', '_')}.py").write_text(module)
        monkeypatch.syspath_prepend(str(place))
        SOURCES.__dict__.pop("added", None)  # it looks once a process
        return place

    yield put
    SOURCES.__dict__.pop("added", None)
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "other_")):
            del sys.modules[name]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    made = tiny.arrays()
    path = tmp_path / "images.npz"
    parts = [f"{side}_{part}" for side in ("train", "test") for part in ("images", "labels")]
    np.savez(path, **{part: getattr(made, part) for part in parts})
    return path


def words(images: Path, run: Path, *more: str) -> list[str]:
    made = tiny.words(images, run, *more)
    made[made.index("--data.source") + 1] = "npz"
    made[made.index("--optimizer.epochs") + 1] = "0"  # compiling a training step would take most of the time
    return made


def printed(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    out, error = capsys.readouterr()
    assert code == 0, error
    return out


def test_the_documented_source_trains_resumes_and_is_loaded(
    install: Install, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, run = install(ENTRY, MODULE), tmp_path / "run"
    first = printed(cli.NTKCL.run(words(images, run, "--json")), capsys)
    header = json.loads((run / "config.json").read_text())
    assert header["config"]["data"]["source"] == "npz"
    assert header["data"]["train_images"] == tiny.CLASSES * tiny.PER_CLASS
    assert printed(cli.NTKCL.run(words(images, run, "--json", "--resume")), capsys) == first
    loaded = load_run(run)
    assert loaded.context.source.fingerprint == load_source(DataConfig(source="npz", path=str(images))).fingerprint
    assert len(loaded.task(2).labels) == 2
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(place)])
    SOURCES.__dict__.pop("added", None)
    with pytest.raises(ConfigError, match=r"one of arrays, .*, got 'npz'; correct it, or install the package"):
        load_run(run)


def test_help_lists_an_added_source_without_importing_it(install: Install) -> None:
    place = install(ENTRY, "raise ImportError('it must not be imported')")
    for command in (["train", "digits"], ["train", "digits", "--rehearse"], ["verify"]):
        done = subprocess.run(
            [sys.executable, "-m", "ntkcl_jax", *command, "--help"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(place), "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        choices = re.search(r"--(data\.)?source\{([^}]*)\}", "".join(done.stdout.replace("│", "").split()))
        assert choices is not None
        assert choices[2].split(",")[-1] == "npz"
        assert "folder" in choices[2].split(",")


def test_a_wrong_name_is_told_beside_the_added_ones(
    install: Install, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(ENTRY, MODULE)
    typed = words(images, tmp_path / "run")
    typed[typed.index("npz")] = "nzp"
    assert cli.NTKCL.run(typed) == 2
    assert "invalid choice 'nzp' for argument '--data.source'; expected one of ('arrays'," in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"data\.source must be one of arrays, .*uci-digits, npz, got 'nzp'"):
        DataConfig(source="nzp")


def test_an_added_source_is_verified(install: Install, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(ENTRY, MODULE)
    code = cli.NTKCL.run(["verify", "--weights", "nano", "--source", "npz", "--data", str(images), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 1)  # the backbone may like another normalisation better
    assert (found["data"]["source"], found["counts"]["test"]["images"]) == ("npz", 28)
    assert cli.NTKCL.run(["verify", "--weights", "nano", "--source", "npz"]) == 2
    assert "expected a preset, or --weights and --data" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "side"), [("", 8), (", side=20", 20)])
def test_an_added_source_is_rehearsed_at_its_size(install: Install, images: Path, more: str, side: int) -> None:
    install(ENTRY, MODULE.replace(", reads_path=True)", f", reads_path=True{more})"))
    config = tiny.config(data__source="npz", data__path=str(images))
    stream, told = stage.stream_of(config)
    assert (stream, told) == (Stream((3, 2, 2), 63, 28), "counted")
    assert stage.noise(config, stream.task_sizes, 1).train_images.shape[1:] == (side, side, 3)
    played = stage.rehearsed(config, stream, stage.Size(3, 1, 16), Path("weights"))
    assert played.data.transform_on == ("auto" if more else "host")


def test_a_source_that_reads_files_needs_a_path_and_says_what_it_must_hold(install: Install) -> None:
    install(ENTRY, MODULE)
    with pytest.raises(ConfigError, match=r"data\.source=npz needs data\.path: an \.npz file with train_images"):
        load_source(DataConfig(source="npz"))
    with pytest.raises(ConfigError, match=r"data\.source=folder needs data\.path: a folder with `train/<class>/\*`"):
        load_source(DataConfig(source="folder"))


def test_the_sources_own_mistakes_and_arrays_are_refused_as_ours_are(install: Install, tmp_path: Path) -> None:
    install(ENTRY, MODULE)
    data = DataConfig(source="npz", path=str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"can't read .*none\.npz .*; expected an \.npz file"):
        load_source(data)
    with pytest.raises(DataError, match="takes no arrays"):
        load_source(data, tiny.arrays())


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("import no_such_name", "the data source 'npz' can't be imported from my_source:NPZ .*No module named"),
        ("1 / 0", "the data source 'npz' can't be imported from my_source:NPZ .*division by zero"),
        ("OTHER = 1", "the data source 'npz' can't be imported from my_source:NPZ .*no attribute 'NPZ'"),
        ("NPZ = print", "data.source=npz must be a SourceKind, got builtin_function_or_method"),
    ],
)
def test_a_broken_package_is_one_line_for_those_who_ask_for_it(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str, told: str
) -> None:
    install(ENTRY, module)
    assert load_source(DataConfig(source="digits", images_per_class=1)).class_names == tuple("0123456789")
    assert from_json(DataConfig, to_json(DataConfig(source="npz"))).source == "npz"
    assert cli.NTKCL.run(words(tmp_path, tmp_path / "run")) == 2
    assert re.fullmatch(rf"ntkcl: {told}.*; mend .*\n", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_two_packages_of_one_name_are_named(install: Install) -> None:
    install(ENTRY, MODULE)
    install("npz = other_source:NPZ\nmore = other_source:NPZ", MODULE, "other-source")
    with pytest.raises(ConfigError, match="two called 'npz': my_source:NPZ and other_source:NPZ"):
        DataConfig(source="npz")
    assert DataConfig(source="folder").source == "folder"  # nothing is looked up for a name of ours


def test_names_of_packages_come_after_ours(install: Install) -> None:
    install("npz = my_source:NPZ\nmore = my_source:NPZ", MODULE)
    assert SOURCES.names == (*SOURCES.own, "more", "npz")
    assert source_kind("more").reads_path


@pytest.mark.parametrize("ask", [lambda: SOURCES.names, lambda: DataConfig(source="other")])
def test_a_package_can_not_take_a_name_of_ours(install: Install, ask: Callable[[], object]) -> None:
    install("digits = my_source:NPZ\nother = my_source:NPZ", MODULE)
    with pytest.raises(ConfigError, match=r"two called 'digits': .*digits:SOURCE and my_source:NPZ"):
        ask()


SIDES = """
import numpy as np
from ntkcl_jax.data import Arrays, ImageSet, Sides, SourceKind

class Squares(ImageSet):
    def __init__(self, labels, image):
        self.labels, self.image = labels, image

    def load(self, index):
        return self.image + index.__index__() % 7 if self.image.dtype == np.uint8 else self.image

    def names(self, index):
        return f"square {index}"

    def subset(self, indices):
        return Squares(self.labels[indices], self.image)

    def digest(self):
        return "0"

labels, image, names = np.repeat([0, 1], 5), np.zeros((4, 6, 3), np.uint8), ("a", "b")
"""


def sides(install: Install, change: str, made: str = "Sides(Squares(labels, image), Squares(labels, image), names)"):
    install(ENTRY, f"{SIDES}{change}\nNPZ = SourceKind('squares', lambda data: {made})")
    return load_source(DataConfig(source="npz"))


def test_images_of_an_added_kind_are_taken_with_and_without_a_split(install: Install) -> None:
    given = sides(install, "")
    assert (given.split, len(given.train), len(given.test), given.class_names) == ("given", 10, 10, ("a", "b"))
    whole = "NPZ = SourceKind('squares', lambda data: Sides(Squares(labels, image), None, names))"
    install("half = my_half:NPZ", SIDES + whole, "my-half")
    split = load_source(DataConfig(source="half", limit_per_class=2))
    assert (split.split, len(split.train), len(split.test)) == ("0.2 of each class by hash, seed 0", 4, 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("names = ('a',)", "label 1 of train has no name among 1 class_names"),
        ("names = ('a', 'a')", "class_names must differ"),
        ("names = ('a', 'b', 'c')", "1 of 3 classes have no training image, the first is 'c'"),
        ("names = ['a', 'b']", r"class_names must be a tuple of words, got \['a', 'b'\]"),
        ("names = ('a', 1)", "class_names must be a tuple of words"),
        ("labels = labels - 1", "labels of train must not be negative, got -1"),
        ("labels = labels[:0]", "2 of 2 classes have no training image, the first is 'a'"),
        ("labels = labels / 1", "labels of train must be integers"),
        (
            "image = image / 255",
            r"must be uint8 of shape \(h, w, 3\), got float64 of shape \(4, 6, 3\) for square 0",
        ),
        ("image = image[..., 0]", r"got uint8 of shape \(4, 6\)"),
        ("image = image[:0]", r"got uint8 of shape \(0, 6, 3\)"),
    ],
)
def test_what_an_added_source_gives_is_checked(install: Install, change: str, told: str) -> None:
    with pytest.raises(NtkclError, match=told) as caught:
        sides(install, change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("[1, 2]", "data.source=npz must read Arrays or Sides, got list"),
        ("Sides(image, None, names)", "train must be an ImageSet, got ndarray"),
        ("Sides(Squares(labels, image), image, names)", "test must be an ImageSet, got ndarray"),
        ("Arrays(image, labels, image, labels)", "train_labels has 10 entries for 4 images"),
    ],
)
def test_what_an_added_source_returns_is_checked(install: Install, made: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        sides(install, "", made)


def test_the_document_says_what_every_source_says_of_itself() -> None:
    table = DOCUMENT.partition("## Where images come from")[2].partition("## ")[0]
    for name in SOURCES.own:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert source_kind(name).about in row
