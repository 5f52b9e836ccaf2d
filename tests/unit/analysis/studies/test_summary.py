"""The summary's figures against their definitions on made-up Jacobians, and the figures drawn from it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from analysis import measures
from analysis.errors import FunctionError, StoreError
from analysis.plots import kernels as figures
from analysis.studies import summary

N, K, P = 8, 3, 20
OFFSETS = (0, 4, 8)
LABELS = np.array([0, 1, 0, 1, 2, 2, 2, 2])


def jacobian(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, K, P))


def full(j: np.ndarray) -> np.ndarray:
    return np.einsum("iap,jbp->ijab", j, j)


def checkpoint(j: np.ndarray, groups: dict | None = None, stacked: bool = True) -> summary.Checkpoint:
    return summary.Checkpoint(full(j), OFFSETS, LABELS, P, stacked, groups or {})


def test_figures_are_those_of_the_blocks() -> None:
    j = jacobian()
    rows = [j[:4].reshape(12, P), j[4:].reshape(12, P)]
    made = summary.summarise(checkpoint(j))
    sizes = [np.linalg.norm(a @ a.T) for a in rows]
    inter = np.linalg.norm(rows[0] @ rows[1].T)
    assert made["kernel_norm"][0][1] == pytest.approx(inter)
    assert made["inter_intra_ratio"][0][1] == pytest.approx(inter / np.sqrt(sizes[0] * sizes[1]))
    for t, a in enumerate(rows):
        values = np.linalg.eigvalsh(a @ a.T)[::-1]
        ridge = values.mean() * measures.RIDGE_FRACTION
        assert made["spectrum"][t] == pytest.approx(values)
        assert made["effective_dimension"][t] == pytest.approx((values / (values + ridge)).sum())
        y = np.eye(K)[LABELS[4 * t : 4 * t + 4]].reshape(-1)
        assert made["target_alignment"][t] == pytest.approx(y @ a @ a.T @ y / (sizes[t] * (y @ y)))
    q = [np.linalg.qr(a.T)[0] for a in rows]
    cosines = np.linalg.svd(q[0].T @ q[1], compute_uv=False)
    assert made["overlap"][0][1] == pytest.approx((cosines**2).mean())
    assert made["smallest_angle"][0][1] == pytest.approx(np.arccos(min(1.0, cosines[0])), abs=1e-6)


def test_changes_are_against_the_checkpoint_before() -> None:
    j = jacobian()
    first, second = checkpoint(j), checkpoint(1.1 * j)
    made = summary.summarise(second, first)
    assert made["drift"] == pytest.approx([1.1**2 - 1] * 2)
    assert made["kernel_distance"] == pytest.approx([0, 0], abs=1e-12)
    assert summary.summarise(first)["drift"] == [None, None]


def test_groups_have_shares_that_add_up_and_none_has_no_ratio() -> None:
    j = jacobian()
    parts = [j.copy(), j.copy()]
    parts[0][..., 5:], parts[1][..., :5] = 0, 0
    groups = {"a": full(parts[0]), "b": full(parts[1]), "idle": np.zeros((N, N, K, K))}
    made = summary.summarise(checkpoint(j, groups))["groups"]
    assert np.sum([made[name]["share"] for name in groups], axis=0) == pytest.approx([1, 1])
    idle = {"share": [0.0, 0.0], "inter_intra_ratio": None, "centred_target_alignment": [None] * 2}
    assert made["idle"] == {**idle, "stream_alignment": None}
    assert made["a"]["inter_intra_ratio"][0][1] < 1


def test_a_groups_alignment_is_that_of_its_images_without_their_mean() -> None:
    j = jacobian()
    made = summary.summarise(checkpoint(j, {"a": full(j)}))
    kernel = np.einsum("iap,jap->ij", j, j)
    for rows, got in ((slice(0, 4), made["groups"]["a"]["centred_target_alignment"][0]),
                      (slice(0, 8), made["groups"]["a"]["stream_alignment"])):  # fmt: skip
        centre = np.eye(len(LABELS[rows])) - 1 / len(LABELS[rows])
        one, other = (centre @ m @ centre for m in (kernel[rows, rows], np.equal.outer(LABELS[rows], LABELS[rows])))
        assert got == pytest.approx((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
    assert made["groups"]["a"]["centred_target_alignment"][1] is None  # a task of one class
    assert made["stream_alignment"] == made["groups"]["a"]["stream_alignment"]


def test_unstacked_targets_are_compared_image_by_image() -> None:
    j = jacobian()
    made = summary.summarise(checkpoint(j, stacked=False))
    kernel = np.einsum("iap,jap->ij", j[:4], j[:4])
    y = np.eye(K)[LABELS[:4]]
    want = np.sum(kernel * (y @ y.T)) / (np.linalg.norm(kernel) * np.linalg.norm(y @ y.T))
    assert made["target_alignment"][0] == pytest.approx(want)


def test_a_task_without_gradient_is_refused() -> None:
    j = jacobian()
    j[4:] = 0
    with pytest.raises(FunctionError, match="task 1"):
        summary.summarise(checkpoint(j))


def summary_of(tasks: int = 2) -> dict:
    parts = {"channel": full(jacobian(1)), "fusion": full(jacobian(2))}
    made = [checkpoint(jacobian(c), parts) for c in range(3)]
    pairs = itertools.pairwise([None, *made])
    return {"seeds": {"4": {"tasks": list(range(tasks)), "checkpoints": {
        str(c): summary.summarise(now, before) for c, (before, now) in enumerate(pairs)
    }}}}  # fmt: skip


def test_figures_are_the_same_bytes_for_the_same_numbers(tmp_path: Path) -> None:
    made = summary_of()
    first, second = (figures.save_figures(made, tmp_path / name) for name in ("a", "b"))
    assert [p.name for p in first] == ["ratios_seed4.png", "spectra_seed4.png", "tasks_seed4.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in first)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        figures.save_figures(summary_of(), tmp_path / "file")
