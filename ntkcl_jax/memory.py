"""What a run costs in memory and disk, computed from its configuration. Plain integers, no JAX.

Parameters are exact. Activations are estimates, within a third of what XLA plans on a CPU; a rehearsal tells XLA's own.
"""

from dataclasses import dataclass

from ntkcl_jax.config import ModelConfig, RunConfig
from ntkcl_jax.costs import task_sizes

FLOAT32 = 4
"""Bytes."""
CHANNELS_KEPT = 6
"""Tensors of a token's width that a block keeps for its backward pass: two norms, query, key, value, adapter input."""
ATTENTION_KEPT = 2
"""Copies of its attention weights that a block keeps: the softmax's output, and in the backward pass its gradient."""
HIDDEN_KEPT = 3
"""Tensors of its MLP's hidden units that a block keeps: before and after the GELU, and the GELU's slope."""


@dataclass(frozen=True)
class Parameters:
    """Numbers that a network holds.

    Attributes:
        backbone: frozen.
        adaptation: trained.
        mean: running mean of the streams.
        prototypes: class means.
    """

    backbone: int
    adaptation: int
    mean: int
    prototypes: int


def parameters(config: RunConfig, classes: int = 0) -> Parameters:
    """Count the network's parameters.

    Args:
        config: the network and its tasks.
        classes: classes of the stream; 0 takes `data.classes`.

    Example:
        >>> from ntkcl_jax.presets import preset
        >>> parameters(preset("cifar100")).backbone
        85798656
    """
    model, vit, sizes = config.model, config.model.backbone, task_sizes(config, classes)
    d, hidden, e = vit.dim, int(vit.dim * vit.mlp_ratio), model.feature_dim
    block = 4 * d * d + 4 * d + 2 * d * hidden + hidden + d + 4 * d
    backbone = vit.patch_size**2 * vit.channels * d + d + d + vit.tokens * d + vit.depth * block + 2 * d
    adapter = 2 * d * model.adapter_rank + model.adapter_rank + d
    generator = vit.tokens * model.prompts + model.prompts + 2 * d
    mean = vit.depth * (adapter + generator)
    width = d if model.fusion == "paper" else e
    fusion = 3 * (width * width + width)
    return Parameters(backbone, mean + fusion + max(sizes) * e + 1, mean, sum(sizes) * (e + 1) + 1)


def checkpoint_bytes(config: RunConfig, classes: int = 0) -> int:
    """Size of a task's `before` or `after` checkpoint: trained values, anchor, mean and prototypes."""
    held = parameters(config, classes)
    return FLOAT32 * (2 * held.adaptation + held.mean + held.prototypes)


def _kept(model: ModelConfig, rows: int, width: int) -> int:
    """Bytes that one block of a trained stream keeps of an image with `rows` tokens, `width` bytes a number."""
    vit = model.backbone
    tokens = rows * (CHANNELS_KEPT * vit.dim + HIDDEN_KEPT * int(vit.dim * vit.mlp_ratio)) * width
    return tokens + ATTENTION_KEPT * vit.heads * rows * rows * width


def activation_bytes(config: RunConfig) -> int:
    """Estimate what a training step keeps of a batch between forward and backward pass.

    Of the blocks the last keeps little, as it yields the class row alone. With `compute.remat` a block keeps its input,
    and one block at a time is recomputed.
    """
    model, vit = config.model, config.model.backbone
    width = 2 if config.compute.dtype == "bfloat16" else FLOAT32
    image = 0
    for rows in (vit.tokens, vit.tokens + model.prompts):
        block = _kept(model, rows, width)
        inputs = (vit.depth - 1) * rows * vit.dim * width
        image += inputs + block if config.compute.remat else max(vit.depth - 1, 1) * block
    return config.optimizer.batch_size * image


def training_bytes(config: RunConfig, classes: int = 0) -> int:
    """Estimate the memory of training: all parameters, of the trained ones six copies (see below), and activations.

    The six: values, momentum, gradient, anchor, and values and momentum being written.

    Args:
        config: network, batch size, arithmetic.
        classes: classes of the stream; 0 takes `data.classes`.
    """
    held = parameters(config, classes)
    values = held.backbone + 6 * held.adaptation + held.mean + held.prototypes
    return FLOAT32 * values + activation_bytes(config)


def evaluation_bytes(config: RunConfig, classes: int = 0) -> int:
    """Estimate the memory of evaluation: parameters, and what a block of each stream holds of a batch at a time."""
    held, vit = parameters(config, classes), config.model.backbone
    width = 2 if config.compute.dtype == "bfloat16" else FLOAT32
    rows = vit.tokens + config.model.prompts
    image = _kept(config.model, rows, width) + 2 * config.model.sections * rows * vit.dim * width
    values = held.backbone + 2 * held.adaptation + held.mean + held.prototypes
    return FLOAT32 * values + config.compute.eval_batch_size * image
