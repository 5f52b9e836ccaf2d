"""Rademacher complexity and bound: figures (docs/theory.md, section 6), sharp ratios, grid, constants of losses.

That a bound isn't violated says nothing here: it is hundreds of times too large (docs/theory.md, section 1.5).
"""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.special import log_softmax

from analysis.errors import FunctionError
from analysis.theory.complexity import (
    Bound,
    contraction,
    generalization_bound,
    rademacher_complexity,
)
from analysis.theory.interplay import learn_sequentially
from tests.support.theory_tasks import f1

EXACT = 1e-10
HALF_SQUARED = contraction("half_squared", 1.0)


def f1_learnt():
    tasks = f1()
    return tasks, learn_sequentially(tasks.block, tasks.targets, tasks.outputs, tasks.ridges)


def test_traces_complexities_and_bounds_of_f1_are_the_known_ones():
    tasks, learned = f1_learnt()
    traces = [np.trace(tasks.intra(k)) for k in range(3)]
    assert traces == pytest.approx([46.522331929772, 57.469741631300, 36.900181115463], abs=EXACT)
    known = zip(
        learned,
        traces,
        (0.941803152893, 1.050493214903, 0.799464015400),
        (5.971746690246, 6.173627862386, 5.551360924381),
        strict=True,
    )
    for task, trace, complexity, value in known:
        n = len(task.alpha)
        assert rademacher_complexity(task.radius.exact, trace, n) == pytest.approx(complexity, abs=EXACT)
        bound = generalization_bound(
            task.decomposition.total / 2, task.radius.exact, trace, n, HALF_SQUARED, outputs=2, delta=0.05
        )
        assert bound.value == pytest.approx(value, abs=EXACT)
        assert bound.complexity == pytest.approx(4 * complexity, abs=EXACT)
        assert (bound.union_index, bound.radius, bound.vacuous) == (None, task.radius.exact, True)


