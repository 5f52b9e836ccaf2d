"""Folders of image files, their damage and their colours."""

import os
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import decode as decoding
from ntkcl_jax.data import load_source, prepare
from ntkcl_jax.data.decode import decode
from ntkcl_jax.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def write(file, image=RGB, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, **options)
    return file


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for position, name in enumerate(("cat", "ant", "Bee")):
            for number in range(count):
                write(tmp_path / split / name / f"{number}.png", np.full((5, 6, 3), 10 * position + number, np.uint8))
    return tmp_path


def load(root, **changes):
    return load_source(DataConfig(source="folder", path=str(root), **changes))


def test_classes_and_files_are_sorted_by_name(root):
    source = load(root)
    assert source.class_names == ("Bee", "ant", "cat")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [int(source.train.load(i)[0, 0, 0]) for i in range(9)] == [20, 21, 22, 10, 11, 12, 0, 1, 2]
    assert source.train.names(3) == str(root / "train" / "ant" / "0.png")
    assert source.train.uniform_size is None


def test_limit_and_inversion_reach_files(root):
    source = load(root, limit_per_class=2, invert=True)
    assert len(source.train) == 6
    assert int(source.train.load(5)[0, 0, 0]) == 255 - 1


def test_endings_count_in_either_case_and_other_or_hidden_files_are_passed_over(root):
    write(root / "train" / "ant" / "9.JPEG")
    (root / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "ant" / ".hidden.png").write_bytes(b"x")
    (root / "train" / ".git").mkdir()
    (root / "train" / "readme.txt").write_text("x")
    source = load(root)
    assert (source.train.labels == 1).sum() == 4
    assert len(source.class_names) == 3


def test_a_circle_of_links_is_not_followed(root):
    os.symlink(root / "train", root / "train" / "ant" / "again")
    os.symlink(root / "train" / "ant", root / "train" / "ant" / "again.png")
    assert len(load(root).train) == 9


def test_a_broken_or_circular_link_is_named(root):
    link = root / "train" / "ant" / "x.png"
    os.symlink(link, link)
    with pytest.raises(DataError, match=r"x\.png is a broken link"):
        load(root)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (
            lambda root: root.rename(root.with_name("elsewhere")),
            r"is missing, but must be a folder; expected <path>/train",
        ),
        (lambda root: (root / "test").rename(root / "val"), r"test is missing; expected <path>/train"),
        (lambda root: (root / "train").rename(root / "training"), r"train is missing"),
        (lambda root: (root / "test" / "ant").rename(root / "test" / "ape"), r"only in train: ant; only in test: ape;"),
        (lambda root: remove(root / "train" / "cat"), r"class folder .*train/cat has no images"),
    ],
)
def test_a_wrong_layout_is_refused_in_one_line(root, break_it, line):
    break_it(root)
    with pytest.raises(DataError, match=line) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_file_given_as_folder_and_a_split_without_classes_are_refused(root, tmp_path):
    with pytest.raises(DataError, match="is a file, but must be a folder"):
        load(root / "train" / "ant" / "0.png")
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="has no class folders"):
        load(empty)


def test_the_fingerprint_follows_content_and_names_but_not_the_place(root, tmp_path):
    first = load(root).fingerprint
    assert load(root).fingerprint == first
    assert load(root, invert=True).fingerprint != first
    moved = root.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert load(moved).fingerprint == first
    (moved / "train" / "ant" / "2.png").rename(moved / "train" / "ant" / "3.png")
    renamed = load(moved).fingerprint
    write(moved / "train" / "ant" / "3.png", np.full((5, 6, 3), 99, np.uint8))
    assert len({first, renamed, load(moved).fingerprint}) == 3


def test_a_truncated_image_is_named_when_it_is_loaded_and_when_prepared(root):
    file = write(root / "train" / "ant" / "1.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:4000])
    source = load(root)
    with pytest.raises(DataError, match=r"can't read .*ant/1\.png as an image .*replace or remove"):
        source.train.load(4)
    with pytest.raises(DataError, match=r"ant/1\.png"):
        prepare(source.train, np.arange(9), DataConfig(resize=8), 8)


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff\xe0"]
)
def test_what_is_no_image_is_named(tmp_path, content):
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"can't read .*x\.png as an image") as caught:
        decode(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_vanished_is_named(root):
    source = load(root)
    (root / "train" / "ant" / "1.png").unlink()
    with pytest.raises(DataError, match=r"ant/1\.png"):
        source.train.load(4)
    with pytest.raises(DataError, match=r"can't read .*ant/1\.png"):
        _ = source.fingerprint


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    file = write(tmp_path / "big.png")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 60)
    with pytest.raises(DataError, match=r"big\.png has 7 x 9 pixels, more than 60"):
        decode(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"can't read .*big\.png"):
        decode(file)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "webp", "jpg"])
def test_every_listed_format_is_read(tmp_path, ending):
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    options = {"lossless": True} if ending == "webp" else {}
    out = decode(write(tmp_path / f"x.{ending}", flat, **options))
    assert out.shape == (8, 8, 3) and out.dtype == np.uint8
    assert np.abs(out.astype(int) - flat).max() <= 3


def test_rgb_and_grey_are_exact(tmp_path):
    assert np.array_equal(decode(write(tmp_path / "rgb.png")), RGB)
    assert np.array_equal(decode(write(tmp_path / "grey.png", RGB[..., 0])), np.repeat(RGB[..., :1], 3, -1))
    bits = Image.fromarray(RGB[..., 0] > 127)
    assert np.array_equal(decode(write(tmp_path / "bits.png", bits))[..., 0], (RGB[..., 0] > 127) * np.uint8(255))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 7, 32768, 65535]], np.uint16)
    for ending in ("png", "tif"):
        out = decode(write(tmp_path / f"deep.{ending}", values))
        assert out[0, :, 0].tolist() == [0, 7, 128, 255]
        assert np.array_equal(out[..., 0], out[..., 2])


def test_transparency_is_laid_over_white(tmp_path):
    layers = np.array([[[255, 0, 0, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    out = decode(write(tmp_path / "alpha.png", layers))
    assert out[0, 0].tolist() == [255, 0, 0]
    assert out[0, 1].tolist() == [255, 255, 255]
    assert np.abs(out[0, 2].astype(int) - 127).max() <= 1
    grey = decode(write(tmp_path / "la.png", np.array([[[50, 255], [50, 0]]], np.uint8)))
    assert grey[0, :, 0].tolist() == [50, 255]


def test_palettes_are_looked_up_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    assert decode(write(tmp_path / "palette.png", image))[0].tolist() == [[10, 20, 30], [200, 100, 0]]
    out = decode(write(tmp_path / "clear.png", image, transparency=0))
    assert out[0].tolist() == [[255, 255, 255], [200, 100, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for ending in ("jpg", "tif"):
        out = decode(write(tmp_path / f"ink.{ending}", image))
        assert np.abs(out.astype(int) - [255, 0, 0]).max() <= 4


def test_numbers_that_are_no_colours_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"f\.tif holds floating-point pixels"):
        decode(write(tmp_path / "f.tif", RGB[..., 0].astype(np.float32)))
    with pytest.raises(DataError, match=r"i\.tif holds 32-bit integers"):
        decode(write(tmp_path / "i.tif", np.array([[-5, 100000]], np.int32)))


def test_an_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(write(tmp_path / "turned.jpg", RGB, exif=exif)).shape == (9, 7, 3)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    file = tmp_path / "moving.gif"
    file.write_bytes(buffer.getvalue())
    assert decode(file)[0, 0].tolist() == [255, 0, 0]
