"""`klda`: scikit-learn's discriminant analysis on the same random features, and how the first task sets the kernel."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntkcl_jax.readouts import klda
from ntkcl_jax.readouts.klda import BANDWIDTHS, KLDA, SHRINKAGES, choose, discriminants, fourier, statistics
from ntkcl_jax.seeds import stream_seed
from tests.support.lessons import CLASSES, SCENARIO, WIDTH, clusters, learnt, lesson

RANDOM, SIGMA = 30, 0.02
GIVEN = KLDA(WIDTH, CLASSES, 3, random_features=RANDOM, bandwidth=SIGMA)
CHOOSING = replace(GIVEN, bandwidth=None)
TRAIN, TEST = clusters(2, 12, spread=1.5), clusters(3, 4, spread=1.5)[0]


def features(x: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    rng = np.random.default_rng(stream_seed(3, "klda"))
    waves, phases = rng.standard_normal((WIDTH, RANDOM)), rng.uniform(0, 2 * np.pi, RANDOM)
    return np.sqrt(2 / RANDOM) * np.cos(x.astype(np.float64) @ (np.sqrt(2 * sigma) * waves) + phases)


def test_random_features_are_those_of_the_kernel() -> None:
    x = TRAIN[0][:20]
    phi = fourier(x, SIGMA, 40_000, seed=0)
    squares = np.square(x[:, None] - x).sum(axis=-1)
    np.testing.assert_allclose(phi @ phi.T, np.exp(-SIGMA * squares), atol=0.02)
    assert squares.max() * SIGMA > 1 > squares.min() * SIGMA


def test_after_every_task_it_is_scikit_learns_discriminant_analysis_of_all_images() -> None:
    x, labels = TRAIN
    for task, state in enumerate(learnt(GIVEN, x, labels)):
        seen = SCENARIO.offsets[task + 1]
        known = labels < seen
        twin = LinearDiscriminantAnalysis("lsqr", shrinkage=float(state["shrinkage"]), priors=np.full(seen, 1 / seen))
        twin.fit(features(x[known]), labels[known])
        wanted = twin.decision_function(features(TEST)) + np.log(seen)  # the priors, equal for all classes
        np.testing.assert_allclose(GIVEN.scores(state, TEST, seen), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_scores_rank_classes_by_their_mahalanobis_distance_however_many_images_they_have(shrinkage: float) -> None:
    x, labels = TRAIN
    kept = np.arange(len(labels)) // CLASSES >= labels  # of class c the first c images are left out
    phi, labels = features(x[kept]), labels[kept]
    assert len(set(np.bincount(labels))) > 1
    means = np.stack([phi[labels == c].mean(axis=0) for c in range(CLASSES)])
    apart = phi - means[labels]
    covariance = apart.T @ apart / len(phi)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / RANDOM * np.eye(RANDOM)
    test = features(TEST)
    gaps = test[:, None] - means
    distances = np.einsum("ncd,de,nce->nc", gaps, np.linalg.inv(covariance), gaps)
    scores = discriminants(statistics(phi, labels, CLASSES), test, shrinkage)
    # A square that all classes share is left out
    np.testing.assert_allclose(scores - scores[:, :1], (distances[:, :1] - distances) / 2, rtol=1e-6, atol=1e-6)


def test_with_a_given_bandwidth_neither_order_nor_batches_matter_to_what_is_added_up() -> None:
    wanted = learnt(GIVEN, *TRAIN)[-1]
    found = [learnt(GIVEN, *TRAIN, tasks=order)[-1] for order in ([2, 0, 1], [1, 2, 0])]
    state = GIVEN.init()
    for task in range(3):
        whole = lesson(*TRAIN, task)
        for part in (slice(0, 5), slice(5, None)):
            state = GIVEN.learn(state, whole._replace(features=whole.features[part], labels=whole.labels[part]))
    for other in (*found, state):
        for name in ("counts", "sums", "squares", "bandwidth"):
            np.testing.assert_allclose(other[name], wanted[name], rtol=1e-10, atol=1e-10)


def test_the_first_task_alone_chooses() -> None:
    states = learnt(CHOOSING, *TRAIN)
    part = lesson(*TRAIN, 0)
    wanted = choose(part.plain, part.labels, RANDOM, stream_seed(3, "klda"))
    assert [(float(state["bandwidth"]), float(state["shrinkage"])) for state in states] == [wanted] * 3
    assert CHOOSING.says(states[-1]) == f"bandwidth σ {wanted[0]:.3g}, shrinkage {wanted[1]:g}"
    given = learnt(replace(GIVEN, bandwidth=wanted[0]), *TRAIN)[-1]
    np.testing.assert_array_equal(CHOOSING.scores(states[-1], TEST, CLASSES), GIVEN.scores(given, TEST, CLASSES))
    other = learnt(CHOOSING, *TRAIN, tasks=[1])[-1]
    assert float(other["bandwidth"]) != wanted[0]


@pytest.mark.parametrize("compared", [1000, 40])
def test_chosen_is_what_has_most_right_answers_in_a_cross_validation(
    monkeypatch: pytest.MonkeyPatch, compared: int
) -> None:
    """Slow twin, with fewer images and features than are compared, and with more."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 3))
    labels = np.where(np.linalg.norm(x, axis=1) < 1.4, 4, 2)  # a ball, which no plane cuts out
    monkeypatch.setattr(klda, "COMPARED", compared)
    few = x[np.linspace(0, 59, min(60, compared)).astype(int)]
    median = np.median([np.sum((few[i] - few[j]) ** 2) for i in range(len(few)) for j in range(i)])
    order, hits = np.random.default_rng(stream_seed(8, "folds")).permutation(60), {}
    for unit in BANDWIDTHS:
        phi = fourier(x, unit / median, 50, seed=8)[:, :compared]
        for shrinkage in SHRINKAGES:
            hits[unit, shrinkage] = 0
            for fold in np.split(order, 5):
                rest = np.isin(np.arange(60), fold, invert=True)
                twin = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage).fit(phi[rest], labels[rest])
                shares = twin.priors_  # which count there, and don't here
                apart = twin.decision_function(phi[fold]) - np.log(shares[1] / shares[0])
                hits[unit, shrinkage] += np.sum((apart > 0) == (labels[fold] == 4))
    bandwidth, shrinkage = choose(x, labels, 50, seed=8)
    assert (pytest.approx(bandwidth * median), shrinkage) == max(hits, key=hits.__getitem__)
    assert min(hits.values()) < max(hits.values())
    only = {key[1]: value for key, value in hits.items() if key[0] == BANDWIDTHS[2]}
    given = BANDWIDTHS[2] / median
    assert choose(x, labels, 50, seed=8, given=given) == (given, max(only, key=only.__getitem__))


def test_a_class_without_images_is_never_chosen_and_equal_images_do_no_harm() -> None:
    x, labels = TRAIN
    without = labels != 1
    part = lesson(x[without], labels[without], 0)
    scores = GIVEN.scores(GIVEN.learn(GIVEN.init(), part), TEST, 3)
    assert np.isneginf(scores[:, 1]).all()
    assert np.isfinite(scores[:, [0, 2]]).all()
    equal = lesson(np.ones_like(x), labels, 0)
    assert np.isfinite(CHOOSING.scores(CHOOSING.learn(CHOOSING.init(), equal), TEST, 3)).all()
    one_each = lesson(x[:7], labels[:7], 0)
    state = CHOOSING.learn(CHOOSING.init(), one_each)
    assert CHOOSING.scores(state, x[:3], 3).argmax(axis=1).tolist() == [0, 1, 2]


def test_what_it_takes_grows_with_the_square_of_its_features() -> None:
    assert GIVEN.memory == 4 * GIVEN.init()["squares"].nbytes
    assert GIVEN.fitting(GIVEN.memory) == f"set --readout.random_features {RANDOM}"
