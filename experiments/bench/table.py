"""Write the figures of a folder of results into the marked places of docs/performance.md.

    python -m experiments.bench table

A place begins with `<!-- figures: NAME -->` and ends with `<!-- end -->`; what stands between them is made here, from
the JSON files alone. A test compares.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.bench.results import FOLDER, read
from ntkcl_jax.config.benchmarks import BENCHMARKS
from ntkcl_jax.config.presets import preset
from ntkcl_jax.devices.flops import Stream, run_flops
from ntkcl_jax.devices.peaks import peak_tflops

DOCUMENT = Path("docs/performance.md")
PLACE = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Results = list[dict[str, Any]]
CIFAR100 = Stream((10,) * 10, *BENCHMARKS["cifar100"].images)
H200_TFLOPS = peak_tflops("NVIDIA H200", "bfloat16") or 0


def rows(head: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `head` has its columns, parted by `|`."""
    columns = head.split("|")
    body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *body]) + "\n"


def number(value: float) -> str:
    """Three digits, or all of a large one.

    Example:
        >>> number(0.012345), number(12.345), number(1234.5), number(0)
        ('0.0123', '12.3', '1,234', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes for people.

    Example:
        >>> size(1.5e9), size(2e13)
        ('1.5 GB', '20 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def span(seconds: float) -> str:
    """Time for people.

    Example:
        >>> span(0.02), span(90), span(7200), span(864000)
        ('20 ms', '90 s', '2 h', '10 days')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < most:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def sources(found: Results) -> str:
    """Commands, devices and commits of results."""

    def one(r: dict[str, Any]) -> str:
        state = r["commit"] or {"commit": "unknown", "modified": False}
        changed = " with changes" if state["modified"] else ""
        return f"`{r['command']}` ({r['device']}, {processor(r)}commit {state['commit'][:7]}{changed})"

    return "\n".join(f"- {line}" for line in dict.fromkeys(map(one, found))) + "\n"


def processor(r: dict[str, Any]) -> str:
    """Name of the processor, where it was noted."""
    name = r.get("machine", {}).get("processor")
    return f"{name}, " if name else ""


def starting(found: Results, *prefixes: str) -> Results:
    """Results whose names begin so."""
    return [r for r in found if r["name"].startswith(prefixes)]


def steps(found: Results) -> str:
    """The compiled programs on one device."""
    chosen = starting(found, "steps-")
    head = "program|ms|images/s|share of the matrix product's rate|system's CPU s|first call"
    lines = [
        (r["name"].removeprefix("steps-"), number(r["ms"]), number(r["ours"]), f"{r['ratio']:.0%}",
         number(r["system_s"]), span(r["first_call_s"]))
        for r in chosen
    ]  # fmt: skip
    return rows(head, lines) + "\n" + sources(chosen) if chosen else ""


def torch(found: Results) -> str:
    """Beside PyTorch."""
    chosen = [r for r in found if "-vs-torch-" in r["name"]]
    lines = [
        (r["name"], number(r["ours"]), number(r["other"]), f"{r['ratio']:.2f}",
         *(number(memory_mb(r["measured"][side])) for side in ("ours", "other")))
        for r in chosen
    ]  # fmt: skip
    head = "ours beside PyTorch's|ours, images/s|PyTorch, images/s|ratio|ours, MB|PyTorch, MB"
    return rows(head, lines) + "\n" + sources(chosen) if chosen else ""


def memory_mb(side: dict[str, Any]) -> float:
    """Highest memory of the device where it tells, of the process elsewhere."""
    return side["device_peak_mb"] or side["peak_mb"]


def growth(found: Results) -> str:
    """Cost as the work grows."""
    chosen = starting(found, "growth-")
    lines = [
        (r["name"].removeprefix("growth-"), r["unit"], " ".join(number(point["x"]) for point in r["points"]),
         " ".join(number(point[r["field"]]) for point in r["points"]),
         f"{r['ratio']:.2f} for {number(r['grown'])} times the size")
        for r in chosen
    ]  # fmt: skip
    pictures = [
        f"![cost as the work grows](../{FOLDER}/{name})\n" for name in dict.fromkeys(r["picture"] for r in chosen)
    ]
    table = rows("axis|what|sizes|cost at each|grown", lines)
    return "\n".join([table, *pictures, sources(chosen)]) if chosen else ""


def profile(found: Results) -> str:
    """Where the time of a step goes."""
    text = []
    for r in starting(found, "profile-"):
        lines = [
            (part, number(1e3 * v["seconds"]), f"{v['of_step']:.0%}", number(v["flops"] / 1e9),
             number(v["bytes"] / 1e6), "memory" if v["bound_by_memory"] else "arithmetic",
             number(1e3 * v["attainable_s"]), f"{v['reached']:.0%}")
            for part, v in {**r["parts"], "whole step": r["whole"]}.items()
        ]  # fmt: skip
        about = (
            f"`{r['name']}`: matrix product {number(r['matrix_gflop_per_s'])} GFLOP/s, memory "
            f"{number(r['memory_gb_per_s'])} GB/s; the step does {number(r['ours'])} GFLOP/s counted from the config, "
            f"{r['ratio']:.0%} of the matrix product's.\n\n"
        )
        text.append(about + rows("part|ms|of the step|GFLOP|MB|bound by|at best, ms|reached", lines))
        text.append(sources([r]))
    return "\n".join(text)


