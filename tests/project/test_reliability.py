"""The table of docs/reliability.md: every row names a test that exists, and none stands twice."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| what goes wrong |"))
]
TEST = re.compile(r"`(tests/\S+\.py)::(test_\w+)`")


def named() -> list[tuple[str, str]]:
    """File and name of each row's test."""
    found = [TEST.fullmatch(row[-1]) for row in ROWS]
    assert all(found), [row for row, match in zip(ROWS, found, strict=True) if not match]
    return [(match[1], match[2]) for match in found if match]


def functions(file: str) -> set[str]:
    """Names of a file's top-level functions, without running it."""
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_says_what_goes_wrong_what_happens_and_names_a_test() -> None:
    assert len(ROWS) >= 60
    assert [row for row in ROWS if len(row) != 3 or not all(row)] == []
    assert len(named()) == len(ROWS)


@pytest.mark.parametrize("file", sorted({file for file, _ in named()}))
def test_every_named_test_exists(file: str) -> None:
    assert {name for other, name in named() if other == file} <= functions(file)


def test_no_test_and_no_fault_stands_in_two_rows() -> None:
    for column in (0, 2):
        assert [cell for cell, times in Counter(row[column] for row in ROWS).items() if times > 1] == []
