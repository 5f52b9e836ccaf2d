"""One program in a process of its own, timed call by call on demand.

Started by `experiments.bench.torch_peer` with a JSON object of settings. Prints one JSON line when warm, then one for
each line that it reads: `run` gives the seconds of one call, `memory` the highest memory so far.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from experiments.bench.process import forget_peak, resident_mb, timed
from experiments.bench.sizes import OFFSET, RATE, SEEN, TASK_CLASSES
from ntkcl_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.config.codec import from_json
from ntkcl_jax.devices.host_memory import keep_freed_memory

WARM_UP = 2
"""Calls after the first, before any that counts."""


def ours(settings: dict[str, Any], config: ModelConfig) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """This project's program, and a function that tells device and its memory."""
    import jax

    from experiments.bench.ours import programs

    call = programs(config, settings["batch"], settings["dtype"])[settings["program"]]

    def facts() -> dict[str, Any]:
        device = jax.devices()[0]
        memory = device.memory_stats() or {}
        peak = memory.get("peak_bytes_in_use")
        return {"device": device.device_kind, "device_peak_mb": None if peak is None else peak / 1e6}

    return lambda: jax.block_until_ready(call()), facts


def theirs(settings: dict[str, Any], config: ModelConfig) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """The same in PyTorch."""
    import torch

    from experiments.bench.torch_net import PeerNetwork
    from experiments.bench.torch_step import Program, Task

    kind, way, batch = settings["device"], settings["way"], settings["batch"]
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    cuda = kind == "cuda"
    if cuda and way != "released":
        torch.set_float32_matmul_precision("high")  # what JAX does on its own
    modes = {"compiled": "default", "graphs": "reduce-overhead"}
    mode = modes.get(way)
    compiler = None if mode is None else lambda function: torch.compile(function, mode=mode)
    net = PeerNetwork(config, task_classes=TASK_CLASSES, seen=SEEN, fused=way != "released").to(kind)
    size, channels = config.backbone.image_size, config.backbone.channels
    images = torch.rand(batch, channels, size, size, device=kind)
    task = Task(images, OFFSET + torch.arange(batch, device=kind) % TASK_CLASSES, OFFSET, OFFSET)
    program = Program(
        net,
        task,
        ObjectiveConfig(),
        OptimizerConfig(batch_size=batch),
        RATE,
        bfloat16=settings["dtype"] == "bfloat16",
        compiler=compiler,
    )
    step = getattr(program, settings["program"])

    def call() -> None:
        step()
        if cuda:
            torch.cuda.synchronize()

    def facts() -> dict[str, Any]:
        if not cuda:
            return {"device": "cpu", "device_peak_mb": None}
        return {"device": torch.cuda.get_device_name(), "device_peak_mb": torch.cuda.max_memory_allocated() / 1e6}

    return call, facts


def main() -> None:
    """Warm up, then time what is asked for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    settings = json.loads(sys.argv[1])
    if settings["threads"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])  # before any pool is made
    if settings["way"] != "released":
        keep_freed_memory()  # the same for both sides; PyTorch gains nothing by it
    config = from_json(ModelConfig, settings["model"])
    call, facts = (ours if settings["way"] == "ours" else theirs)(settings, config)
    first = timed(call)
    for _ in range(WARM_UP):
        call()
    # Read before the count starts anew: compiling may have taken the most
    start_peak = resident_mb()
    fresh = forget_peak()
    say(first_s=first, device=facts()["device"])
    for line in sys.stdin:
        if line.strip() == "memory":
            steps = resident_mb()
            say(peak_mb=max(start_peak, steps), steps_peak_mb=steps if fresh else None, **facts())
        else:
            say(seconds=timed(call))


if __name__ == "__main__":
    main()
