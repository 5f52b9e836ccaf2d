"""A fixture of the authors' release: the file, the network that it describes, and the error of each group."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ntkcl_jax.config import (
    BackboneConfig,
    ComputeConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from ntkcl_jax.data import Batch, Scenario
from ntkcl_jax.methods.base import LearnerState, Task
from ntkcl_jax.methods.ntkcl import BASIS, NTKCL
from ntkcl_jax.methods.ntkcl_objective import OldRows
from ntkcl_jax.models.adapters import Key
from ntkcl_jax.models.functional import Frozen, Tree
from ntkcl_jax.seeds import stream_seed
from ntkcl_jax.weights import from_timm

TOLERANCES = {  # group: (absolute, relative to the entry)
    "forward/tokens": (5e-5, 0),
    "forward/adapters": (5e-5, 0),
    "forward/prompts": (5e-5, 0),
    "forward/features": (1e-5, 0),
    "step/features": (1e-5, 0),
    "step/logits": (1e-5, 0),
    "step/loss": (1e-5, 1e-5),
    "step/feature_gradients": (5e-6, 1e-4),
    "step/gradients": (5e-5, 1e-5),
    "step/learning_rate": (1e-12, 0),
    "step/parameters": (1e-5, 0),
    "task/running_mean": (1e-5, 0),
    "task/prototypes": (1e-5, 0),
    "test/features": (1e-5, 0),
    "test/scores": (5e-6, 0),
    "test/predictions": (0, 0),
    "task/old_rows": (0, 0),
    "task/orthogonality_basis": (1e-4, 0),
    "unit/dissimilarity": (1e-5, 1e-5),
    "unit/orthogonality": (5e-5, 1e-5),
    "unit/schedule": (1e-12, 0),
    "unit/class_order": (0, 0),
    "unit/mean_ratios": (1e-12, 0),
}
# Each function runs a handful of times: compiling quickly counts, running quickly doesn't.
QUICKLY = {"xla_backend_optimization_level": 0}
OPTIONAL = {  # group: prefix of the keys that a fixture may lack
    "unit/dissimilarity": "unit/mi/",
    "unit/orthogonality": "unit/orth_fullrank/",
    "unit/schedule": "unit/lr_cosine_T20_lr0.025",
    "unit/class_order": "unit/class_order_100_seed0to4",
    "unit/mean_ratios": "unit/update_ratios",
}


STEP_KEYS = "recorded/step_keys"
"""Buffer with the key that the loss gets in each step of the task, (steps, 2)."""
OLD_LABELS = "recorded/old_labels"
"""Buffer with the classes of the old prototypes that the release drew in each step, (steps, batch); -1: none."""


@dataclass(frozen=True)
class Replayed(NTKCL):
    """NTK-CL without dropout that looks up which old prototypes a step draws, by the step's key."""

    def loss(
        self, trainable: Tree, frozen: Frozen, task: Task, batch: Batch, key: Key
    ) -> tuple[dict[str, Array], Float[Array, "b c"]]:
        """All terms of a batch, as the release computed them."""
        terms, _, logits = self.terms_of(trainable, frozen, task, batch, self.recorded_rows(frozen, key), None)
        return terms, logits

    def recorded_rows(self, frozen: Frozen, key: Key) -> OldRows:
        """Old prototypes of the step that has this key; none if no step has it."""
        same = (frozen.buffers[STEP_KEYS] == jax.random.key_data(key)).all(axis=1)
        labels = jnp.where(same.any(), frozen.buffers[OLD_LABELS][jnp.argmax(same)], -1)
        return OldRows(frozen.buffers["prototypes/kernel"][labels], labels, labels >= 0)


class FixtureError(Exception):
    """The file isn't a fixture; the message is one line."""


