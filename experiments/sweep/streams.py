"""Streams of images and tasks: the presets, and those that only experiments use.

Those of `CHOOSING` are for choosing hyper-parameters; none of their images is in `digits`, `scripts`, `icons` or
Omniglot. `dev-digits` are scikit-learn's 1,797 digits (8 x 8, another source than MNIST), the same as the stream
`uci-digits`, which therefore is no held-out stream; `dev-scripts` are 120 characters of the same held-out writing
systems as the `scripts` stream, none of them in it; `deit-dev-scripts` are the same images, enlarged to 112 px, dark on
light; `deit-dev-icons` are icons of other classes than the stream `icons`, from the same package (`experiments.icons`).
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.sweep.settings import changed
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.presets import PRESETS, preset
from ntkcl_jax.data import Arrays
from ntkcl_jax.data.glyphs import PRETRAINING_FONTS, SCRIPT_STRENGTH, SCRIPTS, is_digit
from ntkcl_jax.data.sources.uci_digits import uci_digits
from ntkcl_jax.data.strokes import distance_field, draw, font_characters
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.seeds import stream_seed

CHOOSING = ("dev-digits", "dev-scripts", "deit-dev-scripts", "deit-dev-icons")
"""Streams on which hyper-parameters may be chosen, and which no result is reported on."""
CLASSES, TRAIN, TEST = 120, 20, 10
"""Characters of `dev-scripts`, and images of each."""
DEIT_112 = {"image_size": 112, "patch_size": 16, "dim": 192, "depth": 12, "heads": 3}
"""DeiT-Ti, at a size that a CPU bears."""


@dataclass(frozen=True)
class Stream:
    """Images and tasks.

    Attributes:
        preset: the configuration.
        arrays: makes the images where the preset doesn't read them.
        needs_path: whether `data.path` has to be given.
        changes: dotted field of the preset to its value here.
    """

    preset: str
    arrays: Callable[[], Arrays] | None = None
    needs_path: bool = False
    changes: tuple[tuple[str, Any], ...] = ()


def one_stream(name: str) -> Stream:
    """Look a stream up: a preset, or one that only experiments use.

    Raises:
        ConfigError: no such stream.
    """
    deit = (
        *((f"model.backbone.{name}", value) for name, value in DEIT_112.items()),
        ("data.normalize", "imagenet"),
        ("data.resize", 112),
        ("data.invert", False),
        ("optimizer.learning_rate", 0.02),
        ("optimizer.later_learning_rate", None),
        ("optimizer.weight_decay", 5e-3),
        ("objective.lambda_dis", 0.2),
        ("objective.lambda_reg", 1e-3),
        ("readout.views", 1),
    )
    photos = (
        ("data.classes_per_task", 10),
        ("data.crop_scale", (0.2, 1.0)),
        ("data.flip", True),
        ("optimizer.epochs", 1),
    )
    own = {
        "deit-omniglot": Stream("characters", needs_path=True, changes=deit),
        "deit-omniglot-224": Stream(
            "characters",
            needs_path=True,
            changes=(*deit, ("model.backbone.image_size", 224), ("data.resize", 224), ("compute.eval_batch_size", 32)),
        ),
        "deit-tiny-imagenet": Stream("characters", needs_path=True, changes=(*deit, *photos)),
        "omniglot": Stream("characters", needs_path=True),
        "icons": Stream("characters", needs_path=True, changes=(("data.classes_per_task", 10),)),
        "dev-digits": Stream("digits", dev_digits, changes=(("data.source", "arrays"),)),
        "dev-scripts": Stream("scripts", dev_scripts, changes=(("data.source", "arrays"),)),
        "deit-dev-scripts": Stream(
            "characters",
            dev_scripts,
            # Light strokes on a dark ground become what this network is shown elsewhere
            changes=(*deit, ("data.source", "arrays"), ("data.classes_per_task", 12), ("data.invert", True)),
        ),
        "deit-dev-icons": Stream("characters", needs_path=True, changes=(*deit, ("data.classes_per_task", 10))),
    }
    if name in own:
        return own[name]
    if name not in PRESETS:
        raise ConfigError(f"unknown stream {name!r}; choose from {', '.join([*own, *PRESETS])}")
    return Stream(name)


def stream_config(name: str, changes: Mapping[str, Any]) -> RunConfig:
    """Configuration of a stream before any row changes it."""
    stream = one_stream(name)
    return changed(preset(stream.preset), dict(stream.changes) | dict(changes))


def dev_digits() -> Arrays:
    """The 1,797 digits of the stream `uci-digits`."""
    return Arrays(*uci_digits())


def dev_scripts() -> Arrays:
    """120 characters of the held-out writing systems that the `scripts` stream doesn't use, drawn as it draws."""
    used = set("".join(SCRIPTS.values()))
    # A character's Unicode name begins with its writing system
    systems = {unicodedata.name(c).split(" ")[0] for c in used}
    # Training images are in the plain fonts and test images in the bold ones: a character needs both
    known = sorted(font_characters("DejaVuSans") & font_characters("DejaVuSans-Bold"))
    free = [
        c
        for c in known
        if c not in used
        and unicodedata.category(c) in ("Lo", "Lu", "Ll")
        and unicodedata.name(c, "?").split(" ")[0] in systems
        and not is_digit(c)
    ]
    rng = np.random.default_rng(stream_seed(0, "dev-scripts"))
    letters = [free[i] for i in sorted(rng.choice(len(free), CLASSES, replace=False))]
    sides = []
    for bold, count in ((False, TRAIN), (True, TEST)):
        fonts = [f for f in PRETRAINING_FONTS if f.startswith("DejaVu") and ("Bold" in f) == bold]
        fields = []
        for letter in letters:
            own = [distance_field(letter, font) for font in fonts if letter in font_characters(font)]
            # The fonts in turn
            fields += [own[i % len(own)] for i in range(count)]
        sides += [draw(np.stack(fields), rng, SCRIPT_STRENGTH), np.repeat(np.arange(CLASSES), count)]
    return Arrays(*sides, class_names=tuple(f"U+{ord(c):04X}" for c in letters))
