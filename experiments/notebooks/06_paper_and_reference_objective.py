# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Paper and reference, seen through kernels
#
# **Question.** NTK-CL comes in two readings (docs/method.md): `reference` repeats the authors' release, `paper` makes
# the idea work, in its objective as in its parts. In the release, token map and norm scale of the prompts start at
# zero, and query and key of the fusion choose among one entry: by the method's own description they never get a
# gradient. Does the kernel say the same, and what else differs?
#
# **Theory.** The kernel is a sum over parameters, so it splits over parts of the network,
# $\Theta = \sum_g J_g J_g^\top$, and $\operatorname{tr}\Theta_g / \operatorname{tr}\Theta$ says how much of what can be
# learned goes through part $g$: nothing if its gradient is zero. Between tasks,
# $\rho = \|\Theta_{tk}\| / \sqrt{\|\Theta_{tt}\|\,\|\Theta_{kk}\|}$ says how much is shared, to be read beside what
# tasks of the same spectra would share by chance; between checkpoints, $\|\Theta' - \Theta\| / \|\Theta\|$ says how
# lazy training was (docs/theory.md, section 4; Frobenius norms).
#
# Both learn the same tiny stream from the same random backbone, with the same rates and the same seed.

# %%
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import small

from analysis import empirical_ntk, open_run
from analysis.measures import drift, participation_ratio, random_orientation_ratio, spectrum, task_grid
from ntkcl_jax.plots.style import COLOURS, style

FORMS, SEED, PER_TASK = ("paper", "reference"), 0, 8


def part(path):
    """Which part of the network a parameter belongs to."""
    if path.startswith("current/adapters/"):
        return "adapters"
    if path.startswith("current/prompts/"):
        return "prompt bias" if "norm_bias" in path else "prompt maps"
    return "query, key" if path.startswith(("fusion/query", "fusion/key")) else "value, out"


SILENT = ("prompt maps", "query, key")
"""Parts that should have no gradient in `reference`."""

# %% [markdown]
# Kernels of the prototype scores on a few test images of every task, at every checkpoint (mean over scores).

# %%
kernels, ratio, chance = {}, {}, {}
for form in FORMS:
    records = open_run(small.run(form, depth=2), arrays=small.arrays())
    probes = records.probes(SEED, PER_TASK, record=False)
    kernels[form] = []
    for checkpoint in records.checkpoints(SEED):
        fn, params = records.function(SEED, checkpoint)
        kernels[form].append(empirical_ntk(fn, params, probes.images, outputs="trace", groups=part))
    pairs = list(combinations(range(len(probes.tasks)), 2))
    size = sum(np.size(value) for value in params.values())
    ratio[form], chance[form] = [], []
    for kernel in (parts["whole"] for parts in kernels[form]):
        spread = [participation_ratio(spectrum(kernel[a:b, a:b])) for a, b in pairwise(probes.offsets)]
        grid = task_grid(kernel, probes.offsets).inter_intra_ratio
        ratio[form].append(np.mean([grid[pair] for pair in pairs]))
        chance[form].append(np.mean([random_orientation_ratio(spread[t], spread[k], size) for t, k in pairs]))

moved = {form: [drift(old["whole"], new["whole"]) for old, new in pairwise(kernels[form])] for form in FORMS}
shares = {
    form: {
        name: [np.trace(parts[name]) / np.trace(parts["whole"]) for parts in kernels[form]]
        for name in sorted(kernels[form][0].keys() - {"whole"})
    }
    for form in FORMS
}
silent = {form: [max(shares[form][name]) for name in SILENT] for form in FORMS}

# %%
with style():
    figure, (sharing, drifts, carried) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for place, (colour, form) in enumerate(zip(COLOURS, FORMS, strict=False)):
        sharing.plot(ratio[form], "o-", color=colour, label=form)
        sharing.plot(chance[form], ":", color=colour, label=f"{form}, by chance")
        drifts.plot(range(1, len(moved[form]) + 1), moved[form], "o-", color=colour, label=form)
        at = np.arange(len(shares[form])) + (place - 0.5) * 0.4
        carried.barh(at, [share[-1] for share in shares[form].values()], 0.4, color=colour, label=form)
    sharing.set(ylim=(0, 1.05), xlabel="tasks learned", ylabel="inter-task / intra-task kernel")
    sharing.set_title("Tasks share features")
    sharing.set_xticks(range(len(ratio[FORMS[0]])))
    drifts.set(ylim=(0, None), xlabel="tasks learned", ylabel="relative change of the kernel")
    drifts.set_title("Training moves kernels")
    drifts.set_xticks(range(1, len(moved[FORMS[0]]) + 1))
    carried.set_yticks(range(len(shares[FORMS[0]])), list(shares[FORMS[0]]))
    carried.set(xscale="log", xlabel="share of the trace, after all tasks", title="Who carries the kernel")
    for axes in (sharing, drifts, carried):
        axes.legend(frameon=False)
plt.show()

# %%
for form in FORMS:
    carry = ", ".join(f"{name} {share[-1]:.1e}" for name, share in shares[form].items())
    print(
        f"{form}: in the end tasks share {ratio[form][-1]:.2f} of their kernels ({chance[form][-1]:.2f} by chance); a "
        f"task moves the kernel by {min(moved[form]):.0%} to {max(moved[form]):.0%}; shares of the trace: {carry}."
    )
print(
    f"At no checkpoint do {' and '.join(SILENT)} carry more than {max(silent['reference']):.0e} of the reference's "
    f"kernel; of the paper's they carry up to {silent['paper'][0]:.1e} and {silent['paper'][1]:.1e}."
)
for form in FORMS:
    assert abs(sum(share[-1] for share in shares[form].values()) - 1) < 1e-6
    assert all(measured > random for measured, random in zip(ratio[form], chance[form], strict=True))
assert max(silent["reference"]) < 1e-12 < min(silent["paper"])
