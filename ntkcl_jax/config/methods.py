"""What can be run on a stream: learners, readouts, the names of their pairs, and their settings.

A method is a *learner*, what trains inside the frozen backbone, under a *readout*, what classifies its features.
`ease/ridge` names any pair; the names of `NAMED` are short for some of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ntkcl_jax.config.data import View
from ntkcl_jax.config.model import Variant
from ntkcl_jax.config.registry import Registry
from ntkcl_jax.errors import ConfigError, require

HEAD = "head"
"""In a readout's place: the classifier that the learner itself trains or keeps."""
NAMED = {
    "ntkcl": "ntkcl/head",
    "ntkcl-ridge": "ntkcl/random-ridge",
    "prototypes": "frozen/prototypes",
    "sequential": "frozen/linear",
    "joint": "frozen/joint",
    "ridge": "frozen/ridge",
    "ranpac": "first-session/ranpac",
    "layup": "first-session/layup",
    "acil": "frozen/acil",
    "ds-al": "frozen/ds-al",
    "klda": "frozen/klda",
    "fecam": "frozen/fecam",
    "loranpac": "frozen/loranpac",
    "multilevel": "frozen/multilevel",
    "adapters": "adapters/head",
    "l2p": "l2p/head",
    "dualprompt": "dualprompt/head",
    "coda-prompt": "coda-prompt/head",
    "ease": "ease/head",
    "inflora": "inflora/head",
}
"""Names of pairs; docs/method.md says what each is. The name of any other learner is short for the learner's head."""
LEARNERS = Registry(
    "learner",
    "ntkcl_jax.learners",
    {
        "ntkcl": "ntkcl_jax.methods.ntkcl:NTKCL",
        "frozen": "ntkcl_jax.methods.frozen:FrozenBackbone",
        "first-session": "ntkcl_jax.methods.adapters:FirstSession",
        "adapters": "ntkcl_jax.methods.adapters:AdapterTuning",
        "l2p": "ntkcl_jax.methods.l2p:L2P",
        "dualprompt": "ntkcl_jax.methods.dualprompt:DualPrompt",
        "coda-prompt": "ntkcl_jax.methods.coda_prompt:CodaPrompt",
        "ease": "ntkcl_jax.methods.ease:Ease",
        "inflora": "ntkcl_jax.methods.inflora:InfLora",
    },
    # `backbone` is a folder beside the learners' checkpoints; a learner can't take a short name that means another pair
    reserved=("backbone", *(name for name, pair in NAMED.items() if name != pair.partition("/")[0])),
)
"""What trains inside the frozen backbone; subclasses of `ntkcl_jax.methods.base.Learner`."""
READOUTS = Registry(
    "readout",
    "ntkcl_jax.readouts",
    {
        "prototypes": "ntkcl_jax.readouts.prototypes:Prototypes",
        "linear": "ntkcl_jax.readouts.linear:Linear",
        "joint": "ntkcl_jax.readouts.linear:Joint",
        "ridge": "ntkcl_jax.readouts.ridge:Ridge",
        "random-ridge": "ntkcl_jax.readouts.ridge:RandomRidge",
        "ranpac": "ntkcl_jax.readouts.ranpac:RanPAC",
        "layup": "ntkcl_jax.readouts.layup:LayUP",
        "acil": "ntkcl_jax.readouts.acil:ACIL",
        "ds-al": "ntkcl_jax.readouts.ds_al:DSAL",
        "klda": "ntkcl_jax.readouts.klda:KLDA",
        "fecam": "ntkcl_jax.readouts.fecam:FeCAM",
        "loranpac": "ntkcl_jax.readouts.loranpac:LoRanPAC",
        "multilevel": "ntkcl_jax.readouts.multilevel:MultiLevel",
    },
    # `taskN` is what checkpoints of a learner are called, beside the folders of its readouts
    reserved=(HEAD, r"task\d+"),
)
"""What classifies a learner's features; subclasses of `ntkcl_jax.readouts.base.Readout`."""
METHODS = tuple(NAMED)
"""All names that this package gives to methods."""


