"""Which readout of a frozen backbone suits a stream: compared on the first task's images before anything is trained.

Each image is left out in turn, exactly (`ntkcl_jax.readouts.left_out`). What that says of the accuracy after all tasks
was measured on seven streams: docs/theory.md, section 9.1.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from ntkcl_jax.data import eval_batches, make_scenario, prepare
from ntkcl_jax.methods.base import Learner, LearnerState
from ntkcl_jax.readouts.base import Readout, make_readout
from ntkcl_jax.readouts.left_out import advised, best_of, spread
from ntkcl_jax.runs.context import RunContext
from ntkcl_jax.runs.log import Progress
from ntkcl_jax.training.readout_run import UNMAPPED, Mapped, feature_width, features_of

IMAGES = 500
"""Images that are left out in turn, at most."""
READOUTS = ("ridge", "random-ridge", "multilevel")
"""Readouts that are compared, above the learner `LEARNER`: those whose ridge is chosen by leaving out images.

RanPAC's and LayUP's is chosen by a fifth of one task's images, which ruins a run of about as many training images as
columns; `random-ridge` has RanPAC's columns.
"""
LEARNER = "frozen"


@dataclass(frozen=True)
class FirstTask:
    """What left-out images of a first task say of readouts.

    Attributes:
        classes: of the task.
        images: that were left out in turn.
        methods: by name in `RunConfig.methods`, the one that keeps least first: `error`, the mean squared error, and
            `deviation`, its standard error; `accuracy`, the share of images told right; `ridge`, the best one.
        advised: the first of them that none is better than by more than a standard error of the difference.
    """

    classes: int
    images: int
    methods: dict[str, dict[str, float]]
    advised: str


def first_task(context: RunContext, classes: int, progress: Progress) -> FirstTask:
    """Compare readouts on the first task that the run's first seed would draw.

    Args:
        context: images, transforms, backbone; its own tasks don't matter.
        classes: of the first task, at least 2.
        progress: where to show how far it is.
    """
    config, source = context.config, context.source
    data, seed = dataclasses.replace(config.data, first_task_classes=classes), config.seeds[0]
    labels = make_scenario(len(source.class_names), data, seed).relabel(source.train.labels)
    members = np.flatnonzero(labels < classes)
    members = members[spread(labels[members], IMAGES)]
    learner = context.learner(LEARNER)
    # The key draws nothing: a frozen backbone has no parameters of its own
    state = learner.start(jax.random.key(0), context.backbone_of(seed))
    made = compared(context, learner, seed)
    rows = rows_of(context, (learner, state), made, members, progress, "first task's images")
    found = {f"{LEARNER}/{readout.name}": best_of(readout.kernels(x), labels[members]) for readout, x in rows[1]}
    return FirstTask(
        classes=classes,
        images=len(members),
        methods={
            name: {
                "error": one.error,
                "deviation": float(one.errors.std() / len(members) ** 0.5),
                "accuracy": one.accuracy,
                "ridge": one.ridge,
            }
            for name, one in found.items()
        },
        advised=advised(found),
    )


def compared(context: RunContext, learner: Learner, seed: int) -> list[Readout]:
    """The readouts that are compared, over a learner's features, the cheapest first."""
    config, width, stream = context.config, feature_width(learner), len(context.source.class_names)
    # A network without a middle has no levels to read
    names = [name for name in READOUTS if name != "multilevel" or config.model.backbone.depth > 1]
    made = [make_readout(name, config, width=width, classes=stream, seed=seed) for name in names]
    return sorted(made, key=lambda readout: readout.inputs)  # the memory that they keep is its square


def rows_of(
    context: RunContext, network: tuple[Learner, LearnerState], readouts: list[Readout],
    members: Int[np.ndarray, "n"], progress: Progress, title: str,
) -> tuple[Float[np.ndarray, "n e"], list[tuple[Readout, Float[np.ndarray, "n w"]]]]:  # fmt: skip
    """What readouts read of some training images: the network's feature, and in a second pass rows of all maps.

    Args:
        context: images and transforms.
        network: a learner in one of its states.
        readouts: that read them.
        members: which training images.
        progress: where to show how far it is.
        title: what is shown.

    Returns:
        The network's own feature, and each readout with its rows.
    """
    mapped = {readout.name: Mapped.of(readout, context.mesh) for readout in readouts}
    maps = tuple(of for part in mapped.values() for of in part.maps)
    wide = Mapped(maps, tuple(drawn for part in mapped.values() for drawn in part.drawn))
    own, levels = passes(context, network, (UNMAPPED, wide), members, progress, title)
    ends = np.cumsum([sum(of.width for of in readout.maps) for readout in readouts])
    parts = np.split(levels, ends[:-1], axis=1)
    return own, [(readout, part if readout.maps else own) for readout, part in zip(readouts, parts, strict=True)]


def passes(
    context: RunContext, network: tuple[Learner, LearnerState], wanted: Sequence[Mapped],
    members: Int[np.ndarray, "n"], progress: Progress, title: str,
) -> list[Float[np.ndarray, "n _"]]:  # fmt: skip
    """Rows of some training images under the test transform, one pass through the network for each wanted kind."""
    learner, state = network
    size, found = context.config.compute.eval_batch_size, []
    with progress.stage(title, total=len(members)) as stage:
        for at in range(0, len(members), size):
            chosen = members[at : at + size]
            images = prepare(context.source.train, chosen, context.config.data, context.size)
            batches = list(eval_batches(images, np.zeros_like(chosen), size))
            found.append([features_of(learner, state, batches, part)[0] for part in wanted])
            stage.advance(len(chosen))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]
