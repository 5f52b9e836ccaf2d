"""Drawing characters: font file -> signed distance field -> distorted 28 x 28 image.

A character becomes a signed distance field once for each font; an image is a warped look-up in that field, cut at a
stroke width of choice. matplotlib (for its fonts), Pillow and SciPy are imported when they are needed.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from ntkcl_jax.errors import DataError

SIDE = 28
"""Height and width of an image, pixels."""
FIELD_SIDE = 64
"""Height and width of a distance field, field pixels."""
GLYPH_SIDE = 40
"""Longest side of the ink in a distance field, field pixels; the rest is margin."""


def font_path(font: str) -> Path:
    """Find a font file that matplotlib ships.

    Args:
        font: file name without folder and suffix, e.g. `"DejaVuSans"`.

    Raises:
        DataError: the installed matplotlib does not have this font.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file():
        raise DataError(f"expected the font {font}.ttf in {path.parent}, found none; install matplotlib >= 3.8")
    return path


@functools.cache
def font_characters(font: str) -> frozenset[str]:
    """List the characters that a font can draw and whose code points can be trusted."""
    from matplotlib.ft2font import FT2Font

    characters = frozenset(map(chr, FT2Font(str(font_path(font))).get_charmap()))
    # TeX's encodings put other shapes under most codes
    if font.startswith("cm"):
        return frozenset(c for c in characters if c.isascii() and c.isalpha())
    return characters


@functools.cache
def _pil_font(font: str, size: int) -> Any:
    from PIL import ImageFont

    # BASIC layout: no shaping library, so that the drawing doesn't depend on whether one is installed.
    return ImageFont.truetype(str(font_path(font)), size, layout_engine=ImageFont.Layout.BASIC)


def distance_field(character: str, font: str) -> Float[np.ndarray, "64 64"]:
    """Draw a character and measure each point's signed distance to the stroke's edge.

    The ink's bounding box is scaled (aspect kept) until its longest side is `GLYPH_SIDE`, and centred.

    Args:
        character: one character that the font has.
        font: file name without folder and suffix.

    Returns:
        Distances in field pixels, float32, positive inside the ink.

    Raises:
        DataError: the font draws nothing for the character.
    """
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    fine = 2  # the ink is drawn at twice the field's resolution
    # A font's em says little about the size of a glyph: measure at 100, then scale so that the ink fills the box
    probe = _pil_font(font, 100)
    left, top, right, bottom = probe.getbbox(character)
    longest = max(right - left, bottom - top)
    if longest < 1:
        raise DataError(f"expected ink for U+{ord(character):04X} in {font}, got an empty glyph; choose another font")
    # Bounded, since a glyph that is nearly a dot would ask for an enormous font
    drawer = _pil_font(font, min(1200, max(8, round(100 * fine * GLYPH_SIDE / longest))))
    left, top, right, bottom = drawer.getbbox(character)
    side = fine * FIELD_SIDE
    canvas = Image.new("L", (side, side), 0)
    origin = ((side - (left + right)) / 2, (side - (top + bottom)) / 2)
    ImageDraw.Draw(canvas).text((round(origin[0]), round(origin[1])), character, fill=255, font=drawer)
    ink = np.asarray(canvas) >= 128
    if not ink.any():
        raise DataError(f"expected ink for U+{ord(character):04X} in {font}, got an empty glyph; choose another font")
    # The transform measures to the centre of the nearest pixel across the edge, which lies half a pixel further off
    signed = np.where(ink, distance_transform_edt(ink) - 0.5, 0.5 - distance_transform_edt(~ink))
    # Mean over each 2 x 2 fine pixels, then from fine pixels to field pixels
    blocks = signed.reshape(FIELD_SIDE, fine, FIELD_SIDE, fine).mean((1, 3)) / fine
    return blocks.astype(np.float32)


