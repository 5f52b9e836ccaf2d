"""Odd images and odd folders: each is read as the document says, or refused in one line that names it."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import Source, load_source
from ntkcl_jax.data.decode import decode
from ntkcl_jax.errors import DataError

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def png(file: Path, samples: np.ndarray, kind: int, **chunks: bytes) -> Path:
    """Write a PNG by hand, as Pillow can't write all kinds: samples (h, w, c), uint8 or uint16."""
    height, width = samples.shape[:2]

    def chunk(name: str, content: bytes) -> bytes:
        whole = name.encode() + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    depth = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{samples.dtype.itemsize}").tobytes() for row in samples)
    parts = {"IHDR": struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)}
    parts |= chunks | {"IDAT": zlib.compress(rows), "IEND": b""}
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts.items()))
    return file


DEEP = [0, 257 * 7, 65535]


@pytest.mark.parametrize(
    ("samples", "kind", "chunks", "pixels"),
    [
        ([[DEEP]], RGB, {}, [[0, 7, 255]]),
        ([[[*DEEP, 65535], [*DEEP, 0]]], RGB_ALPHA, {}, [[0, 7, 255], [255, 255, 255]]),
        ([[[257 * 7, 65535], [257 * 7, 0]]], GREY_ALPHA, {}, [[7] * 3, [255] * 3]),
        ([[[257 * 7], [257 * 9]]], GREY, {"tRNS": struct.pack(">H", 257 * 7)}, [[255] * 3, [9] * 3]),
    ],
    ids=["rgb", "rgb with alpha", "grey with alpha", "grey with a transparent value"],
)
def test_sixteen_bits_become_eight_and_what_is_transparent_white(
    tmp_path: Path, samples: list, kind: int, chunks: dict[str, bytes], pixels: list
) -> None:
    assert decode(png(tmp_path / "x.png", np.array(samples, np.uint16), kind, **chunks))[0].tolist() == pixels


def test_transparent_values_of_eight_bit_images_and_half_transparent_palettes_are_laid_over_white(
    tmp_path: Path,
) -> None:
    grey = png(tmp_path / "g.png", np.array([[[100], [50]]], np.uint8), GREY, tRNS=struct.pack(">H", 100))
    assert decode(grey)[0, :, 0].tolist() == [255, 50]
    colour = np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)
    keyed = png(tmp_path / "c.png", colour, RGB, tRNS=struct.pack(">HHH", 1, 2, 3))
    assert decode(keyed)[0].tolist() == [[255, 255, 255], [1, 2, 4]]
    palette = {"PLTE": bytes([10, 20, 30, 200, 100, 0, 1, 1, 1]), "tRNS": b"\x00\x80"}
    half = decode(png(tmp_path / "p.png", np.array([[[0], [1], [2]]], np.uint8), PALETTE, **palette))
    assert half[0, 0].tolist() == [255, 255, 255]
    assert np.abs(half[0, 1].astype(int) - [227, 177, 127]).max() <= 1
    assert half[0, 2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 4, 3), (4, 0, 3)])
def test_an_image_without_pixels_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = png(tmp_path / "nothing.png", np.zeros(shape, np.uint8), RGB)
    with pytest.raises(DataError, match=r"nothing\.png") as said:
        decode(file)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_of_every_kind_is_named(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = tmp_path / f"cut.{ending}"
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"can't read .*cut\.{ending} as an image"):
        decode(file)


@pytest.mark.parametrize(("ending", "size"), [("jpg", (4, 8)), ("png", (4, 8)), ("webp", (4, 8)), ("tif", (8, 4))])
def test_an_orientation_is_what_pillow_makes_of_it_as_for_torchvision(
    tmp_path: Path, ending: str, size: tuple[int, int]
) -> None:
    """Ignored; but Pillow's TIFF reader turns the image itself."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / f"turned.{ending}"
    Image.fromarray(np.full((4, 8, 3), 90, np.uint8)).save(file, exif=exif)
    assert decode(file).shape[:2] == size
    with Image.open(file) as image:
        assert np.asarray(image.convert("RGB")).shape[:2] == size


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for side in ("train", "test"):
        for i, name in enumerate(("ant", "bee")):
            (tmp_path / side / name).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((4, 5, 3), 50 * i + number, np.uint8)).save(
                    tmp_path / side / name / f"{number}.png"
                )
    return tmp_path


def load(root: Path, source: str = "folder") -> Source:
    return load_source(DataConfig(source=source, path=str(root)))


def test_a_folder_that_is_called_like_an_image_is_a_folder(root: Path) -> None:
    (root / "train" / "ant" / "x.png").mkdir()
    assert len(load(root).train) == 4
    (root / "train" / "ant" / "0.png").rename(root / "train" / "ant" / "x.png" / "0.png")
    with pytest.raises(DataError, match=r"ant/x\.png is a folder of images inside .*ant, which was taken for a class"):
        load(root)


def test_links_to_images_and_to_classes_are_followed_and_count_as_copies(root: Path) -> None:
    os.symlink(root / "train" / "ant" / "1.png", root / "test" / "ant" / "2.png")
    source = load(root)
    assert (2, 1) in source.duplicates
    for side in ("train", "test"):
        os.symlink(root / side / "bee", root / side / "cat", target_is_directory=True)
    assert load(root).class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_class_whose_link_is_broken_is_named(root: Path, side: str) -> None:
    os.symlink(root / "nowhere", root / side / "cat")
    with pytest.raises(DataError, match=rf"{side}/cat is a broken link where a class folder is expected"):
        load(root)
    with pytest.raises(DataError, match="is a broken link where a class folder is expected"):
        load(root / side)


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
def test_a_class_on_one_side_only_is_named(root: Path, there: str, missing: str) -> None:
    (root / there / "cat").mkdir()
    (root / there / "ant" / "0.png").rename(root / there / "cat" / "0.png")
    with pytest.raises(DataError, match=rf"only in {there}: cat;.*"):
        load(root)


@pytest.mark.parametrize(
    ("train", "test", "line"),
    [
        ("ant/0.png 0\nbee/0.png 1", "ant/1.png 0", "1 of 2 classes have no test image, the first is 'bee'"),
        ("ant/0.png 0", "ant/1.png 0\nbee/1.png 1", "1 of 2 classes have no training image, the first is 'bee'"),
        ("ant/0.png ant", "ant/1.png ant\nbee/1.png bee", "no training image, the first is 'bee'"),
        ("ant/0.png\nbee/0.png", "ant/1.png", "no test image, the first is 'bee'"),
        ("ant/0.png 0\nbee/0.png 5", "ant/1.png 0\nbee/1.png 1", r"train\.txt:2 has the label 5, out of range"),
        ("ant/0.png 0\nbee/0.png 1", "ant/1.png 0\nbee/1.png 3", "no image has the label 2"),
        ("ant/0.png 0.5\nbee/0.png 1", "ant/1.png 0", "has the label 0.5, the first lines have numbers"),
        ("ant/0.png 0\nant.png 1", "ant/1.png 0", r"train\.txt:2 names .*ant\.png, which is missing"),
    ],
)
def test_lists_whose_classes_or_labels_do_not_fit_are_refused(root: Path, train: str, test: str, line: str) -> None:
    (root / "train" / "ant.png").mkdir()  # a folder is no image, whatever it is called
    (root / "train.txt").write_text(train)
    (root / "test.txt").write_text(test)
    (root / "train").rename(root / "images")
    with pytest.raises(DataError, match=line) as said:
        load(root, "lists")
    assert "\n" not in str(said.value)
