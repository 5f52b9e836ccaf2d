"""One JSON file for each figure: how it is made, written and read."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

from experiments.commands import command_line
from ntkcl_jax.runs.folder import provenance

FIELDS = ("name", "ours", "other", "ratio", "unit", "device", "versions", "command", "commit")
"""What every result has: `ours` and `other` in `unit`, and `ratio` ours/other."""
FOLDER = Path("experiments/bench/results")


def processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def result(name: str, ours: float, other: float, unit: str, device: str, **more: Any) -> dict[str, Any]:
    """One figure with where it comes from.

    Args:
        name: of the file too, without the device.
        ours: what was measured or computed here.
        other: what it stands beside; `more` should say what that is.
        unit: of both.
        device: kind of device, as JAX or torch names it.
        **more: whatever else is worth keeping.
    """
    facts = provenance()
    return {
        "name": name,
        "ours": ours,
        "other": other,
        "ratio": ours / other,
        "unit": unit,
        "device": device,
        "versions": facts["versions"],
        "command": command_line(sys.argv),
        "commit": facts["git"],
        "machine": {"system": facts["machine"], "processor": processor()},
        **more,
    }


def write(found: dict[str, Any], folder: Path) -> Path:
    """Write a result as `<name>-<device>.json`.

    Raises:
        ValueError: a field of `FIELDS` is missing, or a number isn't finite.
    """
    missing = [field for field in FIELDS if field not in found]
    if missing:
        raise ValueError(f"expected a result with {', '.join(FIELDS)}; {missing[0]} is missing")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['name']}-{found['device'].replace(' ', '_')}.json"
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder, by name."""
    return sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda r: r["name"])
