"""What a command writes into a page stays between its own two comments."""

from pathlib import Path

import pytest

from experiments.commands import write_into


def test_a_command_fills_its_own_part_of_a_page_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- a: begin -->\nold\n<!-- a: end -->\nbetween\n<!-- b: begin -->\nkept\n<!-- b: end -->\n"
    )
    write_into(page, "new\n", "a")
    filled = "above\n<!-- a: begin -->\nnew\n<!-- a: end -->\nbetween\n<!-- b: begin -->\nkept\n<!-- b: end -->\n"
    assert page.read_text() == filled
    with pytest.raises(ValueError, match="c: begin"):
        write_into(page, "new\n", "c")
    assert page.read_text() == filled
