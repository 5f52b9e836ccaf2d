"""The estimates of `experiments.bench.estimate` beside what a run and a kernel really took.

A run with as many classes and tasks as the large stream, on a toy backbone, put into the middle of itself at a few
tasks: bytes of its checkpoints and log, and its time. And a kernel small enough to compute.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from analysis.kernels.empirical import empirical_ntk
from analysis.kernels.planner import plan
from experiments.bench.devices import apart
from experiments.bench.kernels import model as kernel_model
from experiments.bench.machine import matrix_rate
from experiments.bench.results import result
from experiments.bench.sizes import model
from experiments.bench.stream import MadeStream, measured_task, opened
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.devices import memory

CLASSES_PER_TASK = 10
SMALL = BackboneConfig(image_size=16, patch_size=4, dim=64, depth=3, heads=2)
"""Network of the small kernel."""
IMAGES, OUTPUTS = 48, 10
DEVICES = 8


def check(classes: int, tasks: list[int]) -> Iterator[dict[str, Any]]:
    """Compare; the last task's checkpoint and time stand for the run.

    Args:
        classes: of the stream, ten a task.
        tasks: numbers of the tasks to run, from 0, ascending.
    """
    device = jax.devices()[0].device_kind
    stream = MadeStream(classes, classes // CLASSES_PER_TASK)
    points = []
    with opened(stream, model("toy")) as run:
        measured_task(run, 0)  # compiles
        for task in tasks:
            points.append({"task": task, **measured_task(run, task)})
        estimated = memory.checkpoint_bytes(stream.config(model("toy")), classes)
    about = {"points": points, "classes": classes, "tasks": stream.tasks}
    first, last = points[0], points[-1]
    yield result(
        "estimate-check-checkpoint", last["checkpoint_bytes"], estimated, "bytes", device, **about,
        other_is="ntkcl_jax.devices.memory.checkpoint_bytes",
    )  # fmt: skip
    yield result(
        "estimate-check-task", last["constant"], first["constant"], "s per task without its test images", device,
        **about, other_is=f"task {tasks[0]}: equal if nothing grows with the tasks before",
    )  # fmt: skip
    yield gradients_check()
    yield kernel_check(device)


def gradients_check() -> dict[str, Any]:
    """Bytes that are summed over devices in a step beside those of everything that is trained."""
    found = apart(DEVICES, "toy", 2 * DEVICES)
    return result(
        "estimate-check-gradients", found["collectives"]["all-reduce"], found["trained_bytes"],
        "bytes summed over devices in a step", found["device"], collectives=found["collectives"], devices=DEVICES,
        other_is="all that is trained, float32",
    )  # fmt: skip


def kernel_check(device: str) -> dict[str, Any]:
    """Time of a small kernel beside its planned operations at the rate of a large matrix product."""
    fn, params = kernel_model(OUTPUTS, SMALL)
    x = np.random.default_rng(1).random((IMAGES, SMALL.image_size, SMALL.image_size, 3), np.float32)
    planned = plan(fn, params, x, IMAGES, precision="float32")
    # The first call compiles what the plan hasn't
    empirical_ntk(fn, params, x, precision="float32")
    start = time.perf_counter()
    theta = empirical_ntk(fn, params, x, precision="float32")
    seconds = time.perf_counter() - start
    rate = matrix_rate()
    return result(
        "estimate-check-kernel", seconds, planned.flops / rate / 1e9, "s", device,
        other_is="its planned operations at the measured rate of a matrix product",
        flops=planned.flops, matrix_gflop_per_s=rate, passes=planned.passes,
        kernel_bytes={"ours": theta.nbytes, "other": planned.kernel_bytes},
        images=IMAGES, outputs=OUTPUTS,
    )  # fmt: skip
