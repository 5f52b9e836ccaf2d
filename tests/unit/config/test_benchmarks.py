"""The nine streams, each from generated files in its published layout: few tiny images, true classes and tasks."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS, WEIGHTS
from ntkcl_jax.config.presets import IN1K, PRESETS, preset
from ntkcl_jax.data import load_source, make_scenario
from ntkcl_jax.errors import DataError
from ntkcl_jax.terminal.preset_card import header
from ntkcl_jax.training.run import train
from ntkcl_jax.weights import save_backbone, shapes
from tests.support import streams as tiny

TASKS = {
    "cifar100": [10] * 10, "imagenet-r": [20] * 10, "imagenet-a": [20] * 10, "domainnet": [23] * 15,
    "pets": [7, 5, 5, 5, 5, 5, 5], "eurosat": [2] * 5, "plantvillage": [3] * 5, "vtab": [10] * 5, "kvasir": [2] * 4,
}  # fmt: skip
"""Classes in each task of the published settings (arXiv:2407.17120)."""


def picture(label: int, number: int, mode: str = "RGB") -> Image.Image:
    """A colour of the class, a little other in each image."""
    colour = np.random.default_rng(label).integers(20, 236, 3) + number
    return Image.fromarray(np.full((9, 11, 3), colour, np.uint8)).convert(mode)


def write(file: Path, label: int, number: int, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(label, number, mode).save(file, quality=95)


def cifar(path: Path) -> Path:
    path = path / "cifar-100-python"
    path.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 100)):
        labels = [i % 100 for i in range(count)]
        colours = np.random.default_rng(5).integers(0, 256, (100, 3, 1), np.uint8)
        pixels = np.repeat(colours[labels], 1024, axis=2).reshape(count, 3072)
        pixels[:, 0] = np.arange(count) // 100 + (100 if name == "test" else 0)
        part = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": labels}
        (path / name).write_bytes(pickle.dumps(part, protocol=2))
    meta = {b"fine_label_names": [f"class {i}".encode() for i in range(100)]}
    (path / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return path


def one_folder(classes: int, suffix: str, name: Callable[[int], str], mode: str = "RGB") -> Callable[[Path], Path]:
    """ImageNet-R and -A, EuroSAT, PlantVillage, Kvasir: a folder for each class, no split."""

    def made(path: Path) -> Path:
        for label in range(classes):
            for number in range(3):
                write(path / name(label) / f"{name(label)}_{number}{suffix}", label, number, mode if number else "RGB")
        (path / "README.txt").write_text("about these images")
        return path

    return made


def domainnet(path: Path) -> Path:
    for domain, at, classes in (("clipart", 0, 345), ("real", 3, 60)):
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for label in range(classes):
            for number, side in enumerate(("train", "test"), start=at):
                listed = f"{domain}/class_{label:03}/{domain}_{label:03}_{number:06}.png"
                write(path / listed, label, number)
                lines[side].append(f"{listed} {label}")
        for side, said in lines.items():
            (path / f"{domain}_{side}.txt").write_text("\n".join(said) + "\n")
    return path


def pets(path: Path) -> Path:
    (path / "annotations").mkdir(parents=True)
    (path / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")
    for side, numbers in (("trainval", (1, 2)), ("test", (100,))):
        lines = []
        for label in range(37):
            for number in numbers:
                write(path / "images" / f"Great_breed{label:02}_{number}.jpg", label, number % 50)
                lines.append(f"Great_breed{label:02}_{number} {label + 1} {1 + label % 2} {label // 2 + 1}")
        (path / "annotations" / f"{side}.txt").write_text("\n".join(lines) + "\n")
    return path


def vtab(path: Path) -> Path:
    for side, numbers in (("train", (0, 1)), ("test", (2,))):
        for label in range(50):
            for number in numbers:
                write(path / side / str(label) / f"{number}.jpg", label, number)
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "cifar100": cifar,
    "imagenet-r": one_folder(200, ".jpg", lambda i: f"n{i:08}"),
    "imagenet-a": one_folder(200, ".jpg", lambda i: f"n{i:08}"),
    "domainnet": domainnet,
    "pets": pets,
    "eurosat": one_folder(10, ".jpg", lambda i: f"Land{i}"),
    "plantvillage": one_folder(15, ".JPG", lambda i: f"Plant__leaf {i}"),
    "vtab": vtab,
    "kvasir": one_folder(8, ".jpg", lambda i: f"finding-{i}", "CMYK"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights: a run with `random` would compile the drawing of a whole network."""
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes(tiny.BACKBONE).items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_backbone(tree, tiny.BACKBONE, path)
    return str(path)


