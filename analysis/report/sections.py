"""The report's sections: which figures, tables and words each makes of a run, or which command it waits for."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from msgspec import to_builtins

from analysis.plots.kernels import checkpoint_name, drawn
from analysis.report import figures, influenced, pixels, tables, theory_figures, words
from analysis.report.facts import method_curves, shown_method
from analysis.report.forgotten import forgotten
from analysis.report.lost import lost_says
from analysis.report.pixels import Pixels
from analysis.report.reading import PANELS, RunFiles, TaskKernel, clean, spread
from analysis.report.tables import Table
from analysis.report.verdict import methods_says
from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.plots.accuracy import accuracy_curves, accuracy_matrix_figure, file_name
from ntkcl_jax.plots.budget import budget_figure, budget_limits

FAR = 3
"""A method whose budget is so many times as high as that of the shown one has an axis of its own."""
BESIDE = 3
"""Figures of one kind that stand beside each other; of more, a slider shows one at a time where scripts run."""


@dataclass(frozen=True)
class Panel:
    """A figure of a section.

    Attributes:
        name: of its files, without ending.
        alt: what it shows, for those who don't see it.
        figure: the drawing.
        stop: what the slider says where it shows this figure; "" where it belongs to no slider.
    """

    name: str
    alt: str
    figure: Figure
    stop: str = ""


@dataclass(frozen=True)
class Part:
    """What a run contributes to a section.

    Attributes:
        panels: its figures.
        says: what the run says.
        tables: those that are shown.
        missing: the command that makes what the section needs, where that isn't there.
        pixels: numbers that the page's script draws instead of the figures.
    """

    panels: Sequence[Panel] = ()
    says: str = ""
    tables: Sequence[Table] = ()
    missing: str = ""
    pixels: Pixels | None = None


def command(program: str, files: RunFiles) -> str:
    """A command line about this run that can be pasted into a shell."""
    whose = "" if files.method == "ntkcl" or "kernels" not in program else f" --method {files.method}"
    return f"{program} {shlex.quote(printable(str(files.run)))}{whose}"


def printable(line: str) -> str:
    """A command line as one printable line of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in line)[:400]


def train_on(files: RunFiles) -> str:
    """The command by which a run goes on that has no results: it was interrupted."""
    again = files.config.command or ("ntkcl", "train", clean(files.config.config.preset))
    return printable(shlex.join([*(word for word in again if word != "--resume"), "--resume"]))


def budget(files: RunFiles) -> Part:
    """What old tasks lost to competition and to drift, for every method of which that is known."""
    if not files.results:
        return Part(missing=train_on(files))
    plain = to_builtins(files.results, str_keys=True)
    near, made = _near(plain, shown_method(files)), []
    limits, far = budget_limits(near), budget_limits(plain)
    for method, of_method in files.results.summary.items():
        if of_method.lost is not None:
            alt = f"Accuracy that each old task lost under {clean(method)}, to competition and to drift, by later task"
            axis = limits if method in near["summary"] else far
            panel = budget_figure(plain, method, axis, width=5.2 if of_method.tasks <= PANELS else None)
            made.append(Panel(f"forgetting_budget_{file_name(method)}", alt, panel))
    shown = [tables.lost(files.results), tables.forgotten_images(files)]
    return Part(made, lost_says(files), shown if made else [])


def _near(results: dict[str, Any], method: str) -> dict[str, Any]:
    """Results without the methods that lost so much more than one that its bars couldn't be seen beside theirs."""

    def height(name: str) -> float:
        low, high = budget_limits(results | {"summary": {name: results["summary"][name]}})
        return high - low

    kept = {name: made for name, made in results["summary"].items() if height(name) <= FAR * height(method)}
    return results | {"summary": kept}


