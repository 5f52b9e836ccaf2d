"""Which later learning rate would have forgotten less, before training again (docs/theory.md, section 2.5).

`network` (NTK-CL as it is read out once a task has ended), `steps` (its possible steps on a task, from one step and a
kernel), `look` (what each would leave), `engine` (the whole run, into `RUN/analysis/what_if.json`), `table` (what it
means; the report takes its words from there, and imports nothing else of this folder, which needs JAX).
"""
