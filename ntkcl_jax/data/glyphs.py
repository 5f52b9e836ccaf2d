"""Characters drawn from the fonts that matplotlib ships: pre-training classes and the offline `scripts` stream.

Nothing is downloaded or cached; `ntkcl_jax.data.strokes` does the drawing. Two disjoint sets of characters exist:

* the pre-training set (Latin, Greek and Cyrillic letters without accents, symbols), from which `experiments.pretrain`
  made the shipped nano backbone. No digit is in it (see `is_digit`), so that digit streams stay unseen;
* the held-out writing systems of `SCRIPTS`, which the backbone has never seen, for the `scripts` stream.
"""

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, UInt8

from ntkcl_jax.data.strokes import distance_field, draw, font_characters
from ntkcl_jax.errors import DataError
from ntkcl_jax.seeds import stream_seed

_DEJAVU = [f"DejaVu{family}{style}" for family, styles in {
    "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
}.items() for style in styles]  # fmt: skip
_STIX = ["STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta"]
# TeX's own encodings put other shapes (digits too) under many codes: from these only the ASCII letters are taken.
_TEX = ["cmr10", "cmb10", "cmss10", "cmti10", "cmmi10"]
PRETRAINING_FONTS: tuple[str, ...] = (*_DEJAVU, *_STIX, *_TEX)
"""The twenty font files that the pre-training images are drawn from."""
UNSEEN_FONTS: tuple[str, ...] = ("STIXGeneralItalic", "cmtt10")
"""Fonts kept out of pre-training, to measure the same characters in an unseen hand."""
MIN_FONTS = 4
"""A pre-training character must exist in at least this many of the twenty fonts."""
SAME_LOOK = 0.1
"""Two characters whose upright drawings are closer than this (`look_distance`) count as one."""

SCRIPTS: dict[str, str] = {
    "Armenian": "ԱԳԵԷԺԽԾՀՅՆՊՒՖխմչտև",
    "Georgian": "აბელპრსფქჭჲჴჸჹ",
    "Hebrew": "אבזימעץצרש",
    "Arabic": "ءئتجذزشضغقلنوي",
    "Tifinagh": "ⴳⴼⴿⵃⵆⵈⵌⵒⵖⵘⵛⵣ",
    "Lao": "ກຊຍທຜມຣລຫະາຽເໂ",
    "NKo": "ߍߎߑߒߔߗߝߞߢߤ",
    "Ogham": "ᚁᚄᚆᚉᚌᚏᚒᚚ",
    "Canadian syllabics": "ᐂᐓᐢᑄᑜᑮᑾᒬᓂᓚᓬᓹᔓᔠᔱᔼᕓᖂᖕᙴ",
}
"""Held-out writing systems and the characters of the `scripts` stream, 120 in all.

Chosen once, by rule: letters that both DejaVu Sans and its bold have, no digit, `look_distance` of the upright
drawings at least 0.12 to every pre-training character and 0.25 to each other; of those, evenly spaced in code order.
Written down, so that another version of the fonts can't change the classes.
"""
SCRIPT_TRAIN, SCRIPT_TEST = 20, 10
"""Images of each class of the `scripts` stream."""
SCRIPT_STRENGTH = 1.2
"""Distortion of the `scripts` stream, see `draw`. Set to leave room above frozen prototypes (0.77; at 1.0 0.86)."""

_NUMBER_WORDS = frozenset(
    "DIGIT DIGITS NUMBER NUMERAL FRACTION ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN".split()
)
# Ranges of code points, half-open: Latin with its extensions, Greek and Cyrillic; below, punctuation, currency,
# arrows, operators, shapes and symbols
_LETTER_BLOCKS = ((0x41, 0x250), (0x250, 0x2B0), (0x370, 0x530), (0x1D00, 0x1D26), (0x2C60, 0x2C80))
_SYMBOL_BLOCKS = ((0x21, 0xC0), (0x2010, 0x2060), (0x20A0, 0x20C0), (0x2100, 0x2400), (0x25A0, 0x2768),
                  (0x27C0, 0x2800), (0x2900, 0x2C00))  # fmt: skip


def is_digit(character: str) -> bool:
    """Say whether a character is a digit of any kind, and so barred from pre-training and from `scripts`.

    True for the Unicode categories Nd, Nl and No, for every character whose compatibility decomposition holds such a
    character, and for those whose name speaks of a number in words ("LATIN CAPITAL LETTER TONE SIX" is a drawn 6).

    Example:
        >>> [is_digit(c) for c in "7²Ⅳ½①A"]
        [True, True, True, True, True, False]
    """
    # NFKD takes circled, raised and fraction forms apart into their digits
    parts = character + unicodedata.normalize("NFKD", character)
    if any(unicodedata.category(part).startswith("N") for part in parts):
        return True
    words = unicodedata.name(character, "").replace("-", " ").split()
    return bool(_NUMBER_WORDS.intersection(words))