class Arrays(dict[str, np.ndarray]):
    """Arrays of a fixture by key; a key that is asked for and not there makes the file unusable."""

    def __missing__(self, key: str) -> np.ndarray:
        raise FixtureError(f"the fixture lacks {key}; expected the keys of a golden file (see tests/golden)")

    def any(self, prefix: str) -> bool:
        """Whether a key starts like this."""
        return any(key.startswith(prefix) for key in self)


def read_arrays(path: str) -> Arrays:
    """Read a fixture file, or say in one line why it can't be read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise FixtureError(f"{path} is one array; expected an .npz file with many")
        with loaded as z:
            return Arrays({key: z[key] for key in z.files})
    except FileNotFoundError:
        raise FixtureError(f"no fixture at {path}; expected an .npz file such as tests/golden/A.npz") from None
    except FixtureError:
        raise
    except Exception as error:  # a damaged archive raises many kinds
        raise FixtureError(f"{path} is not a readable .npz file ({error})".replace("\n", " ")) from error


class Errors:
    """Largest error over tolerance in each group."""

    def __init__(self) -> None:
        self.groups: dict[str, dict] = {}

    def compare(self, group: str, key: str, ours: object, theirs: object) -> None:
        """Record the error of one array; a wrong shape or a NaN is an infinite error."""
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        absolute, relative = TOLERANCES[group]
        if a.shape != b.shape:
            error, ratio = np.array(np.inf), np.inf
        else:
            error = np.nan_to_num(np.abs(a - b), nan=np.inf)
            allowed = np.maximum(absolute + relative * np.abs(b), 1e-300)
            ratio = float((error / allowed).max(initial=0.0))
        entry = self.groups.setdefault(
            group, {"arrays": 0, "max_error": 0.0, "error_over_tolerance": -1.0, "worst": ""}
        )
        entry["arrays"] += 1
        entry["max_error"] = max(entry["max_error"], float(error.max(initial=0.0)))
        if ratio > entry["error_over_tolerance"]:
            entry.update(error_over_tolerance=ratio, worst=key)

    def report(self, name: str, z: Arrays) -> dict:
        """Give the result as plain data; a group without a comparison fails unless the file has no key for it."""
        missing = [
            group
            for group in sorted(set(TOLERANCES) - set(self.groups))
            if group not in OPTIONAL or z.any(OPTIONAL[group])
        ]
        ok = not missing and all(e["error_over_tolerance"] <= 1 for e in self.groups.values())
        return {"file": name, "ok": ok, "missing": missing, "groups": dict(sorted(self.groups.items()))}


class Fixture:
    """A fixture file and the network that it describes."""

    def __init__(self, path: str) -> None:
        self.z = z = read_arrays(path)
        try:
            self.meta = m = json.loads(bytes(z["meta_json_utf8"]).decode())
            self._configure(m)
        except (KeyError, TypeError, ValueError) as error:
            raise FixtureError(f"{path}: meta_json_utf8 can't be used ({error!r})".replace("\n", " ")) from error

    def _configure(self, m: dict) -> None:
        """Make the configs from the fixture's settings."""
        self.tasks = next(t for t in range(10_000) if f"data/task{t}/batches" not in self.z)
        if self.tasks == 0:
            raise FixtureError("the fixture lacks data/task0/batches; expected at least one task")
        self.backbone = BackboneConfig(
            image_size=m["img"],
            patch_size=m["patch"],
            channels=self.z["timm_ckpt/patch_embed.proj.weight"].shape[1],
            dim=m["dim"],
            depth=m["depth"],
            heads=m["heads"],
            mlp_ratio=m["mlp_ratio"],
        )
        self.model = ModelConfig(
            backbone=self.backbone,
            adapter_rank=m["ffn_num"],
            prompts=m["P"],
            pretrained_view=m["use_init_ptm"],
            fusion="reference",
            initialisation="reference",
            pretrained_weight=m["beta"],
            mean_weight=m["gamma"],
            current_weight=m["alpha"],
        )
        objective = ObjectiveConfig(
            dissimilarity="reference",
            orthogonality="reference",
            regularization="reference",
            lambda_dis=m["nce_temp"],
            lambda_orth=m["dis_temp"],
            lambda_reg=m["reg_temp"],
            temperature=m["mi_temperature"],
            orthogonality_rank=m["k_svd"],
        )
        unequal = m["init_cls"] != m["inc"]
        optimizer = OptimizerConfig(
            learning_rate=m["init_lr"],
            later_learning_rate=m["later_lr"] if unequal else None,  # the release ignores it when all are equally large
            momentum=m["momentum"],
            weight_decay=m["wd"],
            batch_size=m["batch"],
            epochs=m["epochs"],
        )
        self.config = RunConfig(
            data=DataConfig(first_task_classes=m["init_cls"], classes_per_task=m["inc"]),
            model=self.model,
            objective=objective,
            optimizer=optimizer,
            compute=ComputeConfig(checkpoint_every_steps=1),
        )
        self.sizes = [m["init_cls"]] + [m["inc"]] * (self.tasks - 1)
        self.seen = [sum(self.sizes[: t + 1]) for t in range(self.tasks)]
        self.scenario = Scenario(class_order=tuple(range(self.seen[-1])), task_sizes=tuple(self.sizes))
        # The release's stream may have more tasks than were recorded: its last one is what counts.
        self.learner = replace(Replayed.of(self.config, self.scenario), tasks=m["nb_tasks"])
        self.task_of_class = self.scenario.task_of_class.astype(np.int32)
        # Everything that is only evaluated runs in batches of one size, so that it is compiled once.
        pools = [len(self.z[f"data/task{t}/train_labels"]) for t in range(self.tasks)]
        self.rows = max(*pools, len(self.z["data/test_labels"]), len(self.z["fwd/batch_idx"]))

    def steps(self, task: int) -> int:
        """Recorded updates of a task."""
        return len(self.z[f"data/task{task}/batches"])

    def batch(self, task: int, step: int) -> Batch:
        """Images of a step (from 1) of a task."""
        index = self.z[f"data/task{task}/batches"][step - 1]
        images, labels = self.z[f"data/task{task}/train_images_nhwc"], self.z[f"data/task{task}/train_labels"]
        return Batch(jnp.asarray(images[index]), jnp.asarray(labels[index], jnp.int32), jnp.ones(len(index), bool))

    def padded(self, images: np.ndarray, labels: np.ndarray | None = None) -> Batch:
        """A batch of the one evaluation size; the padding is grey, so that it would be noticed."""
        n, full = len(images), np.full((self.rows, *images.shape[1:]), 0.5, np.float32)
        full[:n] = images
        all_labels = np.zeros(self.rows, np.int32)
        all_labels[:n] = 0 if labels is None else labels
        return Batch(jnp.asarray(full), jnp.asarray(all_labels), jnp.arange(self.rows) < n)

    def pool(self, task: int) -> Batch:
        """All training images of a task."""
        return self.padded(self.z[f"data/task{task}/train_images_nhwc"], self.z[f"data/task{task}/train_labels"])

    def task(self, task: int) -> Task:
        """A task as the learner gets it."""
        return Task.of(self.scenario, task)

    def step_keys(self, task: int, seed: int) -> Key:
        """The key that the loss gets in each step of a task, as many as the longest task has."""
        key = jax.random.key(stream_seed(seed, *self.learner.stream("steps", task)))
        steps = jnp.arange(max(map(self.steps, range(self.tasks))))
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, steps)

    def draws(self, task: int, seed: int) -> Tree:
        """Buffers from which `Replayed` knows the old prototypes of each step."""
        keys = self.step_keys(task, seed)
        labels = np.full((len(keys), self.meta["batch"]), -1, np.int32)
        for step in range(self.steps(task)):
            chosen = self.z[f"task{task}/step{step + 1}/selected_labels"]
            labels[step, : len(chosen)] = chosen
        return {STEP_KEYS: jax.random.key_data(keys), OLD_LABELS: jnp.asarray(labels)}

    def streams(self, prefix: str, kind: str, ours: str) -> dict[str, np.ndarray]:
        """One parameter set of both streams: `kind` is '', 'pre_' or 'reg_'."""
        out = {}
        for i in range(self.backbone.depth):
            channel = f"{prefix}{kind}channel_prompt_list.{i}."
            patch = f"{prefix}{kind}patch_prompt_list.{i}."
            for theirs, part in (("down_proj", "down"), ("up_proj", "up")):
                out[f"{ours}/adapters/{i}/{part}/kernel"] = self.z[channel + theirs + ".weight"].T
                out[f"{ours}/adapters/{i}/{part}/bias"] = self.z[channel + theirs + ".bias"]
            out[f"{ours}/prompts/{i}/token_map/kernel"] = self.z[patch + "global_patch_prompt.weight"].T
            out[f"{ours}/prompts/{i}/token_map/bias"] = self.z[patch + "global_patch_prompt.bias"]
            out[f"{ours}/prompts/{i}/norm_scale"] = self.z[patch + "prompt_norm.weight"]
            out[f"{ours}/prompts/{i}/norm_bias"] = self.z[patch + "prompt_norm.bias"]
        return out

    def fusion(self, prefix: str) -> dict[str, np.ndarray]:
        """The fusion's parameters."""
        out = {}
        for part in ("query", "key", "value"):
            out[f"fusion/{part}/kernel"] = self.z[f"{prefix}{part}.weight"].T
            out[f"fusion/{part}/bias"] = self.z[f"{prefix}{part}.bias"]
        return out

    def proxy(self, prefix: str) -> dict[str, np.ndarray]:
        """The proxy head's parameters, padded to the width of the largest task."""
        rows = self.z[f"{prefix}weight"]
        pad = self.learner.task_classes - len(rows)
        return {"proxy/kernel": np.pad(rows, ((0, pad), (0, 0))), "proxy/scale": self.z[f"{prefix}sigma"]}

    def trainable(self, prefix: str) -> dict[str, np.ndarray]:
        """The whole trainable tree (or its gradient) under a prefix of state-dict names."""
        return (
            self.streams(f"{prefix}backbone.", "", "current")
            | self.fusion(f"{prefix}fusion_model.")
            | self.proxy(f"{prefix}proxy_fc.")
        )

    def prototypes(self, prefix: str, seen: int) -> dict[str, np.ndarray]:
        """The prototype head, padded to all classes of the fixture."""
        rows = self.z[f"{prefix}weight"]
        pad = self.seen[-1] - len(rows)
        return {
            "prototypes/kernel": np.pad(rows, ((0, pad), (0, 0))),
            "prototypes/scale": self.z[f"{prefix}sigma"],
            "prototypes/seen": np.arange(self.seen[-1]) < seen,
        }

    def initial(self) -> LearnerState:
        """State before task 0."""
        timm = {k.removeprefix("timm_ckpt/"): v for k, v in self.z.items() if k.startswith("timm_ckpt/")}
        current = self.streams("init/backbone.", "", "current") | self.fusion("init/fusion_model.")
        anchor = self.streams("init/", "reg_", "current") | self.fusion("init/reg_fusion_model.")
        buffers = (
            self.streams("init/backbone.", "pre_", "mean")
            | self.prototypes("task0/start/fc.", 0)
            | self.learner.anchored(jax.tree.map(jnp.asarray, anchor))
            | {BASIS: np.zeros_like(self.z["task0/svd_u40"])}
        )
        trainable = current | self.proxy("task0/start/proxy_fc.")
        return jax.tree.map(jnp.asarray, LearnerState(trainable, Frozen(from_timm(timm, self.backbone), buffers)))
