"""Low-rank concentration against its definition, the Kronecker rule, and the baseline against random perturbations."""

import re

import numpy as np
import pytest
from hypothesis import given
from jaxtyping import TypeCheckError

from analysis.errors import FunctionError
from analysis.theory.concentration import Concentration, concentration
from analysis.theory.modes import modes
from tests.support.task_pairs import generators, orthogonal


@given(generators())
def test_energy_is_the_squared_projection_onto_the_leading_eigenvectors(rng):
    j = rng.standard_normal((7, 5))
    drift = rng.standard_normal(7)
    found = concentration(modes(j @ j.T), drift)
    values, vectors = np.linalg.eigh(j @ j.T)
    for r in range(1, 6):
        top = vectors[:, ::-1][:, :r]
        assert found.energy[r - 1] == pytest.approx(np.linalg.norm(top.T @ drift) ** 2 / (drift @ drift), abs=1e-10)
        assert found.baseline[r - 1] == pytest.approx(values[::-1][:r].sum() / values.sum(), abs=1e-12)
    assert found.energy[-1] == found.baseline[-1] == 1.0


@given(generators())
def test_a_drift_made_by_parameters_lives_in_the_range_of_the_jacobian(rng):
    j = rng.standard_normal((9, 4))
    found = concentration(modes(j @ j.T), j @ rng.standard_normal(4))
    assert found.energy[3] == pytest.approx(1.0, abs=1e-12)
    assert found.modes_for(1 - 1e-12) == 4


def test_the_baseline_is_the_energy_of_a_random_change_of_the_parameters():
    rng = np.random.default_rng(0)
    j = rng.standard_normal((6, 5)) * 2.0 ** -np.arange(5)
    decomposed = modes(j @ j.T)
    moved = j @ rng.standard_normal((5, 200_000))
    energies = np.cumsum((decomposed.coordinates(moved) ** 2).mean(axis=1))
    np.testing.assert_allclose(
        concentration(decomposed, moved[:, 0]).baseline, energies / energies[-1], rtol=0, atol=3e-3
    )


def test_modes_for_a_share_are_the_fewest_that_hold_it():
    energies = np.array([80.0, 12.0, 4.0, 3.5, 0.5])
    found = concentration(modes(np.diag([5.0, 4.0, 3.0, 2.0, 1.0])), np.sqrt(energies))
    assert [found.modes_for(share) for share in (0.5, 0.8 - 1e-9, 0.9, 0.95, 0.99, 1.0)] == [1, 1, 2, 3, 4, 5]


@given(generators())
def test_a_kernel_of_samples_counts_every_mode_once_for_each_output(rng):
    n, outputs = 6, 3
    j = rng.standard_normal((n, 4))
    kernel, drift = j @ j.T, rng.standard_normal((n, outputs))
    of_samples = concentration(modes(kernel), drift)
    of_outputs = concentration(modes(np.kron(kernel, np.eye(outputs))), drift.reshape(-1), group=outputs)
    assert of_samples.group == of_outputs.group == outputs
    np.testing.assert_allclose(of_samples.energy[:4], of_outputs.energy[:4], atol=1e-10)
    np.testing.assert_allclose(of_samples.baseline, of_outputs.baseline, atol=1e-12)
    assert of_samples.modes_for(0.5) % outputs == 0


def test_between_multiples_of_the_outputs_the_eigenvectors_are_arbitrary():
    """Why there is a group: turning degenerate eigenvectors changes E_r in between, and nothing at multiples of K."""
    rng, outputs = np.random.default_rng(0), 3
    decomposed = modes(np.kron(np.diag([4.0, 1.0]), np.eye(outputs)))
    drift = rng.standard_normal(6)
    turned = decomposed.vectors @ np.kron(np.eye(2), orthogonal(rng, outputs))
    other = type(decomposed)(decomposed.values, turned)
    plain, plain_turned = concentration(decomposed, drift).energy, concentration(other, drift).energy
    assert abs(plain - plain_turned)[[0, 1, 3, 4]].max() > 1e-2
    grouped, grouped_turned = (concentration(d, drift, group=outputs).energy for d in (decomposed, other))
    np.testing.assert_allclose(grouped, grouped_turned, atol=1e-14)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: concentration(modes(np.eye(3)), np.zeros(3)),
        lambda: concentration(modes(np.zeros((3, 3))), np.ones(3)),
        lambda: concentration(modes(np.eye(3)), np.ones(4)),
        lambda: concentration(modes(np.eye(3)), np.ones(3), group=2),
        lambda: concentration(modes(np.eye(3)), np.ones(3), group=0),
        lambda: concentration(modes(np.eye(4)), np.ones((4, 2)), group=2),
        lambda: Concentration(np.ones(1), np.ones(1), 1).modes_for(0.0),
        lambda: Concentration(np.ones(1), np.ones(1), 1).modes_for(1.1),
    ],
)
def test_what_has_no_concentration_is_refused_in_one_line(bad):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        bad()
    assert caught.type is TypeCheckError or re.fullmatch(r"expected [^\n]+", str(caught.value))
