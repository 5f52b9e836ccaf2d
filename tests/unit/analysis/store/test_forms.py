"""Files are read into objects of their forms, and whatever differs is refused in one line that names the place."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from analysis.store.forms import ConfigFile, Form, ResultsFile, made_of, read_form
from analysis.store.study_forms import ForecastFile, GapsFile, SummaryFile
from tests.support import reported
from tests.support.stored import refused

FORMS: dict[str, type[Form]] = {
    "config.json": ConfigFile,
    "results.json": ResultsFile,
    "summary.json": SummaryFile,
    "gaps.json": GapsFile,
    "forecast.json": ForecastFile,
}
LONG = "a\nb" * 500
BUDGET = "summary.ntkcl.forgetting_budget.mean"
AMONG_OLD = "summary.ntkcl.accuracy_among_old_classes"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each file of a small run."""
    run = reported.made_run(tmp_path_factory.mktemp("forms") / "run", tasks=3, checkpoints=(0, 3))
    return {path.name: path.read_text() for path in run.rglob("*.json") if path.name in FORMS}


def set_at(value: Any, place: str, new: Any) -> None:
    """Replace or add what is at a place: keys and indices, parted by dots."""
    *outer, last = place.split(".")
    for key in outer:
        value = value[int(key)] if isinstance(value, list) else value[key]
    if isinstance(value, list):
        value[int(last)] = new
    else:
        value[last] = new


@pytest.mark.parametrize("name", FORMS)
def test_a_file_becomes_an_object_and_may_hold_more(files: dict[str, str], tmp_path: Path, name: str) -> None:
    value = json.loads(files[name])
    (tmp_path / name).write_text(json.dumps(value | {"new": [{"in": "a later version"}]}))
    made = read_form(tmp_path / name, FORMS[name])
    assert made is not None and made == made_of(value, FORMS[name])
    with pytest.raises(AttributeError):
        made.format = 3  # type: ignore[attr-defined]
    assert read_form(tmp_path / "absent.json", FORMS[name]) is None


def test_what_is_read_is_what_was_written(files: dict[str, str]) -> None:
    gaps = made_of(json.loads(files["gaps.json"]), GapsFile)
    written = json.loads(files["gaps.json"])["seeds"]["0"]["by_task"][0]
    assert gaps.every[0].cross.between == written["cross"]["between"] and len(written["cross"]["between"]) == 1
    assert gaps.every[0].interplay == {int(task): value for task, value in written["interplay"].items()}
    config = made_of(json.loads(files["config.json"]), ConfigFile)
    assert config.scenarios[0].class_order == (5, 4, 3, 2, 1, 0) and config.command == ("ntkcl", "train", "digits")
    summary = made_of(json.loads(files["summary.json"]), SummaryFile)
    assert summary.seeds[0].first.drift == (None, None, None) and summary.seeds[0].last.drift[0] > 0
    pair = made_of(json.loads(files["forecast.json"]), ForecastFile).seeds[0].pairs[0]
    assert pair.concentration is not None and pair.concentration.modes.of_95 == 5


