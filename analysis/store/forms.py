"""The forms of a run's JSON files as classes, and the reader that makes an object of a file or refuses it in one line.

`config.json` and `results.json` are here, what studies write is in `study_forms`. A class names what analysis reads of
a file; a file may hold more. Accuracies are fractions from 0 to 1, tasks count from 0.
"""

import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msgspec import ValidationError, convert

from analysis.errors import StoreError
from analysis.store.form import Count, Form, Fraction, Index, Matrix, Number, Numbers, check_shape
from analysis.store.lost_forms import Lost, LostOfTasks, LostOverSeeds
from ntkcl_jax.config import codec
from ntkcl_jax.config.methods import Method
from ntkcl_jax.errors import reason
from ntkcl_jax.runs.folder import FORMAT as RUN_FORMAT
from ntkcl_jax.runs.folder import RESULTS_FORMAT
from ntkcl_jax.terminal.tables import short_name


class Commit(Form, frozen=True, kw_only=True):
    """State of the code that trained.

    Attributes:
        commit: its hash.
        modified: there were changes that aren't committed.
    """

    commit: str | None = None
    modified: bool | None = None


class UsedWeights(Form, frozen=True, kw_only=True):
    """The backbone's weights.

    Attributes:
        name: as they were asked for.
        sha256: of the file, hexadecimal.
    """

    name: str | None = None
    sha256: str | None = None


class UsedData(Form, frozen=True, kw_only=True):
    """The images.

    Attributes:
        class_names: in the order of the data set's labels.
        train_images: how many.
        test_images: how many.
        fingerprint: of images and labels, hexadecimal.
    """

    class_names: tuple[str, ...]
    train_images: Count | None = None
    test_images: Count | None = None
    fingerprint: str | None = None


class BaselineSettings(Form, frozen=True, kw_only=True):
    """Settings of the methods beside NTK-CL.

    Attributes:
        first_session: `ranpac` and `layup` train adapters on task 0.
    """

    first_session: bool = True


class Settings(Form, frozen=True, kw_only=True):
    """Those of the run's settings that analysis reads here.

    Attributes:
        preset: name of the settings that it began with.
        methods: names of what was trained.
        baselines: settings of the others than NTK-CL.
    """

    preset: str
    methods: tuple[str, ...]
    baselines: BaselineSettings = BaselineSettings()

    def pair(self, method: str) -> Method:
        """Learner and readout of a method in this run."""
        return Method.of(method, self.baselines.first_session)


class SeedScenario(Form, frozen=True, kw_only=True):
    """A seed's tasks.

    Attributes:
        class_order: the data set's label of each class of the run.
        task_sizes: classes of each task; they are the first ones of `class_order`.
    """

    class_order: tuple[Index, ...]
    task_sizes: tuple[Index, ...]


class UsedDevices(Form, frozen=True, kw_only=True):
    """What a run was computed on.

    Attributes:
        kind: such as "cpu", or an accelerator's name.
        data: how many parts a batch is split into.
        model: how many parts the backbone's large matrices are split into.
        processes: how many computed together.
    """

    kind: str
    data: int = 1
    model: int = 1
    processes: int = 1


class ConfigFile(Form, frozen=True, kw_only=True):
    """`config.json`.

    Attributes:
        format: `RUN_FORMAT`.
        config: the run's settings.
        data: the images.
        scenarios: tasks by seed.
        weights: of the backbone.
        versions: of Python and packages, by name.
        git: the code.
        machine: for people.
        command: words of the command line.
        devices: on which the run was computed.
    """

    version: ClassVar[int] = RUN_FORMAT
    format: int
    config: Settings
    data: UsedData
    scenarios: dict[Index, SeedScenario]
    weights: UsedWeights | None = None
    versions: dict[str, str] | None = None
    git: Commit | None = None
    machine: str | None = None
    command: tuple[str, ...] | None = None
    devices: UsedDevices | None = None

    def __post_init__(self) -> None:
        """Check what types can't say."""
        classes = len(self.data.class_names)
        for seed, scenario in self.scenarios.items():
            order, sizes = scenario.class_order, scenario.task_sizes
            # Else names would be looked up beyond their list when the report is drawn
            if max(order, default=-1) >= classes or sum(sizes) > len(order):
                raise ValueError(f"classes and task sizes of seed {seed} don't fit together")


class OverSeeds(Form, frozen=True, kw_only=True):
    """A number of a method.

    Attributes:
        mean: over seeds.
        std: sample standard deviation over seeds.
        n: seeds.
    """

    mean: Number
    std: Number
    n: int


