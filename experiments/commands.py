"""What commands of `experiments` share: command lines, pages to fill, files of what was measured."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ntkcl_jax.errors import ConfigError, DataError, NtkclError
from ntkcl_jax.runs.folder import provenance
from ntkcl_jax.terminal.console import USER_ERROR

Record = Mapping[str, Any]
"""What a command measured of a stream, with its command line, versions and commit."""
Say = Callable[[str], None]
One = TypeVar("One")


def command_line(words: Sequence[str]) -> str:
    """A `sys.argv` as one would type it; of an absolute path only the name is left.

    Args:
        words: of a module of `experiments` or of a program; may be empty.

    Example:
        >>> command_line(["/a/experiments/sweep/__main__.py", "methods", "--data", "cifar100=/b/my data"])
        "python -m experiments.sweep methods --data 'cifar100=FOLDER/my data'"
        >>> command_line(["/a/bin/ntkcl", "demo"])
        'ntkcl demo'
    """
    if not words:
        return ""
    path = Path(words[0])
    start = [path.name]
    if path.suffix == ".py":
        parts = path.with_suffix("").parts
        # From the last folder of that name on; elsewhere the package and its module
        inside = len(parts) - 1 - parts[::-1].index("experiments") if "experiments" in parts else -2
        start = ["python", "-m", ".".join(parts[inside:]).removesuffix(".__main__")]
    return shlex.join([*start, *map(without_folder, words[1:])])


def without_folder(word: str) -> str:
    """A word of a command line, with `FOLDER` in place of the folder of an absolute path.

    Example:
        >>> without_folder("icons=/home/me/icons"), without_folder("/data/x.npz"), without_folder("a/b")
        ('icons=FOLDER/icons', 'FOLDER/x.npz', 'a/b')
    """
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}FOLDER/{Path(value).name}" if value.startswith("/") else word


def write_into(page: Path, text: str, name: str) -> None:
    """Replace what stands between the two comments of a page that a command fills.

    Args:
        page: a Markdown page.
        text: whole lines.
        name: of the command's module, as the comments have it.

    Raises:
        ValueError: the page has no such comments.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"expected the comments {first} and {last} in {page}; put them where the table belongs")
    page.write_text(f"{before}{first}\n{text}{last}{after}")


def shown(text: str, page: Path | None, name: str) -> None:
    """Print what a command has to tell, and write it into its part of a page where one was named.

    Raises:
        ConfigError: the page can't be read or written, or has no such part.
    """
    if page:
        try:
            write_into(page, text, name)
        except (OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
    print(text, end="")


def commit_of(record: Record) -> str:
    """First digits of the commit that measured, and a + where there were changes.

    Example:
        >>> commit_of({"commit": {"commit": "0123456789abcdef", "modified": True}}), commit_of({"commit": None})
        ('01234567+', 'unknown')
    """
    git = record["commit"]
    return f"{git['commit'][:8]}{'+' * git.get('modified', False)}" if git else "unknown"


def measure_each(
    file: Path, streams: Iterable[tuple[str, One]], measured: Callable[[One, Say], dict[str, Any]]
) -> None:
    """Measure streams; each is written as soon as it is there, in the place of an older one.

    Args:
        file: where all of them are.
        streams: name of each, and what `measured` needs of it.
        measured: measures one; it is given what tells how far it is.
    """
    start, facts = time.perf_counter(), provenance()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {line}", flush=True)

    made = {"command": shlex.split(command_line(sys.argv)), "commit": facts["git"], "versions": facts["versions"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, one in streams:
        record = measured(one, say) | made
        write(file, (read(file) if file.exists() else {}) | {name: record})


def write(file: Path, known: Mapping[str, Record]) -> None:
    """Store what was measured, a line for each stream, numbers with six digits."""
    lines = (f"{json.dumps(name)}: {json.dumps(rounded(record))}" for name, record in known.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rounded(value: Any) -> Any:
    """The same with six digits of each number.

    Example:
        >>> rounded({"a": [1 / 3, 2, "b"]})
        {'a': [0.333333, 2, 'b']}
    """
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read(file: Path) -> dict[str, Record]:
    """What was measured, by stream.

    Raises:
        DataError: nothing was.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"expected {file} with what was measured; {error}: measure without --tables-only") from error


def ended(name: str, run: Callable[[Sequence[str]], None]) -> None:
    """Run this process's command line; a mistake that the user can mend is one line, and exit code 2.

    Args:
        name: of the command's module.
        run: given the words after it.
    """
    try:
        run(sys.argv[1:])
    except NtkclError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
