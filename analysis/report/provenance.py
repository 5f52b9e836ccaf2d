"""Where a run's numbers come from: machines, dates, versions, commits, weights, data, command line, seeds."""

import platform
import shlex
from datetime import UTC, datetime
from pathlib import Path

from analysis.report.reading import RunFiles
from analysis.store import code_version_json
from analysis.store.forms import Commit, UsedDevices, UsedWeights
from analysis.store.study_forms import Study
from ntkcl_jax.terminal.progress import plain_text

LONGEST = 500
"""Characters of a command line or a list that are shown."""


def provenance_of(files: RunFiles) -> list[tuple[str, str]]:
    """Terms and what they are, for people; what isn't recorded is left out."""
    config, data = files.config, files.config.data
    weights, git = config.weights or UsedWeights(), config.git or Commit()
    modified = " with uncommitted changes" if git.modified else ""
    facts = [
        ("folder", str(files.run)),
        ("preset", config.config.preset),
        ("methods", ", ".join(config.config.methods)),
        ("seeds of the run", ", ".join(map(str, config.scenarios))),
        ("command line", shlex.join(config.command or ())),
        ("tasks", "; ".join(f"{t}: {name}" for t, name in enumerate(files.task_names, 1))),
        ("images", f"{data.train_images} for training, {data.test_images} for tests"),
        ("fingerprint of the data", data.fingerprint),
        ("weights", weights.name),
        ("SHA-256 of the weights", weights.sha256),
        ("code of the training", f"commit {git.commit}{modified}" if git.commit else None),
        ("versions of the training", _versions(config.versions)),
        ("machine", config.machine),
        ("devices", _devices(config.devices) if config.devices else None),
        ("results written", _written(files.run / "results.json")),
        ("kernels by", _made_by(files.summary) if files.summary else None),
        ("gaps by", _made_by(files.gaps) if files.gaps else None),
        ("forecast by", _made_by(files.forecast) if files.forecast else None),
        ("this report by", _code(**code_version_json())),
        ("this report's machine and time", f"{platform.platform()}, {_time(datetime.now(UTC))}"),
    ]
    return [(term, _line(value)) for term, value in facts if value]


def made_says(files: RunFiles) -> str:
    """When and on what a run and its report were made, in a line."""
    on = ", ".join(filter(None, (_devices(files.config.devices) if files.config.devices else "", files.config.machine)))
    written = _written(files.run / "results.json")
    run = f"Run of {written}{' on ' if on else ''}{on}. " if written else ""
    return _line(f"{run}Report of {_time(datetime.now(UTC))}.")


def _devices(devices: UsedDevices) -> str:
    count = devices.data * devices.model
    text = f"{count} x {devices.kind}"
    return text if devices.processes == 1 else f"{text} of {devices.processes} processes"


def _written(path: Path) -> str | None:
    # Results hold no time, so that equal runs give equal bytes; the file's own date changes when it is copied
    return _time(datetime.fromtimestamp(path.stat().st_mtime, UTC)) if path.is_file() else None


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _made_by(study: Study) -> str:
    how = [f"{name} {value}" for name, value in (("method", study.method), ("procedure", study.procedure)) if value]
    side = [f"{study.side} side"] if study.side else []
    return ", ".join([*how, f"{study.per_task} images of each task", *side, _code(study.versions, study.commit)])


def _code(versions: dict[str, str] | None, commit: str | None) -> str:
    return f"commit {commit or 'unknown'}; {_versions(versions)}"


def _versions(versions: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


def _line(value: str) -> str:
    # Split first: line ends become blanks, where `plain_text` alone would write `?`
    text = " ".join(plain_text(part) for part in value.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def seeds_note(files: RunFiles) -> str:
    """Which seed the figures show, and where all the numbers are."""
    seeds = [seed for made in (files.summary, files.gaps, files.forecast) if made for seed in made.seeds]
    every = [str(seed) for seed in dict.fromkeys(seeds)]  # each once, in order
    where = "All numbers, unrounded, are in analysis/tables of the run folder, the figures in analysis/figures."
    if len(every) < 2:
        return where
    return (
        f"Figures of kernels and gaps show seed {every[0]} of {', '.join(every)}; sentences speak of all seeds, "
        f"accuracies are means over the run's. {where}"
    )
