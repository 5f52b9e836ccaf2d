"""Split files in their usual layouts, and everything that can be wrong with them."""

import json

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import load_source
from ntkcl_jax.errors import DataError

CLASSES = ("ant", "bee")


@pytest.fixture
def root(tmp_path):
    """Two domains x two classes x four images, as DomainNet lays them out; no list yet."""
    value = 0
    for domain in ("real", "sketch"):
        for name in CLASSES:
            for number in range(4):
                file = tmp_path / domain / name / f"{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 5, 3), value := value + 7, np.uint8)).save(file)
    return tmp_path


def write_lists(root, line, *, test=True):
    for domain in ("real", "sketch"):
        for side, numbers in (("train", range(3)), ("test", [3])):
            if side == "train" or test:
                lines = [line(domain, name, n) for name in CLASSES for n in numbers]
                (root / f"{domain}_{side}.txt").write_text("\n".join(lines) + "\n")


def load(root, **changes):
    return load_source(DataConfig(source="lists", path=str(root), **changes))


LINES = {
    "space": lambda d, c, n: f"{d}/{c}/{n}.jpg {CLASSES.index(c)}",
    "comma": lambda d, c, n: f"{d}/{c}/{n}.jpg,{CLASSES.index(c)}",
    "from one": lambda d, c, n: f"./{d}/{c}/{n}.jpg\t{CLASSES.index(c) + 1}",
    "names": lambda d, c, n: f"{d}/{c}/{n}.jpg, {c}",
    "no label": lambda d, c, n: f"{d}\\{c}\\{n}.jpg",
    "other machine": lambda d, c, n: f"/home/somebody/DomainNet/{d}/{c}/{n}.jpg {CLASSES.index(c)}",
}


@pytest.mark.parametrize("kind", LINES)
def test_every_usual_line_gives_the_same_stream(root, kind):
    write_lists(root, LINES[kind])
    source = load(root)
    assert source.class_names == CLASSES
    assert source.split == "given"
    for side, numbers in ((source.train, 3), (source.test, 1)):
        assert len(side) == 4 * numbers
        for i in range(len(side)):
            assert f"/{CLASSES[side.labels[i]]}/" in side.names(i)


def test_headings_comments_and_empty_lines_are_passed_over_and_patterns_choose_lists(root):
    (root / "lists").mkdir()
    (root / "lists" / "a.csv").write_text("filename,label\n# seen\n\nreal/ant/0.jpg,ant\nreal/bee/0.jpg,bee\n")
    (root / "b.txt").write_text("real/ant/1.jpg ant\nreal/bee/1.jpg bee\n")
    source = load(root, train_list="lists/*.csv", test_list=str(root / "b.txt"))
    assert (len(source.train), len(source.test), source.class_names) == (2, 2, CLASSES)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_lists_of_data_and_targets_are_read(root, ending):
    for side, numbers in (("train", (0, 1)), ("test", (2,))):
        paths = [f"data/x/real/{c}/{n}.jpg" for c in CLASSES for n in numbers]
        value = {"data": paths, "targets": [CLASSES.index(p.split("/")[3]) for p in paths]}
        (root / f"x_{side}.{ending}").write_text(json.dumps(value))
    source = load(root, train_list=f"x_train.{ending}", test_list=f"x_test.{ending}")
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    (root / f"x_test.{ending}").write_text('{"data": ["real/ant/0.jpg"], "targets": [1, 2]}')
    with pytest.raises(DataError, match="has 1 paths but 2 targets"):
        load(root, train_list=f"x_train.{ending}", test_list=f"x_test.{ending}")
    (root / f"x_test.{ending}").write_text('{"data": [')
    with pytest.raises(DataError, match=r"can't understand the list .*; is it whole\?"):
        load(root, train_list=f"x_train.{ending}", test_list=f"x_test.{ending}")


def test_a_yaml_list_makes_no_objects(root):
    (root / "x_train.yaml").write_text("data: !!python/object/apply:os.system ['touch /tmp/owned']\n")
    with pytest.raises(DataError, match="can't understand the list"):
        load(root, train_list="x_train.yaml")


def test_without_a_test_list_the_split_is_hashed(root):
    write_lists(root, LINES["space"], test=False)
    source = load(root, test_share=0.34)
    assert (len(source.train), len(source.test)) == (8, 4)
    assert source.split.startswith("0.34 of each class by hash")


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("../outside.jpg 0", r"leaves the data folder \(\.\./outside\.jpg\)"),
        ("real/../../outside.jpg 0", "leaves the data folder"),
        ("real/ant/9.jpg 0", r"real_train\.txt:7 names .*real/ant/9\.jpg, which is missing"),
        ("real/ant/3.jpg 2", r"lists .*3\.jpg again, after .*real_train\.txt:7; an image trains or tests, once"),
        ("real/ant/0.jpg 0", r"real_train\.txt:7 lists .*0\.jpg again, after .*real_train\.txt:1"),
        ("extra.jpg 3", r"no image has the label 2, but .*real_train\.txt:7 has a higher one"),
        ("extra.jpg 1000000000", r"real_train\.txt:7 has the label 1000000000, out of range"),
        ("extra.jpg -1", "has the label -1, out of range"),
        ("extra.jpg", r"real_train\.txt:7 is unlike the others: either every line has a label, or none"),
        ("extra.jpg 1x", r"real_train\.txt:7 has the label 1x, the first lines have numbers"),
        ("extra.jpg,1,7", "has more than a path and a label"),
        ("extra 1 2", "names no image"),
        ("extra.jpg 2", r"1 of 3 classes have no test image, the first is .* \(label 2\)"),
    ],
)
def test_a_wrong_line_is_named(root, added, line):
    (root / "extra.jpg").write_bytes((root / "real" / "ant" / "0.jpg").read_bytes())
    write_lists(root, LINES["space"])
    with open(root / "real_train.txt", "a") as file:
        file.write(added + "\n")
    with pytest.raises(DataError, match=line) as said:
        load(root)
    assert "\n" not in str(said.value)


def test_lists_that_are_missing_empty_or_for_other_data_are_refused(root):
    with pytest.raises(DataError, match=r"no list of training images in .* \(looked for \*_train\.txt"):
        load(root)
    (root / "real_train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"the list .*real_train\.txt names no image"):
        load(root)
    (root / "real_train.txt").write_text("clipart/ant/0.jpg 0\n")
    with pytest.raises(DataError, match=r"real_train\.txt:1 names clipart/ant/0\.jpg, which isn't in .*unpack"):
        load(root)
    (root / "real_train.txt").write_bytes(b"\xff\xfe\x00real")
    with pytest.raises(DataError, match=r"can't read the list .* expected a text file in UTF-8"):
        load(root)
    with pytest.raises(DataError, match=r"no list gone\.txt in "):
        load(root, train_list="real_train.txt", test_list="gone.txt")
    with pytest.raises(DataError, match="is no folder, but must hold the images that the lists name"):
        load(root / "gone")
