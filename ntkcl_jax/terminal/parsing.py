"""Options of a command: a typed dataclass goes in, tyro reads the words, a mistake comes back as one line."""

import contextlib
import io
import os
import re
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo
from tyro.extras import literal_type_from_choices

from ntkcl_jax.errors import ConfigError
from ntkcl_jax.terminal.progress import plain_text

T = TypeVar("T")
SUGGESTIONS = 3
"""Most options that a message about an unknown one suggests."""

Choices = Mapping[type, Mapping[str, tuple[str, ...]]]
"""Dataclass and field -> the words it may be, where only the machine knows them."""


def parse(what: type[T], prog: str, args: list[str], default: T | None = None, choices: Choices | None = None) -> T:
    """Read a command's options.

    Args:
        what: the command's dataclass.
        prog: what the user typed before them, for the help.
        args: the words after it.
        default: values that options override.
        choices: words that fields of type `str` are restricted to.

    Returns:
        An instance of `what`. `--help` ends the process with code 0.

    Raises:
        ConfigError: an option that is unknown, missing or has a value that it can't have.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Shout:
        ...     times: int = 1
        >>> parse(Shout, "shout", ["--times", "3"]).times
        3
    """

    def read(args: list[str]) -> T:
        # Without a default of the whole, each field's own default counts
        given = tyro.MISSING_NONPROP if default is None else default
        return tyro.cli(what, prog=prog, args=args, default=given, registry=_restricted(choices or {}))

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return read(args)
    except SystemExit as end:
        if not end.code:  # --help: its text is on standard output already
            raise
    # tyro draws a box of many lines, fitted to the terminal, and tells a mistake as data only to a hook that it calls
    # private (1.0.17). Drawn once more on endless paper the box has one line for each thing it says. The words are
    # cleaned so that none of them can pass for a line of it.
    with _endless_paper() as box, contextlib.suppress(SystemExit):
        read([plain_text(word) for word in args])
    raise ConfigError(f"{_one_line(box.getvalue())}; `{prog} --help` lists the options")


def _restricted(choices: Choices) -> ConstructorRegistry:
    """Make tyro take some fields of some dataclasses for a choice between words."""
    registry, asked = ConstructorRegistry(), set()

    @registry.struct_rule
    def restricted(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in choices or info.type in asked:
            return None
        asked.add(info.type)  # so that this rule steps aside and tyro's own reads the dataclass
        usual = ConstructorRegistry.get_struct_spec(info)
        asked.remove(info.type)
        assert isinstance(usual, StructConstructorSpec)
        types = {name: literal_type_from_choices(words) for name, words in choices[info.type].items()}
        return replace(usual, fields=tuple(replace(f, type=types.get(f.name, f.type)) for f in usual.fields))

    return registry


@contextlib.contextmanager
def _endless_paper() -> Generator[io.StringIO]:
    """Catch what is printed, without colours and line breaks: no terminal, and very wide."""
    before = os.environ.get("COLUMNS")
    # Where Python looks for a terminal's width first; put back below, as it is the whole process's
    os.environ["COLUMNS"] = str(10**9)
    paper = io.StringIO()
    try:
        with contextlib.redirect_stdout(paper), contextlib.redirect_stderr(paper):
            yield paper
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str) -> str:
    r"""Say in one line what a box of tyro says: a title, then blocks between rules.

    The first block tells the mistake. Options stand six columns deep in theirs, their help below them.

    Example:
        >>> rule = "  ------"
        >>> told = ["  Error parsing --n: invalid literal for int() with base 10: 'x'", rule, "  Argument helptext:"]
        >>> _one_line("\n".join([" Value error", rule, *told, "      --n INT", "      How many. (default: 2)"]))
        "expected --n INT, got 'x'"
    """
    title, *lines = [line.rstrip() for line in box.rstrip().split("\n")]
    blocks: list[list[str]] = [[]]
    for line in lines[1:]:
        if line.strip("- ") or not line:  # anything but a rule
            blocks[-1].append(line)
        else:
            blocks.append([])
    blocks[1:-1] = sorted(blocks[1:-1])  # tyro's order of suggestions changes from process to process
    mistake = " ".join(" ".join(blocks[0]).split()).removesuffix(".").replace(". Expected", "; expected")
    options = [[line[6:] for line in block if re.match(r" {6}\S", line)] for block in blocks]
    match title.strip():
        case "Required options":
            came = [word for block, words in zip(blocks, options, strict=True) for word in words if "Unrec" in block[0]]
            return f"expected {' and '.join(options[0])}, got {', '.join(came) or 'none'}"
        case "Value error" if options[1:] and options[1]:
            said = blocks[0][0].partition(": ")[2]
            # tyro quotes the words as Python would, in a list or alone, at the end
            came = re.search(r"\[(['\"].*['\"])\]", said) or re.search(r"(['\"].*['\"])$", said)
            return f"expected {options[1][0]}, got {came[1] if came else said}"
        case "Unrecognized options":
            # The first block tells the mistake, the last points to --help
            meant = [option for block in options[1:-1] for option in block][:SUGGESTIONS]
            mistake += f"; perhaps you meant {' or '.join(meant)}" if meant else ""
    return mistake[:1].lower() + mistake[1:]