STREAM_ROWS: dict[str, tuple[str, Callable[[float], str]]] = {
    "memory_per_device": ("memory of a device while training", size),
    "step_s": ("a step", span),
    "gradient_sent_per_step": ("gradients sent per step and device", size),
    "features_sent_per_step": ("features for L_dis sent per step and device", size),
    "sending_s_per_step": ("sending them, if nothing overlaps", span),
    "images_per_s": ("images per second, which hosts must decode", number),
    "disk_read_per_s": ("read from disk per second", size),
    "training_s": ("training", span),
    "prototypes_s": ("prototypes", span),
    "evaluation_s": ("test images of all classes seen, after every task", span),
    "total_s": ("all of it", span),
    "checkpoint": ("one checkpoint", size),
    "checkpoints": ("all checkpoints, two a task", size),
    "prototypes_in_checkpoints": ("of these, prototypes", size),
}
KERNEL_ROWS: dict[str, tuple[str, Callable[[float], str]]] = {
    "memory_per_device": ("memory of a device", size),
    "written": ("tiles written (the upper triangle)", size),
    "written_per_s": ("written per second", size),
    "passes": ("times that a Jacobian row is computed", number),
    "flops": ("FLOP", lambda value: f"{value:.2e}"),
    "total_s": ("time", span),
}


def estimate(found: Results) -> str:
    """The large stream and the large kernel."""
    chosen = [r for r in starting(found, "estimate-") if "-check-" not in r["name"]]
    if not chosen:
        return ""
    head = "|".join(["", *(r["machine_assumed"]["name"] for r in chosen)])
    text = []
    for part, shown in (("stream", STREAM_ROWS), ("kernel", KERNEL_ROWS)):
        lines = [(f"{part}: {label}", *(form(r[part][key]) for r in chosen)) for key, (label, form) in shown.items()]
        text.append(rows(head, lines))
    text.append(f"Assumed: {chosen[0]['mfu_assumed']:.0%} of the published peak.\n\n" + sources(chosen))
    return "\n".join(text)


def check(found: Results) -> str:
    """The estimates beside what was measured."""
    chosen = starting(found, "estimate-check-")
    lines = [
        (r["name"].removeprefix("estimate-check-"), number(r["ours"]), number(r["other"]), r["unit"], r["other_is"],
         f"{r['ratio']:.2f}")
        for r in chosen
    ]  # fmt: skip
    return rows("what|measured|beside|unit|which is|ratio", lines) + "\n" + sources(chosen) if chosen else ""


def goals(found: Results) -> str:
    """What was to be reached."""
    float32 = beside_torch(found, "cpu", "-float32-vs-torch-")
    best, fast = beside_torch(found, "H200", "-bfloat16-vs-torch-"), "{ratio:.2f} times ({name})"
    usual = [r for r in best if "-released-" not in r["name"]]
    released = [r for r in best if "-released-" in r["name"]]
    for r in best:
        # Operations that the config counts, whatever the program computes twice
        reached = 1e9 * r["model_gflop_per_s"]["ours"]
        r["peak"] = reached / (1e12 * H200_TFLOPS)
        r["minutes"] = run_flops(preset("cifar100"), CIFAR100) / reached / 60
    lines = [
        ("CPU, ViT-B/16, float32: 1.2 times PyTorch's step", _said(float32, fast, "not measured yet")),
        ("H200, bfloat16, ViT-B/16, batch 128: 50 % of the peak", _said(best, "{peak:.0%} ({name})")),
        ("H200: 8 times the release", _said(released, fast)),
        ("H200: 1.3 times the best PyTorch", _said(usual, fast)),
        ("H200: CIFAR-100 preset in 15 minutes", _said(best, "{minutes:.0f} min, from the speed of {name}")),
        (
            "time per task flat in the number of tasks",
            _said(
                starting(found, "growth-tasks-"), "{ratio:.2f} times at {grown:.0f} times the tasks", "not measured yet"
            ),
        ),
    ]
    return rows("goal|reached", lines)


def beside_torch(found: Results, device: str, words: str) -> Results:
    """Training steps of ViT-B/16 beside PyTorch on a kind of device."""
    chosen = starting(found, "training_step-base-224px")
    return [dict(r) for r in chosen if device in r["device"] and words in r["name"]]


def _said(chosen: Results, text: str, otherwise: str = "not measured: no GPU was lent") -> str:
    """The least favourable of some results in words."""
    worst = min(chosen, key=lambda r: r["ratio"], default=None)
    return otherwise if worst is None else text.format(**worst)


PLACES: dict[str, Callable[[Results], str]] = {
    "goals": goals, "steps": steps, "torch": torch, "growth": growth, "profile": profile, "estimate": estimate,
    "estimate-check": check,
}  # fmt: skip


def filled(text: str, found: Results) -> str:
    """The document with every marked place made anew."""

    def place(match: re.Match[str]) -> str:
        return f"{match[1]}{PLACES[match[2]](found) or 'Not measured yet.' + chr(10)}{match[3]}"

    return PLACE.sub(place, text)


def main(words: list[str]) -> int:
    """Rewrite the document."""
    parser = argparse.ArgumentParser(
        prog="experiments.bench table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(words)
    options.document.write_text(filled(options.document.read_text(), read(options.results)))
    print(options.document)
    return 0