def draw(
    fields: Float[np.ndarray, "n 64 64"], rng: np.random.Generator, strength: float
) -> UInt8[np.ndarray, "n 28 28"]:
    """Draw one distorted image of each distance field: light strokes on a dark ground.

    Rotation, shear, size, aspect, shift, an elastic warp, the stroke's width, softness and brightness are all drawn
    anew for each image. Only uniform draws and elementary arithmetic are used, to keep the bits alike on all machines.

    Args:
        fields: signed distances, positive inside.
        rng: the source of all randomness.
        strength: 0 gives upright, centred glyphs with their own stroke; 1 is the full pre-training distortion.

    Returns:
        Grey values 0 to 255.

    Example:
        >>> field = np.full((1, 64, 64), -9.0, np.float32)
        >>> field[:, 30:34] = 2.0
        >>> image = draw(field, np.random.default_rng(0), strength=0.0)[0]
        >>> int(image[14, 14]), int(image[2, 14])
        (255, 0)
    """
    n = len(fields)

    def spread(width: float) -> Float[np.ndarray, "n"]:
        return rng.uniform(-width, width, n) * strength

    half_tan = spread(0.19)  # tan of half the angle: up to 21.5 degrees, without calling sin and cos
    cos, sin = (1 - half_tan**2) / (1 + half_tan**2), 2 * half_tan / (1 + half_tan**2)
    # The order of the draws is part of the images: another one would give other data from the same seed
    shear, stretch, size = spread(0.35), 1 + spread(0.25), 20.0 * (1 + spread(0.22))
    zoom = GLYPH_SIDE / size  # field pixels for each image pixel
    # Rotation x shear x stretch, of determinant 1: image pixels to directions in the field, the size comes by `zoom`
    matrix = np.stack(
        [cos * stretch, (shear * cos - sin) / stretch, sin * stretch, (shear * sin + cos) / stretch], axis=-1
    ).reshape(n, 2, 2)
    # Elastic warp: 5 x 5 control shifts (image pixels), spread over the image by a smooth partition of unity.
    knots = rng.uniform(-1, 1, (n, 5, 5, 2)) * (rng.uniform(0, 3.2, (n, 1, 1, 1)) * strength)
    place = np.linspace(0, 4, SIDE)[:, None] - np.arange(5)[None, :]
    weight = np.clip(1 - np.abs(place), 0, 1)
    weight = weight * weight * (3 - 2 * weight)  # smoothstep: neighbours still add up to 1
    warp = np.tensordot(np.tensordot(knots, weight, (1, 1)), weight, (1, 1)).transpose(0, 2, 3, 1)  # (n, y, x, 2)
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)  # (y, x, [x, y])
    points = grid + warp + (rng.uniform(-2.5, 2.5, (n, 1, 1, 2)) * strength)
    # [n, 784, (x, y)] in field pixels, about the field's centre
    where = (points.reshape(n, -1, 2) @ matrix.transpose(0, 2, 1)) * zoom[:, None, None] + (FIELD_SIDE - 1) / 2
    distance = _look_up(fields, where) / zoom[:, None]
    # A stroke of constant half width h has mean inner distance h / 2.
    inside = fields > 0
    half = 2 * (fields * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1) / zoom
    # Wished half width in image pixels, drawn evenly in its logarithm; a glyph loses at most half of its own
    low, high = 0.4, 1.9
    wish = low * (high / low) ** rng.uniform(0, 1, n)
    # Beyond strength 1 shapes go on to be distorted, but pens don't
    change = np.clip(wish - half, -0.5 * half, 1.6) * min(strength, 1.0)
    soft = 0.9 + (rng.uniform(-0.3, 1.1, n) * min(strength, 1.0))
    bright = 1 - rng.uniform(0, 0.45, n) * min(strength, 1.0)
    # The edge, at distance 0, is half lit; over `soft` pixels across it the light goes from none to full
    light = np.clip(0.5 + (distance + change[:, None]) / soft[:, None], 0, 1) * bright[:, None]
    return np.rint(255 * light).astype(np.uint8).reshape(n, SIDE, SIDE)


def _look_up(fields: Float[np.ndarray, "n 64 64"], where: Float[np.ndarray, "n p 2"]) -> Float[np.ndarray, "n p"]:
    """Read fields between their pixels (bilinear); points outside get the border's value."""
    # Just below the last pixel, so that the corner to the lower right is still inside
    where = np.clip(where, 0, FIELD_SIDE - 1.001)
    corner = where.astype(np.int64)
    x, y = (where - corner).transpose(2, 0, 1).astype(np.float32)
    flat = fields.reshape(-1)
    index = corner[..., 1] * FIELD_SIDE + corner[..., 0] + np.arange(len(fields))[:, None] * FIELD_SIDE**2
    upper = flat[index] * (1 - x) + flat[index + 1] * x
    lower = flat[index + FIELD_SIDE] * (1 - x) + flat[index + FIELD_SIDE + 1] * x
    return upper * (1 - y) + lower * y