def is_pretraining_character(character: str) -> bool:
    """Say whether the rule lets a character into pre-training (fonts and duplicates are looked at later).

    Unaccented Latin, Greek and Cyrillic letters, punctuation, currency, arrows, operators, shapes and symbols; never a
    digit, never another writing system.

    Example:
        >>> [is_pretraining_character(c) for c in "AλЖ∮é5ა"]
        [True, True, True, True, False, False, False]
    """
    code, category = ord(character), unicodedata.category(character)
    if is_digit(character):
        return False
    if category in ("Lu", "Ll", "Lo") and any(low <= code < high for low, high in _LETTER_BLOCKS):
        script = unicodedata.name(character, "").split(" ")[0]
        # The blocks hold a few letters of other scripts; a decomposition means an accent or a ligature
        return script in ("LATIN", "GREEK", "CYRILLIC") and not unicodedata.decomposition(character)
    return category[0] in "SP" and any(low <= code < high for low, high in _SYMBOL_BLOCKS)


def looks(characters: Iterable[str]) -> tuple[list[str], Float[np.ndarray, "n 784"]]:
    """Draw characters upright, each in the first pre-training font that has it.

    Args:
        characters: characters to draw; those that no font has, or that leave no ink, are left out.

    Returns:
        The characters drawn, and their pixels in [0, 1].
    """
    drawn: dict[str, Float[np.ndarray, "64 64"]] = {}
    for character in characters:
        font = next((f for f in PRETRAINING_FONTS if character in font_characters(f)), None)
        if font is not None:
            with contextlib.suppress(DataError):  # a blank glyph
                drawn[character] = distance_field(character, font)
    # At strength 0 nothing of what is drawn at random counts
    images = draw(np.stack(list(drawn.values())), np.random.default_rng(0), strength=0.0)
    return list(drawn), images.reshape(len(drawn), -1).astype(np.float32) / 255


def look_distance(a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "n m"]:
    """Squared pixel distance over the sum of squared norms: 0 for equal images, 1 for images that share no ink.

    Example:
        >>> look_distance(np.eye(2), np.array([[1.0, 0.0]])).tolist()
        [[0.0], [1.0]]
    """
    norms = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    return (norms - 2 * a @ b.T) / norms


def pretraining_characters() -> tuple[str, ...]:
    """List the pre-training classes: by rule, in enough fonts, and of two that look the same only the first."""
    fonts = Counter(c for font in PRETRAINING_FONTS for c in font_characters(font) if is_pretraining_character(c))
    characters, pixels = looks(sorted(c for c, count in fonts.items() if count >= MIN_FONTS))
    distance = look_distance(pixels, pixels)
    kept: list[int] = []
    for i in range(len(characters)):
        if not kept or distance[i, kept].min() >= SAME_LOOK:
            kept.append(i)
    return tuple(characters[i] for i in kept)


def render_scripts() -> tuple[
    UInt8[np.ndarray, "n 28 28"], Int[np.ndarray, "n"], UInt8[np.ndarray, "m 28 28"], Int[np.ndarray, "m"], list[str]
]:
    """Draw the `scripts` stream: 120 characters of nine writing systems that the shipped backbone has never seen.

    Training images come from the regular font files, test images from the bold ones; every image has its own
    distortion. The same call gives the same images (up to rounding by one grey level under another FreeType).

    Returns:
        Training images (2,400) and labels, test images (1,200) and labels, and class names such as
        "Georgian U+10D0". Light strokes on a dark ground, grouped by class.

    Raises:
        DataError: the installed matplotlib lacks the fonts.
    """
    letters = [(script, letter) for script, text in SCRIPTS.items() for letter in text]
    images, labels = [], []
    for part, bold, count in (("train", False, SCRIPT_TRAIN), ("test", True, SCRIPT_TEST)):
        fonts = [font for font in PRETRAINING_FONTS if font.startswith("DejaVu") and ("Bold" in font) == bold]
        fields = []
        for _, letter in letters:
            own = [distance_field(letter, font) for font in fonts if letter in font_characters(font)]
            if not own:
                raise DataError(
                    f"expected U+{ord(letter):04X} in {' or '.join(fonts)}, found it in none; install matplotlib >= 3.8"
                )
            # The fonts that have the letter take turns
            fields += [own[i % len(own)] for i in range(count)]
        # Seed 0, not the run's: the data are the same for every run
        rng = np.random.default_rng(stream_seed(0, "scripts", part))
        images.append(draw(np.stack(fields), rng, SCRIPT_STRENGTH))
        labels.append(np.repeat(np.arange(len(letters)), count))
    names = [f"{script} U+{ord(letter):04X}" for script, letter in letters]
    return images[0], labels[0], images[1], labels[1], names
