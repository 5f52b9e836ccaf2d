"""One stream: the rows of every feature setting by one pass a view, then every row of the table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.commands import Say
from experiments.multilevel.classifier import Images, Tried, Whole, walk
from experiments.multilevel.maps import Feature, groups, signed_root
from experiments.multilevel.rows import AFFINE, DEFAULT, RIVALS, WIDTHS, Learnt, Row
from experiments.sweep.streams import one_stream
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import make_scenario
from ntkcl_jax.readouts.base import Lesson, make_readout
from ntkcl_jax.readouts.feature_maps import FeatureMap
from ntkcl_jax.runs.context import RunContext, Side, epoch_batches, make_context
from ntkcl_jax.seeds import stream_seed

ORDERS = 6
"""Class orders of the rows in which nothing else changes."""


@dataclass(frozen=True)
class Columns:
    """Which maps are computed of each image, drawn by which seed, side by side.

    Attributes:
        maps: the maps and their seeds; a map that several settings share is there once.
    """

    maps: tuple[tuple[FeatureMap, int], ...]

    @cached_property
    def places(self) -> dict[tuple[FeatureMap, int], slice]:
        """Columns of each map."""
        ends = np.cumsum([of.width for of, _ in self.maps])
        return {one: slice(int(end) - one[0].width, int(end)) for one, end in zip(self.maps, ends, strict=True)}

    def of(self, rows: Float[np.ndarray, "n w"], parts: Sequence[FeatureMap], seed: int) -> Float[np.ndarray, "n v"]:
        """Columns of some maps, in their order."""
        return np.concatenate([rows[:, self.places[part, seed]] for part in parts], axis=1)


class Stream:
    """Rows of a stream's images in every feature setting.

    Args:
        name: of the stream.
        config: its settings.
        table: the rows that will be asked for.
        seeds: of the random matrices and class orders.
        widths: of the groups in the default setting.
        say: is told how far it is.
    """

    def __init__(
        self,
        name: str,
        config: RunConfig,
        table: Sequence[Row],
        seeds: Sequence[int],
        widths: tuple[int, ...],
        say: Say,
    ) -> None:
        """Compute all rows."""
        import jax

        from ntkcl_jax.training.readout_run import feature_width

        arrays = one_stream(name).arrays
        self.config, self.seeds, self.widths = config, tuple(seeds), widths
        self.context: RunContext = make_context(config, arrays() if arrays else None)
        self.learner = self.context.learner("frozen")
        self.state = self.learner.start(jax.random.key(0), self.context.backbone_of(0))
        self.entries = feature_width(self.learner)
        self.classes = len(self.context.source.class_names)
        self.labels = {"train": self.context.source.train.labels, "test": self.context.source.test.labels}
        settings = list(dict.fromkeys(row.learnt.setting for row in table if row.readout not in RIVALS))
        feature = Feature(self.entries, config.model.backbone)
        kept = [(part, seed) for seed in seeds for setting in settings for part in self.groups(setting)]
        self.every = Columns(tuple(dict.fromkeys([(feature, self.seeds[0]), *kept])))
        default = [(part, seed) for seed in seeds for part in self.groups("default")]
        self.default = Columns(tuple(dict.fromkeys(default)))
        wanted = dict.fromkeys(view for row in table for view in row.learnt.views)
        say(f"{name}: {len(self.labels['train'])} + {len(self.labels['test'])} images")
        self.plain = {side: self.passed(side, self.every) for side in ("train", "test")}
        # Other settings than the default one have the default views
        columns = {view: self.every if view in AFFINE else self.default for view in wanted}
        self.viewed = {view: (of, self.passed("train", of, view)) for view, of in columns.items()}
        say(f"{name}: rows of them in {len(settings)} settings, {len(self.viewed)} views")

    def groups(self, setting: str) -> tuple[FeatureMap, ...]:
        """The four maps of a setting."""
        return groups(setting, self.widths, self.config.model.backbone, self.entries)

    def passed(self, side: Side, columns: Columns, view: str = "") -> Float[np.ndarray, "n w"]:
        """Rows of all images of a side, in their order; training images in one view where it is named."""
        from ntkcl_jax.devices.mesh import replicate
        from ntkcl_jax.training.readout_run import Mapped, features_of

        maps = tuple(of for of, _ in columns.maps)
        drawn = tuple(self.drawn(of, seed) for of, seed in columns.maps)
        mapped = Mapped(maps, replicate(self.context.mesh, drawn))
        places = np.arange(len(self.labels[side]))
        if not view:
            return features_of(self.learner, self.state, self.context.views(side, places, places), mapped)[0]
        kind, number = view.split()
        images, size = self.context.source.train, self.config.compute.eval_batch_size
        # Labels say where each row of a shuffled batch belongs
        batches = epoch_batches(self.context, images, places, places, 0, 0, int(number), 0, size, kind)
        rows, order = features_of(self.learner, self.state, batches, mapped)
        return rows[np.argsort(order)]

    def drawn(self, of: FeatureMap, seed: int) -> dict[str, Any]:
        """Random matrices of a map, those of the run's readout of that seed; and the network's own norm."""
        random = of.draw(stream_seed(seed, "multilevel", "map", of.name))
        backbone = self.context.backbone_of(0)
        return random | {name: backbone[f"backbone/norm/{name}"] for name in ("scale", "bias")}

    def images(self, row: Row, seed: int, chosen: Int[np.ndarray, "m"], order: "Order") -> Images:
        """Training images of a row."""
        parts = self.groups(row.learnt.setting)
        views = [(self.every, self.plain["train"]), *(self.viewed[view] for view in row.learnt.views)]
        stacked = np.stack([columns.of(rows[chosen], parts, seed) for columns, rows in views], axis=1)
        widths = tuple(part.width for part in parts)
        if row.root:
            stacked[..., -widths[-1] :] = signed_root(stacked[..., -widths[-1] :])
        return Images(stacked, order.labels["train"][chosen], order.tasks[chosen], widths, self.classes)

    def tested(self, row: Row, seed: int) -> Float[np.ndarray, "n w"]:
        """Test images of a row."""
        parts = self.groups(row.learnt.setting)
        rows = self.every.of(self.plain["test"], parts, seed)
        if row.root:
            rows[:, -parts[-1].width :] = signed_root(rows[:, -parts[-1].width :])
        return rows

    def features(self, side: Side) -> Float[np.ndarray, "n e"]:
        """What the network's own classifier reads."""
        return self.every.of(self.plain[side], [self.every.maps[0][0]], self.seeds[0])