def accuracy(files: RunFiles) -> Part:
    """Accuracy matrices of every method, and the curves."""
    if not files.results:
        return Part(missing=train_on(files))
    # The drawing functions are shared with `ntkcl`, which has JSON's dictionaries
    plain = to_builtins(files.results, str_keys=True)
    curves = accuracy_curves(plain)
    curves.set_size_inches(5.2, 3.6)
    made = [Panel("accuracy_curves", "Accuracy on all classes seen after each task, for each method", curves)]
    for method in files.results.summary:
        name = f"accuracy_matrix_{file_name(method)}"
        alt = f"Accuracy of {clean(method)} on each task's test images after each task"
        stop = clean(method) if len(files.results.summary) >= BESIDE else ""  # the curves stand there, too
        made.append(Panel(name, alt, accuracy_matrix_figure(plain, method), stop))
    shown = [tables.headline(files.results), *([tables.chosen(files)] if files.chosen else [])]
    return Part(made, words.accuracy_says(files), shown)


def kernels(files: RunFiles) -> Part:
    """Heatmaps of the probes' kernel, at the first and the last checkpoint; as pixels at those between them, too."""
    if not files.kernels or not files.summary:
        return Part(missing=command("ntk-analysis kernels", files))
    seed, _ = files.summary.first_seed
    shown = [pixels.thinned(kernel) for kernel in files.kernels]
    # One colour scale for all checkpoints, else they couldn't be compared
    low = min(0.0, *(float(kernel.cosines.min()) for kernel in shown))
    names, ends = files.class_names(seed), dict.fromkeys((0, len(shown) - 1))
    made = [
        Panel(
            f"kernel_seed{seed}_checkpoint{kernel.checkpoint}",
            f"Cosines between the Jacobians of all probe images {checkpoint_name(kernel.checkpoint)}",
            figures.kernel_heatmap(kernel, names, low),
        )
        for kernel in (shown[i] for i in ends)
    ]
    # Kernels that were computed at different times may be of other images
    drawn_by_script = None
    if all(_same_probes(kernel, shown[0]) for kernel in shown):
        lost, count = _forgotten(files, seed), len(files.kernels[0].tasks)
        drawn_by_script = pixels.of_images(shown, names, files.summary.side, lost, count)
    return Part(made, words.kernels_says(tuple(files.kernels[i] for i in ends)), pixels=drawn_by_script)


def _forgotten(files: RunFiles, seed: int) -> dict[int, set[int]]:
    """Numbers of the forgotten test images by task, of the method whose kernels are shown."""
    every = files.answers.get(files.method, {}).get(seed, [])
    return {one.task: set(one.images.tolist()) for one in forgotten(every)}


def _same_probes(one: TaskKernel, other: TaskKernel) -> bool:
    return all(np.array_equal(getattr(one, of), getattr(other, of)) for of in ("tasks", "labels", "images"))


def ratios(files: RunFiles) -> Part:
    """Inter/intra ratios of every pair of tasks, drawn at a few checkpoints, as pixels at all."""
    if not files.summary:
        return Part(missing=command("ntk-analysis kernels", files))
    seed, first = files.summary.first_seed
    checkpoints = dict(sorted(first.checkpoints.items()))
    made = [
        Panel(
            f"ratios_seed{seed}_checkpoint{number}",
            f"Inter-task over intra-task kernel of every pair of tasks {checkpoint_name(number)}",
            figures.ratio_figure(checkpoints[number], first.tasks, number),
        )
        for number in spread(list(checkpoints), BESIDE)
    ]
    return Part(made, words.ratios_says(files.summary), pixels=pixels.of_tasks(checkpoints, first.tasks))


def drift(files: RunFiles) -> Part:
    """How measures of each task change over checkpoints: those of the terminal's table, and those of packages."""
    if not files.summary:
        return Part(missing=command("ntk-analysis kernels", files))
    seed, first = files.summary.first_seed
    plain = {
        str(number): {**to_builtins(values), **files.added.get(number, {})}
        for number, values in sorted(first.checkpoints.items())
    }
    made = [
        Panel(
            f"{measure.name}_seed{seed}",
            f"{measure.title} of each task over checkpoints. {measure.sentence}",
            figures.line_figure(plain, first.tasks, measure.name),
        )
        for measure in drawn(plain)
        # How many directions a kernel has is in the table of methods: a reader does nothing else after such a figure
        if measure.package or (measure.name in figures.LABELS and measure.name != "effective_dimension")
    ]
    return Part(made, words.drift_says(files.summary))


