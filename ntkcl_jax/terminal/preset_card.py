"""What a person needs to know before running a preset, as `ntkcl presets NAME` prints it."""

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.presets import PRESETS
from ntkcl_jax.devices.flops import Stream, run_flops, task_sizes, training_flops
from ntkcl_jax.devices.memory import checkpoint_bytes, evaluation_bytes, training_bytes
from ntkcl_jax.terminal.progress import seconds

DEVICES: tuple[tuple[str, float], ...] = (
    ("2 CPU cores", 0.1),
    ("32 CPU cores", 1),
    ("a gaming GPU", 8),
    ("A100, TF32", 40),
    ("H100, bfloat16", 150),
)
"""Kinds of device, and the TFLOP/s that one of them may sustain on this network: assumed, `--rehearse` measures."""


def header(name: str) -> str:
    """What a person needs to know before running a preset: command, data, and the published numbers.

    Args:
        name: one of `PRESETS`.

    Example:
        >>> print(header("pets").splitlines()[0])
        ntkcl train pets --run-dir runs/pets --weights WEIGHTS --data.path DATA
    """
    made, about = PRESETS[name], PRESETS[name].benchmark
    if about is None or made.published is None:
        return f"ntkcl train {name} --run-dir runs/{name}\n{made.about}\n"
    benchmark, published = BENCHMARKS[about], made.published
    frozen = "not published"
    if published.frozen:
        # A set, since a single published value stands for both ends
        frozen = " to ".join(f"{100 * share:.1f}" for share in sorted(set(published.frozen))) + " %"
    lines = (
        f"ntkcl train {name} --run-dir runs/{name} --weights WEIGHTS --data.path DATA",
        f"first     ntkcl verify {name} --weights WEIGHTS --data DATA   (frozen nearest class mean: {frozen})",
        f"WEIGHTS   {made.make().weights}",
        f"DATA      {benchmark.layout}; split {benchmark.split}",
        f"source    {benchmark.note}",
        f"published NTK-CL {100 * published.average:.2f} / {100 * published.final:.2f} % (mean over tasks / final)",
        *estimates(made.make(), *benchmark.images),
    )
    return "\n".join(lines) + "\n"


def estimates(config: RunConfig, train: int, test: int) -> tuple[str, ...]:
    """Estimate memory, disk and time of NTK-CL from its configuration, a line each.

    Args:
        config: the run.
        train: training images of all tasks.
        test: test images of all tasks.

    Returns:
        Lines of `header`.
    """
    images = Stream(task_sizes(config), train, test)
    flops = run_flops(config, images)
    disk = 2 * len(images.task_sizes) * checkpoint_bytes(config)
    times = [f"{name + ',':<16} {speed:5g} TFLOP/s   {seconds(flops / speed / 1e12)}" for name, speed in DEVICES]
    return (
        f"images    {train:,} train, {test:,} test; {images.steps(config):,} steps of "
        f"{training_flops(config) / 1e12:.1f} TFLOP a seed",
        f"memory    {training_bytes(config) / 2**30:.1f} GiB to train, {evaluation_bytes(config) / 2**30:.1f} GiB to "
        f"evaluate (estimated); disk {disk / 2**30:.1f} GiB a seed",
        "time      of a seed, on a device that sustains (estimated)",
        *(f"          {line}" for line in times),
        f"measure   ntkcl train {config.preset} --rehearse",
    )
