"""Training of the nano backbone as a glyph classifier; the classifier is thrown away.

Recipe: cosine classifier over the class token, cross-entropy; Muon on the blocks' matrices, Adam on the rest, linear
warm-up and a linear fall to zero; distortion ramped up; half of the patch tokens dropped until the last tenth (a step
then costs half, and the class token learns not to lean on any one place).
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from optax import contrib

from experiments.pretrain.images import Glyphs
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.models.vit import ViT
from ntkcl_jax.weights import save_backbone

Params = dict[str, Array]
"""Backbone variables by path, e.g. `blocks/0/qkv/kernel`."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the pre-training run; the defaults made the shipped file."""

    steps: int = 5000
    batch: int = 128
    seed: int = 0
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warmup_steps: int = 200
    falling: float = 0.5
    """Part of the run, at its end, over which the learning rates fall to zero."""
    scale: float = 20.0
    """Logits are this times the cosine of feature and class vector."""
    kept_patches: int = 24
    """Patch tokens kept of 49, drawn anew for each image."""
    all_patches_from: float = 0.88
    """Part of the run after which no token is dropped."""
    first_strength: float = 0.25
    """Distortion at the start; it grows evenly to 1."""
    full_strength_from: float = 0.6
    """Part of the run after which the distortion has its full strength."""


def as_pixels(images: Any) -> Float[np.ndarray, "b h w 3"]:
    """Turn grey values 0 to 255 into three equal colour channels in [0, 1]."""
    return np.repeat(np.asarray(images, np.float32)[..., None] / 255, 3, axis=-1)


def backbone(config: BackboneConfig, seed: int) -> tuple[Params, Callable[..., Array]]:
    """Make a randomly initialised backbone as a pure function.

    Returns:
        The parameters, and `features(params, images, kept)`: the final-norm class token, with only the patches `kept`
        (indices, one row for each image) when it isn't None.
    """
    graph, state = nnx.split(ViT(config, rngs=nnx.Rngs(seed)))
    template = nnx.to_flat_state(state)
    names = ["/".join(map(str, path)) for path, _ in template]

    def features(
        params: Params, images: Float[Array, "b h w 3"], kept: Int[Array, "b k"] | None
    ) -> Float[Array, "b d"]:
        leaves = [(path, variable.replace(params[n])) for n, (path, variable) in zip(names, template, strict=True)]
        model = nnx.merge(graph, nnx.from_flat_state(leaves))
        tokens = model.embed(images)
        if kept is not None:
            # The class token always stays; positions were added before, so that places aren't lost
            tokens = jnp.concatenate([tokens[:, :1], jnp.take_along_axis(tokens[:, 1:], kept[..., None], axis=1)], 1)
        for block in model.blocks:
            z = block.attend(tokens)
            tokens = z + block.mlp(z)
        return model.class_feature(tokens)

    return {name: variable[...] for name, (_, variable) in zip(names, template, strict=True)}, features


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Muon on the blocks' matrices, Adam on everything else, one shape of the learning rate for both."""

    def shape(step: Any) -> Any:
        left = (recipe.steps - step) / (recipe.falling * recipe.steps)
        # Up over the warm-up; `left` falls below 1 only in the last part of the run
        return jnp.minimum(step / recipe.warmup_steps, 1.0) * jnp.minimum(1.0, left)

    def dimensions(params: Any) -> Any:
        def of(path: tuple[Any, ...], _: Array) -> contrib.MuonDimensionNumbers | None:
            # Paths are flat names below `backbone` and `head`: Muon gets the matrices of blocks only
            name = path[-1].key
            return contrib.MuonDimensionNumbers() if name.startswith("blocks/") and name.endswith("kernel") else None

        return jax.tree_util.tree_map_with_path(of, params)

    return contrib.muon(
        lambda step: recipe.muon_rate * shape(step),
        adam_learning_rate=lambda step: recipe.adam_rate * shape(step),
        muon_weight_dimension_numbers=dimensions,
    )


