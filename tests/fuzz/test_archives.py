"""CIFAR-100's archive and its pickles of any bytes: read, or refused in one line; nothing is written or run."""

import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import load_source
from ntkcl_jax.data.sources import cifar100 as cifar
from tests.fuzz.harness import JUNK, answer, bounded, damaged_bytes, fuzz, write

PARTS = {
    "train": {b"fine_labels": [0, 1], b"data": np.zeros((2, 3072), np.uint8)},
    "test": {b"fine_labels": [0, 1], b"data": np.ones((2, 3072), np.uint8)},
    "meta": {b"fine_label_names": [b"a", b"b"]},
}
PICKLED = {name: pickle.dumps(value, protocol=2) for name, value in PARTS.items()}


def packed(entries: list[tuple[tarfile.TarInfo, bytes]], kind: str = "gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


WHOLE = [(entry(f"cifar-100-python/{name}"), content) for name, content in PICKLED.items()]
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                         tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, b"?", b"x", b"L", b"S"])  # fmt: skip
PLACES = st.sampled_from(
    ["cifar-100-python/train", "../evil", "/tmp/evil", "cifar-100-python/../../evil", "", "a\nb", "é" * 90]
)


def cifar_source(path: Path) -> None:
    bounded(lambda: load_source(DataConfig(source="cifar100", path=str(path))))


@fuzz(25, content=st.one_of(damaged_bytes(packed(WHOLE)), damaged_bytes(packed(WHOLE, "")), st.binary(max_size=99)))
def test_archives_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    cifar_source(write(tmp_path / "c.tar.gz", content))


@fuzz(25, name=PLACES, kind=KINDS, target=PLACES, content=st.sampled_from([b"", b"x" * 700]), first=st.booleans())
def test_archives_with_links_devices_and_other_places_write_nothing(
    tmp_path: Path, name: str, kind: bytes, target: str, content: bytes, first: bool
) -> None:
    odd = [(entry(name, kind, target), content)]
    cifar_source(write(tmp_path / "c.tar.gz", packed(odd + WHOLE if first else WHOLE + odd)))
    assert [p.name for p in tmp_path.iterdir()] == ["c.tar.gz"]


@fuzz(30, part=st.sampled_from(list(PICKLED)), drawn=st.data(), value=JUNK, key=st.sampled_from(list(PARTS["train"])))
def test_pickles_of_any_bytes_and_values_are_read_or_refused(
    tmp_path: Path, part: str, drawn: st.DataObject, value: Any, key: bytes
) -> None:
    for name, content in PICKLED.items():
        write(tmp_path / name, content)
    write(tmp_path / part, drawn.draw(damaged_bytes(PICKLED[part])))
    cifar_source(tmp_path)
    write(tmp_path / part, pickle.dumps({**PARTS[part], key: value, b"fine_label_names": value}, protocol=2))
    cifar_source(tmp_path)


def test_an_archives_header_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    header = entry("x", b"x").tobuf(tarfile.USTAR_FORMAT)
    size = b"%011o\x00" % 2**32
    body = header[:124] + size + header[136:148] + b" " * 8 + header[156:]
    summed = body[:148] + b"%06o\x00 " % sum(body) + body[156:]
    assert tarfile.TarInfo.frombuf(summed, "utf-8", "strict").size == 2**32
    bomb = zlib.compressobj(wbits=31)
    content = bomb.compress(summed) + b"".join(bomb.compress(bytes(2**20)) for _ in range(64)) + bomb.flush()
    code, line = bounded(lambda: cifar.read_cifar100(write(tmp_path / "c.tar.gz", content)))
    assert code == 2
    assert "header of more than" in line


def test_a_pickle_that_would_overrun_stack_time_or_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """To hash a tuple with a million others inside would end the process; here a hundred stand for them."""
    monkeypatch.setattr(cifar, "MAX_INSTRUCTIONS", 10_000)
    monkeypatch.setattr(cifar, "MAX_PART_BYTES", 10_000)
    deep = b"\x80\x02}" + b")" + b"\x85" * 100 + b"K\x01s."
    many = b"\x80\x02" + b"}" * 20_000 + b"}."
    text = b"\x80\x02X" + struct.pack("<I", 100) + b"a" * 100 + b"q\x00"
    copies = (b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R") * 300
    for content, said in ((deep, "keys other than"), (text + copies + b"}.", "bytes"), (many, "instructions")):
        code, line = answer(lambda content=content: cifar.read_pickled_dict(content, "train"))
        assert (code, said in line) == (2, True), line[:200]
