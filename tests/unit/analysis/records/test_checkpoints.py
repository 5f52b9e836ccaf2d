"""A run read for analysis: which function a checkpoint is, of which parameters, on which images."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from analysis import empirical_ntk
from analysis.kernels.functions import group_leaves
from analysis.records.checkpoints import Records, default_groups, open_run, tree_sha256
from ntkcl_jax.methods.ntkcl import NTKCL
from ntkcl_jax.models.ntkcl import Network
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.training.run import train
from ntkcl_jax.weights import save_backbone
from tests.support import streams as tiny
from tests.support.refusals import refused

SEEDS = (0, 2)


TRACED: list[tuple] = []
"""Every program that `evaluate` was traced for in this module."""


@jax.jit
def evaluate(apply_fn: Partial, params: dict, x: jax.Array) -> jax.Array:
    TRACED.append((apply_fn.func.output, x.shape))
    return apply_fn(params, x)


direct = jax.jit(NTKCL.apply_fn, static_argnums=(0, 4))
jacobian = jax.jit(jax.jacrev(lambda params, apply_fn, x: apply_fn(params, x)))


def kernel(apply_fn: Partial, params: dict, x: np.ndarray) -> np.ndarray:
    """Theta (n, n, k, k) by its definition."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(jacobian(params, apply_fn, x))]
    rows = np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=2)
    return np.einsum("icp,jdp->ijcd", rows, rows)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    weights = folder / "w.safetensors"  # a random backbone would be drawn again for every task that is read
    network = Network(tiny.config().model, task_classes=3, classes=7)
    save_backbone(jax.device_get(network.init(jax.random.key(5))[1].backbone), tiny.BACKBONE, weights)
    config = tiny.config(weights=str(weights), seeds=SEEDS, optimizer__epochs=1, compute__checkpoint_every_steps=1000)
    train(config, folder / "run", arrays=tiny.arrays(), quiet=True)
    return folder / "run"


@pytest.fixture(scope="module")
def records(path: Path) -> Records:
    return open_run(path, arrays=tiny.arrays())


@pytest.fixture(scope="module")
def images(records: Records) -> np.ndarray:
    return records.probes(0, 2, record=False).images


def running(path: Path, tmp_path: Path, tasks_done: int) -> Records:
    """The run as it was while seed 0 learnt its task number `tasks_done`."""
    run = shutil.copytree(path, tmp_path / "running")
    for task in range(tasks_done, 3):
        checkpoint.remove(run / f"checkpoints/ntkcl/seed0/task{task}/after")
    return open_run(run, arrays=tiny.arrays())


def test_checkpoints_are_counted_from_before_task_0(records: Records) -> None:
    assert records.checkpoints(0) == records.checkpoints(2) == (0, 1, 2, 3)
    assert (records.seeds, records.tasks(0)) == (SEEDS, (0, 1, 2))


