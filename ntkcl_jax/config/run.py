"""A run as plain data: everything needed to repeat it.

Durations and sizes carry their units. It imports nothing heavy, prints as JSON, and is stored whole in the run folder.
"""

from dataclasses import dataclass, field
from typing import Literal

from ntkcl_jax.config.data import DataConfig
from ntkcl_jax.config.methods import METHODS, BaselineConfig, Method, ObjectiveConfig, ReadoutConfig
from ntkcl_jax.config.model import ModelConfig
from ntkcl_jax.errors import require


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
    """What to run on each seed, in this order: names of docs/method.md, or LEARNER/READOUT such as `ease/ridge`."""
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
        for method in self.methods:
            Method.of(method)
        require(len(self.seeds) > 0, "seeds must name at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds must differ, got {self.seeds}")
        require(all(0 <= s < 2**32 for s in self.seeds), f"seeds must be in [0, 2**32), got {self.seeds}")
        # Half a hash would otherwise only fail after a download, as another file's
        pinned = self.weights_sha256.lower()
        require(
            not pinned or (len(pinned) == 64 and set(pinned) <= set("0123456789abcdef")),
            f"weights_sha256 must be 64 hexadecimal digits, got {self.weights_sha256!r}",
        )
        require(len(set(self.methods)) == len(self.methods), f"methods must differ, got {', '.join(self.methods)}")
        pairs = [self.pair(method) for method in self.methods]
        for method, pair in zip(self.methods, pairs, strict=True):
            same = self.methods[pairs.index(pair)]  # one place in the run folder can't hold both
            require(same == method, f"methods must differ, got {same} and {method}, which are {'/'.join(pair)} both")
        require(len(self.methods) > 0, f"methods must name at least one of {', '.join(METHODS)}")

    def pair(self, method: str) -> Method:
        """Learner and readout of a method in this run."""
        return Method.of(method, self.baselines.first_session)
