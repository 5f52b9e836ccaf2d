"""Time the compiled steps.

    python -m experiments.bench                              # shipped nano shape
    python -m experiments.bench --backbone base --batch 16 --dtype bfloat16
    python -m experiments.bench torch --help                 # beside PyTorch, which must be installed

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

from experiments.bench import torch_peer
from experiments.bench.ours import programs
from ntkcl_jax.config import BACKBONES, ModelConfig
from ntkcl_jax.runfolder import provenance


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
    """Time every program of `experiments.bench.ours`."""
    made = programs(ModelConfig(backbone=BACKBONES[backbone]), batch_size, dtype)
    return {name: milliseconds(call, repeats) for name, call in made.items()}


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
    if sys.argv[1:2] == ["torch"]:
        sys.exit(torch_peer.main(sys.argv[2:]))
    main()
