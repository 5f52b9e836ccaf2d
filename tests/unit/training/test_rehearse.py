"""A rehearsal runs what a run would run, leaves nothing behind, and says what it found."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkcl_jax import cli
from ntkcl_jax.config import ComputeConfig, RunConfig
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.presets import IN1K, preset
from ntkcl_jax.devices import flops as costs
from ntkcl_jax.devices import memory
from ntkcl_jax.devices.flops import Stream
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.runs.log import MetricsLog
from ntkcl_jax.training.rehearsal import clock, stage
from ntkcl_jax.training.rehearsal.play import Rehearsal, existing, rehearse, seed_seconds
from ntkcl_jax.training.rehearsal.report import report
from tests.support import streams as tiny

QUICK = ("cifar100", "imagenet-r")
"""Streams that are rehearsed in the quick set; the others in the slow one."""


def small(name: str, *methods: str) -> RunConfig:
    """The preset's classes, tasks and view on a backbone of two blocks at 8 pixels, in batches of four."""
    made = preset(name, methods=methods)
    return replace(
        made,
        model=replace(made.model, backbone=tiny.BACKBONE, adapter_rank=2, prompts=2),
        data=replace(made.data, resize=9, workers=1),
        objective=replace(made.objective, lambda_dis=0.2),
        optimizer=replace(made.optimizer, batch_size=4, learning_rate=0.02, weight_decay=5e-3),
        compute=ComputeConfig(eval_batch_size=64),
    )


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS]
)
def test_each_published_stream_rehearses_its_tasks(name: str, tmp_path: Path) -> None:
    config = small(name, "prototypes")
    config = replace(config, model=replace(config.model, backbone=replace(tiny.BACKBONE, depth=1)))
    benchmark = BENCHMARKS[name]
    found = rehearse(config, near=tmp_path, tasks=99, steps=1, quiet=True)
    assert found.size.tasks == len(found.stream.task_sizes)
    assert found.stream == Stream(costs.task_sizes(config), *benchmark.images)
    assert found.image_counts == f"published counts of {benchmark.title}"
    assert found.resumed and not found.recompiled
    assert found.seed_s == {"prototypes": sum(benchmark.images) / found.rates["backbone"]}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_cell_on_the_other_weights_rehearses_the_same(name: str) -> None:
    made = [preset(cell) for cell in (name, name + IN1K)]
    sizes = [stage.choose_size(one, stage.stream_of(one)[0], 1e10, 60) for one in made]
    assert sizes[0] == sizes[1]
    played = [stage.rehearsed(one, stage.stream_of(one)[0], sizes[0], Path("weights")) for one in made]
    assert replace(played[1], preset=name) == played[0]
    assert played[0].data.classes == sum(costs.task_sizes(made[0])[: sizes[0].tasks])
    assert played[0].model == made[0].model
    assert played[0].optimizer.batch_size == made[0].optimizer.batch_size


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_published_stream_rehearses_with_ntkcl(name: str, tmp_path: Path) -> None:
    jax.clear_caches()  # another stream of the same sizes may have compiled these programs in this process
    found = rehearse(small(name, "ntkcl"), near=tmp_path, steps=1, quiet=True)
    assert found.resumed and not found.recompiled
    assert (found.compilations["train_step"], found.compilations["eval_step"]) == (1, 1)


def pets() -> RunConfig:
    """One block and no third section, which would cost compiling time."""
    config = small("pets", "ntkcl", "prototypes")
    vit = replace(tiny.BACKBONE, depth=1)
    return replace(config, model=replace(config.model, backbone=vit, pretrained_view=False))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """Pets: 7 classes, then 5; NTK-CL and a baseline; two tasks of two steps."""
    near = tmp_path_factory.mktemp("rehearsal") / "runs" / "pets"
    done = rehearse(pets(), near=near, tasks=2, steps=2, quiet=True)
    assert not list(near.parents[1].iterdir())
    return done


def test_the_steps_are_compiled_once_for_tasks_of_seven_and_five_classes(found: Rehearsal) -> None:
    assert found.resumed and not found.recompiled
    assert {n: found.compilations[n] for n in ("train_step", "eval_step")} == {"train_step": 1, "eval_step": 1}
    assert found.programs > found.later_programs


def test_what_is_found_is_measured_or_projected_from_it(found: Rehearsal) -> None:
    config = pets()
    assert found.stream == Stream((7, 5, 5, 5, 5, 5, 5), 3680, 3669)
    assert set(found.rates) == {"input", "train", "evaluate", "prototypes", "backbone"}
    assert min(found.rates.values()) > 0
    assert found.tflops == pytest.approx(costs.training_flops(config) / 4 * found.rates["train"] / 1e12)
    assert list(found.seed_s) == ["ntkcl", "prototypes"]
    assert found.run_s > len(config.seeds) * sum(found.seed_s.values())
    planned, peak = found.memory["step_planned"], found.memory["process_peak"]
    assert planned is not None and peak is not None
    assert 0 < planned < peak
    least = 14 * memory.checkpoint_bytes(config) * len(config.seeds)
    assert least < found.disk < least + 5e6


