"""NTK-CL's network in PyTorch, written from docs/method.md and used by nothing but benchmarks.

`fused=False` is the network as its authors run it: four whole ViT passes (five with the pretrained view), each from the
pixels on, attention written out, separate query, key and value maps. `fused=True` is what a PyTorch programmer makes of
the same modules without taking the blocks apart: one patch embedding for all passes, one qkv map, fused attention, and
no graph for the passes in which nothing trains. Both have the `reference` forms.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntkcl_jax.config import BackboneConfig, ModelConfig, require

EPS = 1e-6


class Views(NamedTuple):
    """The three features of a batch, each (b, sections * dim)."""

    channel: Tensor
    patch: Tensor
    hybrid: Tensor


class Block(nn.Module):
    """A frozen transformer block, cut behind its attention."""

    def __init__(self, config: BackboneConfig, fused: bool) -> None:
        super().__init__()
        d, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.heads, self.fused = config.heads, fused
        self.norm1 = nn.LayerNorm(d, eps=EPS)
        if fused:
            self.qkv = nn.Linear(d, 3 * d)
        else:
            self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.proj = nn.Linear(d, d)
        self.norm2 = nn.LayerNorm(d, eps=EPS)
        self.fc1, self.fc2 = nn.Linear(d, hidden), nn.Linear(hidden, d)

    def attend(self, x: Tensor) -> Tensor:
        """`x + attention(norm1(x))`."""
        b, n, d = x.shape
        h, split = self.norm1(x), (b, n, self.heads, d // self.heads)
        if self.fused:
            q, k, v = (t.view(split).transpose(1, 2) for t in self.qkv(h).chunk(3, dim=-1))
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (f(h).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
            mixed = torch.softmax(q @ k.transpose(-2, -1) * split[-1] ** -0.5, dim=-1) @ v
        return x + self.proj(mixed.transpose(1, 2).reshape(b, n, d))

    def mlp(self, u: Tensor) -> Tensor:
        """`mlp(norm2(u))`, without the residual."""
        return self.fc2(F.gelu(self.fc1(self.norm2(u))))


class Backbone(nn.Module):
    """The vision transformer without a head."""

    def __init__(self, config: BackboneConfig, fused: bool) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(Block(config, fused) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens of images (b, c, h, w)."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(images), -1, -1).to(patches.dtype)
        return torch.cat([first, patches], dim=1) + self.positions


class Adapter(nn.Module):
    """The channel stream's bottleneck."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale, self.rate = config.adapter_scale, config.adapter_dropout
        self.down = nn.Linear(config.backbone.dim, config.adapter_rank)
        self.up = nn.Linear(config.adapter_rank, config.backbone.dim)
        for value in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(value)

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.up(F.dropout(F.relu(self.down(z)), self.rate, self.training))


class Prompts(nn.Module):
    """The patch stream's prompt generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_map = nn.Linear(config.backbone.tokens, config.prompts)
        self.norm_scale = nn.Parameter(torch.zeros(config.backbone.dim))
        self.norm_bias = nn.Parameter(torch.zeros(config.backbone.dim))
        nn.init.zeros_(self.token_map.weight)
        nn.init.zeros_(self.token_map.bias)

    def forward(self, rows: Tensor) -> Tensor:
        q = self.token_map(rows.transpose(1, 2)).transpose(1, 2)
        return F.layer_norm(q, q.shape[-1:], self.norm_scale.to(q.dtype), self.norm_bias.to(q.dtype), EPS)


class Streams(nn.Module):
    """One parameter set of both streams."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(config) for _ in range(config.backbone.depth))
        self.prompts = nn.ModuleList(Prompts(config) for _ in range(config.backbone.depth))


class Fusion(nn.Module):
    """Attention over a sequence of one, so its softmax is 1; written as an attention all the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e = config.feature_dim
        self.config = config
        self.query, self.key, self.value = nn.Linear(e, e), nn.Linear(e, e), nn.Linear(e, e)

    def forward(self, channel: Tensor, patch: Tensor) -> Tensor:
        c, (b, e) = self.config, channel.shape
        split = (b, c.fusion_heads, 1, e // c.fusion_heads)
        q, k, v = self.query(patch).view(split), self.key(channel).view(split), self.value(channel).view(split)
        weights = torch.softmax(q @ k.transpose(-2, -1) * split[-1] ** -0.5, dim=-1)
        mixed = (F.dropout(weights, c.fusion_dropout, self.training) @ v).reshape(b, e)
        return c.fusion_attention_scale * mixed + channel + c.fusion_patch_scale * patch


class Proxy(nn.Module):
    """Cosine classifier of one task."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter((2 * torch.rand(classes, features) - 1) * features**-0.5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x, dim=-1), F.normalize(self.kernel, dim=-1))


