"""Images under the test transform, read again and again: kept in memory where they fit, streamed where they don't."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, Integer

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.batches import Batch, padded, prepare
from ntkcl_jax.data.images import ImageSet
from ntkcl_jax.errors import DataError

CACHE_BYTES = 2 * 1024**3
"""Transformed images of one side are kept in memory up to this many bytes."""


class PreparedImages:
    """One side of a source under the test transform; every image is decoded once if the side fits in memory."""

    def __init__(
        self, image_set: ImageSet, data: DataConfig, size: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Prepare all images now, or remember to stream them.

        Args:
            image_set: the side.
            data: resize and threads.
            size: side of the network's input, pixels.
            progress: called with (done, n) while preparing.
        """
        self.image_set, self.data, self.size = image_set, data, size
        small = len(image_set) * size * size * 3 <= CACHE_BYTES
        # All of the side, whatever the scenario takes of it: places in the cache are places in the side
        self.cache = prepare(image_set, np.arange(len(image_set)), data, size, progress) if small else None

    def images(self, indices: Integer[np.ndarray, " n"]) -> np.ndarray:
        """Transformed images (n, size, size, 3) uint8."""
        if self.cache is not None:
            return self.cache[indices]
        return prepare(self.image_set, indices, self.data, self.size)

    def batches(
        self,
        indices: Integer[np.ndarray, " n"],
        labels: Integer[np.ndarray, " n"],
        batch_size: int,
        rows: slice | None = None,
    ) -> Iterator[Batch]:
        """Batches in the order of `indices`, the last one padded; of each, `rows` (see `train_batches`)."""
        part = rows or slice(0, batch_size)
        for at in range(0, len(indices), batch_size):
            # Cut first, then this host's rows: hosts agree on the batches, and of a streamed side decode only their own
            chosen = slice(at, at + batch_size)
            yield padded(self.images(indices[chosen][part]), labels[chosen][part], part.stop - part.start)


def checked_positions(positions: Sequence[int] | Int[np.ndarray, "m"], count: int) -> Int[np.ndarray, "m"]:
    """Refuse what isn't a list of places among `count`; NumPy would count negative ones from the end."""
    array = np.asarray(positions)
    array = array.astype(int) if array.size == 0 else array  # an empty list comes as float64
    whole = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
    if not whole or ((array < 0) | (array >= count)).any():
        came = array[(array < 0) | (array >= count)][0] if whole else f"{array.dtype} of shape {array.shape}"
        raise DataError(f"expected positions as a list of whole numbers from 0 to {count - 1}, got {came}")
    return array
