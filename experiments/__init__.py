"""What was tried, and what came of it.

`sweep` runs many settings and makes RESULTS.md and `results` of them, on one machine or by the scripts of `cluster`;
`first_task` and `multilevel` measure readouts of a frozen backbone; `bench` measures time and memory; `faults` hurts
runs on purpose; `pretrain` makes the shipped backbone; `notebooks` has worked examples; `icons` makes a folder of
images, `theory_curves` a table of docs/theory.md.
"""
