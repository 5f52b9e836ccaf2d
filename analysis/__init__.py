"""Why a pre-trained model forgets: empirical neural tangent kernels of NTK-CL runs, or of any pure function.

    import analysis

    theta = analysis.empirical_ntk(apply_fn, params, x1, x2)           # (n1, n2, k, k), exact, in bounded memory
    analysis.compute_kernels("runs/demo")                              # every checkpoint, into runs/demo/analysis
    block = analysis.load_analysis("runs/demo").kernel(0, 5, 1, 3)     # seed 0, after task 5, tasks 1 and 3

Names are imported when they are first used, so that `ntk-analysis --help` doesn't wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.kernels.composite import composite
    from analysis.kernels.empirical import empirical_ntk
    from analysis.kernels.products import ntk_vector_product
    from analysis.kernels.sketch import sketched_ntk
    from analysis.records import open_run
    from analysis.request import Request
    from analysis.session import compute_kernels
    from analysis.store import load_analysis

_HOMES = {
    "Request": "analysis.request",
    "composite": "analysis.kernels.composite",
    "compute_kernels": "analysis.session",
    "empirical_ntk": "analysis.kernels.empirical",
    "load_analysis": "analysis.store",
    "ntk_vector_product": "analysis.kernels.products",
    "open_run": "analysis.records",
    "sketched_ntk": "analysis.kernels.sketch",
}
__all__ = [
    "Request",
    "composite",
    "compute_kernels",
    "empirical_ntk",
    "load_analysis",
    "ntk_vector_product",
    "open_run",
    "sketched_ntk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
