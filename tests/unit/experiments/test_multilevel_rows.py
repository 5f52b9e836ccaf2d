"""Ablations of `multilevel`: maps beside NumPy twins, the classifier beside the library's, a table that says so."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import icons
from experiments.multilevel import command, measure, tables
from experiments.multilevel.classifier import Images, Tried, Whole, walk
from experiments.multilevel.maps import (
    SETTINGS,
    ReadGrid,
    Reading,
    ReadSecondOrder,
    ReadTokens,
    groups,
    library_groups,
    signed_root,
    windows,
)
from experiments.multilevel.rows import DEFAULT, RIVALS, Learnt, Row, rows
from experiments.sweep import streams
from experiments.sweep.collect import page_with
from experiments.sweep.streams import Stream, stream_config
from ntkcl_jax.config import BackboneConfig
from ntkcl_jax.errors import ConfigError
from ntkcl_jax.models.vit import Levels
from ntkcl_jax.readouts import group_ridge
from ntkcl_jax.readouts.group_ridge import RIDGES, GroupRidge
from tests.support import streams as tiny

BACKBONES = {
    "224 px, 12 blocks": BackboneConfig(image_size=224, patch_size=16, dim=6, depth=12, heads=1),
    "nano's grid": BackboneConfig(image_size=28, patch_size=4, dim=5, depth=4, heads=1),
}
ROOT = Path(__file__).parents[3] / "experiments"
WIDTHS = (6, 6, 10, 9)
PARTS, CLASSES = (4, 3, 5), 5
CANDIDATES = ((1.0, 1.0, 1.0), (1.0, 0.3, 0.0), (0.0, 1.0, 0.3))


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> BackboneConfig:
    return BACKBONES[request.param]


def levels(backbone: BackboneConfig, images: int = 2) -> Levels:
    rng = np.random.default_rng(0)
    tokens = [3 * rng.normal(size=(images, backbone.tokens, backbone.dim)) + 1 for _ in range(backbone.depth)]
    tokens[-1] = tokens[-1][:, :1]  # of the last block the class row alone is computed
    return Levels(jnp.asarray(rng.normal(size=(images, 7)), jnp.float32), tuple(jnp.float32(t) for t in tokens))


def own_norm(backbone: BackboneConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=backbone.dim).astype(np.float32) for name in ("scale", "bias")}


def twin(kind: str, norm: dict[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The norm of one token."""

    def of(x: np.ndarray) -> np.ndarray:
        if kind == "none":
            return x
        u = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        return u * norm["scale"] + norm["bias"] if kind == "own" else u

    return of


