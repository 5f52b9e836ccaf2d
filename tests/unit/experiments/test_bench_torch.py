"""The PyTorch side of the benchmark computes what this project computes, and its command keeps to its contract.

Torch is no requirement, so the slow tests compare numbers only where it is installed; elsewhere they check that its
absence is told. `python -m pytest -m slow tests/unit/experiments/test_bench_torch.py` with torch at hand
compares.
"""

import functools
import importlib.util
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import torch_peer
from ntkcl_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.class_means import class_means
from ntkcl_jax.methods.ntkcl import ANCHOR, BASIS, MEAN, NTKCL
from ntkcl_jax.methods.ntkcl_objective import TERMS, OldRows, orthogonality_basis
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.training.step import StepResult, TrainState, train_step
from ntkcl_jax.training.task_loop import begun
from tests.support import networks as tiny

TORCH = importlib.util.find_spec("torch") is not None
OBJECTIVE = ObjectiveConfig(lambda_dis=0.2, lambda_orth=0.1, lambda_reg=0.1, orthogonality_rank=3)
OPTIMIZER = OptimizerConfig(learning_rate=0.05, batch_size=6, weight_decay=0.01)
RATE = 0.05
CONTRACT = ("name", "ours", "other", "ratio", "unit", "device", "versions", "command", "commit")
MODELS = {
    "two sections": replace(tiny.MODEL, adapter_dropout=0.0, fusion_dropout=0.0),
    "three sections": replace(tiny.WET, adapter_dropout=0.0, fusion_dropout=0.0),
}


class AllOld(NTKCL):
    """Every step takes all old prototypes in their order, and there is no dropout: nothing is left to chance."""

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        labels = jnp.arange(self.classes)
        old = OldRows(frozen.buffers["prototypes/kernel"], labels, labels < task.offset)
        terms, _, logits = self.terms_of(trainable, frozen, task, batch, old, None)
        return terms, logits


class Ours:
    """One task on a tiny network, all its numbers at random: task 0, or three classes after two old ones."""

    def __init__(self, config: ModelConfig, offset: int) -> None:
        self.learner = AllOld(
            config.backbone, tasks=2, classes=5, task_classes=3, model=config, objective=OBJECTIVE,
            batch_size=OPTIMIZER.batch_size, classes_per_task=3,
        )  # fmt: skip
        trainable, frozen = tiny.randomised(self.learner.network)
        rows = np.array(frozen.buffers["prototypes/kernel"])
        rows[offset + (offset > 0) :] = 0  # at least one row of the task itself is still zero
        self.rows, self.offset, self.seen = rows, offset, offset + 3
        basis = orthogonality_basis(rows, offset, self.seen, OBJECTIVE.orthogonality_rank, "reference")
        anchor = self.learner.anchored({path: value + 0.1 * jnp.sin(value) for path, value in trainable.items()})
        buffers = {"prototypes/kernel": jnp.asarray(rows), BASIS: jnp.asarray(basis)} | anchor
        self.state = LearnerState(trainable, frozen).updated(buffers=buffers)
        classes = jnp.arange(5)
        self.task = Task(jnp.int32(offset > 0), (classes >= offset) & (classes < self.seen))
        labels = np.array([0, 1, 2, 0, 1, 1], np.int32) + offset
        self.batch = Batch(tiny.images(6, config.backbone), labels, np.ones(6, bool))

    @property
    def anchor(self) -> Tree:
        """What L_reg pulls to, under the names of what it pulls."""
        buffers = self.state.frozen.buffers
        return {path.removeprefix(ANCHOR): value for path, value in buffers.items() if path.startswith(ANCHOR)}

    @functools.cached_property
    def steps(self) -> list[tuple[np.ndarray, Tree, Tree]]:
        """Of two updates: the loss terms, the gradient, and the trainable tree after it."""
        recipe = self.learner.recipe_of(RunConfig(optimizer=OPTIMIZER)).compiled

        def one(state: TrainState) -> tuple[TrainState, StepResult]:
            fixed = (self.state.frozen, self.task, self.batch, jnp.float32(RATE), jax.random.key(0))
            return train_step(self.learner, recipe, state, *fixed)

        compiled = jax.jit(one, compiler_options=tiny.QUICKLY)
        state, out = begun(recipe, self.state.trainable, None)[1], []
        for _ in range(2):
            before, momentum = state.trainable, state.opt_state[1].trace
            state, result = compiled(state)
            gradient = {
                path: value - OPTIMIZER.momentum * momentum[path] - OPTIMIZER.weight_decay * before[path]
                for path, value in state.opt_state[1].trace.items()
            }
            out.append((np.asarray(result.terms[: len(TERMS)]), gradient, state.trainable))
        return out


ours_at = functools.cache(Ours)