# File, place, what stands there instead, and what the refusal says.
REFUSED = [
    ("config.json", "format", 99, "format is 99, expected"),
    ("results.json", "format", True, "format: expected `int`, got `bool`"),
    ("config.json", "config.methods", ["ntkcl", None], "config.methods[1]: expected `str`, got `null`"),
    ("config.json", "data.class_names", "abc", "data.class_names: expected `array`, got `str`"),
    ("config.json", "scenarios.0.class_order", [0, 1, 2, 3, 4, 99], "classes and task sizes of seed 0"),
    ("config.json", "scenarios.0.class_order", [0, 1, -1], "scenarios.0.class_order[2]: expected `int` >= 0"),
    ("config.json", "scenarios.0.task_sizes", [2, 2, 99], "classes and task sizes of seed 0"),
    ("config.json", "scenarios.x", {"class_order": [], "task_sizes": []}, "scenarios.x: unexpected key"),
    ("config.json", "scenarios.1234567890", {"class_order": [], "task_sizes": []}, "scenarios.1234567890: unexpected"),
    ("config.json", "versions.jax", 1, "versions.jax: expected `str`, got `int`"),
    ("config.json", f"versions.{LONG}", 1, "versions.a ba b"),
    ("config.json", "scenarios.\ud800", {}, "expected names in Unicode"),
    ("results.json", "summary", {}, "summary: expected at least one method"),
    ("results.json", "summary.ntkcl.accuracy_matrix.mean.1.0", 1.5, "accuracy_matrix.mean[1][0]: expected a fraction"),
    ("results.json", "summary.ntkcl.accuracy_matrix.mean.1.0", None, "accuracy_matrix.mean[1][0]: expected a fraction"),
    ("results.json", "summary.ntkcl.accuracy_matrix.mean.1", [1, 1], "ntkcl: accuracy_matrix.mean[1]: expected 3"),
    ("results.json", "summary.ntkcl.accuracy_matrix.mean", [], "expected a row for each task"),
    ("results.json", "summary.sequential.accuracy_after_task.std", [], "summary.sequential: accuracy_after_task.std"),
    ("results.json", "summary.ntkcl.accuracy_after_task.mean", [1, None, 1], "accuracy_after_task.mean[1]: expected"),
    ("results.json", "summary.ntkcl.final_accuracy.mean", None, "summary.ntkcl.final_accuracy.mean: expected `float`"),
    ("results.json", f"{BUDGET}.lost", 0.5, "ntkcl.forgetting_budget.mean: forgetting_budget: expected parts that add"),
    ("results.json", f"{BUDGET}.drift_error", -0.5, "expected standard errors from 0 on"),
    ("results.json", f"{BUDGET}.of_task.drift", [0.1, 1e300], "forgetting_budget: expected parts that add up"),
    ("results.json", f"{BUDGET}.of_task.lost", [0.1, 1e300], "forgetting_budget.lost: expected fractions between"),
    ("results.json", f"{BUDGET}.of_task.competition", [0.1, -0.1], "competition: expected fractions from 0 on"),
    ("results.json", f"{BUDGET}.of_task.drift", [0.1], "forgetting_budget.of_task: expected as many values"),
    ("results.json", f"{BUDGET}.test_images", [20, 20], "forgetting_budget.mean.test_images: expected 3 values"),
    ("results.json", f"{BUDGET}.test_images.1", 0, "test_images: expected at least one for each task"),
    ("results.json", f"{BUDGET}.drift_lost.2.1", None, "forgetting_budget.mean.drift_lost[2][1]: expected a fraction"),
    ("results.json", BUDGET, None, "forgetting_budget: expected both or none of mean and std"),
    ("results.json", "summary.ntkcl.forgetting_budget.n", 0, "forgetting_budget.n: expected at least one seed"),
    ("results.json", f"{AMONG_OLD}.mean", None, "accuracy_among_old_classes.mean: expected"),
    ("results.json", f"{AMONG_OLD}.mean.1.0", 1.5, "among_old_classes.mean[1][0]: expected"),
    ("results.json", "task_names", ["a", "b"], "task_names: expected a name for each row"),
    ("results.json", "seeds.0.sequential", {}, "seeds.0.sequential: object missing required field `forgetting`"),
    ("summary.json", "side", LONG, "side: invalid enum value"),
    ("summary.json", "seeds", {}, "seeds: expected at least one seed"),
    ("summary.json", "seeds.0.tasks", [], "seeds.0: expected at least one task and one checkpoint"),
    ("summary.json", "seeds.0.checkpoints", {}, "seeds.0: expected at least one task and one checkpoint"),
    ("summary.json", "seeds.0.checkpoints.3.drift.1", "x", "seeds.0.checkpoints.3.drift[1]: expected `float | null`"),
    ("summary.json", "seeds.0.checkpoints.3.drift", [1, 2], "seeds.0: checkpoints.3.drift: expected 3 values, got 2"),
    ("summary.json", "seeds.0.checkpoints.3.unrelated_ratio", [[1]], "3.unrelated_ratio: expected 3 values"),
    ("summary.json", "seeds.0.checkpoints.3.same_task_ratio.1", [1], "checkpoints.3.same_task_ratio[1]: expected 3"),
    ("summary.json", "seeds.0.checkpoints.0.spectrum.0.0", None, "checkpoints.0.spectrum[0][0]: expected `float`"),
    ("summary.json", "seeds.0.checkpoints.0.groups.fusion.share", [1], "checkpoints.0.groups: expected 3 values"),
    ("summary.json", "seeds.0.checkpoints.3.groups", {}, "checkpoints.3.groups: expected the same groups"),
    ("gaps.json", "format", 2, "format is 2, expected 1"),
    ("gaps.json", "clip", "1", "clip: expected `float | null`, got `str`"),
    ("gaps.json", "seeds.0.names", ["a"], "seeds.0: names: expected 3 values, got 1"),
    ("gaps.json", "seeds.0.tasks", [1, 0, 2], "seeds.0: by_task: expected the tasks in the order of 'tasks'"),
    ("gaps.json", "seeds.0.by_task.0.cross.between.1,2,3", 1.0, "cross.between.1,2,3: unexpected key"),
    ("gaps.json", "seeds.0.by_task.0.interplay.-1", 1.0, "by_task[0].interplay.-1: unexpected key"),
    ("gaps.json", "seeds.0.by_task.2.bound.theorem", 1, "by_task[2].bound.theorem: expected `bool`, got `int`"),
    ("gaps.json", "seeds.0.by_task.2.learning_curve.sizes.0", 0, "learning_curve.sizes[0]: expected `int` >= 1"),
    ("gaps.json", "seeds.0.by_task.2.learning_curve.measured", [1], "measured: expected 4 values, got 1"),
    ("gaps.json", "seeds.0.by_task.2.learning_curve.network.images", 0, "network.images: expected `int` >= 1"),
    ("forecast.json", "method", None, "method: expected `str`, got `null`"),
    ("forecast.json", "seeds.0.names", [], "seeds.0: names: expected 3 values, got 0"),
    ("forecast.json", "seeds.0.pairs.1.new", 1.5, "seeds.0.pairs[1].new: expected `int | str`, got `float`"),
    ("forecast.json", "seeds.0.pairs.1.concentration.modes", {}, "modes: object missing required field `95`"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "new", "says"), REFUSED)
