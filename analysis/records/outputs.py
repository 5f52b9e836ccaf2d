"""The outputs that gaps and forecasts are about: prototype scores without what all classes share, and their targets.

f_c(x) = (s_c(x) - mean over classes of s(x)) / Σ_s m_s: how much nearer to class c than to the average class an image
is, as a difference of cosines. What all scores share decides nothing, but dominates kernels and squared errors.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from analysis.records.checkpoints import Records
from ntkcl_jax.methods.ntkcl import MEAN

Params = dict[str, Any]
"""Parameters by path: arrays of JAX or NumPy."""
ROUNDINGS = 8
"""Float32 roundings of an output that two of its values may differ by although nothing moved: against float64 a score
is off by 0.8 of them on the networks of the tests, by 1.2 on the shipped nano backbone; deep ones round more often."""


@dataclass(frozen=True)
class CentredScores:
    """The function of `centred_scores`; equal for all checkpoints of a run, its arrays are arguments.

    Attributes:
        scale: Σ_s m_s, the largest score that cosines can give.
    """

    scale: float

    def __call__(self, params: Params, images: Float[Array, "n h w c"], *, scores: Partial) -> Float[Array, "n k"]:
        """Evaluate; the running mean is taken from `params` where they have one."""
        mean = {path: value for path, value in params.items() if path.startswith(MEAN)}
        # The running mean is a buffer of the network, but an argument here: so Jacobians get columns for it
        if mean:
            frozen = scores.keywords["frozen"]
            frozen = frozen._replace(buffers=frozen.buffers | mean)
            scores = Partial(scores.func, **{**scores.keywords, "frozen": frozen})
        out = scores({path: value for path, value in params.items() if path not in mean}, images)
        # [n, k]; docs/theory.md, section 7, has the definition
        return (out - out.mean(axis=1, keepdims=True)) / self.scale


def centred_scores(
    records: Records,
    seed: int,
    checkpoint: int,
    *,
    with_mean: bool = False,
    dtype: Literal["float32", "float64"] = "float32",
) -> tuple[Partial, Params]:
    """Make the centred scores of a checkpoint, and the parameters to differentiate them by; see `Records.function`.

    Args:
        records: the run.
        seed: one of its seeds.
        checkpoint: 0 before task 0, t + 1 after task t.
        with_mean: count the running mean among the parameters. It doesn't train, but it moves when a task ends, and
            the scores with it.
        dtype: arithmetic.

    Returns:
        apply_fn(params, images) -> (n, k), k classes learnt so far, and params.

    Raises:
        RecordError: no such seed or checkpoint, or a damaged one.
    """
    scores, params = records.function(seed, checkpoint, "scores", dtype)
    frozen, weights = scores.keywords["frozen"], records.run.config.model.section_weights
    # Scores are scale times Σ_s m_s cos (docs/method.md, section 2); both are divided out
    scale = float(frozen.buffers["prototypes/scale"][0]) * sum(weights)
    means = {path: value for path, value in frozen.buffers.items() if path.startswith(MEAN)} if with_mean else {}
    return Partial(CentredScores(scale), scores=scores), {**params, **means}


def mean_step(before: Params, step: Params, task: int, *, last: bool) -> Params:
    """The running mean's own step, when task `task` moves the parameters by `step` (docs/method.md, section 5).

    mean <- task/(task + 1) mean + 1/(task + 1) (current + step), except after the last task.

    Args:
        before: parameters of `centred_scores(..., with_mean=True)` at the task's start.
        step: what training adds to each parameter but the mean.
        task: its number, from 0.
        last: whether no task follows; the mean then stays.

    Returns:
        `step` with the mean's paths added: a step for `Linearized.change`.

    Example:
        >>> at = {"current/w": np.array([1.0]), "mean/w": np.array([3.0])}
        >>> moved = mean_step(at, {"current/w": np.array([1.0])}, task=1, last=False)
        >>> moved["mean/w"].tolist(), moved["current/w"].tolist()
        ([-0.5], [1.0])
    """
    moved = dict(step)
    for path in (path for path in before if path.startswith(MEAN)):
        current = path.replace(MEAN, "current/", 1)
        start, mean = (np.asarray(before[name], np.float64) for name in (current, path))
        # New minus old mean: t/(t + 1) m + c/(t + 1) - m = (c - m)/(t + 1), c = start + step
        moved[path] = np.zeros_like(mean) if last else (start + np.asarray(step[current]) - mean) / (task + 1)
    return moved


def targets(labels: Int[np.ndarray, "n"], classes: int) -> Float[np.ndarray, "n k"]:
    """One-hot rows minus 1/k: what centred scores would be if classes were orthogonal and every image at its prototype.

    Example:
        >>> targets(np.array([1]), 2).tolist()
        [[-0.5, 0.5]]
    """
    return np.eye(classes)[labels] - 1 / classes


def half_squared(outputs: Float[np.ndarray, "n k"], wanted: Float[np.ndarray, "n k"]) -> float:
    """(1/2n) Σ ‖y - f‖²: the loss of gaps and forecasts.

    Example:
        >>> half_squared(np.zeros((1, 2)), np.array([[-0.5, 0.5]]))
        0.25
    """
    return float(0.5 * np.square(wanted - outputs).sum(axis=1).mean())


def root_mean_square(drift: Float[np.ndarray, "n k"]) -> float:
    """Root of the mean over images of the drift's squared length.

    Example:
        >>> root_mean_square(np.array([[3.0, 4.0], [0.0, 5.0]]))
        5.0
    """
    return float(np.sqrt(np.square(drift).sum(axis=1).mean()))


def drift_floor(outputs: int, largest: float = 1.0) -> float:
    """Size (`root_mean_square`) up to which a drift of float32 outputs may be their rounding and nothing else.

    Args:
        outputs: k.
        largest: size of an output before what all outputs share is taken out; that of a centred score is 1 at most, a
            cosine.

    Example:
        >>> drift_floor(4) == 8 * 2.0**-23 * 2
        True
    """
    return ROUNDINGS * float(np.finfo(np.float32).eps) * largest * outputs**0.5


def right(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Whether each image's own class has the largest output.

    Example:
        >>> right(np.array([[0.1, 0.3], [0.2, 0.0]]), np.array([1, 1])).tolist()
        [True, False]
    """
    return outputs.argmax(axis=1) == labels


def difference(after: Params, before: Params) -> Params:
    """Parameters after minus before, float64, for the paths of `before`."""
    return {path: np.asarray(after[path], np.float64) - np.asarray(value, np.float64) for path, value in before.items()}
