"""A readout above a learner on one seed: it learns the features of each finished task; resumable after every task."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.data import Batch
from ntkcl_jax.devices.hosts import broadcast, fetch
from ntkcl_jax.devices.mesh import replicate
from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.methods.base import Learner, LearnerState
from ntkcl_jax.models.functional import drawn_backbone
from ntkcl_jax.readouts.base import Lesson, Readout, State, make_readout
from ntkcl_jax.readouts.feature_maps import FeatureMap
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import RunContext, Side, epoch_batches
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.evaluate import score_classes
from ntkcl_jax.training.learner_run import LearnerRun, log_task
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.step import feature_step, map_step

CACHED_BYTES = 4 * 2**30
"""Features of one side that are kept from task to task, at most; wider ones are computed when a task asks for them."""
MOVING = (
    "{method} adds up features as each task left them, and training on later tasks moves them; {remedy}, which was "
    "worth more on a real backbone (README, Results)"
)
"""What to say of a run whose features move under what a readout has added up."""


class Mapped(NamedTuple):
    """Feature maps with what they have drawn; without any map a feature is the learner's own.

    Attributes:
        maps: of the network's levels, side by side.
        drawn: each one's random matrices.
        name: of the readout, by which they are drawn.
    """

    maps: tuple[FeatureMap, ...] = ()
    drawn: tuple[Mapping[str, Any], ...] = ()
    name: str = ""

    @classmethod
    def of(cls, readout: Readout, mesh: Mesh) -> "Mapped":
        """Draw what a readout's maps need, onto the mesh."""
        seeds = (stream_seed(readout.seed, readout.name, "map", of.name) for of in readout.maps)
        drawn = tuple(of.draw(seed) for of, seed in zip(readout.maps, seeds, strict=True))
        return cls(readout.maps, replicate(mesh, drawn), readout.name)

    def step(self, learner: Learner, state: LearnerState, batch: Batch) -> Float[jax.Array, "b w"]:
        """Features of a batch."""
        if not self.maps:
            return feature_step(learner, *state, batch)
        return map_step(learner, self.maps, self.drawn, *state, batch)


UNMAPPED = Mapped()


def features_of(
    learner: Learner, state: LearnerState, batches: Iterable[Batch], mapped: Mapped = UNMAPPED
) -> tuple[Float[np.ndarray, "n w"], Int[np.ndarray, "n"]]:
    """Feature and label of every valid row, in order."""
    # All batches are queued before the first is fetched, so that the device never waits
    parts = [(mapped.step(learner, state, batch), batch.labels, batch.valid) for batch in batches]
    features, labels = zip(*((x[valid], y[valid]) for x, y, valid in map(fetch, parts)), strict=True)
    return np.concatenate(features), np.concatenate(labels)


