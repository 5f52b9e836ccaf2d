"""On what a run is computed: options of a command, no part of a run's settings, since they don't decide its numbers."""

from dataclasses import dataclass

from ntkcl_jax.errors import require


@dataclass(frozen=True)
class MeshConfig:
    """How the devices share the work."""

    data: int = 0
    """Devices along which each batch is split; 0: as many as there are (divided by `model`)."""
    model: int = 1
    """Devices along which the backbone's large arrays are split, for backbones that don't fit on one device."""

    def __post_init__(self) -> None:
        """Refuse numbers of devices without meaning."""
        require(self.data >= 0, f"mesh.data must not be negative, got {self.data}")
        require(self.model >= 1, f"mesh.model must be at least 1, got {self.model}")


@dataclass(frozen=True)
class HostsConfig:
    """The processes of a run on several hosts; each of them is started with the same command."""

    coordinator: str = ""
    """Empty: one process. `auto`: what SLURM, a TPU pod, Open MPI or Kubernetes tells. HOST:PORT: the address of the
    first process, with `processes` and `process`."""
    processes: int = 0
    """Number of processes, with HOST:PORT."""
    process: int = -1
    """Number of this process, from 0, with HOST:PORT."""

    def __post_init__(self) -> None:
        """Refuse half an address."""
        if self.coordinator in ("", "auto"):
            given = self.processes != 0 or self.process != -1
            require(not given, "hosts.processes and hosts.process need hosts.coordinator=HOST:PORT")
            return
        # From the right: an IPv6 address has colons of its own
        host, _, port = self.coordinator.rpartition(":")
        require(
            bool(host) and port.isdigit() and 0 < int(port) < 2**16,
            f"hosts.coordinator must be auto or HOST:PORT, got {self.coordinator!r}",
        )
        require(self.processes >= 1, f"hosts.processes must be at least 1 with an address, got {self.processes}")
        require(
            0 <= self.process < self.processes,
            f"hosts.process must be from 0 to {self.processes - 1}, got {self.process}",
        )
