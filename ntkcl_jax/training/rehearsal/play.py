"""The rehearsal itself: `run.train`, its resumption, and what a whole run will take."""

import resource
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.methods import HEAD, LEARNERS
from ntkcl_jax.devices import flops as costs
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.flops import Stream
from ntkcl_jax.errors import user_path
from ntkcl_jax.runs.checkpoint import remove
from ntkcl_jax.runs.context import make_context
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import Progress
from ntkcl_jax.training.rehearsal import clock, stage
from ntkcl_jax.training.rehearsal.stage import Size
from ntkcl_jax.training.run import train
from ntkcl_jax.training.step import train_step

STEPS = ("train_step", "eval_step", "feature_step")
"""Programs that each task runs, costly to compile or not."""


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found; bytes, seconds, images per second.

    Attributes:
        preset: name of the configuration.
        device: what ran it.
        size: how much of the run was rehearsed.
        stream: tasks and images of the whole run.
        image_counts: where the numbers of images come from.
        memory: `process_peak`, `device_peak` and `device_limit` (None where the backend doesn't tell), `step_planned`
            (XLA's arguments, results and scratch of a training step; None without NTK-CL), `estimated`, `free`.
        compile_s: seconds of compiling, by program, the costly ones, longest first.
        compilations: how often each of them, and each of `STEPS`, was compiled.
        programs: number of programs compiled in all.
        later_programs: of them, those compiled after the first task of their method.
        recompiled: costly programs that were compiled after the first task.
        rates: images/s of `train`, `evaluate`, `prototypes`, `backbone`, and `input` (crops made on the host).
        tflops: TFLOP/s that the training step sustained; None without NTK-CL.
        save_s: writing a checkpoint.
        disk: bytes of checkpoints of the whole run, all seeds.
        seed_s: projected time of each method on one seed, all tasks and epochs.
        run_s: projected time of the whole run, all seeds.
        resumed: whether taking up the last task again gave the same results.
        rehearsed_s: what the rehearsal itself took.
    """

    preset: str
    device: str
    size: Size
    stream: Stream
    image_counts: str
    memory: dict[str, int | None]
    compile_s: dict[str, float]
    compilations: dict[str, int]
    programs: int
    later_programs: int
    recompiled: tuple[str, ...]
    rates: dict[str, float]
    tflops: float | None
    save_s: float
    disk: int
    seed_s: dict[str, float]
    run_s: float
    resumed: bool
    rehearsed_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def rehearse(
    config: RunConfig,
    *,
    near: Path | None = None,
    tasks: int = 0,
    steps: int = 0,
    minutes: float = 5.0,
    quiet: bool = False,
) -> Rehearsal:
    """Run a few steps of every task at full size on noise, and project the whole run.

    Args:
        config: the run; its weights and images need not exist.
        near: folder in or above which the run will be written: the rehearsal's files go there and are deleted.
        tasks: how many tasks, from the first; 0 chooses by `minutes`.
        steps: training steps of the largest task; 0 chooses by `minutes`.
        minutes: about how long it may take, compiling excepted.
        quiet: no progress.

    Returns:
        What was found.

    Raises:
        NtkclError: too little memory, or anything that would stop the real run.
    """
    # Free memory is asked for before anything takes some
    begun, free = time.perf_counter(), stage.free_memory()
    stream, counted = stage.stream_of(config)
    size = stage.choose_size(config, stream, stage.EFFICIENCY * stage.matmul_speed(), minutes)
    size = replace(size, tasks=min(tasks or size.tasks, len(stream.task_sizes)), steps=steps or size.steps)
    fitted = replace(config, compute=replace(config.compute, eval_batch_size=size.eval_batch_size))
    estimated = max(memory.training_bytes(config, stream.classes), memory.evaluation_bytes(fitted, stream.classes))
    stage.check_room("this run", estimated, free)
    arrays = stage.noise(config, stream.task_sizes[: size.tasks], size.steps)
    with tempfile.TemporaryDirectory(prefix="ntkcl-rehearsal-", dir=existing(near)) as where:
        folder = RunFolder(Path(where) / "run")
        played = stage.rehearsed(
            config, stream, size, stage.random_weights(config, Path(where) / "weights.safetensors")
        )
        heard = clock.Compilations(folder.metrics, size.tasks)
        with heard.listening(), Progress(quiet) as progress:
            said = f"{size.tasks} of {len(stream.task_sizes)} tasks, {size.steps} steps each"
            progress.say(f"rehearsal {said}, noise instead of images, random weights")
            context = make_context(played, arrays)
            learners = {played.pair(method).learner for method in played.methods}
            args, planned = None, None
            # Compiled before anything runs: XLA's own plan is compared with the free memory first
            if "ntkcl" in learners:
                args = clock.first_step(context)
                with progress.stage("compiling the training step", total=1) as shown:
                    planned = clock.planned_bytes(train_step.lower(*args, sharding=context.sharding).compile())
                    shown.advance(1)
                if planned is not None:
                    stage.check_room("the training step", planned, free)
            results = train(played, folder.path, arrays=arrays, quiet=quiet)
            disk = checkpoints(folder)
            # Equal results from a task that was taken up again: resuming works in this cell
            resumed = taken_up_again(played, folder, arrays, size.tasks, quiet) == results
            progress.say("timing what a run repeats")
            rates = {"input": clock.input_rate(context), **clock.logged_rates(folder.metrics)}
            save_s = 0.0
            if args is not None:
                # Before `step_rates`, whose steps donate these arrays
                trees = {"trainable": jax.device_get(args[2].trainable)}
                save_s = clock.save_seconds(Path(where), trees)
                rates |= clock.step_rates(context, args)
            if any(LEARNERS.load(name).sessions == 0 for name in learners):
                rates["backbone"] = clock.backbone_rate(context)
    flops = costs.training_flops(config, stream.classes) / config.optimizer.batch_size
    seed_s = {method: seed_seconds(method, config, stream, rates, save_s) for method in config.methods}
    compiling = sum(duration for _, duration, _ in heard.found)
    stats = jax.local_devices()[0].memory_stats() or {}
    return Rehearsal(
        preset=config.preset,
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        size=size,
        stream=stream,
        image_counts=counted,
        memory={
            # Linux tells KiB
            "process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device_peak": stats.get("peak_bytes_in_use"),
            "device_limit": stats.get("bytes_limit"),
            "step_planned": planned,
            "estimated": estimated,
            "free": free,
        },
        compile_s=heard.costly,
        compilations={name: heard.times(name) for name in (*heard.costly, *STEPS) if heard.times(name)},
        programs=len(heard.found),
        later_programs=len(heard.later),
        recompiled=heard.again,
        rates=rates,
        tflops=flops * rates["train"] / 1e12 if "train" in rates else None,
        save_s=save_s,
        # The rehearsed tasks of one seed stand for all tasks of all seeds; the backbone is stored once
        disk=disk["backbone"] + len(config.seeds) * round(disk["tasks"] * len(stream.task_sizes) / size.tasks),
        seed_s=seed_s,
        # Programs are compiled once a process, whatever the number of seeds
        run_s=compiling + len(config.seeds) * sum(seed_s.values()),
        resumed=resumed,
        rehearsed_s=time.perf_counter() - begun,
    )


def existing(near: Path | None) -> Path | None:
    """The folder itself or the nearest one above it that exists; None stays None (the system's own)."""
    if near is None:
        return None
    near = user_path(near).absolute()
    return next(folder for folder in (near, *near.parents) if folder.is_dir())


def checkpoints(folder: RunFolder) -> dict[str, int]:
    """Bytes of the stored backbone, and of the checkpoints of all tasks."""
    sizes = {"backbone": 0, "tasks": 0}
    for file in folder.checkpoints.rglob("*"):
        if file.is_file():
            sizes["backbone" if "backbone" in file.relative_to(folder.checkpoints).parts else "tasks"] += (
                file.stat().st_size
            )
    return sizes


def taken_up_again(config: RunConfig, folder: RunFolder, arrays: Any, tasks: int, quiet: bool) -> dict[str, Any]:
    """Take the end of the last task away, as if the process had been killed in it, and resume the run."""
    for end in list(folder.checkpoints.rglob(f"task{tasks - 1}/after")):
        remove(end)
    # So that the results compared are those that resuming wrote
    (folder.path / "results.json").unlink()
    return train(config, folder.path, arrays=arrays, resume=True, quiet=quiet)


def seed_seconds(method: str, config: RunConfig, stream: Stream, rates: dict[str, float], save_s: float) -> float:
    """Project a method's time on one seed.

    Training is as slow as the slower of the step and the host's crops. A learner counts for each of its methods. What
    readouts compute on features takes seconds to minutes, which are left out. Of a learner beside NTK-CL, evaluation
    and features are taken to be as fast as its training.

    Args:
        method: its name.
        config: the whole run.
        stream: its images.
        rates: images/s.
        save_s: seconds of a checkpoint.
    """
    learner, readout = config.pair(method)
    first = LEARNERS.load(learner).sessions
    views = 1 + config.readout.views if readout == "random-ridge" else 1
    if first == 0:
        return (views * stream.train + stream.test) / rates["backbone"]
    # Each task's `before` and `after`, and those within tasks
    saves = (2 * len(stream.task_sizes) + stream.steps(config) / config.compute.checkpoint_every_steps) * save_s
    if learner == "ntkcl":
        if readout != HEAD:
            return (views * stream.train + stream.evaluated) / rates["evaluate"]
        images = stream.steps(config) * config.optimizer.batch_size
        passes = stream.train / rates["prototypes"] + stream.evaluated / rates["evaluate"]
        return images / min(rates["train"], rates["input"]) + passes + saves
    epochs = config.optimizer.epochs if config.baselines.epochs is None else config.baselines.epochs
    rate = min(rates[learner], rates["input"])
    share = 1.0 if first is None else sum(stream.task_sizes[:first]) / stream.classes
    # Features that stay are computed once for each side; others again after every task
    passes = stream.train + stream.evaluated if first is None else stream.train + stream.test
    return share * epochs * stream.train / rate + views * passes / rate + share * saves
