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
# # Learning curves
#
# **Question.** How good will kernel regression be with $P$ training images, before it is trained on them and without a
# test set?
#
# **Theory.** A reference sample of $M$ images gives the kernel's spectrum $\eta_r$ and the target's power $c_r^2$ in
# each mode. Three predictions from it, of mean squared errors:
#
# - *eigen-learning*, for a population without end: solve
#   $\kappa = \lambda + \sum_r \frac{\kappa\eta_r}{\kappa + P\eta_r}$, then
#   $E = \frac{1}{1-\gamma}\sum_r c_r^2 \bigl(\frac{\kappa}{\kappa + P\eta_r}\bigr)^2$ with
#   $\gamma = \sum_r \frac{P\eta_r^2}{(\kappa + P\eta_r)^2}$ (Canatar, Bordelon, Pehlevan 2021, arXiv:2006.13198;
#   docs/theory.md, section 3.1). With $M$ images in place of a population it counts training images as test images.
# - *finite population*: the same idea for $P$ of $M$ images without replacement, tested on the others
#   (docs/theory.md, section 3.3).
# - *leave-one-out* of random $P$-subsets: $\frac1P\sum_i \bigl(\alpha_i / [(K + \lambda)^{-1}]_{ii}\bigr)^2$, exact and
#   without any spectrum (docs/theory.md, section 3.4).

# %%
import matplotlib.pyplot as plt
import numpy as np
import small

from analysis import empirical_ntk
from analysis.measures import absolute_ridge
from analysis.theory import modes, population_modes, subset_leave_one_out, subset_rest_errors
from analysis.theory.sweeps import sample_size_sweep
from ntkcl_jax.plots.style import COLOURS, GREY, style

CLASSES, PER_CLASS, WIDTH = range(10), 170, 64
SIZES, DRAWS, SEED, FRACTION = (10, 20, 50, 100, 200, 400), 8, 0, 0.01
images, labels = small.digits(CLASSES, PER_CLASS)
targets = small.one_hot(labels, CLASSES)
kernel = empirical_ntk(small.network, small.start(WIDTH, 1), images)[:, :, 0, 0]

# %% [markdown]
# One half of the images is the reference that predictions are made from. The other half is measured: learn $P$ of them,
# test on the rest.

# %%
halves = np.random.default_rng(SEED).permutation(len(labels)).reshape(2, -1)
reference, pool = ((kernel[np.ix_(half, half)], targets[half]) for half in halves)
decomposed = modes(reference[0])
ridge = absolute_ridge(decomposed.values, FRACTION)
measured = subset_rest_errors(*pool, SIZES, DRAWS, SEED, ridge)
spectral = sample_size_sweep(*population_modes(decomposed, reference[1]), SIZES, ridge)
predicted = {
    "eigen-learning": spectral.eigenlearning,
    "finite population": spectral.finite_population,
    "leave-one-out": subset_leave_one_out(*reference, SIZES, DRAWS, SEED, ridge).mean,
}
errors = {name: curve / measured.mean - 1 for name, curve in predicted.items()}
typical = {name: float(np.median(np.abs(error))) for name, error in errors.items()}
worst = {name: float(np.abs(error).max()) for name, error in errors.items()}

# %%
with style():
    figure, (curves, signed) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    curves.errorbar(SIZES, measured.mean, measured.std, fmt="o", color=COLOURS[6], capsize=3, label="measured")
    for colour, (name, curve) in zip(COLOURS, predicted.items(), strict=False):
        curves.loglog(SIZES, curve, color=colour, label=name)
        signed.plot(SIZES, 100 * errors[name], "o-", color=colour, label=name)
    curves.set(xlabel="training images P", ylabel="mean squared error, sum over 10 outputs",
               title=f"Predicted from {len(halves[0])} other images")  # fmt: skip
    curves.set_xticks(SIZES, map(str, SIZES))
    curves.set_yticks(ticks := (0.1, 0.2, 0.4, 0.8), map(str, ticks))
    curves.minorticks_off()
    curves.legend(frameon=False)
    signed.axhline(0, color=GREY, linewidth=0.8)
    signed.set(xlabel="training images P", ylabel="predicted against measured, %", title="Who is off, and where")
plt.show()

# %%
print(
    "Median (largest) relative error of the predictions: "
    + "; ".join(f"{name} {typical[name]:.1%} ({worst[name]:.1%})" for name in predicted)
    + f". At P = {SIZES[-1]} of {len(halves[0])} eigen-learning is off by {errors['eigen-learning'][-1]:+.0%}, its "
    f"finite-population form by {errors['finite population'][-1]:+.0%}."
)
assert typical["leave-one-out"] < 0.1
assert typical["finite population"] < 0.05
assert abs(errors["finite population"][-1]) < abs(errors["eigen-learning"][-1]) / 2
