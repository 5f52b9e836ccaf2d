"""Position embeddings for another image size."""

import numpy as np
from jaxtyping import Float


def resize_positions(positions: Float[np.ndarray, "1 l d"], side: int) -> Float[np.ndarray, "1 m d"]:
    """Resample the grid of position embeddings: bicubic, antialiased when it shrinks, as timm's does.

    The class token's position stands first and stays as it is.

    Args:
        positions: class position, then a square grid row by row; float32.
        side: rows (and columns) of patches of the new grid.

    Returns:
        (1, 1 + side², d) float32; `positions` itself when it has that size.

    Example:
        >>> resize_positions(np.ones((1, 1 + 14**2, 8), np.float32), 24).shape
        (1, 577, 8)
    """
    import jax

    old = round((positions.shape[1] - 1) ** 0.5)
    if old == side:
        return positions
    d = positions.shape[2]
    # [row, column, d], without the class token, which has no place on the grid
    grid = positions[0, 1:].reshape(old, old, d)
    # On the host: a resize in bfloat16 matrix units (TPU) would lose half of the digits.
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.default_matmul_precision("highest"):
        new = np.asarray(jax.image.resize(grid, (side, side, d), "bicubic", antialias=True))
    return np.concatenate([positions[:, :1], new.reshape(1, side * side, d)], axis=1)
