"""The distribution of a kernel's eigenvalues from products alone: stochastic Lanczos quadrature.

Lanczos is a few lines here because ARPACK, behind SciPy's `eigsh`, keeps its tridiagonal matrix to itself, and that of
matfree runs inside of JAX only (see `estimates`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator
from scipy.special import ndtr

from analysis.errors import PlanError
from analysis.kernels.estimates import (
    Estimate,
    check_probes,
    finite_product,
    random_signs,
    relative_rounding,
    standard_error_of_mean,
)


@dataclass(frozen=True)
class SpectralDensity:
    """Eigenvalues of Θ as quadratures: every probe has nodes, and weights that add up to one.

    Attributes:
        nodes: places on the eigenvalue axis, ascending; fewer nodes than steps are filled up with weights of zero.
        weights: shares of the eigenvalues.
        size: nk, how many eigenvalues there are.
    """

    nodes: Float[np.ndarray, "probes steps"]
    weights: Float[np.ndarray, "probes steps"]
    size: int

    def trace_of(self, function: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]) -> Estimate:
        """Estimate Σ_i function(λ_i) over all eigenvalues, such as the effective dimension Σ λ / (λ + ridge).

        Error bars are the spread of the probes; that Lanczos stopped early isn't in them.

        Example:
            >>> density = SpectralDensity(np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([[0.5, 0.5], [0.5, 0.5]]), 10)
            >>> density.trace_of(np.square).value
            50.0
        """
        # A probe's quadrature is of gᵀ f(Θ) g / |g|², and E gᵀ f(Θ) g = tr f(Θ) for signs g with |g|² = nk
        samples = self.size * np.sum(self.weights * function(self.nodes), axis=1)
        return Estimate(float(samples.mean()), float(standard_error_of_mean(samples)), len(samples))

    def cumulative(self, grid: Float[np.ndarray, "g"]) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
        """Share of eigenvalues up to each place, with standard errors.

        Example:
            >>> density = SpectralDensity(np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([[0.5, 0.5], [0.5, 0.5]]), 10)
            >>> density.cumulative(np.array([0.0, 2.0, 4.0]))[0].tolist()
            [0.0, 0.5, 1.0]
        """
        return self._share(lambda node: (node <= grid).astype(np.float64))

    def density(
        self, edges: Float[np.ndarray, "g1"], width: float
    ) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
        """Share of eigenvalues per unit of eigenvalue in each bin, every node blurred by a Gaussian.

        Args:
            edges: of the bins, ascending.
            width: standard deviation of the Gaussian, in units of eigenvalues.

        Returns:
            Mean of each bin, and its standard error.

        Raises:
            PlanError: a width that isn't positive, or edges that don't ascend.
        """
        if not width > 0 or not np.all(np.diff(edges) > 0):
            raise PlanError(f"expected a positive width and ascending edges; got {width} and {np.shape(edges)} edges")
        # The Gaussian's share of each bin by its distribution function: no node falls between two places of a grid
        return self._share(lambda node: np.diff(ndtr((edges - node) / width)) / np.diff(edges))

    def _share(self, function: Callable) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
        # [probes, steps] with [probes, steps, g]: each probe's share of each place, then the spread over probes
        samples = np.einsum("pq,pqg->pg", self.weights, function(self.nodes[..., None]))
        return samples.mean(axis=0), standard_error_of_mean(samples)


def spectral_density(operator: LinearOperator, *, probes: int, seed: int, steps: int = 40) -> SpectralDensity:
    """Estimate the distribution of Θ's eigenvalues by stochastic Lanczos quadrature, in probes·steps products.

    A probe's quadrature is exact for polynomials up to degree 2·steps - 1; error bars are the spread of the probes.
    Source: Golub, Welsch 1969; Ubaru, Chen, Saad 2017.

    Args:
        operator: Θ, (nk, nk), symmetric.
        probes: random vectors.
        seed: of the random vectors.
        steps: of Lanczos for each probe, and products.

    Returns:
        Nodes and weights of each probe.

    Raises:
        PlanError: fewer than two probes or less than one step.
        FunctionError: a product isn't finite.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> spectral_density(aslinearoperator(np.diag([1.0, 2.0])), probes=2, seed=0).nodes.round(6).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """
    check_probes(probes)
    if steps < 1:
        raise PlanError(f"expected 1 or more steps of Lanczos; got {steps}")
    size = operator.shape[0]
    rng = np.random.default_rng(seed)
    # No more than nk vectors can be orthogonal to each other
    quadratures = [_quadrature(operator, start, min(steps, size)) for start in random_signs(rng, size, probes).T]
    nodes, weights = (np.stack(parts) for parts in zip(*quadratures, strict=True))
    return SpectralDensity(nodes, weights, size)


def _quadrature(
    operator: LinearOperator, start: Float[np.ndarray, "nk"], steps: int
) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Lanczos with every vector orthogonalised twice against all before it; nodes and weights by Golub and Welsch."""
    basis = np.empty((steps, len(start)))
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    # Of length 1, so that the weights add up to one
    vector = start / np.linalg.norm(start)
    done, largest = steps, 0.0
    for step in range(steps):
        basis[step] = vector
        product = finite_product(operator, vector)
        diagonal[step] = vector @ product
        # Once leaves what cancellation brings back; twice is enough. Without it found eigenvalues come back as copies
        for _ in range(2):
            product = product - basis[: step + 1].T @ (basis[: step + 1] @ product)
        beside[step] = np.linalg.norm(product)
        # Stands for Θ's norm, which isn't known: the largest row of the tridiagonal matrix so far
        largest = max(largest, abs(diagonal[step]) + beside[step])
        if beside[step] <= relative_rounding(operator) * largest:
            done = step + 1  # an invariant subspace: the quadrature is exact
            break
        vector = product / beside[step]
    # Golub and Welsch: nodes are the eigenvalues, weights the squared first components of their vectors
    nodes, vectors = eigh_tridiagonal(diagonal[:done], beside[: done - 1])
    # Filled up behind the largest node with weights of zero: all probes get one length and nodes stay ascending
    filled, weights = np.full(steps, nodes[-1]), np.zeros(steps)
    filled[:done], weights[:done] = nodes, vectors[0] ** 2
    return filled, weights
