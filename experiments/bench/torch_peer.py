"""Time this project's programs beside PyTorch's, in turns, on the same device.

    python -m experiments.bench torch --size base --batch 16 --repeats 5          # training step on this CPU
    python -m experiments.bench torch --device cuda --batch 128 --repeats 20

Needs torch, which nothing else here does. Ways of computing the same in PyTorch (torch_net.py and torch_step.py beside
this file, written from docs/method.md):

  released  as the authors run it: eager float32, four whole ViT passes (five with --pretrained-view), each from the
            pixels on, attention written out, a full SVD of the prototypes in every training and evaluation step
  eager     the same by a PyTorch programmer who takes no block apart: patch embedding once for all passes, one qkv map,
            fused attention, SVD once per task, no graph for frozen passes, fused optimizer, terms left on the device,
            freed memory kept as in ours; bfloat16 is autocast, frozen maps stored in it
  compiled  `eager` under torch.compile (on a CPU that needs a C++ compiler)
  graphs    `compiled` with CUDA graphs (mode reduce-overhead; CUDA only)

Ours and the other each run in a process of their own, warmed up, then take turns of two calls, of which the second
counts. A figure is the median of --repeats calls; the input is on the device already. One JSON file for each pair in
--out: `ours` and `other` in images/s, `ratio` ours/other (above 1: ours is faster), and what else was seen. A way that
fails is named with the reason.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

from experiments.bench.results import result, write
from experiments.bench.sizes import SEEN, model, options_parser
from ntkcl_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from ntkcl_jax.config.codec import to_json
from ntkcl_jax.devices.flops import evaluation_flops, training_flops
from ntkcl_jax.errors import ConfigError, NtkclError

PROGRAMS = ("training_step", "evaluation_step", "prototype_step")
WAYS = ("released", "eager", "compiled", "graphs")
PAUSE_S = 0.3
"""Before each call: threads of the other process stop spinning."""
MISSING = "expected torch, which this comparison alone needs, and found none; pip install torch beside this project"


class WayError(NtkclError):
    """One way could not be measured."""


def require_torch() -> None:
    """Refuse to go on without torch.

    Raises:
        ConfigError: torch isn't installed.
    """
    # None there forbids the import, as a test may do
    if sys.modules.get("torch", "") is None or importlib.util.find_spec("torch") is None:
        raise ConfigError(MISSING)


class Worker:
    """A process of `experiments.bench.torch_worker`, warm once this is made."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (`close` closes it)
        # Two processes share the device: JAX must not take most of its memory at the start
        backend = {"JAX_PLATFORMS": settings["device"], "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        threads = {"OMP_NUM_THREADS": str(settings["threads"])} if settings["threads"] else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.torch_worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **backend, **threads},
        )
        try:
            self.ready = self.answer()
        except WayError:
            self.close()
            raise

    def answer(self) -> dict[str, Any]:
        """The next line that the process says.

        Raises:
            WayError: it ended instead.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.log.seek(0)
        said = [text.strip() for text in self.log.read().splitlines() if text.strip()]
        errors = [text for text in said if "Error" in text.split(":")[0]]  # torch prints advice behind its error
        reason = (errors or said or ["no message"])[-1]
        raise WayError(f"ended with code {self.process.returncode}: {reason[:300]}")

    def ask(self, word: str) -> dict[str, Any]:
        """Say a word and read the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` tells why
            print(word, file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def in_turns(workers: tuple[Worker, Worker], repeats: int) -> list[dict[str, Any]]:
    """Measure two warm programs side by side: each round calls one, then the other, in an order that turns around.

    The first call of each turn doesn't count: a virtual machine takes back memory that a program left while the other
    had its turn, and caches are cold. Training makes one step after the other.

    Returns:
        For each: seconds of the first call and of these, their median, and memory.
    """
    seconds: list[list[float]] = [[], []]
    for turn in range(repeats):
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            time.sleep(PAUSE_S)
            workers[i].ask("run")
            seconds[i].append(workers[i].ask("run")["seconds"])
    return [
        {**worker.ready, "seconds": times, "median_s": statistics.median(times), **worker.ask("memory")}
        for worker, times in zip(workers, seconds, strict=True)
    ]


def flops(config: ModelConfig, batch: int, program: str) -> int:
    """FLOPs of our program as counted from the config: what it takes without computing anything twice."""
    run = RunConfig(model=config, optimizer=OptimizerConfig(batch_size=batch), objective=ObjectiveConfig())
    return training_flops(run, SEEN) if program == "training_step" else batch * evaluation_flops(run, SEEN)


def record(
    options: argparse.Namespace, config: ModelConfig, name: str, program: str, found: list[dict[str, Any]]
) -> dict[str, Any]:
    """One result: ours and the other of `in_turns`, and where and how they ran."""
    ours, other = found
    count = flops(config, options.batch, program)
    rates = [options.batch / x["median_s"] for x in found]
    made = result(
        name,
        *rates,
        "images/s",
        ours["device"],
        model_gflop=count / 1e9,
        model_gflop_per_s={"ours": count / ours["median_s"] / 1e9, "other": count / other["median_s"] / 1e9},
        measured={"ours": ours, "other": other},
        threads=options.threads or os.cpu_count(),
        load=list(os.getloadavg()),
        environment={key: os.environ[key] for key in ("XLA_FLAGS", "OMP_NUM_THREADS") if key in os.environ},
    )
    return {**made, "versions": {**made["versions"], "torch": metadata.version("torch")}}


def measured(options: argparse.Namespace, config: ModelConfig, program: str) -> Iterator[dict[str, Any]]:
    """Results of one program, ours in each dtype against every way; prints what can't be measured."""
    common = {name: getattr(options, name) for name in ("device", "threads", "batch")}
    common |= {"program": program, "model": to_json(config)}
    side = f"{options.size}-{config.backbone.image_size}px-b{options.batch}"
    for dtype in options.dtypes:
        with contextlib.ExitStack() as both:
            label = f"{program}-{side}-{dtype}{'-pretrained' if config.pretrained_view else ''}"
            try:
                ours = both.enter_context(contextlib.closing(Worker({**common, "way": "ours", "dtype": dtype})))
            except WayError as error:
                print(f"{label}: not measured, {error}", flush=True)
                continue
            for way in options.ways:
                if way == "graphs" and options.device != "cuda":
                    continue
                theirs = "float32" if way == "released" else dtype  # whatever ours does
                name = f"{label}-vs-torch-{way}-{theirs}"
                try:
                    with contextlib.closing(Worker({**common, "way": way, "dtype": theirs})) as other:
                        found = in_turns((ours, other), options.repeats)
                except WayError as error:
                    print(f"{name}: not measured, {error}", flush=True)
                    continue
                yield record(options, config, name, program, found)


def row(found: dict[str, Any]) -> str:
    """One line of the printed table."""
    ours, other = found["measured"]["ours"], found["measured"]["other"]
    memory = [x["device_peak_mb"] or x["peak_mb"] for x in (ours, other)]
    return (
        f"{found['name']:<78} {found['ours']:9.2f} {found['other']:9.2f} {found['ratio']:6.2f}x"
        f" {memory[0]:8.0f} {memory[1]:8.0f} {ours['first_s']:7.1f} {other['first_s']:7.1f}"
    )


def main(words: list[str]) -> int:
    """Measure, write, and print; 0 when something was measured."""
    parser = options_parser(
        "experiments.bench torch",
        __doc__,
        repeats=7,
        repeated="timed calls of each, after three that are not and with one before each that isn't",
        size="base",
        batch=16,
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU cores for each side (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="see above")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["training_step"])
    parser.add_argument("--pretrained-view", action="store_true", help="five passes instead of four")
    options = parser.parse_args(words)
    try:
        require_torch()
        config = replace(model(options.size, options.image_size), pretrained_view=options.pretrained_view)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{'':<78} {'ours':>9} {'other':>9} {'ratio':>7} {'MB ours':>8} {'other':>8} {'first s':>7} {'other':>7}")
    done = 0
    for program in options.programs:
        for found in measured(options, config, program):
            done += 1
            write(found, options.out)
            print(row(found), flush=True)
    return 0 if done else 1
