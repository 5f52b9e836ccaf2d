"""Where images come from: one file a source, and the way from a name in the config to opened images."""

from ntkcl_jax.data.sources.arrays import Arrays
from ntkcl_jax.data.sources.base import Sides, Source, SourceKind
from ntkcl_jax.data.sources.registry import load_source, source_kind

__all__ = ["Arrays", "Sides", "Source", "SourceKind", "load_source", "source_kind"]
