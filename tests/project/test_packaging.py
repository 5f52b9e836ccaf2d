"""The pins and pyproject.toml say the same, and the pins hold nothing that was decided against."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PIN_FILES = sorted((ROOT / "requirements").glob("py3*.txt"))

every_pin_file = pytest.mark.parametrize("path", PIN_FILES, ids=lambda path: path.stem)


def read_pins(path: Path) -> dict[str, str]:
    """Read lines `name==version`; any other line is an error."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][0-9a-z.]*)", line)
        assert match, f"{path.name}: expected a plain line name==version, got {line!r}"
        pins[match[1]] = match[2]
    return pins


def named_requirements() -> dict[str, str]:
    """All direct requirements of what `make setup` installs, name -> specifier."""
    groups = [
        PROJECT["project"]["dependencies"],
        PROJECT["project"]["optional-dependencies"]["analysis"],
        *PROJECT["dependency-groups"].values(),
    ]
    return dict(re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line).groups() for group in groups for line in group)


def test_there_is_one_pin_file_for_each_python_that_pyproject_allows():
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.13"
    assert [path.name for path in PIN_FILES] == ["py311.txt", "py312.txt"]


@every_pin_file
def test_pins_are_plain_lines_without_addresses_and_sorted(path):
    names = list(read_pins(path))
    assert names == sorted(names)


@every_pin_file
@pytest.mark.parametrize("name", ["tensorflow", "tf2jax", "keras", "pandas", "torch"])
def test_heavy_packages_that_nothing_imports_are_not_pinned(path, name):
    assert name not in read_pins(path)


@every_pin_file
def test_the_jaxlib_with_wrong_gradients_is_not_pinned_and_jax_matches(path):
    pins = read_pins(path)
    assert pins["jaxlib"] != "0.10.2"
    assert pins["jax"] == pins["jaxlib"]


def test_the_jaxlib_with_wrong_gradients_is_excluded_for_installs_by_name():
    requirements = named_requirements()
    assert "!=0.10.2" in requirements["jax"]
    assert "!=0.10.2" in requirements["jaxlib"]


@every_pin_file
def test_every_direct_requirement_is_pinned_at_a_version_it_allows(path):
    from packaging.specifiers import SpecifierSet

    pins = read_pins(path)
    for name, specifier in named_requirements().items():
        assert name in pins, f"{name} is in pyproject.toml but not in {path.name}: run `make pins`"
        assert pins[name] in SpecifierSet(specifier), f"{path.name} pins {name}=={pins[name]}, not {specifier}"


@pytest.mark.parametrize("package", ["ntkcl_jax", "analysis"])
def test_every_folder_with_modules_is_a_package_and_so_reaches_the_wheel(package):
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()]
    assert missing == []
