"""A fixture of the authors' release: the file, the network that it describes, and the error of each group."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import BackboneConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.methods.ntkcl import LearnerState
from ntkcl_jax.models.ntkcl import Frozen, Network
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
        self.objective = ObjectiveConfig(
            dissimilarity="reference",
            orthogonality="reference",
            regularization="reference",
            lambda_dis=m["nce_temp"],
            lambda_orth=m["dis_temp"],
            lambda_reg=m["reg_temp"],
            temperature=m["mi_temperature"],
            orthogonality_rank=m["k_svd"],
        )
        self.seen = [m["init_cls"] + t * m["inc"] for t in range(self.tasks)]
        self.sizes = [m["init_cls"]] + [m["inc"]] * (self.tasks - 1)
        self.network = Network(self.model, task_classes=max(self.sizes), classes=self.seen[-1])
        self.task_of_class = np.repeat(np.arange(self.tasks), self.sizes).astype(np.int32)
        # Everything that is only evaluated runs in batches of one size, so that it is compiled once.
        pools = [len(self.z[f"data/task{t}/train_labels"]) for t in range(self.tasks)]
        self.rows = max(*pools, len(self.z["data/test_labels"]), len(self.z["fwd/batch_idx"]))

    def optimizer(self, task: int) -> OptimizerConfig:
        """Settings of a task: the release ignores `later_lr` when all tasks are equally large."""
        m = self.meta
        later = task > 0 and m["init_cls"] != m["inc"]
        return OptimizerConfig(
            learning_rate=m["later_lr"] if later else m["init_lr"],
            momentum=m["momentum"],
            weight_decay=m["wd"],
            batch_size=m["batch"],
            epochs=m["epochs"],
        )

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
        pad = self.network.task_classes - len(rows)
        return {"proxy/kernel": np.pad(rows, ((0, pad), (0, 0))), "proxy/scale": self.z[f"{prefix}sigma"]}

    def adaptation(self, prefix: str) -> dict[str, np.ndarray]:
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
        frozen = Frozen(
            from_timm(timm, self.backbone),
            self.streams("init/backbone.", "pre_", "mean"),
            self.prototypes("task0/start/fc.", 0),
        )
        current = self.streams("init/backbone.", "", "current") | self.fusion("init/fusion_model.")
        anchor = self.streams("init/", "reg_", "current") | self.fusion("init/reg_fusion_model.")
        proxy = self.proxy("task0/start/proxy_fc.")
        # The anchor holds the whole tree, as after every task; L_reg never looks at the head.
        return jax.tree.map(jnp.asarray, LearnerState(current | proxy, frozen, anchor | proxy))