class FinalOverSeeds(OverSeeds, frozen=True, kw_only=True):
    """An accuracy that every method has.

    Attributes:
        mean: over seeds.
    """

    mean: Fraction


class VectorOverSeeds(Form, frozen=True, kw_only=True):
    """A number after each task.

    Attributes:
        mean: over seeds.
        std: sample standard deviation over seeds.
    """

    mean: tuple[float, ...]
    std: Numbers


class MatrixOverSeeds(Form, frozen=True, kw_only=True):
    """Accuracies on each task (column) after each task (row).

    Attributes:
        mean: T rows of T, over seeds; null above the diagonal.
    """

    mean: Matrix


class OldOverSeeds(Form, frozen=True, kw_only=True):
    """Accuracies on each task (column) among the classes seen before each later task (row).

    Attributes:
        mean: T rows of T, over seeds; null from the diagonal on. Null of runs of versions that didn't count it.
    """

    mean: Matrix | None


class MethodResults(Form, frozen=True, kw_only=True):
    """What a method achieved, over seeds.

    Attributes:
        accuracy_matrix: fraction of a task's test images that are named right among all classes seen.
        accuracy_after_task: the same of all images of the tasks so far.
        average_incremental_accuracy: mean of `accuracy_after_task`.
        final_accuracy: its last number.
        forgetting: mean over earlier tasks of the accuracy lost between their best and the end.
        backward_transfer: mean over earlier tasks of the accuracy at the end minus the one just after the task.
        accuracy_among_old_classes: what splits forgetting into the two parts of the budget.
        forgetting_budget: both parts.
    """

    accuracy_matrix: MatrixOverSeeds
    accuracy_after_task: VectorOverSeeds
    average_incremental_accuracy: OverSeeds
    final_accuracy: FinalOverSeeds
    forgetting: OverSeeds
    backward_transfer: OverSeeds
    accuracy_among_old_classes: OldOverSeeds | None = None
    forgetting_budget: LostOverSeeds | None = None

    @property
    def lost(self) -> Lost | None:
        """The budget, mean over seeds; None of a single task, and where a version evaluated that didn't count it."""
        return self.forgetting_budget.mean if self.forgetting_budget else None

    @property
    def tasks(self) -> int:
        """How many tasks there are numbers of."""
        return len(self.accuracy_matrix.mean)

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.tasks:
            raise ValueError("accuracy_matrix.mean: expected a row for each task")
        check_shape("accuracy_matrix.mean", self.accuracy_matrix.mean, self.tasks, self.tasks)
        check_shape("accuracy_after_task.mean", self.accuracy_after_task.mean, self.tasks)
        check_shape("accuracy_after_task.std", self.accuracy_after_task.std, self.tasks)
        for t, row in enumerate(self.accuracy_matrix.mean):
            # Tasks after t aren't learned yet: above the diagonal anything may stand
            for k, value in enumerate(row[: t + 1]):
                if value is None or not 0 <= value <= 1:
                    raise ValueError(f"accuracy_matrix.mean[{t}][{k}]: expected a fraction from 0 to 1")
        self._check_budget()

    def _check_budget(self) -> None:
        budget, among_old = self.forgetting_budget, self.accuracy_among_old_classes
        if budget is None or budget.mean is None or budget.std is None:
            return
        if among_old is None or among_old.mean is None:
            raise ValueError("accuracy_among_old_classes.mean: expected what forgetting_budget is made of")
        for name in LostOfTasks.__struct_fields__:
            check_shape(f"forgetting_budget.mean.of_task.{name}", getattr(budget.mean.of_task, name), self.tasks - 1)
        check_shape("forgetting_budget.std.of_task.lost", budget.std.of_task.lost, self.tasks - 1)
        check_shape("forgetting_budget.mean.test_images", budget.mean.test_images, self.tasks)
        parts = {
            "accuracy_among_old_classes.mean": among_old.mean,
            "forgetting_budget.mean.drift_lost": budget.mean.drift_lost,
        }
        for name, matrix in parts.items():
            check_shape(name, matrix, self.tasks, self.tasks)
            for s, row in enumerate(matrix):
                for k, value in enumerate(row[:s]):
                    if value is None or not 0 <= value <= 1:
                        raise ValueError(f"{name}[{s}][{k}]: expected a fraction from 0 to 1")


class SeedResults(Form, frozen=True, kw_only=True):
    """What a method achieved with one seed.

    Attributes:
        forgetting: as in `MethodResults`.
        final_accuracy: the same.
    """

    forgetting: Number
    final_accuracy: Number = None


class ReadoutFacts(Form, frozen=True, kw_only=True):
    """`meta.json` beside what a readout has learnt.

    Attributes:
        says: what it has chosen, in words.
    """

    says: str = ""


