"""A whole run: seeds x methods over one stream, in one run folder, resumable at any moment."""

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax import checkpoint
from ntkcl_jax.baselines import backbone_features, run_baseline
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config_json import to_json
from ntkcl_jax.data import Arrays, Batch, Scenario, Source, load_source, make_scenario, steps_per_epoch, train_batches
from ntkcl_jax.data.prepared import PreparedImages
from ntkcl_jax.learner import LearnerState, Position, StepRecord, finish_task, fit_task, start_task, task_arrays
from ntkcl_jax.logs import MetricsLog, Progress, Stage
from ntkcl_jax.metrics import TaskEvaluation, aggregate, score_predictions, summarise
from ntkcl_jax.nn.model import Frozen, Network, Tree
from ntkcl_jax.nn.weights import load_backbone
from ntkcl_jax.runfolder import FORMAT, RunFolder, provenance
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.steps import eval_step


@dataclass(frozen=True)
class Setup:
    """What all seeds of a run share."""

    config: RunConfig
    source: Source
    backbone: Tree | None
    """Pre-trained weights; None for random ones, drawn by each seed."""
    weights_sha256: str
    network: Network
    scenarios: dict[int, Scenario]

    def header(self) -> dict[str, Any]:
        """`config.json`: everything needed to repeat the run."""
        scenarios = {
            str(seed): {"class_order": list(map(int, s.class_order)), "task_sizes": list(map(int, s.task_sizes))}
            for seed, s in self.scenarios.items()
        }
        data = {
            "fingerprint": self.source.fingerprint,
            "class_names": list(self.source.class_names),
            "train_images": len(self.source.train),
            "test_images": len(self.source.test),
        }
        return {
            "format": FORMAT,
            "config": to_json(self.config),
            "weights": {"name": self.config.weights, "sha256": self.weights_sha256},
            "data": data,
            "scenarios": scenarios,
            **provenance(),
        }

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.config.model.backbone.image_size

    @functools.cached_property
    def train_views(self) -> PreparedImages:
        """Training images under the test transform (for prototypes and baselines)."""
        return PreparedImages(self.source.train, self.config.data, self.size)

    @functools.cached_property
    def test_views(self) -> PreparedImages:
        """Test images."""
        return PreparedImages(self.source.test, self.config.data, self.size)

    @property
    def on_device(self) -> bool:
        """Whether training crops are made by the accelerator."""
        where = self.config.data.transform_on
        if where == "auto":
            return jax.default_backend() != "cpu" and self.source.train.uniform_size is not None
        return where == "device"


def set_up(
    config: RunConfig, arrays: Arrays | None = None, stored: tuple[Tree | None, str] | None = None
) -> Setup:
    """Open images and weights and lay out the tasks; writes nothing.

    Args:
        config: the whole configuration.
        arrays: images for `data.source="arrays"`.
        stored: backbone (None: random) and hash that a run folder holds, instead of reading `config.weights`.

    Raises:
        NtkclError: images, weights or settings that don't fit together.
    """
    source = load_source(config.data, arrays)
    scenarios = {seed: make_scenario(len(source.class_names), config.data, seed) for seed in config.seeds}
    backbone, sha256 = stored or (None, "random")
    if stored is None and config.weights != "random":
        backbone, sha256 = load_backbone(config.weights, config.model.backbone)
        backbone = jax.tree.map(jnp.asarray, backbone)
    network = Network(
        config.model,
        task_classes=max(scenarios[config.seeds[0]].task_sizes),
        classes=len(source.class_names),
        dtype=config.compute.dtype,
        remat=config.compute.remat,
    )
    return Setup(config, source, backbone, sha256, network, scenarios)


def initial_state(setup: Setup, seed: int) -> LearnerState:
    """State before task 0; the anchor is the initial trainable tree."""
    key = jax.random.key(stream_seed(seed, "initialisation"))
    adaptation, frozen = setup.network.init(key, setup.backbone)
    return LearnerState(adaptation, frozen, adaptation)


