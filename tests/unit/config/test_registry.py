"""Parts by name: our own, and those of packages that the tree knows nothing about."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ntkcl_jax.config import BaselineConfig, RunConfig
from ntkcl_jax.config.methods import HEAD, LEARNERS, METHODS, NAMED, READOUTS, Method
from ntkcl_jax.config.registry import Registry
from ntkcl_jax.errors import ConfigError

GROUP = "ntkcl_jax.tests"
MODULE = """
from collections import OrderedDict

class Base: pass

class Good(OrderedDict):
    name = "good"
    size = 3

class Unnamed(OrderedDict):
    size = 3

function = len
"""


def install(folder: Path, package: str, points: Mapping[str, str], group: str = GROUP, module: str = MODULE) -> None:
    """A package and its entry points, as pip leaves them."""
    (folder / f"{package}.py").write_text(module)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def registry() -> Registry:
    """A new one: entry points are looked up once."""
    return Registry("dictionary", GROUP, {"counts": "collections:Counter"}, reserved=("none", r"task\d+"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages can be installed into; what was imported from it is forgotten at the end."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def said(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_our_own_parts_have_the_names_that_they_are_listed_under() -> None:
    for parts in (LEARNERS, READOUTS):
        assert all(parts.load(name).name == name for name in parts.own)
        assert not set(parts.own) & set(parts.reserved)
    assert set(METHODS) == set(NAMED)
    for name in NAMED:
        learner, readout = Method.of(name)
        assert learner in LEARNERS.own
        assert readout in (HEAD, *READOUTS.own)


def test_a_name_is_a_named_pair_a_learner_or_a_learner_and_a_readout() -> None:
    assert Method.of("ranpac") == ("first-session", "ranpac")
    assert Method.of("ease") == Method.of("ease/head") == ("ease", "head")
    assert Method.of("ntkcl/random-ridge") == Method.of("ntkcl-ridge")
    for name in ("", "/", "ease/", "/ridge", "ridge/ease", "ease/ridge/ridge", "ridge/", "nothing", "ease/nothing"):
        with pytest.raises(ConfigError, match="unknown method"):
            Method.of(name)
    with pytest.raises(ConfigError, match=r"choose from ntkcl, .* and a readout of head, .* multilevel$"):
        RunConfig(methods=("ntkcl", "nothing"))


def test_parts_of_other_packages_are_found_listed_last_and_imported_when_asked_for(site: Path) -> None:
    install(site, "outside", {"good": "outside:Good", "broken": "outside:missing"})
    parts = registry()
    assert parts.names == ("counts", "broken", "good")
    assert "outside" not in sys.modules
    good = parts.load("good")
    assert good.__name__ == "Good"
    assert parts.subclass("good", dict, ("name", "size")) is good


def test_the_same_part_listed_twice_is_one(site: Path) -> None:
    install(site, "outside", {"good": "outside:Good"})
    other = site / "again"
    other.mkdir()
    install(site, "mirror", {"good": "outside:Good"})
    assert registry().names == ("counts", "good")


@pytest.mark.parametrize("name", ["counts", "good"])
def test_two_parts_of_one_name_are_refused(site: Path, name: str) -> None:
    install(site, "outside", {name: "outside:Good"})
    install(site, "elsewhere", {"good": "elsewhere:Good"})
    with pytest.raises(ConfigError) as error:
        _ = registry().names
    assert f"expected one dictionary of each name, got two called {name!r}" in said(error)
    assert "outside:Good" in said(error)
    assert "rename or uninstall one" in said(error)


@pytest.mark.parametrize("name", ["none", "task0", "task12", "a/b", "Good", "two words", "-good", "../up"])
def test_a_name_that_would_mean_something_else_is_refused(site: Path, name: str) -> None:
    install(site, "outside", {name: "outside:Good"})
    with pytest.raises(ConfigError) as error:
        _ = registry().names
    assert f"got {name!r} for outside:Good (entry points {GROUP}); rename it" in said(error)


@pytest.mark.parametrize("name", ["prototypes", "ntkcl-ridge", "backbone"])
def test_no_learner_may_take_a_name_that_a_method_or_a_folder_has(name: str) -> None:
    assert name in LEARNERS.reserved
    assert {HEAD, r"task\d+"} == set(READOUTS.reserved)  # a learner's checkpoints lie beside its readouts' folders


def test_one_pair_under_two_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got ridge and frozen/ridge, which are frozen/ridge both"):
        RunConfig(methods=("ridge", "ntkcl", "frozen/ridge"))
    frozen = BaselineConfig(first_session=False)
    with pytest.raises(ConfigError, match=r"got ranpac and frozen/ranpac, which are frozen/ranpac both"):
        RunConfig(methods=("ranpac", "frozen/ranpac"), baselines=frozen)
    RunConfig(methods=("ranpac", "frozen/ranpac"))


@pytest.mark.parametrize(
    ("module", "value", "expected"),
    [
        ("", "outside:Good", "AttributeError: module 'outside' has no attribute 'Good'"),
        ("", "nowhere:Good", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise RuntimeError('first line\\nsecond')", "outside:Good", "RuntimeError: first line"),
        ("def", "outside:Good", "SyntaxError: invalid syntax (outside.py, line 1)"),
    ],
)
def test_what_cannot_be_imported_is_named(site: Path, module: str, value: str, expected: str) -> None:
    install(site, "outside", {"good": value}, module=module)
    with pytest.raises(ConfigError) as error:
        registry().load("good")
    assert f"the dictionary 'good' can't be imported from {value} ({expected}" in said(error)
    assert "mend or uninstall the package that adds it" in said(error)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("outside:Base", "to be a subclass of builtins.dict, got <class 'outside.Base'>"),
        ("outside:function", "to be a subclass of builtins.dict, got <built-in function len>"),
        ("outside:Unnamed", "the dictionary 'mine' lacks name; define what builtins.dict asks for in outside.Unnamed"),
        ("outside:Good", "expected outside.Good to have the name of its entry point, 'mine', got 'good'"),
    ],
)
def test_what_is_no_such_class_is_named(site: Path, value: str, expected: str) -> None:
    install(site, "outside", {"mine": value})
    with pytest.raises(ConfigError) as error:
        registry().subclass("mine", dict, ("name", "size"))
    assert expected in said(error)


def test_an_unknown_name_lists_all_that_there_are(site: Path) -> None:
    install(site, "outside", {"good": "outside:Good"})
    with pytest.raises(ConfigError, match="unknown dictionary 'better'; choose from counts, good"):
        registry().load("better")
