"""A whole run: seeds x methods over one stream, in one run folder."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.devices import MeshConfig
from ntkcl_jax.config.methods import TUNED_METHODS
from ntkcl_jax.data import Arrays, Batch, Source
from ntkcl_jax.devices.hosts import agreed, first, on_first
from ntkcl_jax.devices.mesh import make_mesh
from ntkcl_jax.readouts.head import METHOD as READOUT
from ntkcl_jax.readouts.head import MOVING, network_features, ridge_readout
from ntkcl_jax.readouts.linear import backbone_features, run_baseline
from ntkcl_jax.readouts.ranpac import METHOD as RANPAC
from ntkcl_jax.readouts.ranpac import ranpac
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import Setup, Side, initial_state, set_up
from ntkcl_jax.runs.folder import FORMAT, RunFolder, arithmetic_changes
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.training.methodrun import log_task, task_name
from ntkcl_jax.training.metrics import TaskEvaluation, aggregate, summarise
from ntkcl_jax.training.seedrun import SeedRun
from ntkcl_jax.training.tunedrun import TunedRun


def learn_other(
    setup: Setup,
    folder: RunFolder,
    log: MetricsLog,
    progress: Progress,
    seed: int,
    method: str,
    learn: Callable[[], Iterator[TaskEvaluation]],
) -> list[TaskEvaluation]:
    """Run a method that trains in seconds on one seed, or read what an earlier process left of it."""
    path = folder.baseline(seed, method)
    if agreed(path.exists()):
        return [TaskEvaluation(**record) for record in folder.read_json(str(path.relative_to(folder.path)))["tasks"]]
    # of a process that died before storing them; records of a first session stay: they aren't made again
    log.truncate(lambda r: (r["method"], r["seed"], r["kind"]) != (method, seed, "task"))
    evaluations = []
    with progress.stage(f"seed {seed} · {method}", total=setup.scenarios[seed].num_tasks) as stage:
        for evaluation in learn():
            evaluations.append(evaluation)
            stage.advance(1)
    for evaluation in evaluations:
        log_task(log, method, seed, evaluation)
    on_first(lambda: write_tasks(path, evaluations))
    return evaluations


def train(
    config: RunConfig,
    run_dir: str | Path,
    *,
    arrays: Arrays | None = None,
    resume: bool = False,
    quiet: bool = False,
    mesh: MeshConfig | None = None,
) -> dict[str, Any]:
    """Run every method on every seed and leave a run folder.

    Args:
        config: the whole configuration.
        run_dir: a new folder, or with `resume` one that an interrupted run of the same config left.
        arrays: images for `data.source="arrays"`.
        resume: go on where the folder's last whole checkpoint left off; ends with the bits of an undisturbed run,
            unless packages have changed since, which is said.
        quiet: no progress.
        mesh: how the devices share the work (default: each batch over all of them); results don't depend on it, but
            for rounding.

    Returns:
        What `results.json` holds: `seeds` (seed -> method -> metrics), `summary` (method -> mean, std, n), names.

    Raises:
        NtkclError: anything that the user can mend; see `ntkcl_jax.errors`.
    """
    folder = RunFolder(run_dir)
    # The quick refusals first, then everything that can be wrong with the input, and only then a folder.
    on_first(folder.check_resumable if resume else folder.check_new)
    setup = set_up(config, arrays, mesh=make_mesh(mesh or MeshConfig()))
    header = setup.header()
    setup.decode_all()
    log_file = folder.metrics if first() else Path(os.devnull)
    with (
        folder.writing(header, resume=resume),
        MetricsLog(log_file) as log,
        Progress(quiet or not first()) as progress,
    ):
        if not resume:
            say_split(setup.source, progress)
            if READOUT in config.methods and config.optimizer.later_learning_rate != 0:
                progress.say(f"hint: {MOVING}")
        changes = arithmetic_changes(folder.header(), header)
        if changes:
            progress.say(
                f"warning: since this run was started, {', '.join(changes)}: numbers may differ in their last bits; "
                "resume with the old versions on the old devices for the same bits"
            )
        for note in setup.notes:
            progress.say(f"weights: {note}")
        store_backbone(setup, folder)
        features = None
        seeds: dict[str, dict[str, Any]] = {}
        results: dict[str, Any] = {}
        for seed in config.seeds:
            for method in config.methods:
                if method == "ntkcl":
                    evaluations = SeedRun(setup, folder, log, progress, seed).learn()
                elif method in TUNED_METHODS:
                    evaluations = TunedRun(setup, folder, log, progress, seed, method).learn()
                else:
                    if method == READOUT:
                        learn = partial(ridge_readout, SeedRun(setup, folder, log, progress, seed))
                    elif method == RANPAC and config.baselines.first_session:
                        learn = partial(adapted_ranpac, TunedRun(setup, folder, log, progress, seed, method))
                    else:
                        if features is None or setup.backbone is None:  # each seed draws its own random backbone
                            features = baseline_features(setup, seed)
                        learn = partial(baseline, setup, seed, method, features)
                    evaluations = learn_other(setup, folder, log, progress, seed, method, learn)
                seeds.setdefault(str(seed), {})[method] = summarise(evaluations)
                results = assemble(setup, seeds)
                on_first(partial(checkpoint.write_json, folder.path / "results.json", results))
    return results


def write_tasks(path: Path, evaluations: list[TaskEvaluation]) -> None:
    """Keep the evaluations of a method that leaves no checkpoints."""
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise checkpoint.write_error(path, error) from error
    checkpoint.write_json(path, {"tasks": [e.to_record() for e in evaluations]})


def say_split(source: Source, progress: Progress) -> None:
    """Say which images test, and whether any of them train too."""
    progress.say(f"split     {source.split_sha256[:12]} ({source.split})")
    if source.duplicates:
        at, same = source.duplicates[0]
        progress.say(
            f"warning: {len(source.duplicates)} test images are training images too, the first is "
            f"{source.test.names(at)} = {source.train.names(same)}"
        )


def store_backbone(setup: Setup, folder: RunFolder) -> None:
    """Keep the frozen backbone once, so that the folder can be read without the weights file."""
    path = folder.checkpoints / "backbone"
    if setup.backbone is not None and not agreed(checkpoint.exists(path)):
        checkpoint.save(path, {"backbone": setup.backbone}, {"sha256": setup.weights_sha256})


def baseline(setup: Setup, seed: int, method: str, features: tuple[np.ndarray, np.ndarray]) -> Iterator[TaskEvaluation]:
    """Learn a baseline from the features of training and test images."""
    scenario = setup.scenarios[seed]
    labels = [scenario.relabel(x.labels) for x in (setup.source.train, setup.source.test)]
    arrays = (scenario, seed, features[0], labels[0], features[1], labels[1])
    if method == RANPAC:
        return ranpac(*arrays, width=setup.config.readout.random_features)
    return run_baseline(method, *arrays)


def adapted_ranpac(run: TunedRun) -> Iterator[TaskEvaluation]:
    """Train on task 0, then learn the stream from the adapted backbone's features."""
    state = run.first_session()
    features = [
        network_features(run.network, state.trainable, state.held, all_views(run.setup, side))[0]
        for side in ("train", "test")
    ]
    yield from baseline(run.setup, run.seed, run.method, (features[0], features[1]))


