"""No file here loads a pickle, runs text as code or through a shell, or carries a secret; exceptions have reasons."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token": r"\b(ghp_|github_pat_|hf_|sk-|glpat-|xox[abp]-|pypi-AgEI)[A-Za-z0-9_-]{20}|\bAKIA[0-9A-Z]{16}\b",
    "a password": r"(?i)\b(password|passwd|secret|api_key|token)\b['\"]?\s*[=:]\s*['\"][^'\"\s]{8,}['\"]|://[^/\s:]+:[^/\s@]+@",
    "a registry's address": r"(?i)index[-_]url|pypi\.org/simple|pythonhosted|artifactory|\bnexus\b|proxy\.golang",
}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN = "import of an unpickler", "eval or exec", "a shell", "pickled arrays", "torch.load", "yaml.load"
EXCEPTIONS = {
    # tests make hostile pickles, that nothing may run
    ("tests/unit/data/test_cifar.py", FORBIDDEN[0]),
    ("tests/faults/test_bad_input.py", FORBIDDEN[0]),
    ("tests/fuzz/test_archives.py", FORBIDDEN[0]),
    ("tests/unit/config/test_benchmarks.py", FORBIDDEN[0]),
    ("tests/unit/weights/test_files.py", FORBIDDEN[0]),
    ("tests/project/test_readme.py", FORBIDDEN[1]),  # runs the README's own Python
    ("tests/unit/terminal/test_cli.py", FORBIDDEN[2]),  # a pipe whose reader goes away
}
"""File and what it has all the same."""
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".css", ".csv", ".yaml", ".yml", ".cfg", ".sh", ""}


def files() -> Iterator[Path]:
    """Every text file of the repository, tracked or about to be."""
    for top in ("ntkcl_jax", "analysis", "experiments", "tests", "docs", "requirements", "."):
        found = (ROOT / top).iterdir() if top == "." else (ROOT / top).rglob("*")
        yield from (p for p in found if p.suffix in TEXT and p.is_file() and "__pycache__" not in p.parts)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def true(call: ast.Call, name: str) -> bool:
    """Whether an argument is given and isn't plainly False."""
    return any(k.arg == name and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in call.keywords)


def findings(source: str) -> set[str]:
    """What a Python file has of `FORBIDDEN`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if UNPICKLERS & {name.split(".")[0] for name in names}:
                found.add(FORBIDDEN[0])
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called in ("eval", "exec", "builtins.eval", "builtins.exec"):
            found.add(FORBIDDEN[1])
        if true(node, "shell") or called in ("os.system", "os.popen", "subprocess.getoutput"):
            found.add(FORBIDDEN[2])
        if true(node, "allow_pickle"):
            found.add(FORBIDDEN[3])
        if called == "torch.load" and not true(node, "weights_only"):
            found.add(FORBIDDEN[4])
        if re.fullmatch(r"yaml\.(full_|unsafe_)?load(_all)?", called) and "safe" not in ast.unparse(node).lower():
            # ntkcl_jax/data/sources/lists.py names its loader: PyYAML's safe one, in C where there is one
            found.add(FORBIDDEN[5])
    return found


def test_no_file_loads_a_pickle_or_runs_text() -> None:
    found = {
        (str(path.relative_to(ROOT)), what)
        for path in files()
        if path.suffix == ".py"
        for what in findings(path.read_text())
    }
    assert found == EXCEPTIONS


def test_no_file_carries_a_secret_or_a_registrys_address() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in files()
        if path != Path(__file__)
        for what, pattern in SECRETS.items()
        if re.search(pattern, path.read_text(errors="replace"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("from pickle import loads", FORBIDDEN[0]),
        ("import joblib.numpy_pickle", FORBIDDEN[0]),
        ("x = eval('1')", FORBIDDEN[1]),
        ("subprocess.run('ls', shell=True)", FORBIDDEN[2]),
        ("np.load(f, allow_pickle=yes)", FORBIDDEN[3]),
        ("torch.load(f)", FORBIDDEN[4]),
        ("torch.load(f, weights_only=False)", FORBIDDEN[4]),
        ("yaml.load(f, Loader=yaml.Loader)", FORBIDDEN[5]),
        ("net.eval(); np.load(f, allow_pickle=False); yaml.load(f, Loader=yaml.CSafeLoader)", None),
    ],
)
def test_the_check_finds_what_it_looks_for(source: str, what: str | None) -> None:
    assert findings(source) == ({what} if what else set())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a private key"),
        ("x = 'hf_" + "a" * 30 + "'", "a token"),
        ("pass" + "word = 'correct-horse'", "a password"),
        ("http://me:word@" + "host/", "a password"),
        ("--extra-index" + "-url https://x", "a registry's address"),
    ],
)
def test_secrets_are_found_where_there_are_some(text: str, what: str) -> None:
    assert [name for name, pattern in SECRETS.items() if re.search(pattern, text)] == [what]
