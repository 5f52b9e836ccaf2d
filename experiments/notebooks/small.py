"""What the notebooks share: a few 8 x 8 digits, a small network, and one tiny run; all made in seconds, nothing stored.

Imported as `small`: scripts and Jupyter both look beside the notebook first.
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits

import ntkcl_jax as ntk
from ntkcl_jax.config import BackboneConfig, DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, RunConfig

SEED = 0
PIXELS = 64
GREYS = 16.0
"""Largest grey value of scikit-learn's digits."""


def digits(
    classes: Sequence[int], per_class: int, skip: int = 0
) -> tuple[Float[np.ndarray, "n 64"], Int[np.ndarray, "n"]]:
    """Real digits, float64 pixels in [0, 1], class after class in the order given, and their labels.

    scikit-learn's are in the order of their writers, so they are shuffled first.

    Args:
        classes: which digits.
        per_class: images of each, drawn with a fixed seed.
        skip: images of each to leave out before; those of another call, so that the two share none.
    """
    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    rows = np.concatenate([order[data.target[order] == c][skip : skip + per_class] for c in classes])
    return data.data[rows] / GREYS, data.target[rows]


def one_hot(labels: Int[np.ndarray, "n"], classes: Sequence[int]) -> Float[np.ndarray, "n k"]:
    """1 in the label's column, 0 elsewhere; a column for each of `classes`, in their order."""
    return (labels[:, None] == np.asarray(classes)).astype(np.float64)


def network(params: dict[str, Array], x: Float[Array, "n 64"]) -> Float[Array, "n k"]:
    """Two layers, tanh, each divided by the root of its inputs: the wider, the nearer to its tangent."""
    hidden = jnp.tanh(x @ params["hidden"])
    return hidden @ params["out"] / params["out"].shape[0] ** 0.5


def start(width: int, outputs: int) -> dict[str, np.ndarray]:
    """Random weights of the network, float64."""
    rng = np.random.default_rng([SEED, width])
    return {"hidden": rng.normal(size=(PIXELS, width)) / PIXELS**0.5, "out": rng.normal(size=(width, outputs))}


@functools.cache
def arrays() -> ntk.Arrays:
    """Images of the tiny run's stream: six digits, 24 training and 24 test images of each, 8 x 8 pixels."""
    sides = [digits(range(6), 24, skip) for skip in (0, 24)]
    (train, train_labels), (test, test_labels) = ((x.reshape(-1, 8, 8), labels) for x, labels in sides)
    return ntk.Arrays(train, train_labels, test, test_labels)


@functools.cache
def run(form: str, depth: int) -> Path:
    """Train NTK-CL on three tasks of two digits in a temporary folder, removed at exit; once for the same arguments.

    The backbone is random and as small as can be, so that this takes seconds: the run says whether theory and network
    agree, and nothing about how well NTK-CL learns.

    Args:
        form: `paper` or `reference`, of all parts of the method.
        depth: blocks of the backbone; prompts reach the scores from 2 on, 1 compiles quickest.
    """
    backbone = BackboneConfig(image_size=8, patch_size=4, dim=16, depth=depth, heads=2)
    config = RunConfig(
        preset="digits",
        weights="random",
        data=DataConfig(source="arrays", classes_per_task=2, resize=8, crop_scale=(0.6, 1.0), flip=False, workers=1),
        model=ModelConfig(backbone=backbone, adapter_rank=2, prompts=2, fusion_heads=2),
        objective=ObjectiveConfig(lambda_reg=0.1),
        optimizer=OptimizerConfig(learning_rate=0.05, batch_size=8, epochs=2),
        methods=("ntkcl",),
    )
    path = Path(_folder()) / f"{form}-{depth}"
    ntk.train(ntk.with_variants(config, all=form), path, arrays=arrays(), quiet=True)
    return path


def given_run() -> tuple[Path, ntk.Arrays | None]:
    """The run of the environment variable NTKCL_RUN, copied so that nothing in it changes, or else the tiny one.

    Returns:
        Its folder, and its images if the run doesn't know where they are.
    """
    named = os.environ.get("NTKCL_RUN")
    if not named:
        return run("paper", depth=1), arrays()
    path = Path(_folder()) / "given"
    if not path.exists():
        shutil.copytree(named, path)
    return path, None


@functools.cache
def _folder() -> str:
    path = tempfile.mkdtemp(prefix="ntkcl-notebooks-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
