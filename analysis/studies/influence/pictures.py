"""Small copies of images, so that a report can show them without the data set."""

import base64

import numpy as np
from jaxtyping import Float, UInt8

SIDE = 32
"""Most pixels of a side; a larger image is made smaller by whole factors."""


def thumbnail(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """A square image of pixels in [0, 1] at `SIDE` pixels at most: means of square blocks, what is over is cut off.

    Example:
        >>> thumbnail(np.ones((70, 70, 3))).shape, int(thumbnail(np.full((2, 2, 3), 0.2)).max())
        ((23, 23, 3), 51)
    """
    factor = -(-image.shape[0] // SIDE)
    side = image.shape[0] // factor
    blocks = image[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    return np.round(255 * blocks.mean(axis=(1, 3))).astype(np.uint8)


def encoded(image: Float[np.ndarray, "h w 3"]) -> str:
    """A thumbnail's bytes, rows of red, green and blue, in base64."""
    return base64.b64encode(thumbnail(image).tobytes()).decode()
