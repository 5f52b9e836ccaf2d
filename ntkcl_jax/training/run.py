"""A whole run: seeds x methods over one stream, in one run folder."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from ntkcl_jax.config import MeshConfig, RunConfig
from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.data import Arrays, Source
from ntkcl_jax.devices.host_memory import host_memory
from ntkcl_jax.devices.hosts import broadcast, first, on_first
from ntkcl_jax.devices.mesh import make_mesh
from ntkcl_jax.errors import ConfigError, MemoryShortError, RunFolderError
from ntkcl_jax.readouts.base import Readout
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import RunContext, make_context, task_name
from ntkcl_jax.runs.folder import RESULTS_FORMAT, RunFolder, arithmetic_changes
from ntkcl_jax.runs.log import MetricsLog, Progress
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.training.learner_run import LearnerRun
from ntkcl_jax.training.metrics import SPLIT, TaskEvaluation, aggregate, summarise
from ntkcl_jax.training.readout_run import FeatureCache, ReadoutRun, moving, readout_of

SAID_BYTES = 10**9
"""Memory from which a run says what a readout takes."""


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
    context = make_context(config, arrays, mesh=make_mesh(mesh or MeshConfig()))
    check_methods(context)
    header = context.header()
    context.decode_all()
    # The other processes run the same code on a log that keeps nothing
    log_file = folder.metrics if first() else Path(os.devnull)
    with (
        folder.writing(header, resume=resume),
        MetricsLog(log_file) as log,
        Progress(quiet or not first()) as progress,
    ):
        changes = arithmetic_changes(folder.header(), header)
        if changes:
            progress.say(
                f"warning: since this run was started, {', '.join(changes)}: numbers may differ in their last bits; "
                "resume with the old versions on the old devices for the same bits"
            )
        for note in context.notes:
            progress.say(f"weights: {note}")
        store_backbone(context, folder)
        runs = Runs(context, folder, log, progress)
        if not resume:
            say_split(context.source, progress)
            runs.hint()
        seeds: dict[str, dict[str, Any]] = {}
        results: dict[str, Any] = {}
        for seed in config.seeds:
            for method in config.methods:
                seeds.setdefault(str(seed), {})[method] = summarise(runs.learn(seed, method))
                # After every method: a run that is broken off, or read while it goes on, has what is done so far
                results = assemble(context, seeds)
                on_first(partial(checkpoint.write_json, folder.path / "results.json", results))
    return results


def check_methods(context: RunContext) -> None:
    """Refuse a method that can't be made, or whose own head knows only the first tasks' classes.

    Raises:
        ConfigError: names it.
    """
    config, seed = context.config, context.config.seeds[0]
    tasks = context.scenarios[seed].num_tasks
    for method in config.methods:
        pair = config.pair(method)
        # Both are made to see that they can be, before there is a folder
        sessions = context.learner(pair.learner).sessions
        if pair.readout != HEAD:
            check_readout_fits(method, readout_of(context, method, seed))
        elif sessions is not None and sessions < tasks:
            raise ConfigError(
                f"{pair.learner} trains on {sessions} of {tasks} tasks, so its own head doesn't know all classes; put "
                f"a readout above it, e.g. --methods {pair.learner}/ridge"
            )


def check_readout_fits(method: str, readout: Readout) -> None:
    """Refuse a readout that this machine's main memory doesn't hold.

    Raises:
        MemoryShortError: says how much it takes, and what would fit.
    """
    have = host_memory()
    if readout.memory > have:
        raise MemoryShortError(
            f"{method} takes {readout.memory / 1e9:.1f} GB of main memory beside its features, and {have / 1e9:.1f} GB "
            f"are free; {readout.fitting(have // 2)}"
        )


class Runs:
    """The learners and readouts of a run: one training of a learner serves all its readouts."""

    def __init__(self, context: RunContext, folder: RunFolder, log: MetricsLog, progress: Progress) -> None:
        """Nothing is trained yet."""
        self.context, self.folder, self.log, self.progress = context, folder, log, progress
        self.cache = FeatureCache()
        self._learned: dict[tuple[int, str], list[TaskEvaluation]] = {}

    def learner(self, seed: int, name: str) -> LearnerRun:
        """A learner on a seed."""
        return LearnerRun(self.context, self.folder, self.log, self.progress, seed, name)

    def learn(self, seed: int, method: str) -> list[TaskEvaluation]:
        """Train a method on a seed, or read what an earlier process left of it."""
        pair = self.context.config.pair(method)
        run = self.learner(seed, pair.learner)
        # Each readout above the learner asks for it
        if (seed, pair.learner) not in self._learned:
            self._learned[seed, pair.learner] = run.learn()
        if pair.readout == HEAD:
            return self._learned[seed, pair.learner]
        return ReadoutRun(method, run, self.cache).learn()

    def again(self, seed: int, method: str) -> list[TaskEvaluation]:
        """Classify the test images again with the stored states of a method; nothing is trained or written."""
        pair = self.context.config.pair(method)
        run, name = self.learner(seed, pair.learner), f"seed {seed} · {method} again"
        if pair.readout != HEAD:
            with self.progress.stage(name, total=1) as stage:
                found = ReadoutRun(method, run, self.cache).again()
                stage.advance(1)
            return found
        done = [checkpoint.exists(run.path(task, "after")) for task in range(run.sessions)]
        # Tasks end in order: those before the first that hasn't
        found, finished = [], done.index(False) if False in done else len(done)
        with self.progress.stage(name, total=finished) as stage:
            for task in range(finished):
                found.append(run.evaluate(task, run.state_after(task)))
                stage.advance(1)
        return found

    def hint(self) -> None:
        """Say which methods add up features that later tasks move, and which take much memory."""
        for method in self.context.config.methods:
            said = moving(self.learner(self.context.config.seeds[0], self.context.config.pair(method).learner), method)
            if said is not None:
                self.progress.say(f"hint: {said}")
            if self.context.config.pair(method).readout != HEAD:
                readout = readout_of(self.context, method, self.context.config.seeds[0])
                if readout.memory > SAID_BYTES:
                    self.progress.say(f"memory    {method} takes {readout.memory / 1e9:.1f} GB beside its features")


def say_split(source: Source, progress: Progress) -> None:
    """Say which images test, and whether any of them train too."""
    progress.say(f"split     {source.split_sha256[:12]} ({source.split})")
    if source.duplicates:
        at, same = source.duplicates[0]
        progress.say(
            f"warning: {len(source.duplicates)} test images are training images too, the first is "
            f"{source.test.names(at)} = {source.train.names(same)}"
        )


def store_backbone(context: RunContext, folder: RunFolder) -> None:
    """Keep the frozen backbone once, so that the folder can be read without the weights file."""
    path = folder.checkpoints / "backbone"
    if context.backbone is not None and not broadcast(checkpoint.exists(path)):
        checkpoint.save(path, {"backbone": context.backbone}, {"sha256": context.weights_sha256})


def assemble(context: RunContext, seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`results.json` of the seeds and methods done so far; no times in it, so that equal runs give equal bytes."""
    methods = [m for m in context.config.methods if any(m in done for done in seeds.values())]
    first_order = context.scenarios[context.config.seeds[0]]
    one_order = len({s.class_order for s in context.scenarios.values()}) == 1
    tasks = range(first_order.num_tasks)
    # Where seeds order the classes differently, a task's number is all that they share
    names = [task_name(context.source, first_order, t) if one_order else f"task {t + 1}" for t in tasks]
    return {
        "format": RESULTS_FORMAT,
        "preset": context.config.preset,
        "task_names": names,
        "seeds": seeds,
        "summary": {m: aggregate([done[m] for done in seeds.values() if m in done]) for m in methods},
    }


