"""docs/data.md: its three lines work, and its table is the code's."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ntkcl_jax import cli
from ntkcl_jax.config.benchmarks import BENCHMARKS

TEXT = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


def test_own_data_takes_the_three_lines_of_the_document(tmp_path, monkeypatch, capsys):
    lines = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)[0].splitlines()
    assert len(lines) == 3
    monkeypatch.chdir(tmp_path)
    for label, folder in enumerate(re.findall(r"my-data/\w+", lines[0])):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((20 + number, 30, 3), 40 + 150 * label + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.jpg")
    words = lines[2].split()
    assert cli.NTKCL.run([*words[1:], "--methods", "prototypes", "--json"]) == 0
    assert '"final_accuracy"' in capsys.readouterr().out


def test_the_documents_table_names_every_benchmark_with_its_classes():
    table = TEXT.partition("## The nine streams")[2].partition("## ")[0]
    for name, benchmark in BENCHMARKS.items():
        row = next(line for line in table.splitlines() if line.startswith("|") and f"`{name}`" in line)
        names, classes = (cell.split(",") for cell in row.split("|")[1:3])
        place = [n.strip(" `") for n in names].index(name)
        assert int(classes[place if len(classes) > 1 else 0]) == benchmark.classes
        assert ("official" in row) == (benchmark.split == "official")
