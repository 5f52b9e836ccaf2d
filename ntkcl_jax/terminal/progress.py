"""Progress for people: bars on a terminal, plain lines elsewhere."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self


def seconds(duration: float) -> str:
    """Write a duration for people.

    Args:
        duration: seconds; negative counts as zero.

    Example:
        >>> seconds(3.21), seconds(42), seconds(80), seconds(7500)
        ('3.2 s', '42 s', '1 min 20 s', '2 h 05 min')
    """
    if not math.isfinite(duration):
        return "unknown"
    # Rounded before the unit is chosen: 59.7 s is 1 min 0 s, not 60 s
    tenths = round(max(0.0, duration) * 10)
    if tenths < 100:
        return f"{tenths / 10:.1f} s"
    whole = round(max(0.0, duration))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain_text(text: str) -> str:
    """Replace everything unprintable (control characters, terminal escapes, lone surrogates) by `?`.

    Names of classes come from folders that somebody else made; they must not steer a terminal.

    Example:
        >>> plain_text("digits 3 7"), plain_text("a" + chr(27) + "[2Jb")
        ('digits 3 7', 'a?[2Jb')
    """
    return "".join(c if c.isprintable() else "?" for c in str(text))


class Stage:
    """One stretch of equal steps, such as the training of one task; made by `Progress.stage`."""

    def __init__(self, title: str, total: int, show: Callable[[], None], clock: Callable[[], float]) -> None:
        """Start at step 0; `show` is called after each advance."""
        self.title = plain_text(title)
        self.total = total
        self.done = 0
        self.loss: str | None = None
        self.images_per_s: float | None = None
        self._show = show
        self._clock = clock
        self._start = clock()

    def advance(self, steps: int = 1, *, loss: str | None = None, images_per_s: float | None = None) -> None:
        """Count `steps` more; a loss or speed that isn't given stays as it was."""
        self.done += steps
        self.loss = self.loss if loss is None else plain_text(loss)
        self.images_per_s = self.images_per_s if images_per_s is None else float(images_per_s)
        self._show()

    @property
    def figures(self) -> str:
        """Speed and loss as far as they are known: `840 images/s, loss 1.23`."""
        speed = [] if self.images_per_s is None else [f"{self.images_per_s:,.0f} images/s"]
        return ", ".join(speed + ([] if self.loss is None else [f"loss {self.loss}"]))

    @property
    def line(self) -> str:
        """The one line that stays when the stage is over."""
        steps = f"{self.done} steps" if self.done == self.total else f"stopped at step {self.done} of {self.total}"
        elapsed = seconds(self._clock() - self._start)
        return f"{self.title}: {steps}, {elapsed}" + (f", {self.figures}" if self.figures else "")


class Progress:
    """Shows how far a run is: bars on a terminal, one plain line for each finished stage elsewhere, or nothing.

    Example:
        >>> with Progress(stream=sys.stdout) as progress:
        ...     with progress.stage("task 1/5", total=2) as stage:
        ...         stage.advance(2, loss="1.23", images_per_s=840)
        task 1/5: 2 steps, 0.0 s, 840 images/s, loss 1.23
    """

    def __init__(self, quiet: bool = False, stream: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Choose the way of showing; nothing is written yet.

        Args:
            quiet: write nothing at all.
            stream: text stream to write to; standard error unless given.
            clock: seconds from any origin.
        """
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._silent = quiet or self._stream is None
        self._bars: Any = None

    def __enter__(self) -> Self:
        """Start drawing where there is a terminal."""
        if not self._silent and _draws_bars(self._stream):
            self._bars = _bars(self._stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing and leave the terminal as it was, after errors and interrupts too."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def say(self, text: str) -> None:
        """Write a text on lines of its own, above any bar; nothing when quiet."""
        lines = [plain_text(line) for line in str(text).splitlines()]
        if self._silent:
            return
        if self._bars is not None:
            for line in lines:
                # Square brackets in a class's name are no markup of rich's
                self._bars.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
            return
        try:
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            for line in lines:
                # What this stream's encoding lacks becomes `?` instead of an error in the middle of a run
                self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the reader went away (closed pipe): the run matters more than its progress
            self._silent = True

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Generator[Stage]:
        """Show one stretch of `total` steps; its last line tells steps, time, speed and loss.

        Args:
            title: e.g. `seed 0 · task 1/5 · digits 3 7`.
            total: number of steps expected.

        Yields:
            The stage; call its `advance`.
        """
        bars = self._bars
        # What it shows with is set below: the bar needs the stage's cleaned title first
        stage = Stage(title, total, lambda: None, self._clock)
        if bars is None:
            try:
                yield stage
            finally:
                self.say(stage.line)
            return
        bar = bars.add_task(stage.title, total=total, figures="")
        stage._show = lambda: bars.update(bar, completed=stage.done, figures=stage.figures)
        try:
            yield stage
        finally:
            bars.remove_task(bar)
            bars.refresh()  # or the line below would stand above a last picture of the bar
            self.say(stage.line)


def _draws_bars(stream: Any) -> bool:
    """A terminal that moves its cursor and shows the characters of a bar."""
    try:
        terminal = bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
    encoding = str(getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return terminal and encoding == "utf8" and os.environ.get("TERM", "") not in ("dumb", "unknown")


def _bars(stream: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    return RichProgress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(file=stream),
        refresh_per_second=4,
        redirect_stdout=False,  # what a program prints to standard output must stay there
        redirect_stderr=stream is sys.stderr,  # a warning scrolls above the bar instead of tearing it
    )
