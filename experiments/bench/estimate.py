"""What a very large stream and a very large kernel would cost, from the configuration alone; and a check of that.

    python -m experiments.bench estimate                     # arithmetic, minutes (it compiles the large kernel)
    python -m experiments.bench estimate --check             # and a run with as many classes and tasks, tiny backbone

The stream is of ImageNet-21K's size: 10,000 classes in 1,000 tasks, 14 million images; ViT-B/16. The kernel has 10^6
rows (100,000 images, 10 outputs) of ViT-B/16's adapters. Times are FLOPs over devices, published peak and --mfu: an
assumption, not a measurement. One JSON file for each machine, and with --check one for each thing compared.
"""

import argparse
import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from analysis.kernels.planner import Plan, plan
from analysis.kernels.problem import MOST_ROWS_ELSEWHERE
from experiments.bench.estimate_check import check
from experiments.bench.kernels import model
from experiments.bench.results import FOLDER, result, write
from ntkcl_jax.config import BACKBONES, ComputeConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.flops import Stream, evaluation_flops, run_flops, task_sizes, training_flops
from ntkcl_jax.devices.peaks import peak_tflops

FLOAT32 = 4
PIXEL_BYTES = 3
JPEG_BYTES = 110_000
"""A usual ImageNet file."""


@dataclass(frozen=True)
class Machine:
    """Devices that work together; numbers from the makers' data sheets.

    Attributes:
        name: for people.
        kind: as JAX names the device.
        devices: how many.
        memory: bytes of each.
        link: bytes per second that each sends to the others.
    """

    name: str
    kind: str
    devices: int
    memory: float
    link: float


MACHINES = (
    Machine("8 x H100", "NVIDIA H100", 8, 80e9, 450e9),
    Machine("8 x H200", "NVIDIA H200", 8, 141e9, 450e9),
    Machine("TPU v5p-8", "TPU v5", 4, 95e9, 600e9),  # eight cores are four chips
)
"""Memory and links as published, in one direction: NVLink 4 has 900 GB/s both ways (NVIDIA's data sheets of H100 and
H200, SXM), the links between chips of a v5p 1,200 GB/s (docs.cloud.google.com/tpu/docs/v5p)."""


def one_peak(machine: Machine) -> float:
    """Published FLOP/s of one device in bfloat16."""
    peak = peak_tflops(machine.kind, "bfloat16")
    assert peak is not None
    return peak * 1e12


def configuration(batch: int = 256, epochs: int = 20) -> RunConfig:
    """ViT-B/16 on 10,000 classes in tasks of ten, in bfloat16."""
    return RunConfig(
        preset="estimate",
        data=DataConfig(source="arrays", classes=10_000, classes_per_task=10),
        model=ModelConfig(backbone=BACKBONES["base"]),
        optimizer=OptimizerConfig(batch_size=batch, epochs=epochs),
        compute=ComputeConfig(dtype="bfloat16", eval_batch_size=batch),
    )


def large_stream(config: RunConfig) -> Stream:
    """14 million training images, fifty test images of each class."""
    sizes = task_sizes(config)
    return Stream(sizes, train=14_000_000, test=50 * sum(sizes))


def ring(size: float, devices: int) -> float:
    """Bytes that each device sends when an array is summed over all and every one gets the sum.

    Example:
        >>> ring(100.0, 4), ring(100.0, 1)
        (150.0, 0.0)
    """
    # Round a ring twice, (n - 1)/n of it each time: to add up, then to hand the sums on
    return 2 * (devices - 1) / devices * size


