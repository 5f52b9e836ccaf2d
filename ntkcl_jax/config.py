"""Every setting of a run, typed and frozen.

A config is plain data: it imports nothing heavy, prints as JSON, and is stored whole in the run folder. The words are
those of `docs/architecture.md`; durations and sizes carry their units. `Variant` says which of two readings of the
method a part uses: `reference` repeats the authors' release, oddities included, to float32 rounding; `paper` is the
idea made to work (see `docs/method.md`).
"""

from dataclasses import dataclass, field
from typing import Literal

from ntkcl_jax.data_config import DataConfig
from ntkcl_jax.errors import require
from ntkcl_jax.method_config import METHODS, BaselineConfig, ReadoutConfig

Variant = Literal["paper", "reference"]


LARGEST = {"image_size": 2**14, "patch_size": 2**14, "channels": 64, "dim": 2**15, "depth": 1024, "heads": 2**15}
"""Bounds far above any vision transformer, so that a damaged `config.json` asks for nothing absurd."""


@dataclass(frozen=True)
class BackboneConfig:
    """Shape of the frozen vision transformer."""

    image_size: int = 28
    """Side of the square input image, pixels."""
    patch_size: int = 4
    """Side of a square patch, pixels."""
    channels: int = 3
    """Colour channels of the input."""
    dim: int = 64
    """Width of a token, D."""
    depth: int = 4
    """Number of transformer blocks."""
    heads: int = 2
    """Attention heads; must divide `dim`."""
    mlp_ratio: float = 4.0
    """Width of the MLP over the width of a token."""

    def __post_init__(self) -> None:
        """Refuse shapes that no transformer can have."""
        for name, most in LARGEST.items():
            value = getattr(self, name)
            require(1 <= value <= most, f"backbone.{name} must be from 1 to {most}, got {value}")
        require(
            self.image_size % self.patch_size == 0,
            f"backbone.image_size must be a multiple of backbone.patch_size, got {self.image_size} and "
            f"{self.patch_size}; use e.g. image_size={self.image_size // self.patch_size * self.patch_size}",
        )
        require(
            self.dim % self.heads == 0,
            f"backbone.heads must divide backbone.dim, got dim={self.dim} and heads={self.heads}",
        )
        require(
            1 <= self.dim * self.mlp_ratio <= LARGEST["dim"] * 4,
            f"backbone.mlp_ratio must make an MLP of 1 to {LARGEST['dim'] * 4} units, got {self.mlp_ratio}; try 4",
        )

    @property
    def tokens(self) -> int:
        """Number of tokens, class token included (197 for 224 px and patches of 16)."""
        return (self.image_size // self.patch_size) ** 2 + 1


BACKBONES: dict[str, BackboneConfig] = {
    "nano": BackboneConfig(),
    "tiny": BackboneConfig(image_size=224, patch_size=16, dim=192, depth=12, heads=3),
    "small": BackboneConfig(image_size=224, patch_size=16, dim=384, depth=12, heads=6),
    "base": BackboneConfig(image_size=224, patch_size=16, dim=768, depth=12, heads=12),
    "large": BackboneConfig(image_size=224, patch_size=16, dim=1024, depth=24, heads=16),
}


@dataclass(frozen=True)
class ModelConfig:
    """The adapted network: backbone, channel stream, patch stream, fusion and heads (docs/method.md, model)."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Shape of the frozen backbone."""
    streams: Literal["both", "channel", "patch"] = "both"
    """Adaptation streams to run. One alone is an ablation: its features stand for the hybrid ones, and its
    cross-entropy and L_orth count once."""
    adapter_rank: int = 16
    """Bottleneck width r of the channel stream's adapters."""
    adapter_scale: float = 0.1
    """Multiplier of an adapter's output."""
    adapter_dropout: float = 0.1
    """Dropout rate on the adapter's hidden units while training."""
    prompts: int = 10
    """Number m of prompt tokens that the patch stream generates in each block."""
    prompt_carry: float = 0.1
    """Share of the previous block's prompts added to the new ones."""
    fusion: Variant = "reference"
    """`reference`: a linear map of the channel features (a softmax of one entry); `paper`: attention over sections."""
    fusion_heads: int = 8
    """Attention heads of the fusion."""
    fusion_dropout: float = 0.1
    """Dropout rate on the fusion's attention weights while training."""
    fusion_attention_scale: float = 0.5
    """Multiplier of the attended features in the hybrid."""
    fusion_patch_scale: float = 0.1
    """Multiplier of the patch features in the hybrid."""
    initialisation: Variant = "reference"
    """How prompts and fusion start: `reference` is all-zero prompts; `paper` starts a living generator."""
    pretrained_view: bool = False
    """Add the untouched backbone's class token as a third section."""
    pretrained_weight: float = 1.0
    """Weight of the pretrained section's cosine in the prototype head (`beta` in the release)."""
    mean_weight: float = 0.3
    """Weight of the running-mean section's cosine in the prototype head (`gamma` in the release)."""
    current_weight: float = 0.1
    """Weight of the current section's cosine in the prototype head (`alpha` in the release)."""

    def __post_init__(self) -> None:
        """Refuse sizes and rates that can't be built."""
        require(self.adapter_rank >= 1, f"model.adapter_rank must be at least 1, got {self.adapter_rank}")
        require(self.prompts >= 1, f"model.prompts must be at least 1, got {self.prompts}")
        require(self.fusion_heads >= 1, f"model.fusion_heads must be at least 1, got {self.fusion_heads}")
        for name in ("adapter_dropout", "fusion_dropout"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"model.{name} must be in [0, 1), got {rate}")
        width = self.backbone.dim if self.fusion == "paper" else self.feature_dim
        require(
            width % self.fusion_heads == 0,
            f"model.fusion_heads must divide the fused width {width}, got {self.fusion_heads}; "
            f"set model.fusion_heads to a divisor of {width}",
        )

    @property
    def sections(self) -> int:
        """Number S of sections in a feature: [pretrained?, mean, current]."""
        return 3 if self.pretrained_view else 2

    @property
    def section_weights(self) -> tuple[float, ...]:
        """Weight of each section's cosine in the prototype head, in section order."""
        weights = (self.mean_weight, self.current_weight)
        return (self.pretrained_weight, *weights) if self.pretrained_view else weights

    @property
    def feature_dim(self) -> int:
        """Width of a channel, patch or hybrid feature: sections x dim."""
        return self.sections * self.backbone.dim


@dataclass(frozen=True)
class ObjectiveConfig:
    """Loss terms and their weights (docs/method.md, objective)."""

    dissimilarity: Variant = "reference"
    """Form of the task-feature dissimilarity term L_dis."""
    orthogonality: Variant = "reference"
    """Form of the task-feature orthogonality term L_orth."""
    regularization: Variant = "reference"
    """Which parameters the pull to the anchor covers: `reference` includes the prompt norms' scales."""
    lambda_dis: float = 0.03
    """Weight of L_dis (η)."""
    lambda_orth: float = 1e-4
    """Weight of L_orth (υ)."""
    lambda_reg: float = 1e-3
    """Weight of L_reg (λ)."""
    temperature: float = 0.1
    """Divisor of the cosines inside L_dis."""
    orthogonality_rank: int = 40
    """Number of singular vectors of the old prototypes that L_orth uses."""

    def __post_init__(self) -> None:
        """Refuse weights without meaning."""
        for name in ("lambda_dis", "lambda_orth", "lambda_reg"):
            require(getattr(self, name) >= 0, f"objective.{name} must not be negative, got {getattr(self, name)}")
        require(self.temperature > 0, f"objective.temperature must be positive, got {self.temperature}")
        require(
            self.orthogonality_rank >= 1, f"objective.orthogonality_rank must be >= 1, got {self.orthogonality_rank}"
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum, coupled weight decay and a cosine per epoch within each task."""

    learning_rate: float = 0.025
    """Initial learning rate of task 0, and of later tasks unless `later_learning_rate` is set."""
    later_learning_rate: float | None = None
    """Initial learning rate of tasks 1, 2, ...; None means `learning_rate`; 0: they only add their prototypes."""
    momentum: float = 0.9
    """Heavy-ball momentum; its state is new for every task."""
    weight_decay: float = 5e-4
    """Coupled L2 decay of every trainable parameter."""
    batch_size: int = 16
    """Images per step, over all devices."""
    epochs: int = 20
    """Passes over each task's images."""

    def epochs_of(self, task: int) -> int:
        """Passes over a task's images in training: none where the rate is 0, since no step would change anything.

        Example:
            >>> [OptimizerConfig(later_learning_rate=0.0, epochs=2).epochs_of(task) for task in (0, 1)]
            [2, 0]
        """
        return 0 if task and self.later_learning_rate == 0 else self.epochs

    def __post_init__(self) -> None:
        """Refuse durations and rates without meaning."""
        require(self.learning_rate > 0, f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        later = self.later_learning_rate
        require(later is None or later >= 0, f"optimizer.later_learning_rate must not be negative, got {later}")
        require(0 <= self.momentum < 1, f"optimizer.momentum must be in [0, 1), got {self.momentum}")
        require(self.weight_decay >= 0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.batch_size >= 1, f"optimizer.batch_size must be at least 1, got {self.batch_size}")
        require(self.epochs >= 0, f"optimizer.epochs must not be negative, got {self.epochs}")


@dataclass(frozen=True)
class ComputeConfig:
    """How the same numbers are computed."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the backbone and the streams; parameters, norms, features and losses stay float32."""
    remat: bool = False
    """Recompute block activations in the backward pass: less memory, about a third more time."""
    eval_batch_size: int = 128
    """Images per step of evaluation and of prototype computation (the last batch is padded)."""
    checkpoint_every_steps: int = 200
    """In-task checkpoints for `--resume`, steps between two of them."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        require(self.eval_batch_size >= 1, f"compute.eval_batch_size must be >= 1, got {self.eval_batch_size}")
        require(
            self.checkpoint_every_steps >= 1,
            f"compute.checkpoint_every_steps must be >= 1, got {self.checkpoint_every_steps}",
        )


@dataclass(frozen=True)
class RunConfig:
    """One run: seeds x methods over one stream of tasks."""

    preset: str = "digits"
    """Name of the preset that this config started from."""
    weights: str = "nano"
    """`nano` for the shipped backbone, `random`, a safetensors or .npz file (timm, Hugging Face, Google), `hf:` or
    `timm:` and a name on the hub."""
    weights_sha256: str = ""
    """SHA-256 that the weights file must have; empty: any."""
    seeds: tuple[int, ...] = (0,)
    """Each seed fixes class order, batches, augmentation, dropout and initialisation, each by its own named stream."""
    methods: tuple[str, ...] = ("ntkcl",)
    """What to run on each seed, in this order; docs/method.md says what each is."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images and tasks."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer."""
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    """Training of the methods beside NTK-CL."""
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    """Ridge classifiers."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Arithmetic, memory and checkpoints."""

    def __post_init__(self) -> None:
        """Refuse unknown methods and repeated seeds."""
        unknown = [m for m in self.methods if m not in METHODS]
        require(not unknown, f"unknown method {', '.join(unknown)}; choose from {', '.join(METHODS)}")
        require(len(self.seeds) > 0, "seeds must name at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds must differ, got {self.seeds}")
        require(all(0 <= s < 2**32 for s in self.seeds), f"seeds must be in [0, 2**32), got {self.seeds}")
        pinned = self.weights_sha256.lower()
        require(
            not pinned or (len(pinned) == 64 and set(pinned) <= set("0123456789abcdef")),
            f"weights_sha256 must be 64 hexadecimal digits, got {self.weights_sha256!r}",
        )
        if "ntkcl-ridge" in self.methods:
            before = self.methods[: self.methods.index("ntkcl-ridge")]
            require("ntkcl" in before, "method ntkcl-ridge reads the checkpoints of ntkcl: name ntkcl before it")
        require(len(self.methods) > 0, f"methods must name at least one of {', '.join(METHODS)}")
