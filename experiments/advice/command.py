r"""Measure whether `ntk-analysis advise` helps: runs of known illness, advised, and trained again as they were told.

    python -m experiments.advice --seeds 3 --report experiments/RESULTS.md
    python -m experiments.advice --seeds 0 1 2 7 --out runs/choosing     # rules were chosen on these seeds

For each case the ill run is trained, advised, and the command that the advice gives is run word for word, in one
process. Accuracy at the end of both is compared on the same test images (paired standard error; an unpaired one where
their number changed); `helped` says what counts. Writes advice.json to --out, and the table into --report; runs lie in
--runs.
"""

import argparse
import contextlib
import io
import math
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.measures.error_bars import TOLD
from analysis.store.advice_forms import MethodAdvice, Points
from analysis.studies.advice.engine import compute_advice
from analysis.studies.advice.left_out import paired
from analysis.studies.advice.rules import RESOLUTION
from experiments.advice.cases import CASES, REASONS, Case
from experiments.commands import Record, Say, commit_of, ended, measure_each, read, shown
from experiments.sweep.tables import markdown
from ntkcl_jax.cli import NTKCL
from ntkcl_jax.config.methods import HEAD, Method
from ntkcl_jax.errors import ConfigError, NtkclError
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.training.metrics import TaskEvaluation

NAME = "experiments.advice"
HEADINGS = {
    "rate": "rate too high",
    "readout": "readout too weak",
    "misfit": "backbone misfit",
    "few": "too few images",
}

HEAD_LINES = """## Does advice help?

`python -m experiments.advice`: runs of known illness, trained, advised (`ntk-analysis advise`), and trained again by
the command that was printed, word for word. An advice helped if the advised method (the last one where there are
several) is better at the end by more than two standard errors (paired over the same test images; unpaired where their
number changed), where nothing is wrong, if nothing was recommended, and where there are too few images, if the new run
isn't worse and tells 5 points (two standard errors). "advised" is what the new command has and the ill one hasn't.
Readouts are narrow, so that a case takes seconds. Rules and thresholds were chosen on other seeds (0, 1, 2, 7).
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m {NAME}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--cases", nargs="+", default=[case.name for case in CASES], help="names of cases")
    made.add_argument("--seeds", nargs="+", type=int, default=[3], help="of the ill runs; one run for each")
    made.add_argument("--out", type=Path, default=Path("experiments/results"), help="where advice.json goes")
    made.add_argument("--runs", type=Path, help="keep the run folders here (default: they are deleted)")
    made.add_argument("--report", type=Path, help="page to write the table into")
    made.add_argument("--tables-only", action="store_true", help="the table again from advice.json")
    return made


def asked(names: Sequence[str]) -> list[Case]:
    """The cases of some names.

    Raises:
        ConfigError: no such case.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise ConfigError(f"no case {name!r}; choose from {'; '.join(known)}")
    return [known[name] for name in names]


def measured(case: Case, seed: int, runs: Path, say: Say) -> dict[str, Any]:
    """Train, advise, follow, compare."""
    ill = runs / f"{case.name.replace(' ', '-').replace(',', '')}-seed{seed}"
    say(f"{case.name}, seed {seed}: training")
    train(case.words(str(ill), seed))
    (advice,) = compute_advice(ill, quiet=True).methods
    say(f"{case.name}, seed {seed}: {' '.join(advice.says)}")
    record: dict[str, Any] = {
        "illness": case.illness,
        "seed": seed,
        "trained": ["ntkcl", *case.words(ill.name, seed)],
        "found": [finding.kind for finding in advice.findings],
        "says": list(advice.says),
        "before": advice.final.value,
        "after": {},
    }
    if advice.command:
        new = Path(advice.command[advice.command.index("--run-dir") + 1])
        train(list(advice.command[1:]))
        record["followed"] = [new.name if word == str(new) else word for word in advice.command]
        record["follow"] = advice.follow
        trained = RunFolder(new).read_json("results.json")["summary"]
        methods = [method for method in (advice.method, advice.follow) if method in trained]
        before = answers(ill, case.method, seed)
        record["after"] = {method: compared(answers(new, method, seed), before) for method in dict.fromkeys(methods)}
    return record | {"helped": helped(case, advice, record["after"])}


