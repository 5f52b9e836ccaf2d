"""Devices in a grid of `data` x `model`: batches are split over the first, the backbone's large arrays over the second.

Everything else is on every device. The compiled programs know nothing of it: XLA divides them by where their arguments
lie (computation follows data), so one device and a thousand run the same code.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ntkcl_jax.config.devices import MeshConfig
from ntkcl_jax.devices.hosts import several
from ntkcl_jax.errors import ConfigError

DATA, MODEL = "data", "model"
SPLIT_FROM: int = 2**16
"""Smallest array, entries, that is split over `model`: below, sending costs more than it saves."""
T = TypeVar("T")


def make_mesh(config: MeshConfig) -> Mesh:
    """Lay all devices of all processes out.

    A process's devices follow each other along `data`, so each process prepares consecutive rows of a batch.

    Args:
        config: numbers of devices.

    Raises:
        ConfigError: there are fewer devices, or some processes would have none.

    Example:
        >>> dict(make_mesh(MeshConfig(data=1)).shape)
        {'data': 1, 'model': 1}
    """
    devices = jax.devices()
    data = config.data or len(devices) // config.model
    # `data` is 0 where `model` alone asks for more devices than there are
    need = max(data, 1) * config.model
    if need > len(devices) or (several() and need != len(devices)):
        raise ConfigError(
            f"mesh.data={config.data} and mesh.model={config.model} need {need} devices, there are {len(devices)} "
            f"({devices[0].device_kind}, {jax.process_count()} processes); lower them"
            + (", or use all: every process must take part" if several() else "")
        )
    # `model` runs fastest: devices with parts of one backbone, which exchange most, are neighbours
    return Mesh(np.array(devices[:need]).reshape(data, config.model), (DATA, MODEL))


def one_device() -> Mesh:
    """The first device of this process alone."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), (DATA, MODEL))


def describe(mesh: Mesh) -> dict[str, Any]:
    """What `config.json` says of the devices."""
    return {**mesh.shape, "kind": mesh.devices.flat[0].device_kind, "processes": jax.process_count()}


def padded_rows(mesh: Mesh, batch_size: int) -> int:
    """Rows of a batch that every device gets an equal share of."""
    share = mesh.shape[DATA]
    return -(-batch_size // share) * share


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """Rows of a (padded) batch that this process's devices hold; all of them when it is alone.

    Example:
        >>> local_rows(one_device(), 16)
        slice(0, 16, None)
    """
    rows = padded_rows(mesh, batch_size)
    held = NamedSharding(mesh, PartitionSpec(DATA)).addressable_devices_indices_map((rows,)).values()
    # A dimension that isn't split is `slice(None)`, which `indices` turns into numbers
    parts = [part[0].indices(rows) for part in held if part is not None]
    return slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))


def shard_batch(mesh: Mesh, batch: T) -> T:
    """Put a batch, of which this process holds the rows of `local_rows`, onto the devices, divided over `data`."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    if not several():
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Where an array lies that every device has."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh | AbstractMesh, tree: T) -> T:
    """Put arrays onto every device; those that lie on the mesh already, in whatever way, stay."""

    def put(x: Any) -> jax.Array:
        # The backbone's matrices stay divided: whole copies might not fit
        if isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh:
            return x
        return _put(x, replicated(mesh))

    return jax.tree.map(put, tree)


def shard_parameters(mesh: Mesh, tree: T) -> T:
    """Put parameters onto the devices, large matrices divided over `model` along their longest axis that it divides."""

    def put(x: Any) -> jax.Array:
        return _put(x, NamedSharding(mesh, split(mesh.shape[MODEL], x.shape)))

    return jax.tree.map(put, tree)


def constrained(tree: T, sharding: NamedSharding | None) -> T:
    """Within a compiled step: keep results where the next step expects them; None leaves it to XLA."""
    return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)


def split(parts: int, shape: tuple[int, ...]) -> PartitionSpec:
    """How an array is divided into `parts` over `model`: along its longest axis that can be, if it is worth it.

    Example:
        >>> tuple(split(2, (768, 3072)))
        (None, 'model')
    """
    able = [n if n % parts == 0 else 0 for n in shape]
    # Matrices only: biases, norms and positions are small
    if parts == 1 or len(shape) != 2 or np.prod(shape) < SPLIT_FROM or not any(able):
        return PartitionSpec()
    axis = len(shape) - 1 - int(np.argmax(able[::-1]))  # the last of equals: outputs of a square kernel
    return PartitionSpec(*(MODEL if i == axis else None for i in range(len(shape))))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if not several():
        return jax.device_put(x, sharding)
    # A random key has no NumPy form: the numbers behind it travel
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    value = np.asarray(x)  # the same in every process: nothing is sent
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
