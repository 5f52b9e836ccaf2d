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
# # Does the forecast hold?
#
# **Question.** Kernels describe networks that are linear in their parameters. Is what they say about forgetting true of
# a network that was really trained?
#
# **Theory.** Before task $k$ the network is replaced by its first-order model around checkpoint $k$, trained by the
# run's own steps; the parameters' step $\delta$ gives each old task's drift $J(X_t)\,\delta$, and with it the change of
# its loss $\tfrac{1}{2n}\|Y - f\|^2$ (docs/theory.md, section 2.4; Chizat, Oyallon, Bach 2019, arXiv:1812.07956).
# Nothing that was trained on task $k$ is used. Beside it: interplay $\tfrac1n\|\Phi(X_t, X_k)\,\alpha_k\|^2$ of ridge
# regression on the network's kernel, with the ridge that moves the parameters as far as the network's training did
# (docs/theory.md, sections 1.1 and 1.2), and the network's own.
#
# By default a tiny run on a random backbone of one block is trained here. `NTKCL_RUN=runs/demo` looks at a run of yours
# instead (at a copy; it takes minutes on one core).

# %%
import matplotlib.pyplot as plt
import numpy as np
import small

from analysis.studies.forecast import compute_forecast
from analysis.studies.gaps import compute_gaps
from analysis.studies.request import ForecastRequest, GapsRequest
from ntkcl_jax.plots.style import COLOURS, GREY, style

PER_TASK = 16
run, arrays = small.given_run()
gaps = compute_gaps(run, GapsRequest(per_task=PER_TASK, ridge="matched"), quiet=True, arrays=arrays)
forecast = compute_forecast(run, ForecastRequest(per_task=PER_TASK), quiet=True, arrays=arrays)

# %%
tasks = [task for seed in gaps["seeds"].values() for task in seed["by_task"]]
pairs = [pair for seed in forecast["seeds"].values() for pair in seed["pairs"]]
interplay = np.array(
    [(value, task["network"]["interplay"][k]) for task in tasks for k, value in task["interplay"].items()]
)
identity = max(abs(split["total"] / split["direct"] - 1) for task in tasks for split in (task, task["network"]))
change = np.array([(pair["predicted_loss_change"], pair["measured_loss_change"]) for pair in pairs])
cosine, missed, exact_step, kernel_drift = np.array(
    [(pair["cosine"], pair["relative_error"], pair["true_step"]["relative_error"], pair["ntk_drift"]) for pair in pairs]
).T


def typical_ratio(both):
    """How far apart two columns are, as a factor: 1 if they agree."""
    return float(np.exp(np.median(np.abs(np.log(both[:, 0] / both[:, 1])))))


# %%
def beside(axes, points, title, unit):
    """Predicted against measured, with the line where they agree."""
    ends = np.array([min(0, points.min()), points.max()]) * 1.08
    axes.plot(ends, ends, color=GREY, linewidth=0.8, label="equal")
    axes.plot(*points.T, "o", color=COLOURS[0])
    axes.set(xlabel=f"predicted {unit}", ylabel=f"measured {unit}", title=title)
    axes.ticklabel_format(scilimits=(-2, 3))
    axes.legend(frameon=False)


with style():
    figure, (scores, ridges) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    beside(scores, change, "Forecast: the run's own steps", "change of an old task's loss")
    beside(ridges, interplay, "Ridge regression that went as far", "interplay, per image")
plt.show()

# %%
print(
    f"Over {len(pairs)} pairs of old and new task the forecast drift has a cosine of {np.median(cosine):.4f} (at least "
    f"{cosine.min():.4f}) with the measured one and misses it by {np.median(missed):.1%} (at most {missed.max():.1%}); "
    f"the step that training really took, to first order, misses {np.median(exact_step):.1%}, and the kernel moved by "
    f"{np.median(kernel_drift):.1%}. Interplay of ridge regression and of the network differ by a factor of "
    f"{typical_ratio(interplay):.2f} in the middle: the same length is not the same direction."
)
assert identity < 1e-10
assert np.median(missed) < 0.1