@pytest.mark.parametrize("c", [0, 1, 3])
@pytest.mark.parametrize("output", ["proxy", "features"])
def test_proxy_and_features_are_those_of_the_checkpoint(
    records: Records, images: np.ndarray, c: int, output: str
) -> None:
    task = records.run.task(max(c - 1, 0), 0)
    state = (task.after, task.frozen) if c else (task.before, task.frozen_before)
    values = np.asarray(evaluate(*records.function(0, c, output), images))
    np.testing.assert_allclose(values, direct(task.learner, *state, images, output), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", [1, 2, 3])
def test_scores_of_the_classes_seen_are_those_of_the_checkpoint_itself(
    records: Records, images: np.ndarray, c: int
) -> None:
    task = records.run.task(c - 1, 0)
    seen = task.labels.stop
    scores = np.asarray(evaluate(*records.function(0, c), images))
    own = np.asarray(direct(task.learner, task.after, task.frozen, images, "scores"))
    assert scores.shape == own.shape == (6, 7)
    np.testing.assert_allclose(scores[:, :seen], own[:, :seen], rtol=1e-5, atol=1e-6)
    assert len(set(own[:, seen:].ravel().tolist())) == (
        seen < 7
    )  # the checkpoint's own head has nothing to say of them
    assert len(set(scores[:, seen:].ravel().tolist())) == 6 * (7 - seen)


def test_the_kernel_of_the_checkpoints_own_classifier_is_a_part_of_the_kernel_of_the_scores(
    records: Records, images: np.ndarray
) -> None:
    apply_fn, params = records.function(0, 1)
    theta = kernel(apply_fn, params, images[:2])
    keywords = apply_fn.keywords
    own = Partial(
        apply_fn.func,
        frozen=keywords["frozen"]._replace(buffers=records.run.task(0, 0).frozen.buffers),
        rest=keywords["rest"],
    )
    theirs = kernel(own, params, images[:2])
    np.testing.assert_allclose(theta[:, :, :3, :3], theirs[:, :, :3, :3], rtol=1e-6)
    assert not theirs[:, :, 3:].any()
    assert not theirs[:, :, :, 3:].any()
    assert all(theta[0, 0, c, c] > 0 for c in range(7))


def test_the_scores_of_every_class_have_a_kernel_before_the_first_task(records: Records, images: np.ndarray) -> None:
    theta = kernel(*records.function(0, 0), images[:2])
    assert all(theta[i, i, c, c] > 0 for i in range(2) for c in range(7))


def test_scores_and_features_are_not_differentiated_by_a_head_that_they_do_not_have(records: Records) -> None:
    for output in ("scores", "features"):
        apply_fn, params = records.function(0, 2, output)
        assert not any(path.startswith("proxy/") for path in params)
        assert set(apply_fn.keywords["rest"]) == {"proxy/kernel", "proxy/scale"}
    apply_fn, params = records.function(0, 2, "proxy")
    assert {"proxy/kernel", "proxy/scale"} <= set(params)
    assert apply_fn.keywords["rest"] == {}


def test_every_parameter_is_there_when_asked_for_whatever_the_output(records: Records, images: np.ndarray) -> None:
    found = {output: records.function(0, 2, output, every=True) for output in ("scores", "proxy", "features")}
    assert len({tree_sha256(params) for _, params in found.values()}) == 1
    scores, params = found["scores"]
    assert {"proxy/kernel", "proxy/scale"} <= set(params) and not scores.keywords["rest"]
    alone = jax.jit(lambda fn, params, x: fn(params, x))
    np.testing.assert_array_equal(alone(scores, params, images), alone(*records.function(0, 2), images))


@pytest.mark.slow
def test_scores_and_proxy_logits_have_a_kernel_between_them(records: Records, images: np.ndarray) -> None:
    scores, params = records.function(0, 2, "scores", every=True)
    proxy, its = records.function(0, 2, "proxy", every=True)
    theta = empirical_ntk(scores, params, images[:2], apply_fn2=proxy)
    # By definition; the scores have no derivative by the proxy head, whose rows are left out.
    plain, shared = records.function(0, 2)
    first, second = jacobian(shared, plain, images[:2]), jacobian(its, proxy, images[:2])
    rows = [
        np.concatenate(
            [np.asarray(tree[path], np.float64).reshape(*tree[path].shape[:2], -1) for path in shared], axis=2
        )
        for tree in (first, second)
    ]
    wanted = np.einsum("icp,jdp->ijcd", *rows)
    assert theta.shape == (2, 2, 7, 3)
    np.testing.assert_allclose(theta, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("output", ["scores", "proxy", "features"])
def test_nothing_is_traced_again_from_checkpoint_to_checkpoint_and_seed_to_seed(
    records: Records, images: np.ndarray, output: str
) -> None:
    checkpoints = [(seed, c) for seed in SEEDS for c in records.checkpoints(seed)]
    results = {np.asarray(evaluate(*records.function(*at, output), images)).tobytes() for at in checkpoints}
    assert len(results) == len(checkpoints) == 8
    assert TRACED.count((output, images.shape)) == 1


def test_all_arrays_of_the_function_are_its_leaves(records: Records, images: np.ndarray) -> None:
    apply_fn, params = records.function(0, 1)
    program = jax.make_jaxpr(lambda fn, p: fn(p, jnp.asarray(images)))(apply_fn, params)
    sizes = sorted(np.size(x) for x in program.consts)
    assert sizes == [] or sizes[-1] <= images.size


def test_float64_is_the_same_function_to_rounding_and_not_beyond(records: Records, images: np.ndarray) -> None:
    single = np.asarray(evaluate(*records.function(0, 2, "features"), images))
    apply_fn, params = records.function(0, 2, "features", dtype="float64")
    with jax.enable_x64(True):
        double = np.asarray(jax.jit(lambda fn, p, x: fn(p, x))(apply_fn, params, images.astype(np.float64)))
    assert double.dtype == np.float64
    difference = np.abs(single - double).max() / np.abs(double).max()
    assert 1e-9 < difference < 1e-5


@pytest.mark.parametrize("by", ["part", "layer"])
@pytest.mark.parametrize("output", ["scores", "proxy"])
def test_every_parameter_has_one_default_group(records: Records, by: str, output: str) -> None:
    params = records.function(0, 1, output)[1]
    names = [name for name, _ in group_leaves(params, default_groups(list(params), by))]
    streams = {"part": ["channel", "patch"], "layer": ["layer0", "layer1"]}[by]
    assert names == [*streams, "fusion", *(["head"] if output == "proxy" else [])]


def test_layers_are_told_apart_from_their_tenth(records: Records) -> None:
    paths = [f"current/{stream}/{i}/x" for stream in ("adapters", "prompts") for i in range(12)]
    groups = group_leaves(dict.fromkeys(paths, 0.0), default_groups(paths, by="layer"))
    assert [name for name, _ in groups] == [f"layer{i}" for i in range(12)]
    assert all(len(leaves) == 2 for _, leaves in groups)


def test_the_hash_of_a_checkpoint_is_its_own(records: Records) -> None:
    hashes = {
        tree_sha256(records.function(seed, c, output))
        for seed in SEEDS
        for c in range(4)
        for output in ("scores", "proxy")
    }
    assert len(hashes) == 16
    assert tree_sha256(records.function(0, 0)) in hashes


def test_probes_are_images_of_the_tasks_with_their_labels_and_are_recorded(records: Records, path: Path) -> None:
    probes = records.probes(2, 4, side="train", tasks=(2, 0))
    for task in (0, 2):
        recorded, rows = records.run.task(task, 2), probes.rows(task)
        np.testing.assert_array_equal(probes.images[rows], recorded.train_images[probes.positions[rows]])
        np.testing.assert_array_equal(probes.labels[rows], recorded.train_labels[probes.positions[rows]])
        assert set(probes.labels[rows].tolist()) == set(recorded.labels)
    assert sorted(p.name for p in (path / "analysis/probes/seed2").iterdir()) == [
        "train-task0-4.json",
        "train-task2-4.json",
    ]
    assert records.probes(0, 3, record=False).tasks == (0, 1, 2)
    assert not (path / "analysis/probes/seed0").exists()


def test_a_running_run_has_its_finished_tasks(path: Path, tmp_path: Path, images: np.ndarray) -> None:
    records = running(path, tmp_path, tasks_done=2)
    assert records.checkpoints(0) == (0, 1, 2)
    assert records.checkpoints(2) == (0, 1, 2, 3)
    assert records.probes(0, 2).tasks == (0, 1)
    assert jax.eval_shape(*records.function(0, 0), images).shape == (6, 5)
    refused(lambda: records.function(0, 3), "checkpoints 0 to 2 of seed 0, as 2 of 3", "got checkpoint 3: name one of")
    refused(lambda: records.probes(0, 2, tasks=[2]), "tasks 0 to 1 of seed 0", "got task 2")


def test_a_run_without_a_finished_task_has_no_checkpoint_yet(path: Path, tmp_path: Path) -> None:
    records = running(path, tmp_path, tasks_done=0)
    assert records.checkpoints(0) == ()
    refused(lambda: records.function(0, 0), "a checkpoint of seed 0, as 0 of 3", "got checkpoint 0: train first")
    refused(lambda: records.probes(0, 2), "a finished task of seed 0", "there is none; train first")
    refused(lambda: records.task(0, 0), "got task 0: train first")


def test_what_is_not_there_is_one_line(records: Records, tmp_path: Path, path: Path) -> None:
    refused(lambda: records.function(0, 4), "checkpoints 0 to 3 of seed 0", "got checkpoint 4")
    refused(lambda: records.function(0, -1), "got checkpoint -1")
    refused(lambda: records.function(1, 0), "one of the seeds 0, 2", "got 1; name one of them")
    refused(lambda: records.function(0, 0, "logits"), "outputs scores, proxy, features; got 'logits'")
    refused(lambda: records.probes(0, 9), "at most 8 probes a task, as many as task 1 has test images; got 9")
    refused(lambda: open_run(tmp_path, arrays=tiny.arrays()), "is no run folder")
    refused(lambda: open_run(path, arrays=tiny.arrays(classes=6)), "was started with other settings: data.")
    refused(lambda: open_run(path), "needs arrays=Arrays")


def test_a_half_written_or_damaged_checkpoint_is_one_line(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path, tmp_path / "copy")
    (run / "checkpoints/ntkcl/seed0/task2/after").rename(run / "checkpoints/ntkcl/seed0/task2/after.partial")
    arrays = run / "checkpoints/ntkcl/seed0/task1/after/arrays"
    file = next(p for p in arrays.rglob("*") if p.is_file() and p.stat().st_size > 1000)
    file.write_bytes(file.read_bytes()[:-1])
    records = open_run(run, arrays=tiny.arrays())
    assert records.checkpoints(0) == (0, 1, 2)
    refused(lambda: records.function(0, 2), "task1/after is damaged", "restore it from a copy")
