"""Small affine views for training: the image as it is tested, turned, shifted, zoomed and sheared a little.

A random crop cuts strokes off characters and parts off icons, which fill their frame and whose class depends on all of
it; a small affine map doesn't. The numbers are drawn as by torchvision's RandomAffine, but the shift isn't rounded to
whole pixels, and what comes from outside the image repeats its edge: paper stays paper, whatever its colour.

The host version (Pillow) is the reference, the device version repeats it in JAX.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from ntkcl_jax.config.data import DataConfig

if TYPE_CHECKING:
    import jax

Warp = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the point (x, y) of the view shows the point (a x + b y + c, d x + e y + f) of the image; pixels,
where pixel i covers i to i + 1."""
UNCHANGED: Warp = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The view is the image."""


def affine_warp(rng: np.random.Generator, size: int, data: DataConfig) -> Warp:
    """Draw an affine view.

    About the image's centre, the image is sheared along x, turned (clockwise, as y points down) and zoomed, then
    shifted: with angle r, shear k, zoom s and shift t,

        out = centre + t + s [[cos r, -sin r], [sin r, cos r]] [[1, -tan k], [0, 1]] (in - centre).

    All are uniform: r within ± `affine_degrees`, each t within ± `affine_translate` of the side, s in `affine_scale`, k
    within ± `affine_shear`.

    Args:
        rng: where the numbers come from.
        size: side of the image, pixels.
        data: their ranges.

    Returns:
        The inverse of the map above: where each point of the view comes from.

    Example:
        >>> still = DataConfig(affine_degrees=0, affine_translate=(0, 0), affine_scale=(1, 1), affine_shear=0)
        >>> affine_warp(np.random.default_rng(0), 28, still) == UNCHANGED
        True
    """
    turn_draw, right_draw, down_draw, zoom_draw, shear_draw = rng.random(5).tolist()
    turn = math.radians(data.affine_degrees * (2 * turn_draw - 1))
    right, down = (
        size * share * (2 * draw - 1)
        for share, draw in zip(data.affine_translate, (right_draw, down_draw), strict=True)
    )
    low, high = data.affine_scale
    zoom = low + (high - low) * zoom_draw
    slope = math.tan(math.radians(data.affine_shear * (2 * shear_draw - 1)))
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    # [[1, slope], [0, 1]] after a turn back: the inverse of turn after shear
    a, b, d, e = cos - slope * sin, sin + slope * cos, -sin, cos
    middle = size / 2
    x, y = middle + right, middle + down  # where the image's centre has gone
    return a, b, middle - a * x - b * y, d, e, middle - d * x - e * y


def affine_view_host(
    image: UInt8[np.ndarray, "size size 3"], warp: Warp, flip: bool
) -> UInt8[np.ndarray, "size size 3"]:
    """Show an image through an affine map (bilinear, beyond its edge the nearest pixel), then mirror it if `flip`.

    Args:
        image: RGB bytes under the test transform.
        warp: as from `affine_warp`.
        flip: whether to mirror left to right.

    Returns:
        RGB bytes. Pillow cuts fractions off; a map that moves no pixel changes no bit.
    """
    size = len(image)
    a, b, c, d, e, f = warp
    # An affine map is furthest out at a corner
    ends = (0.5, size - 0.5)
    reach = [p * x + q * y + r for p, q, r in ((a, b, c), (d, e, f)) for x in ends for y in ends]
    # Pillow has one colour for everything outside, so the edge is repeated as far as the view reaches
    margin = max(0, math.floor(max(-min(reach), max(reach) - size)) + 1)
    wide = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    moved = (a, b, c + margin, d, e, f + margin)
    out = np.asarray(wide.transform((size, size), Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR))
    return out[:, ::-1] if flip else out


def affine_view_device(
    images: "UInt8[jax.Array, 'b size size 3']", warps: "Float32[jax.Array, 'b 6']", flips: "Bool[jax.Array, ' b']"
) -> "Float32[jax.Array, 'b size size 3']":
    """Do `affine_view_host` for a batch on the device; traceable, so it can be part of a jitted step.

    Places are float32 here and float64 in Pillow, so that a fraction near a whole number may be cut off on another
    side: by 1 of 255, in about one value of a thousand.

    Args:
        images: RGB bytes under the test transform.
        warps: of each, as from `affine_warp`.
        flips: whether to mirror each left to right.

    Returns:
        RGB in [0, 1], multiples of 1/255.
    """
    import jax
    import jax.numpy as jnp

    size = images.shape[1]

    def view(image: Float[jax.Array, "size size 3"], warp: Float32[jax.Array, " 6"]) -> Float[jax.Array, "size size 3"]:
        a, b, c, d, e, f = warp
        middles = jnp.arange(size) + 0.5
        x, y = middles[None, :], middles[:, None]

        def neighbours(place: Float[jax.Array, "size size"]) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Pixels below and above a place, and how far it is from the first to the second."""
            low = jnp.floor(place)
            # Clipped one by one: beyond the edge both are the edge's pixel
            first, second = (jnp.clip(low + i, 0, size - 1).astype(jnp.int32) for i in (0, 1))
            return first, second, (place - low)[..., None]

        left, right, along = neighbours(a * x + b * y + c - 0.5)
        top, bottom, down = neighbours(d * x + e * y + f - 0.5)

        # Written as Pillow has it: of equal pixels exactly their value, which `floor` would else take one from
        def between(
            one: Float[jax.Array, "size size 3"], other: Float[jax.Array, "size size 3"], share: jax.Array
        ) -> Float[jax.Array, "size size 3"]:
            return one + (other - one) * share

        upper = between(image[top, left], image[top, right], along)
        lower = between(image[bottom, left], image[bottom, right], along)
        return jnp.floor(between(upper, lower, down))

    out = jax.vmap(view)(images.astype(jnp.float32), warps) / 255
    return jnp.where(flips[:, None, None, None], out[:, :, ::-1], out)
