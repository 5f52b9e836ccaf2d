"""Numbers that summarise kernels, as pure float64 functions (docs/theory.md, sections 4 and 5); NumPy only.

`spectrum`, `alignment`, `overlap` and `ratios` are functions of matrices. `measure` says what a `Measure` is,
`catalogue` declares ours, functions of a `Checkpoint`; `registry` adds those of installed packages (docs/measures.md).
"""

from analysis.measures.alignment import debiased_cka, drift, kernel_distance, target_alignment
from analysis.measures.catalogue import RIDGE_FRACTION
from analysis.measures.checkpoint import Checkpoint, matrix_of, one_hot, sample_kernel
from analysis.measures.measure import Measure
from analysis.measures.overlap import RowSpace, ntk_overlap, overlap_matrix, row_space
from analysis.measures.ratios import TaskGrid, random_orientation_ratio, same_population_ratio, task_grid
from analysis.measures.registry import by_name
from analysis.measures.spectrum import (
    absolute_ridge,
    effective_dimension,
    participation_ratio,
    sample_major,
    spectrum,
    symmetrise,
)

__all__ = [
    "RIDGE_FRACTION",
    "Checkpoint",
    "Measure",
    "RowSpace",
    "TaskGrid",
    "absolute_ridge",
    "by_name",
    "debiased_cka",
    "drift",
    "effective_dimension",
    "kernel_distance",
    "matrix_of",
    "ntk_overlap",
    "one_hot",
    "overlap_matrix",
    "participation_ratio",
    "random_orientation_ratio",
    "row_space",
    "same_population_ratio",
    "sample_kernel",
    "sample_major",
    "spectrum",
    "symmetrise",
    "target_alignment",
    "task_grid",
]
