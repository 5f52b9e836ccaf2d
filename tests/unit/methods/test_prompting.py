"""L2P, DualPrompt and CODA-Prompt against their equations written out in NumPy, and as a run that is interrupted."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from ntkcl_jax.data import Batch
from ntkcl_jax.methods.base import Learner, LearnerState, Task
from ntkcl_jax.methods.coda_prompt import COMPONENTS, CodaPrompt, orthogonal_to
from ntkcl_jax.methods.dualprompt import DualPrompt
from ntkcl_jax.methods.l2p import L2P
from ntkcl_jax.models.functional import Frozen, Tree
from tests.support import learners as small
from tests.support import prompting_twins as twins
from tests.support.networks import QUICKLY

CONFIG, WEIGHTS = twins.backbone(depth=3)
SHAPE: dict[str, Any] = {"backbone": CONFIG, "tasks": 3, "classes": 6, "task_classes": 2}
LEARNERS: dict[str, Learner] = {
    "l2p": L2P(**SHAPE, pool=4, length=2, top=2),
    "dualprompt": DualPrompt(**SHAPE, general_length=2, expert_length=3),
    "coda-prompt": CodaPrompt(**SHAPE, components=9, length=4),
}
IMAGES, OTHERS = twins.pixels(5), twins.pixels(8, seed=1)
LABELS, VALID = np.array([2, 3, 3, 2, 0]), np.array([True, True, True, True, False])
PLAIN = {path.removeprefix("backbone/"): np.asarray(value, np.float64) for path, value in WEIGHTS.items()}
QUERIES = np.stack([twins.query(PLAIN, CONFIG, image.astype(np.float64)) for image in OTHERS])
MEAN = QUERIES.mean(axis=0)
APART = QUERIES - QUERIES @ np.outer(MEAN, MEAN) / (MEAN @ MEAN)  # what makes the images differ
each = pytest.mark.parametrize("name", LEARNERS)
COMPILED: dict[str, Any] = {}
"""(features, gradient) of each learner, as compiled functions."""


def task_of(number: int) -> Task:
    return Task(jnp.int32(number), jnp.arange(6) // 2 == number)


@pytest.fixture(scope="module")
def states() -> dict[str, LearnerState]:
    """Each learner in the middle of task 1 of three, its parameters far from where they started."""
    made = {}
    for name, learner in LEARNERS.items():
        state = learner.start(jax.random.key(0), WEIGHTS)
        state = state.updated(buffers={learner.seen: jnp.arange(6) < 2})
        random = np.random.RandomState(2)
        for number in (0, 1):
            begun = learner.begin(state, task_of(number), jax.random.key(number), lambda: [])
            trainable = {
                path: jnp.where(value == 0, 0, value + 0.3 * random.standard_normal(value.shape).astype("f"))
                for path, value in sorted(begun.trainable.items())
            }
            state = begun.updated(trainable)
        for path in {"keys/pool", "keys/task"} & set(trainable):  # keys that tell these images apart
            trainable[path] = jnp.asarray(APART[: len(trainable[path])], jnp.float32)
        made[name] = state.updated(trainable)
    return made


def features(name: str, state: LearnerState, images: np.ndarray) -> np.ndarray:
    learner = LEARNERS[name]
    found = COMPILED.setdefault(f"{name} features", jax.jit(learner.features, compiler_options=QUICKLY))
    return np.asarray(found(*state, images))


def gradient(
    name: str, state: LearnerState, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Gradient of the loss of a batch of task 1, its terms and its logits."""

    def total(trainable: Tree, frozen: Frozen, images: Any, labels: Any) -> Any:
        terms, logits = LEARNERS[name].loss(
            trainable, frozen, task_of(1), Batch(images, labels, jnp.asarray(VALID)), jax.random.key(0)
        )
        return sum(terms.values()), (terms, logits)

    found = COMPILED.setdefault(f"{name} gradient", jax.jit(jax.grad(total, has_aux=True), compiler_options=QUICKLY))
    out, (terms, logits) = found(*state, images, labels)
    return jax.device_get((out, terms, logits))


