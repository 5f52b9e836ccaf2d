"""Parts by name: those of this package, and those that installed packages add through entry points.

A part is `module:attribute`, imported when it is first used, so that names can be listed (`--help`) without JAX. A
package adds one by an entry point, and nothing here needs to be edited:

    [project.entry-points."ntkcl_jax.learners"]
    mine = "my_package.mine:Mine"
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ntkcl_jax.errors import ConfigError, reason

PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a name must look like, since methods (LEARNER/READOUT) and folders are called after it."""


@dataclass(frozen=True)
class Registry:
    """Parts of one kind.

    Attributes:
        kind: what one is called, for messages.
        group: entry points that add to it.
        own: this package's, by name.
        reserved: names that mean something else where a part's name may stand; regular expressions.

    Example:
        >>> Registry("counter", "ntkcl_jax.none", {"counts": "collections:Counter"}).load("counts")
        <class 'collections.Counter'>
    """

    kind: str
    group: str
    own: Mapping[str, str]
    reserved: tuple[str, ...] = ()

    @cached_property
    def added(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages, by name, in the order of their names.

        Raises:
            ConfigError: two parts have one name, or one has a name that none can have.
        """
        found: dict[str, EntryPoint] = {}
        # Sorted: the order in which packages are found differs between machines, names in `--help` mustn't
        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, point.value)):
            if not PLAIN.fullmatch(point.name) or any(re.fullmatch(taken, point.name) for taken in self.reserved):
                raise ConfigError(
                    f"expected the name of a {self.kind} to be of lower-case letters, digits and single hyphens and "
                    f"none of {', '.join(self.reserved) or 'those reserved'}, got {point.name!r} for {point.value} "
                    f"(entry points {self.group}); rename it"
                )
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
        # Ours first, without a look at installed packages, which takes time and may fail
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

    def subclass(self, name: str, base: type, attributes: Sequence[str]) -> Any:
        """Import a class.

        Args:
            name: of the part.
            base: what it must be derived from.
            attributes: what it must define for itself beside the abstract methods; its `name` must be the part's.

        Raises:
            ConfigError: there is none of that name, or it isn't such a class.
        """
        found = self.load(name)
        wanted = f"{base.__module__}.{base.__qualname__}"
        # `issubclass` raises for what is no class at all
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ConfigError(f"expected the {self.kind} {name!r} to be a subclass of {wanted}, got {found!r}")
        where = f"{found.__module__}.{found.__qualname__}"
        abstract = getattr(found, "__abstractmethods__", ())
        lacking = sorted(abstract) + [attribute for attribute in attributes if not hasattr(found, attribute)]
        if lacking:
            raise ConfigError(
                f"the {self.kind} {name!r} lacks {', '.join(lacking)}; define what {wanted} asks for in {where}"
            )
        if found.name != name:  # checkpoints and random streams are called after the class
            raise ConfigError(
                f"expected {where} to have the name of its entry point, {name!r}, got {found.name!r}; give both one"
            )
        return found
