"""The forgetting budget in `results.json`, as classes: what old tasks lost, and to what (docs/method.md, section 7)."""

from analysis.store.form import Form, Matrix, Number, Numbers


class LostOfTasks(Form, frozen=True, kw_only=True):
    """What each task but the last has lost since it was learned, and the two parts that add up to it: fractions.

    Attributes:
        lost: accuracy just after the task minus that at the end, among all classes seen at either time.
        competition: what new classes alone took of it.
        drift: what learning later tasks did to answers among the classes that were there before.
        lost_error: standard errors over the task's test images.
        competition_error: the same.
        drift_error: the same.
    """

    lost: tuple[float, ...]
    competition: tuple[float, ...]
    drift: tuple[float, ...]
    lost_error: tuple[float, ...]
    competition_error: tuple[float, ...]
    drift_error: tuple[float, ...]


class Lost(Form, frozen=True, kw_only=True):
    """The forgetting budget (`ntkcl_jax.training.budget`): means over all tasks but the last, as in `LostOfTasks`.

    Attributes:
        of_task: of each of these tasks.
        drift_lost: `[s][k]` the fraction of task k's images whose right answer among old classes task s took.
        test_images: of every task, mean over seeds.
    """

    lost: float
    competition: float
    drift: float
    lost_error: float
    competition_error: float
    drift_error: float
    of_task: LostOfTasks
    drift_lost: Matrix
    test_images: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check what types can't say."""
        of_all = {name: (getattr(self, name),) for name in LostOfTasks.__struct_fields__}
        of_task = {name: getattr(self.of_task, name) for name in LostOfTasks.__struct_fields__}
        for numbers in (of_all, of_task):
            # Its parts may be larger: what later training gives back can be taken again
            if any(abs(value) > 1 for value in numbers["lost"]):
                raise ValueError("forgetting_budget.lost: expected fractions between -1 and 1")
            if any(value < -1e-6 for value in numbers["competition"]):
                raise ValueError("forgetting_budget.competition: expected fractions from 0 on")
            if any(value < 0 for name in numbers if name.endswith("_error") for value in numbers[name]):
                raise ValueError("forgetting_budget: expected standard errors from 0 on")
            if len({len(values) for values in numbers.values()}) > 1:
                raise ValueError("forgetting_budget.of_task: expected as many values of each part")
            for lost, *parts in zip(numbers["lost"], numbers["competition"], numbers["drift"], strict=True):
                if abs(lost - sum(parts)) > 1e-6:
                    raise ValueError("forgetting_budget: expected parts that add up to what was lost")
        if any(images < 1 for images in self.test_images):
            raise ValueError("forgetting_budget.test_images: expected at least one for each task")


class SpreadOfTasks(Form, frozen=True, kw_only=True):
    """Sample standard deviations over seeds, of each task.

    Attributes:
        lost: of what was lost in all.
    """

    lost: Numbers


class LostSpread(Form, frozen=True, kw_only=True):
    """Sample standard deviations over seeds of what `Lost` says of all tasks; null for a single seed.

    Attributes:
        of_task: those of each task.
    """

    lost: Number
    competition: Number
    drift: Number
    of_task: SpreadOfTasks


class LostOverSeeds(Form, frozen=True, kw_only=True):
    """The budget over seeds.

    Attributes:
        mean: null of a single task, and of runs of versions that didn't count it.
        std: null where `mean` is.
        n: seeds.
    """

    mean: Lost | None
    std: LostSpread | None
    n: int

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if (self.mean is None) != (self.std is None):
            raise ValueError("forgetting_budget: expected both or none of mean and std")
        if self.n < 1:
            raise ValueError("forgetting_budget.n: expected at least one seed")
