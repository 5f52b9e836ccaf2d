"""The forgetting budget in sentences and tables, and differences of accuracies with their errors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.report import words, write_report
from analysis.report.gains import gain
from analysis.report.lost import Amount, lost_facts, lost_says
from analysis.report.reading import read_run
from analysis.report.sections import all_tables
from analysis.report.verdict import verdict
from analysis.store.forms import MethodResults, made_of
from ntkcl_jax.training.budget import packed
from ntkcl_jax.training.metrics import SPLIT, TaskEvaluation, aggregate, summarise
from tests.support import reported
from tests.support.reported import Page, edit, of_counts


def told(run: Path, **methods: dict[str, Any]) -> tuple[str, list[str]]:
    """What the first section and the verdict say of a run with these methods."""
    edit(run / "results.json", lambda r: r.update(summary=methods, task_names=["a", "b", "c"]))
    edit(run / "config.json", lambda c: c["config"].update(methods=list(methods)))
    files = read_run(run)
    return lost_says(files), verdict(files)


def test_what_is_said_of_the_budget_follows_from_it(run: Path) -> None:
    # Four of 20 lost to each later task, half of them to drift
    lossy = of_counts([[20], [16, 20], [12, 16, 20]])
    said, short = told(run, ntkcl=lossy, prototypes=of_counts([[20], [20, 20], [20, 20, 20]]))
    assert (
        "lost 30.0 ± 7.1 points on average: 15.0 ± 5.6 to the competition of new classes, 15.0 ± 5.6 to drift." in said
    )
    assert "protected weights won't" in said and "smaller learning rate in later tasks, or" in said
    assert "or a smaller learning rate in later tasks, where training favours its own classes" in said
    assert "Frozen prototypes, which nothing trains, lost 0.0 ± 0.0 points in the same stream." in said
    assert short[1] in said and "forgot" not in short[1]
    assert "So training has cost 20.0 ± 5.2 points." in short[0]
    # One of 20 lost in all: noise, and how much there is to win back at most
    said, short = told(run, ntkcl=of_counts([[20], [20, 20], [19, 20, 20]]), prototypes=lossy)
    assert "lost 2.5 ± 2.4 points on average, nothing beyond noise: nothing to the competition" in said
    assert "2.5 ± 2.4 to drift (nothing beyond noise)" in said and "win back 7.4 points at most" in said
    assert "protected weights" not in said and "So training has gained 18.3 ± 5.4 points" in short[0]
    # Answers come back: ten of 20 images, half of what competition couldn't take
    said, short = told(
        run, ntkcl=of_counts([[5], [15, 20], [15, 20, 20]]), prototypes=of_counts([[5], [15, 20], [15, 20, 20]])
    )
    assert "old tasks won 25.0 ± 5.6 points" in said and "while drift won 25.0 ± 5.6 back" in said
    assert "slowing it down would cost" in said
    assert "What training changed of it (0.0 ± 5.0 points) is nothing beyond noise." in short[0]


def test_a_classifier_above_a_network_that_stays_is_not_told_to_train_it_slower(run: Path) -> None:
    said, _ = told(run, ridge=of_counts([[20], [16, 20], [12, 16, 20]]))
    assert "fitting the classifier again changed" in said and "learning rate" not in said


def test_the_error_over_several_seeds_is_the_larger_one() -> None:
    def made(mean_error: float, deviation: float) -> Amount:
        plain = of_counts([[20], [16, 20], [12, 16, 20]], seeds=4)
        plain["forgetting_budget"]["mean"].update(drift_error=mean_error)
        plain["forgetting_budget"]["std"].update(drift=deviation)
        facts = lost_facts(made_of(plain, MethodResults))
        assert facts is not None
        return facts.drift

    assert made(0.05, 0.0).error == pytest.approx(5) and made(0.05, 0.2).error == pytest.approx(10)
    assert made(0.05, 0.0).beyond_noise and not made(0.05, 0.2).beyond_noise


def test_a_run_of_an_older_version_is_told_in_one_line_what_is_not_known(run: Path, undrawn: None) -> None:
    for name in SPLIT:
        edit(run / "results.json", lambda r, name=name: [made.pop(name) for made in r["summary"].values()])
    page = Page(write_report([run]))
    assert page.text.count("ntkcl evaluate counts it again") == 2  # in short, and in the section
    assert "fell by 7.5 ± 0.4 points on average between its best and the end" in page.text
    rows = (run / "analysis/tables/forgetting_budget.csv").read_text().splitlines()
    assert len(rows) == 1


def test_the_table_of_pairs_is_the_budget(made: Path) -> None:
    files = read_run(made)
    table = next(table for table in all_tables(files) if table.name == "forgetting_budget")
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows if row[0] == "sequential"]
    assert [(row["test_images_of_task"], row["later_task"]) for row in rows] == [
        (1, "2"), (1, "3"), (1, "all"), (2, "3"), (2, "all")
    ]  # fmt: skip
    # Each later task took a fifth of the images: a twentieth among the old classes, the rest by competition
    for row in (rows[0], rows[1], rows[3]):
        found = [row[name] for name in table.header[3:]]
        errors = [math.sqrt((share - share**2) / reported.TEST_IMAGES) for share in (0.15, 0.05)]
        assert found == pytest.approx([0.15, errors[0], 0.05, errors[1], 0.05, 0], abs=1e-12)
    assert rows[2]["competition"] == pytest.approx(rows[0]["competition"] + rows[1]["competition"])
    assert rows[2]["competition_error"] == pytest.approx(math.sqrt((0.3 - 0.3**2) / reported.TEST_IMAGES))


def test_what_chance_explains_is_neither_a_gain_nor_forgetting(run: Path) -> None:
    def baseline(results: Any) -> None:
        results["summary"]["prototypes"] = json.loads(json.dumps(results["summary"]["ntkcl"]))
        results["summary"]["prototypes"]["final_accuracy"].update(mean=0.93)
        for name in SPLIT:  # as a version left it that counted images by config.json
            for made in results["summary"].values():
                made.pop(name)

    edit(run / "results.json", baseline)
    many = read_run(run)
    assert "So training has gained 2.0 ± 0.4 points" in verdict(many)[0]
    assert "fell by 7.5 ± 0.4 points" in verdict(many)[1]
    assert "task 1 fell most, by 10.0 ± 0.7 points" in words.accuracy_says(many)
    edit(run / "config.json", lambda config: config["data"].update(test_images=60))
    few = read_run(run)
    assert "What training changed of it (2.0 ± 4.3 points) is nothing beyond noise" in verdict(few)[0]
    assert "fell by 7.5 ± 4.1 points" in verdict(few)[1]
    assert "no task fell below its best by more than chance explains, at most by 10.0 " in words.accuracy_says(few)
    edit(run / "config.json", lambda config: config["data"].update(test_images=None))
    unknown = read_run(run)
    assert "gain" not in verdict(unknown)[0] and "standard error unknown" in verdict(unknown)[1]


def test_the_spread_over_seeds_counts_where_it_is_larger(tmp_path: Path) -> None:
    files = read_run(reported.made_run(tmp_path / "two", tasks=2, seeds=(0, 4), checkpoints=(0, 2)))
    found = gain(files, "ntkcl", "sequential")
    finals = [[files.results.seeds[seed][name].final_accuracy for name in ("ntkcl", "sequential")] for seed in (0, 4)]
    changes = np.subtract(*np.transpose(finals))
    assert found.value == pytest.approx(changes.mean())
    assert found.error >= changes.std(ddof=1) / 2**0.5 - 1e-12
    assert found.error >= (found.value * 0 + 0.05 * 0.95 / (2 * reported.TEST_IMAGES)) ** 0.5


def test_what_drift_gives_back_can_be_taken_again() -> None:
    all_right, none_right = packed(np.ones(2, bool)), packed(np.zeros(2, bool))
    first = TaskEvaluation(0, (2,), (2,), 2, right=[all_right], right_among_old=[])
    # Both images of task 0 go to each later task's classes, and come back among the old ones in between
    later = [
        TaskEvaluation(
            t, (2,) * (t + 1), (0,) * t + (2,), 2 * t + 2, right=[none_right] * t + [all_right],
            right_among_old=[all_right] + [none_right] * (t - 1),
        )
        for t in (1, 2)
    ]  # fmt: skip
    facts = lost_facts(made_of(aggregate([summarise([first, *later])]), MethodResults))
    assert facts is not None
    # Of task 0 competition takes 200 points and drift gives 100 back; of task 1 drift alone takes 100
    assert (facts.lost.exact, facts.competition.exact, facts.drift.exact) == pytest.approx((100, 100, 0))