def shares(files: RunFiles) -> Part:
    """Shares of the parameter groups, where the kernels were split by them, and what each group's kernel is like."""
    shown = [made] if (made := tables.groups(files)).rows else []
    if not files.summary:
        return Part(tables=shown, missing=command("ntk-analysis kernels", files))
    seed, first = files.summary.first_seed
    if not first.first.groups:
        # A readout without feature maps has one group: there is nothing to split
        split = files.config.config.pair(files.method).readout == HEAD
        return Part(tables=shown, missing=command("ntk-analysis kernels --groups part", files) if split else "")
    title = "Share of the kernel's trace of each group of parameters over checkpoints"
    panel = Panel(f"shares_seed{seed}", title, figures.share_figure(dict(sorted(first.checkpoints.items()))))
    return Part([panel], words.shares_says(files.summary), shown)


def gaps(files: RunFiles) -> Part:
    """The exact split of each task's squared error: theory's learner, and the network."""
    if not files.gaps:
        return Part(missing=command("ntk-analysis gaps", files))
    seed, first = files.gaps.first_seed
    network = [gap.network for gap in first.by_task]
    # One axis for theory and network: the heights of their bars are to be compared
    limits = theory_figures.budget_limits([*first.by_task, *network])
    made = [
        Panel(
            f"gaps_seed{seed}_{name}",
            f"Parts of each task's squared error at the end: {title}",
            theory_figures.budget_figure(budgets, first.tasks, title, limits),
        )
        for name, title, budgets in (
            ("theory", "theory's learner", first.by_task),
            ("network", "the trained network", network),
        )
    ]
    return Part(made, words.gaps_says(files.gaps))


def bounds(files: RunFiles) -> Part:
    """Losses beside leave-one-out, GCV and the bound."""
    if not files.gaps:
        return Part(missing=command("ntk-analysis gaps", files))
    return Part((), words.bounds_says(files.gaps), [tables.bounds(files.gaps)])


def curves(files: RunFiles) -> Part:
    """Learning curves of tasks."""
    if not files.gaps:
        return Part(missing=command("ntk-analysis gaps", files))
    seed, first = files.gaps.first_seed
    made = [
        Panel(
            f"learning_curve_seed{seed}_task{gap.task + 1}",
            f"Test loss of task {gap.task + 1} against training images, predicted and measured",
            theory_figures.curve_figure(gap),
            f"task {gap.task + 1}" if len(first.by_task) > BESIDE else "",
        )
        for gap in spread(first.by_task)
    ]
    return Part(made, words.curves_says(files.gaps))


def forecast(files: RunFiles) -> Part:
    """Predicted against measured loss changes, and every pair; then forecasts for new data."""
    others = [
        tables.of_forecast(made, f"forecast_{file_name(name)}", f"Forecast of what training on {name} next would do")
        for name, made in files.new_data.items()
    ]
    if not files.forecast:
        return Part(tables=others, missing=command("ntk-analysis forecast", files))
    made = []
    # The first seed only, as in all figures; the table has every one
    for seed, part in list(files.forecast.seeds.items())[:1]:
        pairs = [p for p in part.pairs if p.predicted_loss_change is not None and p.measured_loss_change is not None]
        if pairs:
            alt = "Predicted against measured loss change of every pair of tasks"
            made.append(Panel(f"forecast_seed{seed}", alt, theory_figures.forecast_figure(pairs)))
    shown = tables.of_forecast(files.forecast, "forecast", "Every pair: how well the drift and the loss were forecast")
    return Part(made, words.forecast_says(files.forecast), [shown, *others])