def twin(name: str, state: LearnerState, image: np.ndarray, task: int | None) -> tuple[np.ndarray, float]:
    """Feature of one image, and what it adds to the method's own term of the loss."""
    tree = {path: np.asarray(value, np.float64) for path, value in state[0].items()}
    if name == "l2p":
        feature, distance = twins.l2p(PLAIN, CONFIG, tree, image, top=2)
        return feature, 0.1 * distance
    if name == "dualprompt":
        feature, near = twins.dualprompt(PLAIN, CONFIG, tree, image, task, begun=2)
        return feature, 1 - near[1]
    return twins.coda(PLAIN, CONFIG, tree, image, used=6), 0.1 * twins.penalties(tree, used=6)


@each
def test_features_are_those_of_the_equations_image_by_image(name: str, states: dict) -> None:
    expected = [twin(name, states[name], image.astype(np.float64), None)[0] for image in OTHERS]
    np.testing.assert_allclose(features(name, states[name], OTHERS), expected, atol=2e-4)


@each
def test_the_loss_is_that_of_the_equations(name: str, states: dict) -> None:
    _, terms, logits = gradient(name, states[name])
    tree = {path: np.asarray(value, np.float64) for path, value in states[name][0].items()}
    found = [twin(name, states[name], image.astype(np.float64), 1) for image in IMAGES[:4]]
    expected = [feature @ tree["head/kernel"] + tree["head/bias"] for feature, _ in found]
    np.testing.assert_allclose(logits[:4], expected, atol=2e-4)
    rows = zip(found, LABELS[:4], strict=True)
    losses = [twins.cross_entropy(tree, feature, label, [2, 3]) for (feature, _), label in rows]
    assert terms["ce"] == pytest.approx(np.mean(losses), abs=1e-4)
    own = next(term for term in LEARNERS[name].terms if term != "ce")
    assert terms[own] == pytest.approx(np.mean([x for _, x in found]), abs=1e-5)


def test_images_differ_in_what_they_are_prompted_with(states: dict) -> None:
    """Otherwise the tests above and below couldn't tell a choice per image from one per batch."""
    for name, keys, top in (("l2p", "keys/pool", 2), ("dualprompt", "keys/task", 1)):
        rows = np.asarray(states[name][0][keys])[: 4 if name == "l2p" else 2]
        chosen = {tuple(sorted(np.argsort([-twins.cosine(q, k) for k in rows])[:top])) for q in QUERIES}
        assert len(chosen) > 1, name


@each
def test_an_image_is_classified_alike_whatever_is_beside_it(name: str, states: dict) -> None:
    alone = features(name, states[name], OTHERS)
    order = np.array([5, 2, 7, 0, 3, 6, 1, 4])
    np.testing.assert_allclose(features(name, states[name], OTHERS[order]), alone[order], atol=1e-5)
    padded = np.where(np.arange(8)[:, None, None, None] < 3, OTHERS, 0)
    np.testing.assert_allclose(features(name, states[name], padded)[:3], alone[:3], atol=1e-5)


@each
def test_neither_padding_nor_other_tasks_classes_reach_the_gradient(name: str, states: dict) -> None:
    trainable, frozen = states[name]
    plain, _, _ = gradient(name, states[name])
    images, labels = IMAGES.copy(), LABELS.copy()
    images[4], labels[4] = 1 - images[4], 5
    others = np.isin(np.arange(6), [2, 3], invert=True)
    head = {path: jnp.where(others, value + 3, value) for path, value in trainable.items() if "head/" in path}
    changed, _, _ = gradient(name, LearnerState(trainable | head, frozen), images, labels)
    for path, value in plain.items():
        np.testing.assert_allclose(changed[path], value, rtol=1e-4, atol=1e-6, err_msg=path)
        if path.startswith("head/"):
            assert (value[..., others] == 0).all()
            assert (value[..., ~others] != 0).all()


