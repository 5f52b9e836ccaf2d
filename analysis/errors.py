"""The errors of analysis that a user can cause and can act on.

Every message says what was expected, what came, and what to do. The command line prints the message alone and exits
with code 2; anything else that escapes is a bug and keeps its traceback.
"""


class AnalysisError(Exception):
    """Base of all errors with a remedy; the command line turns it into one line and exit code 2."""


class FunctionError(AnalysisError):
    """A function, its parameters or its inputs that no kernel can be computed from."""


class PlanError(AnalysisError):
    """A request that this machine's memory can't hold, or a combination of options that means nothing."""


class TooLargeError(PlanError):
    """A kernel that memory can't hold.

    Attributes:
        facts: what it needs and what there is, without what to do.
    """

    def __init__(self, facts: str, remedy: str) -> None:
        """Make the message of both."""
        super().__init__(f"{facts}: {remedy}")
        self.facts = facts


class HealthError(AnalysisError):
    """A kernel that failed its checks; it isn't stored."""


class StoreError(AnalysisError):
    """A store of kernels that is missing, damaged, incomplete, of another run, or can't be written."""


class RecordError(AnalysisError):
    """A run without the checkpoint, task, seed or images that were asked for."""


class MeasureError(AnalysisError):
    """A measure that can't be loaded, has another's name, or gives something else than a number for each task."""
