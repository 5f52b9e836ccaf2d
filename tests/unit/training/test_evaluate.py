"""Counts of right answers from a matrix of scores."""

import numpy as np

from ntkcl_jax.training.evaluate import score_classes


def test_scores_are_counted_as_a_loop_counts() -> None:
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(40, 12)), np.tile(np.arange(12), 4)[:40]
    found = score_classes(scores, labels, (0, 5, 9, 12))
    bounds = [range(0, 5), range(5, 9), range(9, 12)]
    tasks = [next(t for t, classes in enumerate(bounds) if y in classes) for y in labels]
    best = [int(np.argmax(row)) for row in scores]
    assert found.correct == tuple(
        sum(b == y for b, y, k in zip(best, labels, tasks, strict=True) if k == t) for t in range(3)
    )
    assert found.correct_task == sum(b in bounds[t] for b, t in zip(best, tasks, strict=True))
    assert found.correct_top5 == sum(y in np.argsort(row)[-5:] for row, y in zip(scores, labels, strict=True))
    within = [max(bounds[t], key=lambda c: row[c]) for row, t in zip(scores, tasks, strict=True)]
    assert found.correct_given_task == sum(w == y for w, y in zip(within, labels, strict=True))


def test_of_equal_scores_the_first_class_wins_and_few_classes_have_no_five_best() -> None:
    found = score_classes(np.zeros((3, 3)), np.array([0, 1, 2]), (0, 2, 3))
    assert found.correct == (1, 0)
    assert found.correct_given_task == 2
    assert found.correct_top5 is None
