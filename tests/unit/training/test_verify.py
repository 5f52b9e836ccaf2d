"""`ntkcl verify` passes what is right and finds wrong weights, pixels, splits and copies, without training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntkcl_jax import cli
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.config.data import NORMALIZATIONS, DataConfig, Normalize
from ntkcl_jax.config.presets import preset
from ntkcl_jax.data.transforms import preprocessing
from ntkcl_jax.models.vit import ViT
from ntkcl_jax.readouts.base import Lesson, make_readout
from ntkcl_jax.readouts.left_out import best_of
from ntkcl_jax.readouts.prototypes import Prototypes
from ntkcl_jax.runs.context import make_context
from ntkcl_jax.runs.folder import with_defaults
from ntkcl_jax.terminal.options import Verify
from ntkcl_jax.training.readout_run import Mapped, features_of
from ntkcl_jax.training.verify import Pass, nearest_mean_accuracy
from ntkcl_jax.training.verify_report import first_classes
from ntkcl_jax.weights import save_backbone, shapes
from tests.support import streams as tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes(tiny.BACKBONE).items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_backbone(tree, tiny.BACKBONE, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "data")


@pytest.fixture
def said(capsys: pytest.CaptureFixture):
    """Run `ntkcl verify`; gives the exit code, what was printed and what was complained."""

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.NTKCL.run(["verify", *map(str, words), "--quiet"])
        return (code, *capsys.readouterr())

    return run


def found(said, *words: object) -> tuple[int, dict]:
    code, out, _ = said(*words, "--json")
    return code, json.loads(out)


def test_the_accuracy_is_that_of_the_prototypes_baseline() -> None:
    rng = np.random.default_rng(1)
    labels, test_labels = np.repeat(np.arange(4), 5), np.repeat(np.arange(4), 3)
    centres = rng.normal(size=(4, 6))
    train, test = ((centres[y] + rng.normal(size=(len(y), 6))).astype(np.float32) for y in (labels, test_labels))
    readout = Prototypes(width=6, classes=4, seed=0)
    learnt = readout.learn(readout.init(), Lesson(0, train[:, None], labels, 4, lambda: (train, labels)))
    expected = np.mean(readout.scores(learnt, test, 4).argmax(1) == test_labels)
    assert 0.3 < expected < 1
    assert nearest_mean_accuracy(Pass(train, []), labels, Pass(test, []), test_labels) == expected


def test_what_is_right_passes_and_says_everything_that_can_be_compared(said, weights: Path, data: Path) -> None:
    code, first = found(said, "--weights", weights, "--data", data, "--compare")
    assert first["expected"] is None and first["first_task"] is None
    accuracy = first["accuracy"]
    code, out, error = said("--weights", weights, "--data", data, "--expect", accuracy)
    assert (code, error) == (0, "")
    assert out.splitlines()[-1] == "PASS"
    for part in (
        "tiny.safetensors, dim 16, depth 2, heads 1",
        first["weights"]["sha256"],
        first["data"]["sha256"],
        first["split"]["sha256"],
        first["preprocessing"]["id"],
        "train          63 images; of a class 9 / 9 / 9",
        "test           28 images; of a class 4 / 4 / 4",
        "duplicates     0 test images",
        f"nearest mean   {100 * accuracy:.1f} %, expected {100 * accuracy:.1f} % ± 0.5",
    ):
        assert part in out


def test_another_accuracy_than_expected_fails_and_normalisations_are_compared(said, weights: Path, data: Path) -> None:
    code, low = found(said, "--weights", weights, "--data", data, "--expect", 1, "--tolerance", 0)
    assert low["accuracy"] < 1
    assert code == 1
    assert set(low["normalisations"]) == set(NORMALIZATIONS)
    assert low["normalisations"]["none"] == low["accuracy"]  # so few images that all of them are tried
    assert "is below the expected 100.0 % ± 0.0: another weights file, split or transform?" in low["failures"][0]
    code, high = found(said, "--weights", weights, "--data", data, "--expect", 0)
    assert (code, high["normalisations"]) == (1, {})
    assert "is above the expected 0.0 % ± 0.5: an easier split" in high["failures"][0]


def test_a_swapped_normalisation_is_named(said) -> None:
    """The shipped backbone knows its own pixels: ten points less with ImageNet's mean and deviation."""
    words = ("digits", "--normalize", "imagenet", "--images-per-class", 10, "--first-task", 0)
    code, wrong = found(said, *words)
    assert code == 1
    assert wrong["normalisations"]["none"] > wrong["normalisations"]["imagenet"] + 0.1
    assert "these weights were trained with normalize none" in wrong["failures"][0]
    assert found(said, *words[:1], *words[3:])[0] == 0


def test_copies_of_training_images_fail_unless_they_are_allowed(said, weights: Path, data: Path) -> None:
    shutil.copy(data / "train" / "class3" / "027.png", data / "test" / "class3" / "copy.png")
    shutil.copy(data / "train" / "class3" / "027.png", data / "train" / "class5" / "copy.png")
    words = ("--weights", weights, "--data", data)
    code, out, _ = said(*words)
    assert code == 1
    assert "FAIL           1 test images are training images too, the first is" in out
    assert "class3/copy.png" in out and "train/class3/027.png" in out
    assert "2 training images have a copy with another label" in out
    assert said(*words, "--max-duplicates", 1)[0] == 0