def evaluate(
    setup: Setup, scenario: Scenario, task: int, adaptation: Tree, frozen: Frozen
) -> tuple[TaskEvaluation, np.ndarray]:
    """Classify the test images of all classes seen after `task`.

    Returns:
        The counts, and the predicted label of each of those images in the source's order.
    """
    labels = scenario.relabel(setup.source.test.labels)
    chosen = np.flatnonzero(labels < scenario.offsets[task + 1])
    task_of_class = jnp.asarray([scenario.task_of(c) for c in range(scenario.num_classes)])
    batches = list(setup.test_views.batches(chosen, labels[chosen], setup.config.compute.eval_batch_size))
    results = [eval_step(setup.network, adaptation, frozen, batch, task_of_class) for batch in batches]
    valid = np.concatenate([batch.valid for batch in batches])
    best, top5, within = (np.concatenate(x)[valid] for x in zip(*jax.device_get(results), strict=True))
    evaluation = score_predictions(
        best,
        labels[chosen],
        scenario.offsets[: task + 2],
        top5=top5 if top5.shape[1] == 5 else None,
        within_task_predictions=within,
    )
    return evaluation, best


class SeedRun:
    """NTK-CL on one seed: learns task after task, and leaves every state in the run folder."""

    def __init__(self, setup: Setup, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int) -> None:
        """Bind what the tasks share."""
        self.setup, self.folder, self.log, self.progress, self.seed = setup, folder, log, progress, seed
        self.scenario = setup.scenarios[seed]
        self.labels = self.scenario.relabel(setup.source.train.labels)

    def learn(self) -> list[TaskEvaluation]:
        """Learn all tasks, taking up where the folder's last whole checkpoint left off."""
        evaluations: list[TaskEvaluation] = []
        state: LearnerState | None = None
        for task in range(self.scenario.num_tasks):
            after = self.folder.task(self.seed, task, "after")
            if checkpoint.exists(after):
                trees, meta = checkpoint.load(after)
                evaluations.append(TaskEvaluation(**meta["evaluation"]))
                state = self.restored(trees)
                continue
            state, evaluation = self.learn_task(task, state or initial_state(self.setup, self.seed))
            evaluations.append(evaluation)
        return evaluations

    def restored(self, trees: checkpoint.Trees) -> LearnerState:
        """State of a checkpoint."""
        trees = jax.tree.map(jnp.asarray, trees)
        frozen = Frozen(trees["backbone"] if "backbone" in trees else self.backbone, trees["mean"], trees["prototypes"])
        return LearnerState(trees["adaptation"], frozen, trees["anchor"])

    @property
    def backbone(self) -> Tree:
        """The frozen backbone of this seed."""
        if self.setup.backbone is not None:
            return self.setup.backbone
        return initial_state(self.setup, self.seed).frozen.backbone

    def save(self, path: Path, state: LearnerState, meta: dict[str, Any]) -> None:
        """Write the full state but the backbone, which is stored once."""
        trees = {
            "adaptation": state.adaptation,
            "anchor": state.anchor,
            "mean": state.frozen.mean,
            "prototypes": state.frozen.prototypes,
        }
        checkpoint.save(path, jax.device_get(trees), meta | {"seed": self.seed})

    def learn_task(self, task: int, state: LearnerState) -> tuple[LearnerState, TaskEvaluation]:
        """Train, finish, evaluate and store one task."""
        setup, config, network, scenario = self.setup, self.setup.config, self.setup.network, self.scenario
        members = np.flatnonzero(np.isin(self.labels, scenario.classes(task)))
        steps = steps_per_epoch(len(members), config.optimizer.batch_size)
        state = start_task(network, task, self.seed, state)
        before = self.folder.task(self.seed, task, "before")
        if not checkpoint.exists(before):
            self.save(before, state, {"task": task})
        arrays = task_arrays(network, config, scenario, task, state.frozen, state.anchor)
        resume = self.resume_point(task)
        start = resume[0].step if resume else 0
        self.log.truncate(lambda r: (r["seed"], r["task"]) != (self.seed, task) or r.get("step", 0) <= start)

        def epoch_batches(epoch: int, first: int) -> Iterator[Batch]:
            return train_batches(
                setup.source.train,
                members,
                self.labels[members],
                data=config.data,
                size=setup.size,
                batch_size=config.optimizer.batch_size,
                seed=self.seed,
                task=task,
                epoch=epoch,
                start_step=first,
                on_device=setup.on_device,
            )

        title = f"seed {self.seed} · task {task + 1}/{scenario.num_tasks} · {self.task_name(task)}"
        with self.progress.stage(title, total=steps * config.optimizer.epochs) as stage:
            stage.advance(start)
            adaptation = fit_task(
                network,
                config,
                state,
                arrays,
                epoch_batches,
                task=task,
                seed=self.seed,
                steps_in_epoch=steps,
                resume=resume,
                on_records=self.recorder(task, stage),
                save=functools.partial(self.save_step, task),
            )
        state = finish_task(
            network,
            state._replace(adaptation=adaptation),
            setup.train_views.batches(members, self.labels[members], config.compute.eval_batch_size),
            task=task,
            last=task == scenario.num_tasks - 1,
            offset=scenario.offsets[task],
            classes=scenario.task_sizes[task],
        )
        evaluation, _ = evaluate(setup, scenario, task, state.adaptation, state.frozen)
        self.save(
            self.folder.task(self.seed, task, "after"), state, {"task": task, "evaluation": evaluation.to_record()}
        )
        for step in self.folder.steps(self.seed, task):
            checkpoint.remove(step)
        report_task(self.log, self.progress, "ntkcl", self.seed, evaluation)
        return state, evaluation

    def task_name(self, task: int) -> str:
        """Class names of a task."""
        return task_name(self.setup.source, self.scenario, task)

    def resume_point(self, task: int) -> tuple[Position, Tree, Any] | None:
        """Newest whole in-task state, if there is one."""
        for path in self.folder.steps(self.seed, task):
            trees, meta = checkpoint.load(path)
            leaves = [trees["momentum"][str(i)] for i in range(len(trees["momentum"]))]
            return Position(**meta["position"]), trees["adaptation"], leaves
        return None

    def save_step(self, task: int, position: Position, adaptation: Tree, momentum: Any) -> None:
        """Write an in-task state, then drop the one before."""
        older = self.folder.steps(self.seed, task)
        leaves = {str(i): x for i, x in enumerate(jax.tree.leaves(momentum))}
        trees = jax.device_get({"adaptation": adaptation, "momentum": leaves})
        path = self.folder.task(self.seed, task, "before").with_name(f"step{position.step}")
        checkpoint.save(path, trees, {"position": asdict(position), "seed": self.seed, "task": task})
        for old in older:
            checkpoint.remove(old)

    def recorder(self, task: int, stage: Stage) -> Any:
        """Make the function that turns step results into log lines and progress."""
        batch_size = self.setup.config.optimizer.batch_size
        last = time.perf_counter()

        def record(records: list[StepRecord], position: Position) -> None:
            nonlocal last
            if not records:
                return
            now = time.perf_counter()
            rate = len(records) * batch_size / max(now - last, 1e-9)
            last = now
            mean = {name: float(np.mean([r.terms[name] for r in records])) for name in records[0].terms}
            step = records[-1].step + 1
            self.log.append(
                kind="train", method="ntkcl", seed=self.seed, task=task, step=step, images_per_s=rate, **mean
            )
            stage.advance(len(records), loss=f"{mean['total']:.3f}", images_per_s=rate)

        return record


