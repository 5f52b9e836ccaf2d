"""Mistakes that one line has to name."""

from collections.abc import Callable

import pytest

from analysis.errors import AnalysisError, RecordError


def refused(call: Callable[[], object], *words: str, error: type[AnalysisError] = RecordError) -> None:
    """Assert that a call is refused in one line that holds all these words."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
