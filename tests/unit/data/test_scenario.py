"""Class order and split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcl_jax.config import DataConfig
from ntkcl_jax.data import Scenario, make_scenario
from ntkcl_jax.errors import ConfigError, DataError


def test_the_class_order_is_the_legacy_numpy_permutation():
    for seed in range(5):
        scenario = make_scenario(100, DataConfig(classes_per_task=10), seed)
        assert scenario.class_order == tuple(np.random.RandomState(seed).permutation(100))


def test_the_order_of_seed_0_is_written_down():
    assert make_scenario(10, DataConfig(), seed=0).class_order == (2, 8, 4, 9, 1, 6, 7, 3, 0, 5)


def test_without_shuffling_the_order_is_the_sources():
    scenario = make_scenario(7, DataConfig(shuffle_classes=False), seed=3)
    assert scenario.class_order == tuple(range(7))


@pytest.mark.parametrize(
    ("classes", "first", "increment", "sizes"),
    [
        (100, 0, 10, (10,) * 10),
        (37, 7, 5, (7,) + (5,) * 6),
        (10, 0, 4, (4, 4, 2)),
        (10, 10, 3, (10,)),
        (10, 0, 10, (10,)),
        (5, 1, 100, (1, 4)),
    ],
)
def test_tasks_are_first_then_increments_then_the_rest(classes, first, increment, sizes):
    data = DataConfig(first_task_classes=first, classes_per_task=increment)
    assert make_scenario(classes, data, seed=0).task_sizes == sizes


@given(
    classes=st.integers(1, 60), first=st.integers(0, 60), increment=st.integers(1, 60), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_tasks_are_disjoint_and_complete_and_relabelling_agrees(classes, first, increment, seed):
    data = DataConfig(first_task_classes=first, classes_per_task=increment)
    if (first or increment) > classes:
        with pytest.raises(ConfigError, match="source has"):
            make_scenario(classes, data, seed)
        return
    scenario = make_scenario(classes, data, seed)
    assert [label for task in range(scenario.num_tasks) for label in scenario.classes(task)] == list(range(classes))
    assert scenario.offsets[-1] == scenario.num_classes == classes
    assert all(label in scenario.classes(scenario.task_of(label)) for label in range(classes))
    relabelled = scenario.relabel(np.array(scenario.class_order))
    assert relabelled.tolist() == list(range(classes))


def test_labels_outside_the_scenario_are_refused():
    scenario = make_scenario(4, DataConfig(), seed=0)
    with pytest.raises(DataError, match=r"labels run from 0 to 3, got 4"):
        scenario.task_of(4)
    for wrong in (4, -1):
        with pytest.raises(DataError, match=r"must lie in 0\.\.3"):
            scenario.relabel(np.array([0, wrong]))


def test_relabelling_nothing_gives_nothing():
    assert make_scenario(4, DataConfig(), seed=0).relabel(np.array([], np.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("order", "sizes", "line"),
    [
        ((0, 0), (2,), "permutation"),
        ((), (), "permutation"),
        ((0, 1), (1,), "add up to 2"),
        ((0, 1), (2, 0), "positive"),
    ],
)
def test_an_impossible_scenario_is_refused(order, sizes, line):
    with pytest.raises(ConfigError, match=line):
        Scenario(order, sizes)


def test_a_seed_that_the_legacy_generator_cannot_take_is_refused():
    with pytest.raises(ConfigError, match=r"2\*\*32"):
        make_scenario(4, DataConfig(), seed=2**32)


def test_the_tasks_of_all_classes_are_those_asked_for_one_by_one_and_asked_for_once():
    scenario = make_scenario(37, DataConfig(first_task_classes=7, classes_per_task=5), seed=1)
    by_search = np.searchsorted(scenario.offsets, np.arange(37), side="right") - 1
    assert scenario.task_of_class.tolist() == by_search.tolist() == [scenario.task_of(c) for c in range(37)]
    assert scenario.task_of_class.dtype == np.int64
    assert scenario.task_of_class is scenario.task_of_class and scenario.offsets is scenario.offsets
    with pytest.raises(ValueError, match="read-only"):
        scenario.task_of_class[0] = 3
    again = Scenario(scenario.class_order, scenario.task_sizes)
    assert (again, hash(again)) == (scenario, hash(scenario))
