"""The forms of what studies write beside a run, as classes: `summary.json`, `gaps.json` and `forecast.json`.

Losses are half squared errors per image, summed over outputs; squared errors and their parts are per image too. Tasks
count from 0. A class names what the report reads of a file; a file may hold more.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from analysis.store.forms import Form, Index, Matrix, Number, Numbers, check_shape

STUDY_FORMAT = 1
"""Version of `gaps.json` and `forecast.json`."""

Positive = Annotated[int, Meta(ge=1)]
TaskPair = Annotated[str, Meta(pattern=r"^[0-9]{1,9},[0-9]{1,9}\Z")]
"""Two tasks as a key, `3,5`."""
Side = Literal["train", "test"]


class Study(Form, frozen=True, kw_only=True):
    """What every study tells of how it was made.

    Attributes:
        per_task: images of each task.
        method: whose checkpoints.
        procedure: how training was predicted.
        side: which images of a task.
        versions: of Python and packages, by name.
        commit: hash of the code.
    """

    per_task: int
    method: str | None = None
    procedure: str | None = None
    side: Side | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None


class Group(Form, frozen=True, kw_only=True):
    """A group of parameters.

    Attributes:
        share: of the trace of each task's kernel, from 0 to 1.
        inter_intra_ratio: T x T, of the group's own kernel.
        centred_target_alignment: T, of the group's own kernel; none in a file that is older than it.
        stream_alignment: of all tasks' images at once.
    """

    share: tuple[float, ...]
    inter_intra_ratio: Matrix | None = None
    centred_target_alignment: Numbers | None = None
    stream_alignment: Number = None


class KernelFigures(Form, frozen=True, kw_only=True):
    """What the kernels of one checkpoint say, for T tasks in the order of `KernelSeed.tasks`.

    Attributes:
        inter_intra_ratio: T x T, ρ = ‖Θ(X_t, X_k)‖ / √(‖Θ(X_t, X_t)‖ ‖Θ(X_k, X_k)‖).
        unrelated_ratio: T x T, what unrelated tasks would give.
        same_task_ratio: T x T, what another sample of the same tasks would give.
        effective_dimension: T, directions.
        target_alignment: T, cosine of kernel and targets.
        drift: T, ‖ΔΘ‖ / ‖Θ‖ since the last computed checkpoint.
        spectrum: T, largest eigenvalues of the task's own kernel, descending.
        groups: by name.
    """

    inter_intra_ratio: Matrix
    unrelated_ratio: Matrix
    same_task_ratio: Matrix
    effective_dimension: Numbers
    target_alignment: Numbers
    drift: Numbers
    spectrum: tuple[tuple[float, ...], ...]
    groups: dict[str, Group]


class KernelSeed(Form, frozen=True, kw_only=True):
    """A seed's kernels.

    Attributes:
        tasks: whose images were probed.
        checkpoints: figures by checkpoint, 0 before training and t + 1 after task t.
        too_few: tasks of whose probes no two are of one class.
    """

    tasks: tuple[Index, ...]
    checkpoints: dict[Index, KernelFigures]
    too_few: tuple[Index, ...] = ()

    @property
    def first(self) -> KernelFigures:
        """Figures of the first checkpoint."""
        return self.checkpoints[min(self.checkpoints)]

    @property
    def last(self) -> KernelFigures:
        """Figures of the last checkpoint."""
        return self.checkpoints[max(self.checkpoints)]

    @property
    def classes_told(self) -> list[bool]:
        """Of each task, whether its probes can tell how alike images of one class are."""
        return [task not in self.too_few for task in self.tasks]

    def __post_init__(self) -> None:
        """Check what types can't say."""
        count = len(self.tasks)
        if not count or not self.checkpoints:
            raise ValueError("expected at least one task and one checkpoint")
        for number, figures in self.checkpoints.items():
            for name in ("inter_intra_ratio", "unrelated_ratio", "same_task_ratio"):
                check_shape(f"checkpoints.{number}.{name}", getattr(figures, name), count, count)
            for name in ("effective_dimension", "target_alignment", "drift", "spectrum"):
                check_shape(f"checkpoints.{number}.{name}", getattr(figures, name), count)
            # Figures draw a line for each group over all checkpoints
            if set(figures.groups) != set(self.first.groups):
                raise ValueError(f"checkpoints.{number}.groups: expected the same groups at every checkpoint")
            for group in figures.groups.values():
                check_shape(f"checkpoints.{number}.groups", group.share, count)
                if group.inter_intra_ratio is not None:
                    check_shape(f"checkpoints.{number}.groups", group.inter_intra_ratio, count, count)
                if group.centred_target_alignment is not None:
                    check_shape(f"checkpoints.{number}.groups", group.centred_target_alignment, count)


