"""Names that `data.source` can have: the project's own, and those that installed packages add.

A source is an entry point: a name, and where the `SourceKind` of that name is found. Nothing of it is imported before
the images are asked for, so listing the names is quick and a broken package harms only those who use it.
"""

from importlib import metadata

from ntkcl_jax.errors import ConfigError

GROUP = "ntkcl_jax.sources"
"""Entry-point group in which a package declares its sources (docs/data.md)."""
HOME = "ntkcl_jax.data.sources"
BUILT_IN = {
    "digits": f"{HOME}.digits:DIGITS",
    "uci-digits": f"{HOME}.digits:UCI_DIGITS",
    "scripts": f"{HOME}.scripts:SCRIPTS",
    "folder": f"{HOME}.folder:FOLDER",
    "lists": f"{HOME}.lists:LISTS",
    "huggingface": f"{HOME}.huggingface:HUGGINGFACE",
    "cifar100": f"{HOME}.cifar100:CIFAR100",
    "arrays": f"{HOME}.arrays:ARRAYS",
}
"""The project's own, written here so that they are there in a checkout that isn't installed."""


def source_names() -> tuple[str, ...]:
    """List every name that `data.source` can have, the project's own first.

    Raises:
        ConfigError: a package adds a source under a name that the project uses itself.

    Example:
        >>> source_names()[:3]
        ('digits', 'uci-digits', 'scripts')
    """
    added = metadata.entry_points(group=GROUP)
    for entry in added:
        if entry.name in BUILT_IN:
            raise ConfigError(
                f"{_package(entry)} adds a data source {entry.name!r}, which is one of ntkcl-jax's own; rename it "
                "there, or uninstall the package"
            )
    return (*BUILT_IN, *sorted({entry.name for entry in added}))


def source_entry(name: str) -> metadata.EntryPoint:
    """Find where a source is defined, without importing it.

    Raises:
        ConfigError: there is no such source, or more than one.

    Example:
        >>> source_entry("folder").value
        'ntkcl_jax.data.sources.folder:FOLDER'
    """
    names = source_names()
    if name in BUILT_IN:
        return metadata.EntryPoint(name, BUILT_IN[name], GROUP)
    found = list(metadata.entry_points(group=GROUP, name=name))
    if not found:
        raise ConfigError(
            f"data.source must be one of {', '.join(names)}, got {name!r}; correct it, or install the package that "
            "adds it"
        )
    if len(found) > 1:
        both = " and ".join(sorted(map(_package, found)))
        raise ConfigError(f"data.source={name} is added by {both}; uninstall all but one")
    return found[0]


def _package(entry: metadata.EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else entry.value
