"""One program from a laptop to a pod: devices and processes change where things are computed, not what."""

import itertools
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from ntkcl_jax.cli import NTKCL
from ntkcl_jax.config import DataConfig
from ntkcl_jax.config.devices import HostsConfig, MeshConfig
from ntkcl_jax.config.methods import METHODS
from ntkcl_jax.data import Batch, train_batches
from ntkcl_jax.data.images import ArrayImages
from ntkcl_jax.data.prepared import PreparedImages
from ntkcl_jax.devices import mesh
from ntkcl_jax.devices.hosts import on_first, together
from ntkcl_jax.errors import ConfigError, NtkclError, RunFolderError
from ntkcl_jax.runs.folder import RunFolder
from tests.support import streams as tiny
from tests.support.on_devices import address, ended, finish, start

ROUNDING = 2e-5
"""Sums in another order, over some thirty steps."""


def assert_close(run: Path, other: Path) -> None:
    """The same accuracies; the same losses and states but for rounding."""
    assert (run / "results.json").read_bytes() == (other / "results.json").read_bytes()
    for line, wanted in zip(tiny.records(run), tiny.records(other), strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            same = value if isinstance(value, str) else pytest.approx(value, rel=ROUNDING, abs=ROUNDING)
            assert line[name] == same, name
    states, wanted = tiny.states(run), tiny.states(other)
    assert states.keys() == wanted.keys()
    for name, value in wanted.items():
        near = max(ROUNDING * np.abs(value).max(), 1e-6)  # biases that ought to be zero are rounding alone
        np.testing.assert_allclose(states[name], value, rtol=ROUNDING, atol=near, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images."""
    return tiny.folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one device."""
    path = tmp_path_factory.mktemp("alone") / "run"
    assert NTKCL.run(tiny.words(folder, path, "--quiet")) == 0
    return path


def hosts(words: list[str], die_at: int = 0) -> list[subprocess.Popen]:
    """Start two processes with four devices each; the second one may die."""
    shared = [*words, "--hosts.coordinator", address(), "--hosts.processes", "2", "--hosts.process"]
    return [start(4, *shared, str(i), die_at=die_at if i else 0) for i in range(2)]


def test_a_run_on_data_4_x_model_2_devices_learns_what_one_device_learns_and_goes_on_there(
    folder: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    finish(start(8, *tiny.words(folder, run, "--mesh.model", "2", "--quiet")))
    used = json.loads((run / "config.json").read_text())["devices"]
    assert used == {"data": 4, "model": 2, "kind": "cpu", "processes": 1}
    assert_close(run, alone)
    for state in ("task1/after", "task2/before", "task2/after"):  # as if it had been killed in task 1
        shutil.rmtree(run / "checkpoints" / "ntkcl" / "seed0" / state)
    capsys.readouterr()
    assert NTKCL.run(tiny.words(folder, run, "--resume")) == 0
    said = capsys.readouterr().err
    assert 'warning: since this run was started, devices were {"data": 4, "model": 2' in said, said
    assert_close(run, alone)


@pytest.mark.slow
def test_two_processes_with_four_devices_each_learn_what_one_device_learns(
    folder: Path, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finish(*hosts(tiny.words(folder, run)))
    assert json.loads((run / "config.json").read_text())["devices"]["processes"] == 2
    assert_close(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "model"), [(2, 1), (8, 1), (2, 4)])
def test_every_method_learns_the_same_on_other_meshes(folder: Path, tmp_path: Path, data: int, model: int) -> None:
    # Bases of these are singular vectors, of which rounding turns those with nearly equal values
    others = [method for method in METHODS if method not in ("inflora", "loranpac")]
    every = ("--methods", *others, "--quiet", "--readout.widths", "8", "8", "16", "8")
    assert NTKCL.run(tiny.words(folder, tmp_path / "one", *every)) == 0
    shape = ("--mesh.data", str(data), "--mesh.model", str(model))
    finish(start(8, *tiny.words(folder, tmp_path / "many", *every, *shape)))
    assert_close(tmp_path / "many", tmp_path / "one")


@pytest.mark.slow
def test_a_run_whose_second_host_dies_stops_and_is_taken_up_again_to_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    finish(*hosts(tiny.words(folder, undisturbed)))
    left, dead = hosts(tiny.words(folder, run), die_at=6)
    said, _ = ended(left, dead)
    assert (left.returncode, dead.returncode) == (2, -signal.SIGKILL), said
    assert re.search(r"^ntkcl: process 0 has lost another process of the run \(.+\); .* --resume$", said, re.MULTILINE)
    finish(*hosts(tiny.words(folder, run, "--resume")))
    assert tiny.same_states(run, undisturbed)
    assert tiny.records(run) == tiny.records(undisturbed)


def images(count: int) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), np.uint8)
    return ArrayImages(pixels, np.arange(count), "test_images")


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("cuts", [(0, 4, 8), (0, 2, 4, 6, 8), (0, 3, 8)])
def test_the_hosts_parts_of_a_batch_are_the_padded_batch(on_device: bool, cuts: tuple[int, ...]) -> None:
    held, places = images(11), np.arange(11)

    def batches(rows: slice | None) -> list[Batch]:
        data = DataConfig(workers=1)
        made = train_batches(
            held,
            places,
            places,
            data=data,
            size=8,
            batch_size=6,
            seed=1,
            task=0,
            epoch=0,
            on_device=on_device,
            rows=rows,
        )
        return list(made)

    parts = [batches(slice(*cut)) for cut in itertools.pairwise(cuts)]
    for whole, *shares in zip(batches(None), *parts, strict=True):
        for name, value in whole._asdict().items():
            shared = [getattr(share, name) for share in shares]
            if value is None:
                assert shared == [None] * len(shares)
                continue
            joined = np.concatenate(shared)
            assert len(joined) == 8
            np.testing.assert_array_equal(joined[:6], value)
            assert name != "valid" or not joined[6:].any()


def test_the_hosts_parts_of_an_evaluation_batch_are_the_padded_batch() -> None:
    prepared, places = PreparedImages(images(7), DataConfig(workers=1, resize=8), 8), np.arange(7)
    parts = [list(prepared.batches(places, places, 5, rows)) for rows in (slice(0, 4), slice(4, 8))]
    for whole, *shares in zip(prepared.batches(places, places, 5), *parts, strict=True):
        for name in ("images", "labels", "valid"):
            joined = np.concatenate([getattr(share, name) for share in shares])
            np.testing.assert_array_equal(joined[:5], getattr(whole, name))
            assert name != "valid" or not joined[5:].any()


@pytest.mark.parametrize(("devices", "batch", "rows"), [(1, 16, 16), (8, 16, 16), (8, 20, 24), (32, 16, 32)])
def test_a_batch_is_padded_to_equal_shares(devices: int, batch: int, rows: int) -> None:
    grid = Mesh(np.array([jax.devices()[0]] * devices, object).reshape(devices, 1), (mesh.DATA, mesh.MODEL))
    assert mesh.padded_rows(grid, batch) == rows


@pytest.mark.parametrize(
    ("parts", "shape", "spec"),
    [
        (2, (768, 2304), PartitionSpec(None, "model")),
        (2, (3072, 768), PartitionSpec("model", None)),
        (2, (768, 768), PartitionSpec(None, "model")),
        (2, (768, 2305), PartitionSpec("model", None)),
        (5, (768, 2304), PartitionSpec()),
        (2, (100, 100), PartitionSpec()),
        (2, (1, 197, 768), PartitionSpec()),
        (1, (768, 2304), PartitionSpec()),
    ],
)
def test_large_matrices_are_split_along_their_longest_axis(
    parts: int, shape: tuple[int, ...], spec: PartitionSpec
) -> None:
    assert mesh.split(parts, shape) == spec


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (MeshConfig(data=3), "mesh.data=3 and mesh.model=1 need 3 devices, there are 1"),
        (MeshConfig(model=2), "mesh.data=0 and mesh.model=2 need 2 devices, there are 1"),
    ],
)
def test_a_mesh_larger_than_the_machine_is_refused(options: MeshConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mesh.make_mesh(options)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"coordinator": "host"}, "auto or HOST:PORT, got 'host'"),
        ({"coordinator": "host:99999", "processes": 2, "process": 0}, "auto or HOST:PORT"),
        ({"coordinator": "host:80"}, "hosts.processes must be at least 1"),
        ({"coordinator": "host:80", "processes": 2}, "hosts.process must be from 0 to 1, got -1"),
        ({"processes": 2, "process": 0}, "need hosts.coordinator=HOST:PORT"),
    ],
)
def test_half_an_address_is_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HostsConfig(**values)


def test_where_nothing_tells_of_other_hosts_that_is_said() -> None:
    with pytest.raises(NtkclError, match=r"=auto: the run's processes didn't meet"), together(HostsConfig("auto")):
        pass


class SecondHost:
    """What `hosts` sees of JAX in the second of two processes, where the first one says `told`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: int) -> None:
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda mine: told)


def test_a_run_folder_that_a_host_does_not_see_is_refused_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SecondHost(monkeypatch, told=0)
    with (
        pytest.raises(RunFolderError, match=r"holds no config\.json on host .*; choose a --run-dir on storage"),
        RunFolder(tmp_path / "run").writing({}, resume=False),
    ):
        pass
    assert not (tmp_path / "run").exists()  # the second host writes nothing


def test_the_first_hosts_failure_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise RunFolderError("the disk is full")

    SecondHost(monkeypatch, told=1)
    with pytest.raises(NtkclError, match="process 0 of the run stopped; see its message"):
        on_first(failing)  # not called here
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(RunFolderError, match="the disk is full"):
        on_first(failing)
