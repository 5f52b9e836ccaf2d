"""Progress is readable with and without a terminal, and never in the way of the run."""

import io
import json
import subprocess
import sys

import pytest

from ntkcl_jax.runs import log as logs
from ntkcl_jax.runs.log import Progress, plain_text, seconds
from tests.unit.runs.test_log import Clock


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (-3, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (80, "1 min 20 s"),
        (119.6, "2 min 0 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100000, "27 h 47 min"),
        (float("inf"), "unknown"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_read_well_and_carry_over(duration, text):
    assert seconds(duration) == text


def test_without_a_terminal_each_stage_leaves_one_plain_line():
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock) as progress:
        progress.say("ready")
        with progress.stage("seed 0 · task 1/5 · [red]3 7[/red]", total=3) as stage:
            for loss in ("2.0", "1.5", "1.23"):
                stage.advance(1, loss=loss, images_per_s=1840.4)
            stage.advance(0)
            clock.now += 80
    assert stream.getvalue() == (
        "ready\nseed 0 · task 1/5 · [red]3 7[/red]: 3 steps, 1 min 20 s, 1,840 images/s, loss 1.23\n"
    )


def test_a_stage_that_is_interrupted_says_where():
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        Progress(stream=stream, clock=Clock()) as progress,
        progress.stage("task 1/5", total=10) as stage,
    ):
        stage.advance(4)
        raise KeyboardInterrupt
    assert stream.getvalue() == "task 1/5: stopped at step 4 of 10, 0.0 s\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_writes_nothing(stream):
    out = stream()
    with Progress(quiet=True, stream=out) as progress:
        progress.say("hello")
        with progress.stage("task", total=1) as stage:
            stage.advance()
    assert out.getvalue() == ""


def test_escapes_in_names_do_not_reach_the_terminal():
    stream = io.StringIO()
    with Progress(stream=stream, clock=Clock()) as progress:
        progress.say("a\x1b[2Jb\rc\nd")
        with progress.stage("x\x1b]0;title\x07", total=0) as stage:
            stage.advance(0, loss="\x1b[31m1")
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()
    assert stream.getvalue().splitlines()[-1] == "x?]0;title?: 0 steps, 0.0 s, loss ?[31m1"
    assert plain_text("\ud800") == "?"


def test_a_stream_of_another_encoding_gets_question_marks_not_a_crash():
    memory = io.BytesIO()
    with Progress(stream=io.TextIOWrapper(memory, encoding="ascii"), clock=Clock()) as progress:
        progress.say("task · 1")
        assert memory.getvalue() == b"task ? 1\n"


def test_a_closed_pipe_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Progress(stream=Gone()) as progress:
        progress.say("one")
        with progress.stage("task", total=1) as stage:
            stage.advance()
    assert stage.done == 1


def test_on_a_terminal_a_bar_moves_and_the_line_stays(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Progress(stream=stream) as progress, progress.stage("task 1/5 · [red]3 7", total=2) as stage:
        stage.advance(1, loss="1.23", images_per_s=840)
        progress._bars.refresh()
        progress.say("[bold]halfway")
        stage.advance(1)
    text = stream.getvalue()
    assert "1/2" in text and "840 images/s, loss 1.23" in text  # while it runs
    assert "task 1/5 · [red]3 7: 2 steps, " in text  # afterwards, markup untouched
    assert "[bold]halfway" in text
    assert "images/s" not in text.split("2 steps, ")[1].split("\n", 1)[1]  # and no bar is left below it
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is given back


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(stream=stream, clock=Clock()) as progress, progress.stage("task", total=0):
        pass
    assert stream.getvalue() == "task: 0 steps, 0.0 s\n"


def test_importing_logs_imports_neither_rich_nor_jax():
    code = f"import sys; import {logs.__name__}; print([m for m in ('rich', 'jax', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
