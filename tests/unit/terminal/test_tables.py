"""Tables say what the numbers are, fit their width, and can't be broken by names."""

import re
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkcl_jax.errors import RunFolderError
from ntkcl_jax.terminal.budget import adding_up, budget_cells
from ntkcl_jax.terminal.tables import accuracy_table, percent, short_name, summary_of
from ntkcl_jax.training.metrics import SPLIT, aggregate, summarise
from tests.support.reported import evaluation

HOSTILE = "a|b $x_{1} \\frac{ <b>*_`[l](u)\x1b[2J\n漢字"


def results_of(per_seed: dict[str, list[list[list[int]]]], names: list[str], images: int = 10) -> dict:
    """What results.json holds, from right answers (of `images`) of each method, seed, evaluation and task."""
    summaries = {
        method: [summarise([evaluation(rows, t, images) for t in range(len(rows))]) for rows in seeds]
        for method, seeds in per_seed.items()
    }
    count = max(map(len, summaries.values()))
    return {
        "seeds": {str(s): {m: seeds[s] for m, seeds in summaries.items() if s < len(seeds)} for s in range(count)},
        "summary": {method: aggregate(seeds) for method, seeds in summaries.items()},
        "task_names": names,
    }


def many_tasks(tasks: int, methods: list[str], name: str = "task") -> dict:
    """Two seeds of a run that slowly forgets."""
    rows = [[[max(0, 10 - t + k - s) for k in range(t + 1)] for t in range(tasks)] for s in range(2)]
    return results_of(dict.fromkeys(methods, rows), [f"{name} {k}" for k in range(tasks)])


TWO = results_of(
    {"ntkcl": [[[10], [8, 9]], [[9], [8, 9]]], "sequential": [[[10], [0, 10]], [[10], [1, 10]]]}, ["3 7", "0 1"]
)


def test_the_table_reads_as_worked_out_by_hand():
    assert accuracy_table(TWO) == (
        "Lost on old tasks since each was learned, points, mean over tasks ± standard deviation over seeds\n"
        "method            lost  = competition     + drift\n"
        "ntkcl       15.0 ± 7.1      5.0 ± 7.1  10.0 ± 0.0\n"
        "sequential  95.0 ± 7.1     45.0 ± 7.1  50.0 ± 0.0\n"
        "Competition: still right among the old classes, but a new one scores higher; it takes a better\n"
        "readout or better features, and a smaller later learning rate where training favours its own\n"
        "classes. Drift: answers among the old classes changed; protection or a smaller later learning rate\n"
        "lessens it.\n"
        "\n"
        "Accuracy on all classes seen, %, mean ± standard deviation over seeds\n"
        "method           average         final    forgetting  backward transfer  seeds\n"
        "ntkcl       90.00 ± 3.54  85.00 ± 0.00  15.00 ± 7.07      -15.00 ± 7.07      2\n"
        "sequential  76.25 ± 1.77  52.50 ± 3.54  95.00 ± 7.07      -95.00 ± 7.07      2\n"
        "\n"
        "Accuracy after each task, %, mean ± standard deviation over seeds\n"
        "method             task 1        task 2\n"
        "ntkcl        95.00 ± 7.07  85.00 ± 0.00\n"
        "sequential  100.00 ± 0.00  52.50 ± 3.54\n"
        "\n"
        "Tasks: 1 = 3 7; 2 = 0 1\n"
    )


def test_markdown_tables_have_the_same_cells():
    cells = re.findall(r"\d+\.\d\d ± \d+\.\d\d", accuracy_table(TWO))
    markdown = accuracy_table(TWO, markdown=True)
    assert re.findall(r"\d+\.\d\d ± \d+\.\d\d", markdown) == cells
    assert "| ntkcl | 90.00 ± 3.54 | 85.00 ± 0.00 | 15.00 ± 7.07 | -15.00 ± 7.07 | 2 |" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [5] * 4 + [7] * 4 + [4] * 4
    assert not re.search(r"\n\n\n", markdown)


@pytest.mark.parametrize("tasks", [1, 2, 7, 15, 40])
@pytest.mark.parametrize("width", [*range(60, 80), 100])
def test_lines_stay_within_the_width_and_no_task_is_lost(tasks, width):
    text = accuracy_table(many_tasks(tasks, ["ntkcl", "prototypes", "a method with a very long name"]), width=width)
    head, after = text.split("Accuracy after each task")
    assert max(map(len, after.splitlines()[1:])) <= width
    if width == 100:
        assert max(map(len, head.splitlines())) <= width
    heads = [line for line in after.splitlines() if line.startswith("method")]
    assert re.findall(r"task (\d+)", " ".join(heads)) == [str(t + 1) for t in range(tasks)]


