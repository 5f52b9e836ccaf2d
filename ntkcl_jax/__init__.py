"""NTK-CL: parameter-efficient continual learning on a frozen vision transformer, in JAX.

    import ntkcl_jax as ntk

    results = ntk.train(ntk.preset("digits", seeds=(0, 1, 2)), "runs/digits")
    run = ntk.load_run("runs/digits")

Names are imported when they are first used, so that `import ntkcl_jax` (and `ntkcl --help`) doesn't wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntkcl_jax.config import RunConfig
    from ntkcl_jax.config.devices import MeshConfig
    from ntkcl_jax.config.presets import preset, with_variants
    from ntkcl_jax.data import Arrays
    from ntkcl_jax.devices.host_memory import keep_freed_memory
    from ntkcl_jax.runs.recorded import load_run
    from ntkcl_jax.training.run import train

_HOMES = {
    "Arrays": "ntkcl_jax.data",
    "MeshConfig": "ntkcl_jax.config.devices",
    "RunConfig": "ntkcl_jax.config",
    "keep_freed_memory": "ntkcl_jax.devices.host_memory",
    "load_run": "ntkcl_jax.runs.recorded",
    "preset": "ntkcl_jax.config.presets",
    "train": "ntkcl_jax.training.run",
    "with_variants": "ntkcl_jax.config.presets",
}
__all__ = ["Arrays", "MeshConfig", "RunConfig", "keep_freed_memory", "load_run", "preset", "train", "with_variants"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ntkcl_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
