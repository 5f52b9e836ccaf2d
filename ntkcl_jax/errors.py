"""The errors that a user can cause and can act on.

Every message says what was expected, what came, and what to do. The command line prints the message alone and exits
with code 2; anything else that escapes is a bug and keeps its traceback.
"""

import os
from pathlib import Path


class NtkclError(Exception):
    """Base of all errors with a remedy; the command line turns it into one line and exit code 2."""


class ConfigError(NtkclError):
    """A preset, option or combination of options that can't be used."""


def require(condition: bool, message: str) -> None:
    """Refuse a setting.

    Raises:
        ConfigError: the condition doesn't hold.
    """
    if not condition:
        raise ConfigError(message)


def reason(error: BaseException) -> str:
    """First line of what an error says, of bounded length; of one that says nothing, its kind.

    Example:
        >>> reason(OSError("no such bucket")), reason(EOFError())
        ('no such bucket', 'EOFError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that somebody named, with the home folder for `~`.

    Raises:
        ConfigError: no file can have that name.

    Example:
        >>> user_path("~nobody-here/x").name
        'x'
    """
    try:
        if b"\0" not in os.fsencode(path):
            return Path(os.path.expanduser(path))
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"{os.fspath(path)!r} can't be a path: it has a sign that no file's name may have")


class DataError(NtkclError):
    """Images, labels or a folder layout that can't be read as a continual-learning stream."""


class WeightsError(NtkclError):
    """A weights file that is missing, damaged or of another architecture."""


class RunFolderError(NtkclError):
    """A run folder that exists, is locked, is incomplete, or can't be written."""


class MemoryShortError(NtkclError):
    """The device or the machine has too little memory; names what would fit."""


class NonFiniteError(NtkclError):
    """A loss term, parameter or feature that became NaN or infinite; names the term, step and task."""
