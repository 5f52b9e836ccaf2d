"""A request to stop ends the process wherever it comes, even where Python swallows what is raised."""

import gc
import signal
import sys
import time
from collections.abc import Callable, Generator

import pytest

from ntkcl_jax.runs.checkpoint import _no_traces, _uninterrupted
from ntkcl_jax.terminal.stopping import Terminated, stop_when_told

LONG_S = 5.0


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    stop_when_told()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def in_a_collection(number: signal.Signals) -> None:
    """Collect garbage, and get a signal meanwhile."""

    def callback(phase: str, info: dict) -> None:
        gc.callbacks.remove(callback)
        signal.raise_signal(number)

    gc.callbacks.append(callback)
    gc.collect()


def in_a_finalizer(number: signal.Signals) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    Dying()


@pytest.mark.parametrize("where", [in_a_collection, in_a_finalizer])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_python_swallows_comes_again(where: Callable, number: signal.Signals) -> None:
    start = time.monotonic()
    with pytest.raises(Terminated if number == signal.SIGTERM else KeyboardInterrupt):
        where(number)
        time.sleep(LONG_S)
    assert time.monotonic() - start < LONG_S


def test_a_stop_that_a_checkpoint_would_have_silenced_ends_it_once_it_is_whole() -> None:
    done = []
    with pytest.raises(Terminated):
        with _no_traces(), _uninterrupted():
            done.append("written")
        with _no_traces():
            in_a_collection(signal.SIGTERM)
            with _uninterrupted():
                time.sleep(0.2)
                done.append("whole")
        time.sleep(LONG_S)
    assert done == ["written", "whole"]


def test_a_stop_is_told_although_the_handler_had_itself_ignored_from_then_on() -> None:
    def once(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    stop_when_told(once)
    with pytest.raises(Terminated):
        in_a_collection(signal.SIGTERM)
        time.sleep(LONG_S)


def test_other_errors_of_finalizers_are_reported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))
    stop_when_told()

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    Broken()
    assert seen == [ValueError]
