"""Advice: each diagnosis where its numbers say so, none within two standard errors, and a command that can be run."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import to_builtins

from analysis.cli import NTK_ANALYSIS
from analysis.errors import StoreError
from analysis.report.advised import advised
from analysis.report.reading import read_run
from analysis.store.advice_forms import AdviceFile, LeftOutImages, MethodAdvice, Points
from analysis.store.forms import MethodResults, ResultsFile, made_of, read_form
from analysis.store.study_forms import STUDY_FORMAT
from analysis.store.what_if_forms import WhatIfFile
from analysis.studies.advice import engine
from analysis.studies.advice.again import again, fields
from analysis.studies.advice.engine import advice
from analysis.studies.advice.facts import Compared, Facts, facts_of, parts
from analysis.studies.advice.left_out import LeftOutAnswers, nearest_means, paired, points
from analysis.studies.advice.rules import FEW, POOR, RESOLUTION, diagnoses, share_of_way
from analysis.studies.advice.words import part
from ntkcl_jax import cli
from ntkcl_jax.config.model import BACKBONES
from ntkcl_jax.config.presets import preset
from ntkcl_jax.terminal.options import parse_train
from tests.support import reported

RUN = Path("runs/none")


def p(value: float, error: float) -> Points:
    return Points(value=value, error=error)


def near(point: Points | None, value: float, error: float) -> bool:
    assert point
    return (point.value, point.error) == pytest.approx((value, error))


def compared(**changes: Any) -> Compared:
    """Class means are the best of the readouts, and nothing is wrong."""
    usual: dict[str, Any] = {
        "images": 500, "classes": 10, "of_stream": True, "per_class": 100, "best": "prototypes", "own": "prototypes",
        "moved": False, "network_gain": None, "accuracy": p(94, 1), "own_accuracy": p(94, 1), "gain": p(0, 0),
        "rested": None, "ended": None, "rest_gain": None, "means": p(94, 1),
    }  # fmt: skip
    return Compared(**usual | changes)


def facts(left: Compared | None = None, /, **changes: Any) -> Facts:
    """Nothing lost beyond noise."""
    usual: dict[str, Any] = {
        "method": "ntkcl", "learner": "ntkcl", "readout": "head", "tasks": 5, "classes": 10, "images": 1000, "seeds": 1,
        "of_seeds": False, "final": p(94, 0.7), "lost": p(1, 0.6), "competition": p(0.9, 0.6), "drift": p(0.1, 0.2),
        "compared": left or compared(), "what_if": None, "config": preset("digits"),
    }  # fmt: skip
    return Facts(**usual | changes)


def kinds(of: Facts) -> list[str]:
    return [one.finding.kind for one in diagnoses(of)]


BETTER = {"best": "ranpac", "accuracy": p(98, 0.6), "gain": p(4, 0.9)}


def what_if(**best: Any) -> WhatIfFile:
    made = reported.what_if()
    made["best_course"] |= best
    return made_of(made, WhatIfFile)


def test_nothing_is_recommended_where_nothing_was_lost_beyond_noise() -> None:
    made = advice(facts(compared(**BETTER)), RUN)
    assert not made.findings and not made.command and not made.decide
    assert "nothing to mend beyond noise" in made.says[-1] and "1.0 ± 0.6" in made.says[0]
    lossy = advice(facts(lost=p(5, 0.6), competition=p(4.9, 0.6)), RUN)
    assert not lossy.findings and "none of the compared readouts is better" in lossy.says[-1]


@pytest.mark.parametrize(("drift", "found"), [(2.0, []), (2.001, ["rate"]), (-5.0, [])])
def test_a_rate_is_too_high_from_two_standard_errors_of_drift_on(drift: float, found: list[str]) -> None:
    assert kinds(facts(drift=p(drift, 1.0), lost=p(5, 1.2))) == found


def test_a_rate_is_that_of_the_what_if_where_its_gain_is_told() -> None:
    moved = facts(drift=p(6, 1), lost=p(6, 1.2))
    (zero,) = diagnoses(moved)
    assert zero.changes == {"optimizer.later_learning_rate": 0.0} and zero.finding.at_most
    assert near(zero.finding.gain, 4.8, 0.8) and zero.decide == (
        "ntk-analysis",
        "whatif",
        "RUN",
    )
    config = preset("digits")
    own = replace(moved, config=replace(config, optimizer=replace(config.optimizer, later_learning_rate=0.4)))
    (best,) = diagnoses(replace(own, what_if=what_if(rate=0.1)))
    assert best.changes == {"optimizer.later_learning_rate": 0.1} and not best.decide
    assert best.finding.gain == p(3, 1) and "+3.0 ± 1.0 points at the end are forecast." in best.finding.says
    assert not kinds(replace(own, what_if=what_if(told=False)))
    assert not kinds(replace(own, what_if=what_if(rate=0.4)))
    doubtful = reported.what_if() | {"reliable": False}
    (mistrusted,) = diagnoses(replace(own, what_if=made_of(doubtful, WhatIfFile)))
    assert "isn't linear" in mistrusted.finding.says


def test_a_rate_of_zero_goes_by_images_that_the_run_has_learnt() -> None:
    drift = {"drift": p(6, 1), "lost": p(6, 1.2)}
    seen = {"rested": p(92, 0.8), "ended": p(90, 0.9)}
    (found,) = diagnoses(facts(compared(**seen, rest_gain=p(2.01, 1))))  # without any drift
    assert found.finding.gain == p(2.01, 1) and found.changes == {"optimizer.later_learning_rate": 0.0}
    assert "92.0 ± 0.8 % right" in found.finding.says and "90.0 ± 0.9 %: +2.0 ± 1.0 points" in found.finding.says
    assert not kinds(facts(compared(**seen, rest_gain=p(2, 1))))
    assert kinds(facts(compared(**seen, rest_gain=p(-2, 1)), **drift)) == ["rate"]
    assert not kinds(facts(compared(**seen, rest_gain=p(-2.01, 1)), **drift))
    # A what-if that isn't sure of its sizes stands back behind them
    better = compared(**seen, rest_gain=p(3, 1))
    config = preset("digits")
    config = replace(config, optimizer=replace(config.optimizer, later_learning_rate=0.4))
    for reliable, rate in ((True, 0.1), (False, 0.0)):
        made = reported.what_if() | {"reliable": reliable}
        made["best_course"]["rate"] = 0.1
        (one,) = diagnoses(facts(better, config=config, what_if=made_of(made, WhatIfFile)))
        assert one.changes == {"optimizer.later_learning_rate": rate} and not one.decide
    assert not kinds(facts(**drift, learner="adapters", method="adapters"))
    still = replace(config, optimizer=replace(config.optimizer, later_learning_rate=0.0))
    assert not kinds(facts(better, **drift, config=still))


@pytest.mark.parametrize(("gain", "found"), [(1.8, []), (1.81, ["readout"]), (-4.0, [])])
def test_a_readout_is_too_weak_from_two_standard_errors_on(gain: float, found: list[str]) -> None:
    left = compared(**BETTER | {"gain": p(gain, 0.9)})
    assert kinds(facts(left, competition=p(3, 0.6), lost=p(3, 0.6))) == found


def test_a_readout_is_taken_over_the_network_that_serves_it() -> None:
    lossy = {"competition": p(3, 0.6), "lost": p(3, 0.6)}
    (frozen,) = diagnoses(facts(compared(**BETTER), **lossy))
    assert frozen.follow == "frozen/ranpac" and not frozen.changes
    left = compared(**BETTER, moved=True, network_gain=p(5, 1))
    (same,) = diagnoses(facts(left, **lossy))
    assert same.follow == "ntkcl/ranpac" and same.changes == {"optimizer.later_learning_rate": 0.0}
    assert "adds 5.0 ± 1.0 points" in same.finding.says
    # One that is told to end lower than the run isn't advised, however much better it is than the own one there
    assert not kinds(facts(compared(**BETTER | {"accuracy": p(90, 0.6)}), **lossy))
    # A readout that wasn't compared is held against what the run reached
    alone = compared(**BETTER | {"own": None, "own_accuracy": None, "gain": None})
    (other,) = diagnoses(facts(alone, **lossy, final=p(50, 1.6), learner="frozen", readout="linear"))
    assert near(other.finding.gain, 48.0, (0.6**2 + 1.6**2) ** 0.5)


def test_findings_come_by_points_to_win_and_in_one_command() -> None:
    both = facts(compared(**BETTER), drift=p(10, 1), competition=p(5, 1), lost=p(15, 1.2))
    assert kinds(both) == ["rate", "readout"]
    assert kinds(replace(both, drift=p(3, 1))) == ["readout", "rate"]
    made = advice(both, RUN)
    assert made.follow == "frozen/ranpac" and made.decide == ("ntk-analysis whatif runs/none",)
    command = " ".join(made.command)
    assert "--methods ntkcl frozen/ranpac" in command and "--optimizer.later-learning-rate 0.0" in command
    assert part(made).splitlines()[-2:] == [f"next      {command}", "decides   ntk-analysis whatif runs/none"]


def test_a_backbone_that_does_not_fit_is_told_alone() -> None:
    half = 100 * (0.1 + POOR * 0.9)
    drift = {"drift": p(10, 1), "lost": p(10, 1.2), "competition": p(0, 0)}
    assert share_of_way(half, 10) == pytest.approx(POOR)
    assert kinds(facts(compared(accuracy=p(half - 1.99, 1)), **drift)) == ["rate"]
    poor = compared(accuracy=p(half - 2.01, 1))
    assert kinds(facts(poor, **drift)) == ["misfit"]
    assert kinds(facts(compared(means=p(14, 2)), **drift)) == ["misfit"]
    assert kinds(facts(compared(means=p(14.1, 2)), **drift)) == ["rate"]
    assert kinds(facts(compared(accuracy=p(30, 1), per_class=FEW - 1), **drift)) == ["rate"]
    config = preset("digits")
    unknown = advice(facts(poor), RUN)
    assert not unknown.command and unknown.decide == ("ntkcl verify digits --weights FILE",)
    drawn = replace(config, weights="random")
    (random,) = diagnoses(facts(compared(means=p(half - 2.01, 1)), config=drawn))
    assert random.changes == {"weights": "nano"} and "Its weights are random" in random.finding.says
    assert not kinds(facts(compared(means=p(half - 1.99, 1)), config=drawn))
    assert not kinds(facts(compared(means=p(half - 2.01, 1))))  # of trained weights the best readout counts
    shape = replace(BACKBONES["tiny"], image_size=112)
    small = replace(config, weights="w", model=replace(config.model, backbone=shape))
    (larger,) = diagnoses(facts(poor, config=small))
    assert larger.changes == {"model.backbone.image_size": 224, "data.resize": 256}
    assert "224 px" in larger.finding.says


def test_too_few_images_are_told_with_how_many_it_takes() -> None:
    wide = facts(final=p(80, RESOLUTION / 2), lost=p(1, 0.6), images=40)
    assert not kinds(wide)  # two standard errors are what has to be told, no more
    wider = replace(wide, final=p(80, RESOLUTION))
    (found,) = diagnoses(wider)
    assert found.finding.kind == "few" and not found.changes and "about 160 test images" in found.finding.says
    data = replace(preset("digits").data, images_per_class=4)
    (capped,) = diagnoses(replace(wider, config=preset("digits", data=data)))
    assert capped.changes == {"data.images_per_class": 20}
    (seeds,) = diagnoses(replace(wider, seeds=2, of_seeds=True))
    assert seeds.changes == {"seeds": tuple(range(8))} and "more seeds" in seeds.finding.says
    assert kinds(facts(compared(per_class=FEW - 1))) == ["few"] and not kinds(facts(compared(per_class=FEW)))
    # What is told in spite of them goes first
    assert kinds(replace(wider, drift=p(20, 5))) == ["rate"]


def test_the_command_is_understood_and_is_the_run_but_for_its_changes() -> None:
    base = preset("scripts", seeds=(3, 4), methods=("prototypes",))
    base = replace(
        base, data=replace(base.data, flip=True, crop_scale=(0.5, 0.9)), readout=replace(base.readout, level_view=None)
    )
    words = again(base, {"optimizer.later_learning_rate": 0.0, "methods": ("ntkcl", "frozen/ranpac")}, Path("r b"))
    assert words[:3] == ("ntkcl", "train", "scripts")
    read = parse_train("scripts", preset("scripts"), list(words[3:]))
    assert read.run_dir == Path("r b")
    found, before = dict(fields(read.config)), dict(fields(base))
    assert {name: value for name, value in found.items() if value != before[name]} == {
        "optimizer.later_learning_rate": 0.0, "methods": ("ntkcl", "frozen/ranpac"),
    }  # fmt: skip
    made = advice(
        facts(drift=p(6, 1), lost=p(6, 1), config=preset("digits", data=replace(base.data, source="arrays"))), RUN
    )
    assert made.findings and not made.command  # no command line has images that came from Python


def test_class_means_without_each_image_are_those_of_learning_again() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 6 + [4] * 6 + [2] * 5 + [9])
    x = rng.normal(size=(10, 8))[labels] + 1.2 * rng.normal(size=(18, 8))
    right = []
    for i, label in enumerate(labels):
        rest = np.arange(len(labels)) != i
        means = {c: x[rest & (labels == c)].mean(axis=0) for c in {*labels[rest].tolist()}}
        cosine = {c: x[i] @ mean / np.linalg.norm(mean) for c, mean in means.items()}
        right.append(max(cosine, key=cosine.__getitem__) == label)
    assert nearest_means(x, labels).tolist() == right and 0 < sum(right) < len(right)


def test_what_is_known_of_a_method_is_read_from_its_results() -> None:
    flags = np.arange(100) < 50
    left = LeftOutAnswers(
        classes=6, of_stream=True, per_class=20, later=np.arange(100) % 2 == 0, best="ranpac",
        untouched={"prototypes": flags, "ranpac": flags | (np.arange(100) < 70)},
        rested={"prototypes": ~flags, "ranpac": np.ones(100, bool)}, ended=np.arange(100) < 40,
    )  # fmt: skip
    head, moved = Compared.of(left, "adapters", "head"), Compared.of(left, "ntkcl", "head")
    assert head.own is None and head.gain is None and not head.moved
    assert near(head.accuracy, 70, (70 * 30 / 100) ** 0.5)
    assert moved.moved and moved.accuracy == p(100, 0) and moved.gain == p(50, 5)
    assert moved.rest_gain == paired(~flags, np.arange(100) < 40) and moved.ended == points(np.arange(100) < 40)
    assert Compared.of(left, "ntkcl", "ranpac").rest_gain is None is head.rest_gain
    assert moved.network_gain == paired(np.ones(50, bool), np.arange(50) < 35)
    plain = reported.of_counts([[20], [16, 20], [12, 16, 20]], seeds=4)
    plain["forgetting_budget"]["std"].update(drift=0.5)
    lost, competition, drift = parts(made_of(plain, MethodResults))
    assert lost and competition and drift and lost.value == pytest.approx(competition.value + drift.value)
    assert drift.error == pytest.approx(25)
    results = made_of(reported.results(3, (0, 1), ("a", "b", "c"), "digits"), ResultsFile)
    found = facts_of(results, "sequential", preset("digits"), left, None, 6000, 6)
    assert (found.learner, found.readout, found.tasks, found.seeds) == ("frozen", "linear", 3, 2) and found.of_seeds


def test_the_report_begins_with_the_advice_or_its_command(tmp_path: Path) -> None:
    run = tmp_path / "run"
    reported.write(run / "config.json", reported.config(2, (0,), [str(c) for c in range(4)], "digits"))
    assert advised(read_run(run)).missing == f"ntk-analysis advise {run}"
    one = advice(facts(drift=p(6, 1), lost=p(6, 1)), run)
    left = LeftOutImages(images=3, classes=2, per_class=1, untouched={"ridge": p(50, 9)}, best="ridge")
    second = MethodAdvice(method="joint", final=p(1, 1), says=("<b>Well.",))
    made = AdviceFile(format=1, methods=(one, second), left_out=left)
    plain = to_builtins(made, str_keys=True)
    reported.write(run / "analysis/advice.json", plain)
    assert read_form(run / "analysis/advice.json", AdviceFile) == made
    box = advised(read_run(run))
    assert list(box.says) == list(one.says) and box.next.startswith("ntkcl train digits --run-dir ")
    assert list(box.others) == ["<b>Well."] and box.decides == [f"ntk-analysis whatif {run}"] and not box.missing
    for change in ({"methods": []}, {"left_out": plain["left_out"] | {"best": "none"}}, {"format": 9}):
        reported.write(run / "analysis/advice.json", json.loads(json.dumps(plain | change)))
        with pytest.raises(StoreError, match=r"advice\.json isn't of the form"):
            read_run(run)


def test_advice_that_is_followed_runs_the_first_methods_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lossy = facts(compared(**BETTER), lost=p(9, 1), competition=p(9, 1))
    left = LeftOutImages(images=1, classes=1, per_class=1, untouched={"ridge": p(50, 50)}, best="ridge")
    both = (advice(lossy, tmp_path), advice(facts(), tmp_path))
    assert both[0].command and not both[1].command
    made = AdviceFile(format=STUDY_FORMAT, methods=both, left_out=left)
    monkeypatch.setattr(engine, "compute_advice", lambda run, quiet: made)
    ran: list[list[str]] = []
    monkeypatch.setattr(cli, "NTKCL", SimpleNamespace(run=lambda words: ran.append(words) or 7))
    assert NTK_ANALYSIS.run(["advise", str(tmp_path), "--follow", "--quiet"]) == 7
    assert ran == [[*made.methods[0].command[1:], "--quiet"]]
    assert shlex.join(made.methods[0].command) in capsys.readouterr().out
    made = AdviceFile(format=STUDY_FORMAT, methods=both[1:], left_out=left)
    assert NTK_ANALYSIS.run(["advise", str(tmp_path), "--follow"]) == 0 and len(ran) == 1
    assert NTK_ANALYSIS.run(["advise", str(tmp_path), "--follow", "--json"]) == 2
    assert "take one" in capsys.readouterr().err