@dataclass(frozen=True)
class Order:
    """A class order cut into tasks.

    Attributes:
        labels: place of each image's class in the order, by side.
        tasks: task of each training image.
    """

    labels: dict[str, Int[np.ndarray, "n"]]
    tasks: Int[np.ndarray, "n"]

    @classmethod
    def of(cls, stream: Stream, size: int | None, seed: int) -> "Order":
        """That of a seed, with tasks of `size` classes (None: as the stream has them)."""
        data = stream.config.data
        if size is not None:
            data = replace(data, first_task_classes=0, classes_per_task=min(size, stream.classes))
        scenario = make_scenario(stream.classes, data, seed)
        labels = {side: scenario.relabel(known) for side, known in stream.labels.items()}
        return cls(labels, scenario.task_of_class[labels["train"]])


def few(labels: Int[np.ndarray, "n"], shots: int | None, seed: int) -> Int[np.ndarray, "m"]:
    """Places of at most `shots` images of each class, drawn by a seed, in their order; of more shots more of the same.

    Example:
        >>> few(np.array([0, 0, 1, 1, 1]), 2, seed=0).tolist(), few(np.array([0, 0, 1]), None, 0).tolist()
        ([0, 1, 3, 4], [0, 1, 2])
    """
    if shots is None:
        return np.arange(len(labels))
    order = np.random.default_rng(stream_seed(seed, "shots")).permutation(len(labels))
    kept = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


@dataclass(frozen=True)
class Answer:
    """What a row gave on one seed.

    Attributes:
        right: whether each test image was told right.
        says: what was chosen.
    """

    right: Bool[np.ndarray, "n"]
    says: str


