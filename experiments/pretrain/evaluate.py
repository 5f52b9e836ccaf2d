"""Measure a nano backbone: `python -m experiments.pretrain.evaluate FILE.safetensors [--omniglot ZIP]`.

Frozen features beside those of a random backbone and raw pixels, on image sets that the pre-training has not seen:
nearest class mean (cosine) and a linear probe (logistic regression on standardised features, scikit-learn). Three CPU-
minutes.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from experiments.pretrain.images import load_glyphs
from experiments.pretrain.train import as_pixels, backbone
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.data.glyphs import UNSEEN_FONTS, render_scripts
from ntkcl_jax.data.sources.digits import digits
from ntkcl_jax.data.strokes import SIDE
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.weights import load_backbone

Split = tuple[UInt8[np.ndarray, "n 28 28"], Int[np.ndarray, "n"], UInt8[np.ndarray, "m 28 28"], Int[np.ndarray, "m"]]
"""Training images and labels, test images and labels."""


def nearest_class_mean(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m d"],
    truth: Int[np.ndarray, "m"],
) -> float:
    """Accuracy in [0, 1] of choosing the class whose mean feature has the largest cosine.

    Example:
        >>> x, y = np.array([[1.0, 0.1], [0.1, 1.0]]), np.array([0, 1])
        >>> nearest_class_mean(x, y, 5 * x, y)
        1.0
    """
    means = np.stack([train[labels == c].mean(0) for c in range(labels.max() + 1)])
    # Test features keep their length, which doesn't change which class is nearest
    scores = test @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    return float((scores.argmax(1) == truth).mean())


def linear_probe(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m d"],
    truth: Int[np.ndarray, "m"],
) -> float:
    """Accuracy in [0, 1] of logistic regression on standardised features (L2 strength C = 0.1)."""
    from sklearn.linear_model import LogisticRegression

    # Features that never vary aren't divided by zero
    mean, deviation = train.mean(0), train.std(0) + 1e-3
    model = LogisticRegression(C=0.1, max_iter=300, tol=1e-3).fit((train - mean) / deviation, labels)
    return float(model.score((test - mean) / deviation, truth))


def small_digits() -> Split:
    """scikit-learn's 1,797 digits (8 x 8), enlarged to 20 x 20 on a 28 x 28 ground; every fifth is a test image."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.zeros((len(data.images), SIDE, SIDE), np.uint8)
    for image, small in zip(images, data.images, strict=True):
        grey = Image.fromarray(np.rint(small * 255 / 16).astype(np.uint8))
        image[4:24, 4:24] = np.asarray(grey.resize((20, 20), Image.Resampling.BICUBIC))
    test = np.arange(len(images)) % 5 == 0
    return images[~test], data.target[~test], images[test], data.target[test]


def omniglot(path: Path, centred: bool) -> Split:
    """Read a zip with `train/<class>/*.png` and `test/<class>/*.png`, made 28 x 28, light strokes on a dark ground.

    Args:
        path: the zip file.
        centred: cut out the ink and scale its longest side to 20 pixels, as MNIST's makers did, instead of shrinking
            the whole picture.
    """
    from PIL import Image

    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
            part, label = name.split("/")[-3:-1]
            with Image.open(io.BytesIO(archive.read(name))) as image:
                grey = image.convert("L")
            # Mostly light: dark strokes on paper, turned round
            if np.asarray(grey).mean() > 127:
                grey = grey.point(lambda v: 255 - v)
            small = Image.new("L", (SIDE, SIDE))
            ink = grey.crop(grey.getbbox()) if centred else grey
            longest = 20 if centred else SIDE
            size = [max(1, round(length * longest / max(ink.size))) for length in ink.size]
            ink = ink.resize((size[0], size[1]), Image.Resampling.BOX)
            small.paste(ink, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
            images[part].append(np.asarray(small))
            labels[part].append(label)
    index = {label: i for i, label in enumerate(sorted(set(labels["train"])))}
    numbers = {part: np.array([index[label] for label in labels[part]]) for part in labels}
    return np.stack(images["train"]), numbers["train"], np.stack(images["test"]), numbers["test"]


def unseen_fonts(classes: str) -> Split:
    """Pre-training characters: 20 images of each in the training fonts, 10 in two fonts that were kept out."""
    seen, unseen = load_glyphs(tuple(classes)), load_glyphs(tuple(classes), UNSEEN_FONTS)
    rng = np.random.default_rng(stream_seed(0, "pretrain", "unseen fonts"))
    # Classes that the fonts kept out have at all
    both = np.flatnonzero(unseen.count)
    parts = []
    for glyphs, count in ((seen, 20), (unseen, 10)):
        labels = np.repeat(np.arange(len(both)), count)
        # A random font of each class
        rows = glyphs.first[both[labels]] + rng.integers(0, glyphs.count[both[labels]])
        parts += [glyphs.draw(rows, rng, 1.0), labels]
    return parts[0], parts[1], parts[2], parts[3]


def table(weights: str, sets: dict[str, Split], seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracies in [0, 1]: image set -> features (pretrained, random, pixels) -> head.

    Args:
        weights: `nano` or a safetensors file.
        sets: the image sets, by name.
        seed: seed of the random backbone.

    Raises:
        WeightsError: the file can't be used.
    """
    config = BackboneConfig()
    random, features = backbone(config, seed)
    loaded = {n.removeprefix("backbone/"): v for n, v in load_backbone(weights, config)[0].items()}
    run = jax.jit(lambda params, x: features(params, x, None))

    def frozen(params: dict) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.concatenate(
            [np.asarray(run(params, as_pixels(x[i : i + 250]))) for i in range(0, len(x), 250)]
        )

    kinds = {"pretrained": frozen(loaded), "random": frozen(random), "pixels": lambda x: x.reshape(len(x), -1) / 255}
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name, (train, labels, test, truth) in sets.items():
        out[name] = {}
        for kind, extract in kinds.items():
            data = (extract(train), labels, extract(test), truth)
            heads = {"nearest_class_mean": nearest_class_mean, "linear_probe": linear_probe}
            out[name][kind] = {head: round(f(*data), 4) for head, f in heads.items()}
    return out


def main() -> None:
    """Print the table as JSON, and write it beside the weights."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrain.evaluate", description=__doc__)
    parser.add_argument("weights", help="'nano' or a safetensors file; FILE.json, if there, gets the figures")
    parser.add_argument("--omniglot", type=Path, help="zip of Omniglot characters, train/ and test/ folders")
    arguments = parser.parse_args()
    sets: dict[str, Split] = {"mnist-5k": digits()[:4], "digits-8x8": small_digits(), "scripts": render_scripts()[:4]}
    if arguments.omniglot:
        sets["omniglot-192"] = omniglot(arguments.omniglot, centred=False)
        sets["omniglot-192 centred"] = omniglot(arguments.omniglot, centred=True)
    facts = Path(arguments.weights).with_suffix(".json")
    about = json.loads(facts.read_text()) if facts.is_file() else {}
    if "classes" in about:
        sets["unseen fonts"] = unseen_fonts(about["classes"])
    figures = table(arguments.weights, sets)
    for name, rows in figures.items():
        cells = "  ".join(f"{kind} {r['nearest_class_mean']:.3f} / {r['linear_probe']:.3f}" for kind, r in rows.items())
        print(f"{name:21} {cells}")
    if about:
        about["accuracy"] = figures
        facts.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
