"""Data without a split of their own: the hashed split, one folder of classes, limits, copies."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import Arrays, load_source
from ntkcl_jax.data.splits import hashed_split
from ntkcl_jax.errors import DataError


def write(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(file)


@pytest.fixture
def root(tmp_path):
    """Three classes of 3, 10 and 12 images in one folder, beside a text file."""
    value = 0
    for name, count in (("ant", 3), ("bee", 10), ("cat", 12)):
        for number in range(count):
            write(tmp_path / "set" / name / f"{name}_{number}.png", value := value + 1)
    (tmp_path / "set" / "README.txt").write_text("where it comes from")
    return tmp_path / "set"


def load(root, **changes):
    return load_source(DataConfig(source="folder", path=str(root), **changes))


def files(side):
    return {os.path.basename(side.names(i)) for i in range(len(side))}


def test_the_split_is_the_one_that_the_document_describes(root):
    source = load(root)
    for label, name in enumerate(source.class_names):
        all_files = [f"{name}/{file}" for file in os.listdir(root / name)]
        order = sorted(all_files, key=lambda key: hashlib.sha256(f"0\n{key}".encode()).digest())
        expected = {os.path.basename(key) for key in order[: {"ant": 1, "bee": 2, "cat": 2}[name]]}
        assert files(source.test.subset(np.flatnonzero(source.test.labels == label))) == expected
    assert len(source.train) + len(source.test) == 25
    assert not files(source.train) & files(source.test)


def test_the_split_does_not_follow_place_order_or_run_seed_but_follows_its_own_seed_and_names(root, tmp_path):
    source = load(root)
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert load(moved).split_sha256 == source.split_sha256
    assert load(root, split_seed=1).split_sha256 != source.split_sha256
    assert len(load(root, test_share=0.5).test) == 2 + 5 + 6
    keys = [f"a/{i}" for i in range(9)]
    turned = hashed_split(keys[::-1], np.zeros(9, int), share=0.3, seed=0, class_names=["a"])[::-1]
    assert np.array_equal(turned, hashed_split(keys, np.zeros(9, int), share=0.3, seed=0, class_names=["a"]))
    (moved / "cat" / "cat_0.png").rename(moved / "cat" / "cat_00.png")
    assert load(moved).split_sha256 != source.split_sha256


def test_the_hash_of_a_given_split_follows_sides_and_classes_but_not_the_images_own_order(tmp_path):
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
    labels = np.array([0, 1, 0, 1, 0, 1])
    config = DataConfig(source="arrays")
    one = load_source(config, Arrays(pixels[:4], labels[:4], pixels[4:], labels[4:])).split_sha256
    turned = load_source(config, Arrays(pixels[3::-1], labels[3::-1], pixels[4:], labels[4:])).split_sha256
    swapped = load_source(config, Arrays(pixels[2:], labels[2:], pixels[:2], labels[:2])).split_sha256
    assert one == turned != swapped


def test_a_class_of_one_image_cannot_be_split_and_is_named(root):
    write(root / "dog" / "only.png", 200)
    with pytest.raises(DataError, match=r"class 'dog' has a single image \(dog/only.png\), which can't train and test"):
        load(root)


def test_accented_names_give_the_same_key_however_they_are_composed(tmp_path):
    for name, spelling in (("one", "\u00e9"), ("two", "e\u0301")):
        for number in range(6):
            write(tmp_path / name / "class" / f"{spelling}{number}.png", number)
    assert load(tmp_path / "one").split_sha256 == load(tmp_path / "two").split_sha256


def test_nested_classes_are_named(root):
    shutil.copytree(root / "bee", root / "cat" / "cat")
    with pytest.raises(DataError, match=r"cat/cat is a folder of images inside .*set/cat, .* classes can't be nested"):
        load(root)


def test_sides_of_other_names_are_told_apart_from_classes(root, tmp_path):
    shutil.copytree(root, tmp_path / "wrong" / "training")
    with pytest.raises(DataError, match=r"training/\w+ is a folder of images inside .*; expected|data.path \(expected"):
        load(tmp_path / "wrong")


def test_the_number_of_classes_can_be_demanded(root):
    assert len(load(root, classes=3).class_names) == 3
    with pytest.raises(DataError, match=r"expected 4 classes, found 3 in .*set: is one missing"):
        load(root, classes=4)


def test_images_per_class_cuts_both_sides_and_limit_per_class_only_training(root):
    small = load(root, images_per_class=2)
    assert np.bincount(small.train.labels).tolist() == [2, 2, 2]
    assert np.bincount(small.test.labels).tolist() == [1, 2, 2]
    assert np.bincount(load(root, images_per_class=2, limit_per_class=1).train.labels).tolist() == [1, 1, 1]
    assert len(load(root, limit_per_class=1).test) == 5


def test_a_file_that_trains_and_tests_is_found_by_its_content(root):
    assert load(root).duplicates == []
    source = load(root)
    copied = source.train.names(4)
    shutil.copy(copied, source.test.names(1))
    again = load(root)
    assert again.duplicates == [(1, 4)]
    assert again.train.names(4) == copied