class PeerNetwork(nn.Module):
    """The whole network; `seen` classes have a row of prototypes, the current task's still zero."""

    def __init__(self, config: ModelConfig, *, task_classes: int, seen: int, fused: bool) -> None:
        super().__init__()
        forms = (config.fusion, config.initialisation, config.streams)
        require(forms == ("reference", "reference", "both"), f"the peer has the reference forms only, got {forms}")
        self.config, self.fused = config, fused
        self.backbone = Backbone(config.backbone, fused)
        self.mean, self.current = Streams(config), Streams(config)
        self.fusion = Fusion(config)
        self.proxy = Proxy(task_classes, config.feature_dim)
        prototypes = torch.randn(seen, config.feature_dim)
        prototypes[seen - task_classes :] = 0
        self.register_buffer("prototypes", prototypes)
        for part in (self.backbone, self.mean):
            part.requires_grad_(False)

    def channel_pass(self, x: Tensor, streams: Streams | None) -> Tensor:
        """Class feature of the channel stream from embedded tokens; of the untouched backbone without streams."""
        for i, block in enumerate(self.backbone.blocks):
            z = block.attend(x)
            x = block.mlp(z) + z
            if streams is not None:
                x = x + streams.adapters[i](z)
        return self.class_feature(x)

    def patch_pass(self, x: Tensor, streams: Streams) -> Tensor:
        """Class feature of the patch stream from embedded tokens."""
        m, carry = self.config.prompts, self.config.prompt_carry
        for i, block in enumerate(self.backbone.blocks):
            z = block.attend(x)
            # Without the prompt rows of the block before, which follow the class token
            base = z if i == 0 else torch.cat([z[:, :1], z[:, 1 + m :]], dim=1)
            new = streams.prompts[i](base)
            if i > 0:
                new = new + carry * z[:, 1 : 1 + m]
            out = block.mlp(torch.cat([base[:, :1], new, base[:, 1:]], dim=1))
            # The first block's prompts have no residual (docs/method.md, section 2)
            if i == 0:
                z = torch.cat([base[:, :1], torch.zeros_like(new), base[:, 1:]], dim=1)
            x = out + z
        return self.class_feature(x)

    def class_feature(self, x: Tensor) -> Tensor:
        """Final norm of the class row; without `fused` of all rows, as the release does."""
        return self.backbone.norm(x[:, 0]) if self.fused else self.backbone.norm(x)[:, 0]

    def forward(self, images: Tensor) -> Views:
        """The three features of images (b, c, h, w) with pixels in [0, 1]."""
        with torch.no_grad() if self.fused else contextlib.nullcontext():
            first = self.backbone.embed(images) if self.fused else None

            def start() -> Tensor:
                return self.backbone.embed(images) if first is None else first

            untouched = [self.channel_pass(start(), None)] if self.config.pretrained_view else []
            channel = [*untouched, self.channel_pass(start(), self.mean)]
            patch = [*untouched, self.patch_pass(start(), self.mean)]
        joined = [
            torch.cat([*channel, self.channel_pass(start(), self.current)], dim=-1),
            torch.cat([*patch, self.patch_pass(start(), self.current)], dim=-1),
        ]
        return Views(*joined, self.fusion(*joined))


def peer_arrays(tree: dict[str, Any], *, fused: bool, patch_size: int) -> dict[str, Tensor]:
    """Our flat arrays (parameters, or gradients of them) under the peer's names and in its layouts.

    Args:
        tree: paths of `ntkcl_jax.models.ntkcl` to arrays, without the prototypes.
        fused: as of the network.
        patch_size: side of a patch, pixels.
    """
    out: dict[str, np.ndarray] = {}
    for path, value in tree.items():
        array, name = np.asarray(value), path.replace("/", ".")
        if name == "backbone.patch_embed.kernel":
            # [patch · patch · c, d] to torch's [d, c, patch, patch]
            square = array.reshape(patch_size, patch_size, -1, array.shape[-1])
            out["backbone.patch_embed.weight"] = square.transpose(3, 2, 0, 1)
        elif ".qkv." in name and not fused:
            stem, last = name.split("qkv.")
            # torch's maps are [out, in]
            for part, piece in zip(("query", "key", "value"), np.split(array, 3, axis=-1), strict=True):
                out[f"{stem}{part}.{'weight' if last == 'kernel' else last}"] = piece.T
        elif name.endswith(".kernel") and not name.startswith("proxy."):
            out[f"{name.removesuffix('kernel')}weight"] = array.T
        elif name.startswith("backbone.") and name.endswith(".scale"):
            out[f"{name.removesuffix('scale')}weight"] = array
        else:
            out[name] = array
    # A copy: torch wants memory that it may write to
    return {name: torch.from_numpy(np.array(value)) for name, value in out.items()}
