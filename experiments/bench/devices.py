"""One training step divided over several devices: bytes sent and memory of each, as XLA plans them.

Started by `apart` in a process of its own for each number of devices, which on a CPU are simulated:
good for counting bytes and checking that the loss stays the same, never for time. Prints one JSON line.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from experiments.bench.ours import middle
from experiments.bench.sizes import model
from ntkcl_jax.config.devices import MeshConfig
from ntkcl_jax.devices.mesh import make_mesh, replicate, replicated, shard_batch
from ntkcl_jax.training.step import train_step

WIDTHS = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
"""Bytes of a number, as XLA writes its type."""
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of every collective of a compiled program, by kind.

    Args:
        program: its text, one instruction a line.

    Example:
        >>> collective_bytes("%a = (f32[2,3]{1,0}, bf16[]) all-reduce(%b, %c), channel_id=1")
        {'all-reduce': 26}
    """
    found: dict[str, int] = {}
    # Of an asynchronous pair only the start is counted
    for shapes, kind in re.findall(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(", program):
        size = sum(
            WIDTHS[name] * int(np.prod([int(n) for n in axes.split(",") if n], dtype=np.int64))
            for name, axes in re.findall(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]", shapes)
        )
        found[kind] = found.get(kind, 0) + size
    return found


def measured(size: str, image_size: int | None, batch: int, dtype: Any, devices: int) -> dict[str, Any]:
    """Compile a step for so many devices, and take it once.

    Returns:
        Loss terms, bytes of each kind of collective, and one device's memory.
    """
    mesh = make_mesh(MeshConfig(data=devices))
    made = middle(model(size, image_size), batch, dtype)
    learner, recipe, state, frozen, task, images, *rest = made.step_arguments
    # The batch is divided, everything else is whole on each device
    placed = (*replicate(mesh, (state, frozen, task)), shard_batch(mesh, images), *replicate(mesh, rest))
    compiled = train_step.lower(learner, recipe, *placed, sharding=replicated(mesh)).compile()
    memory = compiled.memory_analysis()
    return {
        "devices": devices,
        "trained_bytes": sum(x.nbytes for x in made.state.trainable.values()),
        "collectives": collective_bytes(compiled.as_text()),
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "arguments_mb": memory.argument_size_in_bytes / 1e6,
        "terms": np.asarray(compiled(*placed)[1].terms, np.float64).tolist(),
        "device": jax.devices()[0].device_kind,
    }


def apart(devices: int, size: str, batch: int, dtype: str = "float32", image_size: int | None = None) -> dict[str, Any]:
    """`measured` in a process of its own, with so many simulated devices where it computes on a CPU."""
    words = ["--devices", devices, "--size", size, "--batch", batch, "--dtype", dtype]
    words += ["--image-size", image_size] if image_size else []
    # JAX takes its number of devices once, when it starts
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.devices", *map(str, words)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure one number of devices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(json.dumps(measured(options.size, options.image_size, options.batch, options.dtype, options.devices)))


if __name__ == "__main__":
    main()
