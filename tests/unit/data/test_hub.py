"""Hugging Face datasets: columns, sides, labels and faults; with the real package where it is installed."""

import importlib.util
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import load_source
from ntkcl_jax.errors import DataError
from tests.support import hub_standin


@pytest.fixture
def library(monkeypatch):
    if importlib.util.find_spec("datasets") is None:
        monkeypatch.setitem(sys.modules, "datasets", hub_standin)
        return hub_standin
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def encoded(value: int, size=(6, 5)) -> dict:
    buffer = BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(library, start: int, labels: list, label_feature=None, **more):
    columns = {"image": [encoded(start + i) for i in range(len(labels))], "label": labels}
    label_feature = label_feature or library.ClassLabel(names=["cat", "ant", "bee"])
    features = library.Features(
        {"image": library.Image(), "label": label_feature, **{n: f for n, (_, f) in more.items()}}
    )
    return library.Dataset.from_dict(columns | {n: v for n, (v, _) in more.items()}, features=features)


def load(path, **changes):
    return load_source(DataConfig(source="huggingface", path=str(path), workers=1, **changes))


@pytest.fixture
def saved(library, tmp_path):
    sides = {"train": rows(library, 0, [0, 0, 1, 2]), "test": rows(library, 100, [2, 1, 0])}
    library.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def test_a_saved_dataset_gives_images_labels_and_names_of_both_sides(saved):
    source = load(saved)
    assert source.class_names == ("cat", "ant", "bee")
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 0, 1, 2], [2, 1, 0])
    assert source.train.load(2).shape == (6, 5, 3)
    assert [int(source.test.load(i)[0, 0, 0]) for i in range(3)] == [100, 101, 102]
    assert source.split == "given"
    assert int(load(saved, invert=True).train.load(1)[0, 0, 0]) == 254
    assert len(load(saved, images_per_class=1).train) == 3
    assert load(saved).fingerprint == source.fingerprint != load(saved, invert=True).fingerprint


def test_a_column_that_only_one_side_has_is_named(library, tmp_path):
    images = {"image": [encoded(0)] * 3, "fine_label": [0, 1, 2]}
    features = {"image": library.Image(), "fine_label": library.ClassLabel(names=["cat", "ant", "bee"])}
    test = library.Dataset.from_dict(images, features=library.Features(features))
    library.DatasetDict({"train": rows(library, 0, [0, 1, 2]), "test": test}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="set test has no column label, which train has"):
        load(tmp_path / "set")


def test_validation_stands_in_for_a_missing_test_side(library, tmp_path):
    sides = {"train": rows(library, 0, [0, 1, 2]), "validation": rows(library, 9, [0, 1, 2])}
    library.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    assert load(tmp_path / "set").test.names(2) == f"{tmp_path / 'set'} validation[2]"


def test_one_side_is_split_by_content_whatever_the_order_of_rows(library, tmp_path):
    order = np.random.default_rng(0).permutation(20)
    columns = {"image": [encoded(i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])})
    sources = []
    for name, places in (("one", range(20)), ("two", order)):
        turned = {column: [values[i] for i in places] for column, values in columns.items()}
        library.Dataset.from_dict(turned, features=features).save_to_disk(str(tmp_path / name))
        sources.append(load(tmp_path / name))
    assert {(len(s.train), len(s.test)) for s in sources} == {(16, 4)}
    assert sources[0].split_sha256 == sources[1].split_sha256
    assert sources[0].split == "0.2 of each class by hash, seed 0"
    assert load(tmp_path / "one", split_seed=1).split_sha256 != sources[0].split_sha256


def test_plain_numbers_and_names_are_labels_too(library, tmp_path):
    for kind, labels, names in (
        (library.Value("int64"), [1, 0, 1], ("0", "1")),
        (library.Value("string"), ["b", "a", "b"], ("a", "b")),
    ):
        folder = tmp_path / names[0]
        sides = {"train": rows(library, 0, labels, kind), "test": rows(library, 9, labels, kind)}
        library.DatasetDict(sides).save_to_disk(str(folder))
        source = load(folder)
        assert source.class_names == names
        assert source.train.labels.tolist() == [1, 0, 1]


