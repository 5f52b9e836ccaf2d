"""The linearised twin: the network's own first-order expansion, trained by the network's own steps."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.studies.twin import HEAD, LinearNetwork, LinearNTKCL, expanded, fit_twin, step_of
from ntkcl_jax.config import BACKBONES, ModelConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.methods.base import LearnerState, Recipe, Task
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.training.step import TrainState, train_step
from ntkcl_jax.training.task_loop import fit_task
from tests.support import networks as tiny
from tests.support.dense import dense_jacobian, relative_error

SCENARIO = Scenario((0, 1, 2, 3, 4), (2, 2, 1))
CONFIG = RunConfig(
    model=tiny.PAPER,
    objective=ObjectiveConfig(lambda_reg=0.1, orthogonality_rank=3),
    optimizer=OptimizerConfig(learning_rate=0.1, batch_size=4, epochs=2, weight_decay=0.01),
)
STEPS = 3


def random_step(adaptation: Tree, size: float) -> Tree:
    rng = np.random.default_rng(5)
    return {path: size * rng.normal(size=np.shape(value)) for path, value in sorted(adaptation.items())}


def moved(adaptation: Tree, step: Tree) -> Tree:
    return {path: np.asarray(value) + step[path] for path, value in adaptation.items()}


def double(tree: Any) -> Any:
    """Every number of a tree in float64; under `jax.enable_x64`."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64) if a.dtype == np.float32 else a, tree)


@tiny.compiled
def views(net: Network, adaptation: Tree, frozen: Frozen, x: jax.Array, key: jax.Array | None) -> jax.Array:
    return jnp.concatenate(net.features(adaptation, frozen, x, key), axis=1)


def body_views(params: Tree, x: jax.Array, *, net: Network, frozen: Frozen, head: Tree) -> jax.Array:
    return jnp.concatenate(net.features({**params, **head}, frozen, x), axis=1)


def test_the_twin_is_the_first_order_expansion_by_the_dense_jacobian() -> None:
    net = tiny.network(tiny.PAPER, dtype="float64")
    adaptation, frozen = tiny.randomised(net)
    step, x = random_step(adaptation, 0.3), tiny.images(1)
    body = {path: value for path, value in adaptation.items() if not path.startswith(HEAD)}
    head = {path: value for path, value in adaptation.items() if path not in body}
    jacobian = dense_jacobian(jax.tree_util.Partial(partial(body_views, net=net), frozen=frozen, head=head), body, x)
    change = jacobian @ np.concatenate([step[path].ravel() for path in sorted(body)])
    with jax.enable_x64(True):
        adaptation, frozen, x = double((adaptation, frozen, x))
        start = views(net, adaptation, frozen, x, None)
        twin = views(LinearNetwork.of(net), moved(adaptation, step), expanded(frozen, adaptation), x, None)
        real = views(net, moved(adaptation, step), frozen, x, None)
    assert relative_error(twin - start, change) < 1e-12
    assert relative_error(real - start, change) > 1e-2  # the network itself is not linear


@pytest.mark.slow
def test_with_dropout_the_twin_drops_what_the_network_drops() -> None:
    """At its origin it is the network, and its change is the network's own finite difference under the same key."""
    net = tiny.network(tiny.WET, dtype="float64")
    key, size = jax.random.key(1), 1e-6
    with jax.enable_x64(True):
        adaptation, frozen, x = double((*tiny.randomised(net), tiny.images(2)))

        def at(network: Network, frozen: Frozen, scale: float, key: jax.Array) -> np.ndarray:
            return np.asarray(views(network, moved(adaptation, random_step(adaptation, scale)), frozen, x, key))

        start = at(net, frozen, 0.0, key)
        real = (at(net, frozen, size, key) - start) / size
        twin, around = LinearNetwork.of(net), expanded(frozen, adaptation)
        assert relative_error(at(twin, around, 0.0, key), start) < 1e-12
        assert relative_error(at(twin, around, 1.0, key) - start, real) < 1e-4
        assert relative_error(at(twin, around, 1.0, jax.random.key(2)) - start, real) > 1e-2


