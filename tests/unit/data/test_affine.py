"""Affine views: what is drawn, what is seen through a map, device against host."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.affine import UNCHANGED, Warp, affine_view_device, affine_view_host, affine_warp
from tests.unit.data.test_transforms import picture

STILL = DataConfig(affine_degrees=0, affine_translate=(0, 0), affine_scale=(1, 1), affine_shear=0)
DEVICE = jax.jit(affine_view_device)
WILD = DataConfig(affine_degrees=180, affine_translate=(1, 1), affine_scale=(0.2, 5), affine_shear=60)


def warps(data: DataConfig, size: int, count: int, seed: int = 0) -> list[Warp]:
    rng = np.random.default_rng(seed)
    return [affine_warp(rng, size, data) for _ in range(count)]


def slow_view(image: np.ndarray, warp: Warp) -> np.ndarray:
    """Pixel by pixel: where its middle comes from, and the four pixels around that place, or the edge's."""
    size, pixels = len(image), image.astype(float)
    a, b, c, d, e, f = warp
    out = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            x = a * (column + 0.5) + b * (row + 0.5) + c - 0.5
            y = d * (column + 0.5) + e * (row + 0.5) + f - 0.5
            left, top = int(np.floor(x)), int(np.floor(y))
            value = np.zeros(3)
            for i in (0, 1):
                for j in (0, 1):
                    share = (1 - abs(y - top - i)) * (1 - abs(x - left - j))
                    value += share * pixels[min(max(top + i, 0), size - 1), min(max(left + j, 0), size - 1)]
            out[row, column] = np.floor(value + 1e-9)  # sums in another order may end just below a whole number
    return out


@pytest.mark.parametrize("data", [DataConfig(), WILD])
@pytest.mark.parametrize("size", [1, 9, 16])
def test_a_view_is_bilinear_at_the_place_that_the_map_names(data: DataConfig, size: int) -> None:
    for seed, warp in enumerate(warps(data, size, 6)):
        image = picture(size, size, seed)
        assert np.array_equal(affine_view_host(image, warp, False), slow_view(image, warp))
        assert np.array_equal(affine_view_host(image, warp, True), slow_view(image, warp)[:, ::-1])


def test_a_dot_goes_where_shear_turn_zoom_and_shift_send_it() -> None:
    size, at = 101, np.array([70.0, 40.0])  # x, y of a dot's middle
    grid = np.mgrid[:size, :size][::-1] + 0.5
    dot = 250 * np.exp(-np.square(grid - at[:, None, None]).sum(axis=0) / 8)
    image = np.repeat(dot[..., None], 3, axis=-1).astype(np.uint8)
    draws = [0.9, 0.7, 0.2, 0.8, 0.6]  # turn, right, down, zoom, shear

    class Given(np.random.Generator):
        def random(self, count: int) -> np.ndarray:  # ty: ignore[invalid-method-override]
            return np.array(draws[:count])

    data = DataConfig(affine_degrees=20, affine_translate=(0.1, 0.2), affine_scale=(0.9, 1.3), affine_shear=15)
    warp = affine_warp(Given(np.random.PCG64(0)), size, data)
    turn, shear, zoom = np.radians(20 * 0.8), np.radians(15 * 0.2), 0.9 + 0.4 * 0.8
    sheared = np.array([at[0] - size / 2 - np.tan(shear) * (at[1] - size / 2), at[1] - size / 2])
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ sheared
    wanted = size / 2 + zoom * turned + size * np.array([0.1 * 0.4, 0.2 * -0.6])
    seen = affine_view_host(image, warp, False)[..., 0].astype(float)
    np.testing.assert_allclose((grid * seen).sum(axis=(1, 2)) / seen.sum(), wanted, atol=0.05)


def test_draws_are_uniform_within_their_ranges() -> None:
    data = DataConfig(affine_degrees=10, affine_translate=(0.1, 0.3), affine_scale=(0.8, 1.4), affine_shear=20)
    found = []
    for a, b, c, d, e, f in warps(data, 50, 2000):
        back = np.array([[a, b], [d, e]])
        forward = np.linalg.inv(back)
        zoom = np.hypot(*forward[:, 0])
        turn = np.arctan2(forward[1, 0], forward[0, 0])
        shear = np.array([np.cos(turn), np.sin(turn)]) @ forward[:, 1] / -zoom
        shift = forward @ (np.array([25, 25]) - [c, f]) - 25  # where the centre is seen
        found.append([np.degrees(turn) / 10, *(shift / [5, 15]), (zoom - 1.1) / 0.3, np.degrees(np.arctan(shear)) / 20])
    drawn = np.array(found)
    assert np.abs(drawn).max() < 1 + 1e-9
    np.testing.assert_allclose(np.quantile(drawn, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0).T,
                               np.tile([-0.9, -0.5, 0, 0.5, 0.9], (5, 1)), atol=0.07)  # fmt: skip
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.1


@pytest.mark.parametrize("size", [1, 28, 33])
def test_a_map_that_moves_nothing_changes_no_bit(size: int) -> None:
    image, flips = picture(size, size), np.array([False, True])
    assert warps(STILL, size, 3) == [UNCHANGED] * 3
    assert np.array_equal(affine_view_host(image, UNCHANGED, False), image)
    assert np.array_equal(affine_view_host(image, UNCHANGED, True), image[:, ::-1])
    device = DEVICE(np.stack([image, image]), np.array([UNCHANGED] * 2, np.float32), flips)
    assert np.array_equal(np.rint(np.asarray(device) * 255), [image, image[:, ::-1]])


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 1000))
def test_paper_stays_paper_whatever_its_colour(colour: tuple[int, int, int], seed: int) -> None:
    image, drawn = np.tile(np.array(colour, np.uint8), (12, 12, 1)), warps(WILD, 12, 3, seed)
    device = DEVICE(np.stack([image] * 3), np.array(drawn, np.float32), np.zeros(3, bool))
    for warp, seen in zip(drawn, np.asarray(device), strict=True):
        assert np.array_equal(affine_view_host(image, warp, False), image)
        assert np.array_equal(np.rint(seen * 255), image)


def test_a_view_far_outside_shows_the_edge() -> None:
    image = picture(8, 8)
    assert np.array_equal(affine_view_host(image, (1, 0, 100, 0, 1, 0), False), np.repeat(image[:, -1:], 8, axis=1))
    assert np.array_equal(affine_view_host(image, (1, 0, 0, 0, 1, -100), False), np.repeat(image[:1], 8, axis=0))


@pytest.mark.parametrize("data", [DataConfig(), WILD])
@pytest.mark.parametrize("size", [28, 96])
def test_the_device_view_equals_the_host_view_but_for_a_few_roundings(data: DataConfig, size: int) -> None:
    count = 24
    images = np.stack([picture(size, size, seed) for seed in range(count)])
    drawn, flips = warps(data, size, count), np.arange(count) % 2 == 1
    host = np.stack([affine_view_host(*one) for one in zip(images, drawn, flips.tolist(), strict=True)])
    device = DEVICE(images, np.array(drawn, np.float32), flips)
    assert device.shape == (count, size, size, 3) and device.dtype == np.float32
    difference = np.abs(np.asarray(device) * 255 - host)
    assert difference.max() < 1.001
    assert difference.mean() < 0.005
    assert np.abs(np.asarray(device) * 255 - np.rint(np.asarray(device) * 255)).max() < 1e-4
