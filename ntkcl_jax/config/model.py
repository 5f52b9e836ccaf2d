"""Settings of the network: the backbone's shape, and what is put into it."""

from dataclasses import dataclass, field
from typing import Literal

from ntkcl_jax.errors import require

Variant = Literal["paper", "reference"]
"""Which of two readings of the method a part uses: `reference` repeats the authors' release, oddities included, to
float32 rounding; `paper` is the idea made to work (docs/method.md, section 2)."""
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
    """The adapted network: backbone, channel stream, patch stream, fusion and heads (docs/method.md, section 2)."""

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
        # `paper` attends over sections of width D, `reference` over a whole feature (docs/method.md, section 2)
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
