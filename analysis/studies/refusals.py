"""What to say of a method that a study isn't about: why, and what to do instead. Names alone tell: no imports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ntkcl_jax.config.methods import Method
from ntkcl_jax.errors import ConfigError

Study = Literal["gaps", "forecasts", "what-ifs", "influences"]
ABOUT: dict[Study, str] = {
    "gaps": "method ntkcl",
    "forecasts": "methods ntkcl and sequential",
    "what-ifs": "method ntkcl",
    "influences": "method ntkcl",
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
    "influences": "its features don't move, so that no image makes another worse",
}
COMMANDS: dict[Study, str] = {
    "gaps": "ntk-analysis gaps",
    "forecasts": "ntk-analysis forecast",
    "what-ifs": "ntk-analysis whatif",
    "influences": "ntk-analysis influence",
}
NONE: dict[Study, str] = {
    "gaps": "interplay of its own to split",
    "forecasts": "drift of its own to forecast",
    "what-ifs": "learning rate of its own to ask about",
    "influences": "step of its own to divide among images",
}


def refusal(study: Study, method: str) -> str:
    """One line on a method that a study isn't about.

    Example:
        >>> refusal("gaps", "l2p"), refusal("forecasts", "multilevel")[:67]
        ('gaps are of method ntkcl; got l2p', 'forecasts are of methods ntkcl and sequential; got multilevel: its ')
        >>> said = refusal("forecasts", "ntkcl-ridge")
        >>> said.endswith("; what moves its features is ntkcl, which `ntk-analysis forecast RUN` is about")
        True
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
        about = f"`{COMMANDS[study]} RUN` is about"
        if pair.learner != "ntkcl":
            about = f"has kernels alone: `ntk-analysis kernels RUN --method {pair.learner}`"
        return (
            f"its classifier is solved anew after each task and takes no steps, so that there is no {NONE[study]}; "
            f"what moves its features is {pair.learner}, which {about}"
        )
    return f"{WHY[study]}; `ntk-analysis kernels RUN --method {method}` has its kernels, results.json its accuracies"
