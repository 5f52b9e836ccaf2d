"""Everything that the report of a run is made from: read once, checked, names made harmless."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Float, Int

from analysis.errors import StoreError
from analysis.measures import by_name, sample_kernel
from analysis.store import KernelSpec, StoredKernel, analysis_folder, load_analysis
from analysis.store.advice_forms import AdviceFile
from analysis.store.files import read_json
from analysis.store.forms import ConfigFile, Matrix, Numbers, ReadoutFacts, ResultsFile, check_shape, read_form
from analysis.store.influence_forms import InfluenceFile
from analysis.store.study_forms import ForecastFile, GapsFile, SummaryFile
from analysis.store.what_if_forms import WhatIfFile
from ntkcl_jax.config.methods import HEAD
from ntkcl_jax.errors import RunFolderError, user_path
from ntkcl_jax.readouts.base import is_linear
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.terminal.tables import short_name
from ntkcl_jax.training.metrics import TaskEvaluation
from ntkcl_jax.training.readout_run import tasks_stored

PREFERRED = ("trace", "full", "diagonal", "pseudo")
"""Which of several stored kernels is shown."""
NAME_LENGTH = 60
"""Characters of a name that are kept."""
SAID_LENGTH = 200
"""The same of what a readout says of itself."""
PANELS = 6
"""Figures of one kind that are shown, and kernels that are read: more are thinned evenly, first and last kept."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class TaskKernel:
    """A trace kernel of the probes at one checkpoint, in the order of tasks and their classes.

    Attributes:
        checkpoint: 0 before training, t + 1 after task t.
        outputs: which stored kernel it was read from.
        cosines: kernel of two images over the root of the product of their own: cosine of their Jacobians.
        tasks: task of each image.
        labels: class of each image, in the run's numbering.
        images: number of each image among those of its task and side, from 0.
    """

    checkpoint: int
    outputs: str
    cosines: Float[np.ndarray, "n n"]
    tasks: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    images: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds for the report; a part that isn't there is None or empty.

    Attributes:
        run: the folder.
        config: `config.json`.
        results: `results.json`.
        method: whose kernels are shown: NTK-CL's, or those of the first other method with any in a run without it.
        summary: `analysis/summary.json`, or `analysis/<method>/summary.json`.
        added: its measures of installed packages, for the first seed: by checkpoint and name.
        others: the same of every other method, by method.
        chosen: what readouts have chosen, by method and seed.
        gaps: `analysis/gaps.json`.
        forecast: `analysis/forecast.json`.
        new_data: `analysis/forecast-NAME.json` by NAME.
        what_if: `analysis/what_if.json`.
        influence: `analysis/influence.json`.
        kernels: of the first analysed seed, at its first and last checkpoint and evenly between them.
        answers: evaluations after each task that know every test image's answer, by method and seed.
        advice: `analysis/advice.json`.
    """

    run: Path
    config: ConfigFile
    results: ResultsFile | None = None
    method: str = "ntkcl"
    summary: SummaryFile | None = None
    added: dict[int, dict[str, Numbers | Matrix]] = field(default_factory=dict)
    others: dict[str, SummaryFile] = field(default_factory=dict)
    chosen: dict[str, dict[int, str]] = field(default_factory=dict)
    gaps: GapsFile | None = None
    forecast: ForecastFile | None = None
    new_data: dict[str, ForecastFile] = field(default_factory=dict)
    what_if: WhatIfFile | None = None
    influence: InfluenceFile | None = None
    advice: AdviceFile | None = None
    kernels: tuple[TaskKernel, ...] = ()
    answers: dict[str, dict[int, list[TaskEvaluation]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder, for people."""
        # Resolved, since a run given as `.` or `..` has no name
        return clean(self.run.resolve().name or str(self.run))

    def class_names(self, seed: int) -> list[str]:
        """Names of the classes of a seed, in the run's numbering."""
        scenario = self.config.scenarios.get(seed)
        return [clean(self.config.data.class_names[label]) for label in scenario.class_order] if scenario else []

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks, as far as they are known."""
        return [clean(name) for name in self.results.task_names] if self.results else []


def clean(name: Any, limit: int = NAME_LENGTH) -> str:
    r"""Make a name of users one printable line of bounded length.

    Example:
        >>> clean("two\nlines" + chr(0x202E))
        'two lines?'
    """
    return short_name(str(name), limit)


def read_run(run: Path) -> RunFiles:
    """Read and check everything that a run folder holds for the report.

    Args:
        run: the run folder.

    Returns:
        What is there.

    Raises:
        StoreError: no run there, or a file that can't be read, is cut short or isn't of the expected form.
    """
    run = user_path(run)
    config = read_form(run / "config.json", ConfigFile) if (run / "config.json").is_file() else None
    if config is None:
        raise StoreError(f"{run} is no run folder: it has no config.json; check the path")
    home = run / "analysis"
    # What a learner classifies by itself, then readouts whose scores are linear in weights
    readouts = {method: config.config.pair(method).readout for method in config.config.methods}
    methods = [method for method, readout in readouts.items() if readout == HEAD]
    methods += [method for method, readout in readouts.items() if readout != HEAD and is_linear(readout)]
    found = {method: read_form(analysis_folder(run, method) / "summary.json", SummaryFile) for method in methods}
    summaries = {method: summary for method, summary in found.items() if summary}
    # Without NTK-CL, the first method that was analysed, else the first that could be
    method = "ntkcl" if "ntkcl" in methods else next(iter(summaries), [*methods, "ntkcl"][0])
    summary = summaries.pop(method, None)
    new_data = {
        clean(path.stem.removeprefix("forecast-")): read_form(path, ForecastFile)
        for path in sorted(home.glob("forecast-*.json"))
    }
    return RunFiles(
        run=run,
        config=config,
        results=read_form(run / "results.json", ResultsFile),
        method=method,
        summary=summary,
        added=_added(analysis_folder(run, method) / "summary.json", summary) if summary else {},
        others=summaries,
        chosen=_chosen(run, config),
        gaps=read_form(home / "gaps.json", GapsFile),
        forecast=read_form(home / "forecast.json", ForecastFile),
        new_data={name: made for name, made in new_data.items() if made},
        what_if=read_form(home / "what_if.json", WhatIfFile),
        influence=read_form(home / "influence.json", InfluenceFile),
        advice=read_form(home / "advice.json", AdviceFile),
        kernels=_kernels(run, method, summary) if summary else (),
        answers=_answers(run, config),
    )


def _answers(run: Path, config: ConfigFile) -> dict[str, dict[int, list[TaskEvaluation]]]:
    """What learners answered after each task; of runs that are unfinished or kept no answers there is none."""
    folder, found = RunFolder(run), {}
    for method in config.config.methods:
        pair = config.config.pair(method)
        for seed, scenario in config.scenarios.items() if pair.readout == HEAD else ():
            paths = [folder.task(seed, t, "after", pair.learner) / "meta.json" for t in range(len(scenario.task_sizes))]
            if not all(path.is_file() for path in paths):
                continue
            try:
                records = [(read_json(path).get("evaluation"), path) for path in paths]
                every = [TaskEvaluation.from_record(record, path) for record, path in records if record is not None]
            except RunFolderError as error:
                raise StoreError(str(error)) from error
            if len(every) < len(paths) or any(one.right is None for one in every):
                continue
            for t, (one, path) in enumerate(zip(every, paths, strict=True)):
                if one.task != t or one.images != every[-1].images[: t + 1]:
                    raise StoreError(f"{path} and {paths[-1]} are of other test images; run ntkcl evaluate {run} first")
            found.setdefault(method, {})[seed] = every
    return found


def _chosen(run: Path, config: ConfigFile) -> dict[str, dict[int, str]]:
    """What readouts say of their newest states; those of before they said so, or that choose nothing, are left out."""
    folder, found = RunFolder(run), {}
    for method in config.config.methods:
        pair = config.config.pair(method)
        for seed, scenario in config.scenarios.items() if pair.readout != HEAD else ():
            done = tasks_stored(folder, seed, pair, len(scenario.task_sizes))
            facts = read_form(folder.readout(seed, done - 1, *pair) / "meta.json", ReadoutFacts) if done else None
            if facts and facts.says:
                found.setdefault(method, {})[seed] = clean(facts.says, SAID_LENGTH)
    return found


def _added(path: Path, summary: SummaryFile) -> dict[int, dict[str, Numbers | Matrix]]:
    """Measures of installed packages, which no form can name beforehand.

    Raises:
        StoreError: one isn't a number for each task, or for each pair of tasks.
    """
    names = [name for name, measure in by_name().items() if measure.package]
    seed, part = summary.first_seed
    # The file again, as plain JSON: `SummaryFile` passes over keys that it doesn't know
    checkpoints = read_json(path)["seeds"][str(seed)]["checkpoints"] if names else {}
    found: dict[int, dict[str, Numbers | Matrix]] = {}
    for number, figures in checkpoints.items():
        for name in (name for name in names if name in figures):
            pairs = by_name()[name].kind == "pair"
            try:
                values = msgspec.convert(figures[name], Matrix if pairs else Numbers)
                check_shape(name, values, *[len(part.tasks)] * (1 + pairs))  # T, or T x T
            except ValueError as error:
                raise StoreError(f"{path}: checkpoint {number}, {name}: {error}; make it again") from error
            found.setdefault(int(number), {})[name] = values
    return found


def _kernels(run: Path, method: str, summary: SummaryFile) -> tuple[TaskKernel, ...]:
    """Kernels of the first seed at a few checkpoints; those that were deleted to save space are left out."""
    seed, part = summary.first_seed
    analysis = load_analysis(run, method)
    there = {(spec.seed, spec.checkpoint, spec.outputs) for spec in analysis.kernels}
    found = []
    for number in spread(sorted(part.checkpoints)):
        stored = [outputs for outputs in PREFERRED if (seed, number, outputs) in there]
        if stored:
            found.append(_kernel(analysis.stored(seed, number, stored[0]), run, summary.side))
    return tuple(found)


def _kernel(stored: StoredKernel, run: Path, side: str) -> TaskKernel:
    """Read a kernel pair of tasks by pair of tasks, so that one with many outputs needn't fit in memory."""
    spec = stored.spec
    kernel = np.block([[_samples(stored.block(t, k)) for k in spec.tasks] for t in spec.tasks])
    # A diagonal is a sum of squares; by rounding it may fall below zero where an image has no gradient
    diagonal = np.sqrt(np.maximum(np.diag(kernel), 0))
    size = np.outer(diagonal, diagonal)
    # An image without gradient has no direction: its cosines are 0
    cosines = np.divide(kernel, size, out=np.zeros_like(kernel), where=size > 0)
    labels, images = (np.concatenate(of) for of in zip(*[_probes(run, spec, t, side) for t in spec.tasks], strict=True))
    tasks = np.concatenate([np.full(_count(spec, task), task) for task in spec.tasks])
    # Probes go round the classes; here each class stands together. Stable, so that within one the order is kept
    order = np.concatenate(
        [np.flatnonzero(tasks == t)[np.argsort(labels[tasks == t], kind="stable")] for t in spec.tasks]
    )
    cosines = cosines[np.ix_(order, order)]
    return TaskKernel(spec.checkpoint, spec.outputs, cosines, tasks[order], labels[order], images[order])


