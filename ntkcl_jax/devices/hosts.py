"""Several processes, one run: every process computes the same program on its share; only the first one writes.

With one process, the usual case, all of this does nothing.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ntkcl_jax.config.devices import HostsConfig
from ntkcl_jax.devices.memory import exhausted
from ntkcl_jax.errors import ConfigError, NtkclError, reason

HEARTBEAT_S: int = 60
"""Seconds of silence after which the others take a process for dead, and stop."""


@contextlib.contextmanager
def together(config: HostsConfig) -> Generator[None]:
    """Meet the run's other processes, and tell when one of them is lost.

    Must come before anything that asks JAX for devices.

    Raises:
        ConfigError: nothing tells where the others are, or they didn't come.
        NtkclError: one of them has died or can't be reached.
    """
    if not config.coordinator:
        yield
        return
    _join(config)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # XLA's lack of memory comes as the same type
        if exhausted(error):
            raise
        raise NtkclError(
            f"process {jax.process_index()} has lost another process of the run ({reason(error)}); see the others' "
            "messages, then start all of them again with --resume"
        ) from error


def _join(config: HostsConfig) -> None:
    auto = config.coordinator == "auto"
    try:
        jax.distributed.initialize(
            # None: JAX finds the others by itself, by what the scheduler or the pod tells
            None if auto else config.coordinator,
            None if auto else config.processes,
            None if auto else config.process,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"hosts.coordinator={config.coordinator}: the run's processes didn't meet ({reason(error)}); start one on "
            "every host, or give HOST:PORT with hosts.processes and hosts.process"
        ) from error


def several() -> bool:
    """Whether the run has more than one process (doesn't wake JAX's devices otherwise)."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes."""
    return not several() or jax.process_index() == 0


def broadcast(number: int) -> int:
    """What the first process found: what a file system shows may differ between hosts for a moment."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if several() else number


def on_first(action: Callable[[], Any]) -> None:
    """Let the first process act while the others wait; its failure stops all of them.

    Raises:
        NtkclError: in the other processes, when the first one failed (its own error is raised there).
    """
    failure: Exception | None = None
    if first():
        try:
            action()
        except Exception as error:
            failure = error
    # Reached whatever has happened, since the others wait in it
    if broadcast(failure is not None):
        raise failure or NtkclError("process 0 of the run stopped; see its message")


def fetch(tree: Any) -> Any:
    """Copy arrays to the host as NumPy, whole, wherever their parts are."""

    def whole(x: Any) -> Any:
        # Gathered only where parts lie elsewhere, since all processes must take part in that
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    if several():
        return jax.tree.map(whole, tree)
    return jax.device_get(tree)  # starts all copies before it waits for one
