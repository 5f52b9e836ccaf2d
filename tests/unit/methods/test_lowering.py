"""Every baseline's programs lower for the accelerators that aren't here."""

import jax
import jax.export
import jax.numpy as jnp
import pytest

from ntkcl_jax.methods.base import tuned_step
from ntkcl_jax.methods.registry import FIRST_SESSION, TUNED
from ntkcl_jax.training.step import eval_step
from tests.support import learners as small

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("name", sorted(TUNED | FIRST_SESSION))
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_and_evaluation_steps_lower_for_cpu_cuda_and_tpu(name: str, dtype: str) -> None:
    net = small.method((TUNED | FIRST_SESSION)[name], dtype=dtype)
    trainable, held = small.start(net)
    images, moments = small.batch([0, 1, 0, 0]), net.recipe.transformation().init(trainable)
    step = (net, net.recipe, trainable, moments, held, small.task(0), images, jnp.float32(0.1))
    made = jax.export.export(tuned_step, platforms=PLATFORMS)(*step, jax.random.key(0), jnp.int32(0))
    assert made.platforms == PLATFORMS
    guess = jax.export.export(eval_step, platforms=PLATFORMS)(net, trainable, held, images, jnp.array([0, 0, 1, 1, 2]))
    assert [x.shape for x in guess.out_avals] == [(4,), (4, 5), (4,)]
