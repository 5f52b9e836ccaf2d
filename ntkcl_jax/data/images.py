"""Sets of labelled images: the one interface behind which files and arrays look alike."""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from ntkcl_jax.data.decode import decode
from ntkcl_jax.data.splits import key_of, places_by_label
from ntkcl_jax.errors import DataError

HASHING_THREADS = 4  # reading and hashing let go of Python's lock, so threads overlap them


class ImageSet(ABC):
    """Labelled images, readable in any order and from several threads.

    Attributes:
        labels: source label of each image, (n,) int64.
        uniform_size: (height, width) in pixels if all images are known to share it without decoding, else None.
    """

    labels: Int64[np.ndarray, " n"]
    uniform_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Number n of images."""
        return len(self.labels)

    @abstractmethod
    def load(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Read one image as RGB.

        Raises:
            DataError: its file can't be read as an image; names the file.
        """

    @abstractmethod
    def names(self, index: int) -> str:
        """What to call the image in a message."""

    @abstractmethod
    def subset(self, indices: Integer[np.ndarray, " m"]) -> "ImageSet":
        """The images at `indices`, in that order."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) over labels and content."""

    @functools.cached_property
    def contents(self) -> list[bytes]:
        """Hash of each image's content, equal for copies; the first use reads every image once."""
        # One image in memory at a time. The shape counts: the same bytes may be 2 x 8 or 4 x 4 pixels
        images = map(self.load, range(len(self)))
        return [hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest() for image in images]

    @property
    def keys(self) -> list[str]:
        """Name of each image that is the same on every machine; of its content where it has no name."""
        return [content.hex() for content in self.contents]

    def load_many(self, indices: Integer[np.ndarray, " b"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Stack the images at `indices`; they must share one size."""
        return np.stack([self.load(int(index)) for index in indices])


class ArrayImages(ImageSet):
    """Images held in memory, grey or RGB.

    Args:
        images: pixels; one channel stands for three equal ones.
        labels: source label of each image.
        name: what messages call the array, e.g. "train_images".

    Example:
        >>> images = ArrayImages(np.zeros((2, 4, 5, 1), np.uint8), np.array([0, 1]), "train_images")
        >>> images.load(1).shape, images.uniform_size, images.names(1)
        ((4, 5, 3), (4, 5), 'train_images[1]')
    """

    def __init__(
        self, images: UInt8[np.ndarray, "n h w c"], labels: Integer[np.ndarray, " n"], name: str, invert: bool = False
    ) -> None:
        """Keep the arrays (inverted: a copy)."""
        self.images = 255 - images if invert else images
        self.labels = np.asarray(labels, np.int64)
        self.uniform_size = (images.shape[1], images.shape[2])
        self._name = name

    def load(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Copy one image, as RGB."""
        return self.load_many(np.array([index]))[0]

    def load_many(self, indices: Integer[np.ndarray, " b"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Copy the images at `indices`, as RGB."""
        images = self.images[indices]
        return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)

    def names(self, index: int) -> str:
        """`name[index]`."""
        return f"{self._name}[{index}]"

    def subset(self, indices: Integer[np.ndarray, " m"]) -> "ArrayImages":
        """The images at `indices`, copied."""
        # The pixels kept are inverted already: not again
        return ArrayImages(self.images[indices], self.labels[indices], self._name)

    def digest(self) -> str:
        """SHA-256 (hex) over shape, pixels and labels."""
        whole = hashlib.sha256(f"arrays {self.images.shape}".encode())
        # A buffer, not `tobytes`: no second copy of all images
        whole.update(np.ascontiguousarray(self.images).data)
        whole.update(self.labels.astype("<i8").tobytes())
        return whole.hexdigest()


class FileImages(ImageSet):
    """Images in files, decoded when they are asked for.

    Args:
        root: folder that the names in the digest are relative to.
        files: one path for each image.
        labels: source label of each image.
        invert: give 255 minus each pixel.
    """

    def __init__(self, root: Path, files: list[Path], labels: Integer[np.ndarray, " n"], invert: bool = False) -> None:
        """Keep the paths; nothing is read yet."""
        self.root = root
        self.files = files
        self.labels = np.asarray(labels, np.int64)
        self.invert = invert

    def load(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode one file (see `decode`)."""
        image = decode(self.files[index])
        return 255 - image if self.invert else image

    def names(self, index: int) -> str:
        """The file's path."""
        return str(self.files[index])

    def subset(self, indices: Integer[np.ndarray, " m"]) -> "FileImages":
        """The files at `indices`."""
        return FileImages(self.root, [self.files[i] for i in indices], self.labels[indices], self.invert)

    def digest(self) -> str:
        """SHA-256 (hex) over names, sizes, content and labels; reads every file once.

        Raises:
            DataError: a file can't be read.
        """
        # Inversion counts because the files' bytes, unlike pixels kept in memory, don't show it
        whole = hashlib.sha256(f"files {len(self)} {self.invert}".encode())
        for file, line in zip(self.files, self.contents, strict=True):
            # Relative to the root, so that a moved folder keeps its fingerprint; a name can't hold the zero byte
            whole.update(bytes(file.relative_to(self.root)) + b"\0" + line)
        whole.update(self.labels.astype("<i8").tobytes())
        return whole.hexdigest()

    @functools.cached_property
    def contents(self) -> list[bytes]:
        """Length and SHA-256 of each file; the first use reads every file once.

        Raises:
            DataError: a file can't be read.
        """
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            return list(pool.map(_file_digest, self.files))

    @property
    def keys(self) -> list[str]:
        """Path of each file, relative to the root."""
        return [key_of(file.relative_to(self.root)) for file in self.files]


def _file_digest(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror}; make it readable or remove it") from error
    return len(content).to_bytes(8, "big") + hashlib.sha256(content).digest()


def first_of_each_class(labels: Integer[np.ndarray, " n"], limit: int) -> Int64[np.ndarray, " m"]:
    """Positions of the first `limit` images of each class, in their old order; 0 keeps all.

    Example:
        >>> first_of_each_class(np.array([1, 0, 1, 1, 0]), limit=1).tolist()
        [0, 1]
    """
    if limit == 0:
        return np.arange(len(labels))
    kept = [places[:limit] for places in places_by_label(labels).values()]
    return np.sort(np.concatenate(kept)) if kept else np.arange(0)


def copies(contents: list[bytes], among: list[bytes]) -> list[tuple[int, int]]:
    """Places of those contents that are `among` others too, each with the first place there.

    Example:
        >>> copies([b"cat", b"ant"], [b"bee", b"ant", b"ant"])
        [(1, 1)]
    """
    # Backwards, so that the first of several equal ones stays
    places = {content: place for place, content in reversed(list(enumerate(among)))}
    return [(at, places[content]) for at, content in enumerate(contents) if content in places]


def in_threads(
    work: Callable[[int], None], count: int, threads: int, progress: Callable[[int, int], None] | None
) -> None:
    """Call `work(0..count-1)` on `threads` threads; the first error in order is raised, the rest is dropped.

    Args:
        work: what to do with each index.
        count: number of calls.
        threads: how many run at once.
        progress: called with (done, count) after each.
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            # `map` gives results in order, so which error is raised doesn't depend on the threads
            for done, _ in enumerate(pool.map(work, range(count)), start=1):
                if progress is not None:
                    progress(done, count)
        # Ctrl-C too: leaving the `with` would first do all the work that is still queued
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
