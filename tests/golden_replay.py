"""Replay a fixture of the authors' release against the `reference` variant.

    python -m tests.golden_replay FILE.npz [FILE.npz ...]

Prints the largest error of each group beside its tolerance as JSON. Exit code: 0 when every group is within its
tolerance, 1 when one is beyond it, 2 when a file can't be read as a fixture. Every number goes through the code that
trains: model, objective, update, schedule, running mean, prototypes. Fixtures may have any sizes and number of tasks.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkcl_jax.data import Batch
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.methods.ntkcl import LearnerState, finish_task, old_prototype_rows
from ntkcl_jax.methods.ntkcl_objective import TERMS, OldRows, orthogonality_basis
from ntkcl_jax.models.heads import unit
from ntkcl_jax.training.step import TaskArrays, learning_rate, make_optimizer
from tests.golden.evidence import evaluate, feature_gradients, forward, step_and_evidence
from tests.golden.fixture import Errors, Fixture, FixtureError
from tests.golden.units import replay_units

THEIR_TERMS = ("ce_channel", "ce_patch", "ce_mixed", "mi_loss", "orthogonal_loss", "reg_loss")
THEIR_FEATURES = ("channel_x", "patch_x", "mixed_x")


def padded(fix: Fixture, images: np.ndarray, labels: np.ndarray | None = None) -> Batch:
    """A batch of the fixture's one evaluation size; the padding is grey, so that it would be noticed."""
    n, full = len(images), np.full((fix.rows, *images.shape[1:]), 0.5, np.float32)
    full[:n] = images
    all_labels = np.zeros(fix.rows, np.int32)
    all_labels[:n] = 0 if labels is None else labels
    return Batch(jnp.asarray(full), jnp.asarray(all_labels), jnp.arange(fix.rows) < n)


def replay_forward(fix: Fixture, state: LearnerState, errors: Errors) -> None:
    """Compare every block's tokens, adapters, prompts and the features of the initial network."""
    z, index = fix.z, fix.z["fwd/batch_idx"]
    images = z["data/task0/train_images_nhwc"][index]
    for kind, values in forward(fix.network, state.adaptation, state.frozen, jnp.asarray(images)).items():
        for name, value in values.items():
            errors.compare(f"forward/{kind}", name, value, z[f"fwd/{name}"])
    features, _, _ = evaluate(fix.network, state.adaptation, state.frozen, padded(fix, images), fix.task_of_class)
    for ours, theirs in zip(features, THEIR_FEATURES, strict=True):
        errors.compare("forward/features", theirs, ours[: len(index)], z[f"fwd/{theirs}"])