def batches(epoch: int, first: int) -> Iterator[Batch]:
    for at in range(first, STEPS):
        images = np.random.default_rng([epoch, at]).integers(0, 256, (4, 8, 8, 3), np.uint8)
        yield Batch(images, np.array([2, 3, 3, 2], np.int32), np.array([True] * 4))


def test_what_the_twin_learns_differs_from_the_network_in_second_order_of_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, so that a small rate shows no rounding."""
    static = ("learner", "recipe", "sharding")
    quick = jax.jit(train_step.__wrapped__, static_argnames=static, compiler_options=tiny.QUICKLY)
    monkeypatch.setattr("ntkcl_jax.training.task_loop.train_step", quick)
    net = tiny.network(tiny.PAPER, dtype="float64")
    learner = NTKCL.of(CONFIG, SCENARIO)
    learner = replace(learner, dtype="float64", task_classes=net.task_classes)
    errors = {}
    for rate in (1e-2, 1e-4):
        monkeypatch.setattr(Recipe, "rate", lambda *_, rate=rate: rate)
        with jax.enable_x64(True):
            adaptation, frozen = double(tiny.randomised(net))
            state = LearnerState(adaptation, frozen).updated(buffers=learner.anchored(adaptation))
            state = learner.begin(state, Task.of(SCENARIO, 1), jax.random.key(0), lambda: [])
            at = {"task": 1, "seed": 0, "steps_in_epoch": STEPS}
            trained = fit_twin(learner, CONFIG, SCENARIO, state, batches, **at)
            real = list(fit_task(learner, CONFIG, SCENARIO, state, batches, **at))[-1].state.trainable
        step = step_of(trained)
        change = np.concatenate([np.asarray(real[path] - adaptation[path]).ravel() for path in step])
        guess = np.concatenate([part.ravel() for part in step.values()])
        errors[rate] = np.linalg.norm(guess - change) / np.linalg.norm(change)
    assert 0 < errors[1e-2] < 0.2
    assert errors[1e-4] < 1e-3
    assert 30 < errors[1e-2] / errors[1e-4] < 300  # proportional to the rate


def test_a_twin_without_an_origin_is_refused() -> None:
    net = tiny.network(tiny.SHALLOW)
    adaptation, frozen = tiny.randomised(net)
    with pytest.raises(ValueError, match="origin"):
        LinearNetwork.of(net).features(adaptation, frozen, jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ValueError, match="origin"):
        step_of(LearnerState(adaptation, frozen))


def test_twin_and_network_are_different_programs_to_the_compiler() -> None:
    net = tiny.network(tiny.SHALLOW)
    assert LinearNetwork.of(net) == LinearNetwork.of(net) and hash(LinearNetwork.of(net)) == hash(LinearNetwork.of(net))
    assert LinearNetwork.of(net) != net


@pytest.mark.slow
def test_a_training_step_of_a_base_sized_twin_fits_an_ordinary_card() -> None:
    """By XLA's own account of the compiled step, at the batch size of the published runs; nothing is computed."""
    model = ModelConfig(backbone=BACKBONES["base"])
    shape = {"backbone": model.backbone, "tasks": 10, "classes": 100, "task_classes": 10, "remat": True}
    learner = LinearNTKCL.of_learner(NTKCL(**shape, model=model, batch_size=16))
    recipe = learner.recipe.compiled

    def start(key: jax.Array) -> tuple[TrainState, Frozen, Task]:
        backbone = learner.network.init(key)[1].backbone
        trainable, frozen = learner.start(key, backbone)
        carry = TrainState(trainable, recipe.transformation().init(trainable), jnp.int32(0))
        return carry, expanded(frozen, trainable), Task.of(Scenario(tuple(range(100)), (10,) * 10), 1)

    key = jax.eval_shape(lambda: jax.random.key(0))
    images = (
        jax.ShapeDtypeStruct((16, 224, 224, 3), np.uint8),
        *(jax.ShapeDtypeStruct((16,), d) for d in (np.int32, bool)),
    )
    arguments = (*jax.eval_shape(start, key), Batch(*images), jax.ShapeDtypeStruct((), np.float32), key)
    memory = train_step.lower(learner, recipe, *arguments).compile(compiler_options=tiny.QUICKLY).memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert 0.3 * 2**30 < used < 24 * 2**30, used / 2**30
