"""Time the exact kernel against neural-tangents and a plain vmap(jacrev), side by side in one run.

    python -m experiments.bench.kernels                      # k = 10 and 100, n = 8 ... 128, as far as memory goes
    python -m experiments.bench.kernels --outputs-k 10 --images 8 32

The model is a 12-block ViT (D = 192, 65 tokens, 5.4 M frozen parameters) with adapters (76 k trainable), read out by a
fixed random map to k outputs. Every figure comes from a process of its own: seconds of the first call (compilation
included), median seconds of the next ones, and the highest memory beyond what the process held before the kernel. Ways
take turns, so that a busy machine hurts all of them. One JSON file per machine, with versions and commit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from analysis.kernels.empirical import empirical_ntk
from analysis.kernels.neural_tangents_backend import neural_tangents_ntk
from analysis.kernels.planner import plan
from experiments.bench.machine import matrix_rate
from experiments.bench.process import resident_mb
from experiments.bench.results import FOLDER, result, write
from ntkcl_jax.config import BackboneConfig, ModelConfig
from ntkcl_jax.devices.host_memory import keep_freed_memory
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.ntkcl import Network

BACKBONE = BackboneConfig(image_size=64, patch_size=8, dim=192, depth=12, heads=3)
RANK = 16
BATCH = 8
"""Examples in a batch of `nt.batch`, and in a tile of the bounded way it is compared with."""


def readout(network: Network, params: Tree, images: jax.Array, *, frozen: Frozen, rest: Tree, head: jax.Array) -> Any:
    """Read k outputs from the adapted channel stream's class token."""
    channel = network.features({**params, **rest}, frozen, images).channel
    # The last section is the current set's, which alone depends on the adapters
    return channel[:, -len(head) :] @ head


def model(k: int, backbone: BackboneConfig = BACKBONE, zeros: bool = False) -> tuple[Partial, Tree]:
    """The function and its trainable parameters: the adapters alone.

    Args:
        k: outputs.
        backbone: shape of the network.
        zeros: nothing is drawn: enough to plan with.
    """
    network = Network(ModelConfig(backbone=backbone, adapter_rank=RANK), task_classes=2, classes=2)

    def made() -> tuple[Tree, Frozen, Tree, jax.Array]:
        trainable, frozen = network.init(jax.random.key(0))
        rng = np.random.default_rng(0)
        # Drawn anew: at their start the maps upwards are zero, which leaves those downwards without a gradient
        params = {
            path: jnp.asarray(rng.normal(0, 0.05, value.shape), jnp.float32)
            for path, value in trainable.items()
            if "adapters" in path
        }
        rest = {path: value for path, value in trainable.items() if path not in params}
        return params, frozen, rest, jnp.asarray(rng.normal(0, backbone.dim**-0.5, (backbone.dim, k)), jnp.float32)

    # Planning asks for shapes only: a large network is never drawn
    shapes = jax.eval_shape(made) if zeros else None
    params, frozen, rest, head = (
        made() if shapes is None else jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    )
    return Partial(partial(readout, network), frozen=frozen, rest=rest, head=head), params


@jax.jit
def plain(fn: Partial, params: Tree, x: jax.Array) -> jax.Array:
    """What one would write first: the whole Jacobian by vmap(jacrev), then one product."""
    rows = jax.vmap(lambda row: jax.jacrev(lambda p: fn(p, row[None])[0])(params))(x)
    flat = jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(rows)], axis=2)
    return jnp.einsum("icp,jdp->ijcd", flat, flat)