def replay_step(
    fix: Fixture, t: int, s: int, state: LearnerState, momentum: Any, errors: Errors
) -> tuple[LearnerState, Any]:
    """Compare one training step and return the updated state."""
    z, at, net = fix.z, f"task{t}/step{s}/", fix.network
    index = z[f"data/task{t}/batches"][s - 1]
    labels = z[f"data/task{t}/train_labels"][index]
    images = jnp.asarray(z[f"data/task{t}/train_images_nhwc"][index])
    batch = Batch(images, jnp.asarray(labels, jnp.int32), jnp.ones(len(index), bool))
    offset = fix.seen[t] - fix.sizes[t]
    errors.compare("task/old_rows", at + "targets", labels, z[at + "targets"])
    errors.compare("task/old_rows", at + "aux_targets", labels - offset, z[at + "aux_targets"])
    old = old_prototype_rows("reference", fix.seen[t], fix.sizes[t], fix.meta["inc"])
    arrays = TaskArrays(
        state.anchor,
        jnp.asarray(z[f"task{t}/svd_u40"]),
        jnp.arange(net.task_classes) < fix.sizes[t],
        jnp.int32(offset),
        jnp.int32(old),
    )
    chosen = z[at + "selected_labels"]
    errors.compare("task/old_rows", at + "count", len(chosen), min(old, fix.meta["batch"]))
    errors.compare("task/old_rows", at + "range", bool((chosen < old).all()), True)
    wanted = np.zeros(fix.meta["batch"], np.int32)  # rows beyond the count repeat row 0 and are invalid
    wanted[: len(chosen)] = chosen
    kernel = state.frozen.prototypes["prototypes/kernel"]
    rows = OldRows(kernel[wanted], jnp.asarray(wanted), jnp.arange(len(wanted)) < len(chosen))
    rate = learning_rate(fix.optimizer(t), (s - 1) // fix.meta["batches_per_epoch"])
    errors.compare("step/learning_rate", at + "lr", rate, z[at + "lr"])
    # The rate is an argument, so every task can use the step that was compiled for task 0.
    (adaptation, momentum), terms, features, logits, gradient = step_and_evidence(
        net,
        fix.objective,
        fix.optimizer(0),
        state.adaptation,
        momentum,
        state.frozen,
        arrays,
        batch,
        rows,
        jnp.float32(rate),
    )
    for ours, logit, theirs in zip(features, logits, THEIR_FEATURES, strict=True):
        errors.compare("step/features", at + theirs, ours, z[at + theirs])
        kind = theirs.removesuffix("_x")
        errors.compare("step/logits", at + kind, logit[:, : fix.sizes[t]], z[at + f"logits_{kind}"])
    for ours, theirs in zip((*TERMS, "total"), (*THEIR_TERMS, "total"), strict=True):
        errors.compare("step/loss", at + theirs, terms[ours], np.repeat(z[at + "loss/" + theirs], 2))
    if f"{at}dfeat/total/mixed_x" in z:
        made = feature_gradients(net, fix.objective, state.adaptation, state.frozen, arrays, batch, rows, features)
        for values, feature in zip(made, THEIR_FEATURES, strict=True):
            for value, theirs in zip(values, (*THEIR_TERMS, "total"), strict=True):
                if theirs != "reg_loss":  # it doesn't look at features
                    key = f"{at}dfeat/{theirs}/{feature}"
                    errors.compare("step/feature_gradients", key, value, z[key])
    if f"{at}grad/proxy_fc.weight" in z:
        for path, value in fix.adaptation(f"{at}grad/").items():
            errors.compare("step/gradients", at + path, gradient[path], value)
    if f"task{t}/after_step{s}/proxy_fc.weight" in z:
        for path, value in fix.adaptation(f"task{t}/after_step{s}/").items():
            errors.compare("step/parameters", f"task{t}/after_step{s}/{path}", adaptation[path], value)
    return state._replace(adaptation=adaptation), momentum


def replay_task_end(fix: Fixture, t: int, state: LearnerState, errors: Errors) -> LearnerState:
    """Compare running mean, prototypes and test scores."""
    z, net, at = fix.z, fix.network, f"task{t}/"
    offset, seen = fix.seen[t] - fix.sizes[t], fix.seen[t]
    pool = padded(fix, z[f"data/task{t}/train_images_nhwc"], z[f"data/task{t}/train_labels"])
    ends = {}
    for last in (True, False):
        ends[last] = finish_task(net, state, [pool], task=t, last=last, offset=offset, classes=fix.sizes[t])
    is_last = t == fix.meta["nb_tasks"] - 1
    errors.compare("task/running_mean", at + "applied", not is_last, bool(z[f"{at}after_task/ema_applied"]))
    for prefix, last in ((f"{at}after_task/backbone.", is_last), (f"{at}ema_if_not_last/backbone.", False)):
        if f"{prefix}pre_channel_prompt_list.0.up_proj.weight" not in z:
            continue
        for path, value in fix.streams(prefix, "pre_", "mean").items():
            errors.compare("task/running_mean", prefix + path, ends[last].frozen.mean[path], value)
    state = ends[is_last]
    rows = state.frozen.prototypes["prototypes/kernel"][:seen]
    errors.compare("task/prototypes", at + "fc.weight", rows, z[f"{at}after_task/fc.weight"])
    features, _, _ = evaluate(net, state.adaptation, state.frozen, pool, fix.task_of_class)
    embeddings = z[f"{at}proto_embeddings"]
    errors.compare("test/features", at + "proto_embeddings", features.hybrid[: len(embeddings)], embeddings)

    chosen = z["data/test_labels"] < seen
    labels, n = z["data/test_labels"][chosen], int(chosen.sum())
    batch = padded(fix, z["data/test_images_nhwc"][chosen], labels)
    features, scores, guessed = evaluate(net, state.adaptation, state.frozen, batch, fix.task_of_class)
    for ours, score, theirs in zip(features, scores, THEIR_FEATURES, strict=True):
        errors.compare("test/features", f"{at}test/{theirs}", ours[:n], z[f"{at}test/{theirs}"])
        kind = theirs.removesuffix("_x")
        errors.compare("test/scores", f"{at}test/{kind}", score[:n, :seen], z[f"{at}test/logits_{kind}"])
    best, theirs = np.asarray(guessed.best)[:n], z[f"{at}test/pred_topk"]
    most = min(5, theirs.shape[1])
    errors.compare("test/predictions", f"{at}test/pred_topk", np.asarray(guessed.top5)[:n, :most], theirs[:, :most])
    errors.compare("test/predictions", f"{at}test/y_true", labels, z[f"{at}test/y_true"])
    top1 = round(100 * float((best == labels).mean()), 2)
    errors.compare("test/predictions", f"{at}test/top1", top1, z[f"{at}test/top1"])
    return state


def replay(path: str) -> dict:
    """Replay one fixture and return the report."""
    fix, errors = Fixture(path), Errors()
    try:
        state = fix.initial()
    except NtkclError as error:
        raise FixtureError(f"{path}: {error}") from error
    replay_forward(fix, state, errors)
    for t in range(fix.tasks):
        offset = fix.seen[t] - fix.sizes[t]
        start = fix.prototypes(f"task{t}/start/fc.", offset)["prototypes/kernel"]
        errors.compare("task/prototypes", f"task{t}/start", state.frozen.prototypes["prototypes/kernel"], start)
        proxy = jax.tree.map(jnp.asarray, fix.proxy(f"task{t}/start/proxy_fc."))
        state = state._replace(adaptation=state.adaptation | proxy)
        allocated = np.asarray(state.frozen.prototypes["prototypes/kernel"][: fix.seen[t]])
        ours = orthogonality_basis(allocated, offset, fix.seen[t], fix.objective.orthogonality_rank, "reference")
        theirs = fix.z[f"task{t}/svd_u40"]
        # Only the span of the old prototypes is determined by the data; the completion beyond it is arbitrary.
        rows = np.asarray(unit(jnp.asarray(allocated[:offset])))
        kept = (
            [rows - (rows @ u) @ u.T for u in (ours, theirs)]
            if offset <= ours.shape[1]
            else [ours @ ours.T, theirs @ theirs.T]
        )
        errors.compare("task/orthogonality_basis", f"task{t}", *kept)
        errors.compare("task/orthogonality_basis", f"task{t}/columns", ours.T @ ours, np.eye(theirs.shape[1]))
        momentum = make_optimizer(fix.optimizer(t)).init(state.adaptation)
        for s in range(1, len(fix.z[f"data/task{t}/batches"]) + 1):
            state, momentum = replay_step(fix, t, s, state, momentum, errors)
        state = replay_task_end(fix, t, state, errors)
    replay_units(fix, errors)
    return errors.report(path, fix.z)


def main(paths: list[str]) -> int:
    """Replay each file; 0 when all are within tolerance."""
    if not paths:
        print("usage: python -m tests.golden_replay FILE.npz [FILE.npz ...]", file=sys.stderr)
        return 2
    try:
        reports = [replay(path) for path in paths]
    except FixtureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=1))
    return 0 if all(r["ok"] for r in reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
