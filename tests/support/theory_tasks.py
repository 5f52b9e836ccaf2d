"""Fixture F1 (docs/theory.md, section 6) and random tasks like it, and a learner with parameters instead of kernels.

Nothing here is shared with the code under test: Jacobians are explicit, and one solve of the normal equations in
parameter space learns each task.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tasks:
    """Jacobians of each checkpoint and task, (n*K, p) sample by sample, with targets and first outputs (n, K)."""

    jacobians: list[list[np.ndarray]]
    targets: list[np.ndarray]
    outputs: list[np.ndarray]
    ridges: list[float]

    def block(self, k: int, s: int) -> np.ndarray:
        return self.jacobians[k][s] @ self.jacobians[k][k].T

    def intra(self, k: int, s: int | None = None) -> np.ndarray:
        """Φ_k(X_s, X_s), of task k itself if no other is named."""
        jacobian = self.jacobians[k][k if s is None else s]
        return jacobian @ jacobian.T

    def mixed(self, turn: np.ndarray) -> "Tasks":
        """The same tasks with their outputs turned by an orthogonal K x K matrix."""
        rows = [np.kron(np.eye(len(target)), turn) for target in self.targets]
        return Tasks(
            [[row @ jacobian for row, jacobian in zip(rows, stage, strict=True)] for stage in self.jacobians],
            [target @ turn.T for target in self.targets],
            [output @ turn.T for output in self.outputs],
            self.ridges,
        )


@dataclass(frozen=True)
class Learnt:
    """What the learner with parameters says: outputs[k][s] on task s before task k (one more at the end)."""

    steps: list[np.ndarray]
    outputs: list[list[np.ndarray]]


def learn_in_parameter_space(tasks: Tasks) -> Learnt:
    """argmin ½‖r - J δ‖² + ½ λ ‖δ‖² by least squares of the stacked system [J; sqrt(λ) I], task after task."""
    outputs, steps = [tasks.outputs], []
    for k, ridge in enumerate(tasks.ridges):
        jacobian = tasks.jacobians[k][k]
        size = jacobian.shape[1]
        rest = (tasks.targets[k] - outputs[-1][k]).ravel()
        stacked = np.vstack([jacobian, np.sqrt(ridge) * np.eye(size)])
        step = np.linalg.lstsq(stacked, np.concatenate([rest, np.zeros(size)]), rcond=None)[0]
        changes = [(tasks.jacobians[k][s] @ step).reshape(y.shape) for s, y in enumerate(tasks.targets)]
        outputs.append([before + change for before, change in zip(outputs[-1], changes, strict=True)])
        steps.append(step)
    return Learnt(steps, outputs)


def f1() -> Tasks:
    sizes, k, p = (4, 5, 3), 2, 12
    rows = [np.arange(n * k) for n in sizes]
    phase = [0.7 * np.outer(i + 1, np.arange(p) + 1) + 0.9 * s for s, i in enumerate(rows)]
    return Tasks(
        [[np.cos(angle + 0.05 * c) for angle in phase] for c in range(3)],
        [np.sin(1.1 * (i + 1) + s).reshape(-1, k) for s, i in enumerate(rows)],
        [0.1 * np.cos(i + s).reshape(-1, k) for s, i in enumerate(rows)],
        [0.3] * 3,
    )


def random_tasks(
    seed: int, *, ridge: float | None = None, frozen: bool = False, parameters: int | None = None
) -> Tasks:
    """Two to four tasks of random size; the Jacobian differs between tasks unless it is frozen."""
    rng = np.random.default_rng(seed)
    number, k = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    p = parameters or int(rng.integers(3, 30))
    sizes = rng.integers(2, 7, number)
    stage = [rng.normal(size=(n * k, p)) for n in sizes]
    other = [stage if frozen else [j + 0.3 * rng.normal(size=j.shape) for j in stage] for _ in sizes]
    return Tasks(
        other,
        [rng.normal(size=(n, k)) for n in sizes],
        [0.3 * rng.normal(size=(n, k)) for n in sizes],
        [ridge or float(10 ** rng.uniform(-3, 2)) for _ in sizes],
    )
