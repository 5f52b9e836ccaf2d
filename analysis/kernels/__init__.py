"""Empirical neural tangent kernels of any pure function `apply_fn(params, x)`; nothing here knows a network or a run.

From the ground up: `kinds`, `composite`, `costs`, `dependence` (what a traced program costs and uses), `functions`
(checks), `jacobian` (two compiled programs), `tiled` (the exact way); `linearized` (first-order model), `products`,
`solve`, `estimates`, `density` (matrix-free); `sketch`; `neural_tangents_backend`; `memory`, `problem`, `prices`,
`planner` (what a way costs, known before anything is compiled); `health` (the gate before the store); `empirical` (the
front door).
"""
