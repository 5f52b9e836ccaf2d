"""The numbers behind the report's figures, as rows: shown where they are few, and written as CSV."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.report.facts import by_method, forecast_facts, gap_facts, kernel_facts, mean, pairs_of, shown_method
from analysis.report.forgotten import forgotten
from analysis.report.lost import lost_facts
from analysis.report.reading import RunFiles, clean, floats
from analysis.store.forms import Matrix, Number, Numbers, ResultsFile
from analysis.store.study_forms import (
    Budget,
    ForecastFile,
    ForecastPair,
    GapsFile,
    KernelFigures,
    LearningCurve,
    SummaryFile,
)
from analysis.store.what_if_forms import Outcome, WhatIfFile

Value = str | float | None
Rows = Sequence[Sequence[Value]]
SHOWN_ROWS = 12
"""Rows up to which a table is shown open."""
LISTED = 8
"""Images whose numbers a table names."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers with names.

    Attributes:
        name: of the CSV file, without ending.
        title: for people.
        header: names of the columns.
        rows: texts, numbers, or None where there is none.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Rows

    def csv(self) -> bytes:
        r"""The table as a CSV file: numbers unrounded, nothing where there is none.

        A text that a spreadsheet would take for a formula gets an apostrophe.

        Example:
            >>> Table("t", "", ["task", "loss"], [["=1+1", 0.5], ["a", None]]).csv()
            b"task,loss\r\n'=1+1,0.5\r\na,\r\n"
        """
        memory = io.StringIO(newline="")  # the writer's own line ends, whatever the system
        writer = csv.writer(memory)
        writer.writerow(self.header)
        writer.writerows([[_safe(value) for value in row] for row in self.rows])
        return memory.getvalue().encode()


def _safe(value: Value) -> Value:
    # Names come from folders that somebody else made; numbers may begin with a minus sign
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def cell(value: float | None) -> str:
    """A number in a table that is shown.

    Example:
        >>> cell(3), cell(0.123456), cell(None)
        ('3', '0.123', '–')
    """
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"  # whole numbers count something: not 1.2e+03


def rounded_percent(value: float | None) -> float | None:
    """A fraction in percent with two decimals, as a table shows it.

    Example:
        >>> rounded_percent(0.123456), rounded_percent(None)
        (12.35, None)
    """
    return None if value is None else round(100 * value, 2)


def headline(results: ResultsFile) -> Table:
    """The methods' main accuracies, mean over seeds."""
    rows: list[Sequence[Value]] = []
    for method, made in results.summary.items():
        numbers = (made.final_accuracy, made.average_incremental_accuracy, made.forgetting, made.backward_transfer)
        rows.append([clean(method), *(rounded_percent(one.mean) for one in numbers)])
    header = ["method", "final accuracy", "average over tasks learned", "forgetting", "backward transfer"]
    return Table("accuracy_summary", "In percent of test images, mean over seeds", header, rows)


def accuracy(results: ResultsFile) -> Table:
    """The accuracy matrices, mean over seeds, one number a row."""
    rows: list[Sequence[Value]] = [
        [clean(method), t + 1, k + 1, value]
        for method, made in results.summary.items()
        for t, line in enumerate(made.accuracy_matrix.mean)
        for k, value in enumerate(line[: t + 1])
    ]
    return Table("accuracy_matrix", "", ["method", "after_task", "test_images_of_task", "accuracy"], rows)


def lost(results: ResultsFile) -> Table:
    """What old tasks lost under every method, and to what; nothing of methods of which that isn't known."""
    rows: list[Sequence[Value]] = []
    for method, made in results.summary.items():
        if facts := lost_facts(made):
            parts = (facts.lost, facts.competition, facts.drift)
            rows.append([clean(method), *(value for one in parts for value in (one.value, round(one.error, 1)))])
    header = ["method", "lost", "±", "to competition", "± ", "to drift", "±  "]
    return Table("forgetting_budget_summary", "Points lost since each task was learned, mean over tasks", header, rows)


