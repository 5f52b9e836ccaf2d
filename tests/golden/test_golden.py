"""The `reference` variant reproduces the authors' release on the fixtures in tests/golden, number by number."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests import golden_replay
from tests.golden.fixture import TOLERANCES

GOLDEN = Path(__file__).parent


def rewritten(folder: Path, name: str, drop: tuple[str, ...] = (), change: tuple[str, ...] = ()) -> str:
    """Write a fixture again without the keys that start with `drop`, and with wrong numbers in the keys `change`."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as z:
        arrays = {key: z[key] for key in z.files if not key.startswith(drop)}
    for key in change:
        arrays[key] = arrays[key].copy()
        arrays[key].flat[-1] += 1 if arrays[key].dtype == np.int64 else 1e-3
    np.savez(folder / "fixture.npz", **arrays)
    return str(folder / "fixture.npz")


@pytest.mark.parametrize("name", ["A", "C"])
def test_the_release_is_reproduced(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = golden_replay.main([str(GOLDEN / f"{name}.npz")])
    report = json.loads(capsys.readouterr().out)
    assert set(report["groups"]) == set(TOLERANCES)
    beyond = {group: e for group, e in report["groups"].items() if not e["error_over_tolerance"] <= 1}
    assert not beyond
    assert report["ok"]
    assert code == 0


def test_a_wrong_number_in_any_group_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = (
        "fwd/cur_patch/block1",
        "fwd/pre_channel/adapter1",
        "fwd/pre_patch/prompts2",
        "fwd/patch_x",
        "task0/step2/mixed_x",
        "task1/step4/logits_patch",
        "task1/step3/loss/mi_loss",
        "task1/step1/dfeat/orthogonal_loss/patch_x",
        "task1/step1/grad/fusion_model.key.weight",
        "task0/step3/lr",
        "task1/after_step4/proxy_fc.sigma",
        "task0/after_task/backbone.pre_channel_prompt_list.0.up_proj.bias",
        "task1/after_task/fc.weight",
        "task0/test/channel_x",
        "task1/test/logits_mixed",
        "task1/test/pred_topk",
        "task1/step2/aux_targets",
        "unit/orth_fullrank/projector",
        "unit/mi/zero_rows/grad",
        "unit/orth_fullrank/grad_patch",
        "unit/lr_cosine_T20_lr0.025",
        "unit/class_order_100_seed0to4",
        "unit/update_ratios",
    )
    code = golden_replay.main([rewritten(tmp_path, "C", change=wrong)])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [name for name, e in groups.items() if e["error_over_tolerance"] <= 1] == []
    assert code == 1


def test_optional_keys_may_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = golden_replay.main([rewritten(tmp_path, "C", drop=("unit/", "task0/ema_if", "task1/ema_if"))])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["missing"] == []
    assert not any(group.startswith("unit/") for group in report["groups"])


@pytest.mark.slow
def test_a_fixture_of_one_task_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task 1 of C is gone; nb_tasks still says that a task follows, and the proxy head is as wide as task 0."""
    code = golden_replay.main([rewritten(tmp_path, "C", drop=("data/task1", "task1/"))])
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no fixture at"),
        (b"PK not really a zip", "is not a readable .npz file"),
        (b"", "is not a readable .npz file"),
    ],
)
def test_a_file_that_is_no_fixture_is_named_in_one_line(
    content: bytes | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.npz"
    if content is not None:
        path.write_bytes(content)
    assert golden_replay.main([str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert line in said.err
    assert str(path) in said.err


@pytest.mark.parametrize("drop", ["meta_json_utf8", "data/task0/batches", "timm_ckpt/norm.bias", "init/fusion_model."])
def test_a_fixture_without_a_needed_key_is_refused_in_one_line(
    drop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert golden_replay.main([rewritten(tmp_path, "C", drop=(drop,))]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert drop.removeprefix("timm_ckpt/") in said


def test_no_file_at_all_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden_replay.main([]) == 2
    assert "usage:" in capsys.readouterr().err