def evaluate_run(run: str | Path, *, arrays: Arrays | None = None, quiet: bool = False) -> tuple[dict[str, Any], bool]:
    """Classify the test images again with the stored states of every method, to compare with what was recorded.

    A readout keeps its last state only: that is classified again, its earlier rows are as recorded.

    Args:
        run: the run folder.
        arrays: the images again, when the run had `data.source="arrays"`.
        quiet: no progress.

    Returns:
        Results of the finished tasks in the form of `results.json`, and whether they equal the stored ones.

    Raises:
        RunFolderError: no run there, or no finished task.
    """
    opened = load_run(run, arrays=arrays)
    stored, folder = opened.results.get("seeds", {}), RunFolder(opened.path)
    seeds: dict[str, dict[str, Any]] = {}
    same = True
    with Progress(quiet) as progress, MetricsLog(Path(os.devnull)) as log:
        runs = Runs(opened.context, folder, log, progress)
        for seed in opened.seeds:
            for method in opened.config.methods:
                found = runs.again(seed, method)
                if found:
                    made = seeds.setdefault(str(seed), {})[method] = summarise(found)
                    # What results.json doesn't have yet can't differ from it
                    same &= _agrees(stored.get(str(seed), {}).get(method, made), made)
    if not seeds:
        raise RunFolderError(f"{opened.path} has no finished task yet; train first")
    return assemble(opened.context, seeds), same


def _agrees(stored: Any, made: dict[str, Any]) -> bool:
    """Tell whether a method's metrics are as stored; runs of older versions haven't kept what takes single images."""
    if not isinstance(stored, dict):  # a file that somebody else has changed
        return False
    unknown = [name for name in SPLIT if stored.get(name) is None]
    return {**stored, **{name: made[name] for name in unknown}} == made
