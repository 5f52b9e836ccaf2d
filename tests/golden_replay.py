"""Replay a fixture of the authors' release against the `reference` variant.

    python -m tests.golden_replay FILE.npz [FILE.npz ...]

Prints the largest error of each group beside its tolerance as JSON; exits with 1 if any group is beyond it. Every
number goes through the code that trains: model, objective, update, schedule, running mean, prototypes.
"""

import json
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.config import BackboneConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from ntkcl_jax.data import Batch
from ntkcl_jax.learner import LearnerState, finish_task, old_prototype_rows
from ntkcl_jax.nn.heads import unit
from ntkcl_jax.nn.model import Features, Frozen, Network
from ntkcl_jax.nn.streams import channel_block, patch_block
from ntkcl_jax.nn.weights import from_timm
from ntkcl_jax.objective import (
    TERMS,
    OldRows,
    cross_entropy,
    dissimilarity,
    orthogonality,
    orthogonality_basis,
    regularization,
    total_loss,
)
from ntkcl_jax.steps import TaskArrays, learning_rate, loss_terms, make_optimizer, update

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
THEIR_TERMS = ("ce_channel", "ce_patch", "ce_mixed", "mi_loss", "orthogonal_loss", "reg_loss")
THEIR_FEATURES = ("channel_x", "patch_x", "mixed_x")


class Errors:
    """Largest error over tolerance in each group."""

    def __init__(self) -> None:
        self.groups: dict[str, dict] = {}

    def compare(self, group: str, key: str, ours: object, theirs: object) -> None:
        """Record the error of one array; a wrong shape or a NaN is an infinite error."""
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        absolute, relative = TOLERANCES[group]
        if a.shape != b.shape:
            error = allowed = np.array(np.inf)
            ratio = np.inf
        else:
            error = np.nan_to_num(np.abs(a - b), nan=np.inf)
            allowed = np.maximum(absolute + relative * np.abs(b), 1e-300)
            ratio = float((error / allowed).max(initial=0.0))
        entry = self.groups.setdefault(group, {"arrays": 0, "max_error": 0.0, "error_over_tolerance": -1.0, "worst": ""})
        entry["arrays"] += 1
        entry["max_error"] = max(entry["max_error"], float(error.max(initial=0.0)))
        if ratio > entry["error_over_tolerance"]:
            entry.update(error_over_tolerance=ratio, worst=key)

    def report(self, name: str) -> dict:
        """The result as plain data."""
        missing = sorted(set(TOLERANCES) - set(self.groups))
        ok = not missing and all(e["error_over_tolerance"] <= 1 for e in self.groups.values())
        return {"file": name, "ok": ok, "missing": missing, "groups": dict(sorted(self.groups.items()))}


class Fixture:
    """A fixture file and the network that it describes."""

    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as z:
            self.z: Mapping[str, np.ndarray] = {k: z[k] for k in z.files}
        self.meta = m = json.loads(bytes(self.z["meta_json_utf8"]).decode())
        self.tasks = sum(1 for t in range(100) if f"data/task{t}/batches" in self.z)
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
            "prototypes/kernel": jnp.asarray(np.pad(rows, ((0, pad), (0, 0)))),
            "prototypes/scale": jnp.asarray(self.z[f"{prefix}sigma"]),
            "prototypes/seen": jnp.arange(self.seen[-1]) < seen,
        }

    def initial(self) -> LearnerState:
        """State before task 0."""
        z = self.z
        timm = {k.removeprefix("timm_ckpt/"): v for k, v in z.items() if k.startswith("timm_ckpt/")}
        frozen = Frozen(
            from_timm(timm, self.backbone),
            self.streams("init/backbone.", "pre_", "mean"),
            self.prototypes("task0/start/fc.", 0),
        )
        current = self.streams("init/backbone.", "", "current") | self.fusion("init/fusion_model.")
        anchor = self.streams("init/", "reg_", "current") | self.fusion("init/reg_fusion_model.")
        adaptation = current | self.proxy("task0/start/proxy_fc.")
        return jax.tree.map(jnp.asarray, LearnerState(adaptation, frozen, anchor))


