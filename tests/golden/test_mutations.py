"""The golden replay notices mistakes: each test makes one in a copy of the code and expects the replay to fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPLAY = ("fixture", "evidence", "units")
"""Modules of tests/golden that the replay consists of."""
MUTATIONS = {  # name: (fixture, file, text, replacement)
    "the adapter's scale is 0.11": ("A", "models/adapters.py", "return self.scale * self.up", "return 0.11 * self.up"),
    "the adapter is left out": ("A", "models/streams.py", "else out + adapter(z, key)", "else out"),
    "the adapter reads normalised tokens": (
        "A",
        "models/streams.py",
        "out + adapter(z, key)",
        "out + adapter(mlp, key)",
    ),
    "block 0 gives its prompt rows a residual": (
        "A",
        "models/streams.py",
        "with_prompts(x, blocks[0].mlp(generators[0](start.attended)))",
        "with_prompts(x, generators[0](start.attended) + blocks[0].mlp(generators[0](start.attended)))",
    ),
    "later blocks give their prompt rows no residual": (
        "A",
        "models/streams.py",
        "PatchBlock(z + block.mlp(with_prompts(base, new)), new)",
        "PatchBlock(with_prompts(base, 0 * old) + block.mlp(with_prompts(base, new)), new)",
    ),
    "later blocks add the new prompts as residual": (
        "A",
        "models/streams.py",
        "PatchBlock(z + block.mlp(with_prompts(base, new)), new)",
        "PatchBlock(with_prompts(base, new) + block.mlp(with_prompts(base, new)), new)",
    ),
    "the old prompts go into the MLP": ("A", "models/streams.py", "mlp(with_prompts(base, new))", "mlp(z)"),
    "nothing of the old prompts is carried on": (
        "C",
        "models/streams.py",
        "generator(base) + carry * old",
        "generator(base)",
    ),
    "the last patches are taken for prompts": ("A", "models/streams.py", "x[:, 1 : 1 + m]", "x[:, -m:]"),
    "the LayerNorm's epsilon is 1e-5": ("A", "models/vit.py", "LAYER_NORM_EPS = 1e-6", "LAYER_NORM_EPS = 1e-5"),
    "GELU is the tanh approximation": ("C", "models/vit.py", "approximate=False", "approximate=True"),
    "mean and current sections are swapped": (
        "A",
        "models/ntkcl.py",
        "[jnp.concatenate(views, axis=-1) for",
        "[jnp.concatenate(views[::-1], axis=-1) for",
    ),
    "the pretrained section comes last": (
        "C",
        "models/ntkcl.py",
        "[jnp.concatenate(views, axis=-1) for",
        "[jnp.concatenate([*views[1:], views[0]], axis=-1) for",
    ),
    "the running mean counts one task too many": (
        "A",
        "methods/ntkcl.py",
        "old = task / (task + 1)",
        "old = (task + 1) / (task + 2)",
    ),
    "the running mean moves after the last task": ("C", "methods/ntkcl.py", "if number < self.tasks - 1:", "if True:"),
    "prototypes are computed before the mean moves": (
        "A",
        "methods/ntkcl.py",
        "state = state.updated(buffers=updated_mean(state.frozen.buffers, state.trainable, number))\n"
        "        # After the mean: test images will be seen with the new one (docs/method.md, section 6)\n"
        "        means = class_means(self, *state, views(), offset, int(task.size))",
        "moved = state.updated(buffers=updated_mean(state.frozen.buffers, state.trainable, number))\n"
        "        means = class_means(self, *state, views(), offset, int(task.size))\n"
        "        state = moved if number < self.tasks - 1 else state",
    ),
    "the cosine runs one epoch too long": (
        "A",
        "methods/base.py",
        "math.pi * epoch / epochs",
        "math.pi * epoch / (epochs + 1)",
    ),
    "the cosine starts one epoch late": (
        "A",
        "methods/base.py",
        "math.pi * epoch / epochs",
        "math.pi * (epoch + 1) / epochs",
    ),
    "nothing decays": ("A", "methods/base.py", "add_decayed_weights(self.weight_decay)", "add_decayed_weights(0.0)"),
    "the decay bypasses the momentum": (
        "C",
        "methods/base.py",
        "return optax.chain(*parts)",
        "return optax.chain(*parts[::-1])",
    ),
    "the momentum is Nesterov's": (
        "A",
        "methods/base.py",
        "decay=self.momentum)",
        "decay=self.momentum, nesterov=True)",
    ),
    "every epoch has the first one's rate": (
        "A",
        "training/task_loop.py",
        "recipe.rate(epoch, epochs, task)",
        "recipe.rate(0, epochs, task)",
    ),
    "momentum is forgotten after every step": (
        "A",
        "training/step.py",
        "TrainState(trainable, opt_state, state.step + 1)",
        "TrainState(trainable, jax.tree.map(jnp.zeros_like, opt_state), state.step + 1)",
    ),
    "the weights of the terms are ignored": (
        "A",
        "training/step.py",
        "weights.get(name, 1.0) * terms[name]",
        "terms[name]",
    ),
    "the anchor stays where the stream began": (
        "A",
        "methods/ntkcl.py",
        "prototypes | self.anchored(state.trainable)",
        "prototypes",
    ),
    "L_dis has the other sign": (
        "A",
        "methods/ntkcl_objective.py",
        "positive.any(), value,",
        "positive.any(), -value,",
    ),
    "L_dis has another temperature": (
        "A",
        "methods/ntkcl_objective.py",
        "rows.T / temperature",
        "rows.T / (1.1 * temperature)",
    ),
    "L_orth has the other sign": (
        "A",
        "methods/ntkcl_objective.py",
        "(1.0 - basis @ basis.sum(axis=0))",
        "(basis @ basis.sum(axis=0) - 1.0)",
    ),
    "L_reg pulls the biases too": (
        "A",
        "methods/ntkcl_objective.py",
        'path.endswith("/kernel") or',
        'path.endswith(("/kernel", "bias")) or',
    ),
    "prototypes are normalised": (
        "A",
        "methods/class_means.py",
        "return (total / count[:, None])",
        "return (total / np.linalg.norm(total, axis=1, keepdims=True))",
    ),
    "the head's weights are swapped": (
        "A",
        "config/model.py",
        "weights = (self.mean_weight, self.current_weight)",
        "weights = (self.current_weight, self.mean_weight)",
    ),
    "a larger first task has no old rows": (
        "C",
        "methods/ntkcl.py",
        "jnp.maximum(task.offset + task.size - classes_per_task, 0)",
        "task.offset",
    ),
    "the patch's rows and columns are swapped": (
        "C",
        "weights/layout.py",
        "transpose(2, 3, 1, 0)",
        "transpose(3, 2, 1, 0)",
    ),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One compilation cache for all copies: most of a copy compiles to what another did."""
    return str(tmp_path_factory.mktemp("compiled"))


