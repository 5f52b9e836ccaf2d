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
# # The dynamics of one task
#
# **Question.** Gradient descent on a network looks complicated. How much of it does one matrix, the neural tangent
# kernel $\Phi = J J^\top$ at the start, already tell?
#
# **Theory.** A network that is linear in its parameters learns each eigenmode $(s_i, u_i)$ of $\Phi$ on its own. After
# $m$ steps of full-batch gradient descent with rate $\eta$ on $\tfrac12\|y - f\|^2$, the residual $r$ has
#
# $$u_i^\top r_m = (1 - \eta s_i)^m \; u_i^\top r_0 = \bigl(1 - s_i\, q_m(s_i)\bigr)\, u_i^\top r_0 ,
# \qquad q_m(s) = \frac{1 - (1 - \eta s)^m}{s}$$
#
# (Jacot, Gabriel, Hongler 2018, arXiv:1806.07572; docs/theory.md, section 2.1, row "GD"). A real network does the same
# as long as its kernel stays where it is; the wider, the longer: the kernel moves like 1/width (Dyer, Gur-Ari 2019,
# arXiv:1909.11304).

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import small

from analysis import empirical_ntk
from analysis.kernels.linearized import Linearized
from analysis.measures import drift, sample_major
from analysis.theory import Descent, modes
from ntkcl_jax.plots.style import COLOURS, GREY, style

CLASSES, WIDTHS, STEPS = (3, 5, 8), (32, 128, 512), 200
images, labels = small.digits(CLASSES, per_class=8)
targets = small.one_hot(labels, CLASSES)

# %% [markdown]
# Two things are trained from the same start: the network itself, and its first-order model
# $f(\theta_0) + J(\theta_0)\,\delta$, in parameter space, step by step, without ever looking at the kernel.


# %%
def train_network(params, rate):
    """Outputs after every step of gradient descent, the start first, and the final parameters."""

    def loss(p):
        return 0.5 * jnp.sum((targets - small.network(p, images)) ** 2)

    def step(p, _):
        moved = jax.tree.map(lambda value, gradient: value - rate * gradient, p, jax.grad(loss)(p))
        return moved, small.network(moved, images)

    last, outputs = jax.jit(lambda p: jax.lax.scan(step, p, None, length=STEPS))(jax.tree.map(jnp.asarray, params))
    return np.concatenate([[small.network(params, images)], outputs]), jax.tree.map(np.asarray, last)


def train_tangent(params, rate):
    """Residuals of the first-order model after every step."""
    model = Linearized(small.network, params, images)
    residuals = [targets - model.values(images)]
    for _ in range(STEPS):
        pulled = model.step(images, residuals[-1])
        residuals.append(residuals[-1] - rate * model.change(images, pulled))
    return np.array(residuals)


# %%
departure, kernel_drift = [], []
with jax.enable_x64(True):
    for width in WIDTHS:
        params = small.start(width, len(CLASSES))
        kernel = sample_major(empirical_ntk(small.network, params, images))
        decomposed = modes(kernel)
        s, rate = decomposed.values, 1 / decomposed.values[0]
        outputs, trained = train_network(params, rate)
        measured = (targets - outputs).reshape(STEPS + 1, -1)
        first = measured[0]
        # [STEPS + 1, m]: what each number of steps leaves of each mode
        left = [np.ones_like(s), *(1 - s * Descent(rate, m).filter(s) for m in range(1, STEPS + 1))]
        predicted = np.array([decomposed.filtered(factor, first) for factor in left])
        # Relative to what was learned, not to the residual, which vanishes
        departure.append(np.linalg.norm(measured[-1] - predicted[-1]) / np.linalg.norm(predicted[-1] - first))
        kernel_drift.append(drift(kernel, sample_major(empirical_ntk(small.network, trained, images))))
    tangent = train_tangent(params, rate).reshape(STEPS + 1, -1)  # of the widest
disagreement = np.abs(tangent - predicted).max() / np.abs(first).max()
power = np.polyfit(np.log(WIDTHS), np.log(departure), 1)[0]

# %% [markdown]
# Lines are the kernel's prediction, circles the first-order model, crosses the real network, for the widest of them. On
# the right: how far the real one ends from the prediction, relative to what it learned, and how far its kernel moved.

# %%
with style():
    figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    shown = np.array([1, 2, 4, 7, 12, 20, 34, 58, 100, 200])
    for colour, mode in zip(COLOURS, (0, 3, 9, 24), strict=False):
        error = [np.abs(r @ decomposed.vectors[:, mode] / (first @ decomposed.vectors[:, mode]))
                 for r in (predicted, tangent, measured)]  # fmt: skip
        left_axes.plot(error[0], color=colour, label=f"mode {mode + 1}")
        left_axes.plot(shown, error[1][shown], "o", color=colour, markerfacecolor="none")
        left_axes.plot(shown, error[2][shown], "x", color=colour)
    left_axes.set(xscale="symlog", ylim=(-0.03, 1.05), xlabel="gradient step",
                  ylabel="residual left, share of the start",
                  title=f"Each mode at its own pace (width {WIDTHS[-1]})")  # fmt: skip
    left_axes.legend(frameon=False, loc="upper right")
    right_axes.loglog(WIDTHS, departure, "o-", color=COLOURS[0], label="network against prediction")
    right_axes.loglog(WIDTHS, kernel_drift, "s-", color=COLOURS[1], label="drift of the kernel")
    right_axes.loglog(WIDTHS, departure[0] * WIDTHS[0] / np.array(WIDTHS), "--", color=GREY, label="1 / width")
    right_axes.set(xlabel="hidden units", ylabel="relative change", title="Wider is lazier")
    right_axes.set_xticks(WIDTHS, map(str, WIDTHS), minor=False)
    right_axes.minorticks_off()
    right_axes.legend(frameon=False)
plt.show()

# %%
print(
    f"The first-order model follows the kernel's filter to {disagreement:.0e} in every mode and step. The real network "
    f"ends {departure[0]:.1%} away from it at width {WIDTHS[0]} and {departure[-1]:.1%} at width {WIDTHS[-1]}, while "
    f"its kernel moved by {kernel_drift[0]:.1%} and {kernel_drift[-1]:.1%}: like width to the power {power:.2f}."
)
assert disagreement < 1e-10
assert departure[-1] < departure[0] / 2
