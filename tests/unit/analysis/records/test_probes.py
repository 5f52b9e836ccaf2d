"""Probes: which images, the same ones every time, balanced, nested, recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import RecordError, StoreError
from analysis.records.probes import Probes, choose_probes, probe_order

LABELS = {0: np.repeat([0, 1, 2], 9), 2: np.array([3] * 12 + [4] * 5), 1: np.tile([5, 6], 10)}
PIXELS = {task: np.random.default_rng(task).random((len(y), 2, 2, 3), np.float32) for task, y in LABELS.items()}


def read(task: int, at: np.ndarray) -> np.ndarray:
    return PIXELS[task][at]


def probes(per_task: int = 6, seed: int = 0, side: str = "test", tasks: tuple[int, ...] = (0, 2, 1)) -> Probes:
    return choose_probes({t: LABELS[t] for t in tasks}, per_task, seed, side, read)


def test_probes_are_the_chosen_images_of_their_task_in_the_order_of_the_tasks() -> None:
    made = probes()
    assert (made.tasks, made.offsets) == ((0, 2, 1), (0, 6, 12, 18))
    assert (made.images.shape, made.images.dtype) == ((18, 2, 2, 3), np.float32)
    for task in made.tasks:
        rows = made.rows(task)
        assert len(set(made.positions[rows].tolist())) == 6
        np.testing.assert_array_equal(made.images[rows], PIXELS[task][made.positions[rows]])
        np.testing.assert_array_equal(made.labels[rows], LABELS[task][made.positions[rows]])


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(counts=sizes, seed=st.integers(0, 2**32 - 1))
def test_every_beginning_of_the_order_is_balanced_as_far_as_classes_have_images(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)) + 3, counts)
    order = probe_order(labels, seed, "train", task=1)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for n in range(1, len(labels) + 1):
        chosen = np.bincount(labels[order[:n]] - 3, minlength=len(counts))
        assert all(have == total for have, total in zip(chosen, counts, strict=True) if have < chosen.max() - 1)


def test_a_smaller_choice_is_the_beginning_of_a_larger_one() -> None:
    large = probes(17)
    for per_task in (1, 4, 10):
        small = probes(per_task)
        for task in small.tasks:
            beginning = large.positions[large.rows(task)][:per_task]
            assert small.positions[small.rows(task)].tolist() == beginning.tolist()


def test_a_task_has_the_same_probes_whatever_tasks_are_beside_it() -> None:
    alone, among = probes(tasks=(2,)), probes()
    assert alone.positions.tolist() == among.positions[among.rows(2)].tolist()
    assert alone.hashes[0] == among.hashes[1]


def test_the_choice_is_fixed_for_all_machines() -> None:
    assert probes(4, tasks=(0,)).positions.tolist() == [4, 21, 13, 3]


def test_seed_side_and_task_give_different_probes() -> None:
    labels = np.zeros(40, np.int64)
    orders = [probe_order(labels, *what).tolist() for what in ((0, "test", 0), (1, "test", 0), (0, "train", 0))]
    orders.append(probe_order(labels, 0, "test", 1).tolist())
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


def test_the_hash_is_that_of_pixels_labels_and_tasks() -> None:
    made = probes()
    assert made.sha256 == probes().sha256
    others = [probes(5), probes(seed=1), probes(tasks=(0, 2)), probes(side="train")]
    darker = choose_probes(LABELS, 6, 0, "test", lambda task, at: read(task, at) * np.float32(0.5))
    assert darker.positions.tolist() == made.positions.tolist()
    assert len({made.sha256, darker.sha256, *[other.sha256 for other in others]}) == 6


def test_asking_for_more_images_than_there_are_is_one_line_with_the_numbers() -> None:
    with pytest.raises(RecordError, match=r"^expected at most 17 probes a task, as many as task 2 has test images; got "
                                          r"18: give a smaller --per-task$"):  # fmt: skip
        probes(18)
    with pytest.raises(RecordError, match="at least 1 probe a task, got 0"):
        probes(0)
    with pytest.raises(RecordError, match="at least one task"):
        probes(tasks=())
    with pytest.raises(RecordError, match=r"one of the probed tasks 0, 2, 1, got task 7"):
        probes().rows(7)


def test_the_choice_is_recorded_and_held_against_the_record(tmp_path: Path) -> None:
    made = probes()
    made.record(tmp_path)
    files = {p.name: p.read_bytes() for p in (tmp_path / "seed0").iterdir()}
    assert set(files) == {"test-task0-6.json", "test-task1-6.json", "test-task2-6.json"}
    facts = json.loads(files["test-task2-6.json"])
    rows = made.rows(2)
    assert facts == {
        "seed": 0, "side": "test", "task": 2, "positions": made.positions[rows].tolist(),
        "labels": made.labels[rows].tolist(), "pixels_sha256": made.hashes[1],
    }  # fmt: skip
    probes(tasks=(1, 2)).record(tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "seed0").iterdir()} == files
    darker = choose_probes(LABELS, 6, 0, "test", lambda task, at: read(task, at) * np.float32(0.5))
    with pytest.raises(RecordError, match=r"task0-6.json: probes.pixels_sha256 was .* restore the run's images"):
        darker.record(tmp_path)


def test_a_record_that_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    probes().record(tmp_path)
    (tmp_path / "seed0" / "test-task1-6.json").write_text("{")
    with pytest.raises(StoreError, match=r"task1-6.json can't be read .*; delete it and compute it again"):
        probes().record(tmp_path)
    with pytest.raises(StoreError, match=r"^can't write .*task0-6.json: Not a directory; free some space or"):
        probes().record(tmp_path / "seed0" / "test-task1-6.json")