def replay_forward(fix: Fixture, state: LearnerState, errors: Errors) -> None:
    """Compare every block's tokens, adapters, prompts and the features of the initial network."""
    z, backbone = fix.z, fix.backbone
    images = jnp.asarray(z["data/task0/train_images_nhwc"][z["fwd/batch_idx"]])
    net = fix.network.module(state.adaptation, state.frozen)
    vit, blocks = net.backbone, list(net.backbone.blocks)
    tokens = vit.embed(images)
    errors.compare("forward/tokens", "tokens_in", tokens, z["fwd/tokens_in"])
    runs = {"pre_channel": net.mean, "cur_channel": net.current}
    runs |= {"ptm": None} if fix.model.pretrained_view else {}
    for name, streams in runs.items():
        x = tokens
        for i, block in enumerate(blocks):
            post = block.attend(x)
            adapter = None if streams is None else list(streams.adapters)[i]
            x = channel_block(post, block.mlp(post), adapter)
            errors.compare("forward/tokens", f"{name}/block{i}", x, z[f"fwd/{name}/block{i}"])
            if adapter is not None:
                errors.compare("forward/adapters", f"{name}/{i}", adapter(post), z[f"fwd/{name}/adapter{i}"])
        errors.compare("forward/features", name, vit.class_feature(x), z[f"fwd/{name}/cls"])
    for name, streams in {"pre_patch": net.mean, "cur_patch": net.current}.items():
        x = tokens
        for i, block in enumerate(blocks):
            made = patch_block(
                block, block.attend(x), list(streams.prompts)[i], fix.model.prompts, fix.model.prompt_carry, first=i == 0
            )
            x = made.tokens
            errors.compare("forward/tokens", f"{name}/block{i}", x, z[f"fwd/{name}/block{i}"])
            errors.compare("forward/prompts", f"{name}/{i}", made.prompts, z[f"fwd/{name}/prompts{i}"])
        errors.compare("forward/features", name, vit.class_feature(x), z[f"fwd/{name}/cls"])
    assert backbone.depth == len(blocks)
    features = fix.network.features(state.adaptation, state.frozen, images)
    for ours, theirs in zip(features, THEIR_FEATURES, strict=True):
        errors.compare("forward/features", theirs, ours, z[f"fwd/{theirs}"])