def test_a_single_task_and_seed_show_neither_spread_nor_forgetting():
    text = accuracy_table(results_of({"ntkcl": [[[7]]]}, ["all"]))
    assert "±" not in text
    assert re.search(r"^ntkcl +70\.00 +70\.00 +– +– +1$", text, re.MULTILINE)


def test_one_seed_shows_standard_errors_over_its_images():
    text = accuracy_table(results_of({"ntkcl": [[[10], [8, 9]]]}, ["a", "b"]))
    assert "mean over tasks ± standard error over test images\n" in text
    # Two of ten lost: sqrt(2 - 2² / 10) / 10; one of ten: sqrt(1 - 1 / 10) / 10
    assert re.search(r"^ntkcl +20\.0 ± 12\.6 +10\.0 ± 9\.5 +10\.0 ± 9\.5$", text, re.MULTILINE)


def test_a_run_of_an_older_version_is_told_so_and_a_method_that_is_known_stands_beside_it():
    older = deepcopy(TWO)
    for name in SPLIT:
        del older["summary"]["sequential"][name]
    text = accuracy_table(older)
    assert re.search(r"^ntkcl +15\.0 ± 7\.1 ", text, re.MULTILINE)
    assert re.search(r"^sequential +– +– +–$", text, re.MULTILINE)
    assert "`ntkcl evaluate RUN`" in text and "`ntkcl evaluate RUN`" not in accuracy_table(TWO)
    older["summary"]["ntkcl"]["forgetting_budget"] = {"mean": None, "std": None, "n": 2}  # as of another older seed
    assert budget_cells(older["summary"]["ntkcl"], several=True) == ["–"] * 3


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=4), st.integers(0, 3))
def test_shown_parts_add_up_to_the_shown_sum_and_none_is_far_from_what_it_is(parts, digits):
    total, *shown = adding_up(sum(parts), parts, digits)
    assert round(10**digits * total) == sum(round(10**digits * part) for part in shown)
    assert abs(total - 100 * sum(parts)) <= 0.5001 / 10**digits
    for one, part in zip(shown, parts, strict=True):
        assert abs(one - 100 * part) <= 1.0001 / 10**digits
        assert part != 0 or one == 0  # what is nothing is shown as nothing


def test_parts_of_another_sum_are_refused():
    with pytest.raises(ValueError, match=r"add up to 0\.5"):
        adding_up(0.5, [0.1, 0.1])


def test_a_method_that_is_not_as_far_gets_a_dash():
    text = accuracy_table(results_of({"ntkcl": [[[10], [8, 9]]], "joint": [[[9]]]}, ["a", "b"]))
    assert re.search(r"^joint +90\.00 +–$", text, re.MULTILINE)


def test_numbers_are_rounded_only_when_printed():
    # thirds: the mean of rounded percents would be 66.66 or 66.67 by luck; from fractions it is exact
    text = accuracy_table(results_of({"ntkcl": [[[2]], [[1]], [[3]]]}, ["a"], images=3))
    assert "66.67 ± 33.33" in text


def test_hostile_names_break_neither_columns_nor_markdown():
    results = many_tasks(3, ["ntkcl", HOSTILE], HOSTILE)
    plain, markdown = accuracy_table(results), accuracy_table(results, markdown=True)
    assert "\x1b" not in plain + markdown
    unescaped = [re.sub(r"\\.", "", line) for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in unescaped} == {7, 5}
    assert not re.search(r"[<>$`*\[\]]", re.sub(r"\\.", "", markdown))


@pytest.mark.parametrize(
    "broken", [{}, {"summary": {}, "task_names": []}, {"summary": TWO["summary"]}, {"summary": {"ntkcl": {}}}]
)
def test_incomplete_results_are_refused(broken):
    with pytest.raises(RunFolderError, match="expected"):
        accuracy_table(broken)


def test_a_missing_metric_is_named():
    one = {k: v for k, v in TWO["summary"]["ntkcl"].items() if k != "forgetting"}
    with pytest.raises(RunFolderError, match="forgetting of method ntkcl"):
        summary_of({"summary": {"ntkcl": one}, "task_names": []})


def test_percent_has_no_negative_zero():
    assert percent(-0.00001, 0.0) == "0.00 ± 0.00"
    assert percent(-0.001, digits=1) == "-0.1"


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
def test_short_names_keep_their_limit(limit):
    assert len(short_name("x" * 40, limit)) == limit
    assert short_name("x" * limit, limit) == "x" * limit