def what_if(files: RunFiles) -> Part:
    """Accuracies that other later rates would have given."""
    if not files.what_if:
        return Part(missing=command("ntk-analysis whatif", files))
    alt = "Expected accuracy on old tasks, the new one and all of them against the later learning rate"
    panel = Panel("what_if", alt, theory_figures.what_if_figure(files.what_if))
    return Part([panel], words.what_if_says(files.what_if), [tables.of_what_if(files.what_if)])


def influence(files: RunFiles) -> Part:
    """The new images that made old ones worse, and old classes by new ones."""
    if not files.influence:
        return Part(missing=command("ntk-analysis influence", files))
    seed, first = files.influence.first_seed
    names, made = files.class_names(seed), []
    if first.harmed:
        alt = "Old test images that were made worse, each beside the new training images that pushed it most"
        made.append(Panel(f"influence_seed{seed}_images", alt, influenced.images_figure(first.harmed, names)))
    alt = "How far the images of each new class move those of each old one, and by how much they change their loss"
    made.append(Panel(f"influence_seed{seed}_classes", alt, influenced.classes_figure(first.by_task, names)))
    return Part(made, influenced.says(files.influence), influenced.tables_of(files.influence, names))


def methods(files: RunFiles) -> Part:
    """Kernels of all methods that have some, side by side; nothing where one has."""
    if not files.others:
        return Part()
    alt = "Kernel ratio, effective dimension, alignment and drift over checkpoints, for each method"
    panel = Panel("methods", alt, figures.methods_figure(method_curves(files)))
    return Part([panel], methods_says(files), [tables.methods(files)])


def all_tables(files: RunFiles) -> list[Table]:
    """Every table that there is of a run, for CSV files."""
    made: list[Table] = []
    if files.results:
        made += [tables.headline(files.results), tables.accuracy(files.results)]
        made += [tables.lost(files.results), tables.lost_pairs(files.results)]
    if files.answers:
        made.append(tables.every_forgotten_image(files))
    if files.chosen:
        made.append(tables.chosen(files))
    if files.summary:
        made += tables.of_summary(files.summary)
    if (groups := tables.groups(files)).rows:
        made.append(groups)
    if files.others:
        made.append(tables.methods(files))
    if files.gaps:
        made += tables.of_gaps(files.gaps)
    if files.forecast:
        made.append(tables.of_forecast(files.forecast, "forecast", ""))
    if files.what_if:
        made.append(tables.of_what_if(files.what_if))
    if files.influence:
        made += influenced.tables_of(files.influence, files.class_names(files.influence.first_seed[0]))
    return made + [tables.of_forecast(one, f"forecast_{file_name(name)}", "") for name, one in files.new_data.items()]


SECTIONS: Mapping[str, tuple[str, Callable[[RunFiles], Part]]] = {
    "budget": ("What old tasks lost, and to what", budget),
    "accuracy": ("Accuracy", accuracy),
    "what_if": ("Which later learning rate would have been better?", what_if),
    "influence": ("Which images made it forget", influence),
    "forecast": ("Can forgetting be forecast?", forecast),
    "drift": ("How kernels change", drift),
    "ratios": ("Kernels between tasks", ratios),
    "kernels": ("Kernels of single images", kernels),
    "gaps": ("Where each task's error comes from", gaps),
    "curves": ("What more images would bring", curves),
    "bounds": ("Test loss: measured, estimated, bounded", bounds),
    "shares": ("Which parts of the network learn", shares),
}
"""Title and maker of each section, in order; its words are in `words.CAPTIONS`."""


def sections_of(files: Sequence[RunFiles]) -> dict[str, tuple[str, Callable[[RunFiles], Part]]]:
    """The sections of a report: without what only NTK-CL has, with the methods' comparison, as the runs demand."""
    # Side by side, a section stands if one run has something to show in it
    ours = ("gaps", "bounds", "forecast", "what_if", "influence", "curves")
    lacking = () if any(one.method == "ntkcl" for one in files) else ours
    compared = {"methods": ("Kernels of all methods", methods)} if any(one.others for one in files) else {}
    return {key: part for key, part in SECTIONS.items() if key not in lacking} | compared