def test_readouts_are_compared_on_the_first_tasks_images(said, weights: Path, data: Path) -> None:
    """The figures are those of the readouts on features of a run, the least dear first."""
    words = ("--weights", weights, "--data", data)
    code, first = found(said, *words, "--first-task", 3)
    compared = first["first_task"]
    assert (code, compared["classes"], compared["images"]) == (0, 3, 27)
    assert list(compared["methods"]) == ["frozen/ridge", "frozen/random-ridge", "frozen/multilevel"]
    # A file doesn't say how many heads its backbone has, and images are resized to 8/7 of its own size
    shape, images = replace(tiny.BACKBONE, heads=1), {"data__source": "folder", "data__path": str(data)}
    config = tiny.config(weights=str(weights), model__backbone=shape, data__resize=9, **images)
    context = make_context(config)
    learner, labels = context.learner("frozen"), context.scenarios[0].relabel(context.source.train.labels)
    members = np.flatnonzero(labels < 3)
    state = learner.start(jax.random.key(0), context.backbone_of(0))
    for name in ("ridge", "random-ridge", "multilevel"):
        readout = make_readout(name, config, width=16, classes=7, seed=0)
        rows, _ = features_of(
            learner, state, context.views("train", members, labels[members]), Mapped.of(readout, context.mesh)
        )
        expected = best_of(readout.kernels(rows), labels[members])
        figures = compared["methods"][f"frozen/{name}"]
        assert figures["error"] == pytest.approx(expected.error, rel=1e-4)
        assert figures["accuracy"] == expected.accuracy
        assert figures["deviation"] == pytest.approx(expected.errors.std() / 27**0.5, rel=1e-3)
    code, out, _ = said(*words, "--first-task", 7)
    assert "first task     63 images of 7 classes" in out
    advice = next(line for line in out.splitlines() if line.startswith("advice"))
    assert advice.split()[2].rstrip(":") in compared["methods"]


def test_a_presets_own_first_task_is_the_default_and_more_classes_than_there_are_become_all() -> None:
    config = preset("digits")
    assert first_classes(Verify(preset="digits"), config) == 2
    assert first_classes(Verify(preset="digits", first_task=0), config) == 0
    assert first_classes(Verify(preset="digits", first_task=50), config) == 50
    assert first_classes(Verify(data="somewhere"), config) == 0
    assert first_classes(Verify(preset="vtab"), preset("vtab", data=DataConfig(first_task_classes=9))) == 9


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "expected a preset, or --weights and --data"),
        (["cifra100"], "unknown preset 'cifra100'; did you mean cifar100?"),
        (["digits", "--weights", "random"], "there is nothing to verify in random weights"),
        (["digits", "--weights", "/no/such.safetensors"], "/no/such.safetensors"),
        (["digits", "--first-task", "1"], "expected a first task of at least 2 classes, or 0 for none, got 1"),
        (["digits", "--expect", "45.9"], "expected accuracy and tolerance must be in [0, 1]"),
        (["digits", "--source", "folder", "--data", "/no/such/folder"], "/no/such/folder is missing"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(said, words: list[str], line: str) -> None:
    code, out, error = said(*words)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert line in error


def test_weights_of_another_architecture_than_the_preset_are_refused(said, weights: Path, data: Path) -> None:
    code, _, error = said("eurosat", "--weights", weights, "--data", data)
    assert code == 2
    assert "dim=16" in error


def test_a_damaged_image_is_named(said, weights: Path, data: Path) -> None:
    (data / "test" / "class2" / "008.png").write_bytes(b"no image")
    code, _, error = said("--weights", weights, "--data", data)
    assert code == 2
    assert "test/class2/008.png as an image" in error


@pytest.mark.parametrize("normalize", ["half", "imagenet"])
def test_the_backbone_normalises_pixels_itself(normalize: Normalize) -> None:
    """Below it lies everything else: the streams start from its embedding."""
    mean, std = NORMALIZATIONS[normalize]
    plain, inside = (ViT(tiny.BACKBONE, normalize=n, rngs=nnx.Rngs(0)) for n in ("none", normalize))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    by_hand = plain.embed((images - jnp.array(mean)) / jnp.array(std))
    np.testing.assert_allclose(inside.embed(images), by_hand, atol=1e-6)
    assert float(jnp.abs(plain.embed(images) - by_hand).max()) > 1e-3
    learner = make_context(tiny.config(data__normalize=normalize), tiny.arrays()).learner("ntkcl")
    assert nnx.eval_shape(lambda: learner.network.build(jax.random.key(0))).backbone.normalize == normalize


def test_the_preprocessing_id_follows_every_fact_and_nothing_else() -> None:
    base = DataConfig()
    same = preprocessing(DataConfig(crop_scale=(0.5, 1.0), workers=7, source="scripts"), 224)
    assert same == preprocessing(base, 224)
    others = [
        DataConfig(resize=257),
        DataConfig(normalize="half"),
        DataConfig(normalize="imagenet"),
        DataConfig(invert=True),
    ]
    ids = {preprocessing(data, 224)["id"] for data in (base, *others)} | {preprocessing(base, 192)["id"]}
    assert len(ids) == 6


def test_a_config_from_before_a_setting_existed_still_opens() -> None:
    stored = to_json(preset("digits"))
    for name in ("normalize", "images_per_class", "classes", "test_share"):
        del stored["data"][name]
    assert with_defaults(stored, to_json(RunConfig())) == to_json(preset("digits"))
