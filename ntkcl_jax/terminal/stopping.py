"""A request to stop, Ctrl-C or SIGTERM, as an exception that `with` and `finally` clean up after and nothing swallows.

A signal's handler runs wherever Python happens to be. Where that is a finalizer or a callback of the garbage collector
(JAX has one), Python reports what it raises as unraisable and goes on: the process would have been told in vain.
"""

import signal
import sys
from collections.abc import Callable

AGAIN_S = 0.05
"""Seconds after which a request that was swallowed is made again."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def terminate(*_: object) -> None:
    """The usual handler of SIGTERM, which batch systems end jobs by.

    Raises:
        Terminated: always.
    """
    raise Terminated


def stop_when_told(handler: Callable[..., None] = terminate) -> None:
    """Let SIGTERM raise in this process, and see to it that neither it nor Ctrl-C is lost.

    Args:
        handler: of SIGTERM.
    """
    usual = sys.unraisablehook
    lost: list[int] = []

    def note(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
            return
        lost[:] = [signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT]
        # Not here, where it would be swallowed again; by a timer, since a thread may need a lock that is held here
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def again(*_: object) -> None:
        number = lost.pop()
        now = signal.getsignal(number)
        # Whoever holds requests back at the moment (a checkpoint being written) holds this one back too
        if callable(now):
            now(number, None)
        else:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGALRM, again)
    sys.unraisablehook = note
