"""Empirical neural tangent kernels of any pure function `apply_fn(params, x)`; nothing here knows a network or a run.

From the ground up: the kinds of kernels, below; `tracing` (what a function's program tells before it runs),
`composite`, `functions` (checks), `jacobian` (two compiled programs), `tiled` (the exact way); `linearized`
(first-order model), `products`, `solve`, `estimates`, `density` (matrix-free); `sketch`; `neural_tangents_backend`;
`problem`, `planner` (tile, memory and operations of a way); `health` (the gate before the store); `empirical` (the
front door).

Nothing is imported here, so that options can be read before JAX is there.
"""

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
