"""Every learner's programs lower for the accelerators that aren't here."""

import jax
import jax.export
import jax.numpy as jnp
import pytest

from ntkcl_jax.config.methods import LEARNERS
from ntkcl_jax.readouts.multilevel import MultiLevel
from ntkcl_jax.training.step import TrainState, eval_step, feature_step, map_step, train_step
from tests.support import learners as small
from tests.support import networks as tiny

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("name", sorted(LEARNERS.own))
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_evaluation_and_feature_steps_lower_for_cpu_cuda_and_tpu(name: str, dtype: str) -> None:
    model = {"model": tiny.SHALLOW} if name == "ntkcl" else {}
    learner = small.learner(LEARNERS.load(name), dtype=dtype, **model)
    trainable, frozen = small.start(learner)
    images, recipe = small.batch([0, 1, 0, 0]), learner.recipe.compiled
    if learner.terms:
        state = TrainState(trainable, recipe.transformation().init(trainable), jnp.int32(0))
        rest = (frozen, small.task(0), images, jnp.float32(0.1), jax.random.key(0))
        made = jax.export.export(train_step, platforms=PLATFORMS)(learner, recipe, state, *rest)
        assert made.platforms == PLATFORMS
    features = jax.export.export(feature_step, platforms=PLATFORMS)(learner, trainable, frozen, images)
    assert features.platforms == PLATFORMS
    readout = MultiLevel(features.out_avals[0].shape[1], 5, 0, learner.backbone, (3, 4, 5, 6))
    drawn = tuple(of.draw(0) for of in readout.maps)
    mapped = jax.export.export(map_step, platforms=PLATFORMS)(learner, readout.maps, drawn, trainable, frozen, images)
    assert (mapped.platforms, mapped.out_avals[0].shape) == (PLATFORMS, (4, 18))
    if "scores" in learner.outputs:
        task_of_class = jnp.array([0, 0, 1, 1, 2])
        rest = (images, task_of_class, task_of_class < 2)
        guess = jax.export.export(eval_step, platforms=PLATFORMS)(learner, trainable, frozen, *rest)
        assert guess.platforms == PLATFORMS
        assert [x.shape for x in guess.out_avals] == [(4,), (4, 5), (4,), (4,)]
