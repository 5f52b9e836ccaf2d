"""Numbers that others have published, beside which a table's own ones stand."""

import sys
from dataclasses import dataclass

from ntkcl_jax.config.methods import HEAD, LEARNERS, NAMED, READOUTS, Method
from ntkcl_jax.config.presets import PRESETS

FROZEN = "lowest and highest of arXiv:2210.04428 and the tables of RanPAC, MOS and MoAL"
NTKCL = "arXiv:2407.17120"
Range = tuple[float, float]


@dataclass(frozen=True)
class Reported:
    """Lowest and highest published value, in [0, 1]; None where none is known.

    Attributes:
        average: mean over tasks of the accuracy on all classes seen.
        final: accuracy on all classes at the end.
        source: where it is published.
    """

    average: Range | None
    final: Range | None
    source: str


def reported(preset: str, method: str) -> Reported | None:
    """Look up what is published for a method on a preset.

    NTK-CL's and the frozen prototypes' numbers are in `ntkcl_jax.config.benchmarks`. Those of other methods, as its
    table has them, are in `PUBLISHED` of the module of the method's learner, or of its readout where that isn't the
    learner's head: (average, final) in [0, 1] by benchmark, on ImageNet-21K weights, whose presets have the benchmarks'
    names.

    Args:
        preset: name of the preset.
        method: one of `ntkcl_jax.config.METHODS`.
    """
    known = PRESETS[preset].published if preset in PRESETS else None
    if method == "ntkcl":
        return exactly(known.average, known.final, NTKCL) if known else None
    if method == "prototypes":
        return Reported(None, known.frozen, FROZEN) if known and known.frozen else None
    if method not in NAMED:  # frozen/ranpac, say, isn't what was published as RanPAC
        return None
    learner, readout = Method.of(method)
    part = LEARNERS.load(learner) if readout == HEAD else READOUTS.load(readout)
    module = sys.modules[part.__module__]
    found = getattr(module, "PUBLISHED", {}).get(preset)
    return exactly(*found, getattr(module, "SOURCE", f"table of {NTKCL}")) if found else None


def exactly(average: float | None, final: float, source: str) -> Reported:
    """One published value of each, or none of the average."""
    return Reported(None if average is None else (average, average), (final, final), source)