def ways(fn: Partial, params: Tree, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Each way as a call without arguments."""
    return {
        "tiled": lambda: empirical_ntk(fn, params, x),
        "tiled_float32_sums": lambda: empirical_ntk(fn, params, x, precision="float32"),
        "tiled_bounded": lambda: empirical_ntk(fn, params, x, tile=BATCH, memory_bytes=bounded(fn, params, x)),
        "tiled_pseudo": lambda: empirical_ntk(fn, params, x, outputs="pseudo"),
        "tiled_trace": lambda: empirical_ntk(fn, params, x, outputs="trace"),
        "neural_tangents": lambda: neural_tangents_ntk(fn, params, x),
        "neural_tangents_batch": lambda: neural_tangents_ntk(fn, params, x, tile=BATCH),
        "vmap_jacrev": lambda: np.asarray(plain(fn, params, x)),
    }


def bounded(fn: Partial, params: Tree, x: np.ndarray) -> int:
    """Memory that holds two tiles of rows and no more (plus the result): what nt.batch needs at the same batch size."""
    smallest = plan(fn, params, x[:BATCH], BATCH, BATCH, outputs="full", precision="float64", tile=BATCH)
    k = jax.eval_shape(fn, params, x[:1]).shape[1]
    # A fifth more for what isn't counted, and the kernel itself in float64
    return int(1.2 * smallest.peak_bytes + 8 * (len(x) * k) ** 2)


def one(way: str, k: int, n: int, repeats: int) -> dict[str, Any]:
    """Measure one way on one size, in this process."""
    fn, params = model(k)
    x = np.random.default_rng(1).random((n, 64, 64, 3), np.float32)
    # The network and JAX itself are in memory before the count begins
    jax.block_until_ready(jax.jit(lambda fn, p, x: fn(p, x))(fn, params, x[:1]))
    before = resident_mb()
    call = ways(fn, params, x)[way]
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        theta = call()
        times.append(time.perf_counter() - start)
    return {
        "first_s": times[0],
        "seconds": statistics.median(times[1:]) if repeats else None,
        "peak_mb": resident_mb() - before,
        # Entries from all over the kernel show whether ways computed the same
        "checksum": float(np.asarray(theta, np.float64).ravel()[:: max(1, theta.size // 999)].sum()),
    }


def floor_gflop(k: int, n: int) -> float:
    """Operations that no exact way can avoid: n·k backward passes, and half the product."""
    fn, params = model(k)
    images = np.zeros((n, 64, 64, 3), np.float32)
    return plan(fn, params, images, n, None, outputs="full", precision="float32").floor / 1e9


def measure(command: list[str], limit_s: float) -> dict[str, Any] | None:
    """Run one measurement in a process of its own; None where it fails (memory) or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None


OURS, OTHER = "tiled_float32_sums", "neural_tangents"
"""The two ways that do the same in the same precision."""


def headline(cases: list[dict[str, Any]]) -> tuple[float, float, str]:
    """Seconds of our way and of the other in the largest case that has both, and which case that is.

    Example:
        >>> cases = [{"k": 1, "n": 2, "way": way, "seconds": s} for way, s in ((OURS, 2.0), (OTHER, 3.0))]
        >>> headline(cases)
        (2.0, 3.0, 'k=1 n=2')
    """
    sides: list[dict[tuple[int, int], float]] = [
        {(case["k"], case["n"]): case["seconds"] for case in cases if case["way"] == way and case.get("seconds")}
        for way in (OURS, OTHER)
    ]
    k, n = max(sides[0].keys() & sides[1].keys(), key=lambda size: size[0] * size[1])
    return sides[0][k, n], sides[1][k, n], f"k={k} n={n}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs-k", type=int, nargs="+", default=[10, 100], help="numbers of outputs")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32, 128], help="numbers of examples")
    parser.add_argument("--ways", nargs="+", help="only these ways")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls after the first")
    parser.add_argument("--limit-s", type=float, default=900, help="longest time for one measurement, seconds")
    parser.add_argument("--name", default="kernels", help="of the JSON file")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()  # as `ntk-analysis` does
    if options.one:
        print(json.dumps(one(options.one, options.outputs_k[0], options.images[0], options.repeats)))
        return
    cases = []
    for k in options.outputs_k:
        for n in options.images:
            floor = floor_gflop(k, n)
            rate = matrix_rate()
            for way in options.ways or ways(*model(2), np.zeros((1, 64, 64, 3), np.float32)):
                command = [sys.executable, "-m", "experiments.bench.kernels", "--one", way, "--outputs-k", str(k)]
                command += ["--images", str(n), "--repeats", str(options.repeats)]
                got = measure(command, options.limit_s)
                cases.append(
                    {"k": k, "n": n, "way": way, "floor_gflop": floor, "matrix_gflop_per_s": rate, **(got or {})}
                )
                text = "failed or too long" if got is None else f"{got['seconds'] or got['first_s']:8.2f} s"
                memory = "" if got is None else f"{got['peak_mb']:9.0f} MB   first {got['first_s']:.1f} s"
                print(f"k={k:<4} n={n:<4} {way:<24} {text} {memory}", flush=True)
    try:
        ours, other, about = headline(cases)
    except ValueError:
        sys.exit(f"error: expected a case that both {OURS} and {OTHER} can do, got none; nothing is written")
    made = result(
        options.name, ours, other, "s", jax.devices()[0].device_kind, other_is=f"{OTHER}, {about}", cases=cases,
        model={
            "backbone": "12 blocks, D=192, 65 tokens",
            "trainable": int(sum(v.size for v in model(2, zeros=True)[1].values())),
        },
    )  # fmt: skip
    print(write(made, options.out))


if __name__ == "__main__":
    main()
