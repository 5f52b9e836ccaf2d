"""The training objective of one task (docs/method.md, section 3).

`L = CE(channel) + CE(patch) + CE(hybrid) + η L_dis + υ L_orth + λ L_reg`. `reference` forms repeat the authors'
release; `paper` forms do what their names say. Every sum over images takes a mask, so a padded batch has the loss of
its valid rows alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ntkcl_jax.config import Variant
from ntkcl_jax.models.functional import Tree
from ntkcl_jax.models.heads import unit
from ntkcl_jax.models.ntkcl import Features

TERMS = ("ce_channel", "ce_patch", "ce_hybrid", "dissimilarity", "orthogonality", "regularization")
"""Names of the unweighted loss terms, in the order they are added up."""


class OldRows(NamedTuple):
    """Old prototypes that enter L_dis as extra rows."""

    features: Float[Array, "m e"]
    labels: Int[Array, "m"]
    valid: Bool[Array, "m"]


def cross_entropy(
    logits: Float[Array, "b n"], targets: Int[Array, "b"], valid: Bool[Array, "b"], classes: Bool[Array, "n"]
) -> Float[Array, ""]:
    """Mean cross-entropy of the valid rows over the classes that the task has."""
    # A task smaller than the largest leaves columns of the proxy head unused
    masked = jnp.where(classes, logits, -jnp.inf)
    # A padded row's target may be masked: its loss must be finite before it is multiplied by zero.
    log_p = jnp.take_along_axis(jax.nn.log_softmax(masked), jnp.where(valid, targets, 0)[:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(valid, log_p, 0.0)) / jnp.maximum(valid.sum(), 1)


def _masked_logsumexp(s: Float[Array, "*a n"], keep: Bool[Array, "*a n"]) -> Float[Array, "*a"]:
    """Log of the sum of exp over kept entries; 0 with a zero gradient where nothing is kept."""
    some = keep.any(axis=-1, keepdims=True)
    # A row that keeps nothing gets zeros first: a logsumexp of -inf alone has a NaN gradient, used or not
    safe = jnp.where(keep, s, jnp.where(some, -jnp.inf, 0.0))
    return jnp.where(some[..., 0], jax.nn.logsumexp(safe, axis=-1), 0.0)


def dissimilarity(
    features: Float[Array, "b e"],
    labels: Int[Array, "b"],
    valid: Bool[Array, "b"],
    old: OldRows,
    temperature: float,
    variant: Variant,
) -> Float[Array, ""]:
    """Task-feature dissimilarity L_dis of hybrid features and old prototypes.

    With s_ij the cosine of rows i and j over the temperature, and all rows = batch + old prototypes:
    `paper`: mean over the batch's rows i that have a positive of `-mean_{j positive of i} log softmax_{j != i}(s_i)_j`
    (supervised contrastive, Khosla et al., arXiv:2004.11362, old prototypes among the negatives).
    `reference`: `log sum_{all positive pairs} exp(s_ij) - mean_i log sum_{j != i} exp(s_ij)`, which is minus a
    contrastive loss with one log over all pairs: minimising it *lowers* same-class similarity.

    Args:
        features: hybrid features of the batch.
        labels: their class in the stream's numbering.
        valid: rows that aren't padding.
        old: old prototypes; they get no gradient.
        temperature: divisor of the cosines.
        variant: which form.

    Returns:
        The loss; 0 with a zero gradient where no pair of rows shares a class.
    """
    # [n, e] with n = b + m: the batch, then the old prototypes
    rows = unit(jnp.concatenate([features, jax.lax.stop_gradient(old.features)]))
    y = jnp.concatenate([labels, old.labels])
    keep = jnp.concatenate([valid, old.valid])
    n = rows.shape[0]
    s = rows @ rows.T / temperature  # [n, n]
    # Neither padding nor a row with itself
    pair = keep[:, None] & keep[None, :] & ~jnp.eye(n, dtype=bool)
    positive = pair & (y[:, None] == y[None, :])
    log_all = _masked_logsumexp(s, pair)  # [n], 0 in rows that don't count
    if variant == "reference":
        value = _masked_logsumexp(s.ravel(), positive.ravel()) - log_all.sum() / jnp.maximum(keep.sum(), 1)
        # Without a positive pair the second half alone would remain
        return jnp.where(positive.any(), value, 0.0)
    # Only the batch's own rows are anchors: an old prototype is something to keep away from
    b = features.shape[0]
    count = positive[:b].sum(axis=1)
    mean_positive = jnp.sum(jnp.where(positive[:b], s[:b], 0.0), axis=1) / jnp.maximum(count, 1)
    anchors = count > 0
    return jnp.sum(jnp.where(anchors, log_all[:b] - mean_positive, 0.0)) / jnp.maximum(anchors.sum(), 1)


def orthogonality_basis(prototypes: np.ndarray, old: int, allocated: int, rank: int, variant: Variant) -> np.ndarray:
    """Directions that old prototypes span, computed once per task on the host.

    Args:
        prototypes: (classes, e) rows of the prototype head in class order.
        old: rows that hold a prototype.
        allocated: rows of the classes seen including the task at hand; `reference` includes its still-zero rows.
        rank: largest number k of directions.
        variant: `paper` keeps true directions only (zero columns beyond the rank of the old prototypes); `reference`
            takes the first k left singular vectors whatever the rank, completed arbitrarily as the release does.

    Returns:
        (e, k) float32 with k = min(rank, e); task 0 gives zeros (`paper`) or the first k unit vectors (`reference`).
    """
    e = prototypes.shape[1]
    k = min(rank, e)
    rows = np.asarray(prototypes[: old if variant == "paper" else allocated], np.float64)
    # At length one: how long a prototype is mustn't decide which directions come first
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if variant == "reference":
        # all e left vectors, of the arbitrary ones too, but never a (classes, classes) matrix of right ones
        u, _, _ = np.linalg.svd(rows.T.astype(np.float32), full_matrices=len(rows) < e)
        return np.asarray(u[:, :k], np.float32)
    basis = np.zeros((e, k))
    if old:
        u, values, _ = np.linalg.svd(rows.T, full_matrices=False)
        # Those above rounding: prototypes may span fewer directions than their number
        true = min(k, int((values > values[0] * 1e-6).sum()))
        basis[:, :true] = u[:, :true]
    return basis.astype(np.float32)


def orthogonality(
    features: Features, valid: Bool[Array, "b"], basis: Float[Array, "e k"], variant: Variant
) -> Float[Array, ""]:
    """Task-feature orthogonality L_orth of channel and patch features.

    `paper`: mean over the batch of `||U^T ẑ||^2`, summed over the two streams (ẑ is the feature at length one).
    `reference`: sum over the batch of all entries of `ẑ - U U^T ẑ`, signed: `<ẑ, 1 - U U^T 1>`.
    """
    weight = valid.astype(jnp.float32)
    total = jnp.zeros(())
    for z in (unit(features.channel), unit(features.patch)):
        if variant == "paper":
            total += jnp.sum(weight * jnp.sum((z @ basis) ** 2, axis=1)) / jnp.maximum(weight.sum(), 1)
        else:
            # As an inner product with one vector: (b, e) residuals are never made
            total += jnp.sum(weight * (z @ (1.0 - basis @ basis.sum(axis=0))))
    return total


def is_regularized(path: str, variant: Variant) -> bool:
    """Tell whether L_reg pulls the variable to its anchor: weights of streams and fusion, never biases or heads.

    Example:
        >>> is_regularized("current/adapters/0/up/kernel", "paper"), is_regularized("proxy/kernel", "paper")
        (True, False)
    """
    if not path.startswith(("current/", "fusion/")):
        return False
    return path.endswith("/kernel") or (variant == "reference" and path.endswith("/norm_scale"))


def regularization(trainable: Tree, anchor: Tree, variant: Variant) -> Float[Array, ""]:
    """Squared distance of the regularized parameters to the anchor, `sum ||p - p_anchor||^2`."""
    return sum(
        # Sorted: a sum of floats depends on its order
        (jnp.sum((trainable[p] - anchor[p]) ** 2) for p in sorted(trainable) if is_regularized(p, variant)),
        jnp.zeros(()),
    )
