"""The report's first box: what to do next, from `advice.json`, or the command that makes it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.reading import RunFiles, clean
from analysis.report.sections import command, printable
from analysis.store.advice_forms import MethodAdvice

LONGEST = 600
"""Characters of a sentence that are shown."""


@dataclass(frozen=True)
class Advised:
    """What the box holds.

    Attributes:
        says: sentences about the method that the report is about.
        next: the command to run next; "" for none.
        decides: commands that would decide what isn't known yet.
        others: a line about each other method.
        missing: the command that makes the advice, where there is none yet.
    """

    says: Sequence[str] = ()
    next: str = ""
    decides: Sequence[str] = ()
    others: Sequence[str] = ()
    missing: str = ""


def advised(files: RunFiles) -> Advised:
    """The box of a run.

    Example:
        >>> from pathlib import Path
        >>> from analysis.store.forms import ConfigFile, Settings, UsedData
        >>> settings = Settings(preset="digits", methods=("ntkcl",))
        >>> config = ConfigFile(format=2, config=settings, data=UsedData(class_names=()), scenarios={})
        >>> advised(RunFiles(Path("runs/a"), config)).missing
        'ntk-analysis advise runs/a'
    """
    if files.advice is None:
        return Advised(missing=command("ntk-analysis advise", files))
    first, *others = files.advice.methods
    return Advised(
        says=[clean(sentence, LONGEST) for sentence in first.says],
        next=printable(shlex.join(first.command)),
        decides=[printable(words) for words in first.decide],
        others=[in_a_line(one) for one in others],
    )


def in_a_line(one: MethodAdvice) -> str:
    """What is said of another method, and its command."""
    said = " ".join(clean(sentence, LONGEST) for sentence in one.says)
    return f"{said} {printable(shlex.join(one.command))}".rstrip()