class SummaryFile(Study, frozen=True, kw_only=True):
    """`summary.json`.

    Attributes:
        outputs: which entries of a kernel were stored.
        head: which outputs of the network.
        side: which images of a task.
        seeds: kernels by seed.
    """

    outputs: str
    head: str
    side: Side
    seeds: dict[Index, KernelSeed]

    @property
    def first_seed(self) -> tuple[int, KernelSeed]:
        """The seed that figures show, and its kernels."""
        return next(iter(self.seeds.items()))

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.seeds:
            raise ValueError("seeds: expected at least one seed")
        if len({frozenset(seed.first.groups) for seed in self.seeds.values()}) > 1:
            raise ValueError("seeds: expected the same groups of parameters in every seed")


class Cross(Form, frozen=True, kw_only=True):
    """Signed cross terms of a squared error.

    Attributes:
        own: of what the task left with what a later task did, by later task.
        between: of what two later tasks did, by pair.
    """

    own: dict[Index, Number]
    between: dict[TaskPair, Number]


class Budget(Form, frozen=True, kw_only=True):
    """A task's squared error on its training images after all tasks, split exactly, and its losses.

    Attributes:
        task_specific: what was left when the task was learned.
        interplay: what each later task did, by task.
        cross: signed cross terms.
        total: sum of the parts.
        direct: the squared error itself.
        forgetting: `total` minus `task_specific`.
        train_loss: after all tasks, on training images.
        test_loss: after all tasks, on unseen images.
        learned_test_loss: just after the task, on unseen images.
    """

    task_specific: Number
    interplay: dict[Index, Number]
    cross: Cross
    total: Number
    direct: Number
    forgetting: Number
    train_loss: Number
    test_loss: Number
    learned_test_loss: Number


class Radius(Form, frozen=True, kw_only=True):
    """How far a learner moved.

    Attributes:
        exact: norm of the parameters' change.
    """

    exact: Number


class Bound(Form, frozen=True, kw_only=True):
    """An upper bound of the clipped loss.

    Attributes:
        value: of the bound.
        theorem: whether it is proven here.
        note: why, or why not.
    """

    value: Number
    theorem: bool
    note: str


class NetworkPoint(Form, frozen=True, kw_only=True):
    """The trained network beside a learning curve.

    Attributes:
        images: that it was trained on.
        loss: on unseen images.
    """

    images: Positive
    loss: Number


class LearningCurve(Form, frozen=True, kw_only=True):
    """Loss on unseen images against the number of training images, a number for each size.

    Attributes:
        sizes: training images.
        finite_population: predicted.
        eigenlearning: predicted.
        leave_one_out: predicted.
        measured: mean over random subsets.
        measured_std: its standard deviation.
        network: the trained network.
    """

    sizes: tuple[Positive, ...]
    finite_population: Numbers
    eigenlearning: Numbers
    leave_one_out: Numbers
    measured: Numbers
    measured_std: Numbers
    network: NetworkPoint

    def __post_init__(self) -> None:
        """Check what types can't say."""
        for name in ("finite_population", "eigenlearning", "leave_one_out", "measured", "measured_std"):
            check_shape(name, getattr(self, name), len(self.sizes))


class Laziness(Form, frozen=True, kw_only=True):
    """How well a first-order model describes the network's training on a task.

    Attributes:
        relative_error: of the outputs' change.
        cosine: of both changes.
        drift_norm: root mean square over images of the network's change.
        moved: whether either change is above rounding; None in a file that is older than it.
    """

    relative_error: Number
    cosine: Number
    drift_norm: Number
    moved: bool | None = None


class Gap(Budget, frozen=True, kw_only=True):
    """What `gaps.json` says of a task: theory's learner, ridge regression on the run's tangent kernels.

    Attributes:
        task: its number.
        images: training images, n.
        outputs: of the network, k.
        ridge: λ.
        ridge_fraction: the same over the kernel's mean diagonal.
        matched: whether the learner goes as far as the network; None where that wasn't asked for, or isn't told.
        ridge_note: what a reader has to know of the ridge.
        trace: of the kernel.
        complexity: Rademacher complexity.
        radius: of the learner's step.
        bound: of its loss.
        loo: leave-one-out estimate of the loss.
        gcv: generalized cross-validation's estimate.
        learning_curve: what more images would bring.
        network: the same split of the trained network.
        laziness: of the network's training.
    """

    task: Index
    images: int
    outputs: int
    ridge: Number
    ridge_fraction: Number
    matched: bool | None = None
    ridge_note: str = ""
    trace: Number
    complexity: Number
    radius: Radius
    bound: Bound
    loo: Number
    gcv: Number
    learning_curve: LearningCurve
    network: Budget
    laziness: Laziness


