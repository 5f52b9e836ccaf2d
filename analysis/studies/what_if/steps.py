"""The steps that a task could make of the parameters: a grid of rates and epochs, from one step and a kernel.

Descended by the run's schedule and momentum, with its pull to the anchor, the known step is rescaled mode by mode of
the new task's kernel. Its curvature is that of squared error on centred scores. NTK-CL is trained on other losses, so a
unit of squared error is given the worth at which theory's learner learns as much of the new task as the known step did.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from analysis import measures
from analysis.errors import PlanError
from analysis.kernels.empirical import empirical_ntk
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, difference, targets
from analysis.records.probes import Probes
from analysis.studies.forecast.network import run_step
from analysis.studies.what_if.network import End
from analysis.theory.modes import modes
from analysis.theory.what_if import Objective, felt, matched_scale, rescaled
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import steps_per_epoch
from ntkcl_jax.terminal.progress import Stage

MOST_NEW, MOST_OLD = 40, 20
"""Most training images of the new task, and of each old one, that kernels are computed on."""
KERNEL_ROWS = 2000
"""Most rows of either kernel, images times outputs."""
ALIKE = 1e-7
"""Steps of the grid are sums of a few; what is below this part of the largest is left out, as float32 loses it."""


@dataclass(frozen=True)
class Grid:
    """Learning rates and epochs, ascending, and where the run's own are.

    Attributes:
        rates: initial rates of a later task; the first is 0.
        epochs: passes over its images.
        own: places of the run's own rate and epochs.
        known: the rate whose step is known: the run's own; where that is 0, the first task's.
    """

    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    own: tuple[int, int]
    known: float

    @classmethod
    def of(cls, config: RunConfig, rates: tuple[float, ...], epochs: tuple[int, ...]) -> "Grid":
        """The grid that is asked for, with 0 and the run's own; by default from an eighth to four times its own.

        Raises:
            PlanError: the run trains for no epoch.

        Example:
            >>> from dataclasses import replace
            >>> config = RunConfig(optimizer=replace(RunConfig().optimizer, later_learning_rate=0.4, epochs=2))
            >>> grid = Grid.of(config, (), ())
            >>> grid.rates, grid.epochs, grid.own
            ((0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (1, 2, 4), (4, 1))
        """
        optimizer = config.optimizer
        if optimizer.epochs < 1:
            raise PlanError("the run trains for no epoch, so that no learning rate matters; train one that does")
        later = optimizer.later_learning_rate
        own = optimizer.learning_rate if later is None else later
        known = own or optimizer.learning_rate
        rates = rates or tuple(known * 2.0**power for power in range(-3, 3))
        epochs = epochs or tuple({max(1, optimizer.epochs // 2), 2 * optimizer.epochs})
        every, lengths = sorted({0.0, own, *rates}), sorted({optimizer.epochs, *epochs})
        return cls(tuple(every), tuple(lengths), (every.index(own), lengths.index(optimizer.epochs)), known)


@dataclass(frozen=True)
class TaskSteps:
    """A task's steps as sums of a few: step of point (i, j) = Σ_b weights[i, j, b] basis[b].

    Attributes:
        basis: steps δ of the parameters; the first is the known one.
        spared: the same without the directions that old training images feel most.
        weights: NaN at rates at which training diverges; exactly 0 at rate 0.
        scale: worth of a unit of squared error in units of the run's loss.
        matched: whether theory's learner learns as much as the known step; else as little as it can, so that steps are
            in proportion to rates, but for the pull.
    """

    basis: list[Params]
    spared: list[Params]
    weights: Float[np.ndarray, "rates epochs basis"]
    scale: float
    matched: bool


def known_step(records: Records, seed: int, task: int, end: End, grid: Grid, stage: Stage) -> Params:
    """The step at the rate `grid.known`: the run's own, or the linearised twin's where the run made none."""
    if grid.rates[grid.own[0]] > 0:
        recorded = records.task(seed, task)
        return difference(recorded.after, end.params)
    config = records.run.config
    return run_step(
        records, seed, task, stage,
        replace(config, optimizer=replace(config.optimizer, later_learning_rate=grid.known)),
    )  # fmt: skip


def objective_of(records: Records, seed: int, task: int, n: int, epochs: int) -> Objective:
    """How the run would train on a task for so many epochs, but with squared error."""
    config = records.run.config
    recipe = records.run.learner.recipe_of(config)
    images = len(records.task(seed, task).labels_of("train"))
    # Task 0's rate, which is never zero: shapes don't depend on it
    shape = [recipe.rate(epoch, epochs) / recipe.rate(0, epochs) for epoch in range(epochs)]
    steps = steps_per_epoch(images, config.optimizer.batch_size)
    return Objective(n, config.objective.lambda_reg, np.repeat(shape, steps), recipe.momentum)


def chosen(records: Records, seed: int, task: int) -> tuple[Probes, Probes]:
    """Training images of the old tasks and of the new one.

    Raises:
        PlanError: so many outputs that not every class of the new task can have an image.
    """
    done, tasks = records.done(seed), tuple(range(task))
    outputs = records.run.context.scenarios[seed].offsets[done]
    smallest = min(len(records.task(seed, t).labels_of("train")) for t in (*tasks, task))
    new = min(MOST_NEW, smallest, KERNEL_ROWS // outputs)
    classes = len(records.task(seed, task).labels)
    if new < classes:
        raise PlanError(
            f"a kernel of {outputs} outputs has room for {new} images in {KERNEL_ROWS} rows; task {task + 1} has "
            f"{classes} classes; what-if needs an image of each; `ntk-analysis forecast` needs no such kernel"
        )
    old = max(1, min(MOST_OLD, smallest, KERNEL_ROWS // outputs // len(tasks)))
    return (
        records.probes(seed, old, side="train", tasks=tasks),
        records.probes(seed, new, side="train", tasks=(task,)),
    )


def task_steps(
    records: Records, seed: int, task: int, end: End, images: tuple[Probes, Probes], grid: Grid, directions: int,
    stage: Stage,
) -> TaskSteps:  # fmt: skip
    """Every step of the grid on a task.

    Args:
        records: the run.
        seed: one of its seeds.
        task: the new one.
        end: its end before it is trained.
        images: of the old tasks and of the new one, for kernels.
        grid: rates and epochs.
        directions: how many are projected off.
        stage: shows steps.

    Raises:
        AnalysisError: memory that doesn't suffice, or a damaged checkpoint.
        NtkclError: training the twin diverges.
    """
    old, new = images
    n, k = len(old.images), end.classes
    both = np.concatenate([old.images, new.images])
    theta = empirical_ntk(end.scores, end.params, both)[:, :, :k, :k]
    # Φ(X_o, X_o), Φ(X_o, X) and Φ(X, X), sample-major
    kernel, rows = measures.sample_major(theta), n * k
    held, cross, decomposed = modes(kernel[:rows, :rows]), kernel[:rows, rows:], modes(kernel[rows:, rows:])
    features = end.features.values(both)
    start = end.read(features[n:])
    residual = (targets(new.labels, k) - start).ravel()
    known = known_step(records, seed, task, end, grid, stage)
    change = end.pushed(features, end.change(both, known))
    z, values = decomposed.coordinates(residual), np.append(decomposed.values, 0.0)
    own = objective_of(records, seed, task, len(new.images), grid.epochs[grid.own[1]])
    # ⟨r, J δ⟩: what is learned of the residual
    power, learned = z**2 * decomposed.values, float(residual @ change[n:].ravel())
    scale, matched = matched_scale(own, decomposed.values, grid.known, lambda q: float(power @ q), learned)
    filters = np.zeros((len(grid.rates), len(grid.epochs), len(values)))
    for j, epochs in enumerate(grid.epochs):
        objective = replace(objective_of(records, seed, task, len(new.images), epochs), scale=scale)
        filters[:, j] = objective.filters(values, grid.rates)
    reference = replace(own, scale=scale).filters(values, [grid.known])[0]
    outside, points = rescaled(decomposed, change[n:].ravel(), reference, filters)
    duals, weights = compressed(points)
    basis = [known, *(end.step(new.images, end.pulled(features[n:], dual.reshape(-1, k))) for dual in duals)]
    # What each of them changes on the old images: the known one's is measured, the others' follows from the kernel
    moved = np.concatenate([change[:n].reshape(1, -1), duals @ cross.T])
    off = [
        end.step(old.images, end.pulled(features[:n], beta.reshape(-1, k))) for beta in felt(moved, held, directions)
    ]
    spared = [difference(step, part) for step, part in zip(basis, off, strict=True)]
    return TaskSteps(basis, spared, np.concatenate([outside[..., None], weights], axis=2), scale, matched)


def compressed(
    points: Float[np.ndarray, "rates epochs m"],
) -> tuple[Float[np.ndarray, "basis m"], Float[np.ndarray, "rates epochs basis"]]:
    """A few orthonormal rows of which all points are sums, and how: rates differ in how far they go, hardly in where.

    Example:
        >>> basis, weights = compressed(np.array([[[0.0, 0.0]], [[3.0, 4.0]], [[6.0, 8.0]]]))
        >>> len(basis), abs(weights).ravel().round(12).tolist()
        (1, [0.0, 5.0, 10.0])
    """
    rows = points.reshape(-1, points.shape[-1])
    finite = np.isfinite(rows).all(axis=1)
    _, values, right = np.linalg.svd(rows[finite], full_matrices=False)
    basis = right[values > ALIKE * values.max(initial=0)]
    # By products, so that a row of zeros has weights of exactly zero
    return basis, (rows @ basis.T).reshape(*points.shape[:2], len(basis))
