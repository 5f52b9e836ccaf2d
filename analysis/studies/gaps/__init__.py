"""The two generalization gaps of a run: what theory's learner would have lost to later tasks and to few samples.

`learner` (ridge regression on the run's own tangent kernels, task after task), `entries` (what is said of each task),
`compute` (the whole run, into `RUN/analysis/gaps.json`), `cost` (what that would take).
"""

from analysis.studies.gaps.compute import compute_gaps
from analysis.studies.gaps.cost import gaps_cost
from analysis.studies.gaps.table import table as gaps_table

__all__ = ["compute_gaps", "gaps_cost", "gaps_table"]
