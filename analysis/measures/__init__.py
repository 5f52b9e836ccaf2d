"""Numbers that summarise kernels, pure float64 functions of matrices (docs/theory.md, sections 4 and 5); NumPy only."""

from analysis.measures.alignment import cka, debiased_cka, drift, kernel_distance, target_alignment
from analysis.measures.interplay import (
    TaskGrid,
    inter_intra_ratio,
    random_orientation_ratio,
    ratio_baseline,
    same_population_ratio,
    task_grid,
)
from analysis.measures.overlap import RowSpace, ntk_overlap, overlap_matrix, principal_angles, row_space
from analysis.measures.spectrum import (
    absolute_ridge,
    effective_dimension,
    participation_ratio,
    sample_major,
    spectrum,
    symmetrise,
)

__all__ = [
    "RowSpace",
    "TaskGrid",
    "absolute_ridge",
    "cka",
    "debiased_cka",
    "drift",
    "effective_dimension",
    "inter_intra_ratio",
    "kernel_distance",
    "ntk_overlap",
    "overlap_matrix",
    "participation_ratio",
    "principal_angles",
    "random_orientation_ratio",
    "ratio_baseline",
    "row_space",
    "same_population_ratio",
    "sample_major",
    "spectrum",
    "symmetrise",
    "target_alignment",
    "task_grid",
]
