"""What the fuzz tests share: examples few or many, damage to bytes and JSON, and what counts as an answer."""

import contextlib
import functools
import inspect
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.terminal.console import Program

MANY = 20
"""The slow twin of a test tries so many times its examples."""
BOUND = 2**28
"""No example of a few kilobytes may take as many bytes of memory."""
LONGEST_S = 60.0
"""An answer that takes longer counts as a hang."""


def fuzz(examples: int, **strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a property a test of `examples` examples, and a slow twin of `MANY` times as many.

    Args:
        examples: of the quick test; the same ones every time.
        **strategies: arguments of the property that are drawn; the others are fixtures, made once.
    """

    def make(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(examples: int, **fixtures: Any) -> None:
            @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
            @given(st.fixed_dictionaries(strategies))
            def holds(drawn: dict[str, Any]) -> None:
                function(**fixtures, **drawn)

            holds()

        kept = [p for p in inspect.signature(function).parameters.values() if p.name not in strategies]
        at = inspect.Parameter("examples", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = inspect.Signature([*kept, at])  # ty: ignore[unresolved-attribute]
        many = pytest.param(MANY * examples, id="many", marks=pytest.mark.slow)
        return pytest.mark.parametrize("examples", [pytest.param(examples, id="few"), many])(test)

    return make


def answer(call: Callable[[], Any]) -> tuple[int, str]:
    """Call as the command line does: 0, or 2 and one printable line; anything else that escapes fails the test.

    Returns:
        The exit code and the line.
    """
    program = Program("fuzz", "", {"call": lambda _: call() and None}, (), (AnalysisError, NtkclError))
    return answered(program, ["call"])


def bounded(call: Callable[[], Any]) -> tuple[int, str]:
    """`answer`, with a limit to what Python and NumPy take."""
    tracemalloc.start()
    try:
        found = answer(call)
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()
    return found


def answered(program: Program, argv: list[str]) -> tuple[int, str]:
    """Run a command line: see `answer`; `--help` may end it with code 0."""
    out, error, begin = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = program.run(argv)
        except SystemExit as end:
            code = end.code or 0
    line = error.getvalue()
    assert time.monotonic() - begin < LONGEST_S, argv
    if code and argv:
        assert code == 2, (code, line, out.getvalue())
        assert line.count("\n") == 1 and line.endswith("\n") and line[:-1].isprintable(), line
    return code, line


NUMBERS = st.sampled_from([0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e300, 2**31, 2**40, -(2**63), 2**64 - 1])
TEXTS = st.sampled_from(["", "x", "..", "../../x", "/etc/passwd", "a\nb", "\x1b[2J", "\x00", "\ud800", "nan", "9" * 99])
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    TEXTS,
    st.sampled_from(["[]", "{}", "[[]]", "[null]", '{"": 0}', '[[[["x"]]]]', '[1, "a"]']).map(json.loads),
)
"""Values that a JSON file could hold instead of the right one."""
HOSTILE = st.sampled_from(
    ["", " ", "{", "[]", "null", "1e400", "NaN", '{"a": 1e400}', "9" * 5000, "[" * 100_000, '{"a":' * 100_000,
     '{"format": 1, "config": ' + "[" * 500 + "]" * 500 + "}", "\ufeff{}", "\xff\xfe", "\x00" * 50]
)  # fmt: skip
"""Whole texts in a JSON file's place."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container within a JSON value with every key or index of it."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


@st.composite
def damaged_json(draw: st.DrawFn, text: str) -> bytes:
    """A JSON file with a value replaced or dropped, bytes flipped, its end cut off, or something else in its place."""
    kind = draw(st.sampled_from(["replace", "replace", "drop", "bytes", "whole"]))
    if kind == "whole":
        return draw(HOSTILE).encode("utf-8", "surrogatepass")
    if kind == "bytes":
        return draw(damaged_bytes(text.encode()))
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 2))):
        spots = places(value)
        if not spots:
            break
        container, key = draw(st.sampled_from(range(len(spots))).map(lambda at, spots=spots: spots[at]))
        if kind == "drop":
            del container[key]
        else:
            container[key] = draw(JUNK)
    return json.dumps(value).encode()


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes of a file replaced, or its end cut off, or more after it."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # damage to the beginning, where headers are, is likelier
        most = draw(st.sampled_from([16, 64, 1024, len(out)]))
        if out:
            out[draw(st.integers(0, max(0, min(most, len(out)) - 1)))] = draw(st.integers(0, 255))
    end = draw(st.one_of(st.just(None), st.integers(0, len(out))))
    return bytes(out[:end]) + draw(st.sampled_from([b"", b"", b"\x00" * 9]))


def write(path: Path, content: bytes | str) -> Path:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path