@each
def test_only_what_the_task_trains_has_a_gradient(name: str, states: dict) -> None:
    """Exactly zero elsewhere: Adam would turn the smallest number into a whole step."""
    out, _, _ = gradient(name, states[name])
    if name == "l2p":
        assert all(np.abs(value).max() > 0 for value in out.values())
        return
    if name == "dualprompt":
        slots = {"expert/prefix": out["expert/prefix"], "keys/task": out["keys/task"]}
        assert (out["general/prefix"] != 0).all()
    else:
        shapes = {path: out[path].shape for path in COMPONENTS}
        slots = {p: np.moveaxis(out[p].reshape(shapes[p][0], 3, 3, *shapes[p][2:]), 1, 0) for p in COMPONENTS}
    for path, (before, own, after) in slots.items():
        assert (before == 0).all() and (after == 0).all(), path
        assert (own != 0).mean() > 0.9, path


def test_tasks_that_have_not_begun_are_never_matched(states: dict) -> None:
    keys = states["dualprompt"].trainable["keys/task"]
    tempting = {"keys/task": keys.at[2].set(QUERIES.mean(axis=0))}
    np.testing.assert_array_equal(
        features("dualprompt", states["dualprompt"].updated(tempting), OTHERS),
        features("dualprompt", states["dualprompt"], OTHERS),
    )


def test_a_new_expert_starts_at_the_one_before_and_its_key_anew(states: dict) -> None:
    trainable = states["dualprompt"].trainable
    new, frozen = LEARNERS["dualprompt"].begin(states["dualprompt"], task_of(2), jax.random.key(2), lambda: [])
    np.testing.assert_array_equal(new["expert/prefix"][2], trainable["expert/prefix"][1])
    np.testing.assert_array_equal(new["expert/prefix"][:2], trainable["expert/prefix"][:2])
    np.testing.assert_array_equal(new["keys/task"], trainable["keys/task"])
    assert frozen.buffers["begun"].tolist() == [True, True, True]


def test_new_components_are_orthogonal_to_trained_ones_and_leave_them_alone(states: dict) -> None:
    learner, trainable = LEARNERS["coda-prompt"], states["coda-prompt"].trainable
    assert isinstance(learner, CodaPrompt) and learner.per_task == 3
    new, frozen = learner.begin(states["coda-prompt"], task_of(2), jax.random.key(2), lambda: [])
    for name in COMPONENTS:
        np.testing.assert_array_equal(new[name][:, :6], trainable[name][:, :6])
        for block in np.asarray(new[name]).reshape(3, 9, -1):
            assert np.abs(block[:6] @ block[:6].T - np.eye(6)).max() > 0.1  # training took these off
            np.testing.assert_allclose(block[6:] @ block.T, np.eye(9)[6:], atol=2e-6)
    assert frozen.buffers["in_use"].all()
    assert frozen.buffers["own"].tolist() == [False] * 6 + [True] * 3


def test_where_the_space_is_full_components_are_drawn_freely() -> None:
    drawn = jnp.array([[3.0, 4.0]])
    np.testing.assert_allclose(orthogonal_to(jnp.eye(2), drawn), [[0.6, 0.8]], rtol=1e-6)


# CODA-Prompt keeps most between tasks; the other two are in the slow set.
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("l2p", "dualprompt")), "coda-prompt"]
)
def test_an_interrupted_run_ends_with_the_same_bits_and_compiles_a_step_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two blocks, where DualPrompt's prompts of both kinds meet in the last one."""
    whole = small.check_run(name, tmp_path, monkeypatch)
    assert [p.name for p in sorted((whole / "checkpoints" / name / "seed0").iterdir())] == ["task0", "task1", "task2"]
