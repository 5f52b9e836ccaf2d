"""First-task statistics: scores of a stream that can be told by hand, and tables that say what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.theory.modes import modes
from experiments.first_task import command, measure, tables
from experiments.sweep.streams import Stream
from ntkcl_jax.errors import ConfigError, DataError
from ntkcl_jax.readouts.left_out import left_out
from tests.support import streams as tiny

ROOT = Path(__file__).parents[3]
CLASSES = 7


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny stream under the name `scripts`, with few features a map."""
    config = tiny.config(readout__widths=(6, 6, 8, 8), readout__random_features=6)
    monkeypatch.setattr(command, "stream_config", lambda name, changes: config)
    monkeypatch.setattr(measure, "one_stream", lambda name: Stream("digits", tiny.arrays))


def task(images: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Kernel of mean diagonal 1, and three classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 3
    x = rng.normal(size=(3, 20))[labels] + 1.5 * rng.normal(size=(images, 20))
    x /= np.square(x).sum(axis=1).mean() ** 0.5
    return x @ x.T, labels


def test_statistics_of_left_out_images_are_those_of_learning_again_without_each() -> None:
    kernel, labels = task()
    decomposed, wanted = modes(kernel), measure.one_hot(labels)
    tried = measure.by_ridge(decomposed, labels, classes=50)
    margins, accuracies, errors = [], [], []
    for ridge in measure.RIDGES:
        scores = []
        for i in range(len(labels)):
            rest = np.arange(len(labels)) != i
            dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(rest.sum()), wanted[rest])
            scores.append(kernel[i, rest] @ dual)
        scores = np.array(scores)
        own = scores[np.arange(len(labels)), labels]
        other = np.where(wanted == 1, -np.inf, scores).max(axis=1)
        margins.append(np.mean(own - other))
        accuracies.append(np.mean(scores.argmax(axis=1) == labels))
        errors.append(np.square(scores - wanted).sum(axis=1).mean())
    found = measure.statistics(kernel, labels, decomposed, tried)
    assert set(found) == set(measure.SCORES) - {"few"}
    # The smallest ridges make the kernel, of rank 18, lose digits
    assert found["margin"] == pytest.approx(max(margins), rel=1e-6)
    assert found["accuracy"] == max(accuracies) < 1
    assert found["error"] == pytest.approx(min(errors), rel=1e-6)
    assert found["error"] == pytest.approx(left_out(kernel, labels).error, rel=1e-6)
    fixed = measure.RIDGES.index(measure.FIXED)
    assert pytest.approx(0.01) == measure.FIXED
    assert (found["accuracy_fixed"], found["error_fixed"]) == (
        accuracies[fixed],
        pytest.approx(errors[fixed], rel=1e-6),
    )


def test_more_classes_make_the_extended_accuracy_smaller_and_two_are_enough() -> None:
    kernel, labels = task()
    two = labels < 2
    found = [
        measure.told(modes(kernel[np.ix_(two, two)]), measure.one_hot(labels[two]), 0.1, classes).extended
        for classes in (1, 2, 10, 100)
    ]
    assert found[0] == 1
    assert (np.diff(found) < 0).all() and found[-1] > 0


def test_few_shots_learn_nothing_of_noise_and_everything_of_classes_far_apart() -> None:
    labels = np.arange(40) % 4
    far = 0.5 * measure.one_hot(labels) @ measure.one_hot(labels).T + 0.5 * np.eye(40)
    assert measure.few_shots(far, labels) == 1
    assert measure.few_shots(np.eye(40), labels) == pytest.approx(0.25, abs=0.01)


