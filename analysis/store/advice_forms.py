"""The form of `advice.json`, what to do next about a run, as classes.

Accuracies and their differences are in points, with standard errors; a file may hold more than is named.
"""

from typing import ClassVar, Literal

from analysis.measures.error_bars import is_told
from analysis.store.forms import Count, Form
from analysis.store.study_forms import STUDY_FORMAT

Kind = Literal["rate", "readout", "misfit", "few"]


class Points(Form, frozen=True, kw_only=True):
    """Accuracy, or a difference of two, in points.

    Attributes:
        value: the number.
        error: its standard error.
    """

    value: float
    error: float

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if self.error < 0:
            raise ValueError("error: expected a standard error from 0 on")

    @property
    def told(self) -> bool:
        """Whether it is told from zero: more than two standard errors away.

        Example:
            >>> Points(value=-4.1, error=2.0).told, Points(value=4.0, error=2.0).told
            (True, False)
        """
        return is_told(self.value, self.error)


class Finding(Form, frozen=True, kw_only=True):
    """One thing that is wrong with a method's run.

    Attributes:
        kind: `rate` (later tasks move the network too far), `readout` (another one is better), `misfit` (the backbone
            doesn't tell the classes apart) or `few` (too few images or seeds to tell anything).
        gain: points to win at the run's end; None where nothing tells.
        at_most: whether `gain` is a limit rather than what is expected.
        says: a sentence.
    """

    kind: Kind
    gain: Points | None = None
    at_most: bool = False
    says: str


class MethodAdvice(Form, frozen=True, kw_only=True):
    """What to do about one method of a run.

    Attributes:
        method: its name.
        final: accuracy at the end.
        lost: what old tasks lost since each was learned; None of a single task, and where it wasn't counted.
        competition: what new classes took of it.
        drift: what training later tasks did.
        findings: what is wrong, most points to win first.
        says: two or three sentences.
        command: words of the command to run next; none: nothing to run.
        follow: the method of the new run that the advice is about; "" without a command.
        decide: command lines that would decide what isn't known yet.
    """

    method: str
    final: Points
    lost: Points | None = None
    competition: Points | None = None
    drift: Points | None = None
    findings: tuple[Finding, ...] = ()
    says: tuple[str, ...]
    command: tuple[str, ...] = ()
    follow: str = ""
    decide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.says:
            raise ValueError("says: expected at least a sentence")
        if bool(self.command) != bool(self.follow):
            raise ValueError("command and follow: expected both or none")


class LeftOutImages(Form, frozen=True, kw_only=True):
    """Readouts compared on training images that are left out in turn.

    Attributes:
        images: how many.
        classes: that they are of.
        per_class: training images of the class that has fewest.
        untouched: points of accuracy of each readout over the frozen backbone.
        rested: the same over NTK-CL's network as it was after its first task; None of a run without it.
        ended: NTK-CL's own accuracy on them at the run's end, not left out; None of a run without it.
        best: the cheapest of `ridge`, `random-ridge` and `multilevel` whose squared error none of these is better than
            by more than a standard error.
    """

    images: Count
    classes: Count
    per_class: Count
    untouched: dict[str, Points]
    rested: dict[str, Points] | None = None
    ended: Points | None = None
    best: str

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if self.best not in self.untouched:
            raise ValueError("best: expected one of the readouts")


class AdviceFile(Form, frozen=True, kw_only=True):
    """`advice.json`.

    Attributes:
        format: `STUDY_FORMAT`.
        methods: of each method of the run; the one that the report is about comes first.
        left_out: what readouts were compared on.
        versions: of Python and packages, by name.
        commit: hash of the code.
    """

    version: ClassVar[int] = STUDY_FORMAT
    format: int
    methods: tuple[MethodAdvice, ...]
    left_out: LeftOutImages
    versions: dict[str, str] | None = None
    commit: str | None = None

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.methods:
            raise ValueError("methods: expected at least one")
