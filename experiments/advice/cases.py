"""Runs of known illness: what is wrong with each, and the words that train it. All take seconds and need no files."""

from typing import NamedTuple

SMALL = (
    "--readout.widths", "200", "200", "1000", "600", "--readout.random-features", "1000",
)  # fmt: skip
"""Narrow readouts, so that a case takes seconds; the run that is advised keeps them."""
HUNDRED = ("--data.images-per-class", "100", *SMALL)
"""At most 100 images of a class on either side."""
WARM = ("--optimizer.later-learning-rate", "0.8")
"""Forty times the preset's; its strong pull to the anchor holds the network all the same."""
HOT = (*WARM, "--objective.lambda-reg", "0.001", "--optimizer.epochs", "4")
"""The same with the published pull, a hundredth of the preset's, for longer."""


class Case(NamedTuple):
    """A run that is ill, or isn't.

    Attributes:
        name: of the case.
        illness: which finding of `analysis.store.advice_forms` is right; "" where nothing is wrong.
        preset: of the run.
        method: what is trained.
        options: what makes it ill, and small.
    """

    name: str
    illness: str
    preset: str
    method: str
    options: tuple[str, ...]

    def words(self, run_dir: str, seed: int) -> list[str]:
        """The command that trains it, without the program's name."""
        named = ("--run-dir", run_dir, "--seeds", str(seed), "--methods", self.method)
        return ["train", self.preset, *named, *self.options]


CASES = (
    Case("digits, later rate 0.8 under a strong pull", "readout", "digits", "ntkcl", (*HUNDRED, *WARM)),
    Case("UCI digits, later rate 0.8 under a strong pull", "readout", "uci-digits", "ntkcl", (*HUNDRED, *WARM)),
    Case("scripts, class means", "readout", "scripts", "prototypes", SMALL),
    Case("UCI digits, class means", "readout", "uci-digits", "prototypes", HUNDRED),
    Case("digits, linear in sequence", "readout", "digits", "sequential", HUNDRED),
    Case("scripts, random weights", "misfit", "scripts", "prototypes", (*SMALL, "--weights", "random")),
    Case("digits, random weights", "misfit", "digits", "prototypes", (*HUNDRED, "--weights", "random")),
    Case(
        "scripts, 12 px", "misfit", "scripts", "prototypes",
        (*SMALL, "--model.backbone.image-size", "12", "--data.resize", "12"),
    ),
    Case("digits, 4 images a class", "few", "digits", "prototypes", ("--data.images-per-class", "4", *SMALL)),
    Case("UCI digits, 3 images a class", "few", "uci-digits", "ntkcl", ("--data.images-per-class", "3", *SMALL)),
    Case("digits, RanPAC", "", "digits", "frozen/ranpac", HUNDRED),
    Case("UCI digits, multilevel", "", "uci-digits", "frozen/multilevel", HUNDRED),
    Case("digits, later rate 0.8", "rate", "digits", "ntkcl", (*HUNDRED, *HOT)),
    Case("UCI digits, later rate 0.8", "rate", "uci-digits", "ntkcl", (*HUNDRED, *HOT)),
    Case(
        "digits in two tasks, later rate 0.8", "rate", "digits", "ntkcl",
        (*HUNDRED, *HOT, "--data.classes-per-task", "5"),
    ),
)  # fmt: skip
REASONS = {
    "scripts, class means": (
        "500 left-out images are 5 of each of 100 classes, of which class means make more than any ridge; a run has 20 "
        "of each, of which ridge on random features makes a little more (docs/theory.md, section 9.1)."
    ),
}
"""Why a case wasn't helped."""