def lost_pairs(results: ResultsFile) -> Table:
    """What each old task lost to each later one, mean over seeds, with standard errors over its test images."""
    rows: list[Sequence[Value]] = []
    for method, made in results.summary.items():
        budget, among_old = made.lost, made.accuracy_among_old_classes
        if budget is None or among_old is None or among_old.mean is None:
            continue
        old, after = floats(among_old.mean), floats(made.accuracy_matrix.mean)
        taken, of = floats(budget.drift_lost), budget.of_task
        for k in range(made.tasks - 1):
            images = budget.test_images[k]
            for s in range(k + 1, made.tasks):
                parts = (old[s, k] - after[s, k], after[s - 1, k] - old[s, k])
                won = taken[s, k] - parts[1]
                # Of g gains and l losses; competition has no gains. Rounding may leave a little below zero
                squares = (parts[0] - parts[0] ** 2, taken[s, k] + won - parts[1] ** 2)
                errors = [math.sqrt(max(square, 0.0) / images) for square in squares]
                at: list[Value] = [clean(method), k + 1, str(s + 1)]
                rows.append([*at, parts[0], errors[0], parts[1], errors[1], taken[s, k], won])
            rows.append([clean(method), k + 1, "all", of.competition[k], of.competition_error[k], of.drift[k],
                         of.drift_error[k], None, None])  # fmt: skip
    header = ["method", "test_images_of_task", "later_task", "competition", "competition_error", "drift",
              "drift_error", "drift_lost", "drift_won"]  # fmt: skip
    return Table("forgetting_budget", "", header, rows)


def forgotten_images(files: RunFiles) -> Table:
    """What became of each old task's test images, of the shown method's first seed that kept its answers."""
    rows: list[Sequence[Value]] = []
    by_seed = files.answers.get(shown_method(files), {})
    for one in forgotten(next(iter(by_seed.values()))) if by_seed else ():
        competed, most = int(one.competed.sum()), Counter(one.by.tolist()).most_common(1)
        which = ", ".join(map(str, one.images[:LISTED])) + (", …" if len(one.images) > LISTED else "")
        rows.append([one.task + 1, one.count, len(one.images), competed, len(one.images) - competed, one.won,
                     most[0][0] + 1 if most else None, which or None])  # fmt: skip
    header = ["task", "test images", "forgotten", "outbid by a new class", "drifted", "won", "most by task", "which"]
    seed = f" (seed {next(iter(by_seed))})" if len(by_seed) > 1 else ""
    title = f"Test images that were right when their task was learned and are wrong at the end{seed}"
    return Table("forgotten", title, header, rows)


def every_forgotten_image(files: RunFiles) -> Table:
    """Every forgotten test image of every method and seed, by its number among its task's test images, from 0."""
    rows: list[Sequence[Value]] = [
        [clean(method), seed, one.task + 1, int(image), int(by) + 1, "competition" if competed else "drift"]
        for method, by_seed in files.answers.items()
        for seed, evaluations in by_seed.items()
        for one in forgotten(evaluations)
        for image, by, competed in zip(one.images, one.by, one.competed, strict=True)
    ]
    header = ["method", "seed", "test_images_of_task", "image", "turned_wrong_by_task", "to"]
    return Table("forgotten_images", "", header, rows)


def chosen(files: RunFiles) -> Table:
    """What readouts have chosen by themselves, a row for each method and seed."""
    rows = [[clean(method), seed, said] for method, seeds in files.chosen.items() for seed, said in seeds.items()]
    return Table("readouts", "What readouts chose after their newest task", ["method", "seed", "choice"], rows)


def groups(files: RunFiles) -> Table:
    """What each group of parameters carries at the last checkpoint, means over seeds, tasks and pairs of tasks."""
    rows: list[Sequence[Value]] = []
    for method, summary in by_method(files).items():
        last = [seed.last for seed in summary.seeds.values()]
        for name in last[0].groups:
            parts = [figures.groups[name] for figures in last]
            rows.append([
                method, clean(name), mean(share for part in parts for share in part.share),
                mean(value for part in parts for value in part.centred_target_alignment or ()),
                mean(part.stream_alignment for part in parts),
                mean(ratio for part in parts for ratio in pairs_of(part.inter_intra_ratio or ())),
            ])  # fmt: skip
    header = ["method", "parameters", "share of the trace", "centred alignment, within tasks", "over all tasks",
              "inter/intra kernel"]  # fmt: skip
    return Table("groups", "Each group's own kernel at the last checkpoint", header, rows)


def methods(files: RunFiles) -> Table:
    """What the kernels of every method say, means over seeds, tasks and pairs of tasks; see `facts.KernelFacts`."""
    rows: list[Sequence[Value]] = []
    for method, summary in by_method(files).items():
        facts = kernel_facts(summary)
        made = files.results.summary.get(method) if files.results else None
        accuracies = (made.final_accuracy.mean, made.forgetting.mean) if made else (None, None)
        rows.append([method, *map(rounded_percent, accuracies), facts.first, facts.last, facts.unrelated, facts.drift,
                     facts.dimension, facts.alignment, clean(summary.outputs), summary.per_task])  # fmt: skip
    header = ["method", "final accuracy, %", "forgetting, points", "inter/intra kernel, first", "last", "if unrelated",
              "drift", "effective dimension", "target alignment", "outputs", "probe images of a task"]  # fmt: skip
    return Table("methods", "Kernels of each method's own trainable parameters", header, rows)


