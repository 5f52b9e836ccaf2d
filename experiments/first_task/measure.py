"""What is measured of a stream: every map's accuracy in the end, and what its kernel says before the second task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

from analysis import measures
from analysis.measures import effective_dimension, target_alignment
from analysis.theory.finite_population import finite_population
from analysis.theory.learning_curves import eigenlearning, population_modes
from analysis.theory.leave_one_out import stored
from analysis.theory.modes import Modes, modes
from experiments.sweep.streams import one_stream
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import make_scenario
from ntkcl_jax.readouts.left_out import advised, best_of, left_out, spread
from ntkcl_jax.readouts.multilevel import CANDIDATES
from ntkcl_jax.training.first_task import IMAGES

MAPS: dict[str, dict[str, float]] = {
    "ridge": {"ridge": 1},
    "layup": {"layup": 1},
    "ranpac": {"ranpac": 1},
    **{part: {part: 1} for part in "FMGS"},
    "F+M": {"F": 1, "M": 1},
    "G+S": {"G": 1, "S": 1},
    **{
        " ".join(f"{w:g}" for w in weights): dict(zip("FMGS", weights, strict=True))
        for weights in ((1, 1, 1, 1), (0.3, 1, 1, 1), (0, 0.3, 1, 1), (1, 1, 0.3, 0.3), (1, 0.3, 0, 0))
    },
}
"""Feature maps: weights of groups, in units of each one's mean squared norm. The last five are among `multilevel`'s."""
READOUTS = ("ridge", "layup", "ranpac", "multilevel")
"""Readouts of a frozen backbone, the one that keeps least first."""
WEIGHTED = [name for name in MAPS if " " in name]
RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
"""In units of the kernel's mean diagonal: 1e-6 to 10, two a decade."""
FIXED = RIDGES[8]
"""One of them, 0.01, for statistics that choose none."""
SHOTS, DRAWS = 5, 20
SCORES: dict[str, tuple[int, str]] = {
    "alignment": (1, "target alignment"),
    "centred": (1, "centred target alignment"),
    "accuracy": (1, "leave-one-out accuracy"),
    "accuracy_fixed": (1, "leave-one-out accuracy, λ = 0.01"),
    "error": (-1, "leave-one-out squared error"),
    "error_fixed": (-1, "leave-one-out squared error, λ = 0.01"),
    "gcv": (-1, "GCV"),
    "eigenlearning": (-1, "eigen-learning, P = n/2"),
    "finite_population": (-1, "finite population, P = n/2"),
    "dimension": (1, "effective dimension, λ = 0.01 (larger)"),
    "margin": (1, "leave-one-out margin"),
    "extended": (1, "leave-one-out accuracy, extended to all classes"),
    "few": (1, f"accuracy on the rest of the task after {SHOTS} images a class"),
}
"""Statistics of a kernel: 1 where larger should be better, -1 where smaller; what tables call them."""


@dataclass(frozen=True)
class Rows:
    """What the maps make of a stream's images.

    Attributes:
        train: rows by group.
        test: rows by group.
        labels: classes of the training images, in the source's numbering.
        test_labels: those of the test images.
    """

    train: dict[str, Float[np.ndarray, "n w"]]
    test: dict[str, Float[np.ndarray, "m w"]]
    labels: Int[np.ndarray, "n"]
    test_labels: Int[np.ndarray, "m"]


def rows_of(config: RunConfig, stream: str) -> tuple[Rows, Any]:
    """Rows of all images of a stream, as the run's readouts of seed 0 see them, and the run's context."""
    import jax

    from ntkcl_jax.readouts.base import make_readout
    from ntkcl_jax.runs.context import make_context
    from ntkcl_jax.training.readout_run import Mapped, feature_width, features_of

    arrays = one_stream(stream).arrays
    context = make_context(config, arrays() if arrays else None)
    learner = context.learner("frozen")
    state = learner.start(jax.random.key(0), context.backbone_of(0))
    classes, width = len(context.source.class_names), feature_width(learner)
    made = {name: make_readout(name, config, width=width, classes=classes, seed=0) for name in READOUTS}
    parts = [Mapped.of(made[name], context.mesh) for name in ("layup", "multilevel")]
    maps = tuple(of for part in parts for of in part.maps)
    mapped = Mapped(maps, tuple(drawn for part in parts for drawn in part.drawn))
    sides = []
    for side, images in (("train", context.source.train), ("test", context.source.test)):
        places = np.arange(len(images))
        own = features_of(learner, state, context.views(side, places, images.labels))[0]
        wide = features_of(learner, state, context.views(side, places, images.labels), mapped)[0]
        groups = np.split(wide, np.cumsum([of.width for of in maps])[:-1], axis=1)
        plain = {name: np.asarray(made[name].expand(own), np.float32) for name in ("ridge", "ranpac")}
        sides.append(plain | {"layup": groups[0]} | dict(zip("FMGS", groups[1:], strict=True)))
    return Rows(*sides, context.source.train.labels, context.source.test.labels), context


