"""What the benchmarks' made-up task looks like: the sixth of ten tasks of ten classes."""

TASK_CLASSES = 10
OFFSET = 50
"""Classes of the tasks before, all with a prototype."""
SEEN = OFFSET + TASK_CLASSES
RATE = 1e-3
"""Learning rate."""