def drawn_complexity(jacobian, radius, samples, seed, draws):
    """(B/n) E_σ ‖Jᵀσ‖, what the complexity is by definition, over random signs."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, len(jacobian)))
    return radius / samples * np.linalg.norm(signs @ jacobian, axis=1).mean()


def test_the_closed_form_is_at_most_a_root_of_two_above_the_complexity_of_40_random_kernels():
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        samples, outputs, parameters = (int(rng.integers(*ends)) for ends in ((2, 30), (1, 4), (1, 40)))
        jacobian = rng.normal(size=(samples * outputs, parameters)) * rng.uniform(0.1, 1, parameters) ** 2
        mean = drawn_complexity(jacobian, 1.5, samples, seed=seed, draws=2000)
        ratios.append(mean / rademacher_complexity(1.5, np.trace(jacobian @ jacobian.T), samples))
    assert min(ratios) >= 0.70
    assert max(ratios) <= 1
    assert max(ratios) > 0.9


def deviation_ratio(samples, parameters, shift):
    """E sup_F (E f - mean f) / (2R) of one output x -> J(x) d, whose supremum over ‖d‖ ≤ B is B ‖E J - mean J‖.

    Also what it tends to with many samples: the mean of J and Jᵀσ/n are Gaussian, of covariances S/n and (S + mmᵀ)/n.
    """
    rng, deviations, complexities = np.random.default_rng(4), [], []
    scales = 1 / np.sqrt(1 + np.arange(parameters))
    for draw in range(200):
        jacobian = shift + scales * rng.normal(size=(samples, parameters))
        deviations.append(2.0 * np.linalg.norm(shift - jacobian.mean(axis=0)))
        complexities.append(drawn_complexity(jacobian, 2.0, samples, seed=draw, draws=20))
    noise, about_centre = scales * rng.normal(size=(20_000, parameters)), shift * rng.normal(size=(20_000, 1))
    limit = np.linalg.norm(noise, axis=1).mean() / (2 * np.linalg.norm(noise + about_centre, axis=1).mean())
    return np.mean(deviations) / (2 * np.mean(complexities)), limit


@pytest.mark.parametrize(("samples", "parameters", "shift"), [(20, 5, 0.0), (50, 20, 0.2), (100, 200, 0.0)])
def test_the_largest_deviation_in_the_class_is_between_a_third_of_and_all_of_twice_its_complexity(
    samples, parameters, shift
):
    assert 0.35 <= deviation_ratio(samples, parameters, shift)[0] <= 1


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 1.0])
def test_the_further_gradients_lie_from_zero_the_less_of_the_complexity_is_deviation(shift):
    measured, limit = deviation_ratio(50, 20, shift)  # below 0.35 from a shift of 0.5 on, and rightly
    assert measured == pytest.approx(limit, rel=0.04)


def half_squared(f, y):
    return 0.5 * ((f - np.eye(3)[y]) ** 2).sum(axis=-1)


def margin(f, y):
    others = np.where(np.arange(3) == y, -np.inf, f).max(axis=-1)
    return f[..., y] - others


LOSSES = {
    "half_squared": lambda f, size: np.minimum(half_squared(f, 0), size),
    "squared": lambda f, size: np.minimum(2 * half_squared(f, 0), size),
    "norm": lambda f, size: np.minimum(np.sqrt(2 * half_squared(f, 0)), size),
    "cross_entropy": lambda f, size: np.minimum(-log_softmax(f, axis=-1)[..., 0], size),
    "ramp": lambda f, size: np.clip(1 - margin(f, 0) / size, 0, 1),
}


@pytest.mark.parametrize("size", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_changes_faster_than_its_constant_nor_leaves_its_range_and_some_pair_comes_close(loss, size):
    rng = np.random.default_rng(6)
    first = 4 * rng.normal(size=(200_000, 3))
    second = first + 1e-3 * rng.normal(size=first.shape)
    before, after = LOSSES[loss](first, size), LOSSES[loss](second, size)
    slopes = np.abs(after - before) / np.linalg.norm(second - first, axis=1)
    known = contraction(loss, size)
    close = {"cross_entropy": 1 - math.exp(-size)}.get(loss, 1)  # its slope at the clip; the others reach theirs
    assert 0.9 * close * known.lipschitz < slopes.max() <= known.lipschitz * (1 + 1e-9)
    assert before.min() >= 0
    assert before.max() == pytest.approx(known.range)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 10))
def test_the_grid_takes_the_smallest_of_its_radii_that_holds_the_given_one(given_radius, first):
    bound = generalization_bound(0.0, given_radius, 1.0, 10, HALF_SQUARED, outputs=1, grid=first)
    slow, j = first, 0
    while slow < given_radius:
        slow, j = 2 * slow, j + 1
    assert (bound.radius, bound.union_index) == (slow, j)


def test_a_radius_on_the_grid_stays_where_it_is():
    bounds = [generalization_bound(0.0, b, 1.0, 10, HALF_SQUARED, outputs=1, grid=0.1) for b in (0.0, 0.1, 0.4, 0.41)]
    assert [(bound.radius, bound.union_index) for bound in bounds] == [(0.1, 0), (0.1, 0), (0.4, 2), (0.8, 3)]


def test_the_bound_on_the_grid_is_the_formula_of_all_tasks_together():
    bound = generalization_bound(0.3, 0.7, 50.0, 200, contraction("ramp", 0.5), outputs=3, delta=0.1, tasks=4, grid=0.2)
    j, b = 2, 0.8
    complexity = 2 * math.sqrt(2) * (math.sqrt(2) / 0.5) * b * math.sqrt(50) / 200
    confidence = 3 * math.sqrt(math.log(2 * (j + 1) * (j + 2) * 4 / 0.1) / 400)
    assert dataclasses.astuple(bound) == pytest.approx((0.3, complexity, confidence, b, j, 1.0))
    assert bound.value == pytest.approx(0.3 + complexity + confidence)


def test_the_chances_to_fail_add_up_to_delta_over_the_grid_and_the_tasks():
    chances = []
    for j in range(300):
        bound = generalization_bound(0.0, 2.0**j, 1.0, 10, HALF_SQUARED, outputs=1, delta=0.2, tasks=5, grid=1.0)
        chances.append(2 * math.exp(-20 * (bound.confidence / 3) ** 2))
    assert 5 * sum(chances) == pytest.approx(0.2 * (1 - 1 / 301))


def test_one_output_costs_no_vector_contraction():
    one, two = (generalization_bound(0.0, 1.0, 1.0, 10, HALF_SQUARED, outputs=k).complexity for k in (1, 2))
    assert two == pytest.approx(math.sqrt(2) * one)


def test_a_bound_is_vacuous_from_the_range_of_its_loss_on():
    parts = {"radius": 1.0, "union_index": None, "range": 1.0}
    assert Bound(0.5, 0.25, 0.25, **parts).vacuous
    assert not Bound(0.5, 0.25, 0.24, **parts).vacuous


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rademacher_complexity(1.0, -1.0, 3), "the trace to be finite and not neg"),
        (lambda: rademacher_complexity(math.nan, 1.0, 3), "the radius to be finite and not neg"),
        (lambda: rademacher_complexity(1.0, 1.0, 0), "number of samples to be positive"),
        (lambda: contraction("squarred", 1.0), "half_squared, squared, norm, cross_entropy, ramp, got 'squarred'"),
        (lambda: contraction("ramp", 0.0), "size of the loss to be positive"),
        (lambda: generalization_bound(0.0, 1.0, 1.0, 9, HALF_SQUARED, outputs=1, delta=1.0), "between 0 and 1, got 1"),
        (lambda: generalization_bound(0.0, 1.0, 1.0, 9, HALF_SQUARED, outputs=0), "number of outputs to be positive"),
        (lambda: generalization_bound(0.0, 1.0, 1.0, 9, HALF_SQUARED, outputs=1, tasks=0), "number of tasks to be pos"),
        (
            lambda: generalization_bound(-1.0, 1.0, 1.0, 9, HALF_SQUARED, outputs=1),
            "the empirical loss to be finite and not neg",
        ),
        (lambda: generalization_bound(0.0, 1.0, 1.0, 9, HALF_SQUARED, outputs=1, grid=0.0), "grid's first radius"),
    ],
)
def test_what_no_bound_can_be_made_of_is_refused_by_name(call, message):
    with pytest.raises((FunctionError, TypeCheckError)) as caught:  # the latter under --shape-checks
        call()
    assert caught.type is TypeCheckError or re.search(message, str(caught.value))
