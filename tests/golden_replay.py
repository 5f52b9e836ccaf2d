"""Replay a fixture of the authors' release against the `reference` variant.

    python -m tests.golden_replay FILE.npz [FILE.npz ...]

Prints the largest error of each group beside its tolerance as JSON. Exit code: 0 when every group is within its
tolerance, 1 when one is beyond it, 2 when a file can't be read as a fixture.

Tasks begin, train, end and are evaluated as in a run: `Learner.begin`, `fit_task` on the recorded batches,
`Learner.finish`, `eval_step`. Only what the release drew at random is put in its place: proxy heads, old prototypes and
the completion of the orthogonality basis; dropout is off. Fixtures may have any sizes and number of tasks.
"""

import json
import sys
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from ntkcl_jax.data import Batch
from ntkcl_jax.errors import NtkclError
from ntkcl_jax.methods.base import LearnerState
from ntkcl_jax.methods.ntkcl import BASIS, MEAN, old_prototype_rows, updated_mean
from ntkcl_jax.methods.ntkcl_objective import TERMS
from ntkcl_jax.models.heads import unit
from ntkcl_jax.training.task_loop import Fitted, fit_task
from tests.golden.evidence import evaluate, feature_gradients, forward, step_parts
from tests.golden.fixture import Errors, Fixture, FixtureError
from tests.golden.units import replay_units

THEIR_TERMS = ("ce_channel", "ce_patch", "ce_mixed", "mi_loss", "orthogonal_loss", "reg_loss")
THEIR_FEATURES = ("channel_x", "patch_x", "mixed_x")
SEED = 0
"""Of the run that the loop believes to be in; nothing is drawn from it."""


def replay_forward(fix: Fixture, state: LearnerState, errors: Errors) -> None:
    """Compare every block's tokens, adapters, prompts and the features of the initial network."""
    z, index = fix.z, fix.z["fwd/batch_idx"]
    images = z["data/task0/train_images_nhwc"][index]
    for kind, values in forward(fix.learner.network, *state, jnp.asarray(images)).items():
        for name, value in values.items():
            errors.compare(f"forward/{kind}", name, value, z[f"fwd/{name}"])
    features, _, _ = evaluate(fix.learner, *state, fix.padded(images), fix.task_of_class)
    for ours, theirs in zip(features, THEIR_FEATURES, strict=True):
        errors.compare("forward/features", theirs, ours[: len(index)], z[f"fwd/{theirs}"])


def replay_begin(fix: Fixture, t: int, state: LearnerState, errors: Errors) -> LearnerState:
    """Begin a task and compare what it starts from; its random parts become the release's."""
    z, offset = fix.z, fix.seen[t] - fix.sizes[t]
    start = fix.prototypes(f"task{t}/start/fc.", offset)["prototypes/kernel"]
    errors.compare("task/prototypes", f"task{t}/start", state.frozen.buffers["prototypes/kernel"], start)
    state = fix.learner.begin(state, fix.task(t), fix.step_keys(t, SEED)[0], lambda: [fix.pool(t)])
    ours, theirs = np.asarray(state.frozen.buffers[BASIS]), z[f"task{t}/svd_u40"]
    # Only the span of the old prototypes is determined by the data; the completion beyond it is arbitrary.
    rows = np.asarray(unit(state.frozen.buffers["prototypes/kernel"][:offset]))
    kept = (
        [rows - (rows @ u) @ u.T for u in (ours, theirs)]
        if offset <= ours.shape[1]
        else [ours @ ours.T, theirs @ theirs.T]
    )
    errors.compare("task/orthogonality_basis", f"task{t}", *kept)
    errors.compare("task/orthogonality_basis", f"task{t}/columns", ours.T @ ours, np.eye(theirs.shape[1]))
    proxy = {path: jnp.asarray(value) for path, value in fix.proxy(f"task{t}/start/proxy_fc.").items()}
    return state.updated(proxy, {BASIS: jnp.asarray(theirs)} | fix.draws(t, SEED))


