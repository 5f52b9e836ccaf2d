"""Parts by name: those of this package, and those that installed packages add through entry points.

A part is `module:attribute`, imported when it is first used, so that names can be listed (`--help`) without JAX. A
package adds one by an entry point, and nothing here needs to be edited:

    [project.entry-points."ntkcl_jax.learners"]
    mine = "my_package.mine:Mine"
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ntkcl_jax.errors import ConfigError, reason


@dataclass(frozen=True)
class Registry:
    """Parts of one kind.

    Attributes:
        kind: what one is called, for messages.
        group: entry points that add to it.
        own: this package's, by name.

    Example:
        >>> Registry("counter", "ntkcl_jax.none", {"counts": "collections:Counter"}).load("counts")
        <class 'collections.Counter'>
    """

    kind: str
    group: str
    own: Mapping[str, str]

    @cached_property
    def added(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages, by name, in the order of their names.

        Raises:
            ConfigError: two parts have one name.
        """
        found: dict[str, EntryPoint] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            # An editable install may list its entry points twice; that is still one part.
            if found.get(point.name, point).value != point.value or point.name in self.own:
                other = found[point.name].value if point.name in found else self.own[point.name]
                raise ConfigError(
                    f"expected one {self.kind} of each name, got two called {point.name!r}: {other} and {point.value} "
                    f"(entry points {self.group}); rename or uninstall one"
                )
            found[point.name] = point
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All names: ours first, then those of other packages."""
        return (*self.own, *self.added)

    def load(self, name: str) -> Any:
        """Import a part.

        Raises:
            ConfigError: there is none of that name, or it can't be imported.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if name not in self.added:
            raise ConfigError(f"unknown {self.kind} {name!r}; choose from {', '.join(self.names)}")
        point = self.added[name]
        try:
            return point.load()
        except Exception as error:  # another package's code may raise anything
            raise ConfigError(
                f"the {self.kind} {name!r} can't be imported from {point.value} ({type(error).__name__}: "
                f"{reason(error)}); mend or uninstall the package that adds it"
            ) from error
