"""Sweeps on clusters: shards hold each cell once, and scripts give each worker its own and stop when told."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import experiments
from experiments.sweep import command as sweep
from experiments.sweep.cells import cells_of, shard
from experiments.sweep.definitions import SWEEPS
from experiments.sweep.rows import lines
from ntkcl_jax import preset
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.terminal.options import parse_train

CLUSTER = Path(experiments.__file__).parent / "cluster"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 16, 400])
def test_shards_hold_every_cell_once_and_cost_about_the_same(count: int) -> None:
    own = cells_of(lines(SWEEPS["methods"], [], [], {}), (0, 1, 2, 3, 4))
    parts = [shard(own, number, count) for number in range(1, count + 1)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in own)
    assert parts == [shard(own, number, count) for number in range(1, count + 1)]
    costs = [sum(cell.cost for cell in part) for part in parts]
    assert max(costs) - min(costs) <= max(cell.cost for cell in own)


def test_a_method_that_trains_costs_more_than_one_that_looks_once_and_a_large_network_more_than_a_small_one() -> None:
    def cost(sweep_name: str, stream: str, row: str) -> float:
        return cells_of(lines(SWEEPS[sweep_name], [stream], [row], {}), (0,))[0].cost

    assert cost("methods", "digits", "prototypes") < cost("methods", "digits", "inflora")
    assert cost("methods", "digits", "inflora") < cost("benchmarks", "cifar100", "prototypes")


def slurm(task: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    """What SLURM tells a task of an array."""
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_a_slurm_arrays_tasks_are_shards_and_the_option_overrides_them() -> None:
    assert [sweep.which_shard(None, slurm(i, 3, 9, 2, 4)) for i in (3, 5, 7, 9)] == [(n, 4) for n in (1, 2, 3, 4)]
    assert sweep.which_shard(None, slurm(0, 0, 0, 1, 1)) == (1, 1)
    assert sweep.which_shard("3/8", slurm(0, 0, 0, 1, 1)) == (3, 8)
    assert sweep.which_shard(None, {}) == (1, 1)
    with pytest.raises(ConfigError, match="without gaps, got 2 of 3-7; give --shard I/N"):
        sweep.which_shard(None, slurm(3, 3, 7, 1, 2))


@pytest.mark.parametrize("words", ["0/4", "5/4", "1", "1/0", "-1/2", "1/2/3", "a/b", ""])
def test_a_shard_that_does_not_exist_is_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=f"expected --shard I/N with I from 1 to N, got '{words}'"):
        sweep.which_shard(words, {})


def cluster(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run one of the scripts."""
    command = ["bash", str(CLUSTER / script), *words]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("script", [CLUSTER / "slurm_array.sh", CLUSTER / "tpu_pod.sh"], ids=lambda p: p.name)
def test_cluster_scripts_are_bash_and_name_only_options_that_exist(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=120)
    text = script.read_text()
    known = set(re.findall(r"--[a-z]+", sweep.parser().format_help()))
    comment, code = text.split("set -euo pipefail")
    call = re.search(r"-m experiments\.sweep (.*--wait.*)", code)
    assert call
    example = comment[comment.index("_array.sh benchmarks" if "array" in script.name else "_pod.sh benchmarks") :]
    example = example[: example.index("#\n")]
    named = set(re.findall(r"--[a-z]+", call[1])) | set(re.findall(r"--[a-z]+", example))
    assert {"--processes", "--wait", "--streams", "--data", "--weights"} <= named <= known
    done = cluster(script.name)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_a_slurm_task_runs_its_share(tmp_path: Path) -> None:
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/bash\necho "$*"\n')
    fake.chmod(0o755)
    usual = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python", "SLURM_ARRAY_TASK_ID": "7"}
    called = "python -m experiments.sweep methods --seeds 0"
    done = cluster("slurm_array.sh", "methods", "--seeds", "0", **usual)
    assert done.stdout == f"{called} --processes 1 --wait\n"  # the command reads the task's number itself
    done = cluster("slurm_array.sh", "methods", "--seeds", "0", **usual, SHARDS="8")
    assert done.stdout == f"{called} --shard 7/8 --processes 1 --wait\n"


def test_a_run_over_several_nodes_is_started_and_taken_up_again(tmp_path: Path) -> None:
    script, run, log = CLUSTER / "one_run.sh", tmp_path / "run", tmp_path / "log"
    fake = tmp_path / "srun"  # in place of SLURM's: says what it would start on every node
    fake.write_text(f'#!/bin/bash\necho "$*" >> {log}\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NTKCL": "ntkcl"}

    def start(*words: str) -> subprocess.CompletedProcess:
        command = ["bash", str(script), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    words = ["digits", "--run-dir", str(run), "--optimizer.epochs", "1"]
    assert start(*words).returncode == 0
    run.mkdir()
    assert start(*words).returncode == 0
    called = f"--kill-on-bad-exit=1 ntkcl train {' '.join(words)}"
    coordinator = "--hosts.coordinator auto"
    assert log.read_text().splitlines() == [f"{called} {coordinator}", f"{called} --resume {coordinator}"]
    parsed = parse_train("digits", preset("digits"), [*words[1:], "--resume", *coordinator.split()])
    assert (parsed.hosts.coordinator, parsed.resume) == ("auto", True)
    for lacking in ([], ["digits"], ["digits", "--run-dir"]):
        done = start(*lacking)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def pod(fake: str, tmp_path: Path, *, chips: int, **environment: str) -> subprocess.Popen:
    """The pod's script with something in place of the sweep."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\n{fake}")
    python.chmod(0o755)
    hosts = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c"}
    made = os.environ | {"PYTHON": str(python), "CHIPS": str(chips), "LOG": str(tmp_path / "log")} | hosts | environment
    return subprocess.Popen(["bash", CLUSTER / "tpu_pod.sh", "methods", "--out", "shared"], env=made)


def test_cluster_workers_stop_when_told(tmp_path: Path) -> None:
    """Each says how it was called, then waits for the signal."""
    told = 'trap \'echo stopped >> "$LOG"; exit 143\' TERM\necho "$TPU_VISIBLE_CHIPS $*" >> "$LOG"\n'
    started = pod(f"{told}while true; do sleep 0.05; done\n", tmp_path, chips=2)
    log = tmp_path / "log"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert started.poll() is None
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=120) == 143
    *calls, first, second = sorted(log.read_text().splitlines())
    words = "-m experiments.sweep methods --out shared --shard {}/6 --processes 1 --wait"
    assert (calls, first, second) == (
        [f"0 {words.format(3)}", f"1 {words.format(4)}"], "stopped", "stopped",
    )  # fmt: skip


def test_cluster_workers_stop_when_told_while_they_are_started(tmp_path: Path) -> None:
    """The first worker tells the script to stop before the others are there."""
    started = pod(
        "[[ $TPU_VISIBLE_CHIPS = 0 ]] && kill -TERM $PPID\nwhile true; do sleep 0.05; done\n", tmp_path, chips=16
    )
    assert started.wait(timeout=120) == 143


def test_a_host_that_cannot_know_its_number_is_told_what_to_set(tmp_path: Path) -> None:
    lacking = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    command = ["bash", str(CLUSTER / "tpu_pod.sh"), "methods"]
    nowhere = lacking | {"GCE_METADATA_IP": "127.0.0.1:9"}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "set TPU_WORKER_ID (from 0) and TPU_WORKER_HOSTNAMES" in done.stderr
