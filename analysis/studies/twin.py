"""The linearised twin: NTK-CL with its features replaced by their first-order model, trained by the run's own steps.

f_lin(x; θ) = f(x; θ₀) + J(x; θ₀) (θ - θ₀) for the channel, patch and hybrid features, at an origin θ₀; proxy head, loss
terms, weight decay and pull to the anchor are exact. Its tangent kernel stays that of the origin, whatever it learns
(lazy training; Chizat, Oyallon, Bach 2019, arXiv:1812.07956), so trained on a task it says what theory expects the
network to do, before the network does it.

No Jacobian is stored: one forward-mode pass gives f and J (θ - θ₀) together, and its transpose gives the gradient.
A step at batch 16 on a ViT-B/16 needs 7.0 GiB, the network's own 5.7; with `compute.remat` both need 1.3 (XLA's account
of the program that it compiles for CPU; a slow test repeats it with remat).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from analysis.errors import PlanError
from ntkcl_jax.config import RunConfig
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.models.ntkcl import Features, Network
from ntkcl_jax.training.task_loop import fit_task

HEAD = "proxy/"
"""Paths of the proxy head begin so; features don't depend on it."""
DUAL = "dual"
"""Path of the dual coefficients that `DualNTKCL` trains beside the parameters."""


@dataclass(frozen=True)
class LinearNetwork(Network):
    """A `Network` whose features are linear in the trainable tree, around `frozen.origin`; else it is the same.

    Example:
        >>> from ntkcl_jax.config import BackboneConfig, ModelConfig
        >>> tiny = BackboneConfig(image_size=8, patch_size=4, dim=8, depth=2, heads=2)
        >>> net = Network(ModelConfig(backbone=tiny, adapter_rank=2, prompts=2), task_classes=2, classes=4)
        >>> trainable, frozen = net.init(jax.random.key(0))
        >>> twin, images = LinearNetwork.of(net), jnp.ones((1, 8, 8, 3))
        >>> same = jax.jit(twin.features)(trainable, expanded(frozen, trainable), images)
        >>> bool((same.hybrid == jax.jit(net.features)(trainable, frozen, images).hybrid).all())
        True
    """

    @classmethod
    def of(cls, network: Network) -> Self:
        """The twin of a network."""
        return cls(**{field.name: getattr(network, field.name) for field in fields(Network)})

    def features(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], key: Key | None = None
    ) -> Features:
        """The three views of images to first order; the same key drops the same units as in the network.

        Args:
            trainable: the trainable tree θ.
            frozen: backbone, running mean, prototypes, and the origin θ₀; see `expanded`.
            images: pixels in [0, 1].
            key: dropout key; None switches dropout off.

        Raises:
            ValueError: `frozen` has no origin.
        """
        origin = frozen.origin
        if origin is None:
            raise ValueError("a linearised network needs frozen.origin, the tree that it is expanded at; got None")
        # The proxy head isn't expanded: it is exact, and features don't depend on it
        head = {path: value for path, value in trainable.items() if path not in origin}
        step = {path: trainable[path] - value for path, value in origin.items()}

        def exact(at: Tree) -> Features:
            return super(LinearNetwork, self).features({**head, **at}, frozen, images, key)

        # Both come from one pass, so that the same key drops the same units in f and in J (θ - θ₀)
        values, changes = jax.jvp(exact, (origin,), (step,))
        return Features(*map(jnp.add, values, changes))


@dataclass(frozen=True)
class LinearNTKCL(NTKCL):
    """NTK-CL with a `LinearNetwork` in its network's place; the rest of the method is exact."""

    @classmethod
    def of_learner(cls, learner: NTKCL) -> Self:
        """The twin of a learner."""
        return cls(**{field.name: getattr(learner, field.name) for field in fields(NTKCL)})

    @property
    def network(self) -> LinearNetwork:
        """The linearised network."""
        return LinearNetwork.of(super().network)


@dataclass(frozen=True)
class DualNetwork(LinearNetwork):
    """The same network; its features also take a tangent, `DUAL` of the trainable tree, that doesn't change them."""

    def features(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], key: Key | None = None
    ) -> Features:
        """The three views; their derivative by `DUAL`, (b, 3, e), is the identity."""
        rows = trainable[DUAL]
        plain = super().features(trainable, frozen, images, key)
        nothing = rows - jax.lax.stop_gradient(rows)
        return Features(*(view + nothing[:, i] for i, view in enumerate(plain)))


