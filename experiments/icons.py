"""A stream of 100 everyday objects, each drawn by dozens of icon sets, as an image folder.

    npm pack @iconify/json@2.2.535
    python -m experiments.icons iconify-json-2.2.535.tgz data/icons
    ntkcl train characters --data.path data/icons --data.classes-per-task 10 --run-dir runs/icons
    python -m experiments.icons iconify-json-2.2.535.tgz data/dev-icons --classes held-out

Many classes of real drawings that a package carries. A class is an icon's name, an image one set's drawing of it, black
or coloured on white. Training and test images come from different sets: a set's drawings share a hand, and copies of
an icon that travel between sets are left out (`TOO_ALIKE`). Only sets under the licences of `LICENCES` are read.
`--classes held-out`: 80 other objects, for choosing hyper-parameters that the reported classes never see.
Needs the package resvg-py.
"""

import argparse
import collections
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from ntkcl_jax.errors import DataError
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.weights import file_sha256

SHA256 = "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91"
"""Of the package named above: counts and names drift from release to release."""
LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "OFL-1.1", "Unlicense", "CC-BY-4.0"}
LEFT_OUT = ("Archive / Unmaintained", "Logos")
"""Categories of sets."""
SIZE = 128
"""Side of an image, pixels."""
TOO_ALIKE = 0.97
"""Cosine of two 16 x 16 thumbnails of a class above which the second is left out."""
TEST_SHARE = 0.2
"""Share of the sets whose drawings are test images."""
CLASSES = (
    "airplane anchor backpack balloon bank barcode baseball basketball battery bed bell bicycle bluetooth bomb book "
    "bookmark briefcase bus cake calculator calendar camera car cloud coffee compass cookie credit-card crown cube "
    "database diamond droplet egg eye file film fire fish flag folder ghost gift glasses globe graduation-cap hammer "
    "headphones heart hospital hourglass inbox key keyboard laptop leaf lightbulb link lock magnet map megaphone "
    "microphone microscope moon mouse music newspaper palette paperclip pencil phone pill pin planet printer receipt "
    "robot rocket ruler scissors server shield ship shopping-bag skull snowflake star stethoscope sun syringe "
    "telescope thermometer ticket trash trophy truck umbrella wallet wrench"
).split()
"""Nouns, without synonyms and near twins among the names (cart and shopping-cart, home and house, pen and pencil)."""
HELD_OUT = (
    "alarm alien ambulance apple archive atom baby badge binoculars bolt brain brush bug building castle cat church "
    "clipboard clock cog cpu dna dog door drone ear elevator envelope eraser factory filter fingerprint flashlight "
    "flask floppy-disk flower gamepad hamburger hand handbag handshake helicopter home joystick layers lemon monitor "
    "mountain notebook package person pizza plug qr-code radio rainbow rss sailboat satellite scale school search "
    "shower speaker stamp sunset t-shirt tablet target taxi tent test-tube toilet tornado train tree usb watch "
    "wheelchair window"
).split()
"""Nouns beside those of `CLASSES` and their twins, each drawn by at least 24 sets."""


def drawings(package: Path, classes: Sequence[str] = CLASSES) -> Iterator[tuple[str, str, str]]:
    """Every drawing of the classes.

    Args:
        package: the .tgz file.
        classes: names of icons.

    Yields:
        Class, set, and the drawing as an SVG document; sets in alphabetical order.

    Raises:
        DataError: the file isn't such a package.
    """
    try:
        with tarfile.open(package) as archive:
            sets = json.load(_member(archive, "package/collections.json"))
            allowed = [
                name
                for name, about in sorted(sets.items())
                if about["license"].get("spdx") in LICENCES and about.get("category") not in LEFT_OUT
            ]
            documents = {name: json.load(_member(archive, f"package/json/{name}.json")) for name in allowed}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(
            f"{package} is no package @iconify/json ({error}); get it with: npm pack @iconify/json"
        ) from error
    for name, document in documents.items():
        for label in classes:
            icon = document["icons"].get(label)
            if icon is None or icon.get("hidden"):
                continue
            # The icon's own box, else its set's, else the format's usual one
            left, top, width, height = (
                icon.get(key, document.get(key, usual))
                for key, usual in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
            )
            # Others would be squeezed into a square
            if width == height:
                yield label, name, _document(icon["body"], f"{left} {top} {width} {height}")


def _member(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found


def _document(body: str, box: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" color="#000">{body}</svg>'


def render(svg: str) -> Image.Image:
    """A drawing on white, `SIZE` pixels square."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#fff")
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def thumbnail(image: Image.Image) -> Float[np.ndarray, "256"]:
    """Ink of an image at 16 x 16, as a unit vector (zero where there is none)."""
    ink = 255.0 - np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64).ravel()
    return ink / max(float(np.linalg.norm(ink)), 1e-9)


def write(package: Path, folder: Path, classes: Sequence[str] = CLASSES) -> dict[str, int]:
    """Write the image folder.

    Args:
        package: the .tgz file.
        folder: gets train/<class>/<set>.png and test/<class>/<set>.png; must not exist yet.
        classes: names of icons.

    Returns:
        How many images of each side were written.

    Raises:
        DataError: no such package, or the folder exists.
    """
    if folder.exists():
        raise DataError(f"{folder} already exists; name a folder to make")
    found = list(drawings(package, classes))
    names = sorted({name for _, name, _ in found})
    order = np.random.default_rng(stream_seed(0, "icons")).permutation(len(names))
    tests = {names[i] for i in order[: round(TEST_SHARE * len(names))]}
    kept: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    counts = {"train": 0, "test": 0}
    for label, name, svg in found:
        image = render(svg)
        small = thumbnail(image)
        # Beside drawings of both sides: a copy must not be learnt from and tested on
        if not small.any() or any(small @ other > TOO_ALIKE for other in kept[label]):
            continue
        kept[label].append(small)
        side = "test" if name in tests else "train"
        (folder / side / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / side / label / f"{name}.png")
        counts[side] += 1
    return counts


def main() -> None:
    """Check the package, then write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="iconify-json-2.2.535.tgz")
    parser.add_argument("folder", type=Path, help="image folder to make")
    parser.add_argument("--classes", choices=("reported", "held-out"), default="reported", help="which objects")
    options = parser.parse_args()
    found = file_sha256(options.package) if options.package.is_file() else "missing"
    if found != SHA256:
        parser.error(f"{options.package}: SHA-256 is {found}, expected {SHA256}; npm pack @iconify/json@2.2.535")
    classes = CLASSES if options.classes == "reported" else HELD_OUT
    counts = write(options.package, options.folder, classes)
    print(f"{len(classes)} classes, {counts['train']} training and {counts['test']} test images in {options.folder}")


if __name__ == "__main__":
    main()
