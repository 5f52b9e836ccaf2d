"""The single functions that a fixture pins: losses on given features, schedule, running mean, class order."""

import jax
import jax.numpy as jnp

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import make_scenario
from ntkcl_jax.methods.base import Recipe
from ntkcl_jax.methods.ntkcl import updated_mean
from ntkcl_jax.methods.ntkcl_objective import OldRows, dissimilarity, orthogonality, orthogonality_basis
from ntkcl_jax.models.ntkcl import Features
from tests.golden.fixture import QUICKLY, Errors, Fixture


def replay_units(fix: Fixture, errors: Errors) -> None:
    """Compare whatever single functions the fixture has keys for."""
    z = fix.z
    for case in sorted({key.split("/")[2] for key in z if key.startswith("unit/mi/")}):
        replay_dissimilarity(fix, case, errors)
    if z.any("unit/orth_fullrank/"):
        replay_orthogonality(fix, errors)
    if "unit/lr_cosine_T20_lr0.025" in z:
        rates = [Recipe("sgd", 0.025, "cosine").rate(e, 20) for e in range(20)]
        errors.compare("unit/schedule", "cosine", rates, z["unit/lr_cosine_T20_lr0.025"])
    if "unit/class_order_100_seed0to4" in z:
        data = DataConfig(classes_per_task=10)
        orders = [make_scenario(100, data, seed).class_order for seed in range(5)]
        errors.compare("unit/class_order", "seeds 0-4", orders, z["unit/class_order_100_seed0to4"])
    if "unit/update_ratios" in z:
        with jax.enable_x64(True):
            one, zero = jnp.float64(1), jnp.float64(0)
            ratios = [
                [updated_mean({"mean/x": a}, {"current/x": b}, t)["mean/x"] for a, b in ((one, zero), (zero, one))]
                for t in range(len(z["unit/update_ratios"]))
            ]
        errors.compare("unit/mean_ratios", "t = 0..", ratios, z["unit/update_ratios"])


def replay_dissimilarity(fix: Fixture, case: str, errors: Errors) -> None:
    """Compare L_dis without old prototypes, and its gradient."""
    x = jnp.asarray(fix.z[f"unit/mi/{case}/features"])
    y = jnp.asarray(fix.z[f"unit/mi/{case}/labels"], jnp.int32)
    none = OldRows(jnp.zeros((0, x.shape[1])), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool))

    def loss(x: jax.Array) -> jax.Array:
        return dissimilarity(x, y, jnp.ones(len(y), bool), none, fix.learner.objective.temperature, "reference")

    value, gradient = jax.jit(jax.value_and_grad(loss), compiler_options=QUICKLY)(x)
    errors.compare("unit/dissimilarity", case, value, fix.z[f"unit/mi/{case}/used"])
    errors.compare("unit/dissimilarity", case + "/grad", gradient, fix.z[f"unit/mi/{case}/grad"])


def replay_orthogonality(fix: Fixture, errors: Errors) -> None:
    """Compare L_orth, its gradients and its basis where the data determine the basis."""
    z, at = fix.z, "unit/orth_fullrank/"
    rows = z[at + "fc_weight"]
    basis = orthogonality_basis(rows, 0, len(rows), fix.learner.objective.orthogonality_rank, "reference")
    errors.compare("task/orthogonality_basis", at + "projector", basis @ basis.T, z[at + "projector"])

    def loss(channel: jax.Array, patch: jax.Array) -> jax.Array:
        views = Features(channel, patch, channel)
        return orthogonality(views, jnp.ones(len(channel), bool), jnp.asarray(basis), "reference")

    views = [jnp.asarray(z[f"{at}{kind}_emb"]) for kind in ("channel", "patch")]
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), compiler_options=QUICKLY)(*views)
    errors.compare("unit/orthogonality", "loss", value, z[at + "loss"])
    for kind, gradient in zip(("channel", "patch"), gradients, strict=True):
        errors.compare("unit/orthogonality", kind, gradient, z[f"{at}grad_{kind}"])
