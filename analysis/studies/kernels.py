"""Kernels of a run: every checkpoint asked for, over the probes of all tasks; tile by tile into the store.

One symmetric kernel over all probes holds all blocks Θ_c(X_t, X_k) of a checkpoint. The compiled programs are the same
for all checkpoints and seeds.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import measures
from analysis.errors import RecordError, TooLargeError
from analysis.kernels import Outputs, Precision, tiled
from analysis.kernels.empirical import default_precision, empirical_ntk
from analysis.kernels.functions import Function, Groups, Params, Shape, check_images, check_params, inspect
from analysis.kernels.health import check_kernel
from analysis.kernels.planner import Plan, plan
from analysis.plots.kernels import checkpoint_name, save_figures
from analysis.records.checkpoints import open_run, tree_sha256
from analysis.records.probes import Probes
from analysis.records.tasks import MethodRecords, span
from analysis.store import (
    KernelSpec,
    KernelStore,
    OpenKernel,
    analysis_folder,
    code_version,
    code_version_json,
    load_analysis,
)
from analysis.store.files import write_json, write_text
from analysis.studies import summary
from analysis.studies.fitting import explained, most_per_task
from analysis.studies.request import Request
from ntkcl_jax.data import Arrays
from ntkcl_jax.errors import user_path
from ntkcl_jax.terminal.progress import Progress, Stage


@dataclass(frozen=True)
class Job:
    """One kernel to compute; one that is stored already has no plan, which would compile a program for nothing."""

    spec: KernelSpec
    fn: Function
    params: Params
    shape: Shape
    probes: Probes
    plan: Plan | None
    precision: Precision


class Session:
    """A request on an opened run."""

    def __init__(self, run: str | Path, request: Request, arrays: Arrays | None = None) -> None:
        """Open the run and check the request against it.

        Raises:
            RecordError: no run, method, seed, task or checkpoint like that.
            MeasureError: a measure of an installed package can't be used.
        """
        self.request = request
        self.measures = measures.by_name()  # one that is broken is told before hours of computing
        self.records: MethodRecords = open_run(run, request.method, arrays=arrays)
        self.run = user_path(run)
        self.store = KernelStore(self.run, request.method)
        self.mesh = tiled.data_mesh(None)
        self.precision: Precision = request.precision or default_precision()
        self.version = code_version()

    def pairs(self) -> list[tuple[int, int]]:
        """Seeds and checkpoints that are asked for.

        Raises:
            RecordError: one that doesn't exist.
        """
        found = []
        for seed in self.request.seeds or self.records.seeds:
            there = self.records.checkpoints(seed)
            missing = sorted(set(self.request.checkpoints) - set(there))
            if missing or not there:
                raise RecordError(
                    f"expected checkpoints {span(there)} of seed {seed} in {self.run}; got {missing[0]}"
                    + (": a readout keeps its newest state only" if there[0] else "")
                    if missing and there
                    else f"seed {seed} of {self.run} has no finished task yet; train first"
                )
            found += [(seed, c) for c in there if not self.request.checkpoints or c in self.request.checkpoints]
        return found

    def jobs(self, pairs: list[tuple[int, int]], record: bool = True) -> Iterator[Job]:
        """Kernels, made ready one after the other; the plan is made once.

        Args:
            pairs: their seeds and checkpoints, from `pairs`.
            record: write down which images the probes are; without it, as for a dry run, every kernel has a plan.
        """
        planned: Plan | None = None
        probes: Probes | None = None
        for seed, checkpoint in pairs:
            # Pairs come seed by seed, so that a seed's probes are read once
            if probes is None or probes.seed != seed:
                probes = self.probes(seed, record)
                check_images(probes.images, "the probes")
            fn, params = self.records.function(seed, checkpoint, self.request.head)
            groups = None
            if self.request.groups != "none":
                groups = self.records.groups(list(params), self.request.groups)
            check_params(params)  # that rows are independent is a property of the network, tested where it is defined
            shape = inspect(fn, params, probes.images, groups)
            # The choice of a tile depends on free memory; a kernel that was begun keeps the tile that it has.
            found = self.store.found(seed, checkpoint, self.request.outputs)
            tile = self.request.tile or (found.tile if found else None)
            # Nothing is computed of a finished kernel; a dry run shows a plan all the same
            finished = found is not None and record and self.store.path(found).exists()
            # One plan for all: function and shapes are the same at every checkpoint and seed
            if not finished and (planned is None or (tile and tile != planned.tile)):
                planned = self._plan(fn, params, probes, groups, tile)
            # A finished kernel's spec has to have its own tile to be found
            size = planned.tile if planned and not finished else tile
            assert size is not None
            yield Job(self._spec(seed, checkpoint, probes, shape, size, fn, params), fn, params, shape, probes,
                      None if finished else planned, self.precision)  # fmt: skip

    def _plan(self, fn: Function, params: Params, probes: Probes, groups: Groups, tile: int | None) -> Plan:
        """Plan the kernel of all probes; where it doesn't fit, say which `--per-task` does."""
        request, tasks = self.request, len(probes.tasks)

        def attempt(per_task: int, outputs: Outputs = request.outputs) -> Plan:
            return plan(
                fn, params, probes.images, per_task * tasks, None,
                outputs=outputs, groups=groups, precision=self.precision, way=request.way, tile=tile,
                memory_bytes=request.memory_bytes, devices=1 if self.mesh is None else self.mesh.size, mesh=self.mesh,
            )  # fmt: skip

        try:
            return attempt(request.per_task)
        except TooLargeError as error:
            otherwise = "or leave --tile out" if request.tile else ""
            if request.outputs in ("full", "diagonal"):
                # The kernel of images instead of images times outputs: the largest saving that any option brings
                most = most_per_task(lambda n: attempt(n, "trace"), request.per_task + 1)
                otherwise = f"with --outputs trace {most} do" if most else otherwise
            raise explained(error, attempt, request.per_task, otherwise=otherwise) from error

    def probes(self, seed: int, record: bool = True) -> Probes:
        """The probe images of a seed."""
        return self.records.probes(
            seed, self.request.per_task, side=self.request.side, tasks=self.request.tasks or None, record=record
        )

    def _spec(
        self, seed: int, checkpoint: int, probes: Probes, shape: Shape, tile: int, fn: Function, params: Params
    ) -> KernelSpec:
        way = "tiled" if self.request.way == "auto" else self.request.way
        groups = tuple(name for name, _ in shape.groups) if self.request.groups != "none" else ()
        return KernelSpec(
            seed=seed, checkpoint=checkpoint, outputs=self.request.outputs, head=self.request.head,
            method=self.request.method, n=len(probes.images), k=shape.outputs, tile=tile,
            copies=self.records.copies(seed), groups=groups if len(groups) > 1 else (), tasks=probes.tasks,
            offsets=probes.offsets,
            # Frozen arrays as well: the kernel of another state isn't taken for this one
            parameters=tree_sha256((fn, params)), probes=probes.sha256, way=way, precision=self.precision,
            **self.version,
        )  # fmt: skip

    def compute(self, *, resume: bool, progress: Progress) -> list[KernelSpec]:
        """Compute what isn't stored yet.

        Args:
            resume: take up unfinished kernels.
            progress: shows blocks done and time left.

        Returns:
            Specs of the kernels that this call finished or found finished.

        Raises:
            HealthError: a kernel failed its checks and was deleted.
        """
        done: list[KernelSpec] = []
        pairs = self.pairs()
        with progress.stage("kernels", 1) as stage:
            for number, job in enumerate(self.jobs(pairs)):
                blocks = len(job.spec.pairs)
                # Known with the first kernel; before, the bar has a total of 1
                stage.total = len(pairs) * blocks
                if self.store.exists(job.spec):
                    stage.advance(blocks)
                    done.append(job.spec)
                    continue
                # Shares of a kernel meet in one folder, so that each may find it begun
                opened = self.store.open(job.spec, resume=resume or self.request.part[1] > 1)
                start = time.monotonic()
                self._fill(job, opened, stage)
                # A share leaves blocks to the others: the bar moves on to the kernel's end
                stage.advance(max(0, (number + 1) * blocks - stage.done))
                # A share doesn't know whether the others are done: a call without `part` checks and finishes
                if self.request.part[1] == 1:
                    self._finish(job, opened, time.monotonic() - start)
                    done.append(job.spec)
        return done

    def _fill(self, job: Job, opened: OpenKernel, stage: Stage) -> None:
        if job.spec.way == "neural_tangents":
            theta = empirical_ntk(
                job.fn, job.params, job.probes.images,
                outputs=self.request.outputs, way="neural_tangents", tile=job.spec.tile,
            )  # fmt: skip
            # The whole kernel at once, put into the store block by block
            for i, j in job.spec.pairs:
                opened.put(i, j, {tiled.WHOLE: theta[job.spec.rows(i), job.spec.rows(j)]})
                stage.advance()
            return
        assert job.plan is not None
        tiled.fill(
            self._source(job), job.probes.images, None, opened, outputs=self.request.outputs, held=job.plan.held,
            precision=job.precision, part=self.request.part, advance=stage.advance,
        )  # fmt: skip

    def _source(self, job: Job) -> tiled.RowSource:
        return tiled.RowSource(
            job.fn, job.params, job.shape, job.spec.tile, job.spec.outputs == "pseudo", self.mesh,
            lean=self.request.memory_bytes is not None,
        )  # fmt: skip

    def _finish(self, job: Job, opened: OpenKernel, seconds: float) -> None:
        """Check the kernel, and give it its name or delete it."""
        # The network's own arithmetic is raised too, which raising its arrays alone doesn't do
        double_fn, _ = self.records.function(job.spec.seed, job.spec.checkpoint, job.spec.head, dtype="float64")
        health = check_kernel(
            opened.matrix(), self._source(job), job.probes.images,
            outputs=self.request.outputs, precision=job.precision, seed=job.spec.seed, double_fn=double_fn,
        )  # fmt: skip
        if health.reason:
            # Deleted first, as the next line raises: a refused kernel never stays
            opened.discard()
            health.require(f"the kernel of seed {job.spec.seed} {checkpoint_name(job.spec.checkpoint)}")
        opened.finish(health.to_json(), seconds)

    def summarise(self) -> dict[str, Any]:
        """Summary of all stored kernels of the request's kind on the request's probes, also those of earlier calls."""
        stored = load_analysis(self.run, self.request.method)
        seeds: dict[str, Any] = {}
        for seed in self.request.seeds or self.records.seeds:
            probes = self.probes(seed)
            # Kernels of other images are no part of this summary
            specs = [
                spec
                for spec in stored.kernels
                if (spec.seed, spec.outputs, spec.head, spec.probes)
                == (seed, self.request.outputs, self.request.head, probes.sha256)
            ]
            if specs:
                seeds[str(seed)] = {
                    "tasks": list(probes.tasks),
                    "too_few": summary.too_few(probes.labels, probes.offsets, probes.tasks),
                    **self.records.facts(seed),
                    "checkpoints": self._checkpoints(stored, specs, probes),
                }
        kind = {name: getattr(self.request, name) for name in ("method", "outputs", "head", "per_task", "side")}
        return {**kind, "ridge_fraction": measures.RIDGE_FRACTION, **code_version_json(), "seeds": seeds}

    def _checkpoints(self, stored: Any, specs: list[KernelSpec], probes: Probes) -> dict[str, Any]:
        # Kernels come by checkpoint, all of the same probes, so that each can be compared with the one before
        before: measures.Checkpoint | None = None
        last: int | None = None
        figures: dict[str, Any] = {}
        for spec in specs:
            kernel = stored.stored(spec.seed, spec.checkpoint, spec.outputs)
            now = measures.Checkpoint(
                kernel.matrix(), spec.offsets, probes.labels,
                self.records.parameters(spec.seed, spec.checkpoint, spec.head),
                spec.head == "scores", {name: kernel.matrix(name) for name in spec.groups},
                float(np.finfo("float32" if spec.precision == "float32" else "float64").eps),
            )  # fmt: skip
            health = {name: value for name, value in kernel.health.items() if name != "recomputed"}
            figures[str(spec.checkpoint)] = {
                # Not always the one before: only what was computed can be compared with
                "compared_with": last,
                **summary.summarise(now, before, self.measures),
                "health": summary.task_health(now, health),
                "kernel_health": kernel.health,
            }
            before, last = now, spec.checkpoint
        return figures


