"""Cluster scripts: they call the sweep with options that it has, give each worker its share, and stop when told."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import experiments
from experiments.sweep import command as sweep
from ntkcl_jax import preset
from ntkcl_jax.terminal.options import parse_train

CLUSTER = Path(experiments.__file__).parent / "cluster"


def cluster(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run one of the scripts."""
    command = ["bash", str(CLUSTER / script), *words]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=20, check=False
    )


@pytest.mark.parametrize("script", [CLUSTER / "slurm_array.sh", CLUSTER / "tpu_pod.sh"], ids=lambda p: p.name)
def test_cluster_scripts_are_bash_and_name_only_options_that_exist(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
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
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

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
    assert started.wait(timeout=20) == 143
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
    assert started.wait(timeout=20) == 143


def test_a_host_that_cannot_know_its_number_is_told_what_to_set(tmp_path: Path) -> None:
    lacking = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
    command = ["bash", str(CLUSTER / "tpu_pod.sh"), "methods"]
    nowhere = lacking | {"GCE_METADATA_IP": "127.0.0.1:9"}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "set TPU_WORKER_ID (from 0) and TPU_WORKER_HOSTNAMES" in done.stderr