def replay_copy(folder: Path, fixture: str, cache: str) -> subprocess.CompletedProcess[str]:
    """Run the replay with the code that is in `folder`."""
    command = [sys.executable, "-m", "tests.golden_replay", str(ROOT / "tests" / "golden" / f"{fixture}.npz")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def copy_code(folder: Path) -> None:
    """Copy the package and the replay, nothing else."""
    shutil.copytree(ROOT / "ntkcl_jax", folder / "ntkcl_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("__init__.py", "golden_replay.py", "golden/__init__.py", *map("golden/{}.py".format, REPLAY)):
        (folder / "tests" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / path, folder / "tests" / path)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_code_holds_once_what_is_changed(name: str) -> None:
    _, file, text, replacement = MUTATIONS[name]
    assert text != replacement
    assert (ROOT / "ntkcl_jax" / file).read_text().count(text) == 1, "the mutation must follow the code"


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_replay_fails_when(name: str, tmp_path: Path, cache: str) -> None:
    fixture, file, text, replacement = MUTATIONS[name]
    copy_code(tmp_path)
    path = tmp_path / "ntkcl_jax" / file
    path.write_text(path.read_text().replace(text, replacement))
    result = replay_copy(tmp_path, fixture, cache)
    assert result.returncode == 1, result.stderr[-2000:]
    report = json.loads(result.stdout)  # a crash prints none: the numbers must be what fails
    assert not report["ok"]
    assert not report["missing"]


@pytest.mark.slow
def test_the_replay_passes_on_an_unchanged_copy(tmp_path: Path, cache: str) -> None:
    copy_code(tmp_path)
    result = replay_copy(tmp_path, "C", cache)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
