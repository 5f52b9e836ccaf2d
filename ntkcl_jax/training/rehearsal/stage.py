"""What a rehearsal needs instead of files: counts of images, noise, random weights, and a size that ends in time."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.presets import PRESETS
from ntkcl_jax.data import Arrays, load_source
from ntkcl_jax.data.sources import source_kind
from ntkcl_jax.devices import flops as costs
from ntkcl_jax.devices.flops import Stream
from ntkcl_jax.devices.host_memory import host_memory
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.weights import save_backbone, shapes

EFFICIENCY = 0.4
"""Share of a plain matrix product's speed that the network is expected to reach, for choosing the rehearsal's size."""


@dataclass(frozen=True)
class Size:
    """How much of a run is rehearsed."""

    tasks: int
    steps: int
    """Training steps of the largest task."""
    eval_batch_size: int


def stream_of(config: RunConfig) -> tuple[Stream, str]:
    """Find out how many images the run will see.

    Args:
        config: the run.

    Returns:
        The stream, and where its numbers come from: the published ones of a benchmark, else the images themselves.

    Raises:
        DataError: the images of a config outside the published tables can't be read.
    """
    cell = PRESETS.get(config.preset)
    benchmark = BENCHMARKS[cell.benchmark] if cell and cell.benchmark else None
    data = config.data
    # Published counts hold for the benchmark's own classes and source; changed ones are counted
    if benchmark and (data.classes, data.source) == (benchmark.classes, benchmark.source):
        train, test = benchmark.images
        limits = [n for n in (data.images_per_class, data.limit_per_class) if n]
        train = min([train, *(n * benchmark.classes for n in limits)])
        test = min(test, data.images_per_class * benchmark.classes or test)
        return Stream(costs.task_sizes(config), train, test), f"published counts of {benchmark.title}"
    source = load_source(data)
    sizes = costs.task_sizes(config, len(source.class_names))
    return Stream(sizes, len(source.train), len(source.test)), "counted"


def free_memory() -> int:
    """Bytes that the device can still give, or on a CPU the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return host_memory()


def check_room(what: str, need: int, free: int) -> None:
    """Refuse what won't fit.

    Raises:
        NtkclError: it needs more than is free.
    """
    if need > free:
        raise NtkclError(
            f"{what} needs about {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB is free on "
            f"{jax.devices()[0].device_kind}; lower optimizer.batch_size or compute.eval_batch_size, set "
            "compute.remat=True or compute.dtype=bfloat16, or take a larger device"
        )


def matmul_speed() -> float:
    """FLOP/s of a plain float32 matrix product, best of three."""
    n = 1024
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()  # compiles
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        taken.append(time.perf_counter() - start)
    return 2 * n**3 / max(min(taken), 1e-6)


def choose_size(config: RunConfig, stream: Stream, speed: float, minutes: float) -> Size:
    """Find the largest rehearsal that should end in time: all tasks with three steps, down to two tasks with one.

    Args:
        config: the run.
        stream: its tasks.
        speed: FLOP/s that the device is expected to sustain.
        minutes: how long the rehearsal may take, compiling excepted.
    """
    every, batch, evaluated = len(stream.task_sizes), config.optimizer.batch_size, config.compute.eval_batch_size
    # Largest first; where even a step a task takes too long, evaluation in smaller batches, then fewer tasks
    small = min(batch, evaluated)
    tries = [Size(every, steps, evaluated) for steps in (3, 2, 1)]
    tries += [Size(tasks, 1, small) for tasks in (every, 3, 2) if tasks <= every]
    once = costs.evaluation_flops(config, stream.classes)
    step = costs.training_flops(config, stream.classes)
    for size in tries:
        sizes = stream.task_sizes[: size.tasks]
        rows = [*(size.steps * batch for _ in sizes), *(sum(sizes[: task + 1]) for task in range(size.tasks))]
        # A batch that is full in part costs as much as a full one
        passes = sum(-(-n // size.eval_batch_size) for n in rows) * size.eval_batch_size * once
        # The last task is played a second time when the run is taken up again
        if (size.tasks * size.steps * step + passes) * (1 + 1 / size.tasks) <= 60 * minutes * speed:
            break
    return size


def noise(config: RunConfig, sizes: tuple[int, ...], steps: int) -> Arrays:
    """Generate images that are all different: `steps` steps of the largest task, one test image a class."""
    rng = np.random.default_rng(0)
    classes, side = sum(sizes), source_kind(config.data.source).side or config.data.resize
    # As many of a class as make the largest task `steps` batches
    each = max(1, steps * config.optimizer.batch_size // max(sizes))
    labels = [np.repeat(np.arange(classes), n) for n in (each, 1)]
    images = [rng.integers(0, 256, (len(x), side, side, 3), np.uint8) for x in labels]
    return Arrays(images[0], labels[0], images[1], labels[1], tuple(f"class {i}" for i in range(classes)))


def random_weights(config: RunConfig, path: Path) -> Path:
    """Write a weights file of the backbone's shape: unit scales, everything else from N(0, 0.02²)."""
    rng = np.random.default_rng(0)
    tree = {}
    for name, shape in shapes(config.model.backbone).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        tree[name] = np.ones(shape, np.float32) if name.endswith("scale") else values
    save_backbone(tree, config.model.backbone, path)
    return path


def rehearsed(config: RunConfig, stream: Stream, size: Size, weights: Path) -> RunConfig:
    """The config that is run: one seed, one epoch, the first tasks, noise."""
    kind = source_kind(config.data.source)
    # Files are cropped on the host; noise lies in memory, for which an accelerator would do it
    files = kind.reads_path and kind.side is None
    data = replace(
        config.data,
        source="arrays",
        path="",
        classes=sum(stream.task_sizes[: size.tasks]),
        invert=False,
        images_per_class=0,
        limit_per_class=0,
        transform_on="host" if files else config.data.transform_on,
    )
    return replace(
        config,
        weights=str(weights),
        weights_sha256="",
        seeds=config.seeds[:1],
        data=data,
        optimizer=replace(config.optimizer, epochs=1),
        baselines=replace(config.baselines, epochs=None),
        # So that a checkpoint is written within the largest task too
        compute=replace(
            config.compute, eval_batch_size=size.eval_batch_size, checkpoint_every_steps=max(1, size.steps - 1)
        ),
    )
