"""The benchmarks: what their files hold, what is counted, and that the document says what the files say."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.bench import __main__ as command
from experiments.bench import devices, estimate, growth, machine, process, profile, results, sizes, table
from experiments.bench.growth_picture import draw
from experiments.bench.stream import MadeStream, fill_log, folder_bytes, made_up, measured_task, opened
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.host_memory import give_back_freed_memory
from ntkcl_jax.runs.log import read_metrics

ROOT = Path(__file__).parents[3]
RESULTS = sorted((ROOT / results.FOLDER).glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_stored_figure_has_the_fields_of_the_contract(path: Path) -> None:
    found = json.loads(path.read_text())
    assert set(results.FIELDS) <= set(found)
    assert found["ratio"] == pytest.approx(found["ours"] / found["other"])
    assert path.stem in (found["name"], f"{found['name']}-{found['device'].replace(' ', '_')}")
    assert isinstance(found["command"], str) and found["command"].startswith("python -m experiments.bench")


def test_the_document_says_what_the_stored_figures_say() -> None:
    text = (ROOT / table.DOCUMENT).read_text()
    assert text == table.filled(text, results.read(ROOT / results.FOLDER))
    assert sorted(re.findall(r"<!-- figures: ([a-z-]+) -->", text)) == sorted(table.PLACES)


def test_a_figure_in_the_document_changes_with_its_file(tmp_path: Path) -> None:
    def stored(ours: float) -> dict[str, Any]:
        made = results.result(
            "training_step-base-224px-b16-float32-vs-torch-eager-float32", ours, 2.0, "images/s", "cpu"
        )
        side = {"device_peak_mb": None, "peak_mb": 12.0}
        return {**made, "measured": {"ours": side, "other": side}}

    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- figures: torch -->\nold\n<!-- end -->\n<!-- figures: goals -->\n<!-- end -->\nEnd.\n")
    words = ["--results", str(tmp_path / "r"), "--document", str(page)]
    results.write(stored(3.0), tmp_path / "r")
    table.main(words)
    first = page.read_text()
    assert "| 3 | 2 | 1.50 | 12 | 12 |" in first and "old" not in first and first.endswith("<!-- end -->\nEnd.\n")
    assert "| CPU, ViT-B/16, float32: 1.2 times PyTorch's step | 1.50 times (training_step-base" in first
    results.write(stored(5.0), tmp_path / "r")
    table.main(words)
    assert page.read_text() == first.replace("| 3 | 2 | 1.50 |", "| 5 | 2 | 2.50 |").replace("1.50 times", "2.50 times")


def test_a_result_that_lacks_a_field_or_is_not_finite_is_refused(tmp_path: Path) -> None:
    made = results.result("x", 1.0, 2.0, "s", "some cpu")
    assert (made["ratio"], made["unit"], made["device"]) == (0.5, "s", "some cpu")
    assert results.write(made, tmp_path).name == "x-some_cpu.json"
    with pytest.raises(ValueError, match="commit is missing"):
        results.write({k: v for k, v in made.items() if k != "commit"}, tmp_path)
    with pytest.raises(ValueError, match="nan"):
        results.write({**made, "ours": float("nan")}, tmp_path)


def test_collectives_are_counted_with_all_their_shapes() -> None:
    text = """
      %p = f32[8,4]{1,0} parameter(0)
      %a = (f32[2,3]{1,0}, s32[]) all-reduce(%b, %c), channel_id=1
      %g = bf16[16,2]{1,0} all-gather(%p), dimensions={0}
      %s = f32[5]{0} all-reduce-start(%p)
      %d = f32[5]{0} all-reduce-done(%s)
      %f = f32[100]{0} fusion(%p), kind=kLoop
    """
    assert devices.collective_bytes(text) == {"all-reduce": 24 + 4 + 20, "all-gather": 64}


def test_a_program_of_one_device_sends_nothing() -> None:
    compiled = jax.jit(lambda x: x.sum()).lower(jnp.ones((4, 2))).compile()
    assert devices.collective_bytes(compiled.as_text()) == {}


def test_a_large_stream_is_estimated_from_its_configuration() -> None:
    config, machine_ = estimate.configuration(), estimate.MACHINES[0]
    stream = estimate.large_stream(config)
    found = estimate.stream_estimate(machine_, config, stream, mfu=0.4)
    assert (stream.classes, len(stream.task_sizes)) == (10_000, 1_000)
    assert found["steps"] == 20 * 1000 * -(-14_000 // 256)
    assert found["checkpoints"] == 2000 * memory.checkpoint_bytes(config, 10_000)
    assert found["gradient_sent_per_step"] == pytest.approx(2 * 7 / 8 * 4 * found["trained_parameters"])
    parts = ("training_s", "prototypes_s", "evaluation_s")
    assert found["total_s"] == pytest.approx(sum(found[part] for part in parts), rel=1e-9)
    assert found["step_s"] == pytest.approx(found["step_flops"] / (8 * 989e12 * 0.4))
    alone = estimate.stream_estimate(estimate.Machine("one", "NVIDIA H100", 1, 80e9, 1.0), config, stream, mfu=0.4)
    assert alone["gradient_sent_per_step"] == 0 and alone["step_s"] == pytest.approx(8 * found["step_s"])
    assert alone["memory_per_device"] > 4 * found["memory_per_device"]
    assert found["memory_per_device"] < machine_.memory


def test_a_part_is_bound_by_what_takes_longer() -> None:
    roof = machine.Roof(gflop_per_s=10.0, gb_per_s=1.0)
    slow = profile.beside_roof({"flops": 1e9, "bytes": 4e8, "seconds": 0.8}, roof, 1.6)
    assert slow["attainable_s"] == pytest.approx(0.4) and slow["bound_by_memory"]
    assert (slow["reached"], slow["of_step"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert not profile.beside_roof({"flops": 1e9, "bytes": 1.0, "seconds": 0.8}, roof, 1.6)["bound_by_memory"]


def test_the_machine_has_a_rate_and_a_bandwidth() -> None:
    assert machine.matrix_rate(size=64) > 0
    assert machine.bandwidth(2**12) > 0


def test_the_highest_memory_is_seen_and_can_be_forgotten() -> None:
    give_back_freed_memory()  # what tests before this one in the same process have left, and their peak
    process.forget_peak()
    before = process.resident_mb()
    held = bytearray(60_000_000)
    held[::4096] = b"x" * len(held[::4096])
    assert process.resident_mb() > before
    del held
    give_back_freed_memory()
    if process.forget_peak():
        assert process.resident_mb() < before + 60


@pytest.mark.slow
def test_a_made_up_state_has_prototypes_and_a_log_of_the_tasks_before_alone() -> None:
    with opened(MadeStream(6, 3, images=2), sizes.model("toy")) as run:
        buffers = made_up(run, 2).frozen.buffers
        assert buffers["prototypes/seen"].tolist() == [True] * 4 + [False] * 2
        rows = jnp.abs(buffers["prototypes/kernel"]).sum(axis=1) > 0
        assert rows.tolist() == [True] * 4 + [False] * 2
        fill_log(run, 2)
        fill_log(run, 2)
        kept = [record for record in read_metrics(run.folder.metrics) if record["kind"] == "task"]
        assert [(r["task"], len(r["task_accuracies"])) for r in kept] == [(0, 1), (1, 2)]


@pytest.mark.slow
def test_a_late_task_runs_through_the_projects_own_code_without_compiling_again() -> None:
    counted = growth.Compilations()
    with opened(MadeStream(40, 20, images=4), sizes.model("toy")) as run:
        measured_task(run, 0)
        measured_task(run, 0)
        before = counted.count
        found = measured_task(run, 19)
        assert counted.count == before
        assert found["images_tested"] == 40
        assert found["whole"] >= found["fit"] + found["evaluate"]
        assert found["checkpoint_bytes"] == folder_bytes(run.path(19, "after")) > 0
        assert {p.name for p in run.path(19, "").iterdir()} == {"before", "after"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["growth --axes classes --classes 20 30 --batch 4 --repeats 1", "profile --batch 4 --repeats 1",
     "steps --batch 4 --repeats 1", "steps --batch 4 --repeats 1 --plain-memory"],
)  # fmt: skip
def test_a_command_writes_its_figures(words: str, tmp_path: Path) -> None:
    assert command.main([*words.split(), "--size", "toy", "--out", str(tmp_path)]) == 0
    found = results.read(tmp_path)
    assert found and all(set(results.FIELDS) <= set(r) and r["ours"] > 0 for r in found)
    page = "".join(f"<!-- figures: {name} -->\n<!-- end -->\n" for name in table.PLACES)
    assert found[0]["name"].split("-")[1] in table.filled(page, found)


def test_the_picture_has_a_panel_for_each_axis(tmp_path: Path) -> None:
    points = [{"x": 1, "ms": 0.0}, {"x": 2, "ms": 3.0}, {"x": 4, "ms": 3.1}]
    axes = {name: (points, "ms", "ms per step") for name in growth.AXES}
    assert draw(axes, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_an_unknown_command_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["stepz"]) == 2
    assert capsys.readouterr().err.startswith("error: expected one of steps, torch, growth")
    assert command.main(["--help"]) == 0
    assert set(re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.M)) == set(command.COMMANDS)