def replay_step(fix: Fixture, t: int, s: int, state: LearnerState, momentum: object, errors: Errors) -> tuple:
    """Compare one training step and return the updated state."""
    z, at, net = fix.z, f"task{t}/step{s}/", fix.network
    index = z[f"data/task{t}/batches"][s - 1]
    labels = jnp.asarray(z[f"data/task{t}/train_labels"][index], jnp.int32)
    images = jnp.asarray(z[f"data/task{t}/train_images_nhwc"][index])
    batch = Batch(images, labels, jnp.ones(len(index), bool))
    offset = fix.seen[t] - fix.sizes[t]
    old = old_prototype_rows("reference", fix.seen[t], fix.sizes[t], fix.meta["inc"])
    arrays = TaskArrays(
        state.anchor,
        jnp.asarray(z[f"task{t}/svd_u40"]),
        jnp.arange(net.task_classes) < fix.sizes[t],
        jnp.int32(offset),
        jnp.int32(old),
    )
    chosen = jnp.asarray(z[at + "selected_labels"], jnp.int32)
    errors.compare("task/old_rows", at + "count", len(chosen), min(old, fix.meta["batch"]))
    errors.compare("task/old_rows", at + "range", bool((chosen < old).all()), True)
    rows = OldRows(state.frozen.prototypes["prototypes/kernel"][chosen], chosen, jnp.ones(len(chosen), bool))
    optimizer = fix.optimizer(t)
    rate = learning_rate(optimizer, (s - 1) // fix.meta["batches_per_epoch"])
    errors.compare("step/learning_rate", at + "lr", rate, z[at + "lr"])

    terms, (features, _) = loss_terms(net, fix.objective, state.adaptation, state.frozen, arrays, batch, rows, None)
    module = net.module(state.adaptation, state.frozen)
    for ours, theirs in zip(features, THEIR_FEATURES, strict=True):
        errors.compare("step/features", at + theirs, ours, z[at + theirs])
        kind = theirs.removesuffix("_x")
        errors.compare("step/logits", at + kind, module.proxy(ours)[:, : fix.sizes[t]], z[at + f"logits_{kind}"])
    for ours, theirs in zip(TERMS, THEIR_TERMS, strict=True):
        errors.compare("step/loss", at + theirs, terms[ours], z[at + "loss/" + theirs])
    errors.compare("step/loss", at + "total", total_loss(terms, fix.objective), z[at + "loss/total"])
    if f"{at}dfeat/total/mixed_x" in z:
        feature_gradients(fix, at, state, arrays, batch, rows, features, errors)
    if f"{at}grad/proxy_fc.weight" in z:

        def loss(adaptation: dict) -> jax.Array:
            terms, _ = loss_terms(net, fix.objective, adaptation, state.frozen, arrays, batch, rows, None)
            return total_loss(terms, fix.objective)

        gradient = jax.grad(loss)(state.adaptation)
        for path, value in fix.adaptation(f"{at}grad/").items():
            errors.compare("step/gradients", at + path, gradient[path], value)
    adaptation, momentum, _ = update(
        net,
        fix.objective,
        optimizer,
        state.adaptation,
        momentum,
        state.frozen,
        arrays,
        batch,
        rows,
        jnp.float32(rate),
        None,
    )
    if f"task{t}/after_step{s}/proxy_fc.weight" in z:
        for path, value in fix.adaptation(f"task{t}/after_step{s}/").items():
            errors.compare("step/parameters", f"task{t}/after_step{s}/{path}", adaptation[path], value)
    return state._replace(adaptation=adaptation), momentum


def feature_gradients(fix, at, state, arrays, batch, rows, features, errors) -> None:  # noqa: ANN001
    """Compare the gradient of each term with respect to each feature (the hybrid one follows the other two)."""
    module = fix.network.module(state.adaptation, state.frozen)
    objective = fix.objective

    def terms_of(channel: jax.Array, patch: jax.Array, bump: jax.Array) -> dict:
        views = Features(channel, patch, module.fusion(channel, patch) + bump)
        targets = batch.labels - arrays.offset
        ce = [cross_entropy(module.proxy(x), targets, batch.valid, arrays.classes) for x in views]
        terms = dict(zip(TERMS[:3], ce, strict=True))
        terms["dissimilarity"] = dissimilarity(
            views.hybrid, batch.labels, batch.valid, rows, objective.temperature, "reference"
        )
        terms["orthogonality"] = orthogonality(views, batch.valid, arrays.basis, "reference")
        terms["regularization"] = regularization(state.adaptation, arrays.anchor, "reference")
        return terms

    names = [*zip(TERMS, THEIR_TERMS, strict=True), ("total", "total")]
    for ours, theirs in names:
        if theirs == "reg_loss":
            continue

        def scalar(*x: jax.Array, name: str = ours) -> jax.Array:
            terms = terms_of(*x)
            return total_loss(terms, objective) if name == "total" else terms[name]

        zero = jnp.zeros_like(features.hybrid)
        gradients = jax.grad(scalar, argnums=(0, 1, 2))(features.channel, features.patch, zero)
        for value, feature in zip(gradients, THEIR_FEATURES, strict=True):
            key = f"{at}dfeat/{theirs}/{feature}"
            errors.compare("step/feature_gradients", key, value, fix.z[key])


def replay_task_end(fix: Fixture, t: int, state: LearnerState, errors: Errors) -> LearnerState:
    """Compare running mean, prototypes and test scores."""
    z, net, at = fix.z, fix.network, f"task{t}/"
    offset = fix.seen[t] - fix.sizes[t]
    images = jnp.asarray(z[f"data/task{t}/train_images_nhwc"])
    labels = jnp.asarray(z[f"data/task{t}/train_labels"], jnp.int32)
    pool = [Batch(images, labels, jnp.ones(len(labels), bool))]
    ends = {}
    for last in (True, False):
        ends[last] = finish_task(net, state, pool, task=t, last=last, offset=offset, classes=fix.sizes[t])
    is_last = t == fix.meta["nb_tasks"] - 1
    errors.compare("task/running_mean", at + "applied", not is_last, bool(z[f"{at}after_task/ema_applied"]))
    for prefix, last in ((f"{at}after_task/backbone.", is_last), (f"{at}ema_if_not_last/backbone.", False)):
        if f"{prefix}pre_channel_prompt_list.0.up_proj.weight" not in z:
            continue
        for path, value in fix.streams(prefix, "pre_", "mean").items():
            errors.compare("task/running_mean", prefix + path, ends[last].frozen.mean[path], value)
    state = ends[is_last]
    rows = state.frozen.prototypes["prototypes/kernel"][: fix.seen[t]]
    errors.compare("task/prototypes", at + "fc.weight", rows, z[f"{at}after_task/fc.weight"])
    hybrid = net.features(state.adaptation, state.frozen, images).hybrid
    errors.compare("test/features", at + "proto_embeddings", hybrid, z[f"{at}proto_embeddings"])
    chosen = z["data/test_labels"] < fix.seen[t]
    features = net.features(state.adaptation, state.frozen, jnp.asarray(z["data/test_images_nhwc"][chosen]))
    head = net.module(state.adaptation, state.frozen).prototypes
    for ours, theirs in zip(features, THEIR_FEATURES, strict=True):
        errors.compare("test/features", f"{at}test/{theirs}", ours, z[f"{at}test/{theirs}"])
        scores = head(ours)[:, : fix.seen[t]]
        kind = theirs.removesuffix("_x")
        errors.compare("test/scores", f"{at}test/{kind}", scores, z[f"{at}test/logits_{kind}"])
    top = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, : z[f"{at}test/pred_topk"].shape[1]]
    errors.compare("test/predictions", f"{at}test/pred_topk", top, z[f"{at}test/pred_topk"])
    top1 = round(100 * float((top[:, 0] == z[f"{at}test/y_true"]).mean()), 2)
    errors.compare("test/predictions", f"{at}test/top1", top1, z[f"{at}test/top1"])
    return state