@dataclass(frozen=True)
class DualNTKCL(LinearNTKCL):
    """The twin that also learns which image has made which part of its step: δ = Σ_j J(x_j)ᵀ α_j.

    α_j, (3, e) for the three views of image j, is a parameter like the others, the row j of `DUAL`. Features don't
    depend on its value, but their derivative by it is the identity: so its gradient is ∂ℓ/∂f_j, and what the optimizer
    makes of that, with its momentum, rates and decay, is what it makes of the image's part of the parameters' gradient.
    Labels have to come as `numbered` makes them.
    """

    @property
    def network(self) -> DualNetwork:
        """The network with a tangent."""
        return DualNetwork.of(super().network)

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b c"]]:
        """The twin's own loss, with the batch's rows of `DUAL`."""
        number, label = jnp.divmod(batch.labels, self.classes)
        return super().loss(
            {**trainable, DUAL: trainable[DUAL][number]}, frozen, task, batch._replace(labels=label), key
        )


def numbered(labels: Int[np.ndarray, "n"], classes: int) -> Int[np.ndarray, "n"]:
    """Labels that also say which image each one is of: number * classes + label.

    Raises:
        PlanError: more images than fit into the 32 bits of a label.

    Example:
        >>> numbered(np.array([1, 0, 1]), classes=2).tolist()
        [1, 2, 5]
    """
    if len(labels) * classes > np.iinfo(np.int32).max:
        raise PlanError(
            f"expected at most {np.iinfo(np.int32).max // classes} images in a task of a stream of {classes} classes; "
            f"got {len(labels)}"
        )
    return np.arange(len(labels)) * classes + labels


def expanded(frozen: Frozen, trainable: Tree) -> Frozen:
    """Frozen arrays for a `LinearNetwork` around `trainable`."""
    apart = (HEAD, DUAL)
    return frozen._replace(origin={path: value for path, value in trainable.items() if not path.startswith(apart)})


def fit_twin(
    learner: NTKCL,
    config: RunConfig,
    scenario: Scenario,
    state: LearnerState,
    epoch_batches: Callable[[int, int], Iterator[Batch]],
    *,
    task: int,
    seed: int,
    steps_in_epoch: int,
    on_steps: Callable[[int], None] = lambda steps: None,
    twin: type[LinearNTKCL] = LinearNTKCL,
) -> LearnerState:
    """Train the twin of a state on a task, by the steps that the run takes: batches, dropout, optimizer, objective.

    Args:
        learner: the run's NTK-CL.
        config: the run's configuration.
        scenario: class order and tasks.
        state: at the task's start, with its proxy head; the twin is expanded here.
        epoch_batches: (epoch, first step) -> the rest of the epoch's batches.
        task: its number, from 0.
        seed: the run's seed.
        steps_in_epoch: batches of an epoch.
        on_steps: receives the number of further steps that are done, every few steps.
        twin: which; a `DualNTKCL` needs `DUAL` in the state's trainable tree and `numbered` labels.

    Returns:
        The state with the twin's trained tree, and with the origin among its frozen arrays.

    Raises:
        NonFiniteError: a loss or parameter that isn't finite.
    """
    start = state._replace(frozen=expanded(state.frozen, state.trainable))
    trained = state.trainable
    for fitted in fit_task(
        twin.of_learner(learner),
        config,
        scenario,
        start,
        epoch_batches,
        task=task,
        seed=seed,
        steps_in_epoch=steps_in_epoch,
    ):
        on_steps(len(fitted.records))
        trained = fitted.state.trainable
    # The frozen arrays are the start's: the running mean moves with the task's end, which isn't part of training
    return start._replace(trainable=trained)


def step_of(trained: LearnerState) -> dict[str, Float[np.ndarray, "..."]]:
    """What training added to each parameter that features depend on: θ - θ₀ of a `fit_twin`, float64.

    Raises:
        ValueError: the state has no origin.
    """
    origin = trained.frozen.origin
    if origin is None:
        raise ValueError("expected the state of a linearised twin, which has an origin; got None")
    return {path: np.asarray(trained.trainable[path], np.float64) - np.asarray(at) for path, at in origin.items()}
