"""Kernels in the store: what was put is read back, and nothing else is taken for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import HealthError
from analysis.store import KernelSpec, KernelStore, code_version, load_analysis
from tests.support import stored
from tests.support.stored import begun, contents, refused

ROOT = Path(__file__).parents[4]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored.finished(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal", "pseudo"])
@pytest.mark.parametrize("tile", [1, 3, 7, 50])
def test_what_was_put_is_read_back_for_every_tile_size(run: Path, outputs: str, tile: int) -> None:
    stored.finished(run, outputs=outputs, tile=tile)
    read = load_analysis(run).stored(0, 1)
    for group in (None, "channel", "head"):
        np.testing.assert_array_equal(read.matrix(group), stored.kernel(outputs, group))
        assert read.matrix(group).dtype == np.float64


def test_a_run_may_be_named_from_beside_it(run: Path) -> None:
    beside = run / ".." / run.name
    stored.finished(beside)
    np.testing.assert_array_equal(load_analysis(beside).stored(0, 1).matrix(), stored.kernel("full", None))


@pytest.mark.parametrize("outputs", ["full", "trace", "diagonal"])
def test_blocks_between_tasks_are_parts_of_the_whole_and_mirror_images(run: Path, outputs: str) -> None:
    stored.finished(run, outputs=outputs)
    analysis, theta = load_analysis(run), stored.kernel(outputs, "channel")
    images = {0: slice(0, 4), 2: slice(4, 7)}
    for t, rows in images.items():
        for k, columns in images.items():
            block = analysis.kernel(0, 1, t, k, group="channel")
            np.testing.assert_array_equal(block, theta[rows, columns])
            mirror = analysis.kernel(0, 1, k, t, group="channel").swapaxes(0, 1)
            np.testing.assert_array_equal(block, mirror.swapaxes(2, 3) if outputs == "full" else mirror)


def test_tiles_below_the_diagonal_are_not_stored(undisturbed: Path) -> None:
    chunks = sorted(p.name for p in (undisturbed / "whole").glob("c.*"))
    assert chunks == ["c.0.0.0.0", "c.0.1.0.0", "c.0.2.0.0", "c.1.1.0.0", "c.1.2.0.0", "c.2.2.0.0"]
    assert sum(len(list(undisturbed.glob(f"group-{group}/c.*"))) for group in stored.GROUPS) == 12


def test_a_finished_kernel_tells_what_it_is_and_its_health(undisturbed: Path) -> None:
    analysis = load_analysis(undisturbed.parents[4])
    assert undisturbed.relative_to(analysis.run) == Path("analysis/kernels/seed0/checkpoint1/full")
    assert analysis.kernels == (stored.spec(),)
    read = analysis.stored(0, 1)
    assert (read.spec, read.health, read.seconds) == (stored.spec(), stored.HEALTH, 1.5)
    assert analysis.stored(0, 1, "full") is read


def test_two_undisturbed_computations_leave_the_same_bytes(undisturbed: Path, run: Path) -> None:
    assert contents(stored.finished(run)) == contents(undisturbed)


def test_an_unfinished_kernel_is_only_taken_up_when_asked_to(run: Path) -> None:
    begun(run)
    refused(lambda: KernelStore(run).open(stored.spec()), "unfinished kernel", "full.partial", "add --resume")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": "0000"}, "parameters was '5e0c', now '0000'"),
        ({"probes": "0000"}, "probes was '9a1f', now '0000'"),
        ({"way": "sketched"}, "way was 'tiled', now 'sketched'"),
        ({"precision": "float64"}, "precision was 'float32', now 'float64'"),
        ({"head": "proxy"}, "head was 'scores', now 'proxy'"),
        ({"tile": 2}, "tile was 3, now 2"),
        ({"groups": ("channel",)}, "groups was"),
        ({"versions": (("jax", "0.13"),)}, 'versions.jax was "0.12", now "0.13"'),
        ({"commit": None}, "commit was 'f0d4', now None"),
    ],
)
def test_resuming_with_another_fingerprint_is_refused(run: Path, change: dict, words: str) -> None:
    begun(run)
    refused(lambda: KernelStore(run).open(stored.spec(**change), resume=True), "another computation", words)


def test_a_finished_kernel_is_found_by_what_it_is_not_by_how_it_was_cut(undisturbed: Path) -> None:
    store = KernelStore(undisturbed.parents[4])
    assert store.exists(stored.spec())
    assert store.exists(stored.spec(tile=2, commit=None, versions=()))
    assert not store.exists(stored.spec(checkpoint=2))
    refused(lambda: store.exists(stored.spec(probes="0000")), "another kernel", "probes was", "delete the folder")
    refused(lambda: store.open(stored.spec(), resume=True), "is finished already")


def test_a_kernel_is_not_finished_while_tiles_are_missing(run: Path) -> None:
    work = begun(run, tiles=2)
    refused(lambda: work.finish({}, 1.0), "lacks 4 of 6 tiles", "(0, 2)")
    assert load_analysis(run).kernels == ()
    assert np.isnan(work.matrix()).any()


def test_a_discarded_kernel_leaves_nothing(run: Path) -> None:
    work = begun(run, tiles=6)
    np.testing.assert_array_equal(work.matrix("channel"), stored.kernel(group="channel"))
    work.discard()
    assert contents(run) == {}
    refused(lambda: load_analysis(run).stored(0, 1), "has no kernel of seed 0, checkpoint 1, only none at all")
    assert begun(run).has(0, 0)


def test_what_is_not_there_is_named_beside_what_is(undisturbed: Path, run: Path) -> None:
    analysis = load_analysis(undisturbed.parents[4])
    refused(lambda: analysis.stored(0, 3), "no kernel of seed 0, checkpoint 3, only seed0/checkpoint1/full")
    refused(lambda: analysis.stored(0, 1, "trace"), "outputs trace, only seed0/checkpoint1/full")
    refused(lambda: analysis.kernel(0, 1, 0, 1), "has the tasks 0, 2, got task 1")
    refused(lambda: analysis.kernel(0, 1, 0, 0, group="patch"), "groups channel, head, got 'patch'")
    refused(lambda: load_analysis(run), "has no analysis", "ntk-analysis kernels")
    refused(lambda: KernelStore(run / "typo").open(stored.spec()), "expected a run folder", "check the path")


def test_of_several_kernels_of_a_checkpoint_one_has_to_be_named(run: Path) -> None:
    stored.finished(run)
    stored.finished(run, outputs="trace")
    analysis = load_analysis(run)
    refused(lambda: analysis.kernel(0, 1, 0, 2), "has the kernels full, trace of seed 0, checkpoint 1; say outputs=")
    np.testing.assert_array_equal(analysis.kernel(0, 1, 0, 2, "trace"), stored.kernel("trace")[:4, 4:])


def test_the_summary_is_read_where_there_is_one(run: Path) -> None:
    (run / "analysis").mkdir()
    assert load_analysis(run).summary == {}
    file = run / "analysis" / "summary.json"
    file.write_text('{"seeds": {}}')
    assert load_analysis(run).summary == {"seeds": {}}
    file.write_text('{"seeds"')
    refused(lambda: load_analysis(run).summary, "summary.json can't be read", "delete it")


def test_numbers_that_are_not_finite_are_never_stored(run: Path) -> None:
    work = begun(run, tiles=0)
    blocks = stored.blocks(work.spec, 0, 0)
    blocks["head"] = np.where(np.arange(2) == 1, np.nan, blocks["head"])
    refused(lambda: work.put(0, 0, blocks), "18 of 36 NaN", "'head' of tile (0, 0)", error=HealthError)
    assert not work.has(0, 0)


def test_blocks_that_do_not_fit_are_bugs(run: Path) -> None:
    work = begun(run, tiles=0)
    good = stored.blocks(work.spec, 0, 2)
    refused(lambda: work.put(2, 0, good), "0 <= i <= j < 3, got (2, 0)", error=ValueError)
    refused(lambda: work.put(0, 0, good), "as (3, 3, 2, 2), got (3, 1, 2, 2)", error=ValueError)
    refused(
        lambda: work.put(0, 2, {"whole": good["whole"]}), "blocks whole, channel, head; got whole", error=ValueError
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outputs": "half"}, "outputs to be one of full, trace"),
        ({"tile": 0}, "at least 1, got 7, 2 and 0"),
        ({"copies": 0}, "copies of at least 1, got 0"),
        ({"seed": -1}, "at least 0, got -1 and 1"),
        ({"offsets": (0, 4)}, "offsets from 0 to n=7 for 2 tasks"),
        ({"offsets": ()}, "offsets from 0 to n=7"),
        ({"offsets": (0, 9, 7)}, "offsets that grow"),
        ({"groups": ("a/b",)}, "got 'a/b'"),
        ({"groups": ("whole",)}, "other than 'whole'"),
        ({"groups": ("a", "a")}, "groups that differ"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(change: dict, words: str) -> None:
    refused(lambda: replace(stored.spec(), **change), words)


def test_a_spec_survives_json() -> None:
    spec = stored.spec(**code_version())
    assert KernelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert dict(spec.versions)["jax"]