def compute_kernels(
    run: str | Path,
    request: Request | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    arrays: Arrays | None = None,
) -> dict[str, Any]:
    """Compute the kernels of a run into `RUN/analysis` or `RUN/analysis/<method>`; see `docs/kernels.md`.

    Beside the kernels: `summary.json`, every measure's values in `measures.csv`, and figures.

    Args:
        run: folder of a finished or running run.
        request: which kernels, and how; all checkpoints at 20 test images a task when None.
        resume: take up what an interrupted call left.
        quiet: no progress.
        arrays: the images again, when the run had `data.source="arrays"`.

    Returns:
        The summary. With `part`, kernels stay unfinished until a call without it (and with `resume`) finishes them.

    Raises:
        AnalysisError: the run, the request, memory or disk don't allow it, a kernel failed its checks, or a measure of
            an installed package can't be used; kernels that are finished stay.
    """
    session = Session(run, request or Request(), arrays)
    with Progress(quiet) as progress:
        session.compute(resume=resume, progress=progress)
    made = session.summarise()
    # Shares of a first kernel finish none: there is nothing to write yet
    if made["seeds"]:
        home = analysis_folder(session.run, session.request.method)
        write_json(home / "summary.json", made)
        write_text(home / "measures.csv", summary.measures_csv(made))
        save_figures(made, home / "figures")
    return made


def dry_run(run: str | Path, request: Request, arrays: Arrays | None = None) -> list[str]:
    """Say what `compute_kernels` would do: kernels, way, tile, memory, operations, disk; nothing is written.

    Raises:
        AnalysisError: as `compute_kernels`, as far as that can be known before.
    """
    session = Session(run, request, arrays)
    pairs = session.pairs()
    first = next(session.jobs(pairs, record=False))
    arrays_count = 1 + len(first.spec.groups)
    stored = sum(np.prod(first.spec.block_shape(i, j), dtype=np.int64) for i, j in first.spec.pairs) * 8 * arrays_count
    return [
        f"{len(pairs)} kernels ({len({seed for seed, _ in pairs})} seeds), each over {first.spec.n} images of "
        f"{len(first.spec.tasks)} tasks, {first.spec.k} outputs, {first.shape.parameters:,} parameters",
        *(first.plan.lines() if first.plan else ()),
        f"disk: {len(pairs) * stored / 1e6:,.1f} MB in {session.store.root}",
    ]
