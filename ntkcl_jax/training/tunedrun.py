"""A baseline that trains modules inside the frozen backbone, on one seed."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.devices.hosts import agreed
from ntkcl_jax.devices.mesh import copied
from ntkcl_jax.methods.base import SEEN, Held, Recipe, Task, Tuned, tuned_step
from ntkcl_jax.methods.registry import FIRST_SESSION, TUNED
from ntkcl_jax.models.ntkcl import Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import Setup, evaluate
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, Progress, Stage
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.training.methodrun import MethodRun
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.step import StepResult
from ntkcl_jax.training.task_loop import Position, fresh, resumed, run_steps


class TunedState(NamedTuple):
    """All that one task hands to the next."""

    trainable: Tree
    held: Held


def make_method(name: str, setup: Setup) -> Tuned:
    """Shape a method for a run's backbone and stream."""
    config, scenario = setup.config, next(iter(setup.scenarios.values()))
    return (TUNED | FIRST_SESSION)[name](
        backbone=config.model.backbone,
        tasks=scenario.num_tasks,
        classes=scenario.num_classes,
        task_classes=max(scenario.task_sizes),
        dtype=config.compute.dtype,
        remat=config.compute.remat,
        normalize=config.data.normalize,
    )


def recipe_of(method: Tuned, config: RunConfig) -> Recipe:
    """The method's recipe with the run's own rate, where it names one."""
    rate = config.baselines.learning_rate
    return method.recipe if rate is None else replace(method.recipe, learning_rate=rate)


def task_of(scenario: Scenario, task: int) -> Task:
    """A task as arrays."""
    classes = scenario.classes(task)
    numbers = jnp.arange(scenario.num_classes)
    return Task(jnp.int32(task), (numbers >= classes.start) & (numbers < classes.stop))


def untrained(network: Tuned, backbone: Tree, key: Array) -> TunedState:
    """State of a baseline before task 0."""
    trainable, kept = network.init(key)
    return TunedState(trainable, Held(backbone, kept | {SEEN: jnp.zeros(network.classes, bool)}))


def stored(state: TunedState) -> checkpoint.Trees:
    """What a checkpoint keeps of a state of a baseline."""
    return {"adaptation": state.trainable, "kept": state.held.kept}


def shapes(network: Tuned) -> checkpoint.Trees:
    """Names, shapes and types of what a checkpoint keeps; nothing is computed."""
    return jax.eval_shape(lambda: stored(untrained(network, {}, jax.random.key(0))))


class TunedRun(MethodRun[TunedState]):
    """One baseline on one seed."""

    def __init__(
        self, setup: Setup, folder: RunFolder, log: MetricsLog, progress: Progress, seed: int, method: str
    ) -> None:
        """Bind what the tasks share."""
        super().__init__(setup, folder, log, progress, seed)
        self.method = method
        self.network = make_method(method, setup)

    def epochs(self, task: int) -> int:
        """Passes over a task's images."""
        config = self.setup.config
        return config.optimizer.epochs if config.baselines.epochs is None else config.baselines.epochs

    def key(self, *parts: str | int) -> Any:
        """A key of its own for everything that is drawn."""
        return jax.random.key(stream_seed(self.seed, self.method, *parts))

    def initial(self) -> TunedState:
        """State before task 0."""
        return self.placed(untrained(self.network, self.backbone, self.key("initialisation")))

    def optimizer(self) -> optax.GradientTransformation:
        """The method's own."""
        return recipe_of(self.network, self.setup.config).transformation()

    @functools.cached_property
    def like(self) -> checkpoint.Trees:
        """Shapes of the method's arrays."""
        return shapes(self.network)

    def trees(self, state: TunedState) -> checkpoint.Trees:
        """What a checkpoint keeps of a state."""
        return stored(state)

    def restored(self, trees: Mapping[str, Any]) -> TunedState:
        """State of a checkpoint."""
        trees = copied(self.setup.mesh, dict(trees))
        return TunedState(trees["adaptation"], Held(self.backbone, trees["kept"]))

    def begin(self, task: int, state: TunedState) -> TunedState:
        """Make what is new in a task."""
        views = functools.partial(self.views, task)
        arrays = task_of(self.scenario, task)
        trainable, kept = self.network.begin(state.trainable, state.held, arrays, self.key("task", task), views)
        return TunedState(trainable, state.held._replace(kept=kept))

    def fit(self, task: int, state: TunedState, resume: tuple[Position, Tree, Any] | None, stage: Stage) -> TunedState:
        """Train on a task's images."""
        recipe = recipe_of(self.network, self.setup.config)
        where, epochs = self.setup.where, self.epochs(task)
        arrays, task_key = copied(where.mesh, task_of(self.scenario, task)), self.key("steps", task)
        compiled = replace(recipe, learning_rate=0.0)  # the rate is an argument of the step: another needs no compiling

        def update(
            trainable: Tree, moments: Any, batch: Batch, rate: Array, step: Array
        ) -> tuple[Tree, Any, StepResult]:
            parts = (trainable, moments, state.held, arrays, batch, rate, task_key, step, where)
            return tuned_step(self.network, compiled, *parts)

        moments = self.optimizer().init(state.trainable)
        trainable = run_steps(
            fresh(moments, state.trainable, where) if resume is None else resumed(moments, *resume, where),
            update,
            functools.partial(self.training_batches, task),
            names=self.network.terms,
            task=task,
            epochs=epochs,
            rate=lambda epoch: recipe.rate(epoch, epochs),
            steps_in_epoch=self.steps_in_epoch(task),
            save_every=self.setup.config.compute.checkpoint_every_steps,
            on_records=self.recorder(task, stage),
            save=functools.partial(self.save_step, task),
        )
        return state._replace(trainable=trainable)

    def end(self, task: int, state: TunedState) -> TunedState:
        """Do what follows training; the task's classes count as seen from here on."""
        arrays, views = task_of(self.scenario, task), functools.partial(self.views, task)
        trainable, kept = self.network.end(state.trainable, state.held, arrays, views)
        kept = kept | {SEEN: kept[SEEN] | arrays.new}
        return TunedState(trainable, state.held._replace(kept=kept))

    def evaluate(self, task: int, state: TunedState) -> TaskEvaluation:
        """Classify the test images of all classes seen."""
        return evaluate(self.setup, self.network, self.scenario, task, state.trainable, state.held)[0]

    def first_session(self) -> TunedState:
        """Train on task 0 alone, or read what an earlier process left of that."""
        after = self.path(0, "after")
        if agreed(checkpoint.exists(after)):
            return self.restored(checkpoint.load(after, self.like)[0])
        state = self.train_task(0, self.initial())
        self.save(after, state, {"task": 0})
        self.folder.drop_steps(self.seed, 0, self.method)
        return state
