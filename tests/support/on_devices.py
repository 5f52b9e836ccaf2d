"""`ntkcl` on a mesh of simulated devices, as a program of its own: JAX decides at its start how many a CPU has.

python -m tests.support.on_devices DIE_AT WORD ...

DIE_AT: step of task 1 before whose checkpoint the process is killed, or 0.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]


def start(devices: int, *words: str, die_at: int = 0) -> subprocess.Popen:
    """Start `ntkcl` with so many simulated devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", "tests.support.on_devices", str(die_at), *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(*processes: subprocess.Popen) -> list[str]:
    """Wait for programs, and return what they wrote to stderr."""
    try:
        return [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()  # does nothing to those that have ended


def finish(*processes: subprocess.Popen) -> None:
    """Wait for programs that must succeed."""
    for process, error in zip(processes, ended(*processes), strict=True):
        assert process.returncode == 0, error


def address() -> str:
    """HOST:PORT that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def main() -> None:
    """Run the rest of the command line as `ntkcl` does."""
    from ntkcl_jax import cli
    from ntkcl_jax.devices import hosts, mesh
    from ntkcl_jax.runs import checkpoint

    mesh.SPLIT_FROM = 64  # so that a backbone of 16 channels is split at all
    hosts.HEARTBEAT_S = 10
    save, die_at = checkpoint.save, int(sys.argv[1])

    def deadly(path: Path, *rest: Any) -> None:
        if path.parts[-2:] == ("task1", f"step{die_at}"):
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, *rest)

    with mock.patch.object(checkpoint, "save", deadly), mock.patch.object(sys, "argv", ["ntkcl", *sys.argv[2:]]):
        cli.main()


if __name__ == "__main__":
    main()