def all_views(setup: Setup, side: Side) -> Iterator[Batch]:
    """All images of a side, in order, under the test transform."""
    images = setup.source.train if side == "train" else setup.source.test
    return setup.views(side, np.arange(len(images)), images.labels)


def baseline_features(setup: Setup, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the untouched backbone (with random weights: that of `seed`) for training and test images."""
    backbone = setup.backbone
    if backbone is None:
        backbone = initial_state(setup, seed).frozen.backbone
    return (
        backbone_features(setup.network, backbone, all_views(setup, "train")),
        backbone_features(setup.network, backbone, all_views(setup, "test")),
    )


def assemble(setup: Setup, seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`results.json` of the seeds and methods done so far; no times in it, so that equal runs give equal bytes."""
    methods = [m for m in setup.config.methods if any(m in done for done in seeds.values())]
    first = setup.scenarios[setup.config.seeds[0]]
    one_order = len({s.class_order for s in setup.scenarios.values()}) == 1
    names = [task_name(setup.source, first, t) if one_order else f"task {t + 1}" for t in range(first.num_tasks)]
    return {
        "format": FORMAT,
        "preset": setup.config.preset,
        "task_names": names,
        "seeds": seeds,
        "summary": {m: aggregate([done[m] for done in seeds.values() if m in done]) for m in methods},
    }
