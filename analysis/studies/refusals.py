"""What to say of a method that a study isn't about: why, and what to do instead. Names alone tell: no imports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ntkcl_jax.config.methods import Method
from ntkcl_jax.errors import ConfigError

Study = Literal["gaps", "forecasts", "what-ifs"]
ABOUT: dict[Study, str] = {
    "gaps": "method ntkcl",
    "forecasts": "methods ntkcl and sequential",
    "what-ifs": "method ntkcl",
}
"""Methods that each study is about."""
RIDGES = ("ridge", "random-ridge", "ranpac", "layup", "multilevel")
"""Readouts that are ridge regression on all images learnt so far."""
STILL = ("frozen", "first-session")
"""Learners whose features don't move from task to task."""
WHY: dict[Study, str] = {
    "gaps": "it is theory's learner itself, ridge regression on all tasks at once, and later tasks add no interplay",
    "forecasts": "its features don't move and its classifier takes no steps, so that there is no drift to forecast",
    "what-ifs": "its features don't move, so that no learning rate makes it forget",
}


def refusal(study: Study, method: str) -> str:
    """One line on a method that a study isn't about.

    Example:
        >>> refusal("gaps", "l2p"), refusal("gaps", "ntkcl-ridge")
        ('gaps are of method ntkcl; got l2p', 'gaps are of method ntkcl; got ntkcl-ridge: what moves below it is ntkcl')
        >>> refusal("forecasts", "multilevel")[:67]
        'forecasts are of methods ntkcl and sequential; got multilevel: its '
    """
    why = reason_for(study, method)
    return f"{study} are of {ABOUT[study]}; got {method}{': ' if why else ''}{why}"


def without_ntkcl(study: Study, run: Path, methods: Sequence[str]) -> str:
    """One line on a run that lacks what a study starts from.

    Example:
        >>> without_ntkcl("gaps", Path("runs/a"), ("adapters",))
        'runs/a has no method ntkcl, which gaps start from, only adapters; train a run with --methods ntkcl adapters'
    """
    said = f"{run} has no method ntkcl, which {study} start from, only {', '.join(methods)}"
    told = next((f"; {method}: {why}" for method in methods if (why := reason_for(study, method))), "")
    return said + (told or f"; train a run with --methods ntkcl {' '.join(methods)}")


def reason_for(study: Study, method: str) -> str:
    """Why a study says nothing of a closed-form readout, and what does; "" for any other method."""
    try:
        pair = Method.of(method)
    except ConfigError:
        return ""
    if pair.readout not in RIDGES:
        return ""
    if pair.learner not in STILL:
        return f"what moves below it is {pair.learner}"
    return f"{WHY[study]}; `ntk-analysis kernels RUN --method {method}` has its kernels, results.json its accuracies"