def test_a_map_weighs_groups_in_units_of_their_norms() -> None:
    rng = np.random.default_rng(0)
    rows = {"F": rng.normal(size=(5, 3)), "M": 100 * rng.normal(size=(5, 4))}
    norms = {name: np.square(x).sum(axis=1).mean() for name, x in rows.items()}
    kernel = measure.weighed(measure.kernels(rows, rows), {"F": 0.3, "M": 1, "G": 0}, norms)
    x = np.concatenate([0.3 * rows["F"] / norms["F"] ** 0.5, rows["M"] / norms["M"] ** 0.5], axis=1)
    np.testing.assert_allclose(kernel, x @ x.T / 1.09, rtol=1e-12)
    assert np.trace(kernel) / 5 == pytest.approx(1)


def test_agreement_of_a_score_that_says_nothing_has_no_correlation() -> None:
    final = np.array([50.0, 70.0, 60.0])
    rho, tau, lost = tables.agreement(np.ones(3), final)
    assert np.isnan([rho, tau]).all() and lost == 10  # any of them may be taken
    assert tables.agreement(np.array([0.0, 2.0, 2.0]), final)[2] == 5
    assert tables.agreement(np.array([3.0, 1.0, 2.0]), final) == (-1, -1, 20)


def test_a_stream_is_measured_and_its_tables_say_so(
    stream: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    docs = tmp_path / "page.md"
    docs.write_text(f"Before.\n<!-- {command.NAME}: begin -->\nold\n<!-- {command.NAME}: end -->\nAfter.\n")
    command.run(["--streams", "scripts", "--orders", "2", "--out", str(tmp_path / "out"), "--docs", str(docs)])
    record = json.loads((tmp_path / "out" / "first_task.json").read_text())["scripts"]
    assert (record["images"], record["test_images"], record["classes"]) == (63, 28, CLASSES)
    assert [order["images"] for order in record["orders"]] == [27, 27]
    assert {tuple(order["scores"]) for order in record["orders"]} == {tuple(measure.MAPS)}
    rows, _ = measure.rows_of(command.stream_config("scripts", {}), "scripts")
    for name in ("ridge", "ranpac", "layup", "S"):  # in parameters, with the ridge that was chosen
        x, y = (side[name].astype(float) for side in (rows.train, rows.test))
        found = record["maps"][name]
        ridge = found["ridge"] * np.square(x).sum(axis=1).mean()
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ np.eye(CLASSES)[rows.labels])
        right = np.mean((y @ weights).argmax(axis=1) == rows.test_labels)
        assert found["accuracy"] == pytest.approx(right, rel=1e-5)  # six digits are stored
    shown = capsys.readouterr().out
    text = docs.read_text()
    assert text.startswith("Before.\n<!--") and text.endswith("-->\nAfter.\n") and "old" not in text
    for title, head, body in tables.tables([record]):
        assert title[1:] in text and head[1] == "scripts" and len({len(row) for row in body}) == 1
        assert all(" | ".join(row) in shown for row in body)
    command.run(["--tables-only", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out in shown


def test_multilevel_ends_with_the_weights_of_most_left_out_images_right() -> None:
    record = {"maps": {name: {"left_out": 0.5} for name in measure.MAPS}}
    record["maps"]["0 0.3 1 1"] = {"left_out": 0.6}
    record["maps"]["G"] = {"left_out": 0.9}  # no weights of multilevel's
    expected = {"ridge": "ridge", "layup": "layup", "ranpac": "ranpac", "multilevel": "0 0.3 1 1"}
    assert tables.of_readouts(record) == expected


def test_mistakes_end_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with pytest.raises(DataError, match="measure without --tables-only"):
        command.run(["--tables-only", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="--orders of at least 1, got 0"):
        command.run(["--orders", "0", "--out", str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["experiments.first_task", "--streams", "omniglot", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "experiments.first_task: the stream omniglot needs --data omniglot=FOLDER\n"


def test_the_tables_in_the_docs_are_those_of_the_measured_streams() -> None:
    known = command.read(ROOT / "experiments" / "results" / "first_task.json")
    text = command.page(list(tables.tables([known[name] for name in command.STREAMS])))
    assert text in (ROOT / "docs" / "theory.md").read_text()
