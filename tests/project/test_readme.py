"""The Python of the README and of docs/kernels.md runs as it stands, and figures have a command beside them."""

import re
from pathlib import Path

import numpy as np
import pytest

import analysis

README = Path(__file__).parents[2] / "README.md"
PAGE = README.parent / "docs" / "kernels.md"


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


def test_the_kernel_pages_python_runs_and_agrees_with_the_kernel():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "kernels.md", "exec"), names)
    assert names["theta"].shape == (20, 8, 3, 3)
    np.testing.assert_allclose(names["parts"]["body"] + names["parts"]["head"], names["parts"]["whole"])
    matrix = names["parts"]["whole"].transpose(0, 2, 1, 3).reshape(60, 60)
    eigenvalues = np.linalg.eigvalsh(matrix)[::-1]

    fit, y = names["fit"], names["targets"].reshape(-1)
    assert np.linalg.norm(y - matrix @ fit.solution - 0.1 * fit.solution) < 2e-5 * np.linalg.norm(y)
    across = np.einsum("ijcd,ic->jd", names["theta"], names["dual"])
    np.testing.assert_allclose(names["predicted"], across, rtol=1e-4, atol=1e-4 * np.abs(across).max())
    np.testing.assert_allclose(names["largest"].values, eigenvalues[:3], rtol=1e-4)
    assert names["trace"] == pytest.approx(np.trace(matrix), rel=1e-5)
    dimension = (eigenvalues / (eigenvalues + 0.1)).sum()
    for estimate, truth in ((names["norm"], np.linalg.norm(matrix)), (names["dimension"], dimension)):
        assert abs(estimate.value - truth) < 5 * estimate.standard_error + 1e-3 * truth
    wanted = [(eigenvalues <= place).mean() for place in (0.1, 1.0, 10.0)]
    assert np.abs(names["share"] - wanted).max() < 0.15
    assert np.all(names["error"] >= 0)


def test_every_name_that_the_page_takes_from_the_package_is_there():
    used = set(re.findall(r"\banalysis\.([A-Za-z_]\w*)\(", PAGE.read_text()))
    assert {"KernelOperator", "ridge_solve", "extreme_eigenvalues", "spectral_density", "frobenius_norm"} <= used
    assert used <= set(analysis.__all__)
