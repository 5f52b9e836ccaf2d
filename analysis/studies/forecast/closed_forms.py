"""Other ways to learn the new task: squared error on the centred scores of some of its images, in closed form.

α = U q(g) Uᵀ r on the modes of Φ_k(X_k, X_k) with r the residual targets, then δ = J(X_k)ᵀ α
(docs/theory.md, section 2.1).
"""

import numpy as np

from analysis import measures
from analysis.errors import PlanError
from analysis.kernels.empirical import default_precision
from analysis.kernels.linearized import Linearized
from analysis.records.checkpoints import Records
from analysis.records.outputs import Params, centred_scores, targets
from analysis.studies.fitting import kernel_of
from analysis.studies.request import ForecastRequest
from analysis.theory.filters import stable_rate
from analysis.theory.modes import modes
from analysis.theory.procedures import Descent, Flow, HeavyBall, Nesterov, Procedure, Ridge


def procedure_of(request: ForecastRequest, largest: float, momentum: float) -> Procedure:
    """The way of training that a request names, in the kernel's units.

    Args:
        request: rate and time relative to the kernel.
        largest: largest eigenvalue of kernel plus ridge.
        momentum: of the run.

    Raises:
        PlanError: a rate at which training diverges.

    Example:
        >>> procedure_of(ForecastRequest(procedure="descent", rate=1.0, steps=3), largest=4.0, momentum=0.9)
        Descent(rate=0.25, steps=3)
    """
    rate, steps = request.rate / largest, request.steps
    if request.procedure not in ("ridge", "flow"):
        # At a largest eigenvalue of 1, in whose units the request's rate is
        limit = stable_rate(
            1.0, 0.0 if request.procedure == "descent" else momentum, nesterov=request.procedure == "nesterov"
        )
        if request.rate >= limit:
            raise PlanError(
                f"expected a rate below {limit:.3g}, where {request.procedure} is stable; got {request.rate:g}"
            )
    return {
        "ridge": Ridge(),
        "flow": Flow(request.time / largest),
        "descent": Descent(rate, steps),
        "momentum": HeavyBall(rate, momentum, steps),
        "nesterov": Nesterov(rate, momentum, steps),
    }[request.procedure]


def closed_form_step(records: Records, seed: int, task: int, per_task: int, request: ForecastRequest) -> Params:
    """The step of the trainable parameters that learning a task by the requested procedure would make.

    Args:
        records: the run.
        seed: one of its seeds.
        task: the new task; the network is taken at the checkpoint before it.
        per_task: training images of it.
        request: procedure, ridge, rate, steps, time.

    Raises:
        AnalysisError: fewer images than that, too little memory, or a rate that diverges.
    """
    probes = records.probes(seed, per_task, side="train", tasks=(task,))
    fn, params = centred_scores(records, seed, task)
    model = Linearized(fn, params, probes.images[:2])
    residual = targets(probes.labels, model.outputs) - model.values(probes.images)
    theta = measures.sample_major(kernel_of(fn, params, probes.images, per_task))
    found = modes(theta, float(np.finfo(default_precision()).eps))
    # `absolute_ridge` takes positive fractions only
    ridge = measures.absolute_ridge(found.values, request.ridge) if request.ridge else 0.0
    g = found.values + ridge
    # Modes come descending
    procedure = procedure_of(request, float(g[0]), records.run.config.optimizer.momentum)
    alpha = found.filtered(procedure.filter(g), residual.ravel())
    return model.step(probes.images, np.reshape(alpha, residual.shape))
