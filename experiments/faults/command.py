"""Kill and hurt a small run in many ways; each time `--resume` must end with the bits of an undisturbed run.

    python -m experiments.faults                             # 100 kills in about 50 runs, and 40 runs with other faults
    python -m experiments.faults --kills 8 --processes 1

The run (two seeds; NTK-CL, adapters and sequential) is started by the real command, disturbed, and taken up again. What
it leaves is compared with what an undisturbed run leaves: every array of every checkpoint, results.json,
figures and the lines of metrics.jsonl without what a clock puts into them. A child that can't go on must say so in one
line with exit code 2; where that line says what to delete, it is deleted. Folders of runs that were lost are kept below
--out, where faults.json tells what came of each fault.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from experiments.faults.disturbed import Campaign, Left, Lost, difference, ended, images, left, whole, words
from experiments.faults.kinds import FAULTS, can_mount, full_disk
from ntkcl_jax.runs.folder import provenance
from ntkcl_jax.runs.log import Progress, seconds

AIMED = 4
"""Every so many-th killed run is killed while it writes a checkpoint."""
KILLS_EACH = 2
"""Times that a run is killed, on average."""
OTHERS = 20
"""One try of every other fault for so many kills."""
UNORDERED = ("a checkpoint cut off", "a bit of a checkpoint flipped")
"""What is learnt again after it was deleted stands at the end of the log."""


def planned(kills: int, *, disks: bool) -> list[tuple[str, int]]:
    """Names of the faults to try, each with its number.

    Args:
        kills: how many; every fourth run is killed while it writes a checkpoint.
        disks: small disks can be mounted.

    Example:
        >>> [(name, number) for name, number in planned(10, disks=True) if name.startswith("SIGKILL while")]
        [('SIGKILL while a checkpoint is written', 3)]
    """
    # Without the two kinds of kill, which come first and are counted apart
    others = [name for name in FAULTS if disks or FAULTS[name] is not full_disk][2:]
    return killed(kills) + [(name, i) for i in range(math.ceil(kills / OTHERS)) for name in others]


def killed(kills: int, first: int = 0) -> list[tuple[str, int]]:
    """Runs that so many kills take on average: names of their faults, and numbers from `first` on."""
    anywhere, aimed = list(FAULTS)[:2]
    numbers = range(first, first + math.ceil(kills / KILLS_EACH))
    return [(aimed if i % AIMED == AIMED - 1 else anywhere, i) for i in numbers]


def undisturbed(root: Path, processes: int) -> tuple[Campaign, Left]:
    """Make the run without any fault: once, then as many at a time as there will be.

    Raises:
        Lost: these runs differ from each other or can't be made at all.
    """
    environment = {
        "JAX_PLATFORMS": "cpu",
        # Every program is kept, however quick it compiles and however small it is
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "MPLBACKEND": "Agg",
    }
    # Programs read from the cache make XLA write kilobytes to a pipe that nobody empties while a child is watched. This
    # wins over what is set: JAX, when it is imported here, sets a level itself.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    campaign = Campaign(words(images(root / "data")), {**environment, **os.environ, **quiet})
    found = []
    # The first run fills the cache of compiled programs; those after it take as long as disturbed ones will
    for i, count in enumerate((1, processes)):
        began = time.monotonic()
        runs = [root / f"undisturbed{i}-{j}" for j in range(count)]
        children = [campaign.start(run) for run in runs]
        for run, child in zip(runs, children, strict=True):
            code, error = ended(child)
            if code:
                raise Lost(f"the undisturbed run ended with code {code}: {error[-500:]}")
            found.append(left(run))
        duration = time.monotonic() - began
    for other in found[1:]:
        if why := difference(other, found[0]):
            raise Lost(f"two undisturbed runs differ: {why}")
    # Beside `before` and `after` each task of a method that trains writes one in its middle, which is removed.
    return replace(campaign, duration=duration, writes=len(whole(root / "undisturbed0-0")) * 3 // 2), found[0]


def try_one(campaign: Campaign, wanted: Left, root: Path, seed: int, name: str, number: int) -> str:
    """Disturb one run and take it up again: why it was lost, or nothing."""
    run = folder_of(root, name, number)
    try:
        # Drawn for each case by itself: which thread comes first changes nothing
        FAULTS[name](campaign, run, random.Random(f"{seed} {name} {number}"))
        why = difference(campaign.finish(run), wanted, ordered=name not in UNORDERED)
    except (Lost, OSError, ValueError) as error:
        why = f"{error}" if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
    # A lost run's folder is kept, to be looked at
    if not why:
        shutil.rmtree(run)
    return why


def folder_of(root: Path, name: str, number: int) -> Path:
    """Run folder of a case."""
    return root / f"{'-'.join(name.split())}-{number}"


def campaign(root: Path, kills: int, seed: int, processes: int) -> dict[str, Any]:
    """Try all faults below a folder; what survived is deleted.

    Returns:
        What `faults.json` holds beside versions, commit and command.

    Raises:
        Lost: there is no undisturbed run to compare with.
    """
    began = time.monotonic()
    plain, wanted = undisturbed(root, processes)
    cases = planned(kills, disks=can_mount(root))
    tried: Counter[str] = Counter()
    lost: dict[str, dict[str, str]] = {}
    runs = len(killed(kills))
    with Progress() as progress, ThreadPoolExecutor(processes) as pool, progress.stage("faults", len(cases)) as stage:
        while cases:
            waiting = {pool.submit(try_one, plain, wanted, root, seed, *case): case for case in cases}
            for done in as_completed(waiting):
                name, number = waiting[done]
                tried[name] += 1
                if why := done.result():
                    folder = folder_of(root, name, number)
                    lost.setdefault(name, {})[str(folder)] = why
                    progress.say(f"lost: {name}: {why} ({folder})")
                stage.advance()
            # A run may end before it is killed again: more runs, unless one was lost already.
            cases = [] if lost else killed(max(0, kills - len(plain.events)), runs)
            runs += len(cases)
    return {
        "name": "faults",
        "seed": seed,
        "tried": tried.total(),
        "survived": tried.total() - sum(map(len, lost.values())),
        "seconds": round(time.monotonic() - began, 1),
        "seconds_undisturbed": round(plain.duration, 1),
        "sent": dict(Counter(plain.events)),
        "faults": {n: {"tried": tried[n], "survived": tried[n] - len(lost.get(n, {}))} for n in FAULTS if tried[n]},
        "lost": lost,
    }


def main() -> None:
    """Run the campaign; exit code 1 if a run was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of faults.json and lost runs")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    asked = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    facts = provenance()
    asked.out.mkdir(parents=True, exist_ok=True)
    # Absolute, since children start in another folder
    root = Path(tempfile.mkdtemp(prefix="campaign-", dir=asked.out.absolute()))
    try:
        found = campaign(root, asked.kills, asked.seed, asked.processes)
    except Lost as error:
        sys.exit(f"experiments.faults: {error}; see {root}")
    record = found | {"versions": facts["versions"], "commit": facts["git"], "command": facts["command"]}
    (asked.out / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, counts in found["faults"].items():
        print(f"{name:<40} {counts['survived']} of {counts['tried']}")
    kinds = ", ".join(f"{count} x {event}" for event, count in found["sent"].items())
    print(f"{seconds(found['seconds'])}, {kinds}; {asked.out / 'faults.json'}")
    print(f"survived {found['survived']} of {found['tried']}")
    if found["survived"] == found["tried"]:
        shutil.rmtree(root)
    else:
        sys.exit(1)