def replay_units(fix: Fixture, errors: Errors) -> None:
    """Compare the single functions that the fixture pins."""
    z, temperature = fix.z, fix.objective.temperature
    for case in ("normal", "no_positive", "single", "zero_rows"):
        x = jnp.asarray(z[f"unit/mi/{case}/features"])
        y = jnp.asarray(z[f"unit/mi/{case}/labels"], jnp.int32)
        none = OldRows(jnp.zeros((0, x.shape[1])), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool))

        def loss(x: jax.Array, y: jax.Array = y, none: OldRows = none) -> jax.Array:
            return dissimilarity(x, y, jnp.ones(len(y), bool), none, temperature, "reference")

        value, gradient = jax.value_and_grad(loss)(x)
        errors.compare("unit/dissimilarity", case, value, z[f"unit/mi/{case}/used"])
        errors.compare("unit/dissimilarity", case + "/grad", gradient, z[f"unit/mi/{case}/grad"])
    rows = z["unit/orth_fullrank/fc_weight"]
    rank = fix.objective.orthogonality_rank
    basis = orthogonality_basis(rows, old=0, allocated=len(rows), rank=rank, variant="reference")
    projector = z["unit/orth_fullrank/projector"]
    errors.compare("task/orthogonality_basis", "projector", basis @ basis.T, projector)
    views = [jnp.asarray(z[f"unit/orth_fullrank/{k}_emb"]) for k in ("channel", "patch")]

    def orth(channel: jax.Array, patch: jax.Array) -> jax.Array:
        views = Features(channel, patch, channel)
        return orthogonality(views, jnp.ones(len(channel), bool), jnp.asarray(basis), "reference")

    value, gradients = jax.value_and_grad(orth, argnums=(0, 1))(*views)
    errors.compare("unit/orthogonality", "loss", value, z["unit/orth_fullrank/loss"])
    for kind, gradient in zip(("channel", "patch"), gradients, strict=True):
        errors.compare("unit/orthogonality", kind, gradient, z[f"unit/orth_fullrank/grad_{kind}"])
    schedule = OptimizerConfig(learning_rate=0.025, epochs=20)
    rates = [learning_rate(schedule, e) for e in range(20)]
    errors.compare("unit/schedule", "cosine", rates, z["unit/lr_cosine_T20_lr0.025"])
    replay_rules(fix, errors)


