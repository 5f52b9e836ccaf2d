"""NTK-CL on one seed."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from ntkcl_jax.devices.flops import training_flops
from ntkcl_jax.devices.mesh import copied
from ntkcl_jax.methods.ntkcl import LearnerState, finish_task, fit_task, start_task, task_arrays
from ntkcl_jax.models.ntkcl import Frozen, Tree
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.context import Setup, evaluate, initial_state
from ntkcl_jax.runs.log import Stage
from ntkcl_jax.training.methodrun import MethodRun
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.step import make_optimizer
from ntkcl_jax.training.task_loop import Position


def stored(state: LearnerState) -> checkpoint.Trees:
    """What a checkpoint keeps of a state of NTK-CL."""
    frozen = state.frozen
    return {
        "adaptation": state.adaptation,
        "anchor": state.anchor,
        "mean": frozen.mean,
        "prototypes": frozen.prototypes,
    }


def shapes(setup: Setup) -> checkpoint.Trees:
    """Names, shapes and types of what a checkpoint keeps; nothing is computed."""
    adaptation, frozen = jax.eval_shape(lambda: setup.network.init(jax.random.key(0), setup.backbone))
    return stored(LearnerState(adaptation, frozen, adaptation))


class SeedRun(MethodRun[LearnerState]):
    """NTK-CL on one seed: learns task after task, and leaves every state in the run folder."""

    method = "ntkcl"

    @property
    def image_flops(self) -> float:
        """FLOPs of training on one image."""
        config = self.setup.config
        return training_flops(config, self.scenario.num_classes) / config.optimizer.batch_size

    def epochs(self, task: int) -> int:
        """Passes over a task's images."""
        return self.setup.config.optimizer.epochs_of(task)

    def initial(self) -> LearnerState:
        """State before task 0."""
        return initial_state(self.setup, self.seed)

    def optimizer(self) -> optax.GradientTransformation:
        """SGD with momentum."""
        return make_optimizer(self.setup.config.optimizer)

    @functools.cached_property
    def like(self) -> checkpoint.Trees:
        """Shapes of NTK-CL's arrays."""
        return shapes(self.setup)

    def trees(self, state: LearnerState) -> checkpoint.Trees:
        """What a checkpoint keeps of a state."""
        return stored(state)

    def restored(self, trees: Mapping[str, Any]) -> LearnerState:
        """State of a checkpoint."""
        trees = copied(self.setup.mesh, dict(trees))
        frozen = Frozen(self.backbone, trees["mean"], trees["prototypes"])
        return LearnerState(trees["adaptation"], frozen, trees["anchor"])

    def begin(self, task: int, state: LearnerState) -> LearnerState:
        """Give the task a new proxy head."""
        return start_task(self.setup.network, task, self.seed, state)

    def fit(
        self, task: int, state: LearnerState, resume: tuple[Position, Tree, Any] | None, stage: Stage
    ) -> LearnerState:
        """Train on a task's images."""
        network, config = self.setup.network, self.setup.config
        adaptation = fit_task(
            network,
            config,
            state,
            copied(self.setup.mesh, task_arrays(network, config, self.scenario, task, state.frozen, state.anchor)),
            functools.partial(self.training_batches, task),
            task=task,
            seed=self.seed,
            steps_in_epoch=self.steps_in_epoch(task),
            resume=resume,
            where=self.setup.where,
            on_records=self.recorder(task, stage),
            save=functools.partial(self.save_step, task),
        )
        return state._replace(adaptation=adaptation)

    def end(self, task: int, state: LearnerState) -> LearnerState:
        """Update the running mean, compute the prototypes, move the anchor."""
        scenario = self.scenario
        return finish_task(
            self.setup.network,
            state,
            self.views(task),
            task=task,
            last=task == scenario.num_tasks - 1,
            offset=scenario.offsets[task],
            classes=scenario.task_sizes[task],
        )

    def evaluate(self, task: int, state: LearnerState) -> TaskEvaluation:
        """Classify the test images of all classes seen."""
        setup = self.setup
        return evaluate(setup, setup.network, self.scenario, task, state.adaptation, state.frozen)[0]
