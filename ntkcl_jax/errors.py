"""The errors that a user can cause and can act on.

Every message says what was expected, what came, and what to do. The command line prints the message alone and exits
with code 2; anything else that escapes is a bug and keeps its traceback.
"""


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


class DataError(NtkclError):
    """Images, labels or a folder layout that can't be read as a continual-learning stream."""


class WeightsError(NtkclError):
    """A weights file that is missing, damaged or of another architecture."""


class RunFolderError(NtkclError):
    """A run folder that exists, is locked, is incomplete, or can't be written."""


class NonFiniteError(NtkclError):
    """A loss term, parameter or feature that became NaN or infinite; names the term, step and task."""
