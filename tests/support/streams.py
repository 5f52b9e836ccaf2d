"""A run that takes a second: 8 x 8 pixels, two blocks, seven classes of noise in three tasks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ntkcl_jax.config import BackboneConfig, ComputeConfig, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Arrays
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.training.run import train

BY_CLOCK = ("time", "images_per_s", "images_per_s_per_device", "tflops", "mfu")

CLASSES = 7
PER_CLASS = 9
TASK_SIZES = [3, 2, 2]
BACKBONE = BackboneConfig(image_size=8, patch_size=4, dim=16, depth=2, heads=2)


def images(side: str, per_class: int = PER_CLASS, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """One random 12 x 12 pattern for each class, with noise: (n, 12, 12, 3) uint8, and labels."""
    patterns = np.random.default_rng(7).integers(0, 256, (classes, 12, 12, 3))
    labels = np.repeat(np.arange(classes), per_class)
    noise = np.random.default_rng([8, len(side)]).normal(0, 40, (len(labels), 12, 12, 3))
    return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels


def arrays(classes: int = CLASSES) -> Arrays:
    """Both sides: nine training and four test images of each class."""
    return Arrays(*images("train", classes=classes), *images("test", 4, classes))


def config(**changes: Any) -> RunConfig:
    """Tasks of 3, 2 and 2 classes, two epochs, an in-task checkpoint every three steps.

    Args:
        **changes: fields of `RunConfig`, or of its parts as `part__field`.
    """
    made = RunConfig(
        preset="digits",
        weights="random",
        data=DataConfig(source="arrays", first_task_classes=3, classes_per_task=2, resize=8, workers=1),
        model=ModelConfig(backbone=BACKBONE, adapter_rank=2, prompts=2, fusion_heads=2),
        optimizer=OptimizerConfig(learning_rate=0.05, batch_size=4, epochs=2),
        compute=ComputeConfig(eval_batch_size=16, checkpoint_every_steps=3),
    )
    whole = {name: value for name, value in changes.items() if "__" not in name}
    for part in {name.split("__")[0] for name in changes} - set(whole):
        fields = {name.split("__")[1]: value for name, value in changes.items() if name.startswith(f"{part}__")}
        whole[part] = replace(getattr(made, part), **fields)
    return replace(made, **whole)


def folder(path: Path, classes: int = CLASSES) -> Path:
    """The same images as PNG files in `path/train/<class>` and `path/test/<class>`."""
    for side, per_class in (("train", PER_CLASS), ("test", 4)):
        for i, (pixels, label) in enumerate(zip(*images(side, per_class, classes), strict=True)):
            file = path / side / f"class{label}" / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return path


def nearly_linear_run(path: Path, **changes: Any) -> Path:
    """A run whose first task moves the network far, and later ones with so small a rate that they stay linear."""
    made = config(
        data__source="folder",
        data__path=str(folder(path / "data")),
        optimizer__learning_rate=1.0,
        optimizer__later_learning_rate=0.1,
        **changes,
    )
    train(made, path / "run", quiet=True)
    return path / "run"


def words(data: Path, run_dir: Path, *more: str) -> list[str]:
    """`ntkcl train digits ...` with the options that make it `config()` on a folder of images."""
    options = {
        "weights": "random",
        "data.source": "folder",
        "data.path": data,
        "data.first-task-classes": 3,
        "data.resize": 8,
        "data.crop-scale": "0.05 1",
        "data.flip": "",
        "data.workers": 1,
        "model.backbone.image-size": 8,
        "model.backbone.dim": 16,
        "model.backbone.depth": 2,
        "model.adapter-rank": 2,
        "model.prompts": 2,
        "model.fusion-heads": 2,
        "optimizer.learning-rate": 0.05,
        "optimizer.batch-size": 4,
        "optimizer.epochs": 2,
        "compute.eval-batch-size": 16,
        "compute.checkpoint-every-steps": 3,
    }
    said = [word for name, value in options.items() for word in (f"--{name}", *str(value).split())]
    return ["train", "digits", "--run-dir", str(run_dir), *said, *more]


def states(run: Path) -> dict[str, np.ndarray]:
    """Every array that learners and readouts have stored, by its place."""
    found = {}
    for path in sorted((run / "checkpoints").glob("*/seed*/*/*")):
        for tree, values in checkpoint.load(path)[0].items():
            found |= {f"{path.relative_to(run)}:{tree}/{name}": value for name, value in values.items()}
    return found


def same_states(one: Path, other: Path) -> bool:
    """Whether two runs left the same checkpoints, bit for bit (NaN would equal itself)."""
    a, b = states(one), states(other)
    assert a
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def records(run: Path) -> list[dict[str, Any]]:
    """Lines of `metrics.jsonl` without what a clock puts into them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in BY_CLOCK} for line in lines]