def answers(stream: Stream, table: Sequence[Row], seed: int, matrices: int) -> dict[Row, Answer]:
    """Every row of one seed; rows that learn the same share the work.

    Args:
        stream: its rows.
        table: which rows.
        seed: of the class order.
        matrices: seed of the random matrices.
    """
    found: dict[Row, Answer] = {}
    by_work: dict[tuple[Learnt, bool, str], list[Row]] = {}
    for row in table:
        kind = row.readout if row.readout in RIVALS else ""
        by_work.setdefault((row.learnt, row.root, kind), []).append(row)
    for (learnt, _, rival), own in by_work.items():
        order = Order.of(stream, learnt.size, seed)
        chosen = few(stream.labels["train"], learnt.shots, seed)
        if rival:
            answer = rivals_answer(stream, rival, order, chosen, matrices)
            found |= dict.fromkeys(own, answer)
            continue
        images = stream.images(own[0], matrices, chosen, order)
        candidates = tuple(dict.fromkeys(weights for row in own for weights in row.weights))
        tried = walk(images, candidates, learnt.compared)
        whole, test = Whole.of(images, tried.norms), stream.tested(own[0], matrices).astype(np.float64)
        for row in own:
            weights, ridge = tried.choice(row)
            right = (test @ whole.solved(weights, ridge)).argmax(axis=1) == order.labels["test"]
            found[row] = Answer(right, said(tried, weights, ridge))
    return found


def said(tried: Tried, weights: tuple[float, ...], ridge: float) -> str:
    """What was chosen, for people."""
    return f"{' '.join(f'{weight:g}' for weight in weights)}, ridge {ridge:g}"


def rivals_answer(stream: Stream, name: str, order: Order, chosen: Int[np.ndarray, "m"], seed: int) -> Answer:
    """A rival on the same images, as they are, task by task: the library's readout of that name."""
    total = sum(stream.widths)
    config = replace(stream.config, readout=replace(stream.config.readout, random_features=total))
    readout = make_readout(name, config, width=stream.entries, classes=stream.classes, seed=seed)
    features, state = stream.features("train")[chosen], readout.init()
    labels, tasks = order.labels["train"][chosen], order.tasks[chosen]
    for task in range(int(tasks.max()) + 1):
        own = tasks == task
        seen = int(labels[own].max()) + 1
        # None of the rivals asks for earlier features
        lesson = Lesson(task, features[own][:, None], labels[own], seen, lambda: (features, labels))
        state = readout.learn(state, lesson)
    scores = readout.scores(state, stream.features("test"), stream.classes)
    return Answer(scores.argmax(axis=1) == order.labels["test"], readout.says(state))


def measured(
    name: str,
    config: RunConfig,
    table: Sequence[Row],
    seeds: Sequence[int],
    say: Say,
    widths: tuple[int, ...] = WIDTHS,
) -> dict[str, Any]:
    """Every row of one stream, as plain data.

    Args:
        name: of the stream.
        config: its settings.
        table: which rows; the default one has to be among them.
        seeds: of random matrices and class orders.
        say: is told how far it is.
        widths: of the groups in the default setting.
    """
    start = time.process_time()
    stream = Stream(name, config, table, seeds, widths, say)
    passed = time.process_time() - start
    found: dict[Row, list[Answer]] = {row: [] for row in table}
    moving, fixed = ([row for row in table if row.learnt.fixed == kind] for kind in (False, True))
    for seed in seeds:
        for row, answer in answers(stream, moving, seed, seed).items():
            found[row].append(answer)
        say(f"{name}: seed {seed}, {100 * found[DEFAULT][-1].right.mean():.1f} % by the default")
    for seed in range(ORDERS if fixed else 0):
        for row, answer in answers(stream, fixed, seed, stream.seeds[0]).items():
            found[row].append(answer)
    say(f"{name}: {len(table)} rows")
    return {
        "stream": name,
        "weights": stream.context.weights_sha256,
        "data": stream.context.source.fingerprint,
        "images": len(stream.labels["train"]),
        "test_images": len(stream.labels["test"]),
        "classes": stream.classes,
        "seeds": list(seeds),
        "widths": list(widths),
        "cpu_s": {"passes": passed, "rows": time.process_time() - start - passed},
        "rows": {row.title: told(found[row], found[beside(row, table)]) for row in table},
    }


def beside(row: Row, table: Sequence[Row]) -> Row:
    """What a row is compared with: a rival with `multilevel` under the same change, else the default."""
    same = (other for other in table if other.axis == row.axis and other.readout not in RIVALS)
    return next(same, DEFAULT) if row.readout in RIVALS else DEFAULT


def told(answers: Sequence[Answer], others: Sequence[Answer]) -> dict[str, Any]:
    """A row's numbers: accuracy of each seed, mean difference to other answers, its standard error over test images."""
    mine, other = (np.mean([one.right for one in some], axis=0) for some in (answers, others))
    difference = mine - other
    return {
        "accuracies": [float(one.right.mean()) for one in answers],
        "difference": float(difference.mean()),
        "error_of_difference": float(difference.std() / len(difference) ** 0.5),
        "chosen": [one.says for one in answers],
    }
