"""What a run costs in arithmetic, computed from its configuration. Plain integers, no JAX.

FLOPs are those of matrix products (a multiply and an add count as two); norms, GELU, softmax and the optimizer are left
out: XLA counts 5 % more at a width of 192, less at a larger one. A backward pass through a frozen layer costs its
forward product once (no weight gradient), through a trained layer or an attention twice. The mean and pretrained
streams are only ever run forward.
"""

import itertools
from dataclasses import dataclass

from ntkcl_jax.config import BackboneConfig, ModelConfig, RunConfig


@dataclass(frozen=True)
class Work:
    """FLOPs of a piece of the network for one image: forward, and backward when something trained lies below it."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Both pieces."""
        return Work(self.forward + other.forward, self.backward + other.backward)

    @property
    def both(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Stream:
    """How many images a stream of tasks has.

    Attributes:
        task_sizes: classes of each task.
        train: training images of all tasks.
        test: test images of all tasks.
    """

    task_sizes: tuple[int, ...]
    train: int
    test: int

    @property
    def classes(self) -> int:
        """Classes of all tasks."""
        return sum(self.task_sizes)

    @property
    def evaluated(self) -> int:
        """Images that are classified when, after each task, the test images of all classes so far are.

        Example:
            >>> Stream((2, 2, 1), train=500, test=50).evaluated
            110
        """
        classes = [sum(self.task_sizes[: task + 1]) for task in range(len(self.task_sizes))]
        return round(self.test * sum(classes) / self.classes)

    def trained(self, task: int) -> int:
        """Training images of a task, if all classes have as many."""
        return round(self.train * self.task_sizes[task] / self.classes)

    def steps(self, config: RunConfig) -> int:
        """Training steps of a seed, over all tasks and epochs."""
        made = config.optimizer
        return sum(made.epochs_of(t) * -(-self.trained(t) // made.batch_size) for t in range(len(self.task_sizes)))


def task_sizes(config: RunConfig, classes: int = 0) -> tuple[int, ...]:
    """Classes of each task.

    Args:
        config: how classes are cut into tasks.
        classes: number of classes; 0 takes `data.classes`, or a single task where that is 0 too.

    Example:
        >>> from ntkcl_jax.config import DataConfig
        >>> task_sizes(RunConfig(data=DataConfig(classes=10, first_task_classes=4, classes_per_task=4)))
        (4, 4, 2)
    """
    data = config.data
    first = data.first_task_classes or data.classes_per_task
    classes = classes or data.classes or first
    # As `make_scenario` cuts them: the last task takes what is left
    starts = [0, *range(first, classes, data.classes_per_task), classes]
    return tuple(end - start for start, end in itertools.pairwise(starts))


def _block(vit: BackboneConfig, rows: int, out: int) -> Work:
    """A frozen block on `rows` tokens that yields the first `out` of them."""
    d, hidden = vit.dim, int(vit.dim * vit.mlp_ratio)
    # Keys and values of all rows; queries, projection and both MLP layers of those that it yields
    linear = 2 * rows * d * 2 * d + 2 * out * d * 2 * d + 2 * out * d * hidden * 2
    # Queries by keys, weights by values; both factors of each product have a gradient
    attention = 2 * 2 * out * rows * d
    return Work(linear + attention, linear + 2 * attention)


def _recomputed(vit: BackboneConfig, rows: int, out: int) -> int:
    """FLOPs that `remat` repeats of a block: all but the MLP's second layer, whose output no gradient needs."""
    return _block(vit, rows, out).forward - 2 * out * vit.dim * int(vit.dim * vit.mlp_ratio)


def _adapter(model: ModelConfig, rows: int, first: bool) -> Work:
    """An adapter on `rows` tokens; nothing trained lies below the first one."""
    product = 2 * rows * model.backbone.dim * model.adapter_rank
    # Backward: two kernels and the hidden units, and the input where something trained lies below
    return Work(2 * product, (3 if first else 4) * product)


def _generator(model: ModelConfig, first: bool) -> Work:
    """A prompt generator; nothing trained lies below the first one."""
    product = 2 * model.backbone.tokens * model.prompts * model.backbone.dim
    # Backward: the token map, and its input where something trained lies below
    return Work(product, product if first else 2 * product)


def _channel(model: ModelConfig) -> Work:
    """Blocks after the shared start of a channel stream, with their adapters."""
    vit, n = model.backbone, model.backbone.tokens
    # Block 0's attention and MLP belong to the shared start; its adapter doesn't
    work = _adapter(model, n if vit.depth > 1 else 1, first=True)
    for i in range(1, vit.depth):
        out = 1 if i == vit.depth - 1 else n
        work += _block(vit, n, out) + _adapter(model, out, first=False)
    return work


def _patch(model: ModelConfig) -> Work:
    """Blocks after the shared start of a patch stream, with their prompts."""
    vit, m = model.backbone, model.prompts
    n = vit.tokens + m
    if vit.depth == 1:
        return Work()
    # Block 0's MLP on its prompt rows, which the shared start doesn't have
    mlp = 2 * m * vit.dim * int(vit.dim * vit.mlp_ratio) * 2
    work = _generator(model, first=True) + Work(mlp, mlp)
    for _ in range(1, vit.depth - 1):
        work += _block(vit, n, n) + _generator(model, first=False)
    return work + _block(vit, n, 1)  # the last block makes no prompts


def _embedding(vit: BackboneConfig) -> int:
    return 2 * (vit.tokens - 1) * vit.patch_size**2 * vit.channels * vit.dim


def backbone_flops(config: RunConfig) -> int:
    """FLOPs of the untouched backbone on one image.

    Example:
        >>> from ntkcl_jax.config import BACKBONES
        >>> base = RunConfig(model=ModelConfig(backbone=BACKBONES["base"]))
        >>> round(backbone_flops(base) / 1e9, 1)
        32.7
    """
    vit = config.model.backbone
    blocks = [_block(vit, vit.tokens, 1 if i == vit.depth - 1 else vit.tokens) for i in range(vit.depth)]
    return _embedding(vit) + sum(block.forward for block in blocks)


def _streams(model: ModelConfig) -> Work:
    """One parameter set of the streams that run."""
    work = Work() if model.streams == "patch" else _channel(model)
    return work if model.streams == "channel" else work + _patch(model)


def _fusion(model: ModelConfig) -> Work:
    """The fusion layer; its paper form has three maps and an attention over sections. One stream alone has none."""
    d, s = model.backbone.dim, model.sections
    if model.streams != "both":
        return Work()
    if model.fusion == "reference":
        # The value map alone: over a sequence of one, query and key don't count
        product = 2 * model.feature_dim**2
        return Work(product, 2 * product)
    # Three maps of the sections, and the attention between them
    linear, attention = 3 * 2 * s * d * d, 2 * 2 * s * s * d
    return Work(linear + attention, 2 * (linear + attention))


def features_flops(config: RunConfig) -> int:
    """FLOPs of the network's features of one image, forward: the adapted streams, their means, the fusion."""
    model, vit = config.model, config.model.backbone
    start = _embedding(vit) + _block(vit, vit.tokens, vit.tokens if vit.depth > 1 else 1).forward
    streams = 2 * _streams(model).forward  # current and mean
    untouched = backbone_flops(config) - start if model.pretrained_view else 0
    return start + streams + untouched + _fusion(model).forward


def evaluation_flops(config: RunConfig, classes: int) -> int:
    """FLOPs of classifying one image among `classes` with the prototype head."""
    return features_flops(config) + 2 * config.model.feature_dim * classes


def training_flops(config: RunConfig, classes: int = 0) -> int:
    """FLOPs of one training step of NTK-CL: forward, loss and backward for a whole batch.

    Args:
        config: network, objective and batch size.
        classes: classes of the stream; 0 takes `data.classes`.

    Returns:
        FLOPs of matrix products, within a few percent of what XLA counts.

    Example:
        >>> from ntkcl_jax.config.presets import preset
        >>> round(training_flops(preset("cifar100")) / 1e12, 2)
        3.02
    """
    model, objective, batch = config.model, config.objective, config.optimizer.batch_size
    vit, e = model.backbone, model.feature_dim
    sizes = task_sizes(config, classes)
    backward = _streams(model).backward + _fusion(model).backward
    if config.compute.remat:
        n = vit.tokens
        rows_of = {"channel": n, "patch": n + model.prompts}
        for rows in rows_of.values() if model.streams == "both" else [rows_of[model.streams]]:
            # Block 0 is the shared start: nothing trained lies below it, so nothing is recomputed
            backward += sum(_recomputed(vit, rows, 1 if i == vit.depth - 1 else rows) for i in range(1, vit.depth))
    # Logits, and their gradients by features and by the kernel
    proxy = 3 * 2 * e * max(sizes)
    rows = min(objective.orthogonality_rank, sum(sizes), e)
    # Rows that L_dis compares: the batch and as many old prototypes at most
    old = batch + min(batch, sum(sizes))
    loss = proxy + 2 * 2 * e * (1 if objective.orthogonality == "reference" else rows) + 2 * old * e
    views = 3 if model.streams == "both" else 1
    return batch * (features_flops(config) + backward + views * loss)


def run_flops(config: RunConfig, stream: Stream) -> int:
    """FLOPs of NTK-CL on one seed: all steps, the prototypes' pass, and every evaluation."""
    once = evaluation_flops(config, stream.classes)
    return stream.steps(config) * training_flops(config, stream.classes) + (stream.train + stream.evaluated) * once
