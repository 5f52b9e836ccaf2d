"""A whole small run of the `reference` forms through `train`: its configuration, and what is recorded of it.

    python -m tests.golden.trajectory FILE.json        # record again, where the numbers are meant to change

`trajectory.json` was recorded in float32 on a CPU, by the code that reproduced the release's fixtures when it was made.
The best score of every prediction exceeds the second by more than 0.01, so that rounding changes none.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkcl_jax import RunConfig, load_run, preset, train, with_variants
from ntkcl_jax.config import ComputeConfig, OptimizerConfig
from ntkcl_jax.methods.ntkcl_objective import TERMS
from ntkcl_jax.runs.log import read_metrics

FIXTURE = Path(__file__).parent / "trajectory.json"


def config() -> RunConfig:
    """Handwritten digits in five tasks, a few images of each; batches with padding, every step's losses in the log."""
    made = with_variants(preset("digits"), all="reference")
    return replace(
        made,
        data=replace(made.data, images_per_class=6),
        optimizer=OptimizerConfig(learning_rate=0.025, batch_size=8, epochs=2),
        compute=ComputeConfig(checkpoint_every_steps=1),
    )


def trajectory(run_dir: Path) -> dict[str, Any]:
    """Train, and tell what happened.

    Returns:
        `losses`: of every step, unweighted terms and total by name; `predictions`: after every task, the predicted
        class of every test image of the tasks so far, task after task.
    """
    train(config(), run_dir, quiet=True)
    names = ("task", "step", *TERMS, "total")
    records = [record for record in read_metrics(run_dir / "metrics.jsonl") if record["kind"] == "train"]
    losses = [{name: record[name] for name in names} for record in records]
    run = load_run(run_dir)
    predictions = []
    scores_of = jax.jit(run.task(0).apply_fn)
    for number in range(run.num_tasks):
        task = run.task(number)
        images = np.concatenate([run.task(t).test_images for t in range(number + 1)])
        scores = np.asarray(scores_of(task.after, task.frozen, images))
        predictions.append(np.argmax(scores, axis=1).tolist())
    return {"losses": losses, "predictions": predictions}


def main(file: str) -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as home:
        found = trajectory(Path(home) / "run")
    parts = (f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in found.items())
    Path(file).write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
