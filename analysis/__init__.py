"""Why a pre-trained model forgets: empirical neural tangent kernels of NTK-CL runs, or of any pure function.

    import analysis

    theta = analysis.empirical_ntk(apply_fn, params, x1, x2)           # (n1, n2, k, k), exact, in bounded memory
    kernel = analysis.KernelOperator(apply_fn, params, x1)             # its products only: for solves, eigenvalues, ...
    analysis.compute_kernels("runs/demo")                              # every checkpoint, into runs/demo/analysis
    block = analysis.load_analysis("runs/demo").kernel(0, 5, 1, 3)     # seed 0, after task 5, tasks 1 and 3
    analysis.load_analysis("runs/demo", "ease")                        # of another method: Request(method="ease")
    analysis.compute_gaps("runs/demo")                                 # what theory says, beside what the run did
    analysis.compute_forecast("runs/demo")                             # what each task would make it forget
    analysis.write_report(["runs/demo"])                               # all of it, to look at

Names are imported when they are first used, so that `ntk-analysis --help` doesn't wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.kernels.composite import composite
    from analysis.kernels.density import spectral_density
    from analysis.kernels.empirical import empirical_ntk
    from analysis.kernels.estimates import frobenius_norm, kernel_trace
    from analysis.kernels.linearized import Linearized
    from analysis.kernels.products import KernelOperator, ntk_vector_product
    from analysis.kernels.sketch import sketched_ntk
    from analysis.kernels.solve import extreme_eigenvalues, ridge_solve
    from analysis.records.checkpoints import open_run
    from analysis.report import write_report
    from analysis.store import load_analysis
    from analysis.studies.forecast import compute_forecast
    from analysis.studies.gaps import compute_gaps
    from analysis.studies.kernels import compute_kernels
    from analysis.studies.request import ForecastRequest, GapsRequest, Request

_HOMES = {
    "ForecastRequest": "analysis.studies.request",
    "GapsRequest": "analysis.studies.request",
    "KernelOperator": "analysis.kernels.products",
    "Linearized": "analysis.kernels.linearized",
    "Request": "analysis.studies.request",
    "composite": "analysis.kernels.composite",
    "compute_forecast": "analysis.studies.forecast",
    "compute_gaps": "analysis.studies.gaps",
    "compute_kernels": "analysis.studies.kernels",
    "empirical_ntk": "analysis.kernels.empirical",
    "extreme_eigenvalues": "analysis.kernels.solve",
    "frobenius_norm": "analysis.kernels.estimates",
    "kernel_trace": "analysis.kernels.estimates",
    "load_analysis": "analysis.store",
    "ntk_vector_product": "analysis.kernels.products",
    "open_run": "analysis.records.checkpoints",
    "ridge_solve": "analysis.kernels.solve",
    "sketched_ntk": "analysis.kernels.sketch",
    "spectral_density": "analysis.kernels.density",
    "write_report": "analysis.report",
}
__all__ = [
    "ForecastRequest",
    "GapsRequest",
    "KernelOperator",
    "Linearized",
    "Request",
    "composite",
    "compute_forecast",
    "compute_gaps",
    "compute_kernels",
    "empirical_ntk",
    "extreme_eigenvalues",
    "frobenius_norm",
    "kernel_trace",
    "load_analysis",
    "ntk_vector_product",
    "open_run",
    "ridge_solve",
    "sketched_ntk",
    "spectral_density",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
