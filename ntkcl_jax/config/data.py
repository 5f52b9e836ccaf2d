"""Settings of the images: where they come from, how they are split and cut into tasks, how they are transformed."""

from dataclasses import dataclass
from typing import Literal

from ntkcl_jax.config.sources import SOURCES
from ntkcl_jax.errors import require

Normalize = Literal["none", "imagenet", "half"]
NORMALIZATIONS: dict[Normalize, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What is subtracted from red, green and blue in [0, 1], and what they are then divided by."""
View = Literal["crop", "affine"]
"""What training sees of an image: a random crop, or all of it under a small random affine map."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, how they are cut into tasks, and how they are transformed."""

    source: str = "digits"
    """`digits`, `uci-digits` and `scripts` need no files; `arrays` come from Python; `folder`, `lists`, `huggingface`
    and `cifar100` read `data.path`; installed packages may add others (docs/data.md)."""
    path: str = ""
    """Image folder, folder below which the listed files lie, Hugging Face dataset (folder or hub name), or CIFAR-100's
    published archive or its folder."""
    train_list: str = ""
    """`lists`: file or pattern (`*_train.txt`), in `data.path` or anywhere; empty: the usual names are tried."""
    test_list: str = ""
    """`lists`: the same for the test side; without any the split is ours, by hash."""
    image_column: str = ""
    """`huggingface`: column with the images; empty: the only one."""
    label_column: str = ""
    """`huggingface`: column with the labels; empty: the only one, or `label`."""
    test_share: float = 0.2
    """Share of each class that becomes test images where the data have no split of their own."""
    split_seed: int = 0
    """Seed of that split, which is a hash of each image's name: the same on every machine and for every run seed."""
    classes: int = 0
    """Number of classes that must be found; 0 means any."""
    first_task_classes: int = 0
    """Classes of task 0; 0 means `classes_per_task`."""
    classes_per_task: int = 2
    """Classes that every later task brings; the last task takes what is left."""
    shuffle_classes: bool = True
    """Draw the class order with the seed (legacy NumPy permutation, as in the published runs)."""
    limit_per_class: int = 0
    """Use at most this many training images of each class, the first in file order; 0 means all."""
    images_per_class: int = 0
    """Use at most this many images of each class on either side, the first in file order: a rehearsal; 0 means all."""
    invert: bool = False
    """Turn dark-on-light images into light-on-dark ones (255 minus each pixel) before anything else."""
    resize: int = 256
    """Test transform: length of the shorter side after resizing, pixels, before the centre crop."""
    normalize: Normalize = "none"
    """What the network does to pixels in [0, 1] first: nothing (the published runs), ImageNet's mean and std (DeiT), or
    mean and std 0.5 (what Google's ViT weights were trained with)."""
    train_view: View = "crop"
    """What training sees of an image: `crop`, a random crop, resized; `affine`, the image as it is tested under a small
    random affine map (for characters, digits, icons: nothing is cut off)."""
    crop_scale: tuple[float, float] = (0.05, 1.0)
    """Training crops: smallest and largest share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Training crops: smallest and largest width over height."""
    affine_degrees: float = 8.0
    """Affine views: they are turned by up to this many degrees to either side."""
    affine_translate: tuple[float, float] = (0.06, 0.06)
    """Affine views: largest shift to either side, and up or down, as a share of the side."""
    affine_scale: tuple[float, float] = (0.88, 1.12)
    """Affine views: smallest and largest zoom."""
    affine_shear: float = 7.0
    """Affine views: they are sheared along x by up to this many degrees to either side."""
    flip: bool = True
    """Mirror training images left to right with probability 1/2."""
    transform_on: Literal["auto", "host", "device"] = "auto"
    """Where training crops are resized; `auto`: on an accelerator where there is one and all images have one size."""
    workers: int = 2
    """Threads that read and transform images ahead of the training step."""

    def __post_init__(self) -> None:
        """Refuse unknown sources, empty tasks, empty sides and crops without meaning."""
        for name in ("first_task_classes", "limit_per_class", "images_per_class", "classes", "split_seed"):
            require(getattr(self, name) >= 0, f"data.{name} must be >= 0, got {getattr(self, name)}")
        require(self.classes_per_task >= 1, f"data.classes_per_task must be at least 1, got {self.classes_per_task}")
        require(0 < self.test_share < 1, f"data.test_share must be between 0 and 1, got {self.test_share}")
        require(self.resize >= 1, f"data.resize must be at least 1 pixel, got {self.resize}")
        require(self.workers >= 1, f"data.workers must be at least 1, got {self.workers}")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, f"data.crop_scale must satisfy 0 < low <= high <= 1, got {self.crop_scale}")
        low, high = self.crop_ratio
        require(0 < low <= high, f"data.crop_ratio must satisfy 0 < low <= high, got {self.crop_ratio}")
        # Bounds beyond which little of the image is left to see, and its edge would be repeated many times over
        turn, shear, move = self.affine_degrees, self.affine_shear, self.affine_translate
        require(0 <= turn <= 180, f"data.affine_degrees must be from 0 to 180, got {turn}")
        require(0 <= shear <= 60, f"data.affine_shear must be from 0 to 60 degrees, got {shear}")
        require(0 <= min(move) <= max(move) <= 1, f"data.affine_translate must be two shares from 0 to 1, got {move}")
        low, high = self.affine_scale
        require(0.2 <= low <= high <= 5, f"data.affine_scale must satisfy 0.2 <= low <= high <= 5, got {low, high}")
        # Installed packages are looked through only for a name that isn't ours: a broken one can't hurt others
        if self.source not in SOURCES.own:
            require(
                self.source in SOURCES.names,
                f"data.source must be one of {', '.join(SOURCES.names)}, got {self.source!r}; correct it, or install "
                "the package that adds it",
            )
