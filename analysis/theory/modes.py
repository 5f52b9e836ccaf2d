"""The eigenmodes of an intra-task kernel, which every formula of this folder is written in (docs/theory.md, section 0).

Rows are stacked sample by sample, as in `analysis.measures.spectrum`: entry i*K + c is output c of sample i.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.errors import FunctionError
from analysis.measures.spectrum import rounding, symmetrise, threshold


@dataclass(frozen=True)
class Modes:
    """Φ = U diag(s) Uᵀ.

    Attributes:
        values: all eigenvalues s, descending; those below n * eps * s_max are exactly zero, eps of the kernel's type.
        vectors: eigenvectors U, one column for each.
    """

    values: Float[np.ndarray, "m"]
    vectors: Float[np.ndarray, "m m"]

    def coordinates(self, target: Float[np.ndarray, "m *outputs"]) -> Float[np.ndarray, "m *outputs"]:
        """Uᵀ target: how much of it lies in each mode.

        Raises:
            FunctionError: another number of rows than modes, or entries that aren't finite.
        """
        target = np.asarray(target, np.float64)
        if target.ndim == 0 or len(target) != len(self.values):
            raise FunctionError(
                f"expected a target of {len(self.values)} rows, one for each row of the kernel; got shape "
                f"{target.shape}: stack it sample by sample (i*K + c)"
            )
        if not np.isfinite(target).all():
            raise FunctionError("expected a finite target; it has NaN or infinity: look at where it comes from")
        return self.vectors.T @ target

    def filtered(
        self, weights: Float[np.ndarray, "m"], target: Float[np.ndarray, "m *outputs"]
    ) -> Float[np.ndarray, "m *outputs"]:
        """U diag(weights) Uᵀ target: a function of the kernel, applied to a target."""
        coordinates = self.coordinates(target)
        # Weights go along the first axis, whatever columns there are
        return self.vectors @ (coordinates.T * weights).T


def modes(kernel: Float[np.ndarray, "m m"], eps: float | None = None) -> Modes:
    """Decompose a kernel: symmetrised, eigenvalues below n * eps * s_max set to zero (docs/theory.md, section 5).

    Args:
        kernel: intra-task kernel, as a matrix (`analysis.measures.sample_major` lays an empirical NTK out as one).
        eps: rounding of its sums; None: that of its own type.

    Raises:
        FunctionError: not a symmetric, finite, positive semi-definite matrix.

    Example:
        >>> found = modes(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> found.values.round(12), abs(found.coordinates(np.array([1.0, 1.0]))).round(6)
        (array([3., 1.]), array([1.414214, 0.      ]))
    """
    values, vectors = np.linalg.eigh(symmetrise(kernel))
    return Modes(threshold(values, rounding(kernel) if eps is None else eps)[::-1], vectors[:, ::-1])


def dual_coefficients(
    decomposed: Modes, residual: Float[np.ndarray, "m *outputs"], ridge: float
) -> Float[np.ndarray, "m *outputs"]:
    """α = (Φ + λ I)⁻¹ r: what ridge regression of the residual targets r stores for each training row.

    Args:
        decomposed: modes of Φ.
        residual: targets minus what the model said before the task.
        ridge: λ > 0 of the *sum* objective ½‖r - J δ‖² + ½ λ ‖δ‖², in the kernel's units
            (`analysis.measures.absolute_ridge` converts a fraction of the mean diagonal).

    Raises:
        FunctionError: a ridge that isn't positive and finite, or a residual that doesn't fit.

    Example:
        >>> dual_coefficients(modes(np.diag([3.0, 1.0])), np.array([4.0, 4.0]), ridge=1.0).round(12)
        array([1., 2.])
    """
    return decomposed.filtered(1 / (decomposed.values + positive("the ridge", ridge)), residual)


def positive(name: str, value: float) -> float:
    """Refuse what isn't a positive, finite number.

    Raises:
        FunctionError: it isn't.

    Example:
        >>> positive("the ridge", 2)
        2.0
    """
    if not (np.isfinite(value) and value > 0):
        raise FunctionError(f"expected {name} to be positive and finite; got {value}")
    return float(value)


def non_negative(name: str, value: float) -> float:
    """Refuse what isn't a finite number from zero up, as lengths and traces are.

    Raises:
        FunctionError: it isn't.

    Example:
        >>> non_negative("the radius", 0)
        0.0
    """
    if not (np.isfinite(value) and value >= 0):
        raise FunctionError(f"expected {name} to be finite and not negative; got {value}")
    return float(value)
