"""The whole network, and its pure form.

`AdaptedViT` is the Flax module. Everything outside `models/` uses `Network`: functions of flat dictionaries, split by
what the numbers are for (`functional.py`).
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ntkcl_jax.config import ModelConfig
from ntkcl_jax.config.data import Normalize
from ntkcl_jax.models.adapters import Key, Streams
from ntkcl_jax.models.functional import Frozen, Tree, merged, path_of, rebuilt
from ntkcl_jax.models.fusion import Fusion
from ntkcl_jax.models.heads import PrototypeHead, ProxyHead
from ntkcl_jax.models.streams import channel_stream, patch_stream, shared_start
from ntkcl_jax.models.variables import Adaptation, Prototype, RunningMean
from ntkcl_jax.models.vit import ViT

OUTPUTS = ("scores", "proxy", "features")
"""What `Network.apply_fn` can give."""


class Features(NamedTuple):
    """The three views of a batch, each (b, sections * dim), sections in the order [pretrained?, mean, current].

    With one stream alone (`model.streams`) all three are its features.
    """

    channel: Float[Array, "b e"]
    patch: Float[Array, "b e"]
    hybrid: Float[Array, "b e"]


class AdaptedViT(nnx.Module):
    """Two adaptation streams on a frozen ViT, their fusion, a proxy head and a prototype head."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        task_classes: int,
        classes: int,
        dtype: Any,
        remat: bool,
        normalize: Normalize,
        rngs: nnx.Rngs,
    ) -> None:
        """Allocate the network for tasks of at most `task_classes` classes and a stream of `classes` classes."""
        self.config = config
        self.backbone = ViT(config.backbone, dtype=dtype, remat=remat, normalize=normalize, rngs=rngs)
        self.current = Streams(config, Adaptation, rngs)
        self.mean = Streams(config, RunningMean, rngs)
        self.fusion = Fusion(config, Adaptation, rngs)
        self.proxy = ProxyHead(task_classes, config.feature_dim, Adaptation, rngs)
        self.prototypes = PrototypeHead(config, classes, Prototype)

    def features(self, images: Float[Array, "b h w c"], key: Key | None = None) -> Features:
        """Channel, patch and hybrid features; with a key, dropout is on (in the frozen mean stream too)."""
        c, vit = self.config, self.backbone
        # Mean and current channel stream, fusion; the patch stream drops nothing
        keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
        start = shared_start(vit, images)
        sections = [channel_stream(vit, None, start)] if c.pretrained_view else []
        sets = (self.mean, self.current)
        channel, patch = [*sections], [*sections]
        if c.streams != "patch":
            channel += [channel_stream(vit, x, start, key) for x, key in zip(sets, keys[:2], strict=True)]
        if c.streams != "channel":
            patch += [patch_stream(vit, x, start, c.prompts, c.prompt_carry) for x in sets]
        if c.streams != "both":
            one = jnp.concatenate(channel if c.streams == "channel" else patch, axis=-1)
            return Features(one, one, one)
        joined = [jnp.concatenate(views, axis=-1) for views in (channel, patch)]
        return Features(*joined, self.fusion(*joined, keys[2]))