class Method(NamedTuple):
    """A learner under a readout, by their names.

    Attributes:
        learner: one of `LEARNERS`.
        readout: one of `READOUTS`, or `HEAD`.
    """

    learner: str
    readout: str

    @classmethod
    def of(cls, name: str, first_session: bool = True) -> "Method":
        """Read the name of a method.

        Args:
            name: one of `NAMED`, a learner, or LEARNER/READOUT.
            first_session: without one `ranpac` and `layup` take the bare backbone.

        Raises:
            ConfigError: no such method.

        Example:
            >>> Method.of("prototypes"), Method.of("ease/ridge")
            (Method(learner='frozen', readout='prototypes'), Method(learner='ease', readout='ridge'))
        """
        learner, _, readout = NAMED.get(name, name).partition("/")
        readout = readout or HEAD
        known = learner in LEARNERS.names and (readout == HEAD or readout in READOUTS.names)
        # `ease/` isn't short for `ease`: a readout was meant and left out
        if not known or NAMED.get(name, name).endswith("/"):
            raise ConfigError(
                f"unknown method {name!r}; choose from {', '.join(METHODS)}, or LEARNER/READOUT with a learner of "
                f"{', '.join(LEARNERS.names)} and a readout of {', '.join((HEAD, *READOUTS.names))}"
            )
        # Another learner rather than a switch in it: so its frozen features are shared with `ridge` and `prototypes`
        return cls("frozen" if learner == "first-session" and not first_session else learner, readout)


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
    """`ranpac`, `layup`: train adapters on task 0 before features are taken, as published; else `frozen/...`."""

    def __post_init__(self) -> None:
        """Refuse durations and rates without meaning."""
        rate, epochs = self.learning_rate, self.epochs
        require(rate is None or rate > 0, f"baselines.learning_rate must be positive, got {rate}")
        require(epochs is None or epochs >= 0, f"baselines.epochs must not be negative, got {epochs}")


@dataclass(frozen=True)
class ReadoutConfig:
    """Readouts that have something to set."""

    random_features: int = 2000
    """Width of the random projection of `ranpac`, `random-ridge`, `acil`, `ds-al`, `klda` (published runs: 10,000 for
    RanPAC, 8,192 for ACIL and DS-AL, 5,000 for KLDA, with seconds of algebra a task)."""
    views: int = 4
    """`random-ridge`: random views (`data.train_view`) of each training image that are learnt beside the image."""
    widths: tuple[int, int, int, int] = (1000, 1000, 5000, 3000)
    """`multilevel`: numbers of each of its groups: final feature, tokens, grid, second order. All their products are
    kept, so that memory and time grow with the square of their sum (10,000: 0.4 GB on disk for each seed)."""
    level_views: int = 1
    """`multilevel`: random views of each training image that are learnt beside the image itself; each costs a pass."""
    level_view: View | None = "affine"
    """What these views are, `crop` or `affine`, drawn as `data` says; None means `data.train_view`."""
    gamma: float = 0.1
    """`acil`, `ds-al`: their ridge, as published."""
    compensation: float = 1.0
    """`ds-al`: weight of the compensation stream (published: 0.6 on CIFAR-100, 1.5 on ImageNet, else 1)."""
    bandwidth: float | None = None
    """`klda`: σ of the kernel exp(-σ ‖g - h‖²); None means that the first task's images choose it."""
    tukey: float = 1.0
    """`fecam`: exponent of Tukey's transformation of the feature (published: 1, none, for ViTs; 0.5 for ResNets)."""
    shrinkage: float = 1.0
    """`fecam`: what is added to the variances of a class, in units of their mean (published: 1)."""
    wide_features: int = 10_000
    """`loranpac`: width of its random projection (published: 100,000). A tenth as many directions of that width are
    kept (10,000: 0.1 GB on disk for each seed), so that time grows with its cube."""

    def __post_init__(self) -> None:
        """Refuse sizes without meaning."""
        require(self.random_features >= 1, f"readout.random_features must be at least 1, got {self.random_features}")
        require(self.views >= 0, f"readout.views must not be negative, got {self.views}")
        require(min(self.widths) >= 1, f"readout.widths must be four numbers of at least 1, got {self.widths}")
        require(self.level_views >= 0, f"readout.level_views must not be negative, got {self.level_views}")
        require(self.gamma > 0, f"readout.gamma must be positive, got {self.gamma}")
        require(self.compensation >= 0, f"readout.compensation must not be negative, got {self.compensation}")
        bandwidth = self.bandwidth
        require(bandwidth is None or bandwidth > 0, f"readout.bandwidth must be positive, got {bandwidth}")
        require(self.tukey > 0, f"readout.tukey must be positive, got {self.tukey}")
        # Without it a class of fewer images than entries has a covariance without an inverse
        require(self.shrinkage > 0, f"readout.shrinkage must be positive, got {self.shrinkage}")
        require(self.wide_features >= 1, f"readout.wide_features must be at least 1, got {self.wide_features}")


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
