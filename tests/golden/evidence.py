"""What a replay evaluates beside the training loop, compiled: forward pass, evaluation, a step in all its parts."""

import functools

import jax
import jax.numpy as jnp

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Task
from ntkcl_jax.methods.ntkcl import ANCHOR, BASIS
from ntkcl_jax.methods.ntkcl_objective import TERMS, cross_entropy, dissimilarity, orthogonality, regularization
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.ntkcl import Features, Network
from ntkcl_jax.models.streams import channel_block, patch_block
from ntkcl_jax.training.step import Predictions, eval_step, total
from tests.golden.fixture import QUICKLY, Replayed


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def forward(network: Network, trainable: Tree, frozen: Frozen, images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Every block's tokens, adapters and prompts, by group and the fixture's name, from full rows in every block."""
    net = network.module(trainable, frozen)
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
    learner: Replayed, trainable: Tree, frozen: Frozen, batch: Batch, task_of_class: jax.Array
) -> tuple[Features, list[jax.Array], Predictions]:
    """Features, the prototype head's scores of each of the three, and the predicted classes."""
    features = learner.network.features(trainable, frozen, batch.images)
    scores = [learner.logits(trainable, frozen, x) for x in features]
    return features, scores, eval_step(learner, trainable, frozen, batch, task_of_class, task_of_class < 0)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def step_parts(
    learner: Replayed, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
) -> tuple[dict[str, jax.Array], Features, list[jax.Array], Tree]:
    """What a fixture tells about a step before its update: loss terms, features, proxy logits, gradient."""
    rows = learner.recorded_rows(frozen, key)

    def loss(trainable: Tree) -> tuple[jax.Array, tuple[dict[str, jax.Array], Features]]:
        terms, features, _ = learner.terms_of(trainable, frozen, task, batch, rows, None)
        return total(learner, terms), (terms, features)

    (value, (terms, features)), gradient = jax.value_and_grad(loss, has_aux=True)(trainable)
    proxy = learner.network.module(trainable, frozen).proxy
    return terms | {"total": value}, features, [proxy(x) for x in features], gradient


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def feature_gradients(
    learner: Replayed, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key, features: Features
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient of each term and the total with respect to each feature (the hybrid one follows the other two)."""
    module, objective = learner.network.module(trainable, frozen), learner.objective
    rows = learner.recorded_rows(frozen, key)
    targets, allowed = batch.labels - task.offset, jnp.arange(learner.task_classes) < task.size
    anchor = {path.removeprefix(ANCHOR): value for path, value in frozen.buffers.items() if path.startswith(ANCHOR)}

    def terms_of(channel: jax.Array, patch: jax.Array, bump: jax.Array) -> jax.Array:
        views = Features(channel, patch, module.fusion(channel, patch) + bump)
        ce = [cross_entropy(module.proxy(x), targets, batch.valid, allowed) for x in views]
        terms = dict(zip(TERMS[:3], ce, strict=True))
        terms["dissimilarity"] = dissimilarity(
            views.hybrid, batch.labels, batch.valid, rows, objective.temperature, objective.dissimilarity
        )
        terms["orthogonality"] = orthogonality(views, batch.valid, frozen.buffers[BASIS], objective.orthogonality)
        terms["regularization"] = regularization(trainable, anchor, objective.regularization)
        return jnp.stack([*(terms[name] for name in TERMS), total(learner, terms)])

    zero = jnp.zeros_like(features.hybrid)
    return jax.jacrev(terms_of, argnums=(0, 1, 2))(features.channel, features.patch, zero)
