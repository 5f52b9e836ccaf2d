"""All measures there are: our own, then those that installed packages bring in the entry-point group of `GROUP`."""

from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from analysis.errors import MeasureError
from analysis.measures.catalogue import MEASURES
from analysis.measures.measure import Measure

GROUP = "analysis.measures"
"""Entry-point group; each of its entries names a `Measure`."""


def by_name() -> dict[str, Measure]:
    """Every measure, by its name: our own in the order of the catalogue, then those of packages by package and name.

    Returns:
        A new dictionary; packages are looked for again at every call.

    Raises:
        MeasureError: an entry that can't be imported or isn't a `Measure`, two measures of one name, or a reference to
            a measure that isn't there.

    Example:
        >>> list(by_name())[:2]
        ['inter_intra_ratio', 'kernel_norm']
    """
    found = {measure.name: measure for measure in MEASURES}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name)):
        measure = _load(entry)
        if measure.name in found:
            first = found[measure.name].package or "ntkcl-jax"
            raise MeasureError(
                f"expected one measure of each name; got {measure.name!r} from {first} and from {measure.package}: "
                "rename one, or uninstall its package"
            )
        found[measure.name] = measure
    # When all are known: a package may refer to another's measure
    for measure in found.values():
        unknown = [name for name in measure.references if isinstance(name, str) and name not in found]
        if unknown:
            raise MeasureError(
                f"the measure {measure.name!r} of the package {measure.package} refers to {unknown[0]!r}, which isn't "
                f"there: install what brings it, or uninstall {measure.package}"
            )
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _load(entry: EntryPoint) -> Measure:
    package = _package(entry) or "unknown"
    where = f"the measure {entry.name!r} ({entry.value}) of the package {package}"
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise MeasureError(f"{where} can't be loaded ({said}): mend or uninstall {package}") from error
    if not isinstance(found, Measure):
        raise MeasureError(
            f"{where} is a {type(found).__name__}, expected an analysis.measures.Measure: mend or uninstall {package}"
        )
    # Whatever the declaration says of it: errors name the package that was really loaded
    return replace(found, package=package)
