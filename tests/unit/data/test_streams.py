"""Every one of the nine streams trains: from files in its published layout to an update of the network's weights.

One network serves all of them, as wide as the widest, so that the step is compiled once.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax.config import ModelConfig, ObjectiveConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.data import load_source, make_scenario, train_batches
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.training.step import train_step
from ntkcl_jax.training.task_loop import begun
from ntkcl_jax.weights import shapes
from tests.support import streams as tiny
from tests.unit.config.test_benchmarks import LAYOUTS, TASKS, config

BATCH, RATE = 8, 0.01
BACKBONE = replace(tiny.BACKBONE, depth=1)
MODEL = ModelConfig(BACKBONE, adapter_rank=2, prompts=2, adapter_dropout=0, fusion_dropout=0)
RECIPE = NTKCL.recipe.compiled
step = jax.jit(
    train_step, static_argnames=("learner", "recipe"), compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.fixture(scope="module")
def learner() -> NTKCL:
    # The `paper` form of L_dis counts old prototypes alike in all streams; `reference` goes by the size of the tasks.
    objective = ObjectiveConfig(dissimilarity="paper", lambda_dis=0.2)
    return NTKCL(
        BACKBONE, tasks=max(map(len, TASKS.values())), classes=max(map(sum, TASKS.values())),
        task_classes=max(map(max, TASKS.values())), model=MODEL, objective=objective,
        batch_size=BATCH,
    )  # fmt: skip


@pytest.fixture(scope="module")
def state(learner: NTKCL) -> LearnerState:
    rng = np.random.default_rng(0)
    tree = {name: jnp.asarray(rng.normal(0, 0.3, s), jnp.float32) for name, s in shapes(BACKBONE).items()}
    return learner.start(jax.random.key(0), tree)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_stream_trains_a_step_of_its_first_and_its_last_task(
    name: str, tmp_path: Path, learner: NTKCL, state: LearnerState
) -> None:
    made = config(name, LAYOUTS[name](tmp_path / "data"))
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
        new = np.zeros(learner.classes, bool)
        new[first:end] = True
        arrays = Task(jnp.int32(task), jnp.asarray(new))
        before = learner.begin(state, arrays, jax.random.key(1), lambda: [])
        _, carry = begun(RECIPE, before.trainable, None)
        losses = []
        rest = (before.frozen, arrays, batch, jnp.float32(RATE), jax.random.key(0))
        for _ in range(2):
            carry = carry._replace(step=jnp.int32(0))  # the same draws, so that the losses compare
            carry, result = step(learner, RECIPE, carry, *rest)
            losses.append(float(result.terms[-1]))
        assert np.isfinite(losses).all()
        assert losses[1] < losses[0]