class GapSeed(Form, frozen=True, kw_only=True):
    """A seed's gaps.

    Attributes:
        tasks: their numbers.
        names: their names.
        by_task: in the order of `tasks`.
    """

    tasks: tuple[Index, ...]
    names: tuple[str, ...]
    by_task: tuple[Gap, ...]

    def __post_init__(self) -> None:
        """Check what types can't say."""
        check_shape("names", self.names, len(self.tasks))
        # Figures and tables pair `names`, `tasks` and `by_task` by place
        if not self.tasks or tuple(gap.task for gap in self.by_task) != self.tasks:
            raise ValueError("by_task: expected the tasks in the order of 'tasks'")


class GapsFile(Study, frozen=True, kw_only=True):
    """`gaps.json`.

    Attributes:
        format: `STUDY_FORMAT`.
        seeds: gaps by seed.
        clip: largest loss that the bounds count.
    """

    version: ClassVar[int] = STUDY_FORMAT
    format: int
    seeds: dict[Index, GapSeed]
    clip: float | None = None

    @property
    def first_seed(self) -> tuple[int, GapSeed]:
        """The seed that figures show, and its gaps."""
        return next(iter(self.seeds.items()))

    @property
    def every(self) -> list[Gap]:
        """Gaps of all seeds and tasks."""
        return [gap for seed in self.seeds.values() for gap in seed.by_task]

    def __post_init__(self) -> None:
        """Check what types can't say."""
        if not self.seeds:
            raise ValueError("seeds: expected at least one seed")


class Quality(Form, frozen=True, kw_only=True):
    """How well a drift was predicted.

    Attributes:
        relative_error: of the drift.
    """

    relative_error: Number


class Modes(Form, frozen=True, kw_only=True):
    """How many modes of the kernel hold a share of the measured drift's energy.

    Attributes:
        of_95: modes that hold 95 % of it.
    """

    of_95: int | None = field(name="95")  # no name that Python could have


class Concentration(Form, frozen=True, kw_only=True):
    """In how few modes of the old task's kernel the measured drift lives.

    Attributes:
        modes: by share.
    """

    modes: Modes


class ForecastPair(Form, frozen=True, kw_only=True):
    """An old task's outputs while a new one is learned.

    Attributes:
        old: task.
        new: task, or the name of new data.
        images: of the old task.
        cosine: of predicted and measured drift.
        relative_error: of the drift.
        predicted_norm: root mean square over images of the predicted drift.
        measured_norm: the same of the measured one.
        rounding: what either may be without that anything moved; None in a file that is older than it.
        moved: whether one of them is more; None where nothing was measured.
        predicted_loss_change: by the predicted drift.
        measured_loss_change: by training.
        ntk_drift: ‖ΔΘ‖ / ‖Θ‖ of the old task's kernel.
        true_step: with the step that training took.
        trapezoid: with both ends' Jacobians too.
        concentration: of the measured drift.
    """

    old: Index
    new: Index | str
    images: int
    cosine: Number
    relative_error: Number
    predicted_norm: Number
    measured_norm: Number
    predicted_loss_change: Number
    measured_loss_change: Number
    ntk_drift: Number
    true_step: Quality | None = None
    trapezoid: Quality | None = None
    rounding: Number = None
    moved: bool | None = None
    concentration: Concentration | None = None


class ForecastSeed(Form, frozen=True, kw_only=True):
    """A seed's forecasts.

    Attributes:
        tasks: their numbers.
        names: their names.
        pairs: of an old and a new task.
    """

    tasks: tuple[Index, ...]
    names: tuple[str, ...]
    pairs: tuple[ForecastPair, ...]

    def __post_init__(self) -> None:
        """Check what types can't say."""
        check_shape("names", self.names, len(self.tasks))


class ForecastFile(Study, frozen=True, kw_only=True):
    """`forecast.json`, or `forecast-NAME.json` for new data.

    Attributes:
        format: `STUDY_FORMAT`.
        method: whose checkpoints.
        procedure: how training was predicted.
        seeds: forecasts by seed.
        loss_change_correlation: of predicted and measured loss changes.
    """

    version: ClassVar[int] = STUDY_FORMAT
    format: int
    method: str
    procedure: str
    seeds: dict[Index, ForecastSeed]
    loss_change_correlation: Number = None
