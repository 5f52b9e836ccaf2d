"""What commands of `experiments` share: the line that was typed, as a page may show it, and the part that they fill."""

import shlex
from collections.abc import Sequence
from pathlib import Path


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
