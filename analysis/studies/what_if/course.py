"""A whole run at other later rates: what the other steps of its tasks add up to (docs/theory.md, section 2.5).

To first order, the features that the run left after a task differ by what each later task up to then would have changed
otherwise. Its step is taken for the same from wherever the task starts. The running mean is the average of the
streams at the ends of tasks: a step of task t is in n - t + 1 of the n + 1 streams that it averages after task n.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from analysis.studies.what_if.network import centred_cosines


@dataclass
class Course:
    """How a seed's features differ at each rate from those that its run left, task after task.

    Attributes:
        last: number of the run's last task, after which the running mean stays.
        weights: of the prototype head's sections.
        streams: what other steps of the streams have added, of every image and rate.
        mean: what their whole steps would add if the mean made them.
        later: the same, each times the number of its task.
        rows: what is added to the prototypes of each later task.
    """

    last: int
    weights: tuple[float, ...]
    streams: Float[np.ndarray, "rates n e"] | float = 0.0
    mean: Float[np.ndarray, "rates n e"] | float = 0.0
    later: Float[np.ndarray, "rates n e"] | float = 0.0
    rows: list[Float[np.ndarray, "rates c e"]] = field(default_factory=list)

    def add(
        self, task: int, streams: Float[np.ndarray, "rates n e"], mean: Float[np.ndarray, "rates n e"]
    ) -> Float[np.ndarray, "rates n e"]:
        """Add a task whose other steps change features so, and tell what all of them have changed at its end.

        Args:
            task: its number.
            streams: how its step at each rate changes features through the streams, minus what its own does.
            mean: the same if the running mean made the whole step.
        """
        self.streams = self.streams + streams
        if task < self.last:
            self.mean, self.later = self.mean + mean, self.later + task * mean
        # Σ_t (n - t + 1)/(n + 1): after the last task the mean is the one before
        return self.streams + self.mean - self.later / (min(task, self.last - 1) + 1)

    def read(
        self,
        features: Float[np.ndarray, "n e"],
        prototypes: Float[np.ndarray, "k e"],
        moved: Float[np.ndarray, "rates n e"],
        moved_rows: Float[np.ndarray, "rates c e"],
    ) -> Float[np.ndarray, "rates n k"]:
        """Centred scores after a task at every rate.

        Args:
            features: of the images, as the run left them.
            prototypes: of the classes seen; the last ones are the task's.
            moved: what has been added to the features.
            moved_rows: what has been added to the prototypes of the task's own classes, for good.
        """
        self.rows.append(moved_rows)
        rows = np.concatenate(self.rows, axis=1)
        # Prototypes of the first task are what they are
        still = np.zeros((prototypes.shape[0] - rows.shape[1], prototypes.shape[1]))
        return np.stack([
            centred_cosines(features + more, prototypes + np.concatenate([still, added]), self.weights)
            for more, added in zip(moved, rows, strict=True)
        ])  # fmt: skip
