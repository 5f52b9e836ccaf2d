"""Endless distorted glyph images: one class for each pre-training character, drawn from twenty font files."""

import contextlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from ntkcl_jax.data.glyphs import PRETRAINING_FONTS, pretraining_characters
from ntkcl_jax.data.strokes import distance_field, draw, font_characters
from ntkcl_jax.errors import DataError


@dataclass(frozen=True)
class Glyphs:
    """Distance fields of every class in every font that has it, grouped by class."""

    characters: tuple[str, ...]
    """One character for each class."""
    fields: Float[np.ndarray, "n 64 64"]
    """Signed distances, the fields of a class side by side."""
    first: Int[np.ndarray, "classes"]
    """Where each class begins in `fields`."""
    count: Int[np.ndarray, "classes"]
    """How many fields each class has."""

    def batch(
        self, rng: np.random.Generator, size: int, strength: float
    ) -> tuple[UInt8[np.ndarray, "b 28 28"], Int[np.ndarray, "b"]]:
        """Draw images of random classes in random fonts; `strength` is that of `ntkcl_jax.data.strokes.draw`."""
        labels = rng.integers(0, len(self.characters), size)
        # One draw at a time: the shipped file was made so, and drawing them at once would change the stream.
        fields = self.first[labels] + np.array([rng.integers(0, self.count[label]) for label in labels])
        return self.draw(fields, rng, strength), labels

    def draw(
        self, rows: Int[np.ndarray, "b"], rng: np.random.Generator, strength: float
    ) -> UInt8[np.ndarray, "b 28 28"]:
        """Draw one distorted image of each of the fields `rows`."""
        return draw(self.fields[rows], rng, strength)


def load_glyphs(characters: tuple[str, ...] | None = None, fonts: tuple[str, ...] = PRETRAINING_FONTS) -> Glyphs:
    """Measure the distance fields of all classes (about half a minute).

    Args:
        characters: the classes; None for all pre-training characters.
        fonts: fonts to draw from. A character that none of them has keeps its class, with a count of 0.
    """
    characters = characters or pretraining_characters()
    fields: list[Float[np.ndarray, "64 64"]] = []
    first = []
    for character in characters:
        first.append(len(fields))
        for font in fonts:
            if character in font_characters(font):
                with contextlib.suppress(DataError):  # some fonts map a character to a blank glyph
                    fields.append(distance_field(character, font))
    # Fields of a class lie side by side, so that beginnings tell the numbers
    count = np.diff([*first, len(fields)])
    return Glyphs(characters, np.stack(fields), np.array(first), count)