def shown(run: LearnerRun, title: str, batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The batches of `count` images, each counted as a step of a stage when the next one is asked for."""
    size = run.context.config.compute.eval_batch_size
    with run.progress.stage(title, total=-(-count // size)) as stage:
        for batch in batches:
            yield batch
            stage.advance(1)


class Part(NamedTuple):
    """Images whose features are computed in one go, and of what.

    Attributes:
        learner: its name.
        seed: of the run; None where the backbone alone decides.
        side: training or test images.
        task: whose images; None: all.
        maps: the feature maps.
        readout: by whose name they are drawn; "" without maps.
    """

    learner: str
    seed: int | None
    side: Side
    task: int | None
    maps: tuple[FeatureMap, ...]
    readout: str


@dataclass
class FeatureCache:
    """Features by learners that no longer move: computed once a process, when a task first asks for them.

    Features that all seeds share are computed of a whole side at once; others, the wide ones among them, of one task's
    images after the other. So a run that is taken up again owes the passes over what is left and over the test images
    of tasks that are learnt already, not over their training images; and since a task's images make the same batches
    whenever they are asked for, it ends with the same bits.

    Attributes:
        parts: what is known, rows in the order of the side.
    """

    parts: dict[Part, Float[np.ndarray, "n w"]] = field(default_factory=dict)

    def rows(
        self, run: LearnerRun, state: LearnerState, side: Side, places: Int[np.ndarray, "m"], mapped: Mapped
    ) -> Float[np.ndarray, "m w"]:
        """Features of some images of a side under the test transform."""
        # Without training every seed has the same features, unless each draws a backbone or maps of its own
        shared = run.sessions == 0 and run.context.backbone is not None and not mapped.maps
        part = Part(run.learner.name, None if shared else run.seed, side, None, mapped.maps, mapped.name)
        images = run.context.source.train if side == "train" else run.context.source.test
        if shared:
            return self._part(run, state, part, np.arange(len(images)), mapped)[places]
        task_of = run.scenario.task_of_class[run.scenario.relabel(images.labels)]
        known = {}
        for task in map(int, np.unique(task_of[places])):
            own = np.flatnonzero(task_of == task)
            known[task] = own, self._part(run, state, part._replace(task=task), own, mapped)
        # Every task's rows go where `places` has its images
        width = next((rows.shape[1] for _, rows in known.values()), 0)
        found = np.empty((len(places), width), np.float32)
        for task, (own, rows) in known.items():
            here = task_of[places] == task
            found[here] = rows[np.searchsorted(own, places[here])]
        return found

    def _part(
        self, run: LearnerRun, state: LearnerState, part: Part, own: Int[np.ndarray, "n"], mapped: Mapped
    ) -> Float[np.ndarray, "n w"]:
        if part not in self.parts:
            if part.maps:  # wide: those of the seed before aren't asked for again
                self.parts = {at: rows for at, rows in self.parts.items() if not at.maps or at.seed == run.seed}
            batches = run.context.views(part.side, own, np.zeros_like(own))
            if part.maps and part.task is not None:  # long enough to be shown
                which = f"task {part.task + 1}/{run.scenario.num_tasks} · features of {part.side} images"
                batches = shown(run, f"seed {run.seed} · {run.learner.name} · {which}", batches, len(own))
            self.parts[part] = features_of(run.learner, state, batches, mapped)[0]
        return self.parts[part]


def tasks_stored(folder: RunFolder, seed: int, pair: tuple[str, str], tasks: int) -> int:
    """How many of a stream's tasks the newest stored state of a readout has learnt; 0 where nothing is stored."""
    # From the last: two may be there, where a process died before it deleted the older one
    done = (t + 1 for t in reversed(range(tasks)) if broadcast(checkpoint.exists(folder.readout(seed, t, *pair))))
    return next(done, 0)


@dataclass(frozen=True)
class StoredReadout:
    """What a readout has learnt, and what it scored after each of its tasks."""

    state: State
    evaluations: tuple[TaskEvaluation, ...] = ()

    @classmethod
    def newest(
        cls, folder: RunFolder, seed: int, pair: tuple[str, str], tasks: int, like: State | None = None
    ) -> "StoredReadout | None":
        """The newest that a run folder holds; None where nothing was stored yet.

        Args:
            folder: of the run.
            seed: one of the run's seeds.
            pair: names of learner and readout.
            tasks: how many the stream has.
            like: arrays of the names, shapes and types that it must have.

        Raises:
            RunFolderError: it is damaged or of another shape.
        """
        done = tasks_stored(folder, seed, pair, tasks)
        if not done:
            return None
        path = folder.readout(seed, done - 1, *pair)
        trees, meta = checkpoint.load(path, None if like is None else {"readout": like})
        records = meta.get("evaluations")
        if not isinstance(records, list) or len(records) != done:
            raise RunFolderError(f"{path} doesn't hold an evaluation of each task; delete it to learn them again")
        return cls(trees["readout"], tuple(TaskEvaluation.from_record(record, path) for record in records))

    def store(self, folder: RunFolder, seed: int, pair: tuple[str, str], says: str = "") -> None:
        """Write it as the state after its last task, then drop the one before: it holds nothing that this lacks.

        Args:
            folder: of the run.
            seed: one of the run's seeds.
            pair: names of learner and readout.
            says: what the readout has chosen, for readers that needn't the arrays.

        Raises:
            RunFolderError: the disk is full or read-only.
        """
        task = len(self.evaluations) - 1
        meta = {"evaluations": [e.to_record() for e in self.evaluations], "seed": seed, "task": task, "says": says}
        checkpoint.save(folder.readout(seed, task, *pair), {"readout": self.state}, meta)
        self.drop_earlier(folder, seed, pair)

    def drop_earlier(self, folder: RunFolder, seed: int, pair: tuple[str, str]) -> None:
        """Delete what was stored after tasks before the last one."""
        for earlier in range(len(self.evaluations) - 1):
            checkpoint.remove(folder.readout(seed, earlier, *pair))


class ReadoutRun:
    """One readout above one learner on one seed.

    Attributes:
        method: name of the pair in the run.
        run: the learner's side.
        cache: features that other readouts of the run have asked for.
    """

    def __init__(self, method: str, run: LearnerRun, cache: FeatureCache) -> None:
        """Bind what the tasks share."""
        self.method, self.run, self.cache, self.mapped = method, run, cache, UNMAPPED
        self.pair = run.context.config.pair(method)
        self._states: dict[int, LearnerState] = {}

    def learn(self) -> list[TaskEvaluation]:
        """Learn the features of all tasks, the learner having finished them, and classify after each.

        Raises:
            RunFolderError: a checkpoint of the learner isn't there or is damaged.
        """
        run, tasks = self.run, self.run.scenario.num_tasks
        readout = self.readout()
        stored = StoredReadout.newest(run.folder, run.seed, self.pair, tasks, readout.init())
        stored = stored or StoredReadout(readout.init())
        stored.drop_earlier(run.folder, run.seed, self.pair)  # of a process that died between storing and deleting
        if len(stored.evaluations) == tasks:
            return list(stored.evaluations)
        self.mapped = Mapped.of(readout, run.context.mesh)
        done = len(stored.evaluations)  # records of a process that died before it stored what they tell
        run.log.truncate(
            lambda r: (r["method"], r["seed"], r["kind"]) != (self.method, run.seed, "task") or r["task"] < done
        )
        with run.progress.stage(f"seed {run.seed} · {self.method}", total=tasks) as stage:
            stage.advance(done)
            for task in range(done, tasks):
                state = readout.learn(stored.state, self.lesson(readout, task))
                evaluation = self.evaluate(readout, state, task)
                stored = StoredReadout(state, (*stored.evaluations, evaluation))
                # Logged before it is stored: a task that counts as done has its record
                log_task(run.log, self.method, run.seed, evaluation)
                stored.store(run.folder, run.seed, self.pair, readout.says(state))
                stage.advance(1)
        if says := readout.says(stored.state):
            run.progress.say(f"seed {run.seed} · {self.method}: {says}")
        return list(stored.evaluations)

    def again(self) -> list[TaskEvaluation]:
        """Classify the test images again with the last stored state; rows of earlier tasks are as recorded."""
        run, readout = self.run, self.readout()
        stored = StoredReadout.newest(run.folder, run.seed, self.pair, run.scenario.num_tasks, readout.init())
        if stored is None:
            return []
        self.mapped = Mapped.of(readout, run.context.mesh)
        last = len(stored.evaluations) - 1
        return [*stored.evaluations[:-1], self.evaluate(readout, stored.state, last)]

    def readout(self) -> Readout:
        """The readout, made for the learner's features."""
        return readout_of(self.run.context, self.method, self.run.seed)

    def lesson(self, readout: Readout, task: int) -> Lesson:
        """A task's features and labels."""
        members = self.run.members(task)
        plain = self.features("train", task, members)
        views = [self.view(readout, task, members, number) for number in range(readout.views)]
        seen = self.run.scenario.offsets[task + 1]

        # A function, since only a yardstick such as `joint` pays for the features of old images
        def everything() -> tuple[Float[np.ndarray, "m e"], Int[np.ndarray, "m"]]:
            chosen = np.flatnonzero(self.run.labels < seen)
            return self.features("train", task, chosen), self.run.labels[chosen]

        # [n, 1 + views, e]: the untransformed view first
        return Lesson(task, np.stack([plain, *views], axis=1), self.run.labels[members], seen, everything)

    def features(self, side: Side, task: int, places: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n e"]:
        """Features of some images of a side at the end of a task."""
        run, state = self.run, self.state(task)
        images = run.context.source.train if side == "train" else run.context.source.test
        width = sum(of.width for of in self.mapped.maps)
        fits = 4 * len(images) * width <= CACHED_BYTES  # the learner's own features always do
        if fits and task + 1 >= run.sessions and run.learner.sessions is not None:  # they won't move any more
            return self.cache.rows(run, state, side, places, self.mapped)
        return features_of(run.learner, state, run.context.views(side, places, np.zeros_like(places)), self.mapped)[0]

    def view(self, readout: Readout, task: int, members: Int[np.ndarray, "n"], number: int) -> Float[np.ndarray, "n e"]:
        """Features of a task's images in one random view each, those of an epoch that training never came to."""
        run, config = self.run, self.run.context.config
        places = np.arange(len(members))  # in the labels' stead: they say where each row of a shuffled batch belongs
        trained = max(config.optimizer.epochs, run.learner.epochs_of(config, task))
        # The batch size is free to choose: a view depends on the image's place and the epoch alone
        epoch, size = trained + number, config.compute.eval_batch_size
        train = run.context.source.train
        batches = epoch_batches(run.context, train, members, places, run.seed, task, epoch, 0, size, readout.view)
        features, order = features_of(run.learner, self.state(task), batches, self.mapped)
        return features[np.argsort(order)]  # undoes the shuffle

    def state(self, task: int) -> LearnerState:
        """The learner's state at the end of a task; the last one asked for is kept."""
        # One at a time: tasks come in order, and a state is as large as a checkpoint
        at = min(task, self.run.sessions - 1)
        if at not in self._states:
            self._states = {at: self.run.state_after(at)}
        return self._states[at]

    def evaluate(self, readout: Readout, state: State, task: int) -> TaskEvaluation:
        """Classify the test images of all classes seen after a task."""
        source, scenario = self.run.context.source, self.run.scenario
        labels, offsets = scenario.relabel(source.test.labels), scenario.offsets[: task + 2]
        seen = np.flatnonzero(labels < offsets[-1])
        scores = readout.scores(state, self.features("test", task, seen), offsets[-1])
        return score_classes(scores, labels[seen], offsets)


def readout_of(context: RunContext, method: str, seed: int) -> Readout:
    """The readout of a method that isn't a learner's own head, made for the learner's features."""
    pair = context.config.pair(method)
    width = feature_width(context.learner(pair.learner))
    classes = context.scenarios[seed].num_classes
    return make_readout(pair.readout, context.config, width=width, classes=classes, seed=seed)


# Asked for by each readout of each seed: traced once
@functools.lru_cache(maxsize=64)
def feature_width(learner: Learner) -> int:
    """Entries of a learner's feature, which it alone knows; shapes only, nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    pixels = jax.ShapeDtypeStruct((1, learner.image_size, learner.image_size, 3), jnp.float32)
    like = jax.eval_shape(learner.start, key, jax.eval_shape(lambda k: drawn_backbone(k, learner.backbone), key))
    return jax.eval_shape(learner.features, *like, pixels).shape[1]


def moving(run: LearnerRun, method: str) -> str | None:
    """What to say of a method whose learner moves under a readout that adds features up; None of any other."""
    config = run.context.config
    pair = config.pair(method)
    if pair.readout == HEAD or run.learner.sessions is not None:
        return None
    # Made for its `additive` only, so any width and number of classes will do
    if not make_readout(pair.readout, config, width=1, classes=1, seed=0).additive:
        return None
    if run.learner.name == "ntkcl":
        if config.optimizer.later_learning_rate == 0:
            return None
        return MOVING.format(method=method, remedy="with --optimizer.later-learning-rate 0 they stay")
    return MOVING.format(method=method, remedy=f"first-session/{pair.readout} is the like with features that stay")
