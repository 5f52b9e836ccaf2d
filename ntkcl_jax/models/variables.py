"""What a number in the network is for, as Flax variable types.

`nnx.Param` is the frozen backbone. The trainable tree, the one that the optimizer updates and that the empirical
kernel differentiates, is exactly the `Adaptation` variables.
"""

from flax import nnx


class Adaptation(nnx.Param):
    """A trainable number: current adapters and prompts, fusion, proxy head."""


class RunningMean(nnx.Variable):
    """Mean of the past tasks' adapters and prompts; frozen while a task trains."""


class Prototype(nnx.Variable):
    """Class means of hybrid features and what goes with them; written once after each task."""