@pytest.mark.parametrize(
    "size, setting", [("224 px, 12 blocks", name) for name in SETTINGS] + [("nano's grid", "late blocks")]
)
def test_a_variant_is_what_its_twin_reads_token_by_token(size: str, setting: str) -> None:
    backbone = BACKBONES[size]
    made, at, depth = groups(setting, WIDTHS, backbone, 7), levels(backbone), backbone.depth
    norm = own_norm(backbone)
    drawn = [part.draw(3) | norm for part in made]
    kind = SETTINGS[setting].get("norm", "layer")
    of, third = twin(kind, norm), depth // 3
    blocks = {12: (3, 5, 7, 9), 4: (0, 1, 2)}[depth]
    classes = range(depth // 2, depth)
    if setting.endswith("block") or setting.endswith("blocks"):
        classes = {
            "early blocks": range(third), "late blocks": range(depth - third, depth), "all blocks": range(depth),
            "last block": range(depth - 1, depth),
        }[setting]  # fmt: skip
        blocks = [i for i in classes if i != depth - 1] or [depth - 2]
    starts = {"1 x 1 windows": ((0, 7),), "2 x 2 windows": ((0, 4), (3, 7))}.get(setting, ((0, 3), (2, 5), (4, 7)))
    if setting == "every patch":
        starts = tuple((i, i + 1) for i in range(7))
    side = backbone.image_size // backbone.patch_size
    step = side // 7
    for image in range(2):
        grids = []
        for block in blocks:
            tokens = np.asarray(at.tokens[block][image, 1:], np.float64).reshape(side, side, -1)
            grid = [[of(tokens[step * r : step * (r + 1), step * c : step * (c + 1)].mean((0, 1))) for c in range(7)]
                    for r in range(7)]  # fmt: skip
            grids.append(np.array(grid))
        tokens = [of(np.asarray(at.tokens[i][image, 0], np.float64)) for i in classes]
        m = np.concatenate([*tokens, *(grid.mean(axis=(0, 1)) for grid in grids)])
        g = np.concatenate([grid[a:b, c:d].mean(axis=(0, 1)) for grid in grids for a, b in starts for c, d in starts])
        for v, part, of_part in zip((m, g), drawn[1:3], made[1:3], strict=True):
            wanted = np.maximum(v @ part["projection"], 0)
            np.testing.assert_allclose(of_part(part, at)[image], wanted, atol=2e-4, rtol=1e-4)
        which = np.concatenate([np.full(len(own), i) for i, own in enumerate(np.array_split(range(9), len(blocks)))])
        second = np.asarray(made[3](drawn[3], at)[image])
        for column, block in enumerate(which):
            a, b = (drawn[3][name][:, column] for name in "ab")
            terms = [(u @ a) * (u @ b) for u in grids[block].reshape(-1, backbone.dim)]
            assert second[column] == pytest.approx(np.mean(terms), abs=2e-3, rel=1e-4)


def test_maps_that_read_as_the_library_does_are_the_librarys(backbone: BackboneConfig) -> None:
    _, *wanted = library_groups(WIDTHS, backbone, 7)
    at, reading = levels(backbone), Reading.of(backbone.depth)
    for kind, other in zip((ReadTokens, ReadGrid, ReadSecondOrder), wanted, strict=True):
        of = kind(other.width, backbone, reading)
        drawn = of.draw(5)
        assert {name: x.tolist() for name, x in drawn.items()} == {n: x.tolist() for n, x in other.draw(5).items()}
        np.testing.assert_allclose(of(drawn, at), other(drawn, at), rtol=1e-5, atol=1e-5)
    assert signed_root(np.array([-4.0, 0.0, 9.0])).tolist() == [-2, 0, 3]
    assert [len(windows(7, count)) for count in (0, 1, 2, 3)] == [7, 1, 2, 3]


def images(views: int, per_class: int = 6) -> Images:
    rng = np.random.default_rng(0)
    centres = np.random.default_rng(1).normal(size=(CLASSES, sum(PARTS)))
    labels = np.tile(np.arange(CLASSES), per_class)
    x = centres[labels][:, None] + rng.normal(size=(len(labels), views, sum(PARTS)))
    return Images(x, labels, (labels > 2).astype(int), PARTS, CLASSES)


@pytest.mark.parametrize("views", [1, 3])
def test_offline_is_the_librarys_classifier_task_by_task(views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_ridge, "LEFT_OUT", 500)
    at = images(views)
    library = GroupRidge.empty(PARTS, CLASSES, CANDIDATES)
    for task, seen in enumerate((3, CLASSES)):
        own = at.tasks == task
        library = library.learn(at.rows[own], at.labels[own], seen)
    tried = walk(at, CANDIDATES, most=100)
    assert tried.hits.tolist() == library.hits.tolist() and tried.left_out == library.left_out == 30
    np.testing.assert_allclose(tried.norms, library.norms, rtol=1e-12)
    choice = tried.choice(Row("", "", weights=CANDIDATES))
    assert choice == library.choice
    np.testing.assert_allclose(Whole.of(at, tried.norms).solved(*choice), library.solution, rtol=1e-8)


def test_fewer_rows_than_columns_give_the_same_weights_by_the_rows() -> None:
    at = images(views=1, per_class=2)
    tried = walk(at, CANDIDATES, most=100)
    narrow = Whole.of(at, tried.norms)
    flat, targets = at.rows.reshape(-1, sum(PARTS)), np.eye(CLASSES)[at.labels]
    dual = replace(narrow, rows=flat, targets=targets)
    gram, sums, hits = flat.T @ flat, flat.T @ targets, tried.hits.astype(np.int64)
    primal = GroupRidge(PARTS, CANDIDATES, gram, sums, tried.norms, hits, 1, np.zeros_like(sums))
    assert len(narrow.rows) == len(flat) < sum(PARTS)
    for weights in CANDIDATES:
        np.testing.assert_allclose(dual.solved(weights, 0.01), primal.solved(weights, 0.01), rtol=1e-8, atol=1e-10)


def test_squared_errors_are_those_of_learning_again_without_each_image() -> None:
    at = images(views=2)
    tried, wanted = walk(at, CANDIDATES, most=100), np.zeros(tuple((len(CANDIDATES), len(RIDGES))))
    for task, seen in enumerate((3, CLASSES)):
        known = np.flatnonzero(at.tasks <= task)
        for i, weights in enumerate(CANDIDATES):
            z = at.rows * np.repeat(np.array(weights) / tried.norms, PARTS)
            for out in np.flatnonzero(at.tasks == task):
                rest = known[known != out]
                x, y = z[rest].reshape(-1, sum(PARTS)), np.eye(seen)[np.repeat(at.labels[rest], 2)]
                for j, ridge in enumerate(RIDGES):
                    penalty = group_ridge.penalty(weights, ridge)
                    w = np.linalg.solve(x.T @ x + penalty * np.eye(sum(PARTS)), x.T @ y)
                    wanted[i, j] += np.square(z[out, 0] @ w - np.eye(seen)[at.labels[out]]).sum()
    np.testing.assert_allclose(tried.errors, wanted, rtol=1e-7)


def test_every_rule_takes_what_it_says() -> None:
    hits, errors = np.zeros((2, len(RIDGES))), np.full((2, len(RIDGES)), 9.0)
    hits[0, 2], hits[1, 4], hits[1, 1] = 7, 5, 3
    errors[0, 3], errors[1, 1] = 2, 1
    tried = Tried(CANDIDATES[:2], np.ones(3), hits, errors, 9)
    a, b = CANDIDATES[:2]
    found = {rule: tried.choice(Row("", "", weights=(a, b), rule=rule)) for rule in
             ("accuracy", "error", "weights by error", "ridge by error")}  # fmt: skip
    assert found == {
        "accuracy": (a, RIDGES[2]), "error": (b, RIDGES[1]), "weights by error": (b, RIDGES[4]),
        "ridge by error": (a, RIDGES[3]),
    }  # fmt: skip
    assert tried.choice(Row("", "", weights=(b,), ridges=RIDGES[:2])) == (b, RIDGES[1])
    hits[1] = 0
    assert tried.choice(Row("", "", weights=(b,))) == (b, RIDGES[-1])  # of equals the largest


def test_more_shots_are_more_of_the_same_images() -> None:
    labels = np.arange(60) % 3
    one, five = (set(measure.few(labels, shots, seed=1)) for shots in (1, 5))
    assert one < five and np.bincount(labels[list(five)]).tolist() == [5, 5, 5]
    assert set(measure.few(labels, 5, seed=2)) != five


def test_titles_tell_rows_apart_and_a_rival_stands_beside_its_like() -> None:
    table = list(rows())
    assert len({row.title for row in table}) == len(table) == len(set(table))
    other = next(row for row in table if row.title == "5 images a class: ridge")
    assert measure.beside(other, table).title == "5 images a class: multilevel"
    assert measure.beside(next(row for row in table if row.title == "the stream's own tasks: ridge"), table) == DEFAULT
    assert measure.beside(Row("read", "no norm", Learnt("no norm")), table) == DEFAULT


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny stream under the name `dev-scripts`."""
    monkeypatch.setattr(command, "stream_config", lambda name, changes: tiny.config(data__train_view="crop"))
    monkeypatch.setattr(measure, "one_stream", lambda name: Stream("digits", tiny.arrays))
    monkeypatch.setattr(measure, "ORDERS", 3)


def test_a_stream_is_measured_and_the_page_says_so(stream: None, tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Results\n\n<!-- {command.NAME}: begin -->\nold\n<!-- {command.NAME}: end -->\n")
    asked = ["without F", "own norm", "1 crop", "signed root of S", "x 4", "by squared error"]
    titles = [row.title for row in rows() if row.name in asked]
    reach = ["the stream's own tasks", "class order alone", "1 image a class", "2 classes a task"]
    words = ["dev-scripts", "--seeds", "0", "1", "--widths", *map(str, WIDTHS), "--out", str(tmp_path / "out")]
    command.run([*words, "--rows", *titles, *reach, "--report", str(page)])
    record = json.loads((tmp_path / "out" / "multilevel.json").read_text())["dev-scripts"]
    table = command.asked([*titles, *reach])
    assert list(record["rows"]) == [row.title for row in table]
    assert (record["images"], record["test_images"], record["classes"], record["seeds"]) == (63, 28, 7, [0, 1])
    runs = {row.title: len(record["rows"][row.title]["accuracies"]) for row in table}
    assert {runs[row.title] for row in table if row.learnt.fixed} == {3}
    assert {runs[row.title] for row in table if not row.learnt.fixed} == {2}
    found = record["rows"]
    # Class means and random matrices don't depend on the order, nor does the default of another name
    assert len(set(found["class order alone: prototypes"]["accuracies"])) == 1
    assert found["class order alone: multilevel"]["accuracies"][0] == found["default"]["accuracies"][0]
    gain = np.mean(found["groups: without F"]["accuracies"]) - np.mean(found["default"]["accuracies"])
    assert found["groups: without F"]["difference"] == pytest.approx(gain, abs=1e-5)
    assert found["groups: without F"]["chosen"][0].startswith("0 1 1 1, ridge ")
    shown, text = capsys.readouterr().out, page.read_text()
    assert "old" not in text and "For choosing: dev-scripts (2 seeds)." in text
    heads, body = tables.table([record])
    assert heads == ["row", "dev-scripts"] and len(body) == len(table)
    assert all(" | ".join(line) in text and " | ".join(line) in shown for line in body)
    with (tmp_path / "out" / "multilevel.csv").open() as f:
        stored = list(csv.DictReader(f))
    assert [line["row"] for line in stored] == list(found) and {line["for_choosing"] for line in stored} == {"True"}
    command.run(["dev-scripts", "--tables-only", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out in shown


def test_the_default_is_the_run_of_the_same_widths(stream: None) -> None:
    """Beside a run of the library with no view, whose rows and random matrices are the same."""
    from ntkcl_jax.readouts.base import Lesson
    from ntkcl_jax.readouts.multilevel import MultiLevel
    from ntkcl_jax.training.readout_run import Mapped, features_of

    row = next(row for row in rows() if row.name == "no view")
    made = measure.Stream("x", tiny.config(), [DEFAULT, row], (1,), WIDTHS, lambda line: None)
    answer = measure.answers(made, [row], 1, 1)[row]
    readout = MultiLevel(made.entries, made.classes, 1, tiny.BACKBONE, WIDTHS)
    mapped, order, context = Mapped.of(readout, made.context.mesh), measure.Order.of(made, None, 1), made.context
    sides = {}
    for side in ("train", "test"):
        places = np.arange(len(made.labels[side]))
        sides[side] = features_of(made.learner, made.state, context.views(side, places, places), mapped)[0]
    state = readout.init()
    for task, seen in enumerate(np.cumsum(tiny.TASK_SIZES)):
        own = order.tasks == task
        labels = order.labels["train"][own]
        state = readout.learn(state, Lesson(task, sides["train"][own][:, None], labels, int(seen), lambda: None))
    right = readout.scores(state, sides["test"], 7).argmax(axis=1) == order.labels["test"]
    assert answer.right.tolist() == right.tolist()
    assert f"weights F {answer.says[0]}" in readout.says(state)
    assert set(RIVALS) == {"ridge", "ranpac", "prototypes"}


def test_mistakes_end_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row 'nonsense'; choose from .*groups: F alone"):
        command.run(["dev-scripts", "--rows", "nonsense", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="expected --widths of at least 1, got 0 1 1 1"):
        command.run(["dev-scripts", "--widths", "0", "1", "1", "1", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="deit-dev-icons needs --data deit-dev-icons=FOLDER"):
        command.run(["deit-dev-icons", "--out", str(tmp_path)])


def test_other_sections_of_the_results_page_stay() -> None:
    section = f"<!-- {command.NAME}: begin -->\nkept\n<!-- {command.NAME}: end -->\n"
    page = page_with(page_with("", "variants", "before\n") + "\n" + section, "variants", "after\n")
    assert page.endswith("after\n<!-- sweep variants: end -->\n\n" + section) and "before" not in page


def test_the_table_in_the_results_is_that_of_the_measured_streams() -> None:
    file = ROOT / "results" / "multilevel.json"
    wanted = tables.page(tables.in_order(command.read(file))) if file.exists() else ""
    section = f"<!-- {command.NAME}: begin -->\n{wanted}<!-- {command.NAME}: end -->\n"
    assert section in (ROOT / "RESULTS.md").read_text()


def test_streams_for_choosing_hold_nothing_that_is_reported() -> None:
    assert set(icons.HELD_OUT).isdisjoint(icons.CLASSES) and 60 <= len(set(icons.HELD_OUT)) <= 100
    one = streams.one_stream("deit-dev-scripts")
    assert one.arrays is streams.dev_scripts
    config = stream_config("deit-dev-scripts", {})
    assert (config.data.invert, config.data.resize, config.model.backbone.image_size) == (True, 112, 112)
    assert set(streams.CHOOSING).isdisjoint(("scripts", "icons", "omniglot", "deit-omniglot", "deit-tiny-imagenet"))


def test_icons_are_those_of_the_classes_that_were_asked_for(tmp_path: Path) -> None:
    package = tmp_path / "package.tgz"
    files = {
        "collections.json": {"one": {"license": {"spdx": "MIT"}}, "two": {"license": {"spdx": "GPL-3.0"}}},
        "json/one.json": {"icons": {name: {"body": "<path/>"} for name in ("anchor", "alarm", "zzz")}},
    }
    with tarfile.open(package, "w:gz") as archive:
        for name, content in files.items():
            text = json.dumps(content).encode()
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text))
    assert [name for name, *_ in icons.drawings(package)] == ["anchor"]
    assert [name for name, *_ in icons.drawings(package, icons.HELD_OUT)] == ["alarm"]