def replay_before(fix: Fixture, t: int, s: int, state: LearnerState, errors: Errors) -> dict[str, float]:
    """Compare what a step computes before it updates; the loss terms are returned."""
    z, at, learner = fix.z, f"task{t}/step{s}/", fix.learner
    task, batch, key = fix.task(t), fix.batch(t, s), fix.step_keys(t, SEED)[s - 1]
    errors.compare("task/old_rows", at + "targets", batch.labels, z[at + "targets"])
    errors.compare("task/old_rows", at + "aux_targets", batch.labels - task.offset, z[at + "aux_targets"])
    old, chosen = int(old_prototype_rows("reference", task, learner.classes_per_task)), z[at + "selected_labels"]
    errors.compare("task/old_rows", at + "count", len(chosen), min(old, learner.batch_size))
    errors.compare("task/old_rows", at + "range", bool((chosen < old).all()), True)
    epochs = learner.epochs_of(fix.config, t)
    rate = learner.recipe_of(fix.config).rate((s - 1) // fix.meta["batches_per_epoch"], epochs, t)
    errors.compare("step/learning_rate", at + "lr", rate, z[at + "lr"])
    terms, features, logits, gradient = step_parts(learner, *state, task, batch, key)
    for ours, logit, theirs in zip(features, logits, THEIR_FEATURES, strict=True):
        errors.compare("step/features", at + theirs, ours, z[at + theirs])
        kind = theirs.removesuffix("_x")
        errors.compare("step/logits", at + kind, logit[:, : fix.sizes[t]], z[at + f"logits_{kind}"])
    if f"{at}dfeat/total/mixed_x" in z:
        made = feature_gradients(learner, *state, task, batch, key, features)
        for values, feature in zip(made, THEIR_FEATURES, strict=True):
            for value, theirs in zip(values, (*THEIR_TERMS, "total"), strict=True):
                if theirs != "reg_loss":  # it doesn't look at features
                    name = f"{at}dfeat/{theirs}/{feature}"
                    errors.compare("step/feature_gradients", name, value, z[name])
    if f"{at}grad/proxy_fc.weight" in z:
        for path, value in fix.trainable(f"{at}grad/").items():
            errors.compare("step/gradients", at + path, gradient[path], value)
    return {name: float(value) for name, value in terms.items()}


def replay_after(fix: Fixture, t: int, fitted: Fitted, before: dict[str, float], errors: Errors) -> None:
    """Compare what the loop logs of a step, what was computed before it, and the updated parameters."""
    z, s = fix.z, fitted.position.step
    [record] = fitted.records
    for ours, theirs in zip((*TERMS, "total"), (*THEIR_TERMS, "total"), strict=True):
        key = f"task{t}/step{s}/loss/{theirs}"
        errors.compare("step/loss", key, [before[ours], record.terms[ours]], np.repeat(z[key], 2))
    at = f"task{t}/after_step{s}/"
    if at + "proxy_fc.weight" in z:
        for path, value in fix.trainable(at).items():
            errors.compare("step/parameters", at + path, fitted.state.trainable[path], value)


def replay_training(fix: Fixture, t: int, state: LearnerState, errors: Errors) -> LearnerState:
    """Train a task on the recorded batches, comparing every step."""
    in_epoch, steps = fix.meta["batches_per_epoch"], fix.steps(t)

    def epoch_batches(epoch: int, first: int) -> Iterator[Batch]:
        start = epoch * in_epoch
        return (fix.batch(t, s + 1) for s in range(start + first, min(start + in_epoch, steps)))

    before, done = replay_before(fix, t, 1, state, errors), 0
    for fitted in fit_task(
        fix.learner, fix.config, fix.scenario, state, epoch_batches, task=t, seed=SEED, steps_in_epoch=in_epoch
    ):
        state = state._replace(trainable=fitted.state.trainable)
        if not fitted.due:
            continue  # the end: nothing was done since the last step
        done = fitted.position.step
        replay_after(fix, t, fitted, before, errors)
        if done < steps:
            before = replay_before(fix, t, done + 1, state, errors)
    errors.compare("step/parameters", f"task{t}: number of steps", done, steps)
    return state


def replay_end(fix: Fixture, t: int, state: LearnerState, errors: Errors) -> LearnerState:
    """End a task and compare running mean, prototypes and test scores."""
    z, learner, at, seen = fix.z, fix.learner, f"task{t}/", fix.seen[t]
    pool, trained = fix.pool(t), state
    state = learner.finish(trained, fix.task(t), lambda: [pool])
    means = {path: value for path, value in state.frozen.buffers.items() if path.startswith(MEAN)}
    moved = any(not np.array_equal(value, trained.frozen.buffers[path]) for path, value in means.items())
    errors.compare("task/running_mean", at + "applied", moved, bool(z[f"{at}after_task/ema_applied"]))
    following = updated_mean(trained.frozen.buffers, trained.trainable, t)
    for prefix, ours in ((f"{at}after_task/backbone.", means), (f"{at}ema_if_not_last/backbone.", following)):
        if f"{prefix}pre_channel_prompt_list.0.up_proj.weight" in z:
            for path, value in fix.streams(prefix, "pre_", "mean").items():
                errors.compare("task/running_mean", prefix + path, ours[path], value)
    rows = state.frozen.buffers["prototypes/kernel"][:seen]
    errors.compare("task/prototypes", at + "fc.weight", rows, z[f"{at}after_task/fc.weight"])
    features, _, _ = evaluate(learner, *state, pool, fix.task_of_class)
    embeddings = z[f"{at}proto_embeddings"]
    errors.compare("test/features", at + "proto_embeddings", features.hybrid[: len(embeddings)], embeddings)

    chosen = z["data/test_labels"] < seen
    labels, n = z["data/test_labels"][chosen], int(chosen.sum())
    batch = fix.padded(z["data/test_images_nhwc"][chosen], labels)
    features, scores, guessed = evaluate(learner, *state, batch, fix.task_of_class)
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
        state = replay_begin(fix, t, state, errors)
        state = replay_training(fix, t, state, errors)
        state = replay_end(fix, t, state, errors)
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
