"""The theory of forgetting as pure float64 functions of kernels and targets; NumPy and SciPy only, no run needed.

`modes` is the ground. Task interplay: `interplay`, `radius`, `complexity`. Forecast of forgetting: `filters`,
`procedures`, `recursion`, `losses`, `forgetting`, `concentration`. Task-specific generalization: `learning_curves`,
`finite_population`, `leave_one_out`, `subsets`. What both gaps depend on: `sweeps`.
"""

from analysis.theory.complexity import (
    Bound,
    Contraction,
    contraction,
    generalization_bound,
    rademacher_complexity,
)
from analysis.theory.concentration import Concentration, concentration
from analysis.theory.filters import (
    descent_filter,
    flow_filter,
    heavy_ball_filter,
    nesterov_filter,
    ridge_filter,
    schedule_filter,
    stable_rate,
)
from analysis.theory.finite_population import FinitePopulation, finite_population
from analysis.theory.forgetting import Comparison, compare, cross_entropy_drift, minibatch_drift, predicted_drift
from analysis.theory.interplay import (
    Decomposition,
    LearnedTask,
    decompose,
    learn_sequentially,
)
from analysis.theory.learning_curves import LearningCurve, effective_ridge, eigenlearning, population_modes
from analysis.theory.leave_one_out import (
    RidgeChoice,
    block_gcv,
    block_leave_one_out,
    choose_ridge,
    flat_gcv,
    gcv,
    leave_one_out,
    stored,
)
from analysis.theory.losses import CrossEntropy, SquaredError, loss_change
from analysis.theory.modes import Modes, dual_coefficients, modes
from analysis.theory.procedures import Descent, Flow, HeavyBall, Nesterov, Procedure, Ridge, Schedule
from analysis.theory.radius import Radius, matched_ridge, radius
from analysis.theory.recursion import Sgd, Trained, descend
from analysis.theory.subsets import (
    SubsetErrors,
    subset_gcv,
    subset_leave_one_out,
    subset_rest_errors,
    subset_test_errors,
)
from analysis.theory.sweeps import (
    PairSweep,
    SampleSizeSweep,
    TaskPair,
    orthogonality_sweep,
    regularization_sweep,
    sample_size_sweep,
)

__all__ = [
    "Bound",
    "Comparison",
    "Concentration",
    "Contraction",
    "CrossEntropy",
    "Decomposition",
    "Descent",
    "FinitePopulation",
    "Flow",
    "HeavyBall",
    "LearnedTask",
    "LearningCurve",
    "Modes",
    "Nesterov",
    "PairSweep",
    "Procedure",
    "Radius",
    "Ridge",
    "RidgeChoice",
    "SampleSizeSweep",
    "Schedule",
    "Sgd",
    "SquaredError",
    "SubsetErrors",
    "TaskPair",
    "Trained",
    "block_gcv",
    "block_leave_one_out",
    "choose_ridge",
    "compare",
    "concentration",
    "contraction",
    "cross_entropy_drift",
    "decompose",
    "descend",
    "descent_filter",
    "dual_coefficients",
    "effective_ridge",
    "eigenlearning",
    "finite_population",
    "flat_gcv",
    "flow_filter",
    "gcv",
    "generalization_bound",
    "heavy_ball_filter",
    "learn_sequentially",
    "leave_one_out",
    "loss_change",
    "matched_ridge",
    "minibatch_drift",
    "modes",
    "nesterov_filter",
    "orthogonality_sweep",
    "population_modes",
    "predicted_drift",
    "rademacher_complexity",
    "radius",
    "regularization_sweep",
    "ridge_filter",
    "sample_size_sweep",
    "schedule_filter",
    "stable_rate",
    "stored",
    "subset_gcv",
    "subset_leave_one_out",
    "subset_rest_errors",
    "subset_test_errors",
]