def replay_rules(fix: Fixture, errors: Errors) -> None:
    """Compare class order and running-mean ratios."""
    from ntkcl_jax.config import DataConfig
    from ntkcl_jax.data import make_scenario
    from ntkcl_jax.prototypes import updated_mean

    data = DataConfig(classes_per_task=10)
    orders = [make_scenario(100, data, seed).class_order for seed in range(5)]
    errors.compare("unit/class_order", "seeds 0-4", orders, fix.z["unit/class_order_100_seed0to4"])
    with jax.enable_x64(True):
        one, zero = np.float64(1), np.float64(0)
        ratios = [
            [
                updated_mean({"mean/x": a}, {"current/x": b}, t)["mean/x"]
                for a, b in ((one, zero), (zero, one))
            ]
            for t in range(len(fix.z["unit/update_ratios"]))
        ]
    errors.compare("unit/mean_ratios", "t = 0..", ratios, fix.z["unit/update_ratios"])


def replay(path: str) -> dict:
    """Replay one fixture and return the report."""
    fix, errors = Fixture(path), Errors()
    state = fix.initial()
    replay_forward(fix, state, errors)
    for t in range(fix.tasks):
        start = fix.prototypes(f"task{t}/start/fc.", fix.seen[t] - fix.sizes[t])
        errors.compare(
            "task/prototypes", f"task{t}/start", state.frozen.prototypes["prototypes/kernel"], start["prototypes/kernel"]
        )
        proxy = jax.tree.map(jnp.asarray, fix.proxy(f"task{t}/start/proxy_fc."))
        state = state._replace(adaptation=state.adaptation | proxy)
        allocated = np.asarray(state.frozen.prototypes["prototypes/kernel"][: fix.seen[t]])
        old = fix.seen[t] - fix.sizes[t]
        ours = orthogonality_basis(allocated, old, fix.seen[t], fix.objective.orthogonality_rank, "reference")
        theirs = fix.z[f"task{t}/svd_u40"]
        # Only the span of the old prototypes is determined by the data; the completion beyond it is arbitrary.
        rows = np.asarray(unit(jnp.asarray(allocated[:old])))
        kept = [rows - (rows @ u) @ u.T for u in (ours, theirs)] if old <= ours.shape[1] else [ours @ ours.T, theirs @ theirs.T]
        errors.compare("task/orthogonality_basis", f"task{t}", *kept)
        momentum = make_optimizer(fix.optimizer(t)).init(state.adaptation)
        for s in range(1, len(fix.z[f"data/task{t}/batches"]) + 1):
            state, momentum = replay_step(fix, t, s, state, momentum, errors)
        state = replay_task_end(fix, t, state, errors)
    replay_units(fix, errors)
    return errors.report(path)


def main(paths: list[str]) -> int:
    """Replay each file; 0 when all are within tolerance."""
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    reports = [replay(path) for path in paths]
    print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=1))
    return 0 if all(r["ok"] for r in reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
