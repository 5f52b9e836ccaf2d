"""Time the compiled steps.

    python -m experiments.bench                              # shipped nano shape
    python -m experiments.bench --backbone base --batch 16 --dtype bfloat16

Each figure is the median of `--repeats` calls after one that compiles; one JSON file per figure in --out, with `name`,
`value`, `unit`, `batch`, `device`, `versions`, `commit`, `command`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import BACKBONES, ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.nn.model import Network
from ntkcl_jax.runfolder import provenance
from ntkcl_jax.steps import TaskArrays, eval_step, make_optimizer, pixels_of, train_step

CLASSES, TASK_CLASSES = 100, 10


def milliseconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of the first call (compilation included) and median milliseconds of the next ones."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1000 * (time.perf_counter() - start))
    return first, statistics.median(times)


def measure(backbone: str, batch_size: int, dtype: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Time one training step, one evaluation step, and the untouched backbone on the same batch."""
    config = ModelConfig(backbone=BACKBONES[backbone])
    network = Network(config, task_classes=TASK_CLASSES, classes=CLASSES, dtype=dtype)
    adaptation, frozen = network.init(jax.random.key(0))
    optimizer, objective = OptimizerConfig(batch_size=batch_size), ObjectiveConfig()
    arrays = TaskArrays(
        jax.tree.map(jnp.copy, adaptation),
        jnp.zeros((config.feature_dim, objective.orthogonality_rank)),
        jnp.ones(TASK_CLASSES, bool),
        jnp.int32(0),
        jnp.int32(0),
    )
    size = config.backbone.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, config.backbone.channels), np.uint8)
    labels = np.arange(batch_size, dtype=np.int32) % TASK_CLASSES
    batch = Batch(images, labels, np.ones(batch_size, bool))
    task_of_class = jnp.arange(CLASSES) // TASK_CLASSES
    state = [jax.tree.map(jnp.copy, adaptation), make_optimizer(optimizer).init(adaptation)]
    key, rate = jax.random.key(1), jnp.float32(1e-3)

    def one_step() -> Any:
        state[0], state[1], result = train_step(
            network, objective, optimizer, *state, frozen, arrays, batch, rate, key, jnp.int32(0)
        )
        return result

    backbone_fn = jax.jit(lambda tree, batch: network.backbone_fn(tree, pixels_of(batch, size)))
    return {
        "backbone_forward": milliseconds(lambda: backbone_fn(frozen.backbone, batch), repeats),
        "evaluation_step": milliseconds(lambda: eval_step(network, adaptation, frozen, batch, task_of_class), repeats),
        "training_step": milliseconds(one_step, repeats),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="nano")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls")
    parser.add_argument("--out", type=Path, default=Path("experiments/bench/results"))
    options = parser.parse_args()
    facts = provenance()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = measure(options.backbone, options.batch, options.dtype, options.repeats)
    for name, (first, median) in figures.items():
        record = {
            "name": f"{name}-{options.backbone}-b{options.batch}-{options.dtype}",
            "value": median,
            "unit": "ms per step",
            "images_per_s": 1000 * options.batch / median,
            "compile_and_first_call_s": first,
            "batch": options.batch,
            "device": jax.devices()[0].device_kind,
            "versions": facts["versions"],
            "commit": facts["git"],
            "command": sys.argv,
        }
        path = options.out / f"{record['name']}-{record['device'].replace(' ', '_')}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{record['name']:<48} {median:9.2f} ms {record['images_per_s']:9.0f} images/s   compile {first:.1f} s")


if __name__ == "__main__":
    main()