def config(name: str, data: Path, weights: str = "random") -> RunConfig:
    """The preset on a backbone of two blocks at 8 pixels."""
    made = preset(name, weights=weights, seeds=(1,), methods=("prototypes",))
    model = replace(made.model, backbone=tiny.BACKBONE, adapter_rank=2, prompts=2)
    data_config = replace(made.data, path=str(data), resize=9, workers=1)
    return replace(made, model=model, data=data_config, compute=replace(made.compute, eval_batch_size=64))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_stream_runs_from_its_published_layout_to_its_results(name: str, tmp_path: Path, weights: str) -> None:
    made = config(name, LAYOUTS[name](tmp_path / "data"), weights)
    results = train(made, tmp_path / "run", quiet=True)
    source = load_source(made.data)
    assert (source.split == "given") == (BENCHMARKS[name].split == "official")
    assert list(make_scenario(len(source.class_names), made.data, 1).task_sizes) == TASKS[name]
    assert len(results["task_names"]) == len(TASKS[name])
    assert 0 < results["summary"]["prototypes"]["final_accuracy"]["mean"] <= 1
    with pytest.raises(DataError, match=f"expected {sum(TASKS[name]) + 1} classes, found {sum(TASKS[name])}"):
        load_source(replace(made.data, classes=sum(TASKS[name]) + 1))


def test_class_names_come_from_where_each_layout_has_them(tmp_path: Path) -> None:
    names = {n: load_source(config(n, LAYOUTS[n](tmp_path / n)).data).class_names for n in ("pets", "eurosat")}
    assert names["pets"][3] == "Great_breed03"
    assert names["eurosat"] == tuple(f"Land{i}" for i in range(10))


def test_there_is_a_preset_for_each_benchmark_and_pretraining_with_its_numbers() -> None:
    cells = [(n, p) for n, p in PRESETS.items() if p.benchmark]
    assert len(cells) == len(BENCHMARKS) * len(WEIGHTS) == 18
    for name, cell in cells:
        made, published = preset(name), cell.published
        assert made.weights == WEIGHTS["in1k" if name.endswith(IN1K) else "in21k"]
        assert published is not None
        assert 0.5 < published.final < published.average < 1
        text = header(name)
        assert f"{100 * published.average:.2f} / {100 * published.final:.2f} %" in text
        assert f"ntkcl train {name} " in text and f"ntkcl verify {name} " in text
    frozen = {name: cell.published.frozen for name, cell in cells if cell.published and cell.published.frozen}
    assert frozen["imagenet-a-in1k"] == pytest.approx((0.492, 0.492))
    assert frozen["cifar100"] == pytest.approx((0.813, 0.837))
    assert len(frozen) == 6


def test_images_are_counted_so_that_every_class_of_every_stream_has_some() -> None:
    for name, benchmark in BENCHMARKS.items():
        train, test = benchmark.images
        assert min(train, test) >= 5 * benchmark.classes
        if benchmark.split == "seeded":
            assert test == pytest.approx((train + test) * preset(name).data.test_share, abs=1)


def test_a_run_says_its_split_and_its_copies_and_keeps_them(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture
) -> None:
    made = config("kvasir", LAYOUTS["kvasir"](tmp_path / "data"), weights)
    source = load_source(made.data)
    shutil.copy(source.train.names(0), source.test.names(2))
    train(made, tmp_path / "run")
    said = capsys.readouterr().err
    assert f"split     {source.split_sha256[:12]} (0.2 of each class by hash, seed 0)" in said
    assert f"warning: 1 test images are training images too, the first is {source.test.names(2)} = " in said
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["split"] == {"made": source.split, "sha256": source.split_sha256, "duplicates": 1}
    assert stored["preprocessing"]["resize"] == "shorter side to 9"
    assert stored["preprocessing"]["crop"] == "centre 8 x 8"


SETTINGS = """
cifar100      0.025 16 20 5e-4 0.03 no
imagenet-r    0.02  16 20 5e-3 0.2  no
imagenet-a    0.02  16 20 5e-3 0.2  no
domainnet     0.02  96 50 5e-3 0.2  no
pets          0.02  96  5 5e-3 0.2  yes
eurosat       1e-4  96  5 5e-3 0.2  yes
plantvillage  5e-3  96  5 5e-3 0.2  yes
vtab          0.03  96 45 5e-3 0.2  yes
kvasir        5e-3  96  5 5e-3 0.2  yes
"""
"""Learning rate, batch, epochs, weight decay, eta, pretrained view, as the authors' release sets them."""


@pytest.mark.parametrize("line", SETTINGS.strip().splitlines())
def test_a_preset_has_the_published_settings_for_both_weights(line: str) -> None:
    name, *numbers, view = line.split()
    for made in (preset(name), preset(name + IN1K)):
        optimizer = made.optimizer
        found = (optimizer.learning_rate, optimizer.batch_size, optimizer.epochs, optimizer.weight_decay)
        assert (*found, made.objective.lambda_dis) == tuple(map(float, numbers))
        assert made.model.pretrained_view == (view == "yes")
        assert made.seeds == (0, 1, 2, 3, 4)
        assert made.data.normalize == "none"
