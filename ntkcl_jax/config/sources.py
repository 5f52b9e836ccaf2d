"""Names that `data.source` can have: the project's own, and those that installed packages add (docs/data.md)."""

from pathlib import Path

from ntkcl_jax.config.registry import Registry

HOME = Path(__file__).parents[1] / "data" / "sources"
NOT_SOURCES = ("__init__", "base", "registry")
"""Modules of `data/sources/` that tell what a source is; every other one declares a source as `SOURCE`."""

# Listed by their files, not imported: names appear in `--help` without the images' libraries, and a new file is enough.
SOURCES = Registry(
    "data source",
    "ntkcl_jax.sources",
    {
        file.stem.replace("_", "-"): f"ntkcl_jax.data.sources.{file.stem}:SOURCE"
        for file in sorted(HOME.glob("*.py"))
        if file.stem not in NOT_SOURCES
    },
)
"""Where images come from; each is a `ntkcl_jax.data.sources.SourceKind`, called after its module."""
