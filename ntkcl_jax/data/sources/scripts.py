"""Letters of writing systems that the shipped backbone has never seen, drawn from installed fonts."""

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import SourceKind


def _drawn(data: DataConfig) -> Arrays:
    from ntkcl_jax.data.glyphs import render_scripts  # draws with matplotlib, which is slow to import

    *parts, names = render_scripts()
    return Arrays(*parts, tuple(names))


SOURCE = SourceKind("120 characters of nine writing systems, drawn from fonts of matplotlib", _drawn, side=28)