def kernels(rows: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, "n m"]]:
    """Inner products by group, in float64: rounding to float32 would be as large as the smallest ridges."""
    return {name: rows[name].astype(np.float64) @ other[name].astype(np.float64).T for name in rows}


def weighed(
    groups: Mapping[str, np.ndarray], weights: Mapping[str, float], norms: Mapping[str, float]
) -> Float[np.ndarray, "n m"]:
    """A map's kernel, of mean diagonal 1 on the images whose mean squared norms are `norms`."""
    total = sum(w**2 for w in weights.values())
    parts = (w**2 / total / norms[name] * groups[name] for name, w in weights.items() if w)
    return np.sum(list(parts), axis=0)


@dataclass(frozen=True)
class Told:
    """What is known of left-out images at one ridge."""

    error: float
    accuracy: float
    margin: float
    extended: float
    gcv: float


def told(decomposed: Modes, wanted: Float[np.ndarray, "n c"], ridge: float, classes: int) -> Told:
    """Leave each image out.

    `extended`: an image beats a wrong class with the probability that its own score is above a wrong class's score,
    normal with mean and deviation of all wrong scores; for `classes` - 1 of them, independent, that power of it (the
    extrapolation of Kay et al. 2008, with one density for all images so that it needs only two classes).
    """
    learnt = stored(decomposed, wanted, ridge)
    residual = learnt.held_out()[:, 0]
    scores, known = wanted - residual, wanted.astype(bool)
    own, others = scores[known], np.where(known, -np.inf, scores).max(axis=1)
    wrong = scores[~known]
    beats = ndtr((own - wrong.mean()) / max(wrong.std(), 1e-12))
    return Told(
        float(np.square(residual).sum(axis=1).mean()),
        float((own > others).mean()),
        float((own - others).mean()),
        float((beats ** (classes - 1)).mean()),
        learnt.gcv(),
    )


def by_ridge(decomposed: Modes, labels: Int[np.ndarray, "n"], classes: int) -> dict[float, Told]:
    """`told` at every one of `RIDGES`."""
    wanted = one_hot(labels)
    return {ridge: told(decomposed, wanted, ridge, classes) for ridge in RIDGES}


