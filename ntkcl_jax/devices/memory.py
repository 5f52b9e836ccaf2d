"""What a run costs in memory and disk, computed from its configuration; and what would fit where it didn't.

Parameters are exact. Activations are estimates, within a third of what XLA plans on a CPU; a rehearsal tells XLA's own.
"""

import contextlib
import errno
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from ntkcl_jax.config import ModelConfig, RunConfig
from ntkcl_jax.devices.flops import task_sizes
from ntkcl_jax.errors import MemoryShortError, reason

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
        trainable: trained.
        mean: running mean of the streams.
        prototypes: class means.
        anchor: what L_reg pulls to.
        basis: directions of the old prototypes, for L_orth.
    """

    backbone: int
    trainable: int
    mean: int
    prototypes: int
    anchor: int
    basis: int

    @property
    def buffers(self) -> int:
        """All that is neither trained nor the backbone."""
        return self.mean + self.prototypes + self.anchor + self.basis


def parameters(config: RunConfig, classes: int = 0) -> Parameters:
    """Count the network's parameters.

    Args:
        config: the network and its tasks.
        classes: classes of the stream; 0 takes `data.classes`.

    Example:
        >>> from ntkcl_jax.config.presets import preset
        >>> parameters(preset("cifar100")).backbone
        85798656
    """
    model, vit, sizes = config.model, config.model.backbone, task_sizes(config, classes)
    d, hidden, e = vit.dim, int(vit.dim * vit.mlp_ratio), model.feature_dim
    # qkv and projection with biases, both MLP layers with biases, scales and biases of two norms
    block = 4 * d * d + 4 * d + 2 * d * hidden + hidden + d + 4 * d
    # Patch embedding and its bias, class token, positions, blocks, the last norm
    backbone = vit.patch_size**2 * vit.channels * d + d + d + vit.tokens * d + vit.depth * block + 2 * d
    # Kernels of `down` and `up`, their biases
    adapter = 2 * d * model.adapter_rank + model.adapter_rank + d
    # Token map and its bias, scale and bias of the norm
    generator = vit.tokens * model.prompts + model.prompts + 2 * d
    mean = vit.depth * (adapter + generator)
    width = d if model.fusion == "paper" else e
    fusion = 3 * (width * width + width)  # query, key and value map
    scales = d if config.objective.regularization == "reference" else 0
    # What L_reg covers (`is_regularized`): kernels of streams and fusion, in one form the norms' scales
    anchor = vit.depth * (2 * d * model.adapter_rank + vit.tokens * model.prompts + scales) + 3 * width * width
    basis = e * min(config.objective.orthogonality_rank, e)
    # The proxy head has a row for each class of the largest task, and a scale
    trainable = mean + fusion + max(sizes) * e + 1
    # Prototypes: a row and a flag for each class, and a scale
    return Parameters(backbone, trainable, mean, sum(sizes) * (e + 1) + 1, anchor, basis)


def checkpoint_bytes(config: RunConfig, classes: int = 0) -> int:
    """Size of a task's `before` or `after` checkpoint: trained values and buffers."""
    count = parameters(config, classes)
    return FLOAT32 * (count.trainable + count.buffers)


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
    for rows in (vit.tokens, vit.tokens + model.prompts):  # channel stream, patch stream
        block = _kept(model, rows, width)
        inputs = (vit.depth - 1) * rows * vit.dim * width
        image += inputs + block if config.compute.remat else max(vit.depth - 1, 1) * block
    return config.optimizer.batch_size * image


def training_bytes(config: RunConfig, classes: int = 0) -> int:
    """Estimate the memory of training: all parameters, of the trained ones five copies (see below), and activations.

    The five: values, momentum, gradient, and values and momentum being written.

    Args:
        config: network, batch size, arithmetic.
        classes: classes of the stream; 0 takes `data.classes`.
    """
    count = parameters(config, classes)
    values = count.backbone + 5 * count.trainable + count.buffers
    return FLOAT32 * values + activation_bytes(config)


def evaluation_bytes(config: RunConfig, classes: int = 0) -> int:
    """Estimate the memory of evaluation: parameters, and what a block of each stream holds of a batch at a time."""
    count, vit = parameters(config, classes), config.model.backbone
    width = 2 if config.compute.dtype == "bfloat16" else FLOAT32
    rows = vit.tokens + config.model.prompts
    image = _kept(config.model, rows, width) + 2 * config.model.sections * rows * vit.dim * width
    values = count.backbone + count.trainable + count.buffers
    return FLOAT32 * values + config.compute.eval_batch_size * image


def exhausted(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out: Python's own, or XLA's RESOURCE_EXHAUSTED.

    Example:
        >>> exhausted(MemoryError()), exhausted(ValueError("Out of memory"))
        (True, False)
    """
    jax = sys.modules.get("jax")  # without it nothing of XLA's can have been raised
    from_xla = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return (
        isinstance(error, MemoryError)
        or refused
        or (from_xla and ("RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()))
    )


def device_bytes() -> int | None:
    """Memory of one device for arrays, bytes; None where the device doesn't tell (a CPU)."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def largest_batch(batch: int, need: Callable[[int], int], have: int | None) -> int | None:
    """Largest batch that fits, of those got by halving one that doesn't.

    Args:
        batch: the one that doesn't fit.
        need: estimate of the memory of a batch, bytes.
        have: memory of the device, bytes; None: not known, so that half is taken.

    Returns:
        Images; None if not even one fits.

    Example:
        >>> largest_batch(64, lambda images: 100 * images, 1000), largest_batch(64, lambda images: images, None)
        (8, 32)
    """
    while (batch := batch // 2) > 0:
        if have is None or need(batch) <= have:
            return batch
    return None


def what_fits(config: RunConfig, have: int | None, classes: int = 0) -> str:
    """Name settings of a run that ran out of memory with which it would fit.

    Args:
        config: the run.
        have: memory of a device, bytes; None if not known.
        classes: classes of the stream; 0 takes `data.classes`.

    Example:
        >>> from ntkcl_jax.config.presets import preset
        >>> what_fits(preset("cifar100"), None)
        'optimizer.batch_size=8 for training, compute.eval_batch_size=64 for evaluation, compute.remat=True'
    """

    def training(images: int) -> int:
        return training_bytes(replace(config, optimizer=replace(config.optimizer, batch_size=images)), classes)

    def evaluation(images: int) -> int:
        return evaluation_bytes(replace(config, compute=replace(config.compute, eval_batch_size=images)), classes)

    train = largest_batch(config.optimizer.batch_size, training, have)
    evaluate = largest_batch(config.compute.eval_batch_size, evaluation, have)
    said = [f"optimizer.batch_size={train} for training"] if train else []
    said += [f"compute.eval_batch_size={evaluate} for evaluation"] if evaluate else []
    said += [] if config.compute.remat else ["compute.remat=True"]
    return ", ".join(said) or "a device with more memory"


@contextlib.contextmanager
def explained(config: RunConfig, classes: int = 0) -> Generator[None]:
    """Turn a lack of memory within a block into one line that says what would fit.

    Args:
        config: the run that the block trains or evaluates.
        classes: classes of its stream; 0 takes `data.classes`.

    Raises:
        MemoryShortError: memory ran out in the block.
    """
    try:
        yield
    except Exception as error:
        if not exhausted(error):
            raise
        have = device_bytes()
        size = f" of {have / 2**30:.1f} GiB" if have else ""
        raise MemoryShortError(
            f"the memory{size} ran out ({reason(error)}); start again with {what_fits(config, have, classes)}"
        ) from error
