"""Random crops, the test transform, and device against host."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ntkcl_jax.data import transforms
from ntkcl_jax.data.transforms import crop_box, crop_resize_device, train_transform_host
from ntkcl_jax.errors import DataError

SCALE, RATIO = (0.05, 1.0), (3 / 4, 4 / 3)


def picture(height, width, seed=0):
    """Smooth shapes plus noise: neither flat nor unlike a photo."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x[..., None] / rng.uniform(2, 9, 3)) * np.cos(y[..., None] / rng.uniform(2, 9, 3))
    return np.clip(127 + 100 * waves + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)


@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(lambda pair: tuple(sorted(pair))),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: tuple(sorted(pair))),
    seed=st.integers(0, 1000),
)
def test_a_box_lies_inside_the_image_and_is_not_empty(height, width, scale, ratio, seed):
    top, left, box_height, box_width = crop_box(np.random.default_rng(seed), height, width, scale, ratio)
    assert 0 <= top < top + box_height <= height
    assert 0 <= left < left + box_width <= width


def test_boxes_have_the_areas_shapes_and_places_that_were_asked_for():
    rng = np.random.default_rng(0)
    height, width = 300, 400
    top, left, box_height, box_width = np.array(
        [crop_box(rng, height, width, (0.1, 0.3), RATIO) for _ in range(4000)], float
    ).T
    share = box_height * box_width / (height * width)
    assert share.min() > 0.099 and share.max() < 0.302
    assert abs(share.mean() - 0.2) < 0.004  # standard error 0.001
    log_ratio = np.log(box_width / box_height)
    assert np.abs(log_ratio).max() < np.log(4 / 3) + 0.02
    assert abs(log_ratio.mean()) < 0.012  # standard error 0.003
    assert abs(log_ratio.std() - 2 * np.log(4 / 3) / np.sqrt(12)) < 0.01
    for place in (top / (height - box_height), left / (width - box_width)):
        assert abs(place.mean() - 0.5) < 0.02  # standard error 0.005
        assert place.min() == 0 and place.max() == 1


@pytest.mark.parametrize(
    ("height", "width", "ratio", "box"),
    [
        (10, 100, RATIO, (0, 43, 10, 13)),  # too wide: full height, 10 * 4/3 wide, centred
        (100, 10, RATIO, (43, 0, 13, 10)),  # too narrow: full width
        (20, 20, (1.0, 1.0), (0, 0, 20, 20)),
        (1, 200, (30.0, 40.0), (0, 80, 1, 40)),
    ],
)
def test_when_no_box_fits_the_largest_allowed_centred_one_is_taken(height, width, ratio, box):
    assert crop_box(np.random.default_rng(0), height, width, (1.0, 1.0), ratio) == box


def test_the_training_transform_crops_then_resizes_then_mirrors():
    image = picture(40, 50)
    expected = np.asarray(Image.fromarray(image[5:25, 10:40]).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(train_transform_host(image, 16, (5, 10, 20, 30), False), expected)
    assert np.array_equal(train_transform_host(image, 16, (5, 10, 20, 30), True), expected[:, ::-1])


def test_the_whole_image_at_its_own_size_is_left_alone():
    image = picture(28, 28)
    assert np.array_equal(train_transform_host(image, 28, (0, 0, 28, 28), False), image)
    assert transforms.test_transform(image, 28, 28) is not None
    assert np.array_equal(transforms.test_transform(image, 28, 28), image)


@pytest.mark.parametrize(
    ("height", "width", "resize", "size", "new", "corner"),
    [
        (375, 500, 256, 224, (256, 341), (16, 58)),  # 341.33 is cut; 58.5 rounds to the even 58
        (500, 375, 256, 224, (341, 256), (58, 16)),
        (64, 64, 256, 224, (256, 256), (16, 16)),
        (105, 105, 28, 28, (28, 28), (0, 0)),
        (28, 31, 28, 28, (28, 31), (0, 2)),  # 1.5 rounds to the even 2
        (28, 29, 28, 28, (28, 29), (0, 0)),  # 0.5 rounds to the even 0
        (256, 300, 256, 224, (256, 300), (16, 38)),  # already there: no resampling
    ],
)
def test_the_test_transform_is_pillows_bicubic_and_a_centre_crop(height, width, resize, size, new, corner):
    image = picture(height, width)
    whole = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC))
    top, left = corner
    assert np.array_equal(transforms.test_transform(image, resize, size), whole[top : top + size, left : left + size])


def test_a_resize_below_the_networks_size_is_refused():
    with pytest.raises(
        DataError, match=r"data\.resize=20 is smaller than the network's image size 28; use at least 28"
    ):
        transforms.test_transform(picture(30, 30), 20, 28)


def test_a_very_narrow_image_is_refused_instead_of_filling_memory():
    with pytest.raises(DataError, match=r"40000 x 1 pixels is too narrow"):
        transforms.test_transform(np.zeros((1, 40000, 3), np.uint8), 256, 224)


@pytest.mark.parametrize(("height", "width", "size"), [(28, 28, 28), (105, 105, 28), (64, 64, 96), (90, 120, 56)])
def test_the_device_crop_equals_the_host_crop_to_a_bytes_rounding(height, width, size):
    rng = np.random.default_rng(1)
    count = 24
    images = np.stack([picture(height, width, seed) for seed in range(count)])
    boxes = [crop_box(rng, height, width, SCALE, RATIO) for _ in range(count)]
    boxes[0], boxes[1], boxes[2] = (0, 0, height, width), (0, 0, 1, 1), (height - 3, width - 2, 3, 2)
    flips = (rng.random(count) < 0.5).tolist()
    host = np.stack([train_transform_host(*one) for one in zip(images, [size] * count, boxes, flips, strict=True)])
    device = jax.jit(crop_resize_device, static_argnums=3)(images, np.array(boxes, np.float32), np.array(flips), size)
    assert device.shape == (count, size, size, 3) and device.dtype == np.float32
    difference = np.abs(np.asarray(device) * 255 - host)
    assert difference.max() < 1.001
    assert difference.mean() < 0.2


def test_the_device_crop_gives_whole_bytes_in_the_unit_interval():
    out = np.asarray(
        crop_resize_device(picture(30, 30)[None], np.array([[3, 4, 9, 11]], np.float32), np.array([True]), 8)
    )
    assert out.min() >= 0 and out.max() <= 1
    assert np.abs(out * 255 - np.rint(out * 255)).max() < 1e-4