def test_what_differs_is_refused_in_one_line_with_its_place(
    files: dict[str, str], tmp_path: Path, name: str, place: str, new: Any, says: str
) -> None:
    value = json.loads(files[name])
    set_at(value, place, new)
    (tmp_path / name).write_text(json.dumps(value))
    line = refused(lambda: read_form(tmp_path / name, FORMS[name]), str(tmp_path / name), says, "make it again")
    assert line.isprintable() and len(line) < 600


def test_seeds_whose_kernels_are_split_by_other_groups_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    value = json.loads(files["summary.json"])
    value["seeds"]["1"] = json.loads(json.dumps(value["seeds"]["0"]))
    for figures in value["seeds"]["1"]["checkpoints"].values():
        figures["groups"] = {"other": next(iter(figures["groups"].values()))}
    (tmp_path / "summary.json").write_text(json.dumps(value))
    says = "seeds: expected the same groups of parameters in every seed"
    refused(lambda: read_form(tmp_path / "summary.json", SummaryFile), says)


def containers(value: Any) -> list[dict[str, Any]]:
    """Every object within a JSON value."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] * isinstance(value, dict) + [one for part in inner for one in containers(part)]


def required(form: Any) -> set[str]:
    """Names of the fields without a default, of a form and of all forms within it."""
    info = msgspec.inspect.multi_type_info([form])[0]
    found, todo = set(), [info]
    while todo:
        one = todo.pop()
        if isinstance(one, msgspec.inspect.StructType):
            found |= {field.encode_name for field in one.fields if field.required}
            todo += [field.type for field in one.fields]
        todo += [getattr(one, name) for name in ("item_type", "value_type") if hasattr(one, name)]
        todo += getattr(one, "types", ())
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_required_key_that_is_absent_is_named(files: dict[str, str], name: str) -> None:
    missed, seen = set(), set()
    # From the end: a seed's budget looks like the summary's, which comes after it and is read
    for at, container in reversed(list(enumerate(containers(json.loads(files[name]))))):
        kind = frozenset((key, type(part)) for key, part in container.items())
        for key in container if kind not in seen else ():  # one of each kind of object will do
            value = json.loads(files[name])
            del containers(value)[at][key]
            try:
                made_of(value, FORMS[name])
            except ValueError as error:
                missed |= set(re.findall("missing required field `(.*)`", str(error)))
        seen.add(kind)
    assert missed == required(FORMS[name])


def test_one_wrong_key_among_very_many_is_found(files: dict[str, str], tmp_path: Path) -> None:
    value = json.loads(files["config.json"])
    value["scenarios"] = {str(seed): {"class_order": [0], "task_sizes": [1]} for seed in range(50_000)}
    value["versions"] = {f"package {i}": "1" for i in range(50_000)}
    value["versions"]["package 31416"] = 1
    (tmp_path / "config.json").write_text(json.dumps(value))
    refused(lambda: read_form(tmp_path / "config.json", ConfigFile), "versions.package 31416: expected `str`")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 30])
def test_numbers_that_are_none_are_refused(files: dict[str, str], tmp_path: Path, number: str) -> None:
    path = tmp_path / "gaps.json"
    path.write_text(files["gaps.json"].replace('"clip": 1.0', f'"clip": {number}'))
    refused(lambda: read_form(path, GapsFile), str(path), "can't be read")
