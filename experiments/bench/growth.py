"""What a step and a task cost as the work grows: one axis at a time, the others small.

    python -m experiments.bench growth                                    # toy and nano backbones, minutes on 2 cores
    python -m experiments.bench growth --size base --batch 128 --dtype bfloat16 --axes classes parameters

Axes: `tasks` (a task of a stream of many, all of it: checkpoints, log, prototypes, test images), `images` (of a task),
`classes` (of the stream), `parameters` (adapter rank) and `devices`. Devices of a CPU are simulated: good for counting
bytes and checking the loss, so no time is taken there. `--size` is the backbone of all axes but `tasks`.
One JSON file for each axis: `ours` is the cost at the largest
size, `other` at the smallest, `points` all of them; and a picture of all axes.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench.devices import apart
from experiments.bench.growth_picture import draw
from experiments.bench.ours import Middle, middle
from experiments.bench.process import forget_peak, median_s, resident_mb
from experiments.bench.results import result, write
from experiments.bench.sizes import TASK_CLASSES, model, options_parser
from experiments.bench.stream import MadeStream, TimedRun, measured_task, opened
from ntkcl_jax.devices.flops import training_flops
from ntkcl_jax.training.step import eval_step, train_step

Points = list[dict[str, Any]]
TASK_REPEATS = 3
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts XLA's compilations from here on."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event: str, seconds: float, **_: Any) -> None:
        """Take note of one event."""
        if event == COMPILE_EVENT:
            self.count, self.seconds = self.count + 1, self.seconds + seconds


def step_costs(made: Middle, repeats: int) -> dict[str, Any]:
    """Time, compile time and memory of a training step and of evaluation."""
    forget_peak()
    arguments = made.step_arguments
    start = time.perf_counter()
    compiled = train_step.lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    # The step uses its state up: each call goes on from what the last one gave
    held, rest = [arguments[2]], arguments[3:]

    def step() -> None:
        held[0], out = compiled(held[0], *rest)
        jax.block_until_ready(out)

    def test() -> None:
        old = ~made.task.new
        jax.block_until_ready(eval_step(made.learner, *made.state, made.batch, made.task_of_class, old))

    # Not timed: first calls compile, or are slower than those after them
    step()
    test()
    memory, rows = compiled.memory_analysis(), len(made.batch.labels)
    return {
        "step_ms": 1000 * median_s(step, repeats),
        "test_ms_per_image": 1000 * median_s(test, repeats) / rows,
        "compile_s": compile_s,
        "gflop": compiled.cost_analysis()["flops"] / 1e9,
        "device_mb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e6,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "host_peak_mb": resident_mb(),
    }


def typical(run: TimedRun, task: int) -> dict[str, float]:
    """The median of a few times the same task, by what it takes beside its test images."""
    return sorted((measured_task(run, task) for _ in range(TASK_REPEATS)), key=lambda found: found["constant"])[1]


def over_classes(options: argparse.Namespace) -> Points:
    """A step while the prototype head grows; its task has ten classes."""
    points = []
    for classes in options.classes:
        made = middle(shape(options), options.batch, options.dtype, classes=classes, offset=classes - TASK_CLASSES)
        points.append({"x": classes, **step_costs(made, options.repeats)})
    return points


def over_parameters(options: argparse.Namespace) -> Points:
    """A step while the adapters grow."""
    points = []
    for rank in options.ranks:
        made = middle(model(options.size, options.image_size, rank), options.batch, options.dtype)
        trained = sum(x.size for x in made.state.trainable.values())
        points.append({"x": trained, "rank": rank, **step_costs(made, options.repeats)})
    return points


def over_images(options: argparse.Namespace) -> Points:
    """A task of two classes while it gets more images."""
    points = []
    for images in options.images:
        stream = MadeStream(4, 2, images=images // 2, batch=options.batch)
        with opened(stream, shape(options), options.dtype) as run:
            measured_task(run, 0)  # compiles
            found = typical(run, 1)
        points.append({"x": images, **found, "fit_ms_per_image": 1000 * found["fit"] / images})
    return points


def over_tasks(options: argparse.Namespace) -> Points:
    """A task of two classes after more and more tasks, of one stream as long as the longest; toy backbone."""
    last = max(options.tasks)
    counted, points = Compilations(), []
    with opened(MadeStream(2 * last, last), model("toy")) as run:
        measured_task(run, 0)  # compiles
        for number in options.tasks:
            # Compilations and memory from here on: whatever the first task needed has been paid
            before, _ = counted.count, forget_peak()
            found = typical(run, number - 1)
            points.append({"x": number, **found, "compilations": counted.count - before, "host_peak_mb": resident_mb()})
    return points


def over_devices(options: argparse.Namespace) -> Points:
    """A step divided over devices: bytes sent, memory of each, and the loss, which must stay the same."""
    points: Points = []
    for devices in options.devices:
        found = apart(devices, options.size, options.batch, options.dtype, options.image_size)
        points.append({"x": devices, **found, "collective_mb": sum(found["collectives"].values()) / 1e6})
    # [devices, terms], each beside those of the first number of devices
    terms = np.array([point["terms"] for point in points])
    for point, off in zip(points, np.abs(terms - terms[0]).max(axis=1), strict=True):
        point["loss_off_by"] = float(off)
    return points


def shape(options: argparse.Namespace) -> Any:
    """Architecture that was asked for."""
    return model(options.size, options.image_size)


AXES: dict[str, tuple[Callable[[argparse.Namespace], Points], str, str]] = {
    "tasks": (over_tasks, "constant", "s per task without its test images"),
    "classes": (over_classes, "step_ms", "ms per step"),
    "images": (over_images, "fit_ms_per_image", "ms of training per image"),
    "parameters": (over_parameters, "step_ms", "ms per step"),
    "devices": (over_devices, "collective_mb", "MB of collectives' results per step"),
}
"""By name: what measures it, the field that stands for it, and its unit."""


def main(words: list[str]) -> int:
    """Measure, write, draw, and print."""
    parser = options_parser("experiments.bench growth", __doc__, repeats=7, repeated="timed steps")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 10, 100, 1000], help="tasks up to the measured one")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--images", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16, 64, 256], help="of the adapters")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args(words)
    found, device = {}, jax.devices()[0].device_kind
    picture = options.out / f"growth-{options.size}-{device.replace(' ', '_')}.png"
    for axis in options.axes:
        measure, field, unit = AXES[axis]
        points = found[axis] = measure(options)
        first = next(point for point in points if point[field])  # one device sends nothing
        side = "toy" if axis == "tasks" else f"{options.size}-b{options.batch}-{options.dtype}"
        name = f"growth-{axis}-{side}"
        made = result(
            name, points[-1][field], first[field], unit, device,
            axis=axis, grown=points[-1]["x"] / first["x"], field=field, points=points,
            picture=picture.name, load=list(os.getloadavg()),
            other_is="the same at the smallest size that has any",
        )  # fmt: skip
        write(made, options.out)
        print(
            f"{name}: {first['x']} -> {points[-1]['x']}: {first[field]:.4g} -> {points[-1][field]:.4g} {unit}",
            flush=True,
        )
    draw({axis: (points, *AXES[axis][1:]) for axis, points in found.items()}, picture)
    print(f"{picture}; counted from the config, a step is {_gflop(options):.3g} GFLOP")
    return 0


def _gflop(options: argparse.Namespace) -> float:
    config = MadeStream(TASK_CLASSES, 1, batch=options.batch).config(shape(options), options.dtype)
    return training_flops(config, TASK_CLASSES) / 1e9