def one_hot(labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n c"]:
    """Targets of the classes that there are.

    Example:
        >>> one_hot(np.array([7, 3])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    return measures.one_hot(labels, np.unique(labels))


def statistics(
    kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"], decomposed: Modes, tried: Mapping[float, Told]
) -> dict[str, float]:
    """Every one of `SCORES` of one kernel but `few`.

    Args:
        kernel: of mean diagonal 1.
        labels: classes of its images.
        decomposed: the kernel's modes.
        tried: what is known of left-out images, by ridge.
    """
    wanted, half = one_hot(labels), len(labels) / 2
    eta, power = population_modes(decomposed, wanted)
    fixed = tried[FIXED]
    return {
        "alignment": target_alignment(kernel, wanted),
        "centred": target_alignment(kernel, wanted, centred=True),
        "accuracy": max(one.accuracy for one in tried.values()),
        "accuracy_fixed": fixed.accuracy,
        "error": min(one.error for one in tried.values()),
        "error_fixed": fixed.error,
        "gcv": min(one.gcv for one in tried.values()),
        "eigenlearning": min(eigenlearning(eta, power, half, ridge).generalization_error for ridge in RIDGES),
        "finite_population": min(finite_population(eta, power, half, ridge).unseen_error for ridge in RIDGES),
        "dimension": effective_dimension(decomposed.values, FIXED),
        "margin": max(one.margin for one in tried.values()),
        "extended": max(one.extended for one in tried.values()),
    }


def few_shots(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> float:
    """Accuracy on the rest of the task after `SHOTS` images a class, mean over draws, at the best ridge."""
    rng, right, wanted = np.random.default_rng(0), np.zeros(len(RIDGES)), one_hot(labels)
    for _ in range(DRAWS):
        chosen = np.concatenate([rng.permutation(np.flatnonzero(one))[:SHOTS] for one in wanted.T])
        rest = np.setdiff1d(np.arange(len(labels)), chosen)
        drawn = modes(kernel[np.ix_(chosen, chosen)])
        across = kernel[np.ix_(rest, chosen)]
        for i, ridge in enumerate(RIDGES):
            scores = across @ drawn.filtered(1 / (drawn.values + ridge), wanted[chosen])
            right[i] += np.mean(wanted[rest, scores.argmax(axis=1)])
    return float(right.max()) / DRAWS


def best_ridge(tried: Mapping[float, Told]) -> float:
    """That with most left-out images right; of equals that with less squared error."""
    return max(tried, key=lambda ridge: (tried[ridge].accuracy, -tried[ridge].error))


def measured(stream: str, config: RunConfig, orders: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything of one stream, as plain data.

    Args:
        stream: its name.
        config: its settings.
        orders: class orders, those of seeds 0, 1, 2, ...
        say: is told how far it is.
    """
    rows, context = rows_of(config, stream)
    classes = len(context.source.class_names)
    say(f"{stream}: rows of {len(rows.labels)} + {len(rows.test_labels)} images")
    inner, across = kernels(rows.train, rows.train), kernels(rows.test, rows.train)
    found: list[dict[str, Any]] = []
    for seed in range(orders):
        first = make_scenario(classes, config.data, seed)
        members = np.flatnonzero(np.isin(rows.labels, first.class_order[: first.task_sizes[0]]))
        found.append({"seed": seed} | first_task(inner, rows.labels, members, classes))
        say(f"{stream}: first task of seed {seed}, {len(members)} images")
    norms = {name: float(np.diagonal(group).mean()) for name, group in inner.items()}
    known, finals, hits = np.unique(rows.labels), {}, {}
    for name, weights in MAPS.items():
        kernel = weighed(inner, weights, norms)
        decomposed = modes(kernel)
        tried = by_ridge(decomposed, rows.labels, classes)
        ridge = best_ridge(tried)
        dual = decomposed.filtered(1 / (decomposed.values + ridge), one_hot(rows.labels))
        hits[name] = known[(weighed(across, weights, norms) @ dual).argmax(axis=1)] == rows.test_labels
        finals[name] = {
            "accuracy": float(hits[name].mean()),
            "ridge": ridge,
            "left_out": tried[ridge].accuracy,
            "scores": statistics(kernel, rows.labels, decomposed, tried),
        }
        say(f"{stream}: {name}, {100 * finals[name]['accuracy']:.1f} %")
    return {
        "stream": stream,
        "weights": context.weights_sha256,
        "data": context.source.fingerprint,
        "images": len(rows.labels),
        "test_images": len(rows.test_labels),
        "classes": classes,
        "maps": finals,
        "error_of_difference": {a: {b: deviation(hits[a], hits[b]) for b in MAPS} for a in MAPS},
        "orders": found,
    }


def deviation(right: Bool[np.ndarray, "m"], other: Bool[np.ndarray, "m"]) -> float:
    """Standard error of the difference of two accuracies on the same images."""
    return float((right.astype(float) - other).std() / len(right) ** 0.5)


def first_task(
    inner: Mapping[str, np.ndarray], labels: Int[np.ndarray, "n"], members: Int[np.ndarray, "m"], classes: int
) -> dict[str, Any]:
    """Scores of every map on the first task alone, and what `ntkcl verify` would advise.

    Args:
        inner: kernel of all training images, by group.
        labels: of all training images.
        members: the first task's images among them.
        classes: of the whole stream.
    """
    groups, own = {name: group[np.ix_(members, members)] for name, group in inner.items()}, labels[members]
    norms = {name: float(np.diagonal(group).mean()) for name, group in groups.items()}
    scores = {}
    for name, weights in MAPS.items():
        kernel = weighed(groups, weights, norms)
        decomposed = modes(kernel)
        tried = by_ridge(decomposed, own, classes)
        scores[name] = statistics(kernel, own, decomposed, tried) | {"few": few_shots(kernel, own)}
    places = spread(own, IMAGES)
    small = {name: group[np.ix_(places, places)] for name, group in groups.items()}
    told_of = {name: left_out(weighed(small, {name: 1}, norms), own[places]) for name in READOUTS[:-1]}
    mixed = (weighed(small, dict(zip("FMGS", weights, strict=True)), norms) for weights in CANDIDATES)
    told_of["multilevel"] = best_of(mixed, own[places])
    return {"images": len(members), "scores": scores, "advised": advised(told_of)}