def task_name(source: Source, scenario: Scenario, task: int, limit: int = 6) -> str:
    """Names of a task's classes, cut after a few."""
    names = [source.class_names[scenario.class_order[c]] for c in scenario.classes(task)]
    return " ".join(names[:limit]) + (f" … ({len(names)} classes)" if len(names) > limit else "")


def report_task(log: MetricsLog, progress: Progress, method: str, seed: int, evaluation: TaskEvaluation) -> None:
    """Log an evaluation and say it."""
    log.append(
        kind="task",
        method=method,
        seed=seed,
        task=evaluation.task,
        accuracy=evaluation.accuracy,
        task_accuracies=list(evaluation.task_accuracies),
    )
    progress.say(
        f"seed {seed} · {method}: {100 * evaluation.accuracy:.2f} % on all classes seen after task {evaluation.task + 1}"
    )


def learn_baseline(
    setup: Setup, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int, method: str, features: tuple
) -> list[TaskEvaluation]:
    """Run one baseline on one seed, or read what an earlier process left."""
    path = folder.baseline(seed, method)
    if path.exists():
        return [TaskEvaluation(**record) for record in folder.read_json(str(path.relative_to(folder.path)))["tasks"]]
    scenario = setup.scenarios[seed]
    train, test = features
    labels = [scenario.relabel(x.labels) for x in (setup.source.train, setup.source.test)]
    title = f"seed {seed} · {method}"
    evaluations = []
    with progress.stage(title, total=scenario.num_tasks) as stage:
        for evaluation in run_baseline(method, scenario, seed, train, labels[0], test, labels[1]):
            evaluations.append(evaluation)
            stage.advance(1)
    for evaluation in evaluations:
        log.append(
            kind="task", method=method, seed=seed, task=evaluation.task, accuracy=evaluation.accuracy
        )
    path.parent.mkdir(exist_ok=True)
    checkpoint.write_json(path, {"tasks": [e.to_record() for e in evaluations]})
    return evaluations


