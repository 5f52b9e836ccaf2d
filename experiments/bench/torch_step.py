"""The programs that are timed, in PyTorch: one training step, one batch of evaluation, one batch of prototypes.

`released` repeats how the authors' release computes them (docs/method.md, section 2): float32, eager, a full
SVD of the prototypes in every training and evaluation step, terms checked on the host. Otherwise: the SVD's direction
once per task, terms that stay on the device, a fused optimizer, bfloat16 by autocast with the frozen maps stored in it,
and `torch.compile` over network and losses.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.bench.torch_net import PeerNetwork, Views
from ntkcl_jax.config import ObjectiveConfig, OptimizerConfig


@dataclass(frozen=True)
class Task:
    """A batch and what its task brings."""

    images: Tensor
    """(b, c, h, w) float32, pixels in [0, 1]."""
    labels: Tensor
    """(b,) classes in the stream's numbering."""
    offset: int
    """The task's first class."""
    old: int
    """Rows of prototypes that may enter L_dis."""
    anchor: dict[str, Tensor] | None = None
    """What L_reg pulls to; None takes the parameters as they are at the start."""


def is_regularized(name: str) -> bool:
    """Weights of the current streams and the fusion, scales of the prompts' norms; no bias, no head."""
    return name.startswith(("current.", "fusion.")) and name.endswith((".weight", ".norm_scale"))


def svd_basis(prototypes: Tensor, rank: int) -> Tensor:
    """First left singular vectors (e, rank) of the normalised prototypes, from the full SVD as the release takes it."""
    u, _, _ = torch.linalg.svd(F.normalize(prototypes.T, dim=0), full_matrices=True)
    return u[:, :rank]


def dissimilarity(hybrid: Tensor, labels: Tensor, old: Tensor, old_labels: Tensor, temperature: float) -> Tensor:
    """L_dis in the `reference` form; not finite where no pair shares a class."""
    rows = F.normalize(torch.cat([hybrid, old]), dim=-1)
    y = torch.cat([labels, old_labels])
    s = rows @ rows.T / temperature
    # A row is no pair with itself, neither a positive one nor among the others
    self_pair = torch.eye(len(y), dtype=torch.bool, device=s.device)
    positive = (y[:, None] == y[None, :]) & ~self_pair
    others = s.masked_fill(self_pair, -math.inf).logsumexp(dim=1)
    return s.masked_fill(~positive, -math.inf).flatten().logsumexp(dim=0) - others.mean()