def comparison(files: Sequence[RunFiles]) -> Table:
    """The main numbers of several runs, a row for each."""
    rows: list[Sequence[Value]] = []
    for one in files:
        made = one.results.summary[shown_method(one)] if one.results else None
        accuracies = (made.final_accuracy.mean, made.forgetting.mean) if made else (None, None)
        kernels = kernel_facts(one.summary) if one.summary else None
        gaps = gap_facts(one.gaps) if one.gaps else None
        forecast = forecast_facts(one.forecast) if one.forecast else None
        rows.append([
            one.name, *map(rounded_percent, accuracies),
            *((kernels.last, kernels.drift) if kernels else (None, None)),
            *((gaps.forgetting, gaps.network_forgetting) if gaps else (None, None)),
            *((forecast.cosine, forecast.correlation) if forecast else (None, None)),
        ])  # fmt: skip
    header = ["run", "final accuracy, %", "forgetting, points", "inter/intra kernel", "kernel drift",
              "added by later tasks, theory", "added by later tasks, network", "forecast: cosine",
              "forecast: correlation"]  # fmt: skip
    return Table("comparison", "Side by side", header, rows)


def of_summary(summary: SummaryFile) -> list[Table]:
    """Ratios, spectra, per-task figures and shares of every seed and checkpoint; tasks count from 1."""
    ratios, spectra, lines, shares = [], [], [], []
    for seed, part in summary.seeds.items():
        tasks = [t + 1 for t in part.tasks]
        for number, figures in part.checkpoints.items():
            at = [seed, number]
            for i, t in enumerate(tasks):
                lines.append([*at, t, *(values[i] for values in _by_task(figures).values())])
                spectra += [[*at, t, j + 1, value] for j, value in enumerate(figures.spectrum[i])]
                shares += [[*at, clean(name), t, group.share[i]] for name, group in figures.groups.items()]
                for j, k in enumerate(tasks):
                    ratios.append([*at, t, k, *(values[i][j] for values in _by_pair(figures).values())])
    at = ["seed", "checkpoint"]
    _, first = summary.first_seed
    return [
        Table("ratios", "", [*at, "task", "other_task", *_by_pair(first.first)], ratios),
        Table("spectra", "", [*at, "task", "index", "eigenvalue"], spectra),
        Table("per_task", "", [*at, "task", *_by_task(first.first)], lines),
        Table("shares", "", [*at, "parameters", "task", "share_of_trace"], shares),
    ]


def _by_pair(figures: KernelFigures) -> dict[str, Matrix]:
    return {
        "inter_intra_ratio": figures.inter_intra_ratio,
        "unrelated_ratio": figures.unrelated_ratio,
        "same_task_ratio": figures.same_task_ratio,
    }


def _by_task(figures: KernelFigures) -> dict[str, Numbers]:
    return {
        "effective_dimension": figures.effective_dimension,
        "target_alignment": figures.target_alignment,
        "drift": figures.drift,
    }


BUDGET_COLUMNS: Mapping[str, Callable[[Budget], Number]] = {
    "task_specific": lambda budget: budget.task_specific,
    "total": lambda budget: budget.total,
    "direct": lambda budget: budget.direct,
    "forgetting": lambda budget: budget.forgetting,
    "train_loss": lambda budget: budget.train_loss,
    "test_loss": lambda budget: budget.test_loss,
    "learned_test_loss": lambda budget: budget.learned_test_loss,
}
CURVE_COLUMNS: Mapping[str, Callable[[LearningCurve], Numbers]] = {
    "finite_population": lambda curve: curve.finite_population,
    "eigenlearning": lambda curve: curve.eigenlearning,
    "leave_one_out": lambda curve: curve.leave_one_out,
    "measured": lambda curve: curve.measured,
    "measured_std": lambda curve: curve.measured_std,
}