def train(
    config: RunConfig,
    run_dir: str | Path,
    *,
    arrays: Arrays | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run every method on every seed and leave a run folder.

    Args:
        config: the whole configuration.
        run_dir: a new folder, or with `resume` one that an interrupted run of the same config left.
        arrays: images for `data.source="arrays"`.
        resume: go on where the folder's last whole checkpoint left off; ends with the bits of an undisturbed run.
        quiet: no progress.

    Returns:
        What `results.json` holds: `seeds` (seed -> method -> metrics), `summary` (method -> mean, std, n), names.

    Raises:
        NtkclError: anything that the user can mend; see `ntkcl_jax.errors`.
    """
    folder = RunFolder(run_dir)
    if not resume:
        folder.check_new()
    setup = set_up(config, arrays)
    with folder.writing(setup.header(), resume=resume), MetricsLog(folder.metrics) as log, Progress(quiet) as progress:
        store_backbone(setup, folder)
        features = None
        seeds: dict[str, dict[str, Any]] = {}
        results: dict[str, Any] = {}
        for seed in config.seeds:
            for method in config.methods:
                if method == "ntkcl":
                    evaluations = SeedRun(setup, folder, log, progress, seed).learn()
                else:
                    features = features or baseline_features(setup)
                    evaluations = learn_baseline(setup, folder, log, progress, seed, method, features)
                seeds.setdefault(str(seed), {})[method] = summarise(evaluations)
                results = assemble(setup, seeds)
                checkpoint.write_json(folder.path / "results.json", results)
    return results


def store_backbone(setup: Setup, folder: RunFolder) -> None:
    """Keep the frozen backbone once, so that the folder can be read without the weights file."""
    path = folder.checkpoints / "backbone"
    if setup.backbone is not None and not checkpoint.exists(path):
        checkpoint.save(path, {"backbone": jax.device_get(setup.backbone)}, {"sha256": setup.weights_sha256})


def baseline_features(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Features of the untouched backbone for training and test images."""
    backbone = setup.backbone
    if backbone is None:
        backbone = initial_state(setup, setup.config.seeds[0]).frozen.backbone
    out = []
    for views, image_set in ((setup.train_views, setup.source.train), (setup.test_views, setup.source.test)):
        everything = np.arange(len(image_set))
        batches = views.batches(everything, image_set.labels, setup.config.compute.eval_batch_size)
        out.append(backbone_features(setup.network, backbone, batches))
    return out[0], out[1]


def assemble(setup: Setup, seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`results.json` of the seeds and methods done so far; no times in it, so that equal runs give equal bytes."""
    methods = [m for m in setup.config.methods if any(m in done for done in seeds.values())]
    first = setup.scenarios[setup.config.seeds[0]]
    one_order = len({s.class_order for s in setup.scenarios.values()}) == 1
    names = [
        task_name(setup.source, first, t) if one_order else f"task {t + 1}" for t in range(first.num_tasks)
    ]
    return {
        "format": FORMAT,
        "preset": setup.config.preset,
        "task_names": names,
        "seeds": seeds,
        "summary": {m: aggregate([done[m] for done in seeds.values() if m in done]) for m in methods},
    }