@dataclass(frozen=True)
class Network:
    """The network as pure functions; hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
        config: the architecture.
        task_classes: classes of the largest task (width of the proxy head).
        classes: classes of the whole stream (rows of the prototype head).
        dtype: arithmetic of the backbone and streams; `float64` (with `jax.enable_x64`) is there to check the others.
        remat: recompute block activations in the backward pass.
        normalize: what the backbone does to pixels in [0, 1] first.

    Example:
        >>> from ntkcl_jax.config import BackboneConfig
        >>> tiny = BackboneConfig(image_size=8, patch_size=4, dim=8, depth=2, heads=2)
        >>> net = Network(ModelConfig(backbone=tiny, adapter_rank=2, prompts=2), task_classes=2, classes=4)
        >>> trainable, frozen = net.init(jax.random.key(0))
        >>> jax.jit(net.apply_fn)(trainable, frozen, jnp.zeros((3, 8, 8, 3))).shape
        (3, 4)
    """

    config: ModelConfig
    task_classes: int
    classes: int
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    remat: bool = False
    normalize: Normalize = "none"

    @property
    def image_size(self) -> int:
        """Side of the network's input, pixels."""
        return self.config.backbone.image_size

    def build(self, key: Key) -> AdaptedViT:
        """Make the Flax module with fresh parameters."""
        return AdaptedViT(
            self.config,
            task_classes=self.task_classes,
            classes=self.classes,
            dtype=jnp.dtype(self.dtype),
            remat=self.remat,
            normalize=self.normalize,
            rngs=nnx.Rngs(params=key),
        )

    def abstract(self) -> list[tuple[tuple, nnx.Variable]]:
        """Every variable's path, type and shape, without computing any of them."""
        return list(_skeleton(self)[1])

    def init(self, key: Key, backbone: Tree | None = None) -> tuple[Tree, Frozen]:
        """Draw fresh parameters; the mean starts as a copy of the current streams.

        Args:
            key: a JAX random key.
            backbone: pre-trained weights; None draws random ones.

        Returns:
            The trainable tree, and what is frozen: the backbone, and the running mean and prototypes as buffers.
        """
        trees = _drawn(key, self, whole=backbone is None)
        trainable = trees["trainable"]
        means = [path_of(path) for path, variable in self.abstract() if type(variable) is RunningMean]
        mean = {path: jnp.array(trainable[path.replace("mean/", "current/", 1)]) for path in means}
        return trainable, Frozen(trees["backbone"] if backbone is None else backbone, mean | trees["prototypes"])

    def module(self, trainable: Tree, frozen: Frozen) -> AdaptedViT:
        """Put parameters back into the Flax module (cheap; works on tracers)."""
        return merged(*_skeleton(self), {**trainable, **frozen.backbone, **frozen.buffers})

    def backbone_fn(self, backbone: Tree, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Feature of the untouched backbone (float32) for images with pixels in [0, 1]."""
        return rebuilt(backbone, self.config.backbone, self.dtype, self.remat, self.normalize)(images)

    def features(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], key: Key | None = None
    ) -> Features:
        """The three views of images (pixels in [0, 1]); dropout is on only when a key is given."""
        return self.module(trainable, frozen).features(images, key)

    def apply_fn(
        self, trainable: Tree, frozen: Frozen, images: Float[Array, "b h w c"], output: str = "scores"
    ) -> Float[Array, "b k"]:
        """Evaluate the network without dropout; rows are independent of each other.

        Args:
            trainable: the trainable tree.
            frozen: backbone, running mean and prototypes.
            images: pixels in [0, 1].
            output: `scores` of the prototype head over all classes of the stream, logits of the `proxy` head over the
                task's own classes, or the hybrid `features` themselves.

        Returns:
            One row per image.

        Raises:
            ValueError: `output` is none of the three.
        """
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        hybrid = self.features(trainable, frozen, images).hybrid
        if output == "features":
            return hybrid
        module = self.module(trainable, frozen)
        return module.prototypes(hybrid) if output == "scores" else module.proxy(hybrid)


@functools.partial(jax.jit, static_argnames=("network", "whole"))
def _drawn(key: Key, network: Network, whole: bool) -> dict[str, Tree]:
    """Fresh values by kind, the backbone's too if `whole`; all seeds by one program, which draws what is returned."""
    kinds = {"trainable": Adaptation, "prototypes": Prototype} | ({"backbone": nnx.Param} if whole else {})
    leaves = nnx.to_flat_state(nnx.state(network.build(key)))
    # `is`: Adaptation is a kind of nnx.Param, which by itself means the backbone
    return {name: {path_of(p): v[...] for p, v in leaves if type(v) is kind} for name, kind in kinds.items()}


@functools.lru_cache(maxsize=16)
def _skeleton(network: Network) -> tuple[nnx.GraphDef, list[tuple[tuple, nnx.Variable]]]:
    """The module without values, and its variables; asked for at each tracing, and slow to make."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: network.build(jax.random.key(0))))
    return graph, list(nnx.to_flat_state(abstract))
