"""CIFAR-100's published pickles, read without unpickling."""

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import load_source
from ntkcl_jax.data.sources import cifar100 as cifar
from ntkcl_jax.data.sources.cifar100 import read_pickled_dict
from ntkcl_jax.errors import DataError

RNG = np.random.default_rng(0)
NAMES = [b"apple", b"bear", b"cup"]


def part(count):
    labels = [i % len(NAMES) for i in range(count)]
    rows = RNG.integers(0, 256, (count, 3072), np.uint8)
    return {b"filenames": [b"x.png"] * count, b"batch_label": b"b", b"fine_labels": labels, b"data": rows}


TRAIN, TEST, META = part(9), part(3), {b"fine_label_names": NAMES, b"coarse_label_names": [b"things"]}


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "cifar-100-python"
    out.mkdir()
    for name, values in (("train", TRAIN), ("test", TEST), ("meta", META)):
        (out / name).write_bytes(pickle.dumps(values, protocol=2))
    return out


def pack(folder, kind="gz"):
    file = folder.parent / f"{folder.name}.tar.{kind}"
    with tarfile.open(file, f"w:{kind}") as archive:
        archive.add(folder, folder.name)
    return file


def check(path):
    source = load_source(DataConfig(source="cifar100", path=str(path)))
    assert source.class_names == ("apple", "bear", "cup")
    assert source.train.labels.tolist() == TRAIN[b"fine_labels"]
    image = source.train.load(4)
    for channel in range(3):
        plane = TRAIN[b"data"][4, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        assert np.array_equal(image[..., channel], plane)
    assert len(source.test) == 3
    return source


def test_the_archive_its_folder_and_the_folder_around_it_are_the_same_source(folder):
    prints = {check(path).fingerprint for path in (pack(folder), folder, folder.parent)}
    assert len(prints) == 1


def test_nothing_is_extracted(folder):
    file = pack(folder)
    for inside in folder.iterdir():
        inside.unlink()
    folder.rmdir()
    check(file)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values_and_arrays_of_bytes_are_read_as_pickle_would(protocol):
    shared = [1, 2]
    values = {
        "numbers": [0, 255, 256, 65535, 65536, -1],
        "same": [shared, shared],
        "pairs": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "others": [None, True, False, {}, "é", b"\x00\xff"],
        "many": list(range(3000)),
    }
    for array in (
        np.arange(24, dtype=np.uint8).reshape(4, 6),
        np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    ):
        content = pickle.dumps({**values, "array": array}, protocol=protocol)
        read = read_pickled_dict(content, "x")
        assert np.array_equal(read.pop("array"), array)
        assert read == values


def python2_pickle(rows, labels):
    """Write what Python 2's cPickle wrote with protocol 2: byte strings as such, numpy.core, one-byte dtype."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09"
        b"(K\x01M"
        + struct.pack("<H", len(rows))
        + b"M\x00\x0c\x86q\x0acnumpy\ndtype\nq\x0bU\x02u1q\x0cK\x00K\x01\x87q\x0d"
        b"Rq\x0e(K\x03U\x01|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89T"
        + struct.pack("<i", rows.size)
        + rows.tobytes()
        + b"tq\x11b"
    )
    numbers = b"]q\x02(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}q\x01("
        + short(b"fine_labels")
        + numbers
        + short(b"data")
        + b"q\x03"
        + array
        + short(b"x")
        + b"K\x01u."
    )


def test_python_2s_own_byte_strings_are_read(folder):
    (folder / "train").write_bytes(python2_pickle(TRAIN[b"data"], TRAIN[b"fine_labels"]))
    check(folder)


class Harmful:
    def __init__(self, target, *arguments):
        self.call = target, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(tmp_path, protocol):
    victim = tmp_path / "made"
    content = pickle.dumps({b"data": Harmful(os.system, f"touch {victim}")}, protocol=protocol)
    with pytest.raises(DataError, match=r"train .*(asks for|is damaged)"):
        read_pickled_dict(content, "train")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for 'os system'"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "asks for 'builtins eval'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for 'os system'"),
        (b"\x80\x02cnumpy\nndarray\nK\x03\x85R.", "asks for 'numpy ndarray'"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "asks for 'numpy dtype'"),
        (b"\x80\x02}X\x01\x00\x00\x00a}sb.", "damaged"),
        (b"\x80\x02}}b.", "asks for state"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "asks for '_codecs encode'"),
        (b"\x80\x02P1\n.", "asks for the instruction PERSID"),
        (b"\x80\x02]K\x01\x61.", "is damaged .*expected dict, found list"),
        (b"\x80\x02}K\x01K\x01s.", "is damaged .*expected str, found int"),
        (b"\x80\x02}", "is damaged"),
        (b"", "is damaged"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02e.", "is damaged"),
        (b"<html>", "is damaged|asks for"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b"x.", "is damaged|asks for"),
    ],
)
def test_any_other_pickle_is_refused_in_one_line(content, line):
    with pytest.raises(DataError, match=line) as caught:
        read_pickled_dict(content, "x")
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_pickle_is_refused():
    content = pickle.dumps({b"a": [1, 2], b"b": np.zeros((2, 2), np.uint8)}, protocol=2)
    for length in range(len(content)):
        with pytest.raises(DataError):
            read_pickled_dict(content[:length], "x")


def test_missing_and_strange_parts_are_named(folder):
    (folder / "meta").unlink()
    with pytest.raises(DataError, match=r"meta is missing"):
        check(folder)
    with pytest.raises(DataError, match=r"has no cifar-100-python/meta"):
        check(pack(folder))
    with pytest.raises(DataError, match=r"nowhere is missing; expected cifar-100-python"):
        check(folder / "nowhere")
    (folder / "meta").write_bytes(pickle.dumps({b"label_names": NAMES}, protocol=2))
    with pytest.raises(DataError, match=r"meta has no list fine_label_names of words"):
        check(folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({b"data": np.zeros((9, 100), np.uint8)}, "rows of 3072 bytes"),
        ({b"data": [1, 2]}, "rows of 3072 bytes"),
        ({b"fine_labels": [0, 1]}, "fine_labels' of 9 integers"),
        ({b"fine_labels": [b"a"] * 9}, "fine_labels' of 9 integers"),
        ({b"fine_labels": [3] * 9}, "label 3 has no name"),
    ],
)
def test_a_strange_layout_is_refused(folder, changes, line):
    (folder / "train").write_bytes(pickle.dumps({**TRAIN, **changes}, protocol=2))
    with pytest.raises(DataError, match=line):
        check(folder)


def test_damaged_and_oversized_archives_are_refused(folder, monkeypatch):
    file = pack(folder)
    whole = file.read_bytes()
    flipped = whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :]
    for damaged in (whole[: len(whole) // 2], flipped, b"no archive", b""):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"(archive|damaged) .*download it again") as caught:
            check(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    monkeypatch.setattr(cifar, "MAX_PART_BYTES", 100)
    with pytest.raises(DataError, match=r"holds more than CIFAR-100's"):
        check(file)
    with pytest.raises(DataError, match=r"train has \d+ bytes, more than"):
        check(folder)


def test_a_link_in_an_archive_is_not_followed(folder):
    file = folder.parent / "links.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-100-python/train")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder / "train")
        archive.addfile(link)
        for name in ("test", "meta"):
            content = (folder / name).read_bytes()
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError, match=r"has no cifar-100-python/train"):
        check(file)