def test_a_label_column_is_chosen_among_several(library, tmp_path):
    coarse = ([5, 5, 6], library.ClassLabel(names=list("0123456")))
    sides = {side: rows(library, at, [0, 1, 2], coarse_label=coarse) for side, at in (("train", 0), ("test", 9))}
    library.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    assert load(tmp_path / "set").class_names == ("cat", "ant", "bee")
    with pytest.raises(DataError, match="7 classes have no training image"):
        load(tmp_path / "set", label_column="coarse_label")
    with pytest.raises(
        DataError, match=r"there is no label column 'shape'; data\.label_column must be one of image, label"
    ):
        load(tmp_path / "set", label_column="shape")
    with pytest.raises(DataError, match="there is no image column 'label'"):
        load(tmp_path / "set", image_column="label")


def test_a_row_without_a_label_is_named(library, tmp_path):
    sides = {"train": rows(library, 0, [0, 1, 2]), "test": rows(library, 9, [0, -1, 2], library.Value("int64"))}
    library.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(
        DataError, match=r"test\[1\] has the label -1, expected a number from 0 to 2; remove rows"
    ) as said:
        load(tmp_path / "set")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("kind", "train", "test", "line"),
    [
        ("ClassLabel", [0, 1, 2], [0, 1, -1], r"test\[2\] has the label -1, expected a number from 0 to 2"),
        ("ClassLabel", [0, 1, 1], [0, 1, 2], "1 of 3 classes have no training image, the first is 'bee'"),
        ("ClassLabel", [0, 1, 2], [0, 1, 1], "1 of 3 classes have no test image, the first is 'bee'"),
        ("int64", [0, 1, 1000], [0, 1, 1], r"train\[2\] has the label 1000, expected a number from 0 to 5"),
        ("int64", [0, 1, 3], [0, 1, 3], r"1 of 4 classes have no training image, the first is '2'"),
        ("float64", [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], r"train\[0\] has the label 0\.0, expected a number"),
        ("string", ["a", "b", "b"], ["a", "b", "c"], "1 of 3 classes have no training image, the first is 'c'"),
        ("int64", [0, 1, None], [0, 1, 1], r"train\[2\] has the label None, expected a number"),
    ],
)
def test_labels_out_of_range_and_classes_on_one_side_are_named(library, tmp_path, kind, train, test, line):
    feature = None if kind == "ClassLabel" else library.Value(kind)
    sides = {"train": rows(library, 0, train, feature), "test": rows(library, 9, test, feature)}
    library.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=line) as said:
        load(tmp_path / "set")
    assert "\n" not in str(said.value)


def test_a_row_without_an_image_is_named(library, tmp_path):
    side = rows(library, 0, [0, 1, 2])
    features = {"image": [encoded(1), None, encoded(3)], "label": [0, 1, 2]}
    library.DatasetDict(
        {"train": library.Dataset.from_dict(features, features=side.features), "test": side}
    ).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"can't read .*set train\[1\] .*download the dataset again"):
        load(tmp_path / "set").train.load(1)


def test_a_damaged_image_is_named(library, tmp_path):
    side = rows(library, 0, [0, 1, 2])
    broken = library.Dataset.from_dict(
        {"image": [encoded(1), {"bytes": b"no image", "path": None}, encoded(3)], "label": [0, 1, 2]},
        features=side.features,
    )
    library.DatasetDict({"train": side, "test": broken}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"can't read .*set test\[1\] as an image"):
        load(tmp_path / "set").test.load(1)


def test_a_dataset_without_a_training_side_is_refused(library, tmp_path):
    library.DatasetDict({"test": rows(library, 0, [0, 1, 2])}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="has the sides test, but needs train"):
        load(tmp_path / "set")


def test_a_name_that_cannot_be_had_is_refused_in_one_line(library):
    with pytest.raises(
        DataError, match=r"can't open the dataset nobody/nothing@main .*; check the name and the network"
    ) as said:
        load("nobody/nothing@main")
    assert "\n" not in str(said.value)
    with pytest.raises(DataError, match=r"data\.path=/no/such/folder is no folder and no hub name"):
        load("/no/such/folder")


def test_a_missing_or_old_package_is_said_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package `datasets`.*pip install 'ntkcl-jax\[huggingface\]'"):
        load(tmp_path)
    monkeypatch.setattr(hub_standin, "__version__", "3.6.0")
    monkeypatch.setitem(sys.modules, "datasets", hub_standin)
    with pytest.raises(DataError, match=r"needs datasets 4 or later, got 3\.6\.0; update it"):
        load(tmp_path)
