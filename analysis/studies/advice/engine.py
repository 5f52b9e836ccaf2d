"""What to do next about a run: every method's advice, into `RUN/analysis/advice.json`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from analysis.errors import RecordError
from analysis.store import code_version_json
from analysis.store.advice_forms import AdviceFile, MethodAdvice
from analysis.store.files import write_json
from analysis.store.forms import ResultsFile, read_form
from analysis.store.study_forms import STUDY_FORMAT
from analysis.store.what_if_forms import WhatIfFile
from analysis.studies.advice import words
from analysis.studies.advice.again import again, free_folder
from analysis.studies.advice.facts import Facts, facts_of
from analysis.studies.advice.left_out import left_out_answers
from analysis.studies.advice.rules import Diagnosis, diagnoses
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import ConfigError, NtkclError, user_path
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.terminal.progress import Progress

FILE = "advice.json"
FIRST = "ntkcl"
"""The method that the report is about, where the run has it."""


def compute_advice(run: str | Path, *, quiet: bool = False, arrays: Arrays | None = None) -> AdviceFile:
    """Say what to do next about each method of a finished run.

    It reads `results.json`, `analysis/what_if.json` if it is there, and passes at most 500 training images through the
    frozen backbone, and through NTK-CL's network as it was after its first task.

    Args:
        run: the run folder.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`; no command can then be given.

    Returns:
        What `RUN/analysis/advice.json` holds.

    Raises:
        AnalysisError: no run there, an unfinished or damaged one, or its images are gone; nothing is written.
    """
    path = user_path(run)
    try:
        opened = load_run(path, arrays=arrays)
        results = read_form(path / "results.json", ResultsFile)
        if results is None:
            raise RecordError(f"{path} has no results.json: an advice is about a finished run; train it to the end")
        what_if = read_form(path / "analysis" / "what_if.json", WhatIfFile)
        with Progress(quiet) as progress:
            left = left_out_answers(opened, progress)
    except NtkclError as error:
        raise RecordError(str(error)) from error
    test_images, classes = len(opened.context.source.test), len(opened.context.source.class_names)
    names = sorted(results.summary, key=lambda name: name != FIRST)
    advised = [
        advice(facts_of(results, name, opened.config, left, what_if, test_images, classes), opened.path, results)
        for name in names
    ]
    made = AdviceFile(format=STUDY_FORMAT, methods=tuple(advised), left_out=left.form(), **code_version_json())
    write_json(path / "analysis" / FILE, to_builtins(made, str_keys=True))
    return made


def advice(facts: Facts, run: Path, results: ResultsFile | None = None) -> MethodAdvice:
    """What to do about one method.

    Args:
        facts: of the method.
        run: the run folder, beside which the next one will lie.
        results: of the run, which may have the method that is advised already.
    """
    found = diagnoses(facts)
    says = [words.budget(facts), *(one.finding.says for one in found)]
    if not found:
        says.append(words.nothing(facts))
    command, follow = next_command(facts, found, run)
    there = {facts.config.pair(name): name for name in results.summary} if results else {}
    known = there.get(facts.config.pair(follow)) if follow else None
    if known and known != facts.method and not any(one.finding.kind != "readout" for one in found):
        assert results
        says.append(f"It is in this run already: {100 * results.summary[known].final_accuracy.mean:.1f} %.")
        command, follow = (), ""
    return MethodAdvice(
        method=facts.method, final=facts.final, lost=facts.lost, competition=facts.competition, drift=facts.drift,
        findings=tuple(one.finding for one in found), says=tuple(says), command=command, follow=follow,
        decide=tuple(shlex.join(str(run) if word == "RUN" else word for word in one.decide) for one in found
                     if one.decide),
    )  # fmt: skip


def next_command(facts: Facts, found: Sequence[Diagnosis], run: Path) -> tuple[tuple[str, ...], str]:
    """One command for all findings, and the method of its run that they are about.

    Methods above one learner share its training, so that the better readout comes with the same one at a better rate.
    """
    changes: dict[str, Any] = {}
    for one in found:
        changes |= one.changes
    methods = tuple(dict.fromkeys(one.follow for one in found if one.follow))
    if not methods:
        return (), ""
    readout = next((one.follow for one in found if one.finding.kind == "readout"), "")
    try:
        return again(facts.config, {**changes, "methods": methods}, free_folder(run)), readout or methods[0]
    except ConfigError:  # images from Python
        return (), ""
