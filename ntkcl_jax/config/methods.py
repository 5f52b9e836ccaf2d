"""What can be run on a stream, and the settings of everything but NTK-CL itself."""

from dataclasses import dataclass

from ntkcl_jax.config.model import Variant
from ntkcl_jax.errors import require

TUNED_METHODS = ("adapters", "l2p", "dualprompt", "coda-prompt", "ease", "inflora")
"""Baselines that train modules inside the frozen backbone."""
METHODS = ("ntkcl", "ntkcl-ridge", "prototypes", "sequential", "joint", "ridge", "ranpac", *TUNED_METHODS)
"""All methods; docs/method.md says what each is."""


@dataclass(frozen=True)
class BaselineConfig:
    """What the methods beside NTK-CL take from elsewhere than the settings above, whose images and batches they share.

    Each trains by its published optimizer, rate and schedule, for as many epochs as NTK-CL.
    """

    learning_rate: float | None = None
    """Initial learning rate of the baselines that train inside the backbone; None means each method's published one."""
    epochs: int | None = None
    """Their passes over each task's images; None means `optimizer.epochs`."""
    first_session: bool = True
    """`ranpac`: train adapters on task 0 before its features are taken, as published; else use the bare backbone."""

    def __post_init__(self) -> None:
        """Refuse durations and rates without meaning."""
        rate, epochs = self.learning_rate, self.epochs
        require(rate is None or rate > 0, f"baselines.learning_rate must be positive, got {rate}")
        require(epochs is None or epochs >= 0, f"baselines.epochs must not be negative, got {epochs}")


@dataclass(frozen=True)
class ReadoutConfig:
    """Ridge classifiers on random features: methods `ranpac` and `ntkcl-ridge`."""

    random_features: int = 2000
    """Width of the random projection (RanPAC's published runs: 10,000, with seconds of algebra a task)."""
    views: int = 4
    """`ntkcl-ridge`: random crops of each training image that are learnt beside the image itself."""

    def __post_init__(self) -> None:
        """Refuse sizes without meaning."""
        require(self.random_features >= 1, f"readout.random_features must be at least 1, got {self.random_features}")
        require(self.views >= 0, f"readout.views must not be negative, got {self.views}")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Loss terms and their weights (docs/method.md, section 3)."""

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