def train(words: list[str]) -> None:
    """Run `ntkcl` with some words.

    Raises:
        NtkclError: it refused.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        code = NTKCL.run([*words, "--quiet"])
    if code:
        raise NtkclError(f"ntkcl {' '.join(words)} ended with exit code {code}")


def answers(run: Path, method: str, seed: int) -> np.ndarray:
    """Whether each test image was named right at the end of a run, in the order of tasks."""
    folder, pair = RunFolder(run), Method.of(method)
    tasks = len(folder.header()["scenarios"][str(seed)]["task_sizes"])
    if pair.readout == HEAD:
        path, key = folder.task(seed, tasks - 1, "after", pair.learner), "evaluation"
    else:
        path, key = folder.readout(seed, tasks - 1, *pair), "evaluations"
    stored = RunFolder(path).read_json("meta.json")[key]
    every = TaskEvaluation.from_record(stored if key == "evaluation" else stored[-1], path).answers
    if every is None:
        raise NtkclError(f"{path} keeps no answers to single images")
    return np.concatenate(every[0])


def compared(after: np.ndarray, before: np.ndarray) -> dict[str, float]:
    """Accuracy in points, and how many more than before: paired on the same images, else of independent ones."""
    if len(after) == len(before):
        gain = paired(after, before)
    else:
        errors = [float(flags.std()) / len(flags) ** 0.5 for flags in (after, before)]
        gain = Points(value=100 * float(after.mean() - before.mean()), error=100 * math.hypot(*errors))
    own = 100 * float(after.std()) / len(after) ** 0.5
    return {"accuracy": 100 * float(after.mean()), "accuracy_error": own, "gain": gain.value, "error": gain.error}


def helped(case: Case, advice: MethodAdvice, after: Record) -> bool:
    """Whether the advised method is better beyond noise.

    Where nothing is wrong: whether nothing was recommended. Where there were too few images: whether the new run tells
    `RESOLUTION` points, and isn't told to be worse.
    """
    if not case.illness:
        return not advice.command
    if advice.follow not in after:
        return False
    found = after[advice.follow]
    if case.illness == "few" and [one.kind for one in advice.findings] == ["few"]:
        worse = found["gain"] < 0 and Points(value=found["gain"], error=found["error"]).told
        return TOLD * found["accuracy_error"] <= RESOLUTION and not worse
    return found["gain"] > 0 and Points(value=found["gain"], error=found["error"]).told


def measure_all(options: argparse.Namespace, file: Path) -> None:
    """Measure the cases that were asked for; each is written as soon as it is there.

    Raises:
        NtkclError: a case that isn't known, or a run that can't be trained.
    """
    found = [(f"{case.name}, seed {seed}", (case, seed)) for case in asked(options.cases) for seed in options.seeds]
    runs = options.runs or Path(tempfile.mkdtemp())
    try:
        measure_each(file, found, lambda one, say: measured(*one, runs, say))
    finally:
        if options.runs is None:
            shutil.rmtree(runs, ignore_errors=True)


def page(records: dict[str, Record]) -> str:
    """The table, cases that weren't helped first, and what each was told."""
    ordered = sorted(records.items(), key=lambda one: (one[1]["helped"], -len(one[1]["illness"])))
    count = sum(one["helped"] for one in records.values())
    head = ["case", "ill of", "found", "before, %", "advised", "after, %", "gain, points", "helped"]
    rows = []
    for name, one in ordered:
        after = one["after"].items()
        rows.append(
            [
                name, HEADINGS.get(one["illness"], "nothing"),
                ", ".join(HEADINGS[kind] for kind in one["found"]) or "nothing", f"{one['before']:.1f}",
                f"`{shown_command(one)}`" if "followed" in one else "nothing to run",
                "; ".join(f"{method} {made['accuracy']:.1f}" for method, made in after) or "–",
                "; ".join(f"{made['gain']:+.1f} ± {made['error']:.1f}" for _, made in after) or "–",
                "yes" if one["helped"] else "**no**",
            ]
        )  # fmt: skip
    poor = "".join(f"- {name}: {reason(name)}\n" for name, one in ordered if not one["helped"])
    told = "".join(f"- {name}: {' '.join(one['says'])}\n" for name, one in ordered)
    commands = dict.fromkeys(f"`{shlex.join(one['command'])}` (commit {commit_of(one)})" for _, one in ordered)
    return (
        f"{HEAD_LINES}\n{count} of {len(records)} helped.\n\n{markdown(head, rows)}\n"
        f"{f'Why not:{chr(10)}{chr(10)}{poor}{chr(10)}' if poor else ''}What each was told:\n\n{told}\n"
        f"Run by {'; '.join(commands)}.\n"
    )


def reason(name: str) -> str:
    """Why a case wasn't helped, as far as it is known."""
    return REASONS.get(name.rpartition(", seed ")[0], "not known.")


def shown_command(one: Record) -> str:
    """What the advised command has that the ill one hasn't, and what it hasn't any more."""
    old, new = settings(one["trained"]), settings(one["followed"])
    shown = [f"{name} {' '.join(values)}" for name, values in new.items() if old.get(name) != values]
    # What is the preset's isn't written
    gone = [f"without {name} {' '.join(old[name])}" for name in old if name not in (*new, "--seeds", "--methods")]
    return ", ".join([*shown, *gone]).strip() or "the same"


def settings(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Values of each option of a command but the run folder.

    Example:
        >>> settings(["ntkcl", "train", "digits", "--run-dir", "r", "--seeds", "0", "1", "--data.flip"])
        {'--seeds': ('0', '1'), '--data.flip': ()}
    """
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words[3:]:
        if word.startswith("--"):
            name = word
            found[name] = ()
        else:
            found[name] += (word,)
    return {name: values for name, values in found.items() if name != "--run-dir"}


def run(words: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        NtkclError: a mistake that the user can mend.
    """
    options = parser().parse_args(words)
    file = options.out / "advice.json"
    if not options.tables_only:
        measure_all(options, file)
    text = page(dict(read(file)))
    shown(text, options.report, NAME)


def main() -> None:
    """Run this process's command line."""
    ended(NAME, run)
