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
# # Regularization
#
# **Question.** A large ridge protects the old task and learns little; a small one learns all and overwrites. Where is
# the best, who finds it, and which ridge is a network that simply stops early?
#
# **Theory.** With eigenpairs $(s_i, u_i)$ of $\Phi$, $z_i = u_i^\top r$ and $\alpha = (\Phi + \lambda)^{-1} r$:
#
# - own error $\frac1n\|\lambda\alpha\|^2 = \frac1n\sum_i \frac{\lambda^2 z_i^2}{(s_i + \lambda)^2}$ grows with
#   $\lambda$, interplay $\frac1n\|\Phi(X_t, X_k)\,\alpha_k\|^2$ falls (docs/theory.md, section 1.1);
# - block leave-one-out $\frac1n\sum_i \|([(\Phi+\lambda)^{-1}]_{ii})^{-1}\alpha_i\|^2$ tells the test error of each
#   $\lambda$ from the training images alone (docs/theory.md, section 3.4);
# - the parameters move by $B(\lambda)$, $B^2 = \sum_i \frac{s_i z_i^2}{(s_i + \lambda)^2}$
#   (docs/theory.md, section 1.2), which falls with $\lambda$: the *matched* ridge of a network is the one that goes
#   just as far.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import small

from analysis import empirical_ntk
from analysis.kernels.linearized import step_length
from analysis.measures import absolute_ridge, sample_major
from analysis.theory import choose_ridge, dual_coefficients, matched_ridge, modes
from analysis.theory.sweeps import TaskPair, regularization_sweep
from ntkcl_jax.plots.style import COLOURS, GREY, style

OLD, NEW, PER_CLASS, UNSEEN, WIDTH, STEPS = (3, 8), (5, 9), 20, 60, 256, 30
CLASSES = (*OLD, *NEW)
K, N = len(CLASSES), 2 * PER_CLASS
FRACTIONS = tuple(np.logspace(-5, 2, 22))
images, labels = small.digits(CLASSES, PER_CLASS)
unseen_images, unseen_labels = small.digits(OLD, UNSEEN, skip=PER_CLASS)
everything = np.concatenate([images, unseen_images])
wanted = small.one_hot(np.concatenate([labels, unseen_labels]), CLASSES)
params = small.start(WIDTH, K)
kernel = sample_major(empirical_ntk(small.network, params, everything))
residuals = wanted - np.asarray(small.network(params, everything))

# %% [markdown]
# Theory's learner on both tasks at every ridge, and its error on unseen images of the old task, just after learning it.

# %%
# Rows of the kernel: images times outputs
old, new, unseen = slice(0, N * K), slice(N * K, 2 * N * K), slice(2 * N * K, None)
pair = TaskPair(kernel[old, old], kernel[new, new], kernel[old, new], residuals[:N], residuals[N : 2 * N])
decomposed = modes(pair.old)
mean_diagonal = decomposed.values.mean()
ridges = np.array([absolute_ridge(decomposed.values, fraction) for fraction in FRACTIONS])
swept = regularization_sweep(pair, ridges)


def test_error(ridge):
    """Squared error per unseen image of the old task, sum over outputs."""
    alpha = dual_coefficients(decomposed, residuals[:N].ravel(), ridge)
    return float(np.sum((residuals[2 * N :].ravel() - kernel[unseen, old] @ alpha) ** 2) / (2 * UNSEEN))


measured = np.array([test_error(ridge) for ridge in ridges])
chosen = choose_ridge(decomposed, residuals[:N], K, FRACTIONS)
off = np.median(np.abs(swept.old_test_error / measured - 1))
regret = test_error(chosen.ridge) / measured.min() - 1

# %% [markdown]
# And the network itself: some steps of gradient descent on the old task, from the same start, no ridge at all.


# %%
def stopped_early(params, steps):
    """The network after gradient descent on the old task."""
    x, y = images[:N], wanted[:N]

    def step(p, _):
        gradient = jax.grad(lambda p: 0.5 * jnp.sum((y - small.network(p, x)) ** 2))(p)
        return jax.tree.map(lambda value, slope: value - slope / decomposed.values[0], p, gradient), None

    with jax.enable_x64(True):
        trained = jax.jit(lambda p: jax.lax.scan(step, p, None, length=steps)[0])(jax.tree.map(jnp.asarray, params))
        return jax.tree.map(np.asarray, trained)


trained = stopped_early(params, STEPS)
moved = step_length({name: trained[name] - params[name] for name in params})
matched = matched_ridge(decomposed, residuals[:N].ravel(), moved)
outputs = np.asarray(small.network(trained, unseen_images))
network_error = float(np.sum((wanted[2 * N :] - outputs) ** 2) / (2 * UNSEEN))
difference = test_error(matched) / network_error - 1

# %%
with style():
    figure, (split, tests) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    split.plot(FRACTIONS, swept.task_specific, color=GREY, label="own")
    split.plot(FRACTIONS, swept.interplay, color=COLOURS[0], label="interplay")
    split.plot(FRACTIONS, swept.cross, color=COLOURS[1], label="own × interplay")
    split.plot(FRACTIONS, swept.total, color=COLOURS[6], label="total")
    split.axhline(0, color=GREY, linewidth=0.5)
    split.set(xscale="log", xlabel="ridge, share of the mean diagonal", title="Old task after the new one",
              ylabel="squared error per training image")  # fmt: skip
    split.legend(frameon=False)
    tests.plot(FRACTIONS, measured, "o", color=COLOURS[6], markersize=4, label="unseen images, measured")
    tests.plot(FRACTIONS, swept.old_test_error, color=COLOURS[0], label="leave-one-out")
    tests.axvline(chosen.fraction, color=COLOURS[0], linestyle=":", label="its choice")
    tests.plot(matched / mean_diagonal, network_error, "*", color=COLOURS[1], markersize=13,
               label=f"network after {STEPS} steps, at its matched ridge")  # fmt: skip
    tests.set(xscale="log", yscale="log", xlabel="ridge, share of the mean diagonal", ylabel="squared error per image",
              title="Old task just learned", ylim=(None, 5))  # fmt: skip
    tests.legend(frameon=False, fontsize=8)
plt.show()

# %%
print(
    f"From the smallest ridge to the largest, the old task's own error goes from {swept.task_specific[0]:.1e} to "
    f"{swept.task_specific[-1]:.2f} and interplay from {swept.interplay[0]:.2f} to {swept.interplay[-1]:.1e}. "
    f"Leave-one-out chooses {chosen.fraction:.2g} of the mean diagonal, whose test error is {regret:.1%} above the "
    f"best ridge's (its errors themselves, of {N} images, are {off:.0%} off in the middle). The network stopped after "
    f"{STEPS} steps went as far as ridge regression at {matched / mean_diagonal:.2g} of the mean diagonal; its test "
    f"error is {network_error:.3f}, that of theory's learner {test_error(matched):.3f} ({difference:+.1%})."
)
assert np.all(np.diff(swept.task_specific) > 0) and swept.interplay[-1] < swept.interplay[0]
assert regret < 0.1
assert abs(difference) < 0.05