def of_gaps(gaps: GapsFile) -> list[Table]:
    """Budgets, their parts by later task, and learning curves of every seed; tasks count from 1."""
    budgets, parts, curves = [], [], []
    for seed, part in gaps.seeds.items():
        for title, gap in zip(part.names, part.by_task, strict=True):
            task = gap.task + 1
            # A gap is itself the budget of theory's learner
            for learner, budget in (("theory", gap), ("network", gap.network)):
                at = [seed, learner, task]
                budgets.append([*at, clean(title), *(value(budget) for value in BUDGET_COLUMNS.values())])
                parts += [[*at, "interplay", str(k + 1), value] for k, value in budget.interplay.items()]
                parts += [[*at, "cross own", str(k + 1), value] for k, value in budget.cross.own.items()]
                for pair, value in budget.cross.between.items():
                    parts.append([*at, "cross between", " and ".join(str(int(k) + 1) for k in pair.split(",")), value])
            curve = gap.learning_curve
            for i, size in enumerate(curve.sizes):
                curves.append([seed, task, size, *(values(curve)[i] for values in CURVE_COLUMNS.values())])
    at = ["seed", "learner", "task"]
    return [
        Table("gaps", "", [*at, "name", *BUDGET_COLUMNS], budgets),
        Table("gap_parts", "", [*at, "part", "later_tasks", "squared_error"], parts),
        Table("learning_curves", "", ["seed", "task", "training_images", *CURVE_COLUMNS], curves),
        bounds(gaps),
    ]


def bounds(gaps: GapsFile) -> Table:
    """Losses of theory's learner beside their estimates."""
    several = len(gaps.seeds) > 1
    header = ["task", "name", "loss after learning", "leave-one-out", "GCV", "loss at the end", "bound", "complexity",
              "is the bound a theorem?"]  # fmt: skip
    rows: list[Sequence[Value]] = [
        [*([seed] if several else []), gap.task + 1, clean(title), gap.learned_test_loss, gap.loo, gap.gcv,
         gap.test_loss, gap.bound.value, gap.complexity, "yes" if gap.bound.theorem else "no"]
        for seed, part in gaps.seeds.items()
        for title, gap in zip(part.names, part.by_task, strict=True)
    ]  # fmt: skip
    title = "Half squared losses on unseen images, measured and estimated"
    return Table("bounds", title, [*(["seed"] if several else []), *header], rows)


PAIR_COLUMNS: Mapping[str, Callable[[ForecastPair], Number]] = {
    "cosine of the drift": lambda pair: pair.cosine,
    "relative error of the drift": lambda pair: pair.relative_error,
    "with the true step": lambda pair: pair.true_step.relative_error if pair.true_step else None,
    "and both ends' Jacobians": lambda pair: pair.trapezoid.relative_error if pair.trapezoid else None,
    "predicted loss change": lambda pair: pair.predicted_loss_change,
    "measured loss change": lambda pair: pair.measured_loss_change,
    "kernel drift": lambda pair: pair.ntk_drift,
    "modes for 95 % of the drift": lambda pair: pair.concentration.modes.of_95 if pair.concentration else None,
}


def of_forecast(forecast: ForecastFile, name: str, title: str) -> Table:
    """Every pair of a forecast; tasks count from 1.

    Args:
        forecast: what its file holds.
        name: of the CSV file.
        title: for people.
    """
    several = len(forecast.seeds) > 1
    rows: list[Sequence[Value]] = []
    for seed, part in forecast.seeds.items():
        for pair in part.pairs:
            new = pair.new + 1 if isinstance(pair.new, int) else clean(pair.new)  # a task, or the name of new data
            numbers = [value(pair) for value in PAIR_COLUMNS.values()]
            rows.append([*([seed] if several else []), pair.old + 1, new, *numbers])
    header = [*(["seed"] if several else []), "old task", "new task", *PAIR_COLUMNS]
    return Table(name, title, header, rows)


def of_what_if(what_if: WhatIfFile) -> Table:
    """Every point of a what-if, means over later tasks and seeds."""
    mean, rows = what_if.mean, []
    for i, rate in enumerate(what_if.rates):
        for j, epochs in enumerate(what_if.epochs):
            numbers = [
                getattr(part, name)[i][j] for part in (mean.points, mean.spared) for name in Outcome.__struct_fields__
            ]
            which = (rate, epochs) == (what_if.own.rate, what_if.own.epochs)
            # Whole runs are of the run's own epochs
            end = what_if.end.accuracy[i] if epochs == what_if.own.epochs else None
            rows.append([rate, epochs, "yours" if which else "", end, *numbers])
    names = ["accuracy, all seen", "old tasks", "new task", "loss change, old tasks", "loss change, new task"]
    header = [
        "later rate",
        "epochs",
        "whose",
        "accuracy at the run's end",
        *names,
        *(f"{name}, projected" for name in names),
    ]
    return Table(
        "what_if",
        "Expected at other later rates: at the run's end, and of one later task at a time (mean)",
        header,
        rows,
    )
