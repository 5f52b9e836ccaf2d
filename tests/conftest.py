"""What every test needs before JAX is imported: the CPU, a compilation cache, no display, and repeatable examples."""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

BROKEN_JAXLIB = "0.10.2"
MOST_MAPPINGS = 30_000

# In the environment rather than in jax.config, so that processes started by a test inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# A cached program makes XLA write kilobytes about CPU features: enough to fill the pipe of a test that reads it late.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["MPLBACKEND"] = "Agg"
QUICK_COMPILER = "--xla_backend_optimization_level=0"

# No deadline: an example's first call may compile. Same examples every time: a red test must stay red.
hypothesis.settings.register_profile("ntkcl", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("ntkcl")


def shape_checker(function: Callable) -> Callable:
    """Check every call of `function` against its annotations, if beartype can read them."""
    from beartype import BeartypeConf, beartype
    from beartype.roar import BeartypeDecorHintPep673Exception

    if function.__module__ == "ntkcl_jax.terminal.options" or function.__qualname__.startswith("Factored."):
        return function  # tyro and JAX fill these classes with marks that stand for values
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)  # an int will do for a float
    except BeartypeDecorHintPep673Exception:  # `Self` outside of a decorated class; no array has that type
        return function


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shape-checks",
        action="store_true",
        help="check the array shapes in all signatures of ntkcl_jax and analysis while the tests run (slower)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if importlib.metadata.version("jaxlib") == BROKEN_JAXLIB:
        raise pytest.UsageError(
            f"expected any jaxlib but {BROKEN_JAXLIB}, which computes wrong gradients on CPU, and found it installed; "
            "install the pins with `make setup`"
        )
    # Machine code is half of the quick tests' time, and most of it runs once. The same tests run on the code that users
    # get with --shape-checks; a slow test computes long enough to want it.
    if not config.getoption("--shape-checks") and "not slow" in config.getoption("markexpr"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILER}".strip()
    if config.getoption("--shape-checks"):
        from jaxtyping import install_import_hook

        install_import_hook(["ntkcl_jax", "analysis"], "tests.conftest.shape_checker")


@pytest.fixture(scope="module", autouse=True)
def room_for_programs() -> Iterator[None]:
    """Drop compiled programs before the system has no more room for them.

    Each takes a few mappings of memory, of which Linux grants a process 65,530; XLA crashes where it gets no more.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and "jax" in sys.modules and len(maps.read_bytes().splitlines()) > MOST_MAPPINGS:
        sys.modules["jax"].clear_caches()