def peer(ours: Ours, fused: bool, **how: Any) -> Any:
    """The same numbers in PyTorch."""
    import torch

    from experiments.bench.torch_net import PeerNetwork, peer_arrays
    from experiments.bench.torch_step import Program, Task

    config, (trainable, frozen) = ours.learner.model, ours.state
    mean = {path: value for path, value in frozen.buffers.items() if path.startswith(MEAN)}
    layout = {"fused": fused, "patch_size": config.backbone.patch_size}
    net = PeerNetwork(config, task_classes=3, seen=ours.seen, fused=fused)
    state = peer_arrays({**trainable, **frozen.backbone, **mean}, **layout)
    net.load_state_dict({**state, "prototypes": torch.from_numpy(ours.rows[: ours.seen].copy())})
    images = torch.from_numpy(np.asarray(ours.batch.images).transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(np.asarray(ours.batch.labels)).long()
    task = Task(images, labels, ours.offset, ours.offset, anchor=peer_arrays(ours.anchor, **layout))
    return Program(net, task, OBJECTIVE, OPTIMIZER, RATE, **how), layout


def assert_same(theirs: dict[str, Any], ours: dict[str, Any], within: float) -> None:
    """Every array equals ours up to a share of its largest entry."""
    assert set(theirs) == set(ours)
    for name, value in ours.items():
        wanted = value.detach().numpy()
        np.testing.assert_allclose(
            theirs[name].detach().float().numpy(), wanted, rtol=0, atol=within * max(1e-2, np.abs(wanted).max()),
            err_msg=name,
        )  # fmt: skip


def absence_is_told() -> None:
    with pytest.raises(ConfigError, match=r"expected torch, .* and found none; pip install torch"):
        torch_peer.require_torch()


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True], ids=["released", "best"])
@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("model", MODELS)
def test_loss_terms_gradients_and_two_updates_are_those_of_torch(model: str, offset: int, fused: bool) -> None:
    if not TORCH:
        return absence_is_told()
    from experiments.bench.torch_net import peer_arrays

    ours = ours_at(MODELS[model], offset)
    program, layout = peer(ours, fused)
    for terms, gradient, tree in ours.steps:
        np.testing.assert_allclose(program.training_step().numpy(), terms, rtol=1e-5, atol=2e-6)
        gradients = {name: value.grad for name, value in program.trainable.items()}
        assert_same(gradients, peer_arrays(gradient, **layout), within=2e-5)
        assert_same(program.trainable, peer_arrays(tree, **layout), within=2e-6)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True], ids=["released", "best"])
def test_scores_and_class_sums_are_those_of_torch(fused: bool) -> None:
    if not TORCH:
        return absence_is_told()
    ours = ours_at(MODELS["three sections"], 2)
    program, _ = peer(ours, fused)
    scores = np.asarray(tiny.scores(ours.learner.network, *ours.state, jnp.asarray(ours.batch.images))[0])
    program.evaluation_step()
    at = np.flatnonzero(np.asarray(ours.state.frozen.buffers["prototypes/seen"]))  # ours gives unseen classes the floor
    scale = float(ours.state.frozen.buffers["prototypes/scale"][0])
    np.testing.assert_allclose(scale * program.scores().numpy(force=True)[:, at], scores[:, at], rtol=0, atol=1e-5)
    means = class_means(ours.learner, *ours.state, [ours.batch], ours.offset, 3)
    counts = np.bincount(ours.batch.labels - ours.offset)[:, None]
    np.testing.assert_allclose(program.prototype_step().numpy() / counts, means, rtol=0, atol=1e-5)
    return None


@pytest.mark.slow
def test_autocast_is_near_float32_and_dropout_is_on_in_training() -> None:
    if not TORCH:
        return absence_is_told()
    ours = ours_at(MODELS["two sections"], 2)
    wanted = ours.steps[0][0]
    half = peer(ours, True, bfloat16=True)[0].backward().numpy()
    assert 1e-5 < np.abs(half / wanted - 1).max() < 0.05
    wet = Ours(replace(MODELS["two sections"], adapter_dropout=0.5, fusion_dropout=0.5), 2)
    program, _ = peer(wet, True)
    assert len({float(program.training_step()[2]) for _ in range(2)}) == 2
    program.net.eval()
    assert float(program.backward()[2]) == float(program.backward()[2])
    return None


def test_without_torch_the_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert torch_peer.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {torch_peer.MISSING}\n"
    assert not (tmp_path / "out").exists()


class FakeWorker:
    """Ours takes 2 s a call, the other 4 and 6 in turns; compiling fails."""

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["way"] == "compiled":
            raise torch_peer.WayError("ended with code 1: no compiler")
        self.times = itertools.cycle([2.0] if settings["way"] == "ours" else [6.0, 4.0, 4.0])
        self.ready = {"first_s": 9.0, "device": "cpu"}

    def ask(self, word: str) -> dict[str, Any]:
        memory = {"device_peak_mb": None, "peak_mb": 1.0, "steps_peak_mb": 1.0}
        return memory if word == "memory" else {"seconds": next(self.times)}

    def close(self) -> None:
        pass


def test_each_pair_becomes_a_file_of_the_contract_and_a_failing_way_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch_peer, "Worker", FakeWorker)
    monkeypatch.setattr(torch_peer, "PAUSE_S", 0)
    monkeypatch.setattr(torch_peer, "require_torch", lambda: None)
    monkeypatch.setattr(torch_peer.metadata, "version", lambda name: "0")
    words = [
        "--size",
        "nano",
        "--batch",
        "8",
        "--repeats",
        "3",
        "--ways",
        "released",
        "eager",
        "compiled",
        "graphs",
        "--out",
    ]
    assert torch_peer.main([*words, str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("not measured, ended with code 1: no compiler") == 2
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    names = ["float32-vs-torch-released-float32", "bfloat16-vs-torch-released-float32",
             "float32-vs-torch-eager-float32", "bfloat16-vs-torch-eager-bfloat16"]  # fmt: skip
    assert set(found) == {f"training_step-nano-28px-b8-{name}-cpu.json" for name in names}
    for record in found.values():
        assert set(CONTRACT) <= set(record)
        assert (record["ours"], record["other"], record["ratio"], record["unit"]) == (4.0, 2.0, 2.0, "images/s")
        assert record["name"] in printed


def test_a_process_that_fails_ends_with_its_reason() -> None:
    settings = {"device": "cpu", "threads": 1, "batch": 2, "way": "ours", "model": {"side": 3}}
    with pytest.raises(torch_peer.WayError, match=r"ended with code 1: .*ModelConfig has no field side"):
        torch_peer.Worker(settings)
