"""The `ntkcl` command: quick help, clean output, exit codes."""

import contextlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ntkcl_jax import cli
from ntkcl_jax.config import RunConfig
from ntkcl_jax.config.codec import from_json
from ntkcl_jax.config.presets import PRESETS, preset
from ntkcl_jax.terminal.options import Demo, parse_train
from ntkcl_jax.terminal.parsing import parse
from tests.support import streams as tiny

ROOT = Path(__file__).parents[3]
HEAVY = {"jax", "jaxlib", "flax", "numpy", "PIL", "matplotlib", "orbax", "grain", "optax"}


def captured(*words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line, in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = cli.NTKCL.run([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code
    return code, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run made by the command line on a folder; and what it printed with --json."""
    path = tmp_path_factory.mktemp("cli")
    words = tiny.words(tiny.folder(path / "data"), path / "run", "--methods", "ntkcl", "joint", "--json")
    code, out, error = captured(*words)
    assert code == 0, error
    return path / "run", out, error


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["demo", "--help"],
        ["train", "--help"],
        ["train", "digits", "--help"],
        ["evaluate", "--help"],
        ["presets", "--help"],
        ["presets"],
        ["presets", "--json"],
        ["weights", "--help"],
        ["weights", "show", "--help"],
        ["weights", "convert", "--help"],
    ],
)
def test_help_is_quick_because_nothing_heavy_is_imported(words: list[str]) -> None:
    script = (
        "import sys, ntkcl_jax.cli\n"
        "try: code = ntkcl_jax.cli.NTKCL.run(sys.argv[1:])\n"
        "except SystemExit as e: code = e.code\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not HEAVY & set(done.stderr.split())
    # half a second is the aim; byte code that has to be compiled first takes another
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_without_words_the_usage_is_shown_and_nothing_succeeds() -> None:
    assert captured() == (2, cli.USAGE, "")
    assert captured("--help") == (0, cli.USAGE, "")
    assert all(command in cli.USAGE for command in cli.NTKCL.commands)


def test_the_help_of_train_lists_every_field_with_the_presets_value() -> None:
    text = " ".join(captured("train", "cifar100", "--help")[1].split())
    fields = ["--run-dir", "--seeds", "--data.path", "--model.backbone.depth", "--objective.lambda-dis"]
    assert all(field in text for field in [*fields, "--optimizer.epochs", "--compute.checkpoint-every-steps"])
    assert "(default: cifar-100-python.tar.gz)" in text


def test_presets_are_listed_for_people_and_for_machines() -> None:
    code, out, error = captured("presets")
    assert (code, error) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(PRESETS)
    values = json.loads(captured("presets", "--json")[1])
    assert {name: from_json(RunConfig, v) for name, v in values.items()} == {name: preset(name) for name in PRESETS}


def test_options_override_the_preset(tmp_path: Path) -> None:
    words = tiny.words(tmp_path / "data", tmp_path / "run", "--seeds", "4", "5", "--resume")
    options = parse_train("digits", preset("digits"), words[2:])
    wanted, start = tiny.config(), preset("digits")
    assert options.config.seeds == (4, 5)
    assert (options.config.data.source, options.config.data.path) == ("folder", str(tmp_path / "data"))
    assert options.config.model.backbone == wanted.model.backbone
    assert options.config.optimizer.batch_size == wanted.optimizer.batch_size != start.optimizer.batch_size
    assert options.config.optimizer.later_learning_rate == start.optimizer.later_learning_rate
    assert (options.run_dir, options.resume, options.quiet, options.json) == (tmp_path / "run", True, False, False)
    assert parse(Demo, "demo", ["--seeds", "0", "1"]).seeds == (0, 1)


RATES = "--optimizer.learning-rate FLOAT or --optimizer.later-learning-rate {None}|FLOAT"
CHOICES = "expected one of ('arrays', 'cifar100', 'digits', 'folder', 'huggingface', 'lists', 'scripts', 'uci-digits')"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--optimizer.lerning-rate", "1"],
            f"unrecognized options: --optimizer.lerning-rate, 1; perhaps you meant {RATES}",
        ),
        (
            ["--jsno", "--qiet"],
            "unrecognized options: --jsno, --qiet; perhaps you meant --json, --no-json or --quiet, --no-quiet",
        ),
        (["stray"], "unrecognized options: stray"),
        (["--optimizer.epochs", "two"], "expected --optimizer.epochs INT, got 'two'"),
        (["--optimizer.epochs="], "expected --optimizer.epochs INT, got ''"),
        (
            ["--optimizer.later-learning-rate", "it's"],
            'expected --optimizer.later-learning-rate {None}|FLOAT, got "it\'s"',
        ),
        (["--data.crop-scale", "a", "[b]"], "expected --data.crop-scale FLOAT FLOAT, got 'a', '[b]'"),
        (["--data.crop-scale", "1"], "missing value for argument '--data.crop-scale'; expected 2 values"),
        (["--data.source", "web"], f"invalid choice 'web' for argument '--data.source'; {CHOICES}"),
        (
            ["--data.source", "a\n  -----\n\x1b[2J"],
            f"invalid choice 'a? -----??[2J' for argument '--data.source'; {CHOICES}",
        ),
    ],
)
def test_an_option_that_is_unknown_or_has_a_wrong_value_is_told_in_one_line(
    tmp_path: Path, words: list[str], told: str
) -> None:
    code, out, error = captured("train", "digits", "--run-dir", tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert error == f"ntkcl: {told}; `ntkcl train digits --help` lists the options\n"
    assert not (tmp_path / "run").exists()


def test_what_has_to_be_named_is_asked_for_beside_what_came() -> None:
    end = "; `ntkcl {} --help` lists the options\n"
    assert captured("train", "digits") == (
        2,
        "",
        "ntkcl: expected --run-dir PATH, got none" + end.format("train digits"),
    )
    assert captured("evaluate") == (2, "", "ntkcl: expected RUN, got none" + end.format("evaluate"))
    typed = captured("train", "digits", "--run-dri", "runs/x")
    assert typed == (2, "", "ntkcl: expected --run-dir PATH, got --run-dri, runs/x" + end.format("train digits"))


def test_the_line_about_an_option_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = set()
    for columns in ("40", "200", None):
        monkeypatch.delenv("COLUMNS", raising=False) if columns is None else monkeypatch.setenv("COLUMNS", columns)
        for stdout in (io.StringIO(), Terminal(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            error = Terminal()
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(error):
                assert cli.NTKCL.run(["demo", "--sedes", "x" * 300]) == 2
            said.add(error.getvalue())
            assert os.environ.get("COLUMNS") == columns
    (line,) = said
    assert f"--sedes, {'x' * 300}; perhaps you meant --seeds [INT [INT ...]]" in line


def test_json_is_all_that_json_prints(trained: tuple[Path, str, str]) -> None:
    run, out, error = trained
    assert json.loads(out) == json.loads((run / "results.json").read_text())
    assert error == ""


def test_a_run_is_drawn(trained: tuple[Path, str, str]) -> None:
    pictures = list((trained[0] / "figures").glob("*.png"))
    assert len(pictures) >= 3
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_a_finished_run_is_shown_as_a_table_with_its_files(trained: tuple[Path, str, str]) -> None:
    data = json.loads((trained[0] / "config.json").read_text())["config"]["data"]["path"]
    code, out, _ = captured(*tiny.words(Path(data), trained[0], "--methods", "ntkcl", "joint", "--resume"))
    assert code == 0
    assert "Accuracy on all classes seen, %" in out
    assert str(trained[0] / "results.json") in out


def test_evaluate_repeats_the_results(trained: tuple[Path, str, str]) -> None:
    code, out, error = captured("evaluate", trained[0], "--json")
    assert (code, error) == (0, "")
    stored = json.loads((trained[0] / "results.json").read_text())
    assert json.loads(out) == stored
    assert "Accuracy on all classes seen, %" in captured("evaluate", trained[0])[1]


def test_evaluate_notices_other_accuracies(trained: tuple[Path, str, str], tmp_path: Path) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    stored = json.loads((run / "results.json").read_text())
    stored["seeds"]["0"]["ntkcl"]["accuracy_matrix"][1][0] += 1 / 12
    (run / "results.json").write_text(json.dumps(stored))
    code, out, error = captured("evaluate", run, "--json")
    assert code == 2
    assert json.loads(out)
    assert error.startswith(f"ntkcl: {run} gives other accuracies than its results.json")
    assert error.count("\n") == 1


def test_evaluate_needs_a_run_with_its_images(trained: tuple[Path, str, str], tmp_path: Path) -> None:
    assert captured("evaluate", tmp_path)[::2] == (
        2,
        f"ntkcl: {tmp_path} is no run folder: it has no config.json; check the path\n",
    )
    run = shutil.copytree(trained[0], tmp_path / "run")
    header = json.loads((run / "config.json").read_text())
    data = Path(shutil.copytree(header["config"]["data"]["path"], tmp_path / "data"))
    header["config"]["data"]["path"] = str(data)
    (run / "config.json").write_text(json.dumps(header))
    assert captured("evaluate", run)[0] == 0
    shutil.copy(next((data / "test" / "class0").iterdir()), data / "test" / "class1" / "more.png")
    assert "data.fingerprint was" in captured("evaluate", run)[2]
    shutil.rmtree(data)
    assert "is missing, but must be a folder" in captured("evaluate", run)[2]


def test_output_into_a_closed_pipe_or_a_poor_terminal_is_no_traceback(trained: tuple[Path, str, str]) -> None:
    command = [sys.executable, "-m", "ntkcl_jax"]
    poor = subprocess.run(
        [*command, "evaluate", str(trained[0])],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert poor.returncode == 0
    assert re.fullmatch(r"(seed 0 \S+ (ntkcl|joint) again: \d+ steps, [^\n]+\n)+", poor.stderr)
    assert (poor.stdout + poor.stderr).isascii()
    assert "ntkcl" in poor.stdout
    closed = subprocess.run(
        f"'{sys.executable}' -m ntkcl_jax presets --json | head -c 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (closed.stdout, closed.stderr) == ("{", "")