def save(params: Params, config: BackboneConfig, path: Path) -> None:
    """Write the backbone with timm's names (float32), replacing the file in one move."""
    part = path.with_suffix(".part")
    save_backbone({f"backbone/{name}": np.asarray(value) for name, value in params.items()}, config, part)
    os.replace(part, path)


def train(
    recipe: Recipe, config: BackboneConfig, glyphs: Glyphs, snapshot: Path, log: Callable[[str], None] = print
) -> tuple[Params, dict[str, Any]]:
    """Pre-train a backbone.

    Args:
        recipe: settings of the run.
        config: shape of the backbone.
        glyphs: classes and their distance fields.
        snapshot: file that gets the weights every 500 steps.
        log: receives one line every 250 steps.

    Returns:
        The backbone's parameters, and facts about the run (seconds, CPU seconds, last training accuracy).
    """
    # Plain seeds instead of named streams: these numbers made the shipped file.
    rng = np.random.default_rng(recipe.seed + 1)
    params, features = backbone(config, recipe.seed)
    key = jax.random.key(recipe.seed + 3)
    tree = {"backbone": params, "head": {"head": jax.random.normal(key, (len(glyphs.characters), config.dim)) * 0.02}}
    transform = optimizer(recipe)
    state = transform.init(tree)

    def loss(tree: Any, images: Array, labels: Array, kept: Array | None) -> tuple[Array, Array]:
        f = features(tree["backbone"], images, kept)
        f = f / jnp.linalg.norm(f, axis=1, keepdims=True)
        w = tree["head"]["head"]
        logits = recipe.scale * f @ (w / jnp.linalg.norm(w, axis=1, keepdims=True)).T
        mean = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return mean, (logits.argmax(1) == labels).mean()

    @jax.jit
    def step(tree: Any, state: Any, images: Array, labels: Array, kept: Array | None) -> tuple[Any, Any, Array]:
        (value, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(tree, images, labels, kept)
        updates, state = transform.update(gradient, state, tree)
        return optax.apply_updates(tree, updates), state, jnp.stack([value, accuracy])

    patches = config.tokens - 1
    started, cpu_started, seen = time.perf_counter(), time.process_time(), []
    mean = np.zeros(2)
    for i in range(recipe.steps):
        ramp = i / (recipe.full_strength_from * recipe.steps)
        strength = min(1.0, recipe.first_strength + (1 - recipe.first_strength) * ramp)
        images, labels = glyphs.batch(rng, recipe.batch, strength)
        # All patches are another shape: the step is compiled twice in all
        kept = None
        if i < recipe.all_patches_from * recipe.steps:
            # A random subset for each image, in the order of places
            kept = np.sort(np.argsort(rng.random((recipe.batch, patches)), axis=1)[:, : recipe.kept_patches], axis=1)
        tree, state, numbers = step(tree, state, as_pixels(images), labels, kept)
        # Left on the device: a number asked for at every step would make the host wait
        seen.append(numbers)
        if (i + 1) % 250 == 0 or i + 1 == recipe.steps:
            mean = np.mean(jax.device_get(seen), axis=0)
            seen = []
            if not np.isfinite(mean).all():
                raise FloatingPointError(f"loss {mean[0]} at step {i + 1}; lower the learning rates")
            log(
                json.dumps(
                    {
                        "step": i + 1,
                        "loss": round(float(mean[0]), 3),
                        "accuracy": round(float(mean[1]), 4),
                        "strength": round(strength, 3),
                        "seconds": round(time.perf_counter() - started),
                    }
                )
            )
        if (i + 1) % 500 == 0:
            save(tree["backbone"], config, snapshot)
    facts = {
        "seconds": round(time.perf_counter() - started),
        "cpu_seconds": round(time.process_time() - cpu_started),
        "images": recipe.steps * recipe.batch,
        "last_training_accuracy": round(float(mean[1]), 4),
    }
    return tree["backbone"], facts
