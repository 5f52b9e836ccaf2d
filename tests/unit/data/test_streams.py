"""Every one of the nine streams trains: from files in its published layout to an update of the network's weights.

One network serves all of them, as wide as the widest, so that the step is compiled once.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ModelConfig, OptimizerConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.data import load_source, make_scenario, train_batches
from ntkcl_jax.methods.ntkcl import LearnerState, start_task, task_arrays
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.training.step import draw_old_rows, make_optimizer, update
from ntkcl_jax.weights import shapes
from tests.support import streams as tiny
from tests.unit.config.test_benchmarks import LAYOUTS, TASKS, config

BATCH, RATE = 8, 0.01
BACKBONE = replace(tiny.BACKBONE, depth=1)
MODEL = ModelConfig(BACKBONE, adapter_rank=2, prompts=2, adapter_dropout=0, fusion_dropout=0)
step = jax.jit(update, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(MODEL, task_classes=max(map(max, TASKS.values())), classes=max(map(sum, TASKS.values())))


@pytest.fixture(scope="module")
def state(network: Network) -> LearnerState:
    rng = np.random.default_rng(0)
    tree = {name: jnp.asarray(rng.normal(0, 0.3, s), jnp.float32) for name, s in shapes(BACKBONE).items()}
    adaptation, frozen = network.init(jax.random.key(0), tree)
    return LearnerState(adaptation, frozen, adaptation)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_stream_trains_a_step_of_its_first_and_its_last_task(
    name: str, tmp_path: Path, network: Network, state: LearnerState
) -> None:
    made = config(name, LAYOUTS[name](tmp_path / "data"))
    optimizer = OptimizerConfig(batch_size=BATCH)
    settings = (network, replace(made.objective, lambda_dis=0.2), optimizer)
    source = load_source(made.data)
    scenario = make_scenario(len(source.class_names), made.data, seed=1)
    labels = scenario.relabel(source.train.labels)
    for task in (0, len(scenario.task_sizes) - 1):
        first, end = scenario.offsets[task], scenario.offsets[task] + scenario.task_sizes[task]
        members = np.flatnonzero((labels >= first) & (labels < end))
        batches = train_batches(
            source.train, members, labels[members], data=made.data, size=8, batch_size=BATCH, seed=1, task=task,
            epoch=0, on_device=False,
        )  # fmt: skip
        batch = next(iter(batches))
        assert batch.valid.any()
        assert set(batch.labels[batch.valid].tolist()) <= set(range(first, end))
        begun = start_task(network, task, 1, state)
        arrays = task_arrays(network, made, scenario, task, begun.frozen, begun.anchor)
        old = draw_old_rows(jax.random.key(0), begun.frozen.prototypes["prototypes/kernel"], arrays.old, BATCH)
        adaptation, momentum = begun.adaptation, make_optimizer(optimizer).init(begun.adaptation)
        losses = []
        for _ in range(2):
            adaptation, momentum, result = step(
                *settings, adaptation, momentum, begun.frozen, arrays, batch, old, jnp.float32(RATE), None
            )
            losses.append(float(result.terms[-1]))
        assert np.isfinite(losses).all()
        assert losses[1] < losses[0]