def test_it_is_told_in_a_table_and_in_json(found: Rehearsal) -> None:
    text = report(found)
    assert all(len(line) < 200 for line in text.splitlines())
    assert "no step compiled again between tasks" in text and "train_step 1 x" in text
    assert "the last task, from its predecessor's checkpoint: the same results" in text
    assert "left out   tasks 3 to 7; --tasks 7 rehearses them too" in text
    bad = report(replace(found, resumed=False, recompiled=("train_step",)))
    assert "OTHER RESULTS" in bad and "compiled again between tasks: train_step" in bad
    back = json.loads(json.dumps(found.to_json()))
    assert back["stream"] == {"task_sizes": [7, 5, 5, 5, 5, 5, 5], "train": 3680, "test": 3669}


def test_a_program_compiled_in_a_later_task_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    heard = clock.Compilations(log, tasks=3)

    def step(x: jax.Array) -> jax.Array:
        return jnp.sin(x) @ x.T

    with MetricsLog(log) as metrics, heard.listening():
        jitted = jax.jit(step)
        jitted(np.ones((2, 2)))
        metrics.append(kind="task", task=0)
        jitted(np.ones((2, 2)))
        assert heard.again == ()
        jitted(np.ones((3, 2)))
    jitted(np.ones((4, 2)))
    assert heard.times("step") == 2
    assert "step" in heard.again
    heard.found = [("step", 9.0, 0), ("step", 1.0, 0), ("add", 0.1, 1), ("step", 4.0, 1)]
    assert heard.costly == {"step": 14.0}
    assert heard.again == ("step",)


@pytest.mark.parametrize(
    ("minutes", "wanted"), [(1e6, (10, 3, 128)), (400, (10, 1, 16)), (100, (3, 1, 16)), (0.01, (2, 1, 16))]
)
def test_the_size_shrinks_until_it_ends_in_time(minutes: float, wanted: tuple[int, int, int]) -> None:
    config = preset("cifar100")
    stream, _ = stage.stream_of(config)
    size = stage.choose_size(config, stream, 1e10, minutes)
    assert (size.tasks, size.steps, size.eval_batch_size) == wanted


def test_images_are_counted_where_nothing_is_published_and_cut_as_the_run_would(tmp_path: Path) -> None:
    assert stage.stream_of(preset("digits")) == (Stream((2,) * 5, 4000, 1000), "counted")
    mine = replace(preset("cifar100"), data=tiny.config(data__source="folder", data__path="x").data)
    mine = replace(mine, data=replace(mine.data, path=str(tiny.folder(tmp_path / "data"))))
    assert stage.stream_of(mine)[0] == Stream((3, 2, 2), 63, 28)
    few = preset("cifar100")
    few = replace(few, data=replace(few.data, images_per_class=20, limit_per_class=5))
    assert stage.stream_of(few)[0] == Stream((10,) * 10, 500, 2000)


def test_too_little_memory_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "free_memory", lambda: 2**30)
    with pytest.raises(NtkclError, match=r"this run needs about \d+\.\d GiB of memory, 1\.0 GiB is free on cpu; lower"):
        rehearse(preset("cifar100"), near=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
    stage.check_room("this run", 10, 10)


def test_time_is_projected_by_the_slower_of_step_and_images() -> None:
    config, stream = preset("cifar100"), Stream((10,) * 10, 50_000, 10_000)
    rates = {"train": 100.0, "input": 1e9, "evaluate": 1000.0, "prototypes": 500.0, "backbone": 200.0, "adapters": 50.0}
    steps = 10 * 20 * 313
    saves = (20 + steps / 200) * 2.0
    whole = steps * 16 / 100 + 50_000 / 500 + 55_000 / 1000 + saves
    assert seed_seconds("ntkcl", config, stream, rates, 2.0) == pytest.approx(whole)
    starved = seed_seconds("ntkcl", config, stream, rates | {"input": 50.0}, 2.0)
    assert starved == pytest.approx(whole + steps * 16 / 100)
    assert seed_seconds("ridge", config, stream, rates, 2.0) == 300
    views = 1 + config.readout.views
    assert seed_seconds("frozen/random-ridge", config, stream, rates, 2.0) == (views * 50_000 + 10_000) / 200
    assert seed_seconds("ntkcl-ridge", config, stream, rates, 2.0) == (1 + config.readout.views) * 50 + 55
    assert seed_seconds("adapters", config, stream, rates, 0.0) == (21 * 50_000 + 55_000) / 50


def test_files_are_tried_in_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert existing(tmp_path / "runs" / "one") == tmp_path
    assert existing(tmp_path) == tmp_path
    assert existing(None) is None


def told(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command line."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = cli.NTKCL.run(list(words))
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), error.getvalue()


def test_the_command_takes_a_training_command_with_one_word_more(tmp_path: Path) -> None:
    words = [word for word in tiny.words(tmp_path / "no-data", tmp_path / "run")[1:] if word != "digits"]
    source = words.index("--data.source")
    words[source + 1] = "digits"
    code, out, error = told(
        "train", "digits", *words, "--methods", "prototypes", "--rehearse", "--steps", "1", "--json"
    )
    assert (code, error) == (0, "")
    assert json.loads(out)["stream"]["train"] == 4000
    assert not (tmp_path / "run").exists()
    assert "--minutes" in told("train", "cifar100", "--rehearse", "--help")[1]
    assert "--rehearse" in told("train", "cifar100", "--help")[1]
    end = "; `ntkcl train digits --rehearse --help` lists the options\n"
    assert told("train", "digits", "--rehearse", "--setps", "1")[2].endswith(end)
    assert told("train", "digits", "--rehearse", "--steps", "-1") == (2, "", "ntkcl: --steps must be >= 0, got -1\n")
