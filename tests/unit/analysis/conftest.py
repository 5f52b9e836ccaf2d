"""What several tests of the report share."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered: that takes most of the time."""
    from analysis import report

    monkeypatch.setattr(report, "render", lambda figure: {"svg": b"<svg/>", "png": b""})
