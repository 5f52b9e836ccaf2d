"""The nine image benchmarks of the published runs: what their data look like, and the numbers to stand beside.

Tasks are those of the authors' release, NTK-CL's accuracies those of its tables (arXiv:2407.17120). `frozen` is the
final accuracy of a frozen backbone with nearest class means (no training), lowest and highest published value (Janson
et al., arXiv:2210.04428; tables of RanPAC, MOS and MoAL); None where none is known.

Numbers of images are for estimates only, a run counts its own. Official splits: as published with the data; DomainNet:
the six cleaned lists together; VTAB: arXiv:2303.07338. Our splits: four fifths and a fifth of the 30,000 images of
ImageNet-R, 7,500 of ImageNet-A, 27,000 of EuroSAT, 20,638 of the 15-class PlantVillage, 8,000 of Kvasir version 2.
"""

from dataclasses import dataclass, field
from typing import Literal

Pretraining = Literal["in21k", "in1k"]
WEIGHTS: dict[Pretraining, str] = {
    "in21k": "vit_base_patch16_224.augreg_in21k.safetensors",
    "in1k": "vit_base_patch16_224.augreg_in21k_ft_in1k.safetensors",
}
"""Weights file by pre-training: ImageNet-21K, and the same tuned on ImageNet-1K (timm's names)."""


@dataclass(frozen=True)
class Published:
    """What is published for a benchmark and a pre-training.

    Attributes:
        average: NTK-CL's mean over tasks of the accuracy on all classes seen, in [0, 1].
        final: NTK-CL's accuracy on all classes after the last task, in [0, 1].
        frozen: final accuracy of nearest class means on the frozen backbone, lowest and highest, in [0, 1].
    """

    average: float
    final: float
    frozen: tuple[float, float] | None = None


@dataclass(frozen=True)
class Benchmark:
    """One of the nine.

    Attributes:
        title: its name in the literature.
        classes: number of classes.
        first_task: classes of task 0; 0 means `per_task`.
        per_task: classes that each later task brings.
        source: `data.source` of its published files.
        layout: what `data.path` must hold.
        split: `official`, or `seeded` where we make it (docs/data.md).
        note: where the files come from, and what to know about them.
        published: numbers by pre-training.
        images: training and test images; where the split is ours, a fifth of all images tests.
        train_list: `data.train_list`.
        test_list: `data.test_list`.
    """

    title: str
    classes: int
    first_task: int
    per_task: int
    source: str
    layout: str
    split: Literal["official", "seeded"]
    note: str
    published: dict[Pretraining, Published] = field(hash=False)
    images: tuple[int, int]
    train_list: str = ""
    test_list: str = ""


def _numbers(
    in21k: tuple[float, float], in1k: tuple[float, float], frozen21k: tuple = (), frozen1k: tuple = ()
) -> dict[Pretraining, Published]:
    """Turn percentages as they are printed into shares."""

    def made(numbers: tuple[float, float], frozen: tuple) -> Published:
        # Several papers, or a single one: then lowest and highest are the same
        low_high = (min(frozen) / 100, max(frozen) / 100) if frozen else None
        return Published(numbers[0] / 100, numbers[1] / 100, low_high)

    return {"in21k": made(in21k, frozen21k), "in1k": made(in1k, frozen1k)}


ONE_FOLDER = "<class>/*, or train/<class>/* and test/<class>/*"
TWO_FOLDERS = "train/<class>/* and test/<class>/*"

BENCHMARKS: dict[str, Benchmark] = {
    "cifar100": Benchmark(
        "CIFAR-100", 100, 0, 10, "cifar100", "cifar-100-python.tar.gz, or the folder inside", "official",
        "cs.toronto.edu/~kriz/cifar.html; 50,000 + 10,000 images of 32 x 32",
        _numbers((93.76, 90.27), (93.16, 89.43), (81.3, 83.7), (76.2,)), (50_000, 10_000),
    ),
    "imagenet-r": Benchmark(
        "ImageNet-R", 200, 0, 20, "folder", ONE_FOLDER, "seeded",
        "imagenet-r.tar (30,000 renditions, one folder); published runs used several splits, none official",
        _numbers((82.77, 77.17), (83.18, 77.76), (54.6,), (61.3,)), (24_000, 6_000),
    ),
    "imagenet-a": Benchmark(
        "ImageNet-A", 200, 0, 20, "folder", ONE_FOLDER, "seeded",
        "imagenet-a.tar (7,500 natural adversarial images, one folder); no official split",
        _numbers((66.56, 58.54), (68.76, 60.58), (48.9,), (49.2,)), (6_000, 1_500),
    ),
    "domainnet": Benchmark(
        "DomainNet", 345, 0, 23, "lists", "<domain>/<class>/*, <domain>_train.txt, <domain>_test.txt", "official",
        "ai.bu.edu/M3SDA (cleaned version); every domain whose lists lie there is used, all of them together",
        _numbers((73.70, 67.44), (72.94, 66.73)), (409_832, 176_743), "*_train.txt", "*_test.txt",
    ),
    "pets": Benchmark(
        "Oxford Pets", 37, 7, 5, "lists", "images/* with annotations/trainval.txt and annotations/test.txt", "official",
        "robots.ox.ac.uk/~vgg/data/pets; images.tar.gz and annotations.tar.gz unpacked side by side",
        _numbers((96.69, 94.11), (96.62, 94.28)), (3_680, 3_669), "annotations/trainval.txt", "annotations/test.txt",
    ),
    "eurosat": Benchmark(
        "EuroSAT", 10, 0, 2, "folder", ONE_FOLDER, "seeded",
        "EuroSAT.zip, RGB version (27,000 images of 64 x 64; its inner folder is called 2750); no official split",
        _numbers((87.63, 79.84), (88.50, 80.94)), (21_600, 5_400),
    ),
    "plantvillage": Benchmark(
        "PlantVillage", 15, 0, 3, "folder", ONE_FOLDER, "seeded",
        "the 15-class version; copies of it hold all classes again in an inner folder PlantVillage: remove that one",
        _numbers((88.00, 81.88), (87.26, 80.81)), (16_510, 4_128),
    ),
    "vtab": Benchmark(
        "VTAB", 50, 0, 10, "folder", TWO_FOLDERS, "official",
        "the 50-class selection made for class-incremental learning (LAMDA-PILOT distributes it), not all of VTAB",
        _numbers((89.67, 85.53), (88.48, 83.47)), (1_796, 8_619),
    ),
    "kvasir": Benchmark(
        "Kvasir", 8, 0, 2, "folder", ONE_FOLDER, "seeded",
        "datasets.simula.no/kvasir, version 2 (8,000 endoscopy images of mixed sizes); no official split",
        _numbers((90.03, 82.7), (91.88, 84.72)), (6_400, 1_600),
    ),
}  # fmt: skip
"""By the name that presets begin with."""
