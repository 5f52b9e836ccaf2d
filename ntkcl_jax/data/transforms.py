"""Random crops for training, resize and centre crop for testing.

The host versions (Pillow) are the reference: crop first, then resize. The device version repeats them in JAX, so that
an accelerator gets raw bytes and boxes instead of waiting for the host.
"""

import hashlib
import json
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from ntkcl_jax.config.data import NORMALIZATIONS, DataConfig
from ntkcl_jax.data.decode import MAX_PIXELS
from ntkcl_jax.errors import DataError

if TYPE_CHECKING:
    import jax

TRIES = 10  # as torchvision's RandomResizedCrop


def crop_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop.

    Up to ten times: area = height * width * U(scale), aspect = exp U(log ratio), sides rounded; the first box that fits
    is placed uniformly. If none fits: the largest centred box whose aspect is within `ratio`.

    Args:
        rng: where the numbers come from.
        height: of the image, pixels.
        width: of the image, pixels.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.

    Returns:
        (top, left, height, width) of the box, pixels; inside the image and not empty.

    Example:
        >>> crop_box(np.random.default_rng(0), 28, 28, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        (0, 0, 28, 28)
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        area_draw, ratio_draw, top_draw, left_draw = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * ratio_draw)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(top_draw * (height - box_height + 1)), int(left_draw * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height = max(1, min(height, round(width / ratio[0])))
    box_width = max(1, min(width, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def train_transform_host(
    image: UInt8[np.ndarray, "h w 3"], size: int, box: tuple[int, int, int, int], flip: bool
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut out `box`, resize it to a square (bilinear, antialiased), and mirror it left to right if `flip`.

    Args:
        image: RGB bytes.
        size: side of the result, pixels.
        box: (top, left, height, width), as from `crop_box`.
        flip: whether to mirror.

    Returns:
        RGB bytes.
    """
    top, left, height, width = box
    crop = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
    out = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    return out[:, ::-1] if flip else out


def test_transform(image: UInt8[np.ndarray, "h w 3"], resize: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resize the shorter side to `resize` (bicubic, antialiased; the longer one rounded down) and cut out the centre.

    An image that has the wanted shorter side isn't resampled. The crop's corner is rounded half to even.

    Args:
        image: RGB bytes.
        resize: shorter side after resizing, pixels.
        size: side of the centre crop, pixels; at most `resize`.

    Returns:
        RGB bytes.

    Raises:
        DataError: `resize` is smaller than `size`, or the image is so narrow that resizing it would take gigabytes.

    Example:
        >>> test_transform(np.zeros((30, 40, 3), np.uint8), resize=16, size=14).shape
        (14, 14, 3)
    """
    if resize < size:
        raise DataError(f"data.resize={resize} is smaller than the network's image size {size}; use at least {size}")
    height, width = image.shape[:2]
    short = min(height, width)
    # Rounded down as in torchvision; the shorter side comes out exactly
    new_height, new_width = int(resize * height / short), int(resize * width / short)
    # The longer side grows with the ratio: a 40,000 x 1 image would take gigabytes
    if new_height * new_width > MAX_PIXELS:
        raise DataError(f"an image of {width} x {height} pixels is too narrow for data.resize={resize}; remove it")
    if (new_height, new_width) != (height, width):
        image = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC))
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return image[top : top + size, left : left + size]


def preprocessing(data: DataConfig, size: int) -> dict[str, str]:
    """Facts of the way from an image file to the network's input at test time, and their hash under `id`.

    Two runs with one id give the network the same numbers for the same file.

    Example:
        >>> preprocessing(DataConfig(resize=256), 224)["crop"]
        'centre 224 x 224'
    """
    mean, std = NORMALIZATIONS[data.normalize]
    facts = {
        "colours": "RGB, transparency over white, EXIF orientation ignored" + (", inverted" if data.invert else ""),
        "resize": f"shorter side to {data.resize}",
        "interpolation": "bicubic, antialiased",
        "crop": f"centre {size} x {size}",
        "normalize": f"{data.normalize}: from [0, 1] minus {list(mean)} over {list(std)}",
    }
    # Sorted keys: the id mustn't depend on the order in which the facts stand above
    return {"id": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12], **facts}


def crop_resize_device(
    images: "UInt8[jax.Array, 'b h w 3']",
    boxes: "Float32[jax.Array, 'b 4']",
    flips: "Bool[jax.Array, ' b']",
    size: int,
) -> "Float32[jax.Array, 'b size size 3']":
    """Do `train_transform_host` for a batch on the device; traceable, so it can be part of a jitted step.

    Resizing is two matrix products with triangle-filter weights that are zero outside the box. Pillow rounds to bytes
    after each of its two passes, and which pass comes first depends on its version; here only the result is
    rounded. So the two differ by at most 1 of 255, in about one value of six.

    Args:
        images: RGB bytes.
        boxes: (top, left, height, width) of each, pixels, whole numbers.
        flips: whether to mirror each left to right.
        size: side of the result, pixels.

    Returns:
        RGB in [0, 1], multiples of 1/255.
    """
    import jax
    import jax.numpy as jnp

    def resize(image: Float[jax.Array, "h w 3"], box: Float32[jax.Array, " 4"]) -> Float[jax.Array, "size size 3"]:
        top, left, height, width = box
        # The box is data, not shape: crops of all sizes share one compiled program
        columns = _triangle_weights(image.shape[1], left, width, size)
        rows = _triangle_weights(image.shape[0], top, height, size)
        # `highest`: TF32 or bfloat16 products would miss by more than a byte's rounding
        image = jnp.einsum("ow,hwc->hoc", columns, image, precision="highest")
        return jnp.round(jnp.einsum("oh,hwc->owc", rows, image, precision="highest"))

    # Rounded first, then scaled: the values are those of bytes
    out = jax.vmap(resize)(images.astype(jnp.float32), boxes) / 255
    return jnp.where(flips[:, None, None, None], out[:, :, ::-1], out)


def _triangle_weights(
    length: int, start: "Float32[jax.Array, '']", extent: "Float32[jax.Array, '']", size: int
) -> "Float32[jax.Array, 'size length']":
    """Weights that take `extent` pixels from `start` on to `size` pixels; each row sums to 1."""
    import jax.numpy as jnp

    step = extent / size
    # [size] centres of output pixels, in the input's coordinates, where pixel i covers i to i + 1
    centres = start + (jnp.arange(size) + 0.5) * step
    pixels = jnp.arange(length)
    # Widened by the step when shrinking (antialias); at least one pixel wide when enlarging
    weights = jnp.maximum(0, 1 - jnp.abs(pixels + 0.5 - centres[:, None]) / jnp.maximum(step, 1))
    # Nothing from outside the box, as if it had been cut out first; the rest is renormalised as Pillow does
    weights = jnp.where((pixels >= start) & (pixels < start + extent), weights, 0)
    return weights / weights.sum(1, keepdims=True)