class ResultsFile(Form, frozen=True, kw_only=True):
    """`results.json`.

    Attributes:
        format: `RESULTS_FORMAT`.
        task_names: of the tasks.
        summary: over seeds, by method.
        seeds: by seed and method.
        preset: name of the settings.
    """

    version: ClassVar[int] = RESULTS_FORMAT
    format: int
    task_names: tuple[str, ...]
    summary: dict[str, MethodResults]
    seeds: dict[Index, dict[str, SeedResults]]
    preset: str | None = None

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.summary:
            raise ValueError("summary: expected at least one method")
        if max(method.tasks for method in self.summary.values()) > len(self.task_names):
            raise ValueError("task_names: expected a name for each row of the accuracy matrices")


Read = TypeVar("Read", bound=Form)


def read_form(path: Path, form: type[Read]) -> Read | None:
    """Read a JSON file as an object.

    Args:
        path: the file.
        form: its class, such as `ConfigFile`.

    Returns:
        The object; None where there is no file.

    Raises:
        StoreError: the file can't be read, or isn't of its form; the message names the place.
    """
    try:
        if not path.exists():
            return None
        value = codec.read_json(path)
    except (OSError, ValueError) as error:  # ValueError: bad JSON, bad UTF-8, or a number that isn't finite
        raise StoreError(f"{path} can't be read ({reason(error)}); restore it from a copy, or make it again") from error
    try:
        return made_of(value, form)
    except ValueError as error:
        raise StoreError(
            f"{path} isn't of the form that this version reads ({error}); make it again with this version"
        ) from error


def made_of(value: Any, form: type[Read]) -> Read:
    """Make an object of what a JSON file holds.

    Args:
        value: what was read, from `codec.read_json`; changed where it is refused.
        form: its class.

    Raises:
        ValueError: the first difference: what was expected where, and what came.

    Example:
        >>> made_of({"forgetting": 0.1, "other": 1}, SeedResults)
        SeedResults(forgetting=0.1, final_accuracy=None)
        >>> made_of({"forgetting": "0.1"}, SeedResults)
        Traceback (most recent call last):
        ValueError: forgetting: expected `float | null`, got `str`
    """
    version = getattr(form, "version", None)
    # First of all, as the rest of another version needn't fit.
    if version is not None and isinstance(value, dict) and value.get("format", version) != version:
        raise ValueError(f"format is {short_name(str(value['format']), 40)}, expected {version}")
    try:
        # Keys of JSON are text: `str_keys` reads those of seeds and checkpoints as numbers
        return convert(value, form, str_keys=True)
    except UnicodeError:  # half of a surrogate pair
        raise ValueError("expected names in Unicode, got a key that is none") from None
    except ValidationError as error:
        # msgspec writes "Expected `int`, got `str` - at `$.seeds[...].tasks[0]`": keys of objects are left out
        what, _, at = str(error).rpartition(" - at ")
        if not what:
            what, at = at, ""
        if at.startswith("`key` in"):
            what, at = f"unexpected key ({what})", at.removeprefix("`key` in ").rstrip("`") + "[...]"
        place = _place(value, form, str(error), at)
        what = what[:1].lower() + what[1:]
        raise ValueError(short_name(f"{place}: {what}" if place else what, 300)) from None


def _place(value: Any, form: type[Form], error: str, path: str) -> str:
    """The path of an error with the keys of objects, of which msgspec tells none.

    Args:
        value: what was refused; it loses the keys that are right.
        form: its class.
        error: its message.
        path: as msgspec writes it, `$.seeds[...].tasks[0]`.
    """
    place, here = "", value
    for name, index, gap in re.findall(r"\.(\w+)|\[(\d+)\]|\[(\.\.\.)\]", path):
        if gap:
            left = list(here.items())
            while len(left) > 1:  # by halves, as a file can have any number of keys
                # Only one half stays in the value: if the error is the same, the wrong key is in it, else in the other
                half = len(left) // 2
                here.clear()
                here.update(left[:half])
                left = left[:half] if _refusal(value, form) == error else left[half:]
            here.clear()
            here.update(left)
            if _refusal(value, form) != error:
                return place.removeprefix(".")
            # One key is left, and with it alone the error is the same
            key, here = left[0]
            name = short_name(key, 40)
        else:
            here = here[int(index) if index else name]
        place += f"[{index}]" if index else f".{name}"
    return place.removeprefix(".")


def _refusal(value: Any, form: type[Form]) -> str:
    """What msgspec has against a value; nothing where that is right."""
    try:
        convert(value, form, str_keys=True)
    except (ValidationError, UnicodeError) as error:
        return str(error)
    return ""
