"""Run folders and stores of kernels with any file damaged or forged: read, or refused in one line; nothing outside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from analysis.records.checkpoints import open_run
from analysis.report import words
from analysis.report.lost import lost_says
from analysis.report.page import RunView, render_page
from analysis.report.provenance import provenance_of, seeds_note
from analysis.report.reading import read_run
from analysis.report.sections import Part, all_tables
from analysis.report.tables import comparison
from analysis.report.verdict import methods_says, verdict
from analysis.store import load_analysis
from analysis.store.files import fingerprint
from experiments.sweep import cells
from ntkcl_jax.runs import checkpoint
from ntkcl_jax.runs.folder import RunFolder
from ntkcl_jax.runs.log import MetricsLog, read_metrics
from ntkcl_jax.runs.recorded import load_run
from ntkcl_jax.training.run import train
from ntkcl_jax.weights import file_sha256
from tests.fuzz.harness import HOSTILE, JUNK, TEXTS, answer, damaged_bytes, damaged_json, fuzz, write
from tests.support import reported, stored
from tests.support import streams as tiny

NAMES = st.one_of(
    st.sampled_from(
        ["../../../secret", "/etc/passwd", "arrays", ".", "", "meta.json/x", "a" * 300, "\x00", "/dev/zero"]
    ),
    TEXTS,
)
"""Names that a manifest could list."""
STUDIES = ("analysis/summary.json", "analysis/gaps.json", "analysis/forecast.json")
OF_SUMMARY = (words.ratios_says, words.drift_says, words.shares_says)
HASHES = st.sampled_from(["", "0" * 64, None, 1, [], {}])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one seed; every test puts back what it damages."""
    path = tmp_path_factory.mktemp("fuzz") / "run"
    train(tiny.config(optimizer__epochs=1), path, arrays=tiny.arrays(), quiet=True)
    return path


@pytest.fixture(scope="module")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up files of a run and of every study; every test puts back what it damages."""
    return reported.made_run(tmp_path_factory.mktemp("fuzz") / "reported", tasks=2, seeds=(0, 1), checkpoints=(0, 2))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored kernel of made-up numbers."""
    return stored.finished(tmp_path_factory.mktemp("fuzz") / "analysed")


def with_file(path: Path, content: bytes, calls: list[Callable[[], Any]]) -> list[int]:
    """Put something else in a file's place, and ask every reader for an answer."""
    before = path.read_bytes()
    try:
        write(path, content)
        return [answer(call)[0] for call in calls]
    finally:
        path.write_bytes(before)


def readers(run: Path) -> list[Callable[[], Any]]:
    """Everything that reads a run folder, short of training and evaluating."""

    def opened() -> None:
        found = load_run(run, arrays=tiny.arrays())
        found.results.get("seeds")
        for seed in found.seeds:
            found.tasks_done(seed)

    return [opened, lambda: read_run(run), lambda: cells.finished(run, tiny.config())]


@fuzz(25, drawn=st.data())
def test_a_config_file_of_any_content_opens_or_is_refused(run: Path, drawn: st.DataObject) -> None:
    path = run / "config.json"
    with_file(path, drawn.draw(damaged_json(path.read_text())), readers(run))


@fuzz(25, drawn=st.data())
def test_results_of_any_content_are_read_or_refused(run: Path, drawn: st.DataObject) -> None:
    path = run / "results.json"
    calls = [lambda: RunFolder(run).read_json("results.json"), *readers(run)[1:]]
    with_file(path, drawn.draw(damaged_json(path.read_text())), calls)


@fuzz(60, drawn=st.data(), name=st.sampled_from(["config.json", "results.json", *STUDIES]))
def test_files_of_any_content_are_reported_or_refused(reported_run: Path, drawn: st.DataObject, name: str) -> None:
    """All words, tables and HTML of a report, short of its figures."""
    path = reported_run / name

    def told() -> None:
        files = read_run(reported_run)
        said = [lost_says(files), words.accuracy_says(files), methods_says(files)]
        if files.summary:
            said += [say(files.summary) for say in OF_SUMMARY]
        if files.gaps:
            said += [words.gaps_says(files.gaps), words.bounds_says(files.gaps), words.curves_says(files.gaps)]
        if files.forecast:
            said.append(words.forecast_says(files.forecast))
        shown = [*all_tables(files), comparison([files])]
        assert all(table.csv() for table in shown)
        part = Part(says=" ".join(said), tables=shown)
        view = RunView(files.name, verdict(files), seeds_note(files), {"accuracy": part}, {}, provenance_of(files))
        render_page([view], {"accuracy": "Accuracy"})

    with_file(path, drawn.draw(damaged_json(path.read_text())), [told])


@fuzz(25, drawn=st.data(), line=HOSTILE, at=st.integers(0, 3))
def test_a_log_of_any_lines_is_read_or_refused(run: Path, drawn: st.DataObject, line: str, at: int) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()

    def append() -> None:
        with MetricsLog(path) as log:
            log.append(kind="x")

    calls = [lambda: read_metrics(path), append]
    with_file(path, drawn.draw(damaged_bytes(path.read_bytes())), calls)
    changed = drawn.draw(damaged_json(lines[0]))
    with_file(path, "\n".join([*lines[:at], line, *lines[at:]]).encode("utf-8", "surrogatepass"), calls)
    with_file(path, b"\n".join([changed, *(x.encode() for x in lines[1:])]), calls)