class Program:
    """The three programs on one network and batch.

    Args:
        net: the network, on its device.
        task: batch and task.
        objective: weights of the loss terms.
        optimizer: SGD's settings.
        rate: learning rate.
        bfloat16: autocast to bfloat16; the frozen maps of `net` are turned into it.
        compiler: `torch.compile` with its settings; None runs eagerly.
    """

    def __init__(
        self,
        net: PeerNetwork,
        task: Task,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        rate: float,
        *,
        bfloat16: bool = False,
        compiler: Callable[[Any], Any] | None = None,
    ) -> None:
        self.net, self.task, self.objective, self.settings = net, task, objective, optimizer
        self.released, self.bfloat16 = not net.fused, bfloat16
        self.trainable = {name: value for name, value in net.named_parameters() if value.requires_grad}
        # A copy, since the parameters move on
        anchor = task.anchor or {name: value.detach().clone() for name, value in self.trainable.items()}
        self.pulled = [(value, anchor[name]) for name, value in self.trainable.items() if is_regularized(name)]
        if bfloat16:
            # Maps only: autocast computes norms in float32
            for module in net.backbone.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    module.to(torch.bfloat16)
        self.sgd = torch.optim.SGD(
            self.trainable.values(),
            lr=rate,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            fused=None if self.released else True,
        )
        self.direction = (
            None if self.released else self.leftover(svd_basis(net.prototypes, objective.orthogonality_rank))
        )
        wrap = compiler or (lambda function: function)
        self.terms, self.scores = wrap(self._terms), wrap(self._scores)
        self.sums = wrap(self._sums)

    @staticmethod
    def leftover(basis: Tensor) -> Tensor:
        """`1 - U Uᵀ 1`: the signed sum of a residual is the product with this."""
        return 1 - basis @ basis.sum(dim=0)

    def autocast(self) -> Any:
        """bfloat16 arithmetic where it was asked for."""
        kind = self.task.images.device.type
        return torch.autocast(kind, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def views(self) -> Views:
        """Features in float32."""
        with self.autocast():
            views = self.net(self.task.images)
        return Views(*(x.float() for x in views))

    def orthogonality(self, views: Views) -> Tensor:
        """L_orth in the `reference` form."""
        channel, patch = F.normalize(views.channel, dim=-1), F.normalize(views.patch, dim=-1)
        if self.direction is not None:
            return ((channel + patch) @ self.direction).sum()
        basis = svd_basis(self.net.prototypes, self.objective.orthogonality_rank)
        return sum((z - z @ basis @ basis.T).sum() for z in (channel, patch))

    def _terms(self, old: Tensor, old_labels: Tensor) -> Tensor:
        """The six unweighted terms, in the order of `ntkcl_jax.methods.ntkcl_objective.TERMS`."""
        views = self.views()
        targets = self.task.labels - self.task.offset
        terms = [F.cross_entropy(self.net.proxy(x), targets) for x in views]
        terms.append(dissimilarity(views.hybrid, self.task.labels, old, old_labels, self.objective.temperature))
        terms.append(self.orthogonality(views))
        terms.append(sum(((value - anchor) ** 2).sum() for value, anchor in self.pulled))
        if self.released:  # zeroes what isn't finite, looking at it on the host
            terms[3:] = [x if math.isfinite(x.item()) else torch.zeros_like(x) for x in terms[3:]]
        else:
            terms[3:] = [torch.where(torch.isfinite(x), x, 0.0) for x in terms[3:]]
        return torch.stack(terms)

    def backward(self) -> Tensor:
        """Draw old prototypes, compute the terms, and leave the gradient of their weighted sum on the parameters."""
        o, device = self.objective, self.task.images.device
        # As many old prototypes as images, drawn without repetition
        chosen = torch.randperm(self.task.old, device=device)[: self.settings.batch_size]
        self.sgd.zero_grad(set_to_none=True)
        terms = self.terms(self.net.prototypes[chosen], chosen)
        weights = torch.tensor([1.0, 1.0, 1.0, o.lambda_dis, o.lambda_orth, o.lambda_reg]).to(device, non_blocking=True)
        (weights @ terms).backward()
        return terms.detach()

    def training_step(self) -> Tensor:
        """One update; returns the terms."""
        self.net.train()
        terms = self.backward()
        self.sgd.step()
        return terms

    def _scores(self) -> Tensor:
        c, views = self.net.config, self.views()
        if self.released:
            svd_basis(self.net.prototypes, self.objective.orthogonality_rank)  # its result goes unused there, too
        split = (-1, c.sections, c.backbone.dim)
        weights = torch.tensor(c.section_weights, device=views.hybrid.device)
        features = F.normalize(views.hybrid.view(split), dim=-1) * weights[:, None]
        rows = F.normalize(self.net.prototypes.view(split), dim=-1)
        return features.flatten(1) @ rows.flatten(1).T

    def _sums(self) -> Tensor:
        views = self.views()
        classes = len(self.net.proxy.kernel)
        zeros = torch.zeros(classes, views.hybrid.shape[1], device=views.hybrid.device)
        return zeros.index_add(0, self.task.labels - self.task.offset, views.hybrid)

    @torch.no_grad()
    def evaluation_step(self) -> Tensor:
        """The five best classes of each image."""
        self.net.eval()
        scores = self.scores()
        return scores.topk(min(5, scores.shape[1])).indices

    @torch.no_grad()
    def prototype_step(self) -> Tensor:
        """Sums of hybrid features by class, on the host."""
        self.net.eval()
        return self.sums().cpu()
