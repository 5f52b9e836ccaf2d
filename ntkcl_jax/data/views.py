"""What training sees of an image: a random crop or a small affine view, drawn and made here or on the device."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, UInt8

from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.data import View
from ntkcl_jax.data.affine import UNCHANGED, affine_view_host, affine_warp
from ntkcl_jax.data.images import ImageSet
from ntkcl_jax.data.transforms import crop_box, test_transform, train_transform_host
from ntkcl_jax.errors import DataError

Place = tuple[Any, ...]
"""Numbers that say which view it is: the box of a crop, or an affine map."""


@dataclass(frozen=True)
class Views(ABC):
    """Training views of some images.

    Attributes:
        image_set: where the images are.
        data: how views are drawn.
        size: side of the network's input, pixels.
    """

    image_set: ImageSet
    data: DataConfig
    size: int

    field: ClassVar[str]
    """Where a batch that the device makes views of holds their places."""

    @property
    @abstractmethod
    def side(self) -> tuple[int, int]:
        """Height and width of the loaded images, where they have one size."""

    @property
    @abstractmethod
    def whole(self) -> Place:
        """Place of a padded row's view, for images of one size."""

    @abstractmethod
    def load(self, chosen: Integer[np.ndarray, " m"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Images that views are made of."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> Place:
        """Draw a view."""

    @abstractmethod
    def make(self, image: UInt8[np.ndarray, "h w 3"], place: Any, flip: bool) -> UInt8[np.ndarray, "size size 3"]:
        """Make a view on the host, mirrored if `flip`."""


class Crops(Views):
    """Random crops of the images as they are."""

    field = "boxes"

    @property
    def side(self) -> tuple[int, int]:
        """That of images in memory; the device crops no others."""
        return self.image_set.uniform_size or (0, 0)

    @property
    def whole(self) -> Place:
        """The whole image: an empty box would divide by zero on the device."""
        return 0, 0, *self.side

    def load(self, chosen: Integer[np.ndarray, " m"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Images as they are."""
        if self.image_set.uniform_size is None:
            return [self.image_set.load(int(index)) for index in chosen]
        return list(self.image_set.load_many(chosen))

    def draw(self, rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> Place:
        """Draw a box."""
        return crop_box(rng, *image.shape[:2], self.data.crop_scale, self.data.crop_ratio)

    def make(self, image: UInt8[np.ndarray, "h w 3"], place: Any, flip: bool) -> UInt8[np.ndarray, "size size 3"]:
        """Cut a box out and resize it."""
        return train_transform_host(image, self.size, place, flip)


class AffineViews(Views):
    """Affine views of the images as they are tested."""

    field = "warps"

    @property
    def side(self) -> tuple[int, int]:
        """The network's, whatever the images' own."""
        return self.size, self.size

    @property
    def whole(self) -> Place:
        """The image itself."""
        return UNCHANGED

    def load(self, chosen: Integer[np.ndarray, " m"]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Images under the test transform."""
        return [under_test(self.image_set, int(index), self.data, self.size) for index in chosen]

    def draw(self, rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> Place:
        """Draw an affine map."""
        return affine_warp(rng, self.size, self.data)

    def make(self, image: UInt8[np.ndarray, "h w 3"], place: Any, flip: bool) -> UInt8[np.ndarray, "size size 3"]:
        """Show the image through the map."""
        return affine_view_host(image, place, flip)


def training_views(image_set: ImageSet, data: DataConfig, size: int) -> Views:
    """The views that `data.train_view` names."""
    kinds: dict[View, type[Views]] = {"crop": Crops, "affine": AffineViews}
    return kinds[data.train_view](image_set, data, size)


def under_test(image_set: ImageSet, index: int, data: DataConfig, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An image under the test transform.

    Raises:
        DataError: it can't be read or resized; names it.
    """
    image = image_set.load(index)
    try:
        return test_transform(image, data.resize, size)
    except DataError as error:
        # The transform knows the pixels, not the file: its name is added here
        raise DataError(f"{image_set.names(index)}: {error}") from error
