"""The loss terms once more, slowly: Python loops over valid rows in float64."""

import math

import numpy as np


def direction(x: np.ndarray) -> np.ndarray:
    length = math.sqrt(sum(float(v) ** 2 for v in x))
    return x / length if length > 0 else np.zeros_like(x)


def cross_entropy(logits: np.ndarray, targets: np.ndarray, valid: np.ndarray, classes: np.ndarray) -> float:
    losses = []
    for row, target in zip(logits[valid], targets[valid], strict=True):
        total = sum(math.exp(v) for v, used in zip(row, classes, strict=True) if used)
        losses.append(math.log(total) - row[target])
    return sum(losses) / max(len(losses), 1)


def dissimilarity(
    features: np.ndarray,
    labels: np.ndarray,
    old_features: np.ndarray,
    old_labels: np.ndarray,
    temperature: float,
    variant: str,
) -> float:
    """Every row that is given counts: the caller has left the padding out."""
    rows = [direction(x) for x in (*features, *old_features)]
    y = [*labels, *old_labels]
    n = len(rows)

    def s(i: int, j: int) -> float:
        return float(rows[i] @ rows[j]) / temperature

    def others(i: int) -> float:
        return math.log(sum(math.exp(s(i, j)) for j in range(n) if j != i))

    positives = [(i, j) for i in range(n) for j in range(n) if i != j and y[i] == y[j]]
    if not positives:
        return 0.0
    if variant == "reference":
        return math.log(sum(math.exp(s(i, j)) for i, j in positives)) - sum(others(i) for i in range(n)) / n
    losses = []
    for i in range(len(features)):
        mine = [j for a, j in positives if a == i]
        if mine:
            losses.append(-sum(s(i, j) - others(i) for j in mine) / len(mine))
    return sum(losses) / max(len(losses), 1)


def orthogonality(channel: np.ndarray, patch: np.ndarray, basis: np.ndarray, variant: str) -> float:
    total = 0.0
    for features in (channel, patch):
        for x in features:
            z = direction(x)
            along = [float(u @ z) for u in basis.T]
            if variant == "paper":
                total += sum(v**2 for v in along) / len(features)
            else:
                left = z - sum((v * u for v, u in zip(along, basis.T, strict=True)), np.zeros_like(z))
                total += left.sum()
    return total


def slope(f, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient by central differences."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        out[i] = (f(up) - f(down)) / (2 * step)
    return out
