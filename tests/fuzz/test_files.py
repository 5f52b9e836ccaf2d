"""Weights, images and lists of any bytes: read, or refused in one line; nothing runs, memory stays bounded."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import load_source
from ntkcl_jax.data.decode import MAX_PIXELS, decode
from ntkcl_jax.errors import DataError
from ntkcl_jax.weights import read_backbone
from ntkcl_jax.weights.convert import show
from tests.fuzz.harness import HOSTILE, JUNK, TEXTS, answer, bounded, damaged_bytes, damaged_json, fuzz, write
from tests.support import vits

SIZE = vits.SIZES["tiny"]
TIMM = save(vits.case("timm", "tiny").state)
HEADER = TIMM[8 : 8 + struct.unpack("<Q", TIMM[:8])[0]]
BODY = TIMM[8 + len(HEADER) :]


def npz(**members: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **members)  # ty: ignore[invalid-argument-type]
    return out.getvalue()


GOOGLE = npz(**vits.case("google", "tiny").state)


def weights(path: Path, content: bytes) -> None:
    write(path, content)
    bounded(lambda: read_backbone(str(path), SIZE))
    answer(lambda: show(str(path)))


# Weights


@fuzz(25, content=st.one_of(st.binary(max_size=300), damaged_bytes(TIMM)))
def test_safetensors_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    weights(tmp_path / "w.safetensors", content)


@fuzz(
    30,
    header=damaged_json(HEADER.decode()),
    length=st.one_of(st.none(), st.sampled_from([0, 1, 2**24, 2**24 + 1, 2**40, 2**63, 2**64 - 1])),
    body=st.sampled_from([BODY, b"", BODY[:-1], BODY + b"x"]),
)
def test_safetensors_headers_that_lie_are_read_or_refused(
    tmp_path: Path, header: bytes, length: int | None, body: bytes
) -> None:
    """Names, shapes, types and offsets are anything; so is the length that the header claims."""
    length = len(header) if length is None else length
    weights(tmp_path / "w.safetensors", struct.pack("<Q", length) + header + body)


@fuzz(12, content=damaged_bytes(GOOGLE))
def test_npz_files_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    weights(tmp_path / "w.npz", content)


@fuzz(
    14,
    shape=st.sampled_from(
        ["(9,)", "(1, 1, 12)", "(-1, -12)", "(2**40,)", "(1e9,)", "()", "'x'", "(0, 10**18)", "(" * 99]
    ),
    dtype=st.sampled_from(["<f4", "|O", "<f8", "<i8", "|S0", "|V9", "<U9", "<M8[s]", "x", "f4,f4", "<c16", "|b1"]),
    name=st.sampled_from(["cls.npy", "cls", "../cls.npy", "/cls.npy", "a\nb.npy", "embedding/kernel.npy", ".npy"]),
    size=st.sampled_from([0, 48, 5_000]),
    packed=st.booleans(),
)
def test_npz_members_that_lie_are_read_or_refused(
    tmp_path: Path, shape: str, dtype: str, name: str, size: int, packed: bool
) -> None:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(size)
    out = io.BytesIO(GOOGLE)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(name), member)
    weights(tmp_path / "w.npz", out.getvalue())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.npz"]


# Images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"\x00" * 60) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((9, 7), 50).convert(mode).save(out, kind)
    return out.getvalue()


IMAGES = [encoded(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")] + [encoded("PNG", "LA"), png(4, 5)]


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + b","
        + bytes(4)
        + struct.pack("<HHB", width, height, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def jpeg(width: int, height: int) -> bytes:
    """A whole file whose frame header claims another size."""
    whole = encoded("JPEG")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


BOMBS = {
    "PNG": (png, 50_000), "GIF": (gif, 50_000), "JPEG": (jpeg, 50_000), "PNG of 2^31": (png, 2**31 - 1),
    "PNG of bits": (lambda w, h: png(w, h, 1, 0), 50_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_of_50000_by_50000_pixels_is_refused_before_any_is_decoded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, side = BOMBS[kind]
    content = make(side, side)
    assert len(content) < 2_000
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("allocated"))
    with pytest.raises(DataError, match=r"pixels|can't read .* as an image"):
        decode(write(tmp_path / "bomb.png", content))


@fuzz(60, content=st.one_of(st.sampled_from(IMAGES).flatmap(damaged_bytes), st.binary(max_size=100)))
def test_images_of_any_bytes_are_decoded_or_refused(tmp_path: Path, content: bytes) -> None:
    def read() -> None:
        pixels = decode(write(tmp_path / "a.png", content))
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.size <= 3 * MAX_PIXELS

    answer(read)


# Lists


LINES = st.one_of(
    st.sampled_from(["a/1.png a", "a/2.png 1", "/a/1.png", "../a/1.png a", "a/../a/1.png", "path label", "# x",
                     "a/1.png " + "9" * 5000, "a/1.png ٣", "a/1.png,1,2", "\x00.png a", "a/1.png -1"]),
    TEXTS,
)  # fmt: skip


@fuzz(
    40, lines=st.lists(LINES, max_size=4), pattern=st.one_of(TEXTS, st.sampled_from(["", "**", "~x/y", "[", "l.txt"]))
)
def test_lists_of_any_lines_are_read_or_refused(tmp_path: Path, lines: list[str], pattern: str) -> None:
    write(tmp_path / "a" / "1.png", IMAGES[0])
    write(tmp_path / "a" / "2.png", IMAGES[0])
    write(tmp_path / "train.txt", "\n".join(lines))

    def read() -> None:
        source = load_source(DataConfig(source="lists", path=str(tmp_path), train_list=pattern))
        names = [side.names(i) for side in (source.train, source.test) for i in range(len(side))]
        assert all(Path(name).resolve().is_relative_to(tmp_path.resolve()) for name in names)

    answer(read)


YAMLS = [
    "[" * 1_000_000, "- " * 1_000_000, "data: " + "[" * 100_000, "a: &a [x, x]\nb: &b [*a, *a]\ndata: [*b, *b]",
    "data: [a/1.png]\ntargets: [" + "9" * 5000 + "]", "data: [a/1.png]\ntargets: [1:1:1]", "data: {a: 1}",
    "data: !!python/object/apply:os.system [x]", "? [a]\n: b", "data: [2001-01-01]\ntargets: [.nan]",
]  # fmt: skip


@fuzz(25, text=st.one_of(HOSTILE, st.sampled_from(YAMLS)), kind=st.sampled_from(["yaml", "json"]), value=JUNK)
def test_structured_lists_of_any_text_are_read_or_refused(tmp_path: Path, text: str, kind: str, value: Any) -> None:
    write(tmp_path / "a" / "1.png", IMAGES[0])
    file = tmp_path / f"train.{kind}"
    for content in (text, json.dumps({"data": value}), json.dumps({"data": ["a/1.png"], "targets": [value]})):
        write(file, content)
        bounded(lambda: load_source(DataConfig(source="lists", path=str(tmp_path), train_list=file.name)))


@fuzz(25, text=st.one_of(TEXTS, st.sampled_from(["~nobody-here/x", "~", "a" * 300, "a/" * 3000])), list_=TEXTS)
def test_a_path_of_any_text_is_read_or_refused(text: str, list_: str) -> None:
    for source in ("folder", "lists", "cifar100"):
        if text:
            answer(lambda source=source: load_source(DataConfig(source=source, path=f"{text}/none", train_list=list_)))
    answer(lambda: read_backbone(f"./{text}", SIZE))
    answer(lambda: show(f"~{text}"))
