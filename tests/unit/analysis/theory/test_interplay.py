"""Interplay of tasks: figures of docs/theory.md, section 6, a learner with parameters as twin, and invariances."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import FunctionError
from analysis.theory.interplay import Decomposition, decompose, learn_sequentially
from tests.support.task_pairs import orthogonal
from tests.support.theory_tasks import Tasks, f1, learn_in_parameter_space, random_tasks

EXACT = 1e-10
seeds = st.integers(0, 2**32 - 1)


def learn(tasks: Tasks):
    return learn_sequentially(tasks.block, tasks.targets, tasks.outputs, tasks.ridges)


def terms(split: Decomposition) -> list[float]:
    parts = [split.interplay, split.own_cross, split.between_cross]
    return [split.task_specific, split.direct, *(term for part in parts for term in part.values())]


def test_the_split_of_fixture_f1_has_the_known_figures():
    first, second, third = (task.decomposition for task in learn(f1()))
    assert first.interplay == pytest.approx({1: 0.321307086216, 2: 0.295131172262}, abs=EXACT)
    assert first.own_cross == pytest.approx({1: 0.012383054178, 2: -0.004031848435}, abs=EXACT)
    assert first.between_cross == pytest.approx({(1, 2): -0.314784345044}, abs=EXACT)
    assert second.interplay == pytest.approx({2: 0.124753279984}, abs=EXACT)
    assert second.own_cross == pytest.approx({2: 0.008726725734}, abs=EXACT)
    assert (third.interplay, third.own_cross, third.between_cross) == ({}, {}, {})
    specific = [split.task_specific for split in (first, second, third)]
    assert specific == pytest.approx([0.024758490947, 0.165661228383, 0.002408071364], abs=EXACT)
    for value in ("total", "direct"):
        got = [getattr(split, value) for split in (first, second, third)]
        assert got == pytest.approx([0.334763610124, 0.299141234101, 0.002408071364], abs=EXACT)


def test_without_the_cross_terms_the_loss_of_f1_would_nearly_double():
    split = learn(f1())[0].decomposition
    assert split.task_specific + sum(split.interplay.values()) > 1.9 * split.total


@given(seeds)
@settings(max_examples=50)
def test_the_learner_on_kernels_does_what_the_learner_with_parameters_does(seed):
    tasks = random_tasks(seed)
    slow = learn_in_parameter_space(tasks)
    for t, task in enumerate(learn(tasks)):
        target, said = tasks.targets[t], [outputs[t] for outputs in slow.outputs]
        np.testing.assert_allclose(task.residual_targets, target - said[t], atol=1e-9)
        np.testing.assert_allclose(task.residual, target - said[t + 1], atol=1e-9)
        np.testing.assert_allclose(tasks.jacobians[t][t].T @ task.alpha.ravel(), slow.steps[t], atol=1e-8)
        assert list(task.drifts) == list(range(t + 1, len(tasks.targets)))
        for k, drift in task.drifts.items():
            np.testing.assert_allclose(drift, said[k + 1] - said[k], atol=1e-9)
        assert task.radius.exact == pytest.approx(np.linalg.norm(slow.steps[t]), rel=1e-9)
        assert task.decomposition.total == pytest.approx(((target - said[-1]) ** 2).sum() / len(target), rel=1e-9)


@given(seeds, st.integers(1, 6), st.integers(1, 4), st.integers(0, 5), st.floats(-100, 100))
def test_terms_add_up_to_the_squared_error_for_any_residual_and_any_changes(seed, n, outputs, later, exponent):
    rng = np.random.default_rng(seed)
    residual, *changes = 10**exponent * rng.normal(size=(later + 1, n, outputs))
    split = decompose(residual, {7 + k: change for k, change in enumerate(changes)})
    direct = sum(((residual - sum(changes))[i] ** 2).sum() for i in range(n)) / n
    size = sum(map(abs, terms(split)))
    assert abs(split.total - direct) <= 1e-13 * size
    assert abs(split.direct - direct) <= 1e-13 * size
    assert abs(split.forgetting - (direct - (residual**2).sum() / n)) <= 1e-13 * size


def test_the_order_in_which_drifts_are_named_changes_nothing():
    residual, early, late = np.random.default_rng(0).normal(size=(3, 4, 2))
    split = decompose(residual, {9: late, 2: early})
    assert split == decompose(residual, {2: early, 9: late})
    assert list(split.between_cross) == [(2, 9)]


@given(seeds)
@settings(max_examples=30)
def test_turning_the_outputs_changes_no_term_and_no_radius(seed):
    tasks = random_tasks(seed)
    turn = orthogonal(np.random.default_rng(seed), tasks.targets[0].shape[1])
    for task, turned in zip(learn(tasks), learn(tasks.mixed(turn)), strict=True):
        scale = max(map(abs, terms(task.decomposition)))
        np.testing.assert_allclose(terms(turned.decomposition), terms(task.decomposition), atol=1e-8 * scale)
        assert dataclasses.astuple(turned.radius) == pytest.approx(dataclasses.astuple(task.radius), rel=1e-8)


def test_as_the_ridge_vanishes_only_what_the_later_tasks_did_remains():
    ridges = (1e-2, 1e-4, 1e-6)
    splits = [learn(random_tasks(3, ridge=ridge, parameters=200))[0].decomposition for ridge in ridges]
    for larger, smaller in pairwise(splits):
        assert smaller.task_specific == pytest.approx(larger.task_specific / 1e4, rel=0.01)  # S ~ λ²
        for k, cross in smaller.own_cross.items():
            assert cross == pytest.approx(larger.own_cross[k] / 1e2, rel=0.01)  # C ~ λ
    last = splits[-1]
    assert last.interplay == pytest.approx(splits[-2].interplay, rel=1e-4)
    assert last.between_cross == pytest.approx(splits[-2].between_cross, rel=1e-4)
    assert last.total == pytest.approx(last.forgetting, rel=1e-5)


@pytest.mark.parametrize("ridge", [1e-6, 1e-9, 1e-12])
def test_no_ridge_is_too_small_for_the_changes_that_a_singular_kernel_makes(ridge):
    tasks = random_tasks(5, ridge=ridge, parameters=3)
    slow = learn_in_parameter_space(tasks)
    for t, task in enumerate(learn(tasks)):
        np.testing.assert_allclose(task.residual_targets, tasks.targets[t] - slow.outputs[t][t], atol=1e-12)
        assert task.radius.exact == pytest.approx(np.linalg.norm(slow.steps[t]), rel=1e-12)
        for k, drift in task.drifts.items():
            np.testing.assert_allclose(drift, slow.outputs[k + 1][t] - slow.outputs[k][t], atol=1e-12)


def test_an_inter_task_kernel_of_zero_leaves_an_old_task_alone():
    tasks = f1()
    blocks = {(k, s): tasks.block(k, s) * (s == k or {s, k} != {0, k}) for k in range(3) for s in range(3)}
    first = learn_sequentially(lambda k, s: blocks[k, s], tasks.targets, tasks.outputs, tasks.ridges)[0]
    assert first.decomposition.forgetting == 0


def test_terms_that_do_not_add_up_are_refused():
    with pytest.raises(FunctionError, match="add up to the squared error"):
        Decomposition(1.0, {1: 1.0}, {1: 0.0}, {}, direct=2.0 + 1e-8)
    with pytest.raises(FunctionError, match="add up to the squared error"):
        Decomposition(np.nan, {}, {}, {}, direct=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose(np.ones(3), {}), "the residual as a 2-D matrix"),
        (lambda: decompose(np.ones((2, 1)), {4: np.ones((1, 2))}), "task 4's drift of shape"),
        (lambda: decompose(np.ones((2, 1)), {4: np.full((2, 1), np.nan)}), "finite numbers in task 4's drift"),
        (lambda: decompose(np.full((2, 1), 1e200), {1: np.ones((2, 1))}), "float64's range"),
        (lambda: learn_sequentially(f1().block, f1().targets, f1().outputs, [1.0]), "a ridge for each task, got 3, 3"),
        (lambda: learn_sequentially(f1().block, f1().targets, f1().outputs, [1.0, 1.0, 0.0]), "ridge to be positive"),
        (lambda: learn_sequentially(lambda k, s: f1().block(s, k), *_f1_data()), r"block\(0, 1\) of shape"),
        (lambda: learn_sequentially(lambda k, s: np.eye(8), *_f1_data()), r"block\(0, 1\) of shape"),
        (lambda: learn_sequentially(lambda k, s: np.eye(4), *_f1_data()), r"block\(0, 0\) of shape"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(FunctionError, match=message):
        call()


def _f1_data():
    tasks = f1()
    return tasks.targets, tasks.outputs, tasks.ridges
