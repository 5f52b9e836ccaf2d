"""Batches: shuffled and augmented for training, in order for evaluation; always of one shape."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Integer, Shaped, UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.images import ImageSet, in_threads
from ntkcl_jax.data.views import training_views, under_test
from ntkcl_jax.devices.host_memory import host_memory
from ntkcl_jax.errors import DataError
from ntkcl_jax.seeds import stream_seed

PREFETCHED_PER_THREAD = 2
"""Finished batches that wait for the training step, for each thread."""
MEMORY_SHARE = 0.9
"""Share of the free memory that prepared images may take."""


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        images: RGB bytes; size x size, or raw where boxes are given. Rows of padding are black.
        labels: label of each row; 0 in padding.
        valid: False in padding.
        boxes: (top, left, height, width) of each row's training crop, pixels, where the device does the cropping.
        flips: whether to mirror each row, where the device makes its training view.
        warps: (a, b, c, d, e, f) of each row's affine view, where the device makes it.
    """

    images: Shaped[Any, "b h w c"]
    labels: Integer[Any, " b"]
    valid: Bool[Any, " b"]
    boxes: Float32[Any, "b 4"] | None = None
    flips: Bool[Any, " b"] | None = None
    warps: Float32[Any, "b 6"] | None = None


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Number of batches that `count` images fill, the last perhaps in part.

    Example:
        >>> steps_per_epoch(10, 4)
        3
    """
    return -(-count // batch_size)


def train_batches(
    image_set: ImageSet,
    indices: Integer[np.ndarray, " n"],
    labels: Integer[np.ndarray, " _n"],
    *,
    data: DataConfig,
    size: int,
    batch_size: int,
    seed: int,
    task: int,
    epoch: int,
    start_step: int = 0,
    on_device: bool,
    rows: slice | None = None,
) -> Iterator[Batch]:
    """One epoch over a task's images, shuffled and augmented; every image once, the last batch padded.

    Any batch can be computed from its number alone: the order is one permutation from the stream ("batches", task,
    epoch), and each image's view (a crop or an affine map, and a flip) comes from its own place in the stream
    ("augmentation", task, epoch). So neither the number of threads, nor where a run was interrupted, nor the batch
    size, nor how many hosts share a batch changes an image's view.

    Args:
        image_set: where the images are.
        indices: the task's images in `image_set`.
        labels: label of each of `indices` (the network's numbering).
        data: views, flips and number of threads.
        size: side of the network's input, pixels.
        batch_size: rows of a batch.
        seed: the run's seed.
        task: 0-based.
        epoch: 0-based, within the task.
        start_step: batch to begin with, after a resume.
        on_device: give images, boxes or warps, and flips for the device to make the views, instead of making them here.
        rows: which rows of each batch to make, where several hosts share it; may reach beyond `batch_size`: the rest is
            padding. None: all `batch_size`.

    Returns:
        Batches `start_step` to the last. Threads read ahead; closing the iterator stops them.

    Raises:
        DataError: labels and indices differ in number, `on_device` is asked of images of unknown or mixed sizes, or,
            while iterating, an image can't be read; names it.
    """
    if len(indices) != len(labels):
        raise DataError(f"each image needs one label, got {len(indices)} images and {len(labels)} labels")
    if on_device and image_set.uniform_size is None:
        raise DataError("cropping on the device needs images of one size in memory; set data.transform_on=host")
    # Every host has the same order of the same images, and decodes and crops its own rows only
    part = rows or slice(0, batch_size)
    length, views = part.stop - part.start, training_views(image_set, data, size)
    # A permutation of places, not of `indices`: a place also numbers an image's own view
    order = _random(stream_seed(seed, "batches", task, epoch)).permutation(len(indices))
    augmentation = stream_seed(seed, "augmentation", task, epoch)

    def draw(position: int, image: np.ndarray) -> tuple[Any, bool]:
        rng = _random(augmentation, position)
        flip = bool(rng.random() < 0.5) and data.flip  # drawn either way, so that the views stay the same
        return views.draw(rng, image), flip

    def batch(step: int) -> Batch:
        # Slices stop at the end by themselves: the last batch, and rows beyond it, come out shorter or empty
        positions = order[step * batch_size : (step + 1) * batch_size][part]
        images = views.load(indices[positions])
        drawn = [draw(int(at), image) for at, image in zip(positions, images, strict=True)]
        if not on_device:
            made = [views.make(image, *one) for image, one in zip(images, drawn, strict=True)]
            return padded(_stacked(made, (size, size)), labels[positions], length)
        missing = length - len(positions)
        places = np.array([place for place, _ in drawn] + [views.whole] * missing, np.float32)
        flips = np.array([flip for _, flip in drawn] + [False] * missing, bool)
        found = padded(_stacked(images, views.side), labels[positions], length)
        return found._replace(**{views.field: places}, flips=flips)

    return _read_ahead(batch, range(start_step, steps_per_epoch(len(indices), batch_size)), data.workers)


def _stacked(images: list[np.ndarray], side: tuple[int, int]) -> UInt8[np.ndarray, "m h w 3"]:
    # A host whose rows are all padding takes part with no image; `stack` would refuse an empty list
    return np.stack(images) if images else np.zeros((0, *side, 3), np.uint8)


def _read_ahead(batch: Callable[[int], Batch], steps: range, threads: int) -> Iterator[Batch]:
    import grain  # here because it imports JAX, which the command line must not wait for

    # An element is a whole batch: with an element for each image, grain alone would cost more than cropping 28 pixels
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(lambda step: batch(int(step)))
    # Bounds the memory too: batches that nobody has taken yet wait here, in order whatever thread made them
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCHED_PER_THREAD * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        # Also when the loop over the batches stops early: grain's threads would read on
        iterator.close()


def _random(seed: int, position: int = 0) -> np.random.Generator:
    """Generator at the `position`-th of 2^128 places, far apart, in the stream of `seed`."""
    return np.random.Generator(np.random.Philox(key=seed, counter=position << 128))


def padded(images: UInt8[np.ndarray, "m h w 3"], labels: Integer[np.ndarray, " m"], length: int) -> Batch:
    """Make a batch of `length` rows of fewer images: black ones that don't count fill it up."""
    missing = length - len(images)
    # One shape for every batch, so that one compiled step serves all; losses and metrics count valid rows only
    valid = np.arange(length) < len(images)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
        # Label 0 because it has to index something; `valid` takes it out again
        labels = np.concatenate([labels, np.zeros(missing, labels.dtype)])
    # JAX has no int64 unless x64 is switched on
    return Batch(images, labels.astype(np.int32), valid)


def eval_batches(
    prepared: UInt8[np.ndarray, "n size size 3"], labels: Integer[np.ndarray, " _n"], batch_size: int
) -> Iterator[Batch]:
    """Prepared images in order, the last batch padded.

    Args:
        prepared: from `prepare`.
        labels: label of each.
        batch_size: rows of a batch.

    Returns:
        Batches without boxes.

    Raises:
        DataError: images and labels differ in number.

    Example:
        >>> images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3)
        >>> [batch.valid.tolist() for batch in eval_batches(images, labels, 2)]
        [[True, True], [True, False]]
    """
    if len(prepared) != len(labels):
        raise DataError(f"each image needs one label, got {len(prepared)} images and {len(labels)} labels")
    starts = range(0, len(prepared), batch_size)
    return (padded(prepared[at : at + batch_size], labels[at : at + batch_size], batch_size) for at in starts)


def prepare(
    image_set: ImageSet,
    indices: Integer[np.ndarray, " n"],
    data: DataConfig,
    size: int,
    progress: Callable[[int, int], None] | None = None,
) -> UInt8[np.ndarray, "n size size 3"]:
    """Apply the test transform to images once, on `data.workers` threads, so that later passes only copy them.

    Args:
        image_set: where the images are.
        indices: which images, in which order.
        data: `resize` and `workers`.
        size: side of the network's input, pixels.
        progress: called with (done, n) after each image.

    Returns:
        The images, n * size * size * 3 bytes.

    Raises:
        DataError: an image can't be read or resized (names it), or they don't fit in memory.
    """
    # Before `empty`: the system may grant more than there is, and end the process when the pages are written
    check_memory(len(indices) * size * size * 3)
    out = np.empty((len(indices), size, size, 3), np.uint8)

    # Each call writes a row of its own, so the threads need no lock
    def work(position: int) -> None:
        out[position] = under_test(image_set, int(indices[position]), data, size)

    in_threads(work, len(indices), data.workers, progress)
    return out


def check_memory(need: int) -> None:
    """Check that `need` bytes are free.

    Raises:
        DataError: they aren't.
    """
    have = host_memory()
    if need > MEMORY_SHARE * have:
        raise DataError(
            f"prepared images need {need / 2**30:.1f} GiB, but {have / 2**30:.1f} GiB of memory is free; use fewer "
            "images (data.limit_per_class), a smaller image size, or a larger machine"
        )