def stream_estimate(machine: Machine, config: RunConfig, stream: Stream, mfu: float) -> dict[str, float]:
    """Memory, bytes moved and time of one seed of NTK-CL.

    Args:
        machine: what it runs on; the batch is divided over its devices.
        config: of the run.
        stream: classes, tasks and images.
        mfu: share of the published peak that is reached.

    Returns:
        Numbers by name; bytes, seconds, FLOPs.
    """
    n, batch, e = machine.devices, config.optimizer.batch_size, config.model.feature_dim
    # Memory is that of one device's share of the batch
    share = RunConfig(**{**vars(config), "optimizer": OptimizerConfig(batch_size=-(-batch // n), epochs=1)})
    held, steps = memory.parameters(config, stream.classes), stream.steps(config)
    rate = n * one_peak(machine) * mfu
    step, once = training_flops(config, stream.classes), evaluation_flops(config, stream.classes)
    gradient, features = ring(FLOAT32 * held.trainable, n), ring(FLOAT32 * batch * e, n)
    side = config.model.backbone.image_size
    tasks, checkpoint = len(stream.task_sizes), memory.checkpoint_bytes(config, stream.classes)
    return {
        "trained_parameters": held.trainable,
        "memory_per_device": memory.training_bytes(share, stream.classes),
        "device_memory": machine.memory,
        "steps": steps,
        "step_flops": step,
        "step_s": step / rate,
        "gradient_sent_per_step": gradient,
        "features_sent_per_step": features,
        "sending_s_per_step": (gradient + features) / machine.link,
        "pixels_per_step": batch * side * side * PIXEL_BYTES,
        "images_per_s": batch * rate / step,
        "disk_read_per_s": JPEG_BYTES * batch * rate / step,
        "training_s": steps * step / rate,
        "prototypes_s": stream.train * once / rate,
        "evaluation_s": stream.evaluated * once / rate,
        "total_s": run_flops(config, stream) / rate,
        "checkpoint": checkpoint,
        # One before and one after each task
        "checkpoints": 2 * tasks * checkpoint,
        "prototypes_in_checkpoints": 2 * tasks * FLOAT32 * held.prototypes,
        # After task t one for each of the t tasks so far
        "accuracies": tasks * (tasks + 1) / 2,
    }


def kernel_estimate(machine: Machine, planned: Plan, mfu: float) -> dict[str, float]:
    """Memory, bytes written and time of a planned kernel."""
    peak = peak_tflops(machine.kind, "float32")
    assert peak is not None
    return {
        "memory_per_device": planned.peak_bytes,
        "device_memory": machine.memory,
        "kernel": planned.kernel_bytes,
        "written": planned.kernel_bytes / 2,  # tiles below the diagonal are not stored
        "passes": planned.passes,
        "tile": planned.tile,
        "held": planned.held,
        "flops": planned.flops,
        "total_s": planned.flops / (machine.devices * peak * 1e12 * mfu),
        "written_per_s": planned.kernel_bytes / 2 / (planned.flops / (machine.devices * peak * 1e12 * mfu)),
    }


adapted = functools.cache(functools.partial(model, backbone=BACKBONES["base"], zeros=True))


def planned_kernel(machine: Machine, images: int, outputs: int) -> Plan:
    """Plan of a kernel of ViT-B/16's adapters, in 0.8 of the devices' memory, streamed to disk."""
    backbone = BACKBONES["base"]
    fn, params = adapted(outputs)
    one = jax.ShapeDtypeStruct((1, backbone.image_size, backbone.image_size, 3), "float32")
    return plan(
        # The largest tile that is of use on each device
        fn, params, one, images, precision="float32", tile=machine.devices * (MOST_ROWS_ELSEWHERE // outputs),
        memory_bytes=int(0.8 * machine.memory), devices=machine.devices, kernel_in_memory=False,
    )  # fmt: skip


def main(words: list[str]) -> int:
    """Estimate, write, and print."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench estimate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the published peak")
    parser.add_argument("--batch", type=int, default=256, help="images per step, over all devices")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kernel-images", type=int, default=100_000)
    parser.add_argument("--kernel-outputs", type=int, default=10)
    parser.add_argument("--check", action="store_true", help="compare with a run of a tiny backbone and a small kernel")
    parser.add_argument("--check-classes", type=int, default=10_000)
    parser.add_argument(
        "--check-tasks", type=int, nargs="+", default=[1, 10, 100, 999], help="numbers of the tasks run"
    )
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(words)
    config = configuration(options.batch, options.epochs)
    stream = large_stream(config)
    for machine in MACHINES:
        kernel = kernel_estimate(
            machine, planned_kernel(machine, options.kernel_images, options.kernel_outputs), options.mfu
        )
        found = stream_estimate(machine, config, stream, options.mfu)
        made = result(
            f"estimate-{machine.name.replace(' ', '')}", found["memory_per_device"], machine.memory,
            "bytes of a device", machine.kind, stream=found, kernel=kernel, machine_assumed=asdict(machine),
            mfu_assumed=options.mfu, batch=options.batch, epochs=options.epochs, other_is="its memory",
            kernel_rows=options.kernel_images * options.kernel_outputs,
            stream_size={"classes": stream.classes, "tasks": len(stream.task_sizes), "images": stream.train},
        )  # fmt: skip
        write(made, options.out)
        print(json.dumps({"machine": machine.name, "stream": found, "kernel": kernel}, indent=1), flush=True)
    if options.check:
        for made in check(options.check_classes, options.check_tasks):
            write(made, options.out)
            print(
                f"{made['name']}: {made['ours']:.6g} measured, {made['other']:.6g} estimated {made['unit']}", flush=True
            )
    return 0