@fuzz(25, drawn=st.data(), name=NAMES, sha=HASHES, whole=st.booleans())
def test_a_checkpoints_manifest_of_any_content_is_refused_and_leads_nowhere(
    run: Path, drawn: st.DataObject, name: str, sha: Any, whole: bool
) -> None:
    folder = run / "checkpoints/ntkcl/seed0/task0/after"
    path = folder / checkpoint.MANIFEST
    secret = write(run.parent / "secret", "secret")
    listed = json.loads(path.read_text())
    forged = {**listed, name: sha or file_sha256(secret)} if whole else {name: sha}
    for content in (json.dumps(forged).encode(), drawn.draw(damaged_json(path.read_text()))):
        codes = with_file(path, content, [lambda: checkpoint.load(folder), lambda: checkpoint.exists(folder)])
        assert content == path.read_bytes() or codes[0] == 2 or json.loads(content) == listed


@fuzz(8, drawn=st.data())
def test_facts_beside_a_checkpoint_of_any_content_are_read_or_refused(run: Path, drawn: st.DataObject) -> None:
    """Forged with the manifest, so that the hashes are right."""
    folder = run / "checkpoints/ntkcl/seed0/task1/after"
    meta, manifest = folder / "meta.json", folder / checkpoint.MANIFEST
    content = drawn.draw(damaged_json(meta.read_text()))
    before = manifest.read_bytes()

    def forged() -> None:
        names = json.loads(before)
        manifest.write_text(json.dumps(names | {"meta.json": file_sha256(meta)}))
        checkpoint.load(folder)

    try:
        with_file(meta, content, [forged])
    finally:
        manifest.write_bytes(before)


@fuzz(4, drawn=st.data())
def test_arrays_of_a_forged_checkpoint_are_read_or_refused(run: Path, tmp_path: Path, drawn: st.DataObject) -> None:
    folder = shutil.copytree(run / "checkpoints/ntkcl/seed0/task0/after", tmp_path / "copy", dirs_exist_ok=True)
    files = sorted(p for p in (folder / "arrays").rglob("*") if p.is_file())
    file = files[drawn.draw(st.integers(0, len(files) - 1))]
    write(file, drawn.draw(damaged_bytes(file.read_bytes())))
    path = folder / checkpoint.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {str(file.relative_to(folder)): file_sha256(file)}))
    answer(lambda: checkpoint.load(folder))


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_json_that_nests_or_counts_without_end_is_refused(run: Path, name: str) -> None:
    for content in ("[" * 100_000, '{"a":' * 100_000, '{"format": 1e400}', '{"format": ' + "9" * 5000 + "}", "\xff"):
        _, line = answer(lambda: open_run(run, arrays=tiny.arrays()))
        assert line == ""
        codes = with_file(run / name, content.encode("latin-1"), [lambda: RunFolder(run).read_json(name)])
        assert codes == [2]


# The store


def store_readers(kernel: Path) -> list[Callable[[], Any]]:
    home = kernel.parents[4]

    def read() -> None:
        found = load_analysis(home).stored(0, 1)
        found.matrix()
        found.block(0, 2, "head")
        assert found.seconds is None or found.seconds >= 0

    return [read, lambda: load_analysis(home).summary]


@fuzz(25, drawn=st.data(), name=st.sampled_from(["kernel.json", "manifest.json", "timings.json", "whole/zarr.json"]))
def test_a_store_of_any_content_is_read_or_refused(kernel: Path, drawn: st.DataObject, name: str) -> None:
    path = kernel / name
    with_file(path, drawn.draw(damaged_json(path.read_text())), store_readers(kernel))


@fuzz(30, drawn=st.data(), name=st.sampled_from(["kernel.json", "whole/zarr.json", "whole/c.0.0.0.0"]))
def test_a_forged_store_is_read_or_refused(kernel: Path, drawn: st.DataObject, name: str) -> None:
    """A file and its hash in the manifest are forged together."""
    path, manifest = kernel / name, kernel / "manifest.json"
    whole = path.read_bytes()
    content = drawn.draw(damaged_bytes(whole) if "/c" in name else damaged_json(whole.decode()))
    before = manifest.read_bytes()
    calls = [
        lambda: manifest.write_text(json.dumps(json.loads(before) | {name: fingerprint(path)})),
        *store_readers(kernel),
    ]
    try:
        with_file(path, content, calls)
    finally:
        manifest.write_bytes(before)


@fuzz(20, name=NAMES, sha=HASHES)
def test_a_stores_manifest_leads_nowhere(kernel: Path, name: str, sha: Any) -> None:
    path = kernel / "manifest.json"
    listed = json.loads(path.read_text())
    if name in listed:
        return
    content = json.dumps({**listed, name: sha or file_sha256(Path("/etc/passwd"))}).encode()
    assert with_file(path, content, store_readers(kernel)[:1]) == [2]


@fuzz(30, value=JUNK, text=HOSTILE)
def test_what_a_failed_cell_left_is_one_line_whatever_it_holds(tmp_path: Path, value: Any, text: str) -> None:
    """`--list` shows it, and other processes may have written it."""
    cell = cells.Cell("digits", "fuzz", tiny.config())
    file = tmp_path / cell.name / cells.WHY
    file.parent.mkdir(exist_ok=True)
    for content in (json.dumps({"error": value}), json.dumps({"error": text}), text):
        write(file, content)
        found = cells.status(tmp_path, cell)
        assert found.kind == "failed"
        assert found.detail == "" or found.detail.isprintable()
