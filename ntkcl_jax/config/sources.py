"""Names that `data.source` can have: the project's own, and those that installed packages add (docs/data.md)."""

from ntkcl_jax.config.registry import Registry

HOME = "ntkcl_jax.data.sources"
SOURCES = Registry(
    "data source",
    "ntkcl_jax.sources",
    {
        "digits": f"{HOME}.digits:DIGITS",
        "uci-digits": f"{HOME}.digits:UCI_DIGITS",
        "scripts": f"{HOME}.scripts:SCRIPTS",
        "folder": f"{HOME}.folder:FOLDER",
        "lists": f"{HOME}.lists:LISTS",
        "huggingface": f"{HOME}.huggingface:HUGGINGFACE",
        "cifar100": f"{HOME}.cifar100:CIFAR100",
        "arrays": f"{HOME}.arrays:ARRAYS",
    },
)
"""Where images come from; each is a `ntkcl_jax.data.sources.SourceKind`."""
