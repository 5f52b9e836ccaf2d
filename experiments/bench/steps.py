"""Time the compiled programs.

    python -m experiments.bench                              # shipped nano shape
    python -m experiments.bench --size base --batch 16 --dtype bfloat16
    python -m experiments.bench --plain-memory               # what keeping freed memory is worth

Each figure is the median of --repeats calls after one that compiles. `ours` is in images/s; `other` is what the
machine's rate of a large matrix product, measured in the same process, would allow for the FLOPs counted from the
config: `ratio` is the share of it that is reached. `system_s` are CPU seconds of a call that the system took.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.machine import matrix_rate
from experiments.bench.ours import programs
from experiments.bench.process import PLAIN_MEMORY, median_s, system_s, timed
from experiments.bench.results import result, write
from experiments.bench.sizes import SEEN, model, options_parser
from ntkcl_jax.config import ModelConfig, OptimizerConfig, RunConfig
from ntkcl_jax.devices.flops import backbone_flops, evaluation_flops, features_flops, training_flops


def image_flops(config: ModelConfig, batch: int) -> dict[str, float]:
    """FLOPs of each program for one image, counted from the config."""
    run = RunConfig(model=config, optimizer=OptimizerConfig(batch_size=batch))
    return {
        "backbone_forward": backbone_flops(run),
        "evaluation_step": evaluation_flops(run, SEEN),
        "prototype_step": features_flops(run),
        "training_step": training_flops(run, SEEN) / batch,
    }


def main(words: list[str]) -> int:
    """Measure, write, and print."""
    parser = options_parser("experiments.bench", __doc__, repeats=20, repeated="timed calls")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(PLAIN_MEMORY, action="store_true", help="let the C library give freed memory back")
    options = parser.parse_args(words)
    config = model(options.size, options.image_size)
    counted, rate = image_flops(config, options.batch), matrix_rate(jnp.dtype(options.dtype))
    side = f"{options.size}-{config.backbone.image_size}px-b{options.batch}-{options.dtype}"
    side += PLAIN_MEMORY[1:] if options.plain_memory else ""
    for name, call in programs(config, options.batch, options.dtype).items():

        def finished(call: Callable[[], Any] = call) -> None:  # the default binds this round's program
            jax.block_until_ready(call())

        first = timed(finished)
        before = system_s()
        seconds = median_s(finished, options.repeats)
        system = (system_s() - before) / options.repeats
        made = result(
            f"steps-{name}-{side}", options.batch / seconds, 1e9 * rate / counted[name], "images/s",
            jax.devices()[0].device_kind, other_is="FLOPs of the config at the measured rate of a matrix product",
            ms=1000 * seconds, first_call_s=first, matrix_gflop_per_s=rate, batch=options.batch,
            system_s=system, load=list(os.getloadavg()),
        )  # fmt: skip
        write(made, options.out)
        print(
            f"{made['name']:<65}{made['ms']:>10.2f} ms{made['ours']:>10.1f} images/s{made['ratio']:>8.1%} of a "
            f"matrix product's rate, first call {first:.1f} s",
            flush=True,
        )
    return 0
