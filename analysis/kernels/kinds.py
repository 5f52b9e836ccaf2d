"""The kinds of kernels there are, by name; imports nothing, so that options can be read before JAX is there."""

from typing import Literal, get_args

Outputs = Literal["full", "trace", "diagonal", "pseudo"]
"""`full` (n1, n2, k, k); `trace` (n1, n2), the mean of the diagonal over outputs; `diagonal` (n1, n2, k); `pseudo`
(n1, n2), the kernel of the sum of outputs over √k."""
OUTPUTS: tuple[str, ...] = get_args(Outputs)
Precision = Literal["float64", "float32"]
"""Arithmetic of the sums over parameters."""
Way = Literal["auto", "tiled", "neural_tangents"]
"""How an exact kernel is computed; `auto` lets the planner choose."""
WAYS: tuple[str, ...] = get_args(Way)
