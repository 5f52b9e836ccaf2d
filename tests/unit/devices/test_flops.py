"""Costs computed from a configuration, beside what XLA counts and what a network holds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import (
    BackboneConfig,
    ComputeConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from ntkcl_jax.config.presets import preset, with_variants
from ntkcl_jax.data import Batch, make_scenario
from ntkcl_jax.devices import flops as costs
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.flops import Stream, Work
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.training.step import eval_step, train_step
from ntkcl_jax.training.task_loop import begun

WIDE = RunConfig(
    data=DataConfig(source="arrays", classes=7, first_task_classes=3, classes_per_task=2),
    model=ModelConfig(backbone=BackboneConfig(image_size=48, patch_size=8, dim=192, depth=3, heads=3)),
    objective=ObjectiveConfig(orthogonality_rank=5),
    optimizer=OptimizerConfig(batch_size=8),
)
VARIANTS = {
    "reference": WIDE,
    "paper": with_variants(WIDE, all="paper"),
    "pretrained view": replace(WIDE, model=replace(WIDE.model, pretrained_view=True)),
    "channel alone": replace(WIDE, model=replace(WIDE.model, streams="channel")),
    "patch alone": replace(WIDE, model=replace(WIDE.model, streams="patch")),
    "remat": replace(WIDE, compute=ComputeConfig(remat=True)),
    "one block": replace(
        WIDE,
        model=replace(WIDE.model, backbone=replace(WIDE.model.backbone, depth=1)),
        optimizer=OptimizerConfig(batch_size=64),  # so that the optimizer's own arithmetic doesn't count
    ),
    "many classes": replace(WIDE, data=replace(WIDE.data, classes=900, first_task_classes=0, classes_per_task=300)),
}


def lowered(config: RunConfig) -> tuple[Any, Any, LearnerState]:
    """Training step and evaluation step as XLA gets them, and shapes of the arrays; nothing is compiled or drawn."""
    side, size, classes = config.model.backbone.image_size, config.optimizer.batch_size, config.data.classes
    scenario = make_scenario(classes, config.data, 0)
    learner = NTKCL.of(config, scenario)
    recipe = learner.recipe_of(config).compiled

    def start() -> tuple[LearnerState, Any]:
        key = jax.random.key(0)
        state = learner.start(key, learner.network.init(key)[1].backbone)
        return state, begun(recipe, state.trainable, None)[1]

    state, carry = jax.eval_shape(start)
    batch = Batch(np.zeros((size, side, side, 3), np.uint8), np.zeros(size, np.int32), np.ones(size, bool))
    rest = (Task.of(scenario, 0), batch, jnp.float32(0), jax.random.key(0))
    step = train_step.lower(learner, recipe, carry, state.frozen, *rest)
    return step, eval_step.lower(learner, *state, batch, jnp.zeros(classes, int), jnp.zeros(classes, bool)), state


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[RunConfig, Any, Any, Any]]:
    config = VARIANTS[request.param]
    yield (config, *lowered(config))


def test_flops_are_those_that_xla_counts_without_its_elementwise_share(case: tuple) -> None:
    config, step, evaluation, _ = case
    assert 1.0 < step.cost_analysis()["flops"] / costs.training_flops(config) < 1.075
    each = evaluation.cost_analysis()["flops"] / config.optimizer.batch_size
    assert 1.0 < each / costs.evaluation_flops(config, config.data.classes) < 1.075


def test_parameters_are_counted_exactly(case: tuple) -> None:
    config, _, _, (trainable, frozen) = case
    sizes = {path: x.size for path, x in frozen.buffers.items()}
    kinds = ("mean/", "prototypes/", "anchor/", "basis")
    buffers = [sum(size for path, size in sizes.items() if path.startswith(kind)) for kind in kinds]
    assert sum(buffers) == sum(sizes.values())
    found = [sum(x.size for x in tree.values()) for tree in (frozen.backbone, trainable)]
    assert memory.parameters(config) == memory.Parameters(*found, *buffers)


def test_tasks_are_cut_as_the_scenario_cuts_them() -> None:
    for name in ("cifar100", "pets", "domainnet", "digits"):
        data = preset(name).data
        classes = data.classes or 11
        assert costs.task_sizes(preset(name), classes) == make_scenario(classes, data, 3).task_sizes


def test_a_stream_counts_steps_and_evaluated_images_task_by_task() -> None:
    config = replace(WIDE, optimizer=OptimizerConfig(batch_size=16, epochs=3))
    stream = Stream((3, 2, 2), train=70, test=35)
    assert stream.steps(config) == 3 * (2 + 2 + 2)
    assert stream.evaluated == 15 + 25 + 35
    step, once = costs.training_flops(config, 7), costs.evaluation_flops(config, 7)
    assert costs.run_flops(config, stream) == 18 * step + (70 + 75) * once


def test_work_adds_up() -> None:
    assert (Work(1, 2) + Work(3, 4)).both == 10


def test_memory_grows_with_the_batch_and_shrinks_with_remat_and_bfloat16() -> None:
    config = preset("cifar100")
    less = [
        replace(config, compute=replace(config.compute, remat=True)),
        replace(config, compute=replace(config.compute, dtype="bfloat16")),
        replace(config, optimizer=replace(config.optimizer, batch_size=8)),
    ]
    whole = memory.training_bytes(config)
    assert all(memory.training_bytes(one) < 0.7 * whole for one in less)
    assert memory.activation_bytes(config) == 2 * memory.activation_bytes(less[2])
    assert memory.evaluation_bytes(config) > memory.evaluation_bytes(
        replace(config, compute=replace(config.compute, eval_batch_size=16))
    )
    anchor = 12 * (2 * 768 * 16 + 197 * 10 + 768) + 3 * 1536**2  # kernels, and the prompts' norm scales
    assert memory.checkpoint_bytes(config) == 4 * (7444369 + 346512 + 153701 + anchor + 1536 * 40)


@pytest.mark.slow
def test_activations_are_estimated_within_a_third_of_what_xla_plans() -> None:
    for config in (WIDE, VARIANTS["remat"]):
        planned = lowered(config)[0].compile().memory_analysis()
        assert planned is not None
        assert 2 / 3 < memory.activation_bytes(config) / planned.temp_size_in_bytes < 4 / 3
