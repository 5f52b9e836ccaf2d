"""In how few of an old task's modes its drift lives (docs/theory.md, section 2.3).

A share by itself says little: a random change of the parameters is concentrated too, because the kernel's spectrum is.
Every result therefore carries that baseline.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.checks import divide
from analysis.theory.modes import Modes


@dataclass(frozen=True)
class Concentration:
    """Shares of a drift's energy in the leading modes, cumulative; entry j is for r = (j + 1) * group modes.

    Attributes:
        energy: E_r = ‖U_rᵀ D‖² / ‖D‖².
        baseline: E_r of a random isotropic change of the parameters, Σ_{i<=r} s_i / Σ s_i.
        group: modes in a row that belong together, K for the kernel of a linear classifier: k ⊗ I has every eigenvalue
            K times, and which eigenvectors stand for them is arbitrary, so only r that are multiples of K mean
            something. r / K counts modes of features.
    """

    energy: Float[np.ndarray, "groups"]
    baseline: Float[np.ndarray, "groups"]
    group: int

    def modes_for(self, share: float) -> int:
        """Fewest modes r that hold this share of the energy.

        Args:
            share: above 0, up to 1; 0.9, 0.95 and 0.99 are usual.

        Returns:
            r, in modes of logits: a multiple of `group`.

        Raises:
            FunctionError: a share outside (0, 1].

        Example:
            >>> Concentration(np.array([0.8, 0.95, 1.0]), np.array([0.5, 0.8, 1.0]), group=10).modes_for(0.9)
            20
        """
        return _first(self.energy, share) * self.group


def concentration(decomposed: Modes, drift: Float[np.ndarray, "*shape"], group: int = 1) -> Concentration:
    """Energy of a drift in the leading modes of the old task's kernel, beside what a random change would give.

    Args:
        decomposed: modes of Φ_k(X_t, X_t), the old task's kernel at the checkpoint before the new task.
        drift: of the old task's logits, stacked sample by sample (n_t*K,) for a kernel of outputs; (n_t, K) for a
            kernel of samples, which stands for k ⊗ I: every mode then counts K times.
        group: eigenvalues in a row that are equal by construction; K for a kernel of outputs that is k ⊗ I. Leave it
            at 1 for a drift (n_t, K), which says it already.

    Raises:
        FunctionError: shapes that don't fit, a group that doesn't divide the modes, or a zero drift or kernel.

    Example:
        >>> from analysis.theory.modes import modes
        >>> concentration(modes(np.diag([3.0, 1.0])), np.array([0.0, 2.0])).energy
        array([0., 1.])
    """
    # [m] or [m, K]
    energies = decomposed.coordinates(drift) ** 2
    values = decomposed.values
    if energies.ndim == 2 and group == 1:
        # k ⊗ I: a mode of samples stands for one of each output, and all of these share its eigenvalue
        energies, group = energies.sum(axis=1), energies.shape[1]
    elif energies.ndim == 1 and group >= 1 and len(energies) % group == 0:
        # Eigenvectors within a group are arbitrary, their energies' sum isn't
        energies, values = energies.reshape(-1, group).sum(axis=1), values.reshape(-1, group).sum(axis=1)
    else:
        raise FunctionError(
            f"expected a drift (rows,) in groups that divide its rows, or (samples, outputs) with group 1; got shape "
            f"{np.shape(drift)} and group {group}; pass the number of outputs as the group of a linear classifier"
        )
    return Concentration(_cumulative(energies, "the drift"), _cumulative(values, "the kernel"), int(group))


def _cumulative(parts: np.ndarray, what: str) -> np.ndarray:
    sums = np.cumsum(parts)
    # Refuses a sum of zero, of which there are no shares
    divide(1.0, sums[-1], what)
    return sums / sums[-1]


def _first(shares: np.ndarray, share: float) -> int:
    if not 0 < share <= 1:
        raise FunctionError(f"expected a share above 0 and up to 1, got {share}; 0.95 asks for 95 %")
    return int(np.searchsorted(shares, share)) + 1
