"""Plans fit, more memory never costs passes, and what can't be done is refused."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from analysis.errors import PlanError
from analysis.kernels.planner import plan
from analysis.kernels.problem import Program, describe
from tests.support.dense import mlp

FN, PARAMS = mlp((5, 8, 3))
IMAGES = jax.ShapeDtypeStruct((100, 5), np.float32)
P = 5 * 8 + 8 + 8 * 3 + 3


@cache
def problem(n1, n2, outputs, devices, memory):
    return describe(FN, PARAMS, IMAGES, n1, n2, outputs, None, "float64", memory, devices, True, lean=True)


def at(memory, **changes):
    return plan(FN, PARAMS, IMAGES, 100, memory_bytes=memory, **changes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 400), st.one_of(st.none(), st.integers(1, 400)), st.sampled_from(["full", "trace", "pseudo"]),
    st.sampled_from([1, 2, 8]), st.floats(1.0, 4.0), st.floats(0.001, 1.0),
)  # fmt: skip
def test_more_memory_never_means_more_passes_and_what_is_said_to_fit_fits(n1, n2, outputs, devices, more, share):
    base = problem(8, None, outputs, devices, 0)
    program = Program(devices, 8000)
    less = replace(base, n1=n1, n2=n2, counted=0, memory=int(2_000_000 * share), programs=(program, program))
    ample = replace(less, memory=int(less.memory * more))
    few, many = less.best(), ample.best()
    if less.peak(*few) <= less.memory:
        assert ample.peak(*many) <= ample.memory
        assert ample.passes(*many) <= less.passes(*few)
    assert few[0] % devices == 0


def test_with_memory_for_everything_each_row_is_computed_once():
    chosen = at(10**9)
    assert (chosen.way, chosen.passes) == ("tiled", 1.0)
    assert chosen.kernel_bytes == 100 * 100 * 3 * 3 * 8 < chosen.peak_bytes <= chosen.memory_bytes


def test_the_operations_of_the_products_are_those_of_the_upper_half():
    assert at(10**9).flops_products == 100**2 * 3**2 * P
    assert plan(FN, PARAMS, IMAGES, 100, 50, memory_bytes=10**9).flops_products == 2 * 100 * 50 * 3**2 * P
    assert at(10**9, outputs="trace").flops_products == 100**2 * 3 * P
    assert at(10**9, outputs="pseudo").flops_products == 100**2 * P


def test_no_plan_is_below_the_floor():
    chosen = at(10**9)
    # Beside two outer products and the hidden layer's gradient, few operations; all but the forward pass is counted.
    least = 5 * 8 + 8 * 3 + 2 * 8 * 3
    backward = (chosen.floor - chosen.flops_products) / (100 * 3)
    assert least <= backward <= 2 * least
    assert 0 < chosen.floor_fraction <= 1


def test_too_little_memory_is_one_line_with_numbers_and_remedies():
    with pytest.raises(PlanError, match=r"needs .* 1 kB may be used: choose outputs trace.*sketched_ntk") as error:
        at(1000)
    assert "\n" not in str(error.value)


def test_a_kernel_on_disk_takes_no_memory():
    small = at(10**9).kernel_bytes // 2
    with pytest.raises(PlanError):
        at(small)
    assert at(small, kernel_in_memory=False).peak_bytes <= small


@pytest.mark.parametrize("tile", [1, 7, 33])
def test_a_tile_that_is_asked_for_is_taken_or_refused(tile):
    assert at(10**9, tile=tile).tile == tile
    with pytest.raises(PlanError, match=f"at tile {tile} "):
        at(1000, tile=tile)


@pytest.mark.parametrize("way", ["neural_tangents", "sketched", "products"])
def test_a_way_that_is_asked_for_is_taken(way):
    assert at(10**9, way=way).way == way


def test_features_need_a_function_of_features_and_head():
    with pytest.raises(PlanError, match="features and head"):
        at(10**9, way="features")


@pytest.mark.parametrize("bad", [{"tile": 0}, {"way": "magic"}, {"outputs": "half"}])
def test_requests_that_mean_nothing_are_refused(bad):
    with pytest.raises((PlanError, TypeCheckError)) as caught:  # the latter under --shape-checks
        at(10**9, **bad)
    assert caught.type is TypeCheckError or "expected" in str(caught.value)


def test_devices_divide_the_work_and_the_rows():
    one, eight = at(10**9, kernel_in_memory=False, tile=48), at(10**9, kernel_in_memory=False, tile=48, devices=8)
    assert eight.tile % 8 == 0
    # Each device does anew what doesn't depend on the examples, such as the identity that rows are pulled back from.
    assert eight.flops_per_device == pytest.approx(one.flops_per_device / 8, rel=1e-3)
    assert eight.peak_bytes == pytest.approx(one.peak_bytes / 8, rel=1e-3)


def test_groups_add_kernels():
    groups = {"first": ["layer0"], "second": ["layer1"]}
    assert at(10**9, groups=groups).kernel_bytes == 3 * at(10**9).kernel_bytes


def test_equal_requests_give_equal_plans():
    assert at(10**7) == at(10**7)


def test_the_table_names_every_way_and_marks_the_chosen_one():
    lines = at(10**9).lines()
    assert [line.split()[0] for line in lines[1:6]] == ["tiled", "features", "neural_tangents", "sketched", "products"]
    assert [line for line in lines if " * " in line] == [lines[1]]


def test_a_tile_is_rounded_up_so_that_every_device_has_equally_many():
    assert at(10**9, tile=3, devices=2).tile == 4
