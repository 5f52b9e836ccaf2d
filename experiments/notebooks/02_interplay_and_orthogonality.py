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
# # Interplay and orthogonality
#
# **Question.** An old task's error grows while new tasks are learned. Which task is to blame, and what would have
# prevented it?
#
# **Theory.** With $a$ the residual that learning the old task $t$ left, and $D_k = \Phi(X_t, X_k)\,\alpha_k$ what
# learning task $k$ changed on its images, the squared error after all tasks splits exactly
# (docs/theory.md, section 1.1):
#
# $$\tfrac1n\|a - \textstyle\sum_k D_k\|^2 = \underbrace{\tfrac1n\|a\|^2}_{\text{own}}
# + \underbrace{\sum_k \tfrac1n\|D_k\|^2}_{\text{interplay}}
# - \underbrace{\sum_k \tfrac2n a\cdot D_k}_{\text{own × interplay}}
# + \underbrace{\sum_{k<l} \tfrac2n D_k\cdot D_l}_{\text{interplay × interplay}} .$$
#
# All that the new task does goes through the inter-task kernel $\Phi(X_t, X_k)$. Where it vanishes nothing is
# forgotten (Bennani, Doan, Sugiyama 2020, arXiv:2006.11942).

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import small

from analysis import empirical_ntk
from analysis.measures import absolute_ridge, sample_major
from analysis.theory import learn_sequentially, modes
from analysis.theory.sweeps import TaskPair, orthogonality_sweep
from ntkcl_jax.plots.style import COLOURS, GREY, style

TASKS, PER_CLASS, WIDTH = ((3, 8), (5, 9), (1, 7)), 10, 256
CLASSES = sum(TASKS, ())
K = len(CLASSES)
images, labels = small.digits(CLASSES, PER_CLASS)
params = small.start(WIDTH, K)
kernel = sample_major(empirical_ntk(small.network, params, images))
residuals = small.one_hot(labels, CLASSES) - np.asarray(small.network(params, images))
ridge = absolute_ridge(modes(kernel).values, 0.1)

# %% [markdown]
# Three tasks of two digits each, learned one after the other by kernel ridge regression with the tangent kernel of a
# small network: the split of the first task's error after all three.

# %%
edges = [2 * PER_CLASS * t for t in range(len(TASKS) + 1)]
samples = [slice(a, b) for a, b in pairwise(edges)]
rows = [slice(a * K, b * K) for a, b in pairwise(edges)]
wanted = [residuals[part] for part in samples]
learned = learn_sequentially(
    lambda k, s: kernel[rows[s], rows[k]], wanted, [np.zeros_like(part) for part in wanted], [ridge] * len(TASKS)
)
split = learned[0].decomposition
without_cross = split.task_specific + sum(split.interplay.values())
identity = abs(split.total - split.direct) / split.direct

# %% [markdown]
# Now the first two tasks, with the new task's features turned out of the old one's by an angle: $J_k$ becomes
# $(\cos\theta\, J_k, \sin\theta\, J_k)$ and $J_t$ becomes $(J_t, 0)$. The sweep only multiplies the inter-task kernel
# by $\cos\theta$. To see that this is the same, features are built, turned and trained on in parameter space too.


# %%
def train_turned(cosine):
    """Error of the old task after ridge regression of both tasks, by explicit features and parameters."""
    both = modes(kernel[: rows[1].stop, : rows[1].stop])
    # Their inner products are the kernel
    features = both.vectors * np.sqrt(both.values)
    old, new = (features[part] for part in rows[:2])
    # Turned by the angle into as many fresh parameters
    old, new = np.hstack([old, 0 * old]), np.hstack([cosine * new, (1 - cosine**2) ** 0.5 * new])
    weights = np.zeros(old.shape[1])
    for design, target in ((old, wanted[0].ravel()), (new, wanted[1].ravel())):
        normal = design.T @ design + ridge * np.eye(len(weights))
        weights = weights + np.linalg.solve(normal, design.T @ (target - design @ weights))
    return np.sum((wanted[0].ravel() - old @ weights) ** 2) / len(wanted[0])


pair = TaskPair(
    kernel[rows[0], rows[0]], kernel[rows[1], rows[1]], kernel[rows[0], rows[1]], wanted[0], wanted[1]
)  # fmt: skip
cosines = np.linspace(0, 1, 21)
swept = orthogonality_sweep(pair, cosines, ridge)
trained = np.array([train_turned(cosine) for cosine in cosines[::5]])
forgotten = swept.total - swept.task_specific
power = np.log(swept.interplay[2] / swept.interplay[1]) / np.log(cosines[2] / cosines[1])

# %%
with style():
    figure, (bars, axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    terms = {
        "own": split.task_specific,
        **{f"interplay\nof task {k + 1}": value for k, value in split.interplay.items()},
        **{f"own ×\ntask {k + 1}": value for k, value in split.own_cross.items()},
        **{f"task {a + 1} ×\ntask {b + 1}": value for (a, b), value in split.between_cross.items()},
    }
    bottoms = np.cumsum([0, *terms.values()])[:-1]
    colours = [GREY, *[COLOURS[0]] * 2, *[COLOURS[1]] * 2, COLOURS[2]]
    bars.bar(range(len(terms)), list(terms.values()), bottom=bottoms, color=colours)
    bars.bar(len(terms), split.direct, color=COLOURS[6])
    bars.set_xticks(range(len(terms) + 1), [*terms, "all\ntogether"], fontsize=7.5)
    bars.set(ylabel="squared error of task 1, per image", title="Adding up to the error, exactly")
    axes.plot(cosines, swept.task_specific, color=GREY, label="own")
    axes.plot(cosines, swept.interplay, color=COLOURS[0], label="interplay")
    axes.plot(cosines, swept.cross, color=COLOURS[1], label="own × interplay")
    axes.plot(cosines, swept.total, color=COLOURS[6], label="total")
    axes.plot(cosines[::5], trained, "o", color=COLOURS[6], markerfacecolor="none", label="total, trained on features")
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.set(xlabel="cosine between the tasks' features", ylabel="squared error of task 1, per image",
             title="Orthogonal tasks forget nothing")  # fmt: skip
    axes.legend(frameon=False)
plt.show()

# %%
print(
    f"After three tasks the first one's error is {split.direct:.4f}. Own error and interplay alone would make it "
    f"{without_cross:.4f}: cross terms are {abs(split.total - without_cross) / split.total:.0%} of it. As the "
    f"inter-task kernel vanishes, interplay falls like the cosine to the power {power:.2f}, and forgetting goes from "
    f"{forgotten[-1]:.4f} to {forgotten[0]:.1e}."
)
assert identity < 1e-10
assert abs(forgotten[0]) < 1e-12 < forgotten[-1]
np.testing.assert_allclose(trained, swept.total[::5], rtol=1e-8)
