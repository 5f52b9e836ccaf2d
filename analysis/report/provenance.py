"""Where a run's numbers come from: versions, commits, weights, data, command line, seeds."""

import shlex
from typing import Any

from analysis.report.reading import RunFiles
from analysis.store import code_version_json
from ntkcl_jax.terminal.progress import plain_text

LONGEST = 500
"""Characters of a command line or a list that are shown."""


def provenance_of(files: RunFiles) -> list[tuple[str, str]]:
    """Terms and what they are, for people; what isn't recorded is left out."""
    config = files.config
    data, weights, git = config["data"], config.get("weights") or {}, config.get("git") or {}
    modified = " with uncommitted changes" if git.get("modified") else ""
    facts = [
        ("folder", str(files.run)),
        ("preset", config["config"]["preset"]),
        ("methods", ", ".join(config["config"]["methods"])),
        ("seeds of the run", ", ".join(config["scenarios"])),
        ("command line", shlex.join(config.get("command") or [])),
        ("tasks", "; ".join(f"{t}: {name}" for t, name in enumerate(files.task_names, 1))),
        ("images", f"{data.get('train_images')} for training, {data.get('test_images')} for tests"),
        ("fingerprint of the data", data.get("fingerprint")),
        ("weights", weights.get("name")),
        ("SHA-256 of the weights", weights.get("sha256")),
        ("code of the training", f"commit {git['commit']}{modified}" if git.get("commit") else None),
        ("versions of the training", _versions(config.get("versions"))),
        ("machine", config.get("machine")),
    ]
    for name, made in (("kernels", files.summary), ("gaps", files.gaps), ("forecast", files.forecast)):
        if made:
            facts.append((f"{name} by", _made_by(made)))
    facts.append(("this report by", _made_by(code_version_json())))
    return [(term, _line(value)) for term, value in facts if value]


def _made_by(made: dict[str, Any]) -> str:
    per_task = f"{made['per_task']} images of each task, " if "per_task" in made else ""
    side = f"{made['side']} side, " if made.get("side") in ("train", "test") else ""
    how = "".join(f"{name} {made[name]}, " for name in ("method", "procedure") if name in made)
    return f"{how}{per_task}{side}commit {made.get('commit') or 'unknown'}; {_versions(made.get('versions'))}"


def _versions(versions: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


def _line(value: str) -> str:
    text = " ".join(plain_text(part) for part in value.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def seeds_note(files: RunFiles) -> str:
    """Which seed the figures show, and where all the numbers are."""
    seeds = [seed for made in (files.summary, files.gaps, files.forecast) if made for seed in made["seeds"]]
    every = list(dict.fromkeys(seeds))
    where = "All numbers, unrounded, are in analysis/tables of the run folder, the figures in analysis/figures."
    if len(every) < 2:
        return where
    return (
        f"Figures of kernels and gaps show seed {every[0]} of {', '.join(every)}; sentences speak of all seeds, "
        f"accuracies are means over the run's. {where}"
    )
