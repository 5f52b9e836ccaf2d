"""One image file -> RGB bytes."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ntkcl_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""File names that count as images, in either case."""
MAX_PIXELS = 89_478_485
"""Largest image that is decoded (268 MB as RGB), pixels; Pillow's own line between a photo and a decompression bomb."""


def decode(file: Path, content: bytes | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image file as RGB.

    Grey is repeated; a palette is looked up; CMYK, YCbCr and the like are converted; 16-bit grey is scaled by 255/65535
    (not clipped); transparency is laid over white (opaque images are untouched); of an animation the first
    frame counts. An EXIF orientation is *not* applied, as the published runs and torchvision don't; but Pillow itself
    turns a TIFF by its orientation, for them too.

    Args:
        file: path of the image, or with `content` what messages call it.
        content: the file's bytes, where it isn't on the disk.

    Returns:
        The pixels, uint8.

    Raises:
        DataError: the file is missing, truncated, too large, no image, or holds numbers that are no colours; names it.
    """
    try:
        with Image.open(file if content is None else io.BytesIO(content)) as image:
            # The header has told the size; no pixel is decoded yet
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{file} has {image.width} x {image.height} pixels, more than {MAX_PIXELS}; shrink or remove it"
                )
            return np.asarray(_to_rgb(image, file))
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything inside its decoder
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"can't read {file} as an image ({reason}); replace or remove the file") from error


def _to_rgb(image: Image.Image, file: Path) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips at 255. 64 bits, for the product below
        values = np.asarray(image).astype(np.int64)
        if np.min(values) < 0 or np.max(values) > 65535:
            raise DataError(f"{file} holds 32-bit integers, not 8- or 16-bit grey; save it as an 8-bit image")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            # One grey value stands for transparent: white lies beneath
            values[values == clear] = 65535
        # Rounded to the nearest, in whole numbers
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"{file} holds floating-point pixels, whose white is unknown; save it as an 8-bit image")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        # `convert("RGB")` alone would drop the alpha channel and show the colour beneath it
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")
