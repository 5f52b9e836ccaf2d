"""What a replay evaluates more than once, compiled: forward pass, evaluation, one update with all its parts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ntkcl_jax.config import ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.methods.ntkcl_objective import (
    TERMS,
    OldRows,
    cross_entropy,
    dissimilarity,
    orthogonality,
    regularization,
    total_loss,
)
from ntkcl_jax.models.ntkcl import Features, Frozen, Network, Tree
from ntkcl_jax.models.streams import channel_block, patch_block
from ntkcl_jax.training.step import Predictions, TaskArrays, eval_step, loss_terms, update
from tests.golden.fixture import QUICKLY


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def forward(network: Network, adaptation: Tree, frozen: Frozen, images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Every block's tokens, adapters and prompts, by group and the fixture's name, from full rows in every block."""
    net = network.module(adaptation, frozen)
    model, vit, blocks = network.config, net.backbone, list(net.backbone.blocks)
    start = vit.embed(images)
    tokens, adapters, prompts, features = {"tokens_in": start}, {}, {}, {}
    runs = {"pre_channel": net.mean, "cur_channel": net.current} | ({"ptm": None} if model.pretrained_view else {})
    for name, streams in runs.items():
        x = start
        for i, block in enumerate(blocks):
            post = block.attend(x)
            adapter = None if streams is None else list(streams.adapters)[i]
            x = tokens[f"{name}/block{i}"] = channel_block(post, block.mlp(post), adapter)
            if adapter is not None:
                adapters[f"{name}/adapter{i}"] = adapter(post)
        features[f"{name}/cls"] = vit.class_feature(x)
    for name, streams in {"pre_patch": net.mean, "cur_patch": net.current}.items():
        x = start
        for i, block in enumerate(blocks):
            generator = list(streams.prompts)[i]
            post = block.attend(x)
            x, new = patch_block(block, post, generator, model.prompts, model.prompt_carry, first=i == 0)
            tokens[f"{name}/block{i}"], prompts[f"{name}/prompts{i}"] = x, new
        features[f"{name}/cls"] = vit.class_feature(x)
    return {"tokens": tokens, "adapters": adapters, "prompts": prompts, "features": features}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def evaluate(
    network: Network, adaptation: Tree, frozen: Frozen, batch: Batch, task_of_class: jax.Array
) -> tuple[Features, list[jax.Array], Predictions]:
    """Features, the prototype head's scores of each of the three, and the predicted classes."""
    features = network.features(adaptation, frozen, batch.images)
    head = network.module(adaptation, frozen).prototypes
    return features, [head(x) for x in features], eval_step(network, adaptation, frozen, batch, task_of_class)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=QUICKLY)
def step_and_evidence(
    network: Network,
    objective: ObjectiveConfig,
    optimizer: OptimizerConfig,
    adaptation: Tree,
    momentum: Any,
    frozen: Frozen,
    arrays: TaskArrays,
    batch: Batch,
    rows: OldRows,
    rate: jax.Array,
) -> tuple[tuple[Tree, Any], dict[str, jax.Array], Features, list[jax.Array], Tree]:
    """One update, and what a fixture tells about the step: loss terms, features, proxy logits, gradient."""

    def loss(adaptation: Tree) -> tuple[jax.Array, tuple[dict[str, jax.Array], Features]]:
        terms, (features, _) = loss_terms(network, objective, adaptation, frozen, arrays, batch, rows, None)
        return total_loss(terms, objective), (terms, features)

    (_, (terms, features)), gradient = jax.value_and_grad(loss, has_aux=True)(adaptation)
    logits = [network.module(adaptation, frozen).proxy(x) for x in features]
    new, momentum, result = update(
        network, objective, optimizer, adaptation, momentum, frozen, arrays, batch, rows, rate, None
    )
    # What training logs is what is compared.
    logged = dict(zip((*TERMS, "total"), result.terms, strict=True))
    terms = {name: jnp.stack([value, logged[name]]) for name, value in (*terms.items(), ("total", logged["total"]))}
    return (new, momentum), terms, features, logits, gradient


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICKLY)
def feature_gradients(
    network: Network,
    objective: ObjectiveConfig,
    adaptation: Tree,
    frozen: Frozen,
    arrays: TaskArrays,
    batch: Batch,
    rows: OldRows,
    features: Features,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of each term and the total with respect to each feature (the hybrid one follows the other two)."""
    module = network.module(adaptation, frozen)

    def terms_of(channel: jax.Array, patch: jax.Array, bump: jax.Array) -> jax.Array:
        views = Features(channel, patch, module.fusion(channel, patch) + bump)
        targets = batch.labels - arrays.offset
        ce = [cross_entropy(module.proxy(x), targets, batch.valid, arrays.classes) for x in views]
        terms = dict(zip(TERMS[:3], ce, strict=True))
        terms["dissimilarity"] = dissimilarity(
            views.hybrid, batch.labels, batch.valid, rows, objective.temperature, objective.dissimilarity
        )
        terms["orthogonality"] = orthogonality(views, batch.valid, arrays.basis, objective.orthogonality)
        terms["regularization"] = regularization(adaptation, arrays.anchor, objective.regularization)
        return jnp.stack([*(terms[name] for name in TERMS), total_loss(terms, objective)])

    zero = jnp.zeros_like(features.hybrid)
    return jax.jacrev(terms_of, argnums=(0, 1, 2))(features.channel, features.patch, zero)