def _samples(block: Float[np.ndarray, "n1 n2 *k"]) -> Float[np.ndarray, "n1 n2"]:
    # [n1, n2, k] diagonal, [n1, n2, k, k] full, [n1, n2] trace or pseudo: all become the kernel of images
    return block.mean(axis=2) if block.ndim == 3 else sample_kernel(block) if block.ndim == 4 else block


def _count(spec: KernelSpec, task: int) -> int:
    images = spec.images(task)
    return images.stop - images.start


def _probes(run: Path, spec: KernelSpec, task: int, side: str) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Classes of a task's probes and their numbers among its images, from their record."""
    count = _count(spec, task)
    path = run / "analysis" / "probes" / f"seed{spec.seed}" / f"{side}-task{task}-{count}.json"
    record = read_json(path)
    found = [record.get(name) for name in ("labels", "positions")]
    for numbers in found:
        if not isinstance(numbers, list) or len(numbers) != count or not all(type(one) is int for one in numbers):
            raise StoreError(
                f"{path} doesn't hold {count} labels and positions; delete {run / 'analysis'} and compute the kernels "
                "again"
            )
    return np.array(found[0]), np.array(found[1])


def spread(items: Sequence[Item], most: int = PANELS) -> list[Item]:
    """At most `most` items at even distances, with the first and the last.

    Example:
        >>> spread([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4), spread("ab", 4)
        ([0, 3, 6, 9], ['a', 'b'])
    """
    if len(items) <= most:
        return list(items)
    # Both ends belong to it: most - 1 equal steps
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def floats(values: Any) -> Float[np.ndarray, "..."]:
    """Numbers of JSON as an array; null becomes NaN.

    Example:
        >>> floats([[1, None]]).tolist()
        [[1.0, nan]]
    """
    return np.array(values, dtype=float)


def known(values: Iterable[float | None]) -> list[float]:
    """The numbers among values that may be None or NaN.

    Example:
        >>> known([1.0, None, float("nan"), 2])
        [1.0, 2.0]
    """
    return [float(value) for value in values if value is not None and math.isfinite(value)]
