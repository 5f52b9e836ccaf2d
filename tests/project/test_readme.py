"""The README's Python runs as it stands, and its figures have a command beside them."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_readme_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "prints" / "results.json").is_file()
    assert names["scores"].shape == (len(names["task"].test_labels), 6)
    assert names["theta"].shape == (8, 8, 6, 6)
    assert 0 < names["loss"] < 2


def test_no_placeholder_is_left_in_the_readme_and_its_pictures_exist():
    text = README.read_text()
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (README.parent / picture).is_file(), picture
    for page in re.findall(r"\]\(((?!https?:).*?\.md)\)", text):
        assert (README.parent / page).is_file(), page
