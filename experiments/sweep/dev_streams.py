"""Streams for choosing hyper-parameters: none of their images is in `digits`, `scripts` or Omniglot.

`dev-digits` are scikit-learn's 1,797 digits (8 x 8, another source than MNIST), the same as the stream `uci-digits`,
which therefore is no held-out stream; `dev-scripts` are 120 characters of the same held-out writing systems as the
`scripts` stream, none of them in it.
"""

import unicodedata

import numpy as np

from ntkcl_jax import Arrays
from ntkcl_jax.data.glyphs import PRETRAINING_FONTS, SCRIPT_STRENGTH, SCRIPTS, is_digit
from ntkcl_jax.data.sources.digits import uci_digits
from ntkcl_jax.data.strokes import distance_field, draw, font_characters
from ntkcl_jax.seeds import stream_seed

CLASSES, TRAIN, TEST = 120, 20, 10


def dev_digits() -> Arrays:
    """The 1,797 digits of the stream `uci-digits`."""
    return Arrays(*uci_digits())


def dev_scripts() -> Arrays:
    """120 characters of the held-out writing systems that the `scripts` stream doesn't use, drawn as it draws."""
    used = set("".join(SCRIPTS.values()))
    systems = {unicodedata.name(c).split(" ")[0] for c in used}
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
            fields += [own[i % len(own)] for i in range(count)]
        sides += [draw(np.stack(fields), rng, SCRIPT_STRENGTH), np.repeat(np.arange(CLASSES), count)]
    return Arrays(*sides, class_names=tuple(f"U+{ord(c):04X}" for c in letters))
